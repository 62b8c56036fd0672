"""Makes published run directories for tests, whole or with something broken in them."""

import io
import json
import tarfile
from pathlib import Path

from session_maker import SESSION, Session, stamp, succeeded

from agentsweep.agents.claude_code.records import parse_time
from agentsweep.host.counters import COLUMNS
from agentsweep.sampler.series import SampleWriter, schema

RUN_ID = "task~demo/agent~claude/mem~512MiB_cpus~0.5_rep~0"
SECOND = 1_000_000_000
MIB = 2**20
# The session's second 0, on the two clocks of the host.
UTC_ZERO = parse_time(stamp(0))
MONO_ZERO = 5_000 * SECOND


def mono(second: float) -> int:
    return MONO_ZERO + round(second * SECOND)


def utc(second: float) -> int:
    return UTC_ZERO + round(second * SECOND)


def shell_line(command: str) -> str:
    quoted = command.replace("'", "'\"'\"'")
    return f"source /c/s.sh && eval '{quoted}' < /dev/null && pwd -P >| /tmp/claude-1-cwd"


def mark(seq: int, command: str, start: float, end: float, **more) -> dict:
    return {
        "seq": seq,
        "wrapper_pid": 100 + seq,
        "command": shell_line(command),
        "start_ns": mono(start),
        "start_utc_ns": utc(start),
        "end_ns": mono(end),
        "end_utc_ns": utc(end),
        "end_source": "mark",
        "exit_code": 0,
        "mem_before_bytes": 100 * MIB,
        "mem_peak_bytes": 300 * MIB,
        "mem_after_bytes": 120 * MIB,
        "mem_peak_source": "watermark",
        "cpu_usec": 250_000,
        "oom_kill": 0,
        **more,
    }


def exchange(seq: int, start: float, end: float, **more) -> dict:
    return {
        "seq": seq,
        "start_ns": mono(start),
        "start_utc_ns": utc(start),
        "first_byte_ns": mono(start + 0.1),
        "end_ns": mono(end),
        "end_utc_ns": utc(end),
        "method": "POST",
        "path": "/v1/messages",
        "kind": "main",
        "agent_id": None,
        "model": "m",
        "stream": True,
        "status": 200,
        "error": None,
        "retry": 0,
        "turn": seq - 1,
        "turn_id": None,
        "input_tokens": 4,
        "output_tokens": 10,
        "message_id": f"m{seq}",
        "stop_reason": "tool_use",
        **more,
    }


def session() -> Session:
    """Asked at 2, 5 and 7.5; Bash at 3 and 3.1 (the same command), Read at 6; an agent's Bash."""
    made = Session()
    made.user("Fix it", 1.5)
    made.text("m1", "I look.", 2.8, output=10)
    made.bash("m1", "b1", "make it", 2.9, output=10)
    made.bash("m1", "b2", "make it", 3.0, output=10)
    made.result("b1", "done", 4.0, details=succeeded("done"))
    made.result("b2", "done", 4.8, details=succeeded("done"))
    made.tool("m2", "r1", "Read", {"file_path": "/a"}, 6.0, output=20)
    made.tool("m2", "a1", "Agent", {"prompt": "Look"}, 6.05, output=20)
    made.result("r1", "text", 6.2)
    made.result("a1", "found", 7.4, details={"agentId": "sub1", "agentType": "Explore"})
    made.text("m3", "Done.", 8.0, stop="end_turn", output=30)
    return made


def subagent() -> Session:
    made = Session(agent="sub1", prefix="sub")
    made.user("Look", 6.3)
    made.bash("s1", "sb1", "false", 6.6, output=5, model="other")
    made.result("sb1", "Exit code 1", 7.0, is_error=True)
    made.text("s2", "found", 7.3, stop="end_turn", output=5, model="other")
    return made


