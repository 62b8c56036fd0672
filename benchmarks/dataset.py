"""What a large study costs: tables from extracted runs, each figure, claims.

    python benchmarks/dataset.py [--runs 2000] [--samples 1500]

Prints a Markdown table: CPU seconds and the largest resident set of each step, each a process of
its own. The runs are made up by the project's own writers: 10 tasks under 5 memory and 4 CPU
limits, as many replicates as `--runs` asks for, each with 40 tool calls, 60 requests and 100
messages. A step that this machine has no room for is said to have failed.
"""

import argparse
import math
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from agentsweep.tables import parquet

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
GIB = 2**30
START_NS = 5_000_000_000_000
UTC_NS = 1_790_000_000_000_000_000
TASKS = [f"task-{number}" for number in range(10)]
MEMORY_BYTES = [GIB // 4, GIB // 2, GIB, 2 * GIB, 4 * GIB]
CPUS = [0.5, 1.0, 2.0, 4.0]
CATEGORIES = ("read", "search", "edit", "test", "git", "python", "explore", "build")
CALLS, REQUESTS, MESSAGES = 40, 60, 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=1500, help="of each run")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="agentsweep-dataset-") as scratch:
        root = Path(scratch)
        folders = list(make(root / "extracted", options.runs, options.samples))
        (root / "list").write_text("".join(f"{folder}\n" for folder in folders), encoding="utf-8")
        print(f"{len(folders):,} runs of {options.samples:,} samples each.\n")
        print("| step | CPU, s | memory, MiB | result |\n| --- | ---: | ---: | --- |")
        for name, command in steps(root):
            cpu_s, mib, code = measure(command)
            result = "made" if code == 0 else f"failed ({code})"
            print(f"| {name} | {cpu_s:.1f} | {mib:.0f} | {result} |", flush=True)


def steps(root: Path) -> Iterator[tuple[str, list[str]]]:
    """The commands of the workflow's jobs, in their order."""
    command = str(BIN / "agentsweep")
    tables = root / "dataset"
    yield "data set", [command, "dataset", "--list", str(root / "list"), "--out", str(tables)]
    for script in sorted((ROOT / "workflow" / "scripts" / "figures").glob("*.py")):
        given = ["--dataset", str(tables), "--out", str(root / script.stem)]
        yield f"figure {script.stem}", [sys.executable, str(script), *given]
    given = [f"--tables={tables}", "--out", str(root / "claims")]
    yield "claims", [command, "claims", *given]
    for script in sorted((ROOT / "workflow" / "scripts" / "paper").glob("*.py")):
        given = [f"--tables={tables}", "--out", str(root / f"paper-{script.stem}")]
        yield f"paper's figure {script.stem}", [sys.executable, str(script), *given]


