"""Several sweeps at once on one machine: real runs, whose limits never add up to more than it has.

The machine is made smaller than it is by `machine.memory`, and the line is the test's own.
"""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import engine_in_use
import pytest
import yaml

from agentsweep.host.topology import parse_list
from conftest import DONE, ROOT, Images, Lab, bash

MIB = 2**20


class Sweep:
    """A sweep with a store of its own, whose cells are started all at once."""

    def __init__(self, folder: Path, images: Images, ledger: Path, turns: list, **sweep):
        folder.mkdir()
        self.lab = Lab(folder, images)
        self.config = self.lab.config({"turns": turns})
        content = yaml.safe_load(self.config.read_text(encoding="utf-8"))
        content["sweep"] = sweep
        content["measure"] = {"mem_overhead": "100MiB"}
        content["machine"] = {"memory": "1200MiB", "wait_s": 60, "ledger": str(ledger)}
        # Four at once by their CPUs, were it not for their memory; pinned ones need real CPUs.
        content["machine"]["cpus"] = 4 if "cpu_modes" not in sweep else None
        self.config.write_text(yaml.safe_dump(content), encoding="utf-8")
        self.limits = [
            f"mem~{memory}_cpus~{cpus}{'' if mode == 'quota' else f'-{mode}'}_rep~0"
            for memory in sweep["memory"]
            for cpus in sweep["cpus"]
            for mode in sweep.get("cpu_modes", ["quota"])
        ]

    def start(self) -> list[subprocess.Popen]:
        return [self.start_cell(limits) for limits in self.limits]

    def start_cell(self, limits: str) -> subprocess.Popen:
        log = (self.lab.folder / f"{limits}.log").open("w", encoding="utf-8")
        arguments = [
            *("run", f"task~task/agent~claude/{limits}", "--config", str(self.config)),
            *("--image", str(self.lab.images.record), "--out", str(self.lab.folder / limits)),
        ]
        process = subprocess.Popen(
            [sys.executable, "-m", "agentsweep.cli", *arguments],
            cwd=ROOT, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
        self.lab.started.append(process)
        return process

    def log(self, limits: str) -> str:
        return (self.lab.folder / f"{limits}.log").read_text(encoding="utf-8")

    def results(self) -> list[dict]:
        for limits, process in zip(self.limits, self.lab.started, strict=True):
            assert process.wait(120) == 0, self.log(limits)
        paths = [self.lab.folder / limits / "result.json" for limits in self.limits]
        return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


@pytest.fixture
def sweep(tmp_path, images):
    made = []

    def make(name, turns, **axes) -> Sweep:
        made.append(Sweep(tmp_path / name, images, tmp_path / "ledger", turns, **axes))
        return made[-1]

    yield make
    for process in itertools.chain.from_iterable(one.lab.started for one in made):
        if process.poll() is None:
            process.kill()
            process.wait()


def at_once(results: list[dict]) -> list[list[dict]]:
    """For each run those that were there when it began."""
    return [
        [r for r in results if r["started_utc_ns"] <= one["started_utc_ns"] < r["ended_utc_ns"]]
        for one in results
    ]


def test_two_sweeps_never_run_together_past_the_machines_memory(sweep):
    first = sweep("first", [DONE], memory=["300MiB", "500MiB"], cpus=[0.5])
    second = sweep("second", [DONE], memory=["501MiB"], cpus=[0.5])
    first.start()
    second.start()
    results = [*first.results(), *second.results()]
    reserved = [result["reservation"]["memory_bytes"] for result in results]
    assert reserved == [size * MIB for size in (400, 600, 601)]
    assert sum(reserved) > 1200 * MIB
    for together in at_once(results):
        assert sum(r["reservation"]["memory_bytes"] for r in together) <= 1200 * MIB
    # Those that waited said so, and their time in line is not part of what was measured.
    waited = [result["reservation"]["waited_s"] > 0.2 for result in results]
    assert 1 <= sum(waited) <= 2
    logs = [one.log(limits) for one in (first, second) for limits in one.limits]
    assert ["waiting for room on this machine: " in log for log in logs] == waited


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two CPUs")
def test_pinned_runs_of_two_sweeps_have_cpus_of_their_own(sweep):
    # So that each is there while the other is.
    turns = [bash("nproc; grep Cpus_allowed_list /proc/self/status; sleep 2"), DONE]
    axes = {"memory": ["300MiB"], "cpus": [1], "cpu_modes": ["cpuset"]}
    both = [sweep(name, turns, **axes) for name in ("first", "second")]
    for one in both:
        one.start()
    results = [result for one in both for result in one.results()]
    assert max(map(len, at_once(results))) == 2
    pinned = [result["limits"]["requested"]["cpuset"] for result in results]
    assert len(parse_list(pinned[0]) | parse_list(pinned[1])) == 2
    for one, result, cpuset in zip(both, results, pinned, strict=True):
        effective = result["limits"]["effective"]
        assert (effective["cpuset"], effective["nproc"], effective["cpus"]) == (cpuset, 1, None)
        trace = (one.lab.folder / one.limits[0] / "trace.jsonl").read_text(encoding="utf-8")
        assert re.search(rf"\b1\\nCpus_allowed_list:\\t{cpuset}\b", trace)


def test_a_killed_runs_room_is_given_out_when_its_container_is_gone(sweep):
    first = sweep("first", [bash("sleep 30"), DONE], memory=["800MiB"], cpus=[1])
    second = sweep("second", [DONE], memory=["801MiB"], cpus=[1])
    (process,) = first.start()
    first.lab.wait_for_tool()
    process.send_signal(signal.SIGKILL)
    process.wait()
    (left,) = [name for name in engine_in_use.ask("ps", "--format", "{{.Names}}").split()
               if first.lab.key() in name]  # fmt: skip
    second.start()
    (result,) = second.results()
    assert result["outcome"] == "completed"
    assert left not in engine_in_use.ask("ps", "--all", "--format", "{{.Names}}").split()