def result() -> dict:
    counters = dict.fromkeys(COLUMNS)
    start = {**counters, "memory_current_bytes": 50 * MIB, "cpu_usage_usec": 1_000_000}
    end = {**counters, "memory_current_bytes": 80 * MIB, "cpu_usage_usec": 5_500_000}
    start |= {"cpu_nr_throttled": 3, "cpu_throttled_usec": 100, "memory_failcnt": 0}
    end |= {"cpu_nr_throttled": 13, "cpu_throttled_usec": 700_100, "memory_failcnt": 2}
    return {
        "schema": 1,
        "spec": {
            "agent": {"model_id": "asked-for"},
            "model": {"mode": "scripted"},
            "replicate": 0,
        },
        "spec_sha256": "ab" * 32,
        "attempt": 1,
        "attempt_id": "abababababab-1",
        "names": {
            "dataset": "demo",
            "task": "an old name",
            "agent": "claude",
            "instance_id": "demo__demo-1",
        },
        "outcome": "completed",
        "outcome_detail": "The agent finished.",
        "exit_code": 0,
        "scope": "none",
        "limits": {
            "requested": {
                "memory_bytes": 512 * MIB,
                "swap_bytes": 0,
                "cpus": "0.5",
                "cpu_mode": "quota",
                "pids": 4096,
            },
            "effective": {
                "memory_bytes": 512 * MIB,
                "swap_bytes": 0,
                "cpus": 0.5,
                "nproc": 2,
                "cpuset": "0-1",
                "pids": 4096,
                "memory_level": "/x",
                "cpu_level": "/x",
            },
        },
        "memory": {"peak_bytes": 400 * MIB, "peak_source": "watermark"},
        "counters": {"start": start, "end": end},
        "oom": {
            "kill_count": 1,
            "tool_count": 1,
            "agent_victim": False,
            "container_victim": False,
            "victims": [],
        },
        "phases": {"pull_s": 1.0, "create_s": 0.25, "agent_s": 8.0},
        "wall_s": 9.5,
        "started_utc_ns": utc(0),
        "ended_utc_ns": utc(10),
        "agent_start_ns": mono(1),
        "agent_end_ns": mono(9),
        "agent_start_utc_ns": utc(1),
        "agent_end_utc_ns": utc(9),
        "leftover_processes": 0,
        "agent": {
            "version": "2.1.330",
            "binary_sha256": "cd" * 32,
            "session_id": SESSION,
            "uid": 1000,
        },
        "image": {"reference": "docker://x", "digest": "sha256:1", "id": "2", "size_bytes": 3},
        "patch": {"status": "ok", "sha256": "ef" * 32, "bytes": 100},
        "engine": {
            "name": "podman",
            "version": "4.3.1",
            "runtime": "runc",
            "storage_driver": "overlay",
            "rootless": False,
            "cgroup_version": 1,
        },
        "host": {
            "hostname": "h",
            "kernel": "6.1",
            "cpu_model": "c",
            "cpu_count": 2,
            "memory_bytes": 4 * 2**30,
            "swap_total_bytes": 0,
            "load1_start": 0.5,
            "load1_end": 1.5,
            "pswpin_start": 5,
            "pswpin_end": 8,
            "pswpout_start": 0,
            "pswpout_end": 0,
        },
        "sampler": {"rate_hz": 50, "samples": 500, "missed": 2, "cpu_s": 0.05},
        "stream": {
            "result": {
                "is_error": False,
                "terminal_reason": "completed",
                "num_turns": 3,
                "total_cost_usd": 0.5,
            }
        },
        "runner": {"version": "0.1.0", "source_sha256": "12" * 32},
    }


def marks() -> list[dict]:
    return [
        mark(1, "make it", 3.05, 3.9),
        mark(2, "make it", 3.06, 4.7, exit_code=137, oom_kill=1),
        mark(3, "false", 6.7, 6.9, exit_code=1),
    ]


def exchanges() -> list[dict]:
    return [
        exchange(1, 2.0, 3.1),
        exchange(2, 5.0, 5.5, status=529, error="overloaded_error", message_id=None),
        exchange(3, 5.5, 6.1, retry=1),
        exchange(4, 6.4, 6.7, kind="subagent", agent_id="sub1"),
        exchange(5, 7.1, 7.3, kind="subagent", agent_id="sub1"),
        exchange(6, 7.5, 8.1),
    ]


def write_samples(path: Path, seconds: float = 10, rate_hz: int = 50) -> int:
    """Memory rises by 1 MiB a sample from 10 MiB; batches of 25 samples. Returns the rows."""
    writer = SampleWriter(path, schema(1, rate_hz))
    rows = []
    memory = COLUMNS.index("memory_current_bytes")
    for i in range(int(seconds * rate_hz)):
        counters = [None] * len(COLUMNS)
        counters[memory] = (10 + i) * MIB
        rows.append((mono(i / rate_hz), utc(i / rate_hz), *counters))
    for first in range(0, len(rows), 25):
        writer.write(rows[first : first + 25])
    writer.close()
    return len(rows)


def tar(files: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return data.getvalue()


def lines(records: list[dict]) -> bytes:
    return b"".join(json.dumps(record).encode() + b"\n" for record in records)


def make_run(folder: Path) -> Path:
    """A whole published run."""
    folder.mkdir(parents=True)
    main = session().data()
    (folder / "result.json").write_text(json.dumps(result()), encoding="utf-8")
    (folder / "trace.jsonl").write_bytes(main)
    project = f"projects/-testbed/{SESSION}"
    files = {f"{project}.jsonl": main, f"{project}/subagents/agent-sub1.jsonl": subagent().data()}
    (folder / "session.tar").write_bytes(tar(files))
    (folder / "marks.jsonl").write_bytes(lines(marks()))
    (folder / "api.jsonl").write_bytes(lines(exchanges()))
    (folder / "patch.diff").write_text("diff", encoding="utf-8")
    write_samples(folder / "samples.arrow")
    return folder
