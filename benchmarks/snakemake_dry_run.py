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
RUN_FILES = (
    *("result.json", "trace.jsonl", "session.tar", "samples.arrow"),
    *("marks.jsonl", "api.jsonl", "patch.diff"),
)
TABLES = ("runs", "tool_calls", "api_calls", "messages", "samples")
FIGURES = (
    *("outcome_map", "wall_time", "peak_memory", "throttling", "time_split", "tool_calls"),
    *("timelines", "fidelity"),
)
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
            made = build(clone, cells)
            finish(clone)
            runs = [dry_run(clone) for _ in range(options.repeat)]
        wall, cpu, peak = (statistics.median(values) for values in zip(*runs, strict=True))
        print(f"| {made[0]:,} | {made[1]:,} | {wall:.1f} | {cpu:.1f} | {peak:.0f} |", flush=True)


def build(clone: Path, cells: int) -> tuple[int, int]:
    """A clone with a sweep of so many cells and an empty file for each result; cells, files."""
    clone.mkdir()
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
        copy(ROOT / part, clone / part)
    replicates = max(1, round(cells / 2 / len(MEMORY) / len(CPUS)))
    configuration = yaml.safe_load((clone / "config/config.yaml").read_text(encoding="utf-8"))
    tasks = list(configuration["tasks"])[:2]
    configuration["sweep"] = {
        "tasks": tasks, "memory": MEMORY, "cpus": CPUS, "replicates": replicates,
    }  # fmt: skip
    (clone / "config/config.yaml").write_text(yaml.safe_dump(configuration), encoding="utf-8")
    wanted = images(clone)
    extracted, made = [], 0
    for task in tasks:
        for memory in MEMORY:
            for cpus in CPUS:
                for replicate in range(replicates):
                    cell = f"task~{task}/agent~claude/mem~{memory}_cpus~{cpus}_rep~{replicate}"
                    cell = cell.replace("1024MiB", "1GiB")
                    wanted += [f"results/runs/{cell}/{name}" for name in RUN_FILES]
                    extracted += [f"results/extracted/{cell}/{name}.parquet" for name in TABLES]
                    made += 1
    wanted += extracted
    wanted += [f"results/dataset/{table}.parquet" for table in (*TABLES, "hosts")]
    wanted += [
        f"results/figures/{name}.{kind}" for name in FIGURES
        for kind in ("pdf", "svg", "png", "json", "rst")
    ]  # fmt: skip
    # In the order in which rules would make them: Snakemake compares times.
    for name in wanted:
        path = clone / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x", encoding="utf-8")
    return made, len(wanted)


def images(clone: Path) -> list[str]:
    """The image records that the sweep wants, as Snakemake names them."""
    done = snakemake(clone, "-n", "images")
    words = done.stdout.replace(",", " ").split()
    return sorted({word for word in words if word.startswith("results/images/")})


# `--touch` would do the same through Snakemake's scheduler, whose time grows with the square of the
# number of jobs, and wait 0.1 s before each.
RECORD = """
from snakemake.scheduling import job_scheduler

def record_all(self):
    workflow = self.workflow
    for job in workflow.dag.needrun_jobs():
        if job.output:
            workflow.async_run(workflow.persistence.finished(job))
    return True

job_scheduler.JobScheduler.schedule = record_all
from snakemake.cli import main
main()
"""


def finish(clone: Path) -> None:
    """Let Snakemake record every file as made by its rule, without running the rules."""
    subprocess.run(
        [sys.executable, "-c", RECORD, "--touch", "--forceall", "--cores", "2", "all"],
        cwd=clone, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    done = snakemake(clone, "-n")
    if "Nothing to be done" not in done.stdout:
        sys.exit(f"the fake sweep is not up to date:\n{done.stdout[-3000:]}")


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