def measure(command: list[str]) -> tuple[float, float, int]:
    """CPU seconds, largest resident set (MiB) and exit code of one process."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, process.returncode


def make(root: Path, runs: int, samples: int) -> Iterator[Path]:
    """The extracted tables of so many runs, a folder each."""
    replicates = math.ceil(runs / len(TASKS) / len(MEMORY_BYTES) / len(CPUS))
    cells = (
        (task, memory, cpus, replicate)
        for replicate in range(replicates)
        for task in TASKS
        for memory in MEMORY_BYTES
        for cpus in CPUS
    )
    for _, cell in zip(range(runs), cells, strict=False):
        yield make_run(root, *cell, samples)


def make_run(
    root: Path, task: str, memory_bytes: int, cpus: float, replicate: int, samples: int
) -> Path:
    """The tables of one run, as extraction writes them."""
    run_id = f"task~{task}/agent~claude/mem~{memory_bytes // 2**20}MiB_cpus~{cpus}_rep~{replicate}"
    folder = root / run_id
    folder.mkdir(parents=True)
    rng = random.Random(run_id)
    length_s = samples / 20 * (1 + 0.2 * rng.random())
    rows = {
        "runs": [run_row(run_id, task, memory_bytes, cpus, replicate, length_s, samples, rng)],
        "tool_calls": [call_row(run_id, number, length_s, rng) for number in range(CALLS)],
        "api_calls": [request_row(run_id, number, length_s) for number in range(REQUESTS)],
        "messages": [message_row(run_id, number) for number in range(MESSAGES)],
        "samples": sample_table(run_id, memory_bytes, cpus, length_s, samples, rng),
    }
    for name, table_rows in rows.items():
        parquet.write(name, table_rows, folder / f"{name}.parquet")
    return folder


def run_row(
    run_id: str,
    task: str,
    memory_bytes: int,
    cpus: float,
    replicate: int,
    length_s: float,
    samples: int,
    rng: random.Random,
) -> dict:
    peak = min(int((0.2 + 0.6 * rng.random()) * GIB), memory_bytes)
    return {
        "run_id": run_id,
        "dataset": "study",
        "source": "measured",
        "selected": True,
        "task": task,
        "agent": "claude",
        "agent_version": "2.1.330",
        "model": "claude-haiku-4-5-20251001",
        "model_mode": "live",
        "replicate": replicate,
        "mem_limit_bytes": memory_bytes,
        "mem_effective_bytes": memory_bytes,
        "cpu_limit": cpus,
        "cpu_effective": cpus,
        "cpu_mode": "quota",
        "outcome": "oom_agent" if peak == memory_bytes else "completed",
        "row_sha256": "12" * 32,
        "resolved": rng.random() < 0.4,
        "exit_code": 0,
        "oom_kill_count": int(peak == memory_bytes),
        "tool_oom_count": 0,
        "mem_peak_bytes": peak,
        "mem_peak_source": "watermark",
        "cpu_source": "counter",
        "cpu_usage_usec": int(length_s * 3e5),
        "cpu_nr_periods": int(length_s * 10),
        "cpu_nr_throttled": int(length_s * 2 / cpus),
        "cpu_throttled_usec": int(length_s * 1e5 / cpus),
        "agent_start_ns": START_NS,
        "agent_end_ns": START_NS + int(length_s * 1e9),
        "agent_start_utc_ns": UTC_NS,
        "agent_end_utc_ns": UTC_NS + int(length_s * 1e9),
        "wall_s": length_s + 1.5,
        "container_s": length_s + 0.2,
        "agent_s": length_s,
        "startup_s": 1.0,
        "model_s": length_s * 0.6,
        "tool_s": length_s * 0.3,
        "overlap_s": 0.0,
        "other_s": length_s * 0.1 - 1.0,
        "trace_status": "ok",
        "n_tool_calls": CALLS,
        "hostname": "lab",
        "kernel": "6.1.0",
        "cpu_model": "Model",
        "cgroup_version": 2,
        "output_tokens": 80 * REQUESTS,
        "output_tokens_final": True,
        "samples_status": "ok",
        "n_samples": samples,
        "sampled_s": length_s,
        "image_reference": f"docker://lab/{task}",
        "image_size_bytes": 300_000_000,
    }


def call_row(run_id: str, number: int, length_s: float, rng: random.Random) -> dict:
    start_s = length_s * number / CALLS
    seconds = length_s / CALLS * 0.5 * rng.random()
    return {
        "run_id": run_id,
        "tool_call_id": f"toolu_{number:04}",
        "name": "Bash",
        "category": CATEGORIES[number % len(CATEGORIES)],
        "start_ns": START_NS + int(start_s * 1e9),
        "end_ns": START_NS + int((start_s + seconds) * 1e9),
        "start_utc_ns": UTC_NS + int(start_s * 1e9),
        "end_utc_ns": UTC_NS + int((start_s + seconds) * 1e9),
        "duration_s": seconds,
        "duration_lower_s": seconds,
        "time_source": "exact",
        "finished": True,
        "is_error": False,
        "exit_code": 0,
        "mem_before_bytes": 200 * 2**20,
        "mem_peak_bytes": int((200 + 300 * rng.random()) * 2**20),
        "mem_after_bytes": 200 * 2**20,
        "mem_peak_source": "watermark",
        "cpu_usec": int(seconds * 5e5),
        "oom_kill_count": 0,
        "command": f"python -m pytest tests/test_{number}.py -k 'name_{rng.randrange(1000)}'",
    }


def request_row(run_id: str, number: int, length_s: float) -> dict:
    start_ns = START_NS + int(length_s * number / REQUESTS * 1e9)
    return {
        "run_id": run_id,
        "seq": number,
        "source": "gateway",
        "kind": "main",
        "start_ns": start_ns,
        "end_ns": start_ns + int(length_s / REQUESTS * 0.6e9),
        "status": 200,
        "input_tokens": 1000 * number,
        "output_tokens": 80,
    }


def message_row(run_id: str, number: int) -> dict:
    return {
        "run_id": run_id,
        "message_id": f"msg_{number}",
        "role": "assistant",
        "kind": "tool_use",
        "n_records": 1,
        "output_tokens": 80,
        "record_output_tokens": 80,
        "output_tokens_final": True,
    }


def sample_table(
    run_id: str, memory_bytes: int, cpus: float, length_s: float, samples: int, rng: random.Random
) -> pa.Table:
    """Samples at even distances: memory a random walk, CPU time rising with pauses."""
    noise = np.random.default_rng(rng.randrange(2**32))
    t_ns = np.linspace(0, length_s * 1e9, samples).astype(np.int64)
    walk = np.cumsum(noise.normal(0, 2e6, samples)) + 250e6
    memory = np.clip(walk, 50e6, memory_bytes).astype(np.int64)
    busy = noise.random(samples) < 0.3
    usage = np.cumsum(busy * int(cpus * length_s / samples * 1e6)).astype(np.int64)
    columns = {
        "run_id": pa.array([run_id] * samples),
        "t_ns": START_NS + t_ns,
        "utc_ns": UTC_NS + t_ns,
        "memory_current_bytes": memory,
        "memory_anon_bytes": memory * 3 // 4,
        "memory_file_bytes": memory // 4,
        "memory_oom_kill": np.zeros(samples, np.int64),
        "cpu_usage_usec": usage,
        "cpu_user_usec": usage * 3 // 4,
        "cpu_system_usec": usage // 4,
        "cpu_nr_periods": t_ns // 100_000_000,
        "cpu_nr_throttled": t_ns // 500_000_000,
        "cpu_throttled_usec": t_ns // 10_000,
        "cpu_pressure_some_usec": usage // 3,
        "pids_current": 10 + busy.astype(np.int64),
        "io_read_bytes": t_ns // 1000,
    }
    return pa.table(columns)


if __name__ == "__main__":
    main()
