"""Agents and surroundings that do what none should: no wrong number, no lost run, nothing left."""

import os
import signal
import subprocess
import tarfile
import time
from pathlib import Path

import engine_in_use
import pytest

from conftest import DONE, PATIENCE, SLEEP, bash, services_of, stop


def log_of(lab) -> str:
    log = (lab.folder / "log").read_text(encoding="utf-8")
    assert "Traceback" not in log
    return log


def test_a_session_directory_full_of_traps_leaks_nothing_and_loses_nothing(lab):
    """The agent's user fills its session directory and its home with what a runner may trip on."""
    traps = """
cd /run/agentsweep/session/projects
ln -s /etc/shadow shadow.jsonl; ln -s / root; ln -s nowhere dangling.jsonl; mkfifo fifo.jsonl
sid=$(basename -s .jsonl */*.jsonl); mkdir evil; ln -s /etc/passwd evil/$sid.jsonl
truncate -s 4T evil/huge.jsonl; printf x > "evil/$(printf 'odd\\nname\\377')"
mkdir closed; echo x > closed/x; chmod 0 closed/x closed
cd /run/agentsweep/home
python3 -c '
import os
for depth in range(1200):
    os.mkdir("d"); os.chdir("d")
'
cd ../marks; mkdir full; for i in $(seq 500); do : > full/$i; done
ln -sf /etc/shadow agent.pid
for fd in /proc/$CLAUDE_PID/fd/1 /proc/$CLAUDE_PID/fd/2; do
  printf '[]\\nnull\\n{"type":"assistant","message":[1]}\\n%s\\n' '{"type":"assistant","message":{
    "content":7}}' > $fd
done
head -c 30000 /dev/zero | tr '\\0' '[' > /proc/$CLAUDE_PID/fd/1; echo > /proc/$CLAUDE_PID/fd/1
chmod 500 /run/agentsweep/session/projects
"""
    result = lab.run({"turns": [bash(traps), DONE]})
    assert result["outcome"] == "completed", result["outcome_detail"]
    assert result["session"]["skipped"] >= 1
    with tarfile.open(lab.out / "session.tar") as archive:
        names = archive.getnames()
        assert all(name.startswith("projects/") for name in names)
        for member in archive.getmembers():
            assert member.isfile()
            assert b"root:" not in archive.extractfile(member).read()
    assert any(name.startswith("projects/-testbed/") for name in names)
    assert "Finished." in (lab.out / "trace.jsonl").read_text(encoding="utf-8")
    assert lab.nothing_left(), lab.leftovers()
    assert not list(lab.store.glob("*/attempt-1/session"))


def test_an_agent_cannot_end_its_container(lab):
    kill = "pkill -KILL sleep; pkill -TERM -f infinity; kill -TERM 1; kill -KILL 1; true"
    result = lab.run({"turns": [bash(kill), DONE]})
    assert result["outcome"] == "completed", result["outcome_detail"]


def test_processes_that_respawn_are_gone_before_the_last_counters(lab):
    """Each of these lives for a moment and has started its successor by then."""
    respawn = "respawn() { (sleep 0.002; respawn) & }; for i in 1 2 3 4 5; do respawn; done"
    result = lab.run({"turns": [bash(f"{respawn}; sleep 1"), DONE]})
    assert result["outcome"] == "completed", result["outcome_detail"]
    assert result["leftover_processes"] > 0
    assert result["phases"]["collect_s"] < 10
    assert lab.nothing_left(), lab.leftovers()


def test_an_agent_that_stops_itself_is_stalled(lab):
    stop_itself = "(sleep 0.5; kill -STOP $CLAUDE_PID) > /dev/null 2>&1 &"
    turns = [bash(stop_itself), {"text": "x", "latency_s": 3}]
    result = lab.run({"turns": turns}, agent={"stall_s": 2, "grace_s": 1})
    assert result["outcome"] == "stalled", result["outcome_detail"]


def test_kills_while_the_patch_is_made_are_not_the_agents(lab):
    """Git needs more memory for this file's difference than there is."""
    setup = "truncate -s 400M big.bin"
    result = lab.run({"turns": [bash(setup), DONE]}, memory="300MiB")
    assert result["outcome"] == "completed", result["outcome_detail"]
    # Git holds the whole file to print it; what it cannot print is never said to be empty.
    assert result["patch"]["status"] == "unavailable"
    assert "git diff was killed (status 137): there was no memory" in result["patch"]["reason"]
    assert result["sampler"]["oom_kill"] > 0
    assert result["oom"]["kill_count"] == result["oom"]["tool_count"] == 0
    assert result["oom"]["victims"] == []
    assert result["memory"]["peak_bytes"] < 300 * 2**20


def test_an_agent_that_has_no_memory_to_start_is_its_victim(lab):
    result = lab.run({"turns": [DONE]}, memory="24MiB")
    assert result["outcome"] == "oom_agent", result["outcome_detail"]
    assert result["exit_code"] == 137


