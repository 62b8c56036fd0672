"""How fast session files are parsed, by what they are made of, and how long the commands take.

    python benchmarks/trace_extract.py [--shared DIRECTORY] [--repeat 3]

Prints a Markdown table. Each row is one kind of session, brought to about `--megabytes` by
repeating its records under new ids, as a longer session would have them. Made-up sessions are
always measured; recorded ones where the directory with them is given (or AGENTSWEEP_SHARED).
`json` is the standard library decoding the same lines and doing nothing with them, measured in
the same run: the share of the parser's time that no reader without another decoder can avoid.
"""

import argparse
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from agentsweep.agents.claude_code.trace import Source, parse_sources
from agentsweep.host.counters import COLUMNS
from agentsweep.sampler.series import SampleWriter, schema

SESSION = "0f0e0d0c-0b0a-4908-8706-050403020100"


def record(number: int, kind: str, **more) -> dict:
    return {
        "parentUuid": f"u{number - 1}",
        "isSidechain": False,
        "type": kind,
        "uuid": f"u{number}",
        "timestamp": f"2026-03-01T{number // 3600 % 24:02d}:{number // 60 % 60:02d}:"
        f"{number % 60:02d}.123Z",
        "sessionId": SESSION,
        "version": "2.1.330",
        "cwd": "/testbed",
        "gitBranch": "main",
        **more,
    }


def made_up(outputs: Iterable[str], extra: Callable[[int], list[dict]]) -> bytes:
    """A session of one Bash call after another, each with one of the outputs."""
    lines = []
    for i, output in enumerate(outputs):
        usage = {
            "input_tokens": 4,
            "output_tokens": 60,
            "cache_read_input_tokens": 10_000,
            "cache_creation_input_tokens": 200,
        }
        block = {
            "type": "tool_use",
            "id": f"toolu_{i}",
            "name": "Bash",
            "input": {"command": f"python -m pytest tests/test_{i}.py -x 2>&1 | tail -50"},
        }
        message = {
            "id": f"msg_{i}",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [block],
            "stop_reason": "tool_use",
            "usage": usage,
        }
        result = {"type": "tool_result", "tool_use_id": f"toolu_{i}", "content": output}
        lines += extra(i)
        lines.append(record(2 * i, "assistant", message=message, requestId=f"req_{i}"))
        lines.append(
            record(
                2 * i + 1,
                "user",
                message={"role": "user", "content": [result]},
                toolUseResult={"stdout": output, "stderr": "", "interrupted": False},
            )
        )
    return b"".join(json.dumps(line, ensure_ascii=False).encode() + b"\n" for line in lines)


