"""profiles/slurm on a real Slurm: a login node and three nodes, each with its own images.

The sweep is the demo's, cut to three of its 18 runs: the whole of it, made twice, would take many
minutes of two cores and prove nothing more. They have both tasks, two limits, a grading of which
two runs share the patch, and a tool that the kernel kills for memory. Only the polling differs from
the profile: its 40 s and more would be most of the tests' time.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pyarrow.parquet as pq
import pytest
from clone import BIN, Clone
from slurm import HEAD, LOOPBACK, Cluster, running
from sweeps import LOCAL, SLURM, finished, missing, prepared, started

from agentsweep.containers.engine import LABEL

MISSING = missing()

WHY = f"these tests need {', '.join(MISSING)}: run `make test-cluster`"
pytestmark = pytest.mark.skipif(
    bool(MISSING) and not os.environ.get("CI"), reason=f"NOT RUN, {WHY}"
)


TABLE = (
    ("  tasks: [starlette-1147, logstats]\n", "  cells: config/cells.csv\n"),
    ("  agents: [claude]\n", ""),
    ("  memory: [512MiB, 1GiB, 2GiB]\n", ""),
    ("  cpus: [0.5, 1, 2]\n", ""),
    ("  replicates: 1\n", ""),
    ("tasks:\n  starlette", "tasks:\n  wait: config/tasks/wait.yaml\n  starlette"),
)
CELLS = [("starlette-1147", "512MiB", 0), ("starlette-1147", "1GiB", 0), ("logstats", "512MiB", 0)]
# Three nodes and the login node make a run each, and all of them are this host. Their line is their
# own: other runs on it must not keep a test waiting.
MORE = """
images: {distribute: archive}
grading: {memory: 2GiB, cpus: 1, validations: 1}
machine: {cpus: 4, ledger: line}
"""
# A run that waits until the test lets it go on.
WAIT = """\
kind: prompt
image: oci-archive:images/logstats.tar
workdir: %s
prompt: Wait.
scenario: config/scenarios/wait.yaml
"""
SCENARIO = """\
description: Wait for a file.
turns:
  - tools: [{Bash: {command: "until [ -e /tmp/go ]; do sleep 0.2; done", description: Wait}}]
  - text: Done.
"""

# What is the same wherever a run is made, because nothing of it is measured. Tokens are not here:
# the tests' own output, which the agent reads, says how long they took.
RUNS = [
    *("run_id", "dataset", "task", "agent", "agent_version", "model", "replicate", "spec_sha256"),
    *("mem_limit_bytes", "mem_effective_bytes", "cpu_limit", "cpu_effective", "image_digest"),
    *("outcome", "exit_code", "tool_oom_count", "num_turns", "n_messages", "n_tool_calls"),
    *("n_tool_errors", "n_api_calls", "trace_status", "patch_status", "patch_sha256"),
    *("resolved", "grade_status", "grade_detail", "grade_evidence"),
]
CALLS = ["run_id", "name", "category", "command", "is_error", "exit_code"]
# What is measured in the numbers of figures: times, bytes and shares of them.
MEASURED = {
    *("seconds", "mean_s", "median_s", "median_s_per_s", "median_peak_bytes"),
    *("median_share_of_limit", "median_share", "median_period_share"),
}
FIGURES = 9
GO = "touch /tmp/go && echo told"
# A container and its attempt, which begins with that of its key in the store.
LISTED = f'{{{{.ID}}}} {{{{index .Labels "{LABEL}"}}}}'


class Both(NamedTuple):
    """The same sweep, made by Slurm and made here, and what Snakemake said of the former."""

    there: Clone
    here: Clone
    said: str


class Lost(NamedTuple):
    """What was seen of two sweeps: one whose node `n2` died, and one that was cancelled."""

    died: Clone
    sealed_before: set[str]
    status: int
    cancelled: Clone
    left: list
    listening: dict[str, set[str]]


@pytest.fixture(scope="module")
def cluster():
    if MISSING:
        pytest.fail(WHY, pytrace=False)
    with running() as made:
        yield made


@pytest.fixture(scope="module")
def base(cluster, tmp_path_factory):
    """A clone with the sweep's images, made here and kept for the nodes."""
    path = tmp_path_factory.mktemp("cluster") / "base"
    files = {
        "config/cells.csv": table(CELLS),
        "config/tasks/wait.yaml": WAIT % "/testbed",
        "config/scenarios/wait.yaml": SCENARIO,
    }
    return prepared(path, cluster, MORE, TABLE, files)


