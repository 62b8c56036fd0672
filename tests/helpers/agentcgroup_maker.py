"""Makes small attempt directories in AgentCgroup's layout for tests, and imports them."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
from session_maker import Session, stamp

from agentsweep.extraction.importer import TABLES, import_runs

# The session maker's beginning: 2026-03-01, 12:00:00 UTC.
BEGIN = datetime(2026, 3, 1, 12, tzinfo=UTC)
BEGIN_NS = int(BEGIN.timestamp()) * 10**9
SECOND = 10**9
VANCOUVER, TOKYO, NEPAL = -8.0, 9.0, 5.75
PROMPT = "Fix this issue: {}\n\nIMPORTANT: run the tests"
BROKEN = PROMPT.format("It is broken.")


def utc_ns(second: float) -> int:
    return BEGIN_NS + round(second * 1e9)


def local(second: float, zone_h: float = VANCOUVER) -> str:
    """The recorder's time stamp: local time without a zone."""
    moment = BEGIN + timedelta(seconds=second, hours=zone_h)
    return moment.replace(tzinfo=None).isoformat()


def sample(second: float, memory="186MB", cpu="10.00%", zone_h=VANCOUVER, **more) -> dict:
    return {
        "timestamp": local(second, zone_h),
        "epoch": BEGIN.timestamp() + second,
        "mem_usage": f"{memory} / 134.5GB",
        "mem_percent": "0.14%",
        "cpu_percent": cpu,
    } | more


def samples(count=12, step=1.0, **more) -> list[dict]:
    """A container that started half a second before and uses a tenth of a core."""
    return [sample(step * i, memory=f"{180 + i}MB", **more) for i in range(count)]


def session(version="2.0.0", prompt=BROKEN, **more) -> Session:
    """Two Bash calls and a Read in nine seconds; `more` goes to every message of the model."""
    made = Session(version)
    made.user(prompt, 1)
    made.text("m1", "I look.", 2, output=8, stop=None, **more)
    made.bash("m1", "t1", "ls -la", 2.5, output=8, stop=None, **more)
    made.result("t1", "a", 3)
    made.bash("m2", "t2", "pytest -q", 4, output=5, stop=None, **more)
    made.result("t2", "1 passed", 7)
    made.tool("m3", "t3", "Read", {"file_path": "/testbed/a"}, 8, output=3, stop=None, **more)
    made.result("t3", "1\ta", 8.5)
    made.text("m4", "Done.", 9, output=4, stop=None, **more)
    return made


def tool_calls() -> list[dict]:
    """What the paper's scripts list of `session()`."""
    given = [
        ("t1", "Bash", {"command": "ls -la"}, 2.5, 3),
        ("t2", "Bash", {"command": "pytest -q"}, 4, 7),
        ("t3", "Read", {"file_path": "/testbed/a"}, 8, 8.5),
    ]
    return [
        {
            "timestamp": stamp(start),
            "tool": tool,
            "id": call,
            "input": value,
            "end_timestamp": stamp(end),
            "result_preview": "...",
        }
        for call, tool, value, start, end in given
    ]


def results(zone_h=VANCOUVER, **more) -> dict:
    return {
        "image": "docker.io/swerebench/sweb.eval.x86_64.a_1776_b-1:latest",
        "start_time": local(-60, zone_h),
        "memory_limit": "4g",
        "cpu_limit": "2",
        "model": "haiku",
        "pull_time": 20.0,
        "permission_fix_time": 10.0,
        "image_info": {"size_bytes": 3 * 2**30, "size_mb": 3072.0, "image_id": "abc"},
        "output_dir": "/home/somebody/attempt_1",
        "claude_time": 42.0,
        "claude_output": {"stdout": "Done.", "stderr": "", "exit_code": 0},
        "resource_samples": resources(samples(zone_h=zone_h)),
        "disk_usage": {"testbed_mb": 12.5},
        "traces": {"files": ["/home/somebody/trace.jsonl"], "tool_calls": tool_calls()},
        "cleaned": True,
        "total_time": 75.0,
        "end_time": local(15, zone_h),
    } | more


def resources(listed: list) -> dict:
    return {"samples": listed, "summary": {"sample_count": len(listed), "duration_seconds": 11.0}}


def attempt(
    directory: Path,
    *,
    trace: Session | bytes | None = ...,
    listed=...,
    calls=...,
    result=...,
    zone_h=VANCOUVER,
) -> Path:
    """Write an attempt directory; None leaves a file out, bytes are written as they are."""
    directory.mkdir(parents=True, exist_ok=True)
    trace = session() if trace is ... else trace
    contents = {
        "resources.json": resources(samples(zone_h=zone_h)) if listed is ... else listed,
        "tool_calls.json": tool_calls() if calls is ... else calls,
        "results.json": results(zone_h) if result is ... else result,
        "trace.jsonl": trace.data() if isinstance(trace, Session) else trace,
    }
    if isinstance(contents["resources.json"], list):
        contents["resources.json"] = resources(contents["resources.json"])
    for name, content in contents.items():
        if content is not None:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            (directory / name).write_bytes(data)
    return directory


def imported(directory: Path, out: Path, name="D", attempts="last") -> dict[str, list[dict]]:
    """The rows of all tables of a data set."""
    import_runs(directory, name, attempts, out)
    return {table: pq.read_table(out / f"{table}.parquet").to_pylist() for table in TABLES}


def one_attempt(folder: Path) -> Callable[..., dict[str, list[dict]]]:
    """What writes a data set with one attempt, another each time, and gives its tables' rows."""
    number = 0

    def make(name="a__b-1/attempt_1", **files):
        nonlocal number
        number += 1
        data, out = folder / f"data{number}", folder / f"out{number}"
        attempt(data / name, **files)
        return imported(data, out)

    return make


def contents(out: Path) -> dict[str, bytes]:
    """The bytes of all tables."""
    return {table: (out / f"{table}.parquet").read_bytes() for table in TABLES}
