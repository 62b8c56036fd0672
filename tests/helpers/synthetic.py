"""Made-up data sets that look like a sweep: the same arguments give the same rows.

Two tasks, one of which needs 700 MB and two CPUs for its build; the numbers follow from the
limits as they would in a real sweep (kills below 700 MB, throttling below two CPUs).
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agentsweep.extraction import aggregate
from agentsweep.tables import parquet

MIB = 2**20
GIB = 2**30
START_NS = 5_000_000_000_000
UTC_OFFSET_NS = 1_790_000_000_000_000_000

# name, category, CPU seconds, CPUs it can use, memory in MiB
_SCRIPTS = {
    "starlette-1147": [
        ("Bash", "explore", 0.2, 1, 20),
        ("Read", "read", 0.02, 1, 2),
        ("Grep", "search", 0.05, 1, 5),
        ("Edit", "edit", 0.02, 1, 2),
        ("Bash", "test", 3.0, 1, 90),
        ("Bash", "git", 0.1, 1, 8),
    ],
    "logstats": [
        ("Bash", "explore", 0.1, 1, 15),
        ("Read", "read", 0.02, 1, 2),
        ("Bash", "build", 9.0, 2, 700),
        ("Edit", "edit", 0.02, 1, 2),
        ("Bash", "python", 4.0, 2, 160),
        ("Bash", "test", 1.5, 1, 60),
    ],
}


@dataclass
class Run:
    """The rows of one run."""

    row: dict
    tool_calls: list[dict]
    api_calls: list[dict]
    messages: list[dict]
    samples: list[dict]

    @property
    def run_id(self) -> str:
        return self.row["run_id"]


def make_run(
    task: str,
    memory_bytes: int | None,
    cpus: float | None,
    replicate: int = 0,
    *,
    cgroup_version: int = 1,
    rate_hz: int = 10,
    with_samples: bool = True,
    agent: str = "claude",
) -> Run:
    """One run of a task; `with_samples=False` also leaves out what only samples can tell."""
    rng = random.Random(f"{task} {memory_bytes} {cpus} {replicate} {agent}")
    run_id = (
        f"task~{task}/agent~{agent}/mem~{_size(memory_bytes)}_cpus~{cpus or 'none'}_rep~{replicate}"
    )
    limit = memory_bytes or 64 * GIB
    cores = cpus or 2.0
    script = _SCRIPTS.get(task, _SCRIPTS["starlette-1147"])
    calls, exchanges, messages = [], [], []
    # (start, end, CPUs in use, throttled, memory above base, kills at the end)
    work: list[tuple[float, float, float, bool, float, int]] = []
    now = 1.0 / min(cores, 1.0)
    startup = now
    work.append((0.0, now, min(1.0, cores), cores < 1, 0, 0))
    kills = 0
    for number, (name, category, cpu_s, wanted, mib) in enumerate(script):
        think = 0.4 + rng.random() * 0.5
        exchanges.append((now, now + think))
        now += think
        attempts = [mib]
        if 200 * MIB + mib * MIB > limit:
            attempts = [mib, mib / 3]
        for memory in attempts:
            killed = 200 * MIB + memory * MIB > limit
            used = min(wanted, cores)
            seconds = cpu_s / used * (0.4 if killed else 1.0) * (0.9 + 0.2 * rng.random())
            work.append((now, now + seconds, used, wanted > cores, memory, int(killed)))
            peak = min(200 * MIB + int(memory * MIB), limit)
            kills += killed
            calls.append(
                {
                    "run_id": run_id,
                    "tool_call_id": f"toolu_{number:02}{len(calls):02}",
                    "name": name,
                    "category": category,
                    "start_ns": START_NS + int(now * 1e9),
                    "end_ns": START_NS + int((now + seconds) * 1e9),
                    "requested_utc_ns": UTC_OFFSET_NS + START_NS + int(now * 1e9) - 5_000_000,
                    "start_utc_ns": UTC_OFFSET_NS + START_NS + int(now * 1e9),
                    "end_utc_ns": UTC_OFFSET_NS + START_NS + int((now + seconds) * 1e9),
                    "duration_s": seconds,
                    "duration_lower_s": seconds,
                    "time_source": "exact" if name == "Bash" else "trace",
                    "finished": True,
                    "is_error": killed,
                    "exit_code": (137 if killed else 0) if name == "Bash" else None,
                    "mem_before_bytes": 200 * MIB,
                    "mem_peak_bytes": peak,
                    "mem_after_bytes": 200 * MIB,
                    "mem_peak_source": "watermark" if name == "Bash" else "sampled",
                    "cpu_usec": int(cpu_s * 1e6),
                    "oom_kill_count": int(killed),
                    "command": f"run {category}" if name == "Bash" else None,
                }
            )
            now += seconds
    exchanges.append((now, now + 0.6))
    now += 0.6
    end = now + 0.2
    samples = list(_samples(run_id, work, end, limit, cgroup_version, rate_hz, kills))
    last = samples[-1]
    model_s = sum(b - a for a, b in exchanges)
    tool_s = sum(c["duration_s"] for c in calls)
    row = {
        "run_id": run_id,
        "dataset": "synthetic",
        "source": "measured",
        "selected": True,
        "task": task,
        "agent": agent,
        "agent_version": "2.1.330",
        "model": "claude-haiku-4-5-20251001",
        "model_mode": "scripted",
        "replicate": replicate,
        "mem_limit_bytes": memory_bytes,
        "mem_effective_bytes": memory_bytes,
        "cpu_limit": cpus,
        "cpu_effective": cpus,
        "cpu_mode": "quota",
        "outcome": "completed",
        "row_sha256": "12" * 32,
        # More often with more memory; every fifth replicate could not be graded.
        "resolved": None if replicate % 5 == 0 else (limit >> 29) + replicate > 3,
        "exit_code": 0,
        "tool_oom_count": kills,
        "oom_kill_count": kills,
        "mem_peak_bytes": max(s["memory_current_bytes"] for s in samples),
        "mem_peak_source": "watermark",
        "cpu_source": "counter",
        "cpu_usage_usec": last["cpu_usage_usec"],
        "cpu_nr_periods": last["cpu_nr_periods"],
        "cpu_nr_throttled": last["cpu_nr_throttled"],
        "cpu_throttled_usec": last["cpu_throttled_usec"],
        "agent_start_ns": START_NS,
        "agent_end_ns": START_NS + int(end * 1e9),
        "agent_start_utc_ns": START_NS + UTC_OFFSET_NS,
        "agent_end_utc_ns": START_NS + UTC_OFFSET_NS + int(end * 1e9),
        "trace_first_utc_ns": START_NS + UTC_OFFSET_NS + int(startup * 1e9),
        "trace_last_utc_ns": START_NS + UTC_OFFSET_NS + int(now * 1e9),
        "wall_s": end + 1.5,
        "container_s": end + 0.25,
        "create_s": 0.06,
        "start_s": 0.11,
        "verify_s": 0.01,
        "exec_s": 0.07,
        "agent_s": end,
        "startup_s": startup,
        "model_s": model_s,
        "tool_s": tool_s,
        "overlap_s": 0.0,
        "other_s": end - startup - model_s - tool_s,
        "trace_status": "ok",
        "n_tool_calls": len(calls),
        "hostname": "lab",
        "kernel": "6.1.0",
        "cpu_model": "Model",
        "cgroup_version": cgroup_version,
        "output_tokens": 80 * len(exchanges),
        "output_tokens_final": True,
        "samples_status": "ok" if with_samples else "missing",
        "n_samples": len(samples) if with_samples else 0,
        "sampled_s": end if with_samples else None,
        "image_reference": f"docker://lab/{task}",
        "image_size_bytes": 300_000_000 + 1_000_000 * len(task),
    }
    api = [
        {
            "run_id": run_id,
            "seq": number,
            "source": "gateway",
            "kind": "main",
            "start_ns": START_NS + int(a * 1e9),
            "end_ns": START_NS + int(b * 1e9),
            "status": 200,
            "input_tokens": 1000 * number,
            "output_tokens": 80,
        }
        for number, (a, b) in enumerate(exchanges, 1)
    ]
    messages = [
        {
            "run_id": run_id,
            "message_id": f"msg_{number}",
            "role": "assistant",
            "kind": "tool_use",
            "n_records": 1,
            "output_tokens": 80,
            "record_output_tokens": 80,
            "output_tokens_final": True,
        }
        for number in range(len(exchanges))
    ]
    return Run(row, calls, api, messages, samples if with_samples else [])


def _samples(
    run_id: str,
    work: Sequence[tuple],
    end: float,
    limit: int,
    cgroup_version: int,
    rate_hz: int,
    kills: int,
) -> Iterator[dict]:
    usage = periods = throttled = throttled_usec = killed = 0
    step = 1 / rate_hz
    for number in range(int(end * rate_hz) + 1):
        t = number * step
        part = next((w for w in work if w[0] <= t < w[1]), None)
        base = min(180, 40 + 140 * t)
        extra = 0.0
        if part is not None:
            progress = (t - part[0]) / (part[1] - part[0])
            extra = part[4] * min(1.0, progress * 1.6)
            usage += int(part[2] * step * 1e6)
            if part[3]:
                throttled += int(step * 10)
                throttled_usec += int(step * 4e5)
            periods += int(step * 10)
        killed = sum(w[5] for w in work if w[1] <= t)
        anon = int((base + extra) * MIB)
        file = int(min(60, 5 * t) * MIB)
        yield {
            "run_id": run_id,
            "t_ns": START_NS + int(t * 1e9),
            "utc_ns": START_NS + UTC_OFFSET_NS + int(t * 1e9),
            "memory_current_bytes": min(anon + file, limit),
            "memory_anon_bytes": min(anon, limit),
            "memory_file_bytes": file,
            "memory_slab_bytes": None if cgroup_version == 1 else 3 * MIB,
            "memory_inactive_file_bytes": file // 2,
            "memory_oom_kill": killed,
            "cpu_usage_usec": usage,
            "cpu_nr_periods": periods,
            "cpu_nr_throttled": throttled,
            "cpu_throttled_usec": throttled_usec,
            "cpu_pressure_some_usec": None if cgroup_version == 1 else usage // 3,
        }


def _size(memory_bytes: int | None) -> str:
    return "none" if memory_bytes is None else f"{memory_bytes // MIB}MiB"


def sweep(
    tasks: Sequence[str] = ("logstats", "starlette-1147"),
    memory: Sequence[int | None] = (512 * MIB, GIB, 2 * GIB),
    cpus: Sequence[float | None] = (0.5, 1.0, 2.0),
    replicates: int = 1,
    **options: object,
) -> list[Run]:
    """The runs of a grid."""
    return [
        make_run(task, m, c, replicate, **options)
        for task in tasks
        for m in memory
        for c in cpus
        for replicate in range(replicates)
    ]


def replays(**options: object) -> list[Run]:
    """A grid of runs that replay one recording for each task; they leave it where they are killed
    for memory."""
    runs = sweep(**options)
    for run in runs:
        rng = random.Random(run.run_id)
        recorded = len(run.tool_calls)
        kills = [n for n, call in enumerate(run.tool_calls) if call["oom_kill_count"]]
        run.tool_calls = run.tool_calls[: kills[0] + 2 if kills else None]
        for call in run.tool_calls:
            call |= {"recorded_is_error": False, "recorded_exit_code": call["exit_code"] and 0}
            if call["oom_kill_count"]:
                call |= {"replay_status": "killed", "fidelity": 0.0, "result_similarity": 0.1}
            elif call["category"] == "search":
                call |= {"replay_status": "unavailable"}
            elif run.row["cpu_limit"] == 0.5 and call["category"] == "test":
                call |= {"replay_status": "timed_out", "fidelity": 0.0, "result_similarity": 0.3}
            elif rng.random() < 0.2:
                alike = 0.7 + 0.3 * rng.random()
                call |= {"replay_status": "text_differs", "fidelity": alike}
                call |= {"result_similarity": alike}
            else:
                call |= {"replay_status": "same", "fidelity": 1.0, "result_similarity": 1.0}
        known = [c["fidelity"] for c in run.tool_calls if c.get("fidelity") is not None]
        statuses = [c["replay_status"] for c in run.tool_calls]
        run.row |= {
            "model_mode": "replay",
            "fidelity": sum(known) / len(known),
            "replay_source_sha256": run.row["task"],
            "n_recorded_calls": recorded,
            "n_compared_calls": len(known),
            "n_same_calls": statuses.count("same"),
            "n_limited_calls": statuses.count("killed") + statuses.count("timed_out"),
            "patch_sha256": "b" if "killed" in statuses else "a",
        }
        if "killed" in statuses:
            run.row |= {"outcome": "diverged", "diverged_turn": 3, "diverged_reason": "gone"}
    return runs


def write_dataset(runs: Sequence[Run], out: Path) -> Path:
    """The runs as a data set in `out`."""
    out.mkdir(parents=True, exist_ok=True)
    runs = sorted(runs, key=lambda run: run.run_id)
    parquet.write("runs", [run.row for run in runs], out / "runs.parquet")
    for name in ("tool_calls", "api_calls", "messages", "samples"):
        with parquet.Writer(name, out / f"{name}.parquet") as writer:
            for run in runs:
                writer.write(getattr(run, name))
    return out


def write_extracted(runs: Sequence[Run], root: Path) -> list[Path]:
    """Each run in a directory of its own, as extraction leaves it."""
    folders = []
    for run in runs:
        folder = root / run.run_id
        write_dataset([run], folder)
        folders.append(folder)
    assert all(
        (folder / f"{name}.parquet").exists() for folder in folders for name in aggregate.EXTRACTED
    )
    return folders
