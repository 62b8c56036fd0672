"""What sampling costs, beside `podman stats --no-stream` on the same container in the same minute.

    python benchmarks/sampler.py [IMAGE]

IMAGE needs `sleep` and `sh`. Prints a Markdown table; takes less than a minute. The container does
some work, as a run's does. Every cost is CPU time that the kernel charged: the sampler's from
its /proc/<pid>/schedstat (all threads, start-up not included), the engine's from wait4.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from agentsweep.containers import engines, images
from agentsweep.containers.engine import ContainerSpec, Engine, engine_environment
from agentsweep.host import scratch

ROOT = Path(__file__).parents[1]

RATES_HZ = (50, 100, 200)
WINDOW_S = 5
STATS_CALLS = 8


@dataclass
class Row:
    """One measurement of the sampler: CPU per sample, and what became of its deadlines."""

    rate_hz: int
    load: str
    us_per_sample: float
    core_percent: float
    missed_percent: float
    scheduling: str


class Sampler:
    """A sampler as the runner starts one."""

    def __init__(self, pid: int, rate_hz: int, folder: Path):
        self._summary = folder / "sampler.json"
        self._process = subprocess.Popen(
            [sys.executable, "-m", "agentsweep.sampler"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
            encoding="utf-8",
        )
        # The runner starts it before the container too, so that it has loaded by then.
        time.sleep(0.8)
        self._ask(
            pid=pid,
            samples=str(folder / "samples.arrow"),
            marks=str(folder / "marks.jsonl"),
            marks_dir=None,
            rate_hz=rate_hz,
            summary=str(self._summary),
        )
        self._ask(cmd="begin")

    def cpu_us(self) -> float:
        """CPU time so far of all its threads."""
        tasks = Path(f"/proc/{self._process.pid}/task").iterdir()
        return (
            sum(int((task / "schedstat").read_text(encoding="utf-8").split()[0]) for task in tasks)
            / 1e3
        )

    def stop(self) -> dict:
        self._ask(cmd="end")
        self._ask(cmd="stop")
        self._process.wait(20)
        return json.loads(self._summary.read_text(encoding="utf-8"))

    def _ask(self, **message) -> dict:
        self._process.stdin.write(json.dumps(message) + "\n")
        return json.loads(self._process.stdout.readline())


def sampler_cost(pid: int, rate_hz: int, load: str, folder: Path) -> Row:
    """Run a sampler for a while."""
    sampler = Sampler(pid, rate_hz, folder)
    begin_us, begin_s = sampler.cpu_us(), time.monotonic()
    time.sleep(WINDOW_S)
    used_us, took_s = sampler.cpu_us() - begin_us, time.monotonic() - begin_s
    summary = sampler.stop()
    deadlines = summary["samples"] + summary["missed"]
    return Row(
        rate_hz=rate_hz,
        load=load,
        us_per_sample=used_us / (took_s * rate_hz),
        core_percent=used_us / took_s / 1e4,
        missed_percent=100 * summary["deadline_misses_over_half_period"] / deadlines,
        scheduling=summary["scheduling"],
    )


def stats_cost_us(engine: Engine, name: str) -> float:
    """CPU time of one `stats --no-stream`: the median of a few calls, a moment apart."""
    costs = []
    for _ in range(STATS_CALLS):
        process = subprocess.Popen(
            engine.command("stats", "--no-stream", name),
            stdout=subprocess.DEVNULL,
            env=engine_environment(),
        )
        _, _, usage = os.wait4(process.pid, 0)
        costs.append((usage.ru_utime + usage.ru_stime) * 1e6)
        time.sleep(0.25)
    return sorted(costs)[len(costs) // 2]


def busy(cores: int) -> list[subprocess.Popen]:
    """As many endless loops as there are cores."""
    loop = [sys.executable, "-c", "while True: pass"]
    return [subprocess.Popen(loop) for _ in range(cores)]


def measure(engine: Engine, name: str, pid: int, folder: Path) -> None:
    rows: list[Row] = []
    stats_us: dict[str, float] = {}
    for load in ("idle", "all cores busy"):
        loops = busy(os.cpu_count() or 1) if load != "idle" else []
        try:
            stats_us[load] = stats_cost_us(engine, name)
            rows += [sampler_cost(pid, rate_hz, load, folder) for rate_hz in RATES_HZ]
        finally:
            for loop in loops:
                loop.kill()
                loop.wait()
    print(
        "| host | rate | CPU per sample | one `stats` call | ratio | of one core | late or missed |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        ratio = stats_us[row.load] / row.us_per_sample
        print(
            f"| {row.load} | {row.rate_hz} Hz | {row.us_per_sample:.0f} us "
            f"| {stats_us[row.load] / 1e3:.0f} ms | {ratio:.0f} | {row.core_percent:.2f} % "
            f"| {row.missed_percent:.2f} % |"
        )
    print(
        f"\nLate or missed: by more than half a period. Scheduling: {rows[0].scheduling}. "
        f"{os.cpu_count()} cores, {WINDOW_S} s for each line."
    )


def demo_image() -> str:
    """The image that `make images` has built, in the engine's storage."""
    reference = f"oci-archive:{ROOT / 'images' / 'logstats.tar'}"
    locked = images.resolve(reference)
    found = engines.find_engine("auto", "auto", scratch.engine_dir())
    return images.pull(found, reference, locked["digest"], locked["config_digest"])["id"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("image", nargs="?", help="default: that of images/logstats.tar")
    image = parser.parse_args().image or demo_image()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        engine = engines.find_engine("auto", "auto", folder / "engine")
        name = f"agentsweep-benchmark-{os.getpid()}"
        spec = ContainerSpec(name=name, image=image, memory_bytes=2**28, cpus="0.5", pids=100)
        engine.create(spec)
        try:
            pid = engine.start(name, name).pid
            work = "while :; do head -c 1000000 /dev/zero | wc -c; sleep 0.1; done"
            client = subprocess.Popen(
                engine.exec_arguments(name, "sh", "-c", work),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                env=engine_environment(),
            )
            measure(engine, name, pid, folder)
        finally:
            engine.remove(name)
        client.wait(20)


if __name__ == "__main__":
    main()
