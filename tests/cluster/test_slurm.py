"""profiles/slurm on a real Slurm: a login node and three nodes, each with its own images.

Only the polling differs from the profile: the profile's 40 s would be most of the tests' time.
"""

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from clone import BIN, ROOT, Clone
from slurm import HEAD, Cluster, missing_programs

BINARY = ROOT / "agents" / "claude-2.1.330" / "claude"
ARCHIVE = ROOT / "images" / "logstats.tar"
MISSING = [str(path) for path in (BINARY, ARCHIVE) if not path.is_file()]
MISSING += [*missing_programs(), *([] if shutil.which("podman") else ["podman"])]
pytestmark = [
    pytest.mark.skipif(
        bool(MISSING) and not os.environ.get("CI"),
        reason=f"NOT RUN, these tests need {' and '.join(MISSING)}: run `make test-cluster`",
    ),
    pytest.mark.skipif(os.getuid() != 0, reason="NOT RUN, nodes of one host need root"),
]

CONFIG = """\
dataset: cluster
sweep: {tasks: [small], memory: [512MiB, 768MiB], cpus: [0.5, 1], replicates: 1}
tasks: {small: config/tasks/small.yaml, wait: config/tasks/wait.yaml}
agents: {claude: {model_id: claude-haiku-4-5-20251001, version: "2.1.330"}}
agent: {timeout_s: 60, stall_s: 50}
images: {distribute: archive, prepare: node}
"""
TASK = """\
kind: prompt
image: oci-archive:images/logstats.tar
workdir: /cluster
prompt: Do it.
scenario: config/scenarios/%s.yaml
"""
SCENARIO = """\
description: One command.
turns:
  - tools: [{Bash: {command: "%s", description: Do}}]
  - text: Done.
"""
SLURM = (
    "--profile=profiles/slurm",
    "--slurm-init-seconds-before-status-checks=2",
    "--latency-wait=5",
)
WAIT = ["tasks: [wait]", "memory: [512MiB]", "cpus: [1]"]
# What a run of the same cell says wherever it is made.
SAME = [
    "run_id",
    "dataset",
    "task",
    "agent",
    "agent_version",
    "model",
    "mem_limit_bytes",
    "mem_effective_bytes",
    "cpu_limit",
    "cpu_effective",
    "replicate",
    "outcome",
    "exit_code",
    "tool_oom_count",
    "num_turns",
    "spec_sha256",
    "patch_status",
    "image_digest",
    "n_messages",
    "n_tool_calls",
    "n_tool_errors",
    "n_api_calls",
    "trace_status",
    "input_tokens",
]


@pytest.fixture(scope="module")
def cluster():
    # Short, because the path of a socket is below it.
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        made = Cluster(Path(folder))
        try:
            made.start()
            yield made
        finally:
            made.stop()


@pytest.fixture(scope="module")
def base(cluster, tmp_path_factory):
    """A clone with its image made by Slurm jobs and kept for the nodes."""
    clone = Clone.make(tmp_path_factory.mktemp("cluster") / "base")
    for name in ("agents", "images"):
        clone.file(name).symlink_to(ROOT / name)
    clone.file("config/config.yaml").write_text(CONFIG)
    clone.file("config/images.lock.yaml").write_text("images: {}\n")
    for name, command in (("small", "echo a > a.txt; cat a.txt"), ("wait", "sleep 9")):
        clone.file(f"config/tasks/{name}.yaml").write_text(TASK % name)
        clone.file(f"config/scenarios/{name}.yaml").write_text(SCENARIO % command)
    snakemake(clone, cluster, "--cores=1", "lock")
    snakemake(clone, cluster, "images", *SLURM)
    return clone


def environment(cluster: Cluster) -> dict[str, str]:
    """The login node's, with this environment's programs."""
    known = cluster.environment
    return known | {"PATH": f"{BIN}:{known['PATH']}"}


def snakemake(clone: Clone, cluster: Cluster, *arguments: str, **more):
    return clone.snakemake(*arguments, env=environment(cluster), **more)


def start(clone: Clone, cluster: Cluster, *arguments: str) -> subprocess.Popen:
    """Start Snakemake and return at once; its output goes to `out` in the clone."""
    with clone.file("out").open("wb") as out:
        return subprocess.Popen(
            [str(BIN / "snakemake"), *arguments], cwd=clone.path, env=environment(cluster),
            stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            start_new_session=True,
        )  # fmt: skip


def waiting(base: Clone, path: Path, replicates: int) -> Clone:
    """A clone whose cells each wait for some seconds."""
    clone = base.copy(path)
    old = ("tasks: [small]", "memory: [512MiB, 768MiB]", "cpus: [0.5, 1]")
    for before, after in zip(old, WAIT, strict=True):
        clone.replace("config/config.yaml", before, after)
    clone.replace("config/config.yaml", "replicates: 1", f"replicates: {replicates}")
    return clone


