"""The limits act: memory and CPU, seen from inside and from the kernel's counters."""

import json

import pytest

from conftest import DONE, PATIENCE, bash

# Two processes, which would use two cores.
BUSY = "timeout 3 sh -c 'while :; do :; done' & timeout 3 sh -c 'while :; do :; done'; wait"


def test_memory_up_to_the_limit_is_given_and_no_more(lab):
    take = "python3 -c 'x = bytearray({} << 20); print(len(x) >> 20)'"
    turns = [bash(take.format(200)), bash(take.format(700)), DONE]
    result = lab.run({"turns": turns}, memory="512MiB")
    first, second = lab.lines("marks.jsonl")
    assert first["exit_code"] == 0
    assert 200 << 20 <= first["mem_peak_bytes"] - first["mem_before_bytes"] < 230 << 20
    assert second["exit_code"] == 137
    assert second["oom_kill"] == result["oom"]["tool_count"] == 1
    assert result["limits"]["effective"]["memory_bytes"] == 512 * 2**20
    assert result["limits"]["effective"]["swap_bytes"] == 0


@pytest.mark.parametrize("cpus", ["0.25", "0.5"])
def test_busy_tools_get_their_share_and_are_throttled(lab, cpus):
    result = lab.run({"turns": [bash(BUSY), DONE]}, cpus=cpus)
    (mark,) = lab.lines("marks.jsonl")
    used = mark["cpu_usec"] * 1000 / (mark["end_ns"] - mark["start_ns"])
    # A busy host gives less; more than the limit it must never be.
    assert 0.3 * float(cpus) < used < 1.08 * float(cpus)
    assert result["limits"]["effective"]["cpus"] == float(cpus)
    start, end = result["counters"]["start"], result["counters"]["end"]
    assert end["cpu_nr_throttled"] - start["cpu_nr_throttled"] >= 3


def test_a_host_that_ignores_limits_is_refused(lab, monkeypatch):
    """A stand-in: this host does enforce them, so the kernel's answer is replaced by another."""
    from agentsweep import limits

    wanted = {"memory_bytes": 2**29, "cpus": "0.5", "cpu_mode": "quota"}
    ignored = {"memory_bytes": None, "swap_bytes": 2**29, "cpus": None}
    found = limits.limit_differences(wanted, ignored)
    assert len(found) == 3
    enforced = {"memory_bytes": 2**29, "swap_bytes": 0, "cpus": 0.5}
    assert limits.limit_differences(wanted, enforced) == []


def test_a_cell_larger_than_the_machine_is_refused_by_name(lab):
    done = lab.run({"turns": [DONE]}, memory="9TiB", check=False)
    assert done.returncode == 1
    assert "task~task/agent~claude/mem~9TiB" in done.stderr
    assert "Traceback" not in done.stderr
    assert lab.attempts() in ([], ["attempt-1.failed"])


def test_phases_are_timed_one_by_one(lab):
    result = lab.run({"turns": [DONE]})
    phases = result["phases"]
    assert {"pull_s", "fix_s", "create_s", "start_s", "verify_s", "agent_s", "collect_s",
            "teardown_s"} <= phases.keys()  # fmt: skip
    parts = sum(value for name, value in phases.items() if name not in ("pull_s", "fix_s"))
    assert parts < result["wall_s"] < parts + 1.5 * PATIENCE
    assert json.dumps(result)  # plain data throughout
