"""A storm over a sweep: whatever is killed or stopped, what is sealed is whole and true.

`AGENTSWEEP_STORM` is the number of runs (and of strikes at them), `AGENTSWEEP_STORM_SEED` the seed
of one storm that is to be repeated.
"""

import hashlib
import json
import os
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import storm as storms
from clone import BIN, ROOT, Clone

from agentsweep import seal
from agentsweep.extraction.run_directory import Damage, SampleReader
from agentsweep.runs import store

pytestmark = pytest.mark.containers

RUNS = int(os.environ.get("AGENTSWEEP_STORM", "6"))
SEED = int(os.environ.get("AGENTSWEEP_STORM_SEED", "0")) or random.SystemRandom().randrange(2**32)
# How many times as long things may take as on a machine with nothing else to do.
PATIENCE = int(os.environ.get("AGENTSWEEP_TEST_PATIENCE", "1"))
CONFIG = """\
dataset: storm
sweep: {{memory: [512MiB], cpus: [1], replicates: {runs}}}
tasks: {{wait: config/tasks/wait.yaml}}
agents: {{claude: {{model_id: claude-haiku-4-5-20251001, version: "2.1.330"}}}}
agent: {{timeout_s: {timeout_s}, stall_s: {stall_s}}}
machine: {{ledger: ledger}}
"""
TASK = """\
kind: prompt
image: oci-archive:images/logstats.tar
workdir: /testbed
prompt: "Storm {seed}: do what the scenario says."
scenario: config/scenarios/wait.yaml
"""
SCENARIO = """\
description: Two commands and an answer.
turns:
  - tools: [{Bash: {command: "seq 1 20000 > made.txt", description: Make}}]
  - tools: [{Bash: {command: "rm -f README.md; sleep 0.3; seq 5 > more.txt", description: More}}]
  - text: Done.
"""


@pytest.fixture
def clone(tmp_path):
    """A sweep whose image is fixed, in a directory that is named by the seed."""
    clone = Clone.make(tmp_path / "clone")
    for name in ("agents", "images"):
        clone.file(name).symlink_to(ROOT / name)
    clone.file("config/images.lock.yaml").write_text("images: {}\n", encoding="utf-8")
    clone.file("config/tasks/wait.yaml").write_text(TASK.format(seed=SEED), encoding="utf-8")
    clone.file("config/scenarios/wait.yaml").write_text(SCENARIO, encoding="utf-8")
    runs(clone, 1)
    clone.snakemake("--cores", "1", "lock")
    return clone


def runs(clone: Clone, count: int) -> None:
    text = CONFIG.format(runs=count, timeout_s=120 * PATIENCE, stall_s=20 * PATIENCE)
    clone.file("config/config.yaml").write_text(text, encoding="utf-8")