@pytest.fixture(scope="module")
def both(cluster, base, tmp_path_factory):
    """The sweep by one command, as a user gives it; meanwhile the same on this machine."""
    folder = tmp_path_factory.mktemp("both")
    there, here = base.copy(folder / "there"), base.copy(folder / "here")
    with started(there, cluster, *SLURM) as slurm, started(here, cluster, *LOCAL) as local:
        finished(there, slurm)
        finished(here, local)
    said = said_of(there)
    for clone, program in ((there, SLURM), (here, LOCAL)):
        run_again_what_the_kernel_killed_twice(clone, cluster, program)
    return Both(there, here, said)


def run_again_what_the_kernel_killed_twice(clone: Clone, cluster: Cluster, program: tuple) -> None:
    """On a busy machine what the kernel killed may not have given its memory back when it must
    kill again: then the agent goes after its tool, in one of two equal runs. Seen once here.
    """
    for _ in range(3):
        killed = [
            run
            for run in rows(clone, "runs", ["run_id", "outcome"])
            if run["outcome"] == "oom_agent"
        ]
        if not killed:
            return
        command = [BIN / "agentsweep", "rerun", *(run["run_id"] for run in killed)]
        subprocess.run(command, cwd=clone.path, check=True, env=cluster.environment)
        with started(clone, cluster, *program) as sweep:
            finished(clone, sweep)


@pytest.fixture(scope="module")
def lost(cluster, base, tmp_path_factory):
    """Three runs on three nodes, of which one dies. Then two of another sweep, on the others."""
    folder = tmp_path_factory.mktemp("lost")
    died = waiting(base, folder / "died", replicates=3)
    cancelled = waiting(base, folder / "cancelled", replicates=2, workdir="/cancelled")
    cancelled.replace("config/config.yaml", "archive}", "archive, prepare: node}")
    others, told = ("n1", "n3"), set()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(started(died, cluster, *SLURM, "runs"))
        until(lambda: len(runs(cluster, died)) == 3, first, "three runs at once")
        listening = cluster.listening()
        cluster.kill_node("n2")
        second = stack.enter_context(started(cancelled, cluster, *SLURM, "runs"))
        until(lambda: go_on(cluster, died, told) and len(died.sealed()) == 2, first, "two ended")
        sealed = died.sealed()

        # They may have to wait for the third.
        until(
            lambda: go_on(cluster, died, told) and len(runs(cluster, cancelled)) == 2,
            second,
            "two runs at once",
        )
        cluster.client("scancel", *re.findall(r"SLURM jobid (\d+)", said_of(cancelled)))
        # Before it sees that its jobs are gone and starts them again.
        second.send_signal(signal.SIGINT)
        assert second.wait(60) != 0
        deadline = time.monotonic() + 20
        while (left := runs(cluster, cancelled)) and time.monotonic() < deadline:
            time.sleep(0.2)

        until(lambda: go_on(cluster, died, told) and first.poll() is not None, None, "all ended")
        left += [name for name in (HEAD, *others) if cluster.containers(name)]
    return Lost(died, sealed, first.returncode, cancelled, left, listening)


def table(cells: list[tuple[str, str, int]]) -> str:
    lines = [f"{task},claude,{memory},1,{replicate}" for task, memory, replicate in cells]
    return "\n".join(["task,agent,memory,cpus,replicate", *lines, ""])


def waiting(base: Clone, path: Path, replicates: int, workdir: str = "/testbed") -> Clone:
    """A clone whose runs each wait to be told to go on."""
    clone = base.copy(path)
    clone.file("config/tasks/wait.yaml").write_text(WAIT % workdir, encoding="utf-8")
    cells = [("wait", "512MiB", replicate) for replicate in range(replicates)]
    clone.file("config/cells.csv").write_text(table(cells), encoding="utf-8")
    return clone