def compositions(size: int) -> dict[str, bytes]:
    """Made-up sessions of about `size` bytes, each dominated by one thing."""
    plain = "tests/test_module.py::test_case_with_a_long_name PASSED [ 42%]\n" * 150
    colour = "\x1b[32mPASSED\x1b[0m tests/test_module.py::test_case\r\n" * 150
    quoted = json.dumps(record(1, "api-request-blob", message={"role": "user"})) + "\n"
    blob = [{"type": "text", "text": "Use the tool as described.\n" * 400}]

    def blobs(i: int) -> list[dict]:
        heads = {"sessionId": SESSION, "hash": f"h{i}"}
        return [
            {"type": "api-request-blob", **heads, "message": {"role": "user", "content": blob}},
            {"type": "api-request-shape", **heads, "shape": {"system": blob, "tools": []}},
            record(10**6 + i, "attachment", attachment={"type": "prompt_snapshot", "text": blob}),
        ]

    def times(text: str) -> list[str]:
        return [text] * (size // (2 * len(text.encode()) + 1500) + 1)

    def none(_: int) -> list[dict]:
        return []

    return {
        "tool output, plain": made_up(times(plain), none),
        "tool output, colours (escapes)": made_up(times(colour), none),
        "tool output, quoted records": made_up(times(quoted * 60), none),
        "tool output, one line of 1 MB": made_up(["x" * 1_000_000] * (size // 2_000_000 + 1), none),
        "requests and attachments": made_up(["ok"] * (size // 35_000 + 1), blobs),
        "small records only": made_up(["ok"] * (size // 1_300 + 1), none),
    }


def recorded(shared: Path, size: int) -> dict[str, bytes]:
    """Recorded sessions, repeated under new ids up to about `size` bytes."""
    found = {}
    examples = shared / "data" / "claude_code_examples"
    for path in sorted(examples.glob("*_basic/*.jsonl")):
        if not path.name.startswith(("agent-", "mock_requests")):
            found[f"recorded: {path.parent.name}"] = _repeat(path.read_bytes(), size)
    traces = sorted((shared / "data" / "agentcgroup").glob("**/trace.jsonl"))
    if traces:
        largest = sorted(traces, key=lambda path: path.stat().st_size)[-8:]
        found["recorded: 8 long runs, 2.0.0"] = b"".join(path.read_bytes() for path in largest)
    return found


def _repeat(data: bytes, size: int) -> bytes:
    """The session again and again, with ids of its own each time so that nothing is a duplicate."""
    lines = [line for line in data.split(b"\n") if line]
    copies = []
    for i in range(size // len(data) + 1):
        mark = f"{i:08d}".encode()
        for line in lines:
            for prefix in (b'"uuid":"', b'"id":"', b'"parentUuid":"', b'"tool_use_id":"'):
                line = line.replace(prefix, prefix + mark)
            copies.append(line)
    return b"\n".join(copies) + b"\n"


def best(repeat: int, work: Callable[[], object]) -> float:
    """Seconds of CPU of the fastest of some repetitions: other work on the machine is not ours."""
    times = []
    for _ in range(repeat):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def measure(data: bytes, repeat: int) -> tuple[float, float, int]:
    """MB/s of the parser, MB/s of the bare decoder, and the number of lines."""
    with tempfile.NamedTemporaryFile(suffix=".jsonl") as file:
        file.write(data)
        file.flush()
        source = Source.of_path(Path(file.name))
        parsed = best(repeat, lambda: parse_sources([source]))
        trace = parse_sources([source])
        assert trace.lines.unusable == 0, trace.lines.problems[:3]
        lines = data.split(b"\n")
        decoded = best(repeat, lambda: _decode(lines))
    return len(data) / 1e6 / parsed, len(data) / 1e6 / decoded, trace.lines.total


def command_seconds(repeat: int, *arguments: str | Path) -> float:
    """Wall time of an agentsweep command, process start included."""
    command = [sys.executable, "-m", "agentsweep.cli", *map(str, arguments)]
    times = []
    for _ in range(repeat):
        began = time.monotonic()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(time.monotonic() - began)
    return min(times)


def _decode(lines: list[bytes]) -> None:
    for line in lines:
        if line:
            json.loads(line.decode())


def make_run(folder: Path, data: bytes, seconds: int) -> None:
    """A run directory with that trace, samples at 50 Hz for that long, and nothing else."""
    (folder / "trace.jsonl").write_bytes(data)
    (folder / "result.json").write_text("{}", encoding="utf-8")
    for name in ("marks.jsonl", "api.jsonl", "patch.diff"):
        (folder / name).touch()
    with tarfile.open(folder / "session.tar", "w") as archive:
        archive.add(folder / "trace.jsonl", f"projects/-testbed/{SESSION}.jsonl")
    writer = SampleWriter(folder / "samples.arrow", schema(1, 50))
    counters = [1_000_000] * len(COLUMNS)
    for second in range(seconds):
        times = (second * 10**9 + i * 20_000_000 for i in range(50))
        writer.write([(t_ns, 10**18 + t_ns, *counters) for t_ns in times])
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    shared = os.environ.get("AGENTSWEEP_SHARED")
    parser.add_argument("--shared", type=Path, default=Path(shared) if shared else None)
    parser.add_argument("--megabytes", type=float, default=8)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    size = int(arguments.megabytes * 1e6)
    sessions = compositions(size)
    if arguments.shared:
        sessions |= recorded(arguments.shared, size)
    print("| session | MB | bytes a line | parser MB/s | json MB/s | ratio |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name, data in sessions.items():
        parsed, decoded, lines = measure(data, arguments.repeat)
        print(
            f"| {name} | {len(data) / 1e6:.1f} | {len(data) // lines} | {parsed:.0f} "
            f"| {decoded:.0f} | {parsed / decoded:.2f} |"
        )
    print()
    print("| command, process start included | s |")
    print("| --- | ---: |")
    for name, data in compositions(1_000_000).items():
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            make_run(folder, data, seconds=120)
            what = f"{len(data) / 1e6:.1f} MB of {name}"
            took = command_seconds(arguments.repeat, "trace", folder / "trace.jsonl")
            print(f"| `agentsweep trace`, {what} | {took:.3f} |")
            options = ("--run-id", "r", "--out", folder / "out")
            took = command_seconds(arguments.repeat, "extract", folder, *options)
            print(f"| `agentsweep extract`, {what}, 6,000 samples | {took:.3f} |")


if __name__ == "__main__":
    main()
