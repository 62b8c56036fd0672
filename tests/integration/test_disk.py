"""Agents that fill the disk end as data, and keep little of it."""

import os
import subprocess

import pytest

from conftest import DONE, PATIENCE, bash

# Slow enough to be seen, fast enough for a test.
FLOOD = "timeout 60 sh -c 'while :; do head -c 20000000 /dev/urandom; sleep 0.1; done' > {} || true"
# Writes to a file that has no name any more.
NAMELESS = "exec 7> $HOME/nameless && rm $HOME/nameless && " + FLOOD.format("/proc/self/fd/7")
CHANNELS = {
    "home": FLOOD.format("$HOME/flood"),
    "no name": NAMELESS,
    "layer": FLOOD.format("/tmp/flood"),
    "session": FLOOD.format("/run/agentsweep/session/flood"),
    "marks": FLOOD.format("/run/agentsweep/marks/flood"),
    "stdout": FLOOD.format("/proc/$CLAUDE_PID/fd/1"),
}


def kept_bytes(lab) -> int:
    return sum(p.stat().st_size for p in lab.store.rglob("*") if p.is_file())


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_run_that_meets_its_budget_ends_as_data(lab, channel):
    result = lab.run(
        {"turns": [bash(CHANNELS[channel]), DONE]},
        container={"disk": "100MiB"},
        agent={"timeout_s": 120 * PATIENCE, "stall_s": 120 * PATIENCE},
    )
    assert (result["outcome"], lab.attempts()) == ("disk_full", ["attempt-1"])
    assert "container.disk" in result["outcome_detail"]
    assert result["disk"]["limit_bytes"] == 100 * 2**20 < result["disk"]["used_bytes"]
    assert result["wall_s"] < 60 * PATIENCE or os.environ.get("CI") is None
    assert kept_bytes(lab) < 80 * 2**20
    assert lab.nothing_left()


@pytest.mark.parametrize(
    "command",
    [
        "head -c 900000000 /dev/zero > /run/agentsweep/session/flood; true",
        "head -c 900000000 /dev/zero > /proc/$CLAUDE_PID/fd/1; true",
    ],
)
def test_a_run_that_fills_a_small_disk_is_data_and_leaves_room(lab, tmp_path, command):
    small = tmp_path / "small"
    small.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=300m", "test", str(small)]
    if os.getuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("NOT RUN: a file system of its own needs root")
    try:
        lab.store = small / "store"
        result = lab.run({"turns": [bash(command), DONE]})
        assert result["outcome"] == "disk_full"
        assert kept_bytes(lab) < 150 * 2**20
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_run_within_its_budget_says_what_it_used(lab):
    result = lab.run({"turns": [bash("head -c 3000000 /dev/urandom > /tmp/x; sleep 3"), DONE]})
    assert result["outcome"] == "completed"
    assert 3_000_000 < result["disk"]["used_bytes"] < result["disk"]["limit_bytes"] == 8 * 2**30
    assert result["disk"]["full"] is None