def runs(cluster: Cluster, clone: Clone) -> list[tuple[str, str]]:
    """The node and the container of each run of a clone that has one."""
    keys = {path.name[:12] for path in clone.path.glob("store/*")}
    found = []
    for node in (HEAD, *cluster.names):
        for line in cluster.podman(node, "ps", "--all", "--format", LISTED).splitlines():
            container, attempt = line.split()
            if attempt.split("-")[0] in keys:
                found.append((node, container))
    return found


def go_on(cluster: Cluster, clone: Clone, told: set) -> bool:
    """Let the runs that a clone has now go on, but for those that were told; always true."""
    for node, container in runs(cluster, clone):
        if container not in told:
            done = cluster.podman(node, "exec", container, "sh", "-c", GO, check=False)
            told.update([container] if done else [])
    return True


def said_of(clone: Clone) -> str:
    return clone.file("out").read_text(encoding="utf-8")


def until(met, sweep: subprocess.Popen | None, what: str, within_s: float = 240) -> None:
    """Wait until it is met; a sweep that ends meanwhile never will."""
    deadline = time.monotonic() + within_s
    while not met():
        assert time.monotonic() < deadline, what
        assert sweep is None or sweep.poll() is None, what
        # Each look costs a call of the engine for each node.
        time.sleep(1)


def rows(clone: Clone, table: str, columns: list[str]) -> list[dict]:
    read = pq.read_table(clone.file(f"results/dataset/{table}.parquet"), columns=columns)
    return sorted(read.to_pylist(), key=lambda row: json.dumps(row, default=str))


def image_ids(clone: Clone) -> set[str]:
    """The ids of the images that a clone's runs are in."""
    records = clone.path.glob("results/images/*/image.json")
    return {json.loads(path.read_text(encoding="utf-8"))["id"] for path in records}


def unmeasured(numbers):
    """A figure's numbers without those that are measured."""
    if not isinstance(numbers, dict):
        return numbers
    return {k: unmeasured(v) for k, v in numbers.items() if k not in MEASURED}


def test_every_cell_lands_and_the_tables_are_those_of_one_machine(both):
    assert len(both.there.sealed()) == len(CELLS)
    # A job for each run with its extraction; one for the grading, one that validates the task, one
    # for tables and figures.
    assert both.said.count("has been submitted with SLURM jobid") == len(CELLS) + 3
    there, here = (rows(clone, "runs", RUNS) for clone in (both.there, both.here))
    assert there == here
    assert [row["outcome"] for row in there] == ["completed"] * len(CELLS)
    assert sum(row["tool_oom_count"] for row in there) > 0
    assert rows(both.there, "tool_calls", CALLS) == rows(both.here, "tool_calls", CALLS)
    # This Slurm makes no cgroups, so that nothing can be inside one.
    assert {row["scope"] for row in rows(both.there, "runs", ["scope"])} == {"outside"}
    assert {row["scope"] for row in rows(both.here, "runs", ["scope"])} == {"none"}


def test_the_figures_say_the_same(both):
    """But for what is measured; where nothing is, also the picture is the same, byte for byte."""
    folder = Path("results/figures")
    names = sorted(path.stem for path in both.here.path.glob(f"{folder}/*.json"))
    assert len(names) == FIGURES
    for name in names:
        numbers = [
            json.loads(c.file(folder / f"{name}.json").read_text(encoding="utf-8"))
            for c in (both.there, both.here)
        ]
        there, here = map(unmeasured, numbers)
        if here != numbers[1]:
            # Its caption has them, too, up to where it says what the data are.
            for kept in (there, here):
                kept["caption"] = kept["caption"].partition(" Data: ")[2]
        assert there == here, name
    for name in ("outcome_map", "resolved_share"):
        there, here = (c.file(folder / f"{name}.svg").read_bytes() for c in (both.there, both.here))
        assert there == here, name


