"""How long it takes from AgentCgroup's raw files to all tables, claims and figures.

    python benchmarks/paper.py [--data DIRECTORY] [--repeat 3]

Prints two Markdown tables: the whole, by the command that a user gives, with the memory of all its
processes together (proportional set sizes, looked at 20 times a second); and the parts, each alone
(wall time and largest resident set). DIRECTORY holds `all_images_haiku` and `all_images_local`;
the default is below AGENTSWEEP_SHARED, else below `shared` beside the repository.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHARED = Path(os.environ.get("AGENTSWEEP_SHARED", ROOT.parent / "shared"))
BIN = Path(sys.executable).parent
PARTS = ("Snakefile", "workflow", "profiles", "src", "config", "environment.yml")
SETS = {"H": "all_images_haiku", "L": "all_images_local"}
LOOK_S = 0.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=SHARED / "data" / "agentcgroup")
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    if not all((options.data / name).is_dir() for name in SETS.values()):
        print(f"not measured: {options.data} does not hold {' and '.join(SETS.values())}")
        return
    data = options.data.resolve()
    megabytes = sum(p.stat().st_size for p in data.rglob("*") if p.is_file()) / 1e6
    print(f"{megabytes:.0f} MB of raw files; median of {options.repeat}.\n")
    with tempfile.TemporaryDirectory(prefix="agentsweep-paper-") as scratch:
        whole = [run_whole(Path(scratch) / str(n), data) for n in range(options.repeat)]
        print_whole(whole)
        tables = Path(scratch) / "tables"
        print("\n| part | s | MiB |\n| --- | ---: | ---: |")
        for name, command in parts(data, tables, Path(scratch)):
            measured = [alone(command) for _ in range(options.repeat)]
            seconds = statistics.median(s for s, _ in measured)
            print(f"| {name} | {seconds:.2f} | {max(mib for _, mib in measured):.0f} |")


def print_whole(whole: list[tuple[float, float, float]]) -> None:
    names = ("from raw files to everything", "nothing to be done", "memory of all processes")
    units = ("s", "s", "MiB")
    print("| `snakemake --cores 2 paper --configfile config/agentcgroup.yaml` | |")
    print("| --- | ---: |")
    for name, unit, values in zip(names, units, zip(*whole, strict=True), strict=True):
        print(f"| {name} | {statistics.median(values):.{1 if unit == 's' else 0}f} {unit} |")


def run_whole(clone: Path, data: Path) -> tuple[float, float, float]:
    """Seconds from raw files and with nothing to be done, and the most memory (MiB) of all."""
    clone.mkdir()
    for part in PARTS:
        source = ROOT / part
        if source.is_dir():
            shutil.copytree(source, clone / part, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, clone / part)
    command = [
        *(str(BIN / "snakemake"), "--quiet", "--cores", "2", "paper"),
        *("--configfile", "config/agentcgroup.yaml"),
        *("--config", f"imports_directory={data}"),
    ]
    begin = time.monotonic()
    process = subprocess.Popen(
        command,
        cwd=clone,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    watch = Watch(process.pid)
    watch.start()
    output = process.communicate()[0]
    first_s = time.monotonic() - begin
    watch.stop()
    if process.returncode != 0:
        sys.exit(output)
    begin = time.monotonic()
    subprocess.run(command, cwd=clone, capture_output=True, check=True)
    return first_s, time.monotonic() - begin, watch.most_bytes / 2**20


class Watch(threading.Thread):
    """The largest sum of the proportional set sizes of a process and all below it."""

    def __init__(self, pid: int):
        super().__init__(daemon=True)
        self.most_bytes = 0
        self._pid, self._over = pid, threading.Event()

    def run(self) -> None:
        while not self._over.wait(LOOK_S):
            total = sum(map(pss_bytes, tree(self._pid)))
            self.most_bytes = max(self.most_bytes, total)

    def stop(self) -> None:
        self._over.set()
        self.join()


def tree(pid: int) -> Iterator[int]:
    """A process and its descendants, as far as they are still there."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text(encoding="utf-8").split()
        except OSError:
            continue
        for child in children:
            yield from tree(int(child))


def pss_bytes(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:")), 0)


def parts(data: Path, tables: Path, scratch: Path) -> Iterator[tuple[str, list[str]]]:
    """The commands of the workflow's jobs, in their order."""
    command = str(BIN / "agentsweep")
    for name, folder in SETS.items():
        target = ["--name", name, "--out", str(tables / name)]
        yield f"import {name}", [command, "import", str(data / folder), *target]
    given = [f"--tables={tables / name}" for name in SETS]
    yield "claims", [command, "claims", *given, "--out", str(scratch / "claims")]
    for script in sorted((ROOT / "workflow" / "scripts" / "paper").glob("*.py")):
        out = ["--out", str(scratch / script.stem)]
        yield f"figure {script.stem}", [sys.executable, str(script), *given, *out]


def alone(command: list[str]) -> tuple[float, float]:
    """Seconds and largest resident set (MiB) of one process."""
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"{command} failed")
    return time.monotonic() - begin, usage.ru_maxrss / 1024


if __name__ == "__main__":
    main()