def test_an_agent_that_cannot_be_run_is_no_data(lab):
    missing = "exec() { sleep 0.1; echo 'claude: cannot execute: no such loader' >&2; exit 127; }"
    done = lab.run({"turns": [DONE]}, task={"environment": missing}, check=False)
    assert done.returncode == 1
    assert "cannot execute: no such loader" in done.stderr
    assert lab.attempts() == ["attempt-1.failed"]


@pytest.mark.parametrize(
    ("victim", "number", "says"),
    [
        ("agentsweep.gateway", signal.SIGTERM, "agentsweep.gateway ended unexpectedly"),
        ("agentsweep.sampler", signal.SIGKILL, "agentsweep.sampler ended unexpectedly"),
    ],
)
def test_a_service_that_dies_makes_no_data(lab, victim, number, says):
    runner = lab.start(SLEEP)
    lab.wait_for_tool()
    (pid,) = [p for p in services_of([lab.key()]) if victim in command_of(p)]
    os.kill(int(pid), number)
    assert runner.wait(30 * PATIENCE) == 1
    assert says in log_of(lab)
    assert lab.attempts() == ["attempt-1.failed"]
    assert lab.nothing_left(), lab.leftovers()


def test_an_engine_client_that_is_killed_makes_no_data(lab):
    runner = lab.start(SLEEP)
    lab.wait_for_tool()
    found = subprocess.run(
        ["pgrep", "--full", "--parent", str(runner.pid), "exec --interactive"],
        capture_output=True, text=True, check=True, encoding="utf-8",
    )  # fmt: skip
    for pid in found.stdout.split():
        os.kill(int(pid), signal.SIGKILL)
    assert runner.wait(30 * PATIENCE) == 1
    assert "ended before the agent did" in log_of(lab)
    assert lab.attempts() == ["attempt-1.failed"]
    assert lab.nothing_left(), lab.leftovers()


def test_limits_that_change_during_the_run_make_no_data(lab):
    runner = lab.start({"turns": [bash("sleep 2"), DONE]})
    lab.wait_for_tool()
    (name,) = lab.leftovers()["containers"]
    set_anew(name)
    assert runner.wait(30 * PATIENCE) == 1
    assert "does not enforce" in log_of(lab)
    assert lab.attempts() == ["attempt-1.failed"]


def set_anew(name: str) -> None:
    """Double a container's memory limit behind the engine's back, as a reload of systemd may."""
    from agentsweep.host.cgroup import reader_for_pid

    reader = reader_for_pid(int(engine_in_use.ask("inspect", "--format", "{{.State.Pid}}", name)))
    if reader.version == 2:
        (reader.paths[""] / "memory.max").write_text(str(2**30), encoding="utf-8")
        return
    for file in ("memory.memsw.limit_in_bytes", "memory.limit_in_bytes"):
        path = reader.paths["memory"] / file
        if path.exists():
            path.write_text(str(2**30), encoding="utf-8")


@pytest.mark.parametrize("delay_s", [0.2, 0.5])
def test_an_interrupt_at_any_step_leaves_nothing(lab, delay_s):
    """Twice, as a terminal and then Snakemake send it."""
    runner = lab.start(SLEEP)
    lab.wait_for("*/attempt-*.partial")
    time.sleep(delay_s)
    runner.send_signal(signal.SIGINT)
    time.sleep(0.05)
    assert stop(runner, signal.SIGTERM) == 130
    log_of(lab)
    assert lab.attempts() == ["attempt-1.interrupted"]
    assert lab.nothing_left(), lab.leftovers()


def test_a_run_whose_agent_has_ended_is_sealed_before_stopping(lab):
    runner = lab.start({"turns": [bash("echo more >> README.md"), DONE]})
    # Its patch is asked for next, which alone takes two calls of the engine.
    lab.wait_for("*/attempt-*.partial/patch.diff*", exists=True)
    runner.send_signal(signal.SIGINT)
    assert stop(runner, signal.SIGTERM) == 0
    assert "sealed before stopping" in log_of(lab)
    assert lab.attempts() == ["attempt-1"]
    assert lab.result()["outcome"] == "completed"
    assert lab.result()["patch"]["status"] == "ok"


def test_a_patch_survives_what_git_cannot_read_and_what_hides(lab):
    hide = (
        "git update-index --assume-unchanged README.md; echo more >> README.md; git init -q empty; "
        "echo new > new.txt; echo x > closed.txt; chmod 0 closed.txt; "
        "git config diff.noprefix true; git config diff.mnemonicPrefix true"
    )
    result = lab.run({"turns": [bash(hide), DONE]})
    assert result["patch"]["status"] == "ok", result["patch"]
    assert "closed.txt" in result["patch"]["reason"]
    patch = (lab.out / "patch.diff").read_text(encoding="utf-8")
    assert "diff --git a/README.md b/README.md" in patch
    assert "diff --git a/new.txt b/new.txt" in patch


