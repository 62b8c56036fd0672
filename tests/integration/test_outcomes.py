"""Every outcome, produced by a real container run and recognised.

Where the kernel has to kill a certain process, the scenario raises that process's oom_score_adj:
whom the kernel picks is then known beforehand, and the kill itself is the kernel's own.
"""

import os
import subprocess
from pathlib import Path

import engine_in_use
import pytest

from conftest import DONE, PATIENCE, bash

# 1.5 GB into a process that holds on to it.
GROW = "head -c 1500000000 /dev/zero | tail > /dev/null"


def test_completed(lab):
    result = lab.run({"turns": [{"text": "4"}]})
    assert result["outcome"] == "completed"
    assert result["exit_code"] == 0
    assert result["oom"]["kill_count"] == 0
    assert result["patch"]["status"] == "empty"
    assert result["stream"]["differs"] == {}
    assert result["gateway"]["stop_reason"] == "end_turn"
    # Linux 6.12 is the first that resets it on v2.
    kernel = tuple(map(int, os.uname().release.split("-")[0].split(".")[:2]))
    resets = kernel >= (6, 12) or Path("/sys/fs/cgroup/memory").is_dir()
    assert result["memory"]["peak_source"] == ("watermark" if resets else "counter")
    assert 50e6 < result["memory"]["peak_bytes"] < 512 * 2**20


def test_no_work(lab):
    result = lab.run({"turns": [{"text": ""}]})
    assert result["outcome"] == "no_work", result["outcome_detail"]
    assert result["exit_code"] == 0


def test_agent_error(lab):
    result = lab.run({"turns": [bash("kill -TERM $CLAUDE_PID; sleep 20"), DONE]})
    assert result["outcome"] == "agent_error", result["outcome_detail"]
    assert result["exit_code"] == 143


def test_over_budget(lab):
    turns = [bash("true"), bash("true"), DONE]
    result = lab.run({"turns": turns}, agent={"max_turns": 1})
    assert result["outcome"] == "over_budget", result["outcome_detail"]
    assert "agent.max_turns" in result["outcome_detail"]
    assert result["exit_code"] == 1


def test_api_error_after_the_first_turn(lab):
    turns = [bash("true"), {"text": "x", "fault": {"status": 400, "times": "forever"}}]
    result = lab.run({"turns": turns})
    assert result["outcome"] == "api_error"
    assert {line["status"] for line in lab.lines("api.jsonl")} == {200, 400}


def test_a_rate_limit_before_the_first_turn_is_no_data(lab):
    turns = [{"text": "x", "fault": {"status": 429, "times": "forever"}}]
    done = lab.run({"turns": turns}, check=False)
    assert done.returncode == 1
    assert "refused every request with 429" in done.stderr
    assert lab.attempts() == ["attempt-1.failed"]
    assert not (lab.out / "result.json").exists()


def test_timed_out(lab):
    """A tool at work is no stall, however long it says nothing."""
    times = {"timeout_s": 36 * PATIENCE, "stall_s": 15 * PATIENCE}
    result = lab.run({"turns": [bash(f"sleep {60 * PATIENCE}"), DONE]}, agent=times)
    assert result["outcome"] == "timed_out"
    assert 35.5 * PATIENCE < result["phases"]["agent_s"] < 48 * PATIENCE
    assert result["oom"]["kill_count"] == 0


def test_stalled(lab):
    turns = [bash("true"), {"text": "x", "fault": {"hang_s": 600, "times": "forever"}}]
    result = lab.run({"turns": turns}, agent={"timeout_s": 50, "stall_s": 3})
    assert result["outcome"] == "stalled"
    assert result["phases"]["agent_s"] < 15


def test_the_kernel_kills_a_tool_and_the_agent_reacts(lab):
    turns = [
        bash(
            GROW,
            next=[{"if": {"result_matches": "137|Killed"}, "goto": "killed"}, {"goto": "lived"}],
        ),
        {"id": "killed", "text": "It was killed."},
        {"id": "lived", "text": "It lived."},
    ]
    result = lab.run({"turns": turns})
    assert result["outcome"] == "completed"
    assert result["oom"]["tool_count"] == result["oom"]["kill_count"] == 1
    assert result["stream"]["result"]["result"] == "It was killed."
    assert result["memory"]["peak_bytes"] == 512 * 2**20
    (mark,) = lab.lines("marks.jsonl")
    assert mark["oom_kill"] == 1
    assert mark["mem_peak_bytes"] == 512 * 2**20


def test_the_kernel_kills_the_agent(lab):
    turns = [bash(f"echo 1000 > /proc/$CLAUDE_PID/oom_score_adj; {GROW}"), DONE]
    result = lab.run({"turns": turns})
    assert result["outcome"] == "oom_agent", result["outcome_detail"]
    assert result["oom"]["agent_victim"]
    assert result["exit_code"] == 137
    assert (lab.out / "trace.jsonl").stat().st_size > 0


def test_the_kernel_kills_the_container(lab):
    runner = lab.start({"turns": [bash(f"echo changed > note.txt; sleep 3; {GROW}"), DONE]})
    lab.wait_for_tool()
    (name,) = lab.leftovers()["containers"]
    init = engine_in_use.ask("inspect", "--format", "{{.State.Pid}}", name).strip()
    # Its init belongs to the container's root, so that the agent could not do this.
    subprocess.run(
        [*([] if os.getuid() == 0 else ["podman", "unshare"]), "sh", "-c",
         f"echo 1000 > /proc/{init}/oom_score_adj"],
        check=True,
    )  # fmt: skip
    assert runner.wait(60 * PATIENCE) == 0
    result = lab.result()
    assert result["outcome"] == "oom_container", result["outcome_detail"]
    assert result["oom"]["kill_count"] >= 1
    assert result["oom"]["tool_count"] == result["oom"]["kill_count"] - 1
    # What the agent had written by then is not lost with its processes.
    assert "+changed" in (lab.out / "patch.diff").read_text(encoding="utf-8")


@pytest.mark.parametrize("kill", ["kill -KILL $CLAUDE_PID", "kill -KILL -1"])
def test_an_agent_that_its_tool_kills_is_data_and_no_oom(lab, kill):
    result = lab.run({"turns": [bash(f"{kill}; sleep 20"), DONE]})
    assert result["outcome"] == "agent_error", result["outcome_detail"]
    assert "neither the kernel's OOM killer nor a limit" in result["outcome_detail"]
    assert (result["exit_code"], result["oom"]["kill_count"]) == (137, 0)
    assert lab.attempts() == ["attempt-1"]


def test_an_agent_that_deletes_its_repository_is_still_data(lab):
    result = lab.run({"turns": [bash("rm -rf .git; echo more >> README.md"), DONE]})
    assert result["outcome"] == "completed"
    assert result["patch"]["status"] == "ok", result["patch"]
    assert "diff --git a/README.md" in (lab.out / "patch.diff").read_text(encoding="utf-8")