def start(clone: Clone) -> subprocess.Popen:
    return subprocess.Popen(
        [str(BIN / "snakemake"), "--cores", "2", "--keep-going", "runs"],
        cwd=clone.path,
        env={"PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": "/root"},
        stdin=subprocess.DEVNULL,
        stdout=clone.file("log").open("a", encoding="utf-8"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def facts(folder: Path) -> dict:
    """What every undisturbed run of this sweep has in common."""
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    exchanges = [json.loads(line) for line in (folder / "api.jsonl").read_bytes().splitlines()]
    marks = [json.loads(line) for line in (folder / "marks.jsonl").read_bytes().splitlines()]
    trace = [json.loads(line) for line in (folder / "trace.jsonl").read_bytes().splitlines()]
    return {
        "outcome": result["outcome"],
        "patch": hashlib.sha256((folder / "patch.diff").read_bytes()).hexdigest(),
        "patch_said": (result["patch"]["status"], result["patch"]["sha256"]),
        "answered": sum(e["kind"] == "main" and e["status"] == 200 for e in exchanges),
        # The agent puts each into a line with names of its own making.
        "commands": sorted(re.search("eval '(.*)' <", mark["command"])[1] for mark in marks),
        "answers": sum(record.get("type") == "assistant" for record in trace),
    }


def assert_whole(attempt: store.Attempt) -> None:
    """Every file is there, is what its writer says, and holds as much as its writer says."""
    assert seal.check(attempt.path, store.PUBLISHED).state == seal.WHOLE, attempt.path
    written = attempt.result()["written"]
    for name in ("api.jsonl", "marks.jsonl"):
        lines = (attempt.path / name).read_bytes().splitlines()
        assert len(lines) == written[name]["records"]
    reader = SampleReader(attempt.path / "samples.arrow", Damage())
    rows = sum(batch.num_rows for batch in reader.batches())
    assert reader.complete and rows == written["samples.arrow"]["records"]
    assert rows > 0


def sealed(clone: Clone) -> dict[str, store.Attempt]:
    found = {}
    where = store.Store(clone.file("store"))
    for key in where.keys():  # noqa: SIM118
        attempts = [a for a in where.attempts(key) if a.state == "sealed"]
        assert len(attempts) <= 1, f"made twice: {attempts}"
        found |= {attempt.id: attempt for attempt in attempts}
    return found


def weather(clone: Clone, storm: storms.Storm, count: int) -> int:
    """Start Snakemake, and again where it was killed itself, until all runs are sealed.

    Returns how often it was started: whatever else is struck, a sweep completes by itself.
    """
    starts = 0
    while len(sealed(clone)) < count:
        process = start(clone)
        print(f"start {starts + 1}: {dict(storm.counts)}, {len(sealed(clone))} sealed", flush=True)
        starts += 1
        while process.poll() is None:
            storm.step(process.pid)
            time.sleep(0.05)
        if process.returncode != -signal.SIGKILL:
            assert process.returncode == 0, clone.file("log").read_text(encoding="utf-8")[-4000:]
            assert len(sealed(clone)) == count
            break
        # As a user does who starts it again: its lock is stale, and its jobs have ended.
        wait_for_jobs(clone, storm)
        clone.snakemake("--unlock")
    return starts


def wait_for_jobs(clone: Clone, storm: storms.Storm) -> None:
    """Jobs of a Snakemake that was killed go on by themselves."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        storm.step(-1)
        kinds = {p.kind for p in storms.processes(clone.path, -1, storm.container_ids)}
        if "runner" not in kinds:
            return
        time.sleep(0.1)


def test_whatever_is_struck_what_is_sealed_is_whole_and_nothing_is_left(clone):
    print(f"\nstorm of {RUNS} runs, AGENTSWEEP_STORM_SEED={SEED}")
    begin = time.monotonic()
    clone.snakemake("--cores", "1", "runs")
    (calm,) = sealed(clone).values()
    assert_whole(calm)
    reference = facts(calm.path)
    assert reference["outcome"] == "completed" and reference["answered"] == 3
    storm = storms.Storm(
        clone.path,
        random.Random(SEED),
        RUNS,
        calm.result()["wall_s"],
        always_go_on=RUNS < 50,
    )
    runs(clone, RUNS + 1)
    try:
        starts = weather(clone, storm, RUNS + 1)
    finally:
        storm.calm()
    # The next start cleans up, and completes without any help.
    runs(clone, RUNS + 2)
    done = clone.snakemake("--cores", "2", "runs")
    assert "Nothing to be done" not in done.stdout
    said = dict(sorted(storm.counts.items()))
    print(f"{time.monotonic() - begin:.0f} s, {starts} starts of Snakemake, strikes: {said}")
    found = sealed(clone)
    assert len(found) == RUNS + 2
    wrong = {}
    for attempt in found.values():
        assert_whole(attempt)
        seen = facts(attempt.path)
        if seen != reference:
            excused = attempt.id in storm.struck_inside and seen["outcome"] != "completed"
            if not excused:
                wrong[attempt.id] = {k: v for k, v in seen.items() if reference[k] != v}
    assert not wrong
    assert starts <= 1 + storm.counts["snakemake killed"]
    assert_results_are_the_stores(clone, found)
    clone.agentsweep("store", "verify")
    assert nothing_left(clone, storm) == {}


def assert_results_are_the_stores(clone: Clone, found: dict[str, store.Attempt]) -> None:
    published = list(clone.path.glob("results/runs/task~*/agent~*/mem~*"))
    assert len(published) == len(found)
    for folder in published:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
        attempt = found[result["attempt_id"]]
        for name in store.PUBLISHED:
            assert (folder / name).read_bytes() == (attempt.path / name).read_bytes()


def nothing_left(clone: Clone, storm: storms.Storm) -> dict[str, list[str]]:
    """What is left a moment after the end, by kind."""
    scratch = Path("/tmp") / f"agentsweep-{os.getuid()}"
    deadline = time.monotonic() + 15
    while True:
        left = storms.leftovers(clone.path, storm.container_ids, scratch)
        left = {kind: found for kind, found in left.items() if found}
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.5)
