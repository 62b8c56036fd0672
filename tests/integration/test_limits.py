"""The limits act: memory and CPU, seen from inside and from the kernel's counters."""

import json
import os
import re
import shutil
import sys

import engine_in_use
import pytest

from agentsweep.host import machine_facts
from agentsweep.host.cgroup import reader_for_pid
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


# A program that stands before the real engine on PATH and changes what it is asked for.
ENGINE = """\
#!{python}
import os, sys
words = sys.argv[1:]
def lie(words):
    {lie}
if "create" in words:
    words = lie(words)
os.execv({engine!r}, [{engine!r}, *words])
"""
DROP = "return [w for n, w in enumerate(words) if not {{w, words[n - 1]}} & {{{options}}}]"
LIES = {
    "drops the memory limit": (
        DROP.format(options="'--memory', '--memory-swap'"),
        r"the kernel enforces .* of memory, but 512 MiB were requested",
    ),
    "drops the CPU limit": (
        DROP.format(options="'--cpus'"),
        r"the kernel enforces .* CPUs, but 0\.5 were requested",
    ),
    "sets a larger memory limit": (
        "return [w.replace(str(512 * 2**20), str(1024 * 2**20)) for w in words]",
        r"the kernel enforces 1 GiB of memory, but 512 MiB were requested",
    ),
    "sets a smaller memory limit": (
        "return [w.replace(str(512 * 2**20), str(256 * 2**20)) for w in words]",
        r"the kernel enforces 256 MiB of memory, but 512 MiB were requested",
    ),
    "sets a larger CPU limit": (
        "return ['1' if words[n - 1] == '--cpus' else w for n, w in enumerate(words)]",
        r"the kernel enforces 1\.0 CPUs, but 0\.5 were requested",
    ),
    "leaves swap open": (
        "return ['-1' if words[n - 1] == '--memory-swap' else w for n, w in enumerate(words)]",
        r"the kernel (allows .* of swap|does not limit swap)",
    ),
}


@pytest.fixture
def lying_engine(tmp_path, monkeypatch):
    """Puts an engine first on PATH whose `create` is told a lie: Python that returns its words."""
    real = shutil.which(engine_in_use.NAME)

    def make(lie: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir()
        program = folder / engine_in_use.NAME
        text = ENGINE.format(python=sys.executable, lie=lie, engine=real)
        program.write_text(text, encoding="utf-8")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    return make


@pytest.mark.parametrize("case", LIES)
def test_limits_that_the_engine_does_not_pass_on_are_refused(lab, lying_engine, case):
    lie, says = LIES[case]
    if case == "leaves swap open" and machine_facts.swap_bytes() == 0:
        pytest.skip("this machine has no swap, so that none can be left open")
    lying_engine(lie)
    done = lab.run({"turns": [DONE]}, memory="512MiB", cpus="0.5", check=False)
    assert done.returncode == 1
    said = [line for line in done.stderr.splitlines() if "does not enforce the limits of" in line]
    assert len(said) == 1, done.stderr
    assert "task~task/agent~claude/mem~512MiB_cpus~0.5_rep~0" in said[0]
    assert re.search(says, said[0])
    assert "Traceback" not in done.stderr
    assert lab.attempts() == ["attempt-1.failed"]
    (kept,) = lab.store.glob("*/attempt-1.failed/error.txt")
    assert "does not enforce" in kept.read_text(encoding="utf-8")
    # Nothing was asked of the model, and nothing looks like data.
    (asked,) = lab.store.glob("*/attempt-1.failed/api.jsonl")
    assert asked.read_bytes() == b""
    assert not (lab.out / "result.json").exists()
    assert lab.nothing_left(), lab.leftovers()


def test_the_same_engine_that_does_not_lie_makes_a_run(lab, lying_engine):
    lying_engine("return words")
    result = lab.run({"turns": [DONE]}, memory="512MiB", cpus="0.5")
    assert result["outcome"] == "completed"
    assert result["limits"]["effective"]["memory_bytes"] == 512 * 2**20


def test_a_limit_that_is_set_anew_ends_the_run_within_seconds(lab):
    """It may be set back later, or be what kills the container: the end alone would not show it."""
    runner = lab.start({"turns": [bash(f"sleep {20 * PATIENCE}"), DONE]}, memory="512MiB")
    lab.wait_for_tool()
    (name,) = lab.leftovers()["containers"]
    set_memory(name, 2**30)
    # Not after all that the agent would have cost.
    assert runner.wait(15 * PATIENCE) == 1
    log = (lab.folder / "log").read_text(encoding="utf-8")
    assert "does not enforce the limits" in log
    assert "memory_bytes was 536870912 and became 1073741824 during the run" in log
    assert lab.attempts() == ["attempt-1.failed"]
    assert lab.nothing_left(), lab.leftovers()


def set_memory(name: str, limit_bytes: int) -> None:
    """Give a container a larger limit behind the engine's back."""
    pid = int(engine_in_use.ask("inspect", "--format", "{{.State.Pid}}", name))
    reader = reader_for_pid(pid)
    if reader.version == 2:
        (reader.paths[""] / "memory.max").write_text(str(limit_bytes), encoding="utf-8")
        return
    # The limit with swap is never the smaller one.
    for file in ("memory.memsw.limit_in_bytes", "memory.limit_in_bytes"):
        (reader.paths["memory"] / file).write_text(str(limit_bytes), encoding="utf-8")


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
