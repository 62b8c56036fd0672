"""What a Slurm job costs beside its run: singly, packed in groups, and in arrays.

A Slurm of one node on this machine (tests/cluster/slurm.py), because several would share its cores
and slow each other down. Every run is in the store already, so that a job's time is all cost:
starts of Snakemake, srun, the recall, the extraction.
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "cluster"), str(ROOT / "tests" / "workflow")]

from clone import BIN, Clone  # noqa: E402
from slurm import Cluster, missing_programs  # noqa: E402

RUNS = 8
CONFIG = f"""\
dataset: cost
sweep: {{memory: [512MiB], cpus: [1], replicates: {RUNS}}}
tasks: {{two-plus-two: config/tasks/two-plus-two.yaml}}
agents: {{claude: {{model_id: claude-haiku-4-5-20251001, version: "2.1.330"}}}}
agent: {{max_sessions: 100}}
"""
CELLS = [f"task~two-plus-two/agent~claude/mem~512MiB_cpus~1_rep~{n}" for n in range(RUNS)]
TARGETS = [f"results/extracted/{cell}/runs.parquet" for cell in CELLS]
MODES = {
    "1 run a job": ["--group-components", "cell=1"],
    "4 runs a job": ["--group-components", "cell=4"],
    "8 runs a job": ["--group-components", "cell=8"],
    "arrays of 8": [
        "--groups", "dataset=tables", "--slurm-array-jobs=agent_run,trace_extract",
    ],
}  # fmt: skip


def main() -> None:
    if missing := missing_programs():
        print(f"needs {', '.join(missing)}: install slurm-wlm and munge", file=sys.stderr)
        sys.exit(1)
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        cluster = Cluster(Path(folder) / "cluster", names=("n1",))
        try:
            cluster.start()
            clone = _ready(Path(folder) / "clone", cluster)
            print("| | first look, s | Slurm jobs | node time a run, s | whole, s | of it a run |")
            print("| --- | ---: | ---: | ---: | ---: | ---: |")
            for name, options in MODES.items():
                print(_row(clone, cluster, name, options, 5), flush=True)
            # What the profile's own first look adds is the same for all of them.
            print(_row(clone, cluster, *next(iter(MODES.items())), 40), flush=True)
        finally:
            cluster.stop()


def _ready(path: Path, cluster: Cluster) -> Clone:
    """A clone with all runs in its store."""
    clone = Clone.make(path)
    for name in ("agents", "images"):
        clone.file(name).symlink_to(ROOT / name)
    clone.file("config/config.yaml").write_text(CONFIG, encoding="utf-8")
    clone.file("config/images.lock.yaml").write_text("images: {}\n", encoding="utf-8")
    for arguments in (["--cores", "1", "lock"], ["--cores", "2", "runs"]):
        clone.snakemake(*arguments, env=_environment(cluster))
    return clone


def _environment(cluster: Cluster) -> dict[str, str]:
    return cluster.environment | {"PATH": f"{BIN}:{cluster.environment['PATH']}"}


def _row(clone: Clone, cluster: Cluster, name: str, options: list[str], first_look: int) -> str:
    before = _jobs(cluster)
    for made in ("runs", "extracted"):
        subprocess.run(["rm", "-rf", str(clone.file(f"results/{made}"))], check=True)
    begin = time.monotonic()
    clone.snakemake(
        *TARGETS, "--profile=profiles/slurm", "--latency-wait=5",
        f"--slurm-init-seconds-before-status-checks={first_look}", *options,
        env=_environment(cluster),
    )  # fmt: skip
    whole = time.monotonic() - begin
    used = {job: seconds for job, seconds in _jobs(cluster).items() if job not in before}
    node = sum(used.values()) / RUNS
    return (
        f"| {name} | {first_look} | {len(used)} | {node:.1f} | {whole:.0f} | {whole / RUNS:.1f} |"
    )


def _jobs(cluster: Cluster) -> dict[str, int]:
    """The seconds that each job and array task took on its node."""
    found = {}
    for line in cluster.client("scontrol", "--oneliner", "show", "job", check=False).splitlines():
        job = re.search(r"JobId=(\d+)", line)
        ran = re.search(r" RunTime=(?:(\d+)-)?(\d+):(\d+):(\d+)", line)
        if job and ran:
            days, hours, minutes, seconds = (int(part or 0) for part in ran.groups())
            found[job[1]] = ((days * 24 + hours) * 60 + minutes) * 60 + seconds
    return found


if __name__ == "__main__":
    main()