def test_a_grading_on_a_node_gives_the_same_grade(cluster, both):
    columns = ["run_id", "test_id", "kind", "outcome"]
    tests = rows(both.there, "tests", columns)
    assert tests == rows(both.here, "tests", columns)
    graded = [row for row in rows(both.there, "runs", RUNS) if row["grade_status"] == "graded"]
    assert [(row["task"], row["resolved"]) for row in graded] == [("starlette-1147", True)] * 2
    # On its node, which read the image from where it lies, once; and so did that of the validation,
    # where it is another one. All was made here before, but for that.
    pulls = {
        name: [Path(source).name for verb, source in cluster.images_taken(name) if verb == "pull"]
        for name in cluster.names
    }
    assert all(taken in ([], ["starlette-1147.tar"]) for taken in pulls.values()), pulls
    assert sum(map(len, pulls.values())) in (1, 2), pulls


def test_a_job_asks_for_what_its_cells_need(cluster, both):
    asked = cluster.client("scontrol", "--oneliner", "show", "job").splitlines()
    # A run of 1 GiB and 256 MiB beside; 600 s + 5 s + 900 s, and 10 min to extract.
    assert any("TimeLimit=00:36:00" in job and "MinMemoryNode=1343M" in job for job in asked), asked
    # 30 min for the tables and 10 for each figure, one after the other.
    assert any("TimeLimit=02:00:00" in job and "MinMemoryNode=2000M" in job for job in asked), asked
    # The grading's own limit, and 1800 s + 900 s.
    assert any("TimeLimit=00:45:00" in job and "MinMemoryNode=2148M" in job for job in asked), asked


def test_packed_jobs_have_as_many_runs_as_was_said(cluster, both):
    packed = ("-n", "--forceall", "--group-components", "cell=2", "--", "extracted")
    with started(both.there, cluster, *SLURM, *packed) as dry_run:
        finished(both.there, dry_run)
    groups = re.split(r"Group job ", said_of(both.there))
    runs = [group.count("rule agent_run:") for group in groups if group.startswith("cell ")]
    assert sorted(runs) == [1, 2]


def test_nothing_binds_to_an_address_other_than_loopback(lost):
    assert {"slurmctld", "slurmd", "srun"} <= set(lost.listening)
    assert set.union(*lost.listening.values()) == {LOOPBACK}


def test_a_node_that_dies_loses_no_sealed_run(lost):
    assert lost.status == 0, said_of(lost.died)[-3000:]
    assert lost.sealed_before < lost.died.sealed()
    attempts = sorted(path.name for path in lost.died.path.glob("store/*/attempt-*"))
    assert attempts == ["attempt-1", "attempt-1", "attempt-1.interrupted", "attempt-2"]


def test_scancel_leaves_no_container(lost):
    assert lost.left == []
    assert lost.cancelled.sealed() == set()
    states = [path.suffix for path in lost.cancelled.path.glob("store/*/attempt-*")]
    assert states == [".interrupted"] * 2


def test_each_node_has_each_image_once_and_one_file_serves_all(cluster, both, lost):
    made_here = image_ids(both.there)
    (made_there,) = image_ids(lost.cancelled) - made_here
    took = {name: cluster.images_taken(name) for name in (HEAD, *cluster.names)}
    loaded = {
        name: Counter(Path(source).stem for verb, source in calls if verb == "load")
        for name, calls in took.items()
    }
    # However many runs of a node want it.
    assert {count for calls in loaded.values() for count in calls.values()} == {1}
    wanted = {image.removeprefix("sha256:") for image in made_here | {made_there}}
    assert set.union(*(set(calls) for calls in loaded.values())) == wanted
    assert all(loaded[name] for name in cluster.names)
    # The login node made its own, and one node that of the sweep that says `prepare: node`.
    assert not loaded[HEAD]
    commits = {name: sum(verb == "commit" for verb, _ in took[name]) for name in took}
    assert sorted(commits.values()) == [0, 0, 1, len(made_here)]
    for clone, images in ((both.there, made_here), (lost.cancelled, {made_there})):
        kept = {f"sha256:{path.stem}" for path in clone.path.glob("results/image-archives/*.tar")}
        assert images <= kept
