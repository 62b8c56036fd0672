"""`snakemake -n` with everything up to date: seconds and memory by number of cells.

    python benchmarks/snakemake_dry_run.py [--cells 100 1000 5000] [--repeat 3]

The finished sweep is a fake one: files of one byte where the results would be, and Snakemake's own
record of each, written by Snakemake without running the rules. What a dry run does (read the
configuration, compute every spec, build the graph, look at every file and record) is real.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("Snakefile", "workflow", "profiles", "src", "config", "environment.yml")
# Two tasks on this grid are 20 cells; replicates make the rest.
MEMORY = [f"{size}MiB" for size in (256, 384, 512, 768, 1024)]
CPUS = [0.5, 1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, nargs="+", default=[100, 1000, 5000])
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    print("| cells | files | dry run, s (median) | CPU, s | peak memory, MiB |")
    print("| --- | --- | --- | --- | --- |")
    for cells in options.cells:
        with tempfile.TemporaryDirectory(prefix="agentsweep-bench-") as folder:
            clone = Path(folder) / "clone"
            made, files = build(clone, cells), finish(clone)
            runs = [dry_run(clone) for _ in range(options.repeat)]
        wall, cpu, peak = (statistics.median(values) for values in zip(*runs, strict=True))
        print(f"| {made:,} | {files:,} | {wall:.1f} | {cpu:.1f} | {peak:.0f} |", flush=True)


def build(clone: Path, cells: int) -> int:
    """A clone with a sweep of so many cells; returns how many there are."""
    clone.mkdir()
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
        copy(ROOT / part, clone / part)
    replicates = max(1, round(cells / 2 / len(MEMORY) / len(CPUS)))
    configuration = yaml.safe_load((clone / "config/config.yaml").read_text(encoding="utf-8"))
    configuration["sweep"] = {
        "tasks": list(configuration["tasks"])[:2], "memory": MEMORY, "cpus": CPUS,
        "replicates": replicates,
    }  # fmt: skip
    (clone / "config/config.yaml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    return 2 * len(MEMORY) * len(CPUS) * replicates


# Every output of every job is made, in the order of the jobs, for Snakemake compares times.
# `--touch` would do the same through Snakemake's scheduler, whose time grows with the square of the
# number of jobs, and wait 0.1 s before each. All runs of a task leave the same patch.
RECORD = """
import hashlib
import json
from pathlib import Path
from snakemake.scheduling import job_scheduler

def record_all(self):
    workflow = self.workflow
    waiting = set(workflow.dag.needrun_jobs())
    for level in workflow.dag.toposorted():
        for job in sorted(level, key=str):
            if job not in waiting or not job.output:
                continue
            for output in job.output:
                path = Path(output)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text("x", encoding="utf-8")
            if job.rule.name == "patches":
                Path(job.output[0]).write_text(patches(job.input), encoding="utf-8")
            workflow.async_run(workflow.persistence.finished(job))
    return True

def patches(results):
    sha256, first = hashlib.sha256(b"x").hexdigest(), {}
    for result in results:
        task = result.split("task~")[1].split("/")[0]
        first.setdefault(task, str(Path(result).parent))
    return json.dumps(
        [{"task": task, "patch_sha256": sha256, "run": run} for task, run in first.items()]
    )

job_scheduler.JobScheduler.schedule = record_all
from snakemake.cli import main
main()
"""


def finish(clone: Path) -> int:
    """Let Snakemake record every file as made by its rule, without running the rules; how many.

    The second time it knows the patches, and with them the gradings.
    """
    for forced in (["--forceall"], []):
        subprocess.run(
            [sys.executable, "-c", RECORD, "--touch", *forced, "--cores", "2", "all"],
            cwd=clone, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
    done = snakemake(clone, "-n")
    if "Nothing to be done" not in done.stdout:
        sys.exit(f"the fake sweep is not up to date:\n{done.stdout[-3000:]}")
    return sum(path.is_file() for path in (clone / "results").rglob("*"))


def dry_run(clone: Path) -> tuple[float, float, float]:
    """Wall seconds, CPU seconds and peak resident MiB of one `snakemake -n`."""
    begin = time.monotonic()
    process = subprocess.Popen(
        ["snakemake", "-n"], cwd=clone, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"snakemake -n failed with exit code {process.returncode}")
    return wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def snakemake(clone: Path, *arguments: str) -> subprocess.CompletedProcess:
    done = subprocess.run(
        ["snakemake", *arguments], cwd=clone, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, encoding="utf-8",
    )  # fmt: skip
    if done.returncode != 0:
        sys.exit(f"snakemake {' '.join(arguments)} failed:\n{done.stdout[-3000:]}")
    return done


if __name__ == "__main__":
    main()