def until(met, within_s: float, what: str) -> None:
    deadline = time.monotonic() + within_s
    while not met():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def rows(clone: Clone, table: str, columns: list[str]) -> list[dict]:
    read = pq.read_table(clone.file(f"results/dataset/{table}.parquet"), columns=columns)
    return sorted(read.to_pylist(), key=lambda row: json.dumps(row, default=str))


def test_a_sweep_is_the_same_as_on_one_machine(cluster, base, tmp_path):
    figure = "results/figures/outcome_map.json"
    here, there = base.copy(tmp_path / "here"), base.copy(tmp_path / "there")
    snakemake(here, cluster, "--cores=2", figure)
    # Two short runs in each Slurm job, one after the other.
    done = snakemake(there, cluster, figure, *SLURM, "--group-components", "cell=2")
    assert done.stdout.count("has been submitted with SLURM jobid") == 3
    assert len(there.sealed()) == 4

    assert rows(there, "runs", SAME) == rows(here, "runs", SAME)
    calls = ["run_id", "name", "category", "command", "is_error", "exit_code"]
    assert rows(there, "tool_calls", calls) == rows(here, "tool_calls", calls)
    assert there.file(figure).read_bytes() == here.file(figure).read_bytes()
    # This Slurm makes no cgroups, so that nothing can be inside one.
    assert {row["scope"] for row in rows(there, "runs", ["scope"])} == {"outside"}
    assert {row["scope"] for row in rows(here, "runs", ["scope"])} == {"none"}

    asked = cluster.client("scontrol", "--oneliner", "show", "job")
    # A run of 768 MiB and 256 MiB beside; 2 x (60 s + 5 s + 900 s), and as often 10 min to extract.
    assert any("MinMemoryNode=1074M" in job and "TimeLimit=00:54:00" in job
               for job in asked.splitlines()), asked  # fmt: skip


def test_each_node_has_the_image_once_and_one_file_serves_all(cluster, base):
    (record,) = base.path.glob("results/images/*/image.json")
    image = json.loads(record.read_text())["id"]
    listed = ("images", "--all", "--quiet", "--no-trunc")
    found = {name: cluster.podman(name, *listed).split() for name in (HEAD, *cluster.names)}
    # One node made it, of the image that was pulled there; the others loaded it and nothing else.
    makers = [name for name in cluster.names if len(found[name]) > 1]
    assert len(makers) <= 2
    others = [name for name in found if found[name] and name not in makers]
    assert len(others) >= 2
    assert HEAD in others
    assert {name: found[name] for name in others} == {name: [image] for name in others}
    assert all(found[name].count(image) <= 1 for name in makers)
    kept = base.file("results/image-archives")
    assert [path.name for path in kept.glob("*.tar*")] == [f"{image.removeprefix('sha256:')}.tar"]


def test_a_node_that_dies_loses_no_sealed_run(cluster, base, tmp_path):
    clone = waiting(base, tmp_path / "dies", replicates=3)
    sweep = start(clone, cluster, *SLURM, "runs")
    try:
        until(lambda: all(map(cluster.containers, cluster.names)), 60, "three runs at once")
        cluster.kill_node("n2")
        until(lambda: len(clone.sealed()) >= 2, 60, "the others go on")
        sealed = clone.sealed()
        assert sweep.wait(240) == 0, clone.file("out").read_text()[-3000:]
    finally:
        sweep.kill()
        sweep.wait()
        cluster.start_node("n2")
    assert sealed < clone.sealed()
    attempts = sorted(path.name for path in clone.path.glob("store/*/attempt-*"))
    assert attempts == ["attempt-1", "attempt-1", "attempt-1.interrupted", "attempt-2"]
    until(lambda: cluster.states() == dict.fromkeys(cluster.names, "idle"), 30, "n2 is back")


def test_scancel_leaves_no_container(cluster, base, tmp_path):
    clone = waiting(base, tmp_path / "cancelled", replicates=3)
    sweep = start(clone, cluster, *SLURM, "runs")
    try:
        until(lambda: all(map(cluster.containers, cluster.names)), 60, "three runs at once")
        cluster.client("scancel", "--user", str(os.getuid()))
        # Before it sees that its jobs are gone and starts them again.
        sweep.send_signal(signal.SIGINT)
        assert sweep.wait(60) != 0
    finally:
        sweep.kill()
        sweep.wait()
    everywhere = (HEAD, *cluster.names)
    until(lambda: not any(map(cluster.containers, everywhere)), 20, "containers are left")
    assert clone.sealed() == set()
    states = {path.suffix for path in clone.path.glob("store/*/attempt-*")}
    assert states == {".interrupted"}