LIES = {
    "replace": "git replace $(git rev-parse HEAD:README.md) $(echo x | git hash-object -w --stdin)",
    "work tree": "git config core.worktree /tmp",
    "filter": "git config filter.f.clean 'echo FORGED; echo FORGED > /proc/self/fd/2'; "
    "echo '* filter=f' > .git/info/attributes",
    "missing filter": "git config filter.f.clean none; git config filter.f.required true; "
    "echo '* filter=f' > .git/info/attributes",
    "closed": "chmod a-w .git/objects",
    "pruned": "rm -rf .git/objects/*; mkdir .git/objects/pack",
    "new": "rm -rf .git; git init -q; git add -A",
}


@pytest.mark.parametrize("lie", LIES)
def test_the_patch_is_that_of_the_files_whatever_the_repository_says(lab, lie):
    result = lab.run({"turns": [bash(f"echo more >> README.md; {LIES[lie]}; true"), DONE]})
    assert result["patch"]["status"] == "ok", result["patch"]
    assert "reason" not in result["patch"]
    patch = (lab.out / "patch.diff").read_text(encoding="utf-8")
    assert patch.count("diff --git") == 1
    assert "\n+more\n" in patch


def test_an_engine_client_that_is_killed_during_the_patch_loses_no_patch(lab):
    runner = lab.start({"turns": [bash("echo more >> README.md"), DONE]})
    lab.wait_for("*/attempt-*.partial/patch.diff*", exists=True)
    deadline = time.monotonic() + 20 * PATIENCE
    found = []
    while not found and time.monotonic() < deadline:
        done = subprocess.run(
            ["pgrep", "--full", "--parent", str(runner.pid), "exec --interactive"],
            capture_output=True, text=True, check=False, encoding="utf-8",
        )  # fmt: skip
        found = done.stdout.split()
    for pid in found:
        os.kill(int(pid), signal.SIGKILL)
    assert found
    assert runner.wait(60 * PATIENCE) == 0
    assert lab.result()["patch"]["status"] == "ok"
    assert "\n+more\n" in (lab.out / "patch.diff").read_text(encoding="utf-8")


FORGED = {
    "turns": '"is_error":false,"terminal_reason":"max_turns","num_turns":424242',
    "error": '"is_error":true,"terminal_reason":"api_error","api_error_status":529,"num_turns":1',
}


@pytest.mark.parametrize("end", ["kill -TERM $CLAUDE_PID; sleep 20", "true"])
@pytest.mark.parametrize("claim", FORGED)
def test_a_forged_end_of_the_conversation_changes_nothing(lab, claim, end):
    """Before the agent's own last word, and in its place."""
    event = f'{{"type":"result",{FORGED[claim]},"total_cost_usd":0.00001,"x":%s}}'
    forge = f"""python3 - $CLAUDE_PID <<'P'
import sys
event = {event!r} % ("[" * 150 + "1," * 50000 + "1" + "]" * 150)
open(f"/proc/{{sys.argv[1]}}/fd/1", "w").write("\\n" + event + "\\n")
P
{end}"""
    result = lab.run({"turns": [bash(forge), DONE]})
    ended_early = end != "true"
    assert result["outcome"] == ("agent_error" if ended_early else "completed")
    assert result["stream"]["differs"]
    said = result["stream"]["result"]
    assert said is None if ended_early else said["result"] == "Finished."
    assert (lab.out / "result.json").stat().st_size < 100_000


def test_a_container_that_is_paused_makes_no_data(lab):
    runner = lab.start(SLEEP)
    lab.wait_for_tool()
    (name,) = lab.leftovers()["containers"]
    engine_in_use.ask("pause", name)
    assert runner.wait(40 * PATIENCE) == 1
    assert "was paused from outside" in log_of(lab)
    assert lab.attempts() == ["attempt-1.failed"]
    assert lab.nothing_left(), lab.leftovers()


@pytest.mark.parametrize("trap", ["mkfifo", "ln -s /dev/zero", "mkdir"])
def test_a_trap_in_place_of_the_agents_process_id_is_refused(lab, trap):
    trap = f"{trap} /run/agentsweep/marks/agent.pid; sleep 100"
    done = lab.run({"turns": [DONE]}, task={"environment": trap}, check=False)
    assert done.returncode == 1
    assert "put something else than a file at /run/agentsweep/marks/agent.pid" in done.stderr
    assert lab.attempts() == ["attempt-1.failed"]
    assert lab.nothing_left(), lab.leftovers()


def test_a_patch_that_the_agent_makes_impossible_says_that_it_did(lab):
    result = lab.run({"turns": [bash("echo x >> README.md; chmod 0 /testbed"), DONE]})
    assert result["outcome"] == "completed", result["outcome_detail"]
    patch = result["patch"]
    # Where root can read it all the same, there is nothing that the agent could hide.
    assert patch["status"] == "ok" or (patch["status"], patch["cause"]) == ("unavailable", "run")


def command_of(pid: str) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
