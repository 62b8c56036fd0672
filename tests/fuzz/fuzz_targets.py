"""Every reader of bytes that others wrote: the session, the container, the grading, the endpoint,
the engine, the hub, and whoever hands over a file.

A reader of files gets them in a folder of its own. Where one reads several, an input is a bundle:
`==> name` on a line of its own, and what follows is that file.
"""

import asyncio
import functools
import gzip
import io
import itertools
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import yaml
from fuzz_checks import Target

ROOT = Path(__file__).resolve().parents[2]
# What makes runs, sessions, rows and attempts for the unit tests makes the seeds.
sys.path.append(str(ROOT / "tests" / "helpers"))

import agentcgroup_maker
import row_maker
import run_maker
from session_maker import small_session

from agentsweep import seal, sse, units, untrusted, yamlfile
from agentsweep.agents.claude_code import invocation, mark_matching, tool_category, trace
from agentsweep.agents.claude_code.lines import LineReport, read_records
from agentsweep.agents.claude_code.records import is_session_record
from agentsweep.analysis import claims
from agentsweep.config import layers
from agentsweep.config.load import load as load_config
from agentsweep.containers import (
    git_history,
    git_snapshot,
    image_check,
    image_distribution,
    image_lock,
    images,
)
from agentsweep.containers.docker import Docker
from agentsweep.containers.engine import LABEL, OWNER_LABEL
from agentsweep.containers.podman import Podman
from agentsweep.errors import AgentsweepError, ConfigError, InfraError, show
from agentsweep.exports import atif_trajectory
from agentsweep.extraction import gateway_facts, importer, recorded_runs, run_directory
from agentsweep.extraction.agentcgroup_layout import AttemptFiles
from agentsweep.extraction.extract import extract
from agentsweep.extraction.linked_run import Curve, Run
from agentsweep.gateway import (
    credentials,
    exchanges,
    gateway,
    http_server,
    listening,
    live,
    recording,
    scenario,
    settings,
    upstream,
)
from agentsweep.gateway.budget import Budget
from agentsweep.gateway.endpoint_tools import NotAllowed, Rules
from agentsweep.gateway.messages_api import BadRequest, MessagesRequest
from agentsweep.gateway.scripted import ScriptedModel
from agentsweep.grading import evidence, patch_paths, patches, pytest_reports, verdict, witness
from agentsweep.host import admission, cgroup_files, oom_log, topology
from agentsweep.runs import agent_output, recall
from agentsweep.runs.store import Attempt, Store
from agentsweep.sampler import marks, series
from agentsweep.tables import parquet
from agentsweep.tasks import hub, row_files, task_file
from agentsweep.workflow import failures

# Folders


@functools.cache
def _folder() -> Path:
    """Of this process alone; whoever starts it removes it (TMPDIR)."""
    return Path(tempfile.mkdtemp(prefix="fuzz-"))


_numbers = itertools.count()


def _fresh() -> Path:
    """An empty folder with a name that none had: what is read once is remembered by its name."""
    folder = _folder() / str(next(_numbers))
    folder.mkdir()
    return folder


def _in_file(name: str, read: Callable[[Path], object]) -> Callable[[bytes], object]:
    """A reader of a file's path as one of its content."""

    def of_bytes(data: bytes) -> object:
        folder = _fresh()
        try:
            (folder / name).write_bytes(data)
            return read(folder / name)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    return of_bytes


_MARK = re.compile(rb"\n==> ([a-z0-9./-]{1,60})\n")


def bundle(**files: bytes) -> bytes:
    """Several files as one input; `_` in a name means a full stop."""
    return b"".join(b"\n==> %s\n%s" % (n.replace("_", ".").encode(), c) for n, c in files.items())


def unbundled(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file of an input."""
    found = list(_MARK.finditer(data))
    for match, after in itertools.zip_longest(found, found[1:]):
        yield match[1].decode(), data[match.end() : after.start() if after else len(data)]


def _in_folder(
    read: Callable[[Path], object], make: Callable[[Path], object] = lambda folder: None
) -> Callable[[bytes], object]:
    """A reader of a folder as one of a bundle, laid over what `make` puts there."""

    def of_bytes(data: bytes) -> object:
        folder = _fresh()
        try:
            make(folder)
            for name, content in unbundled(data):
                path = Path(os.path.normpath(folder / name.lstrip("/")))
                if folder in path.parents:
                    with suppress(OSError):
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(content)
            return read(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    return of_bytes


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


# Sessions and runs


def _session() -> list[bytes]:
    return [run_maker.session().data(), run_maker.subagent().data(), small_session().data()]


def _lines(data: bytes) -> object:
    found = read_records(data.splitlines(keepends=True), "s", LineReport(), is_session_record)
    return list(found)


def _parse(path: Path) -> object:
    return trace.summary(trace.parse_file(path))


@functools.cache
def _whole_run() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        made = run_maker.make_run(Path(folder) / "run")
        return {path.name: path.read_bytes() for path in made.iterdir()}


def _lay(folder: Path) -> None:
    for name, content in _whole_run().items():
        (folder / name).write_bytes(content)


def _of_run(name: str) -> Callable[[], list[bytes]]:
    return lambda: [_whole_run()[name]]


_RUN_TEXTS = ("result.json", "trace.jsonl", "marks.jsonl", "api.jsonl")


def _run() -> list[bytes]:
    whole = _whole_run()
    subagent = {"agent-sub1_jsonl": run_maker.subagent().data()}
    parts = {name.replace(".", "_"): whole[name] for name in _RUN_TEXTS}
    return [bundle(**parts), bundle(**parts, **subagent), *(bundle(**{n: parts[n]}) for n in parts)]


def _extracted(folder: Path) -> object:
    if (folder / "agent-sub1.jsonl").is_file():
        below = f"projects/-testbed/{run_maker.SESSION}/subagents/agent-sub1.jsonl"
        files = {below: (folder / "agent-sub1.jsonl").read_bytes()}
        (folder / "session.tar").write_bytes(run_maker.tar(files))
    return extract(folder, run_maker.RUN_ID, folder / "out")


def _trajectory(folder: Path) -> object:
    damage = run_directory.Damage()
    result = run_directory.read_result(folder, damage)
    found = atif_trajectory.trajectory(Run(run_maker.RUN_ID, folder, result, Curve(), damage, True))
    return json.dumps(found, indent=1, allow_nan=False).encode("ascii")


def _archive(path: Path) -> object:
    return run_directory.read_trace(path.parent, None, run_directory.Damage(), True)


def _marks_file(path: Path) -> object:
    found = run_directory.read_marks(path.parent, run_directory.Damage())
    return [mark_matching.evaluated(mark.command) for mark in found]


def _series(path: Path) -> object:
    list(run_directory.SampleReader(path, run_directory.Damage()).batches())
    import pyarrow

    with suppress(pyarrow.ArrowException, OSError):
        return series.read_samples(path)


def _stream(path: Path) -> object:
    said = agent_output.read_stream(path)
    facts = gateway_facts.Facts(answers=1, turns=1, asked=1, stop_reason="end_turn")
    agent_output.last_words(path)
    return [agent_output.disagreements(said["result"], 1, code, facts) for code in (None, 0, 1)]


_RESULT_EVENT = {
    **{"type": "result", "subtype": "success", "is_error": False, "num_turns": 2},
    **{"total_cost_usd": 0.5, "result": "Done.", "terminal_reason": "completed"},
    "modelUsage": {"m": {"inputTokens": 4, "outputTokens": 10, "cacheReadInputTokens": 0}},
}
_MESSAGE = {
    **{"id": "msg_1", "type": "message", "role": "assistant", "model": "m"},
    "content": [{"type": "text", "text": "Hi"}],
    **{"stop_reason": "end_turn", "usage": {"input_tokens": 4, "output_tokens": 10}},
}


def _events() -> list[bytes]:
    call = {"type": "tool_use", "id": "t1", "name": "Bash", "input": {}}
    events = [
        {"type": "message_start", "message": _MESSAGE | {"content": []}},
        {"type": "content_block_start", "index": 0, "content_block": call},
        {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "Hi"}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {}},
        {"type": "message_stop"},
        {"type": "error", "error": {"type": "overloaded_error"}},
    ]
    texts = [f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events]
    return ["".join(texts).encode(), "".join(texts[:1]).replace("\n", "\r\n").encode()]


def _exchanges() -> list[bytes]:
    events = [[100, _events()[0].decode()]]
    body = [[100, json.dumps(_MESSAGE)]]
    lines = [
        *run_maker.exchanges(),
        run_maker.exchange(7, 8, 9, events=events),
        run_maker.exchange(8, 9, 10, events=body, stream=False),
    ]
    return [run_maker.lines(lines), run_maker.lines(lines[-2:])]


def _find(folder: Path) -> object:
    for kept in (recorded_runs._find, recorded_runs._runs, recorded_runs._source):
        kept.cache_clear()
    return recorded_runs.find(folder, "demo", "demo__demo-1", 0)


def _recorded_runs() -> list[bytes]:
    whole = _whole_run()
    texts = {f"a/{name.replace('.', '_')}": whole[name] for name in _RUN_TEXTS}
    return [bundle(**texts), bundle(**{"demo/trace_jsonl": whole["trace.jsonl"]})]


def _load_recording(folder: Path) -> object:
    return recording.load(folder if (folder / "trace.jsonl").exists() else folder / "s.jsonl")


# The container


@functools.cache
def _requests() -> tuple[Path, marks.Requests]:
    folder = _fresh()
    marks.make_marks_directory(folder)
    return folder, marks.Requests(folder)


def _hear(data: bytes) -> object:
    """What the wrapper's FIFO gives, in pieces of a FIFO's size, and the command of a call."""
    folder, requests = _requests()
    for start in range(0, len(data), 30_000):
        os.write(requests.descriptor, data[start : start + 30_000])
        for _ in range(30_000 // 4096 + 1):
            found, _ = requests.read()
            for _, pid, _ in found[:2]:
                (folder / f"call.{pid}").write_bytes(data)
                with suppress(FileExistsError):
                    os.mkfifo(folder / f"ack.{pid}")
                reader = os.open(folder / f"ack.{pid}", os.O_RDONLY | os.O_NONBLOCK)
                call = requests.open_call(pid)
                for handle in (reader, call[0]) if call else (reader,):
                    os.close(handle)
                with suppress(FileNotFoundError):
                    (folder / f"call.{pid}").unlink()
    return None


def _looked() -> list[bytes]:
    lists = {
        **{"files": b"./a.py\0./b\0", "links": b"./l\0", "hashes": b"aa\nbb\n"},
        **{"targets": b"a.py\0", "start": b"100644 blob cc\ta.py\0", "executable": b"./b\0"},
        **{"ignored": b".gitignore\x001\0*.pyc\0./x.pyc\0", "unreadable": b"", "large": b""},
        **{"listed": b"./a.py\0", "tracked": b"./a.py\0"},
    }  # fmt: skip
    return [b"".join(b"%s %d\0%s" % (n.encode(), len(c), c) for n, c in lists.items())]


_HISTORY = (
    b"own\t12\t0123456789abcdef0123456789abcdef01234567\t1\t2\t3\t4\t5\t6\t7\n"
    b"nested\t1\tffff456789abcdef0123456789abcdef01234567\t1\t2\t3\t4\t5\t6\t7\nbase\ttrue\n"
)
_CHECKED = b"shell\nrepository /testbed\ntop /testbed\ngit\nfound /testbed\n"
_KILL = (
    b"6,812,2303980189,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=libpod-6b,"
    b"mems_allowed=0,oom_memcg=/libpod_parent/libpod-6b,task_memcg=/libpod_parent/libpod-6b,"
    b"task=python3,pid=4242,uid=1000\n SUBSYSTEM=x\n"
)


def _counters(data: bytes) -> object:
    """Each parser of a counter file; what the kernel never writes may be no number."""
    parsers = (
        cgroup_files.Number("memory_current_bytes"),
        cgroup_files.Keyed({"anon": "memory_anon_bytes", "usage_usec": "cpu_usage_usec"}),
        cgroup_files.Pressure("cpu_pressure_some_usec", "cpu_pressure_full_usec"),
        *(cgroup_files.IoStat(), cgroup_files.BlkioBytes()),
    )
    for parser in parsers:
        # Cut off between two reads, a file may end anywhere, and begin with another key.
        with suppress(ValueError, IndexError):
            parser(data)
    return None


# Gradings

_REPORT = b"""<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" errors="1" failures="1" skipped="2" tests="7">
<testcase classname="tests.test_a" name="test_new" file="tests/test_a.py" line="1" time="0.5"/>
<testcase classname="tests.test_a.TestB" name="test_two[a b]" file="tests/test_a.py" time="0.1">
  <failure message="x">y</failure></testcase>
<testcase classname="tests.test_a" name="test_old" file="tests/test_a.py" time="0">
  <skipped type="pytest.xfail" message="known"/></testcase>
<testcase classname="" name="tests.test_broken" time="0"><error message="collection"/></testcase>
</testsuite></testsuites>"""
_LOG = b"""tests/test_a.py .Fx
=========================== short test summary info ============================
PASSED tests/test_a.py::test_new
XFAIL tests/test_a.py::test_old - known
\x1b[31mFAILED\x1b[0m tests/test_a.py::TestB::test_two[a b] - assert 1 == 2
ERROR tests/test_broken.py - ValueError
========================= 1 failed, 1 passed in 0.12s ==========================
"""
_SEEN = b"".join(
    json.dumps(line).encode() + b"\n"
    for line in (
        {"kind": "start", "before": ["numpy"], "worker": None},
        {"kind": "file", "path": "tests/test_a.py", "sha256": "ab" * 32},
        *(
            {"kind": "test", "id": f"tests/test_a.py::{name}", "path": "tests/test_a.py"}
            | {"code": "function", "line": 3, "where": "tests/test_a.py"}
            for name in ("test_new", "test_old")
        ),
        {"kind": "report", "id": "tests/test_a.py::test_new", "outcome": "passed", "xfail": False},
        {"kind": "report", "id": "tests/test_a.py::test_old", "outcome": "skipped", "xfail": True},
    )
)
_GRADE = {
    **{"schema": 1, "n_commands": 1, "applied_by": "git apply", "tests_applied": True},
    **{"timed_out": False, "oom_kill_count": 0, "grader": {"version": 1, "timeout_s": 60}},
    **{
        "fail_to_pass": ["tests/test_a.py::test_new"],
        "pass_to_pass": ["tests/test_a.py::test_old"],
    },
    **{"placed": {"tests/test_a.py": "ab" * 32}, "patch_sha256": "cd" * 32},
}


def _judged(data: bytes) -> object:
    """A report, a log and the plugin's lines as one command's, judged with and without gold."""
    left = dict(unbundled(data))
    command = verdict.TestCommandResult(
        exit_code=1,
        report=pytest_reports.parse_report(left.get("report")),
        log=left.get("log", b"").decode(errors="replace"),
        witness=witness.parse(left.get("seen")),
    )
    verdict.own_judge(_GRADE, [command])
    return verdict.judge(_GRADE, [command], verdict.gold_of([(_GRADE, [command])]))


def _evidence_archive() -> bytes:
    files = {"exit-1": b"1\n", "report-1.xml": _REPORT, "log-1": _LOG, "seen-1": _SEEN}
    return gzip.compress(run_maker.tar(files), mtime=0)


def _evidence_archives() -> list[bytes]:
    return [_evidence_archive()]


def _graded(folder: Path) -> object:
    return verdict.own_judge(*evidence.read(folder))


def _grading() -> list[bytes]:
    import hashlib

    archive = _evidence_archive()
    record = _GRADE | {"evidence_sha256": hashlib.sha256(archive).hexdigest()}
    return [bundle(grade_json=json.dumps(record).encode())]


def _lay_evidence(folder: Path) -> None:
    (folder / evidence.ARCHIVE).write_bytes(_evidence_archive())


_PATCH = b"""diff --git a/src/x.py b/src/x.py
index 000..111 100644
--- a/src/x.py
+++ b/src/x.py
@@ -1 +1 @@
-a
+b
diff --git "a/caf\\303\\251.txt" "b/caf\\303\\251.txt"
deleted file mode 100644
diff --git a/old name.py b/new name.py
similarity index 100%
rename from old name.py
rename to new name.py
diff --git a/bin b/bin
new file mode 100755
GIT binary patch
literal 3
Kc$~{
"""

# Stores


def _sealed(folder: Path) -> object:
    """Everything that asks a sealed attempt what it is."""
    key = "ab" * 32
    place = folder / "store" / key / "attempt-1"
    place.parent.mkdir(parents=True)
    (folder / "run").mkdir(exist_ok=True)
    (folder / "run").rename(place)
    attempt = Attempt(key, 1, "sealed", place)
    if (place / "spec.json").exists():
        (place / "spec.json").rename(place.parent / "spec.json")
    store = Store(folder / "store")
    recall.is_run_of('{"schema":1}', attempt.result())
    seal.check(place, is_copy=True)
    with suppress(InfraError):
        recall.verify(attempt, "cell")
    store.spec(key)
    return recall.Recall(store).made('{"schema":1}')


def _lay_sealed(folder: Path) -> None:
    (folder / "run").mkdir()
    _lay(folder / "run")
    (folder / "run" / "seal.json").write_bytes(seal.make(folder / "run"))


def _sealed_seeds() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        _lay(Path(folder))
        said = seal.make(Path(folder))
    result = _whole_run()["result.json"]
    spec = b'{"schema":1,"task":{"row_sha256":"ab","instance_id":"x"},"agent":{}}'
    whole = {"run/seal_json": said, "run/result_json": result, "run/spec_json": spec}
    return [bundle(**whole), *(bundle(**{name: whole[name]}) for name in whole)]


# Data sets of others


def _attempt() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        made = agentcgroup_maker.attempt(Path(folder) / "a")
        files = {path.name.replace(".", "_"): path.read_bytes() for path in sorted(made.iterdir())}
    return [bundle(**files), *(bundle(**{n: c}) for n, c in files.items())]


def _imported(folder: Path) -> object:
    # The name of a task, and of its first attempt.
    place = folder.parent / f"{folder.name}-set" / "shop__till-7" / "attempt_1"
    place.parent.mkdir(parents=True)
    try:
        folder.rename(place)
        AttemptFiles(place, run_directory.Damage()).samples()
        return importer.import_runs(place.parents[1], "D", "last", place.parents[1] / "out")
    finally:
        shutil.rmtree(place.parents[1], ignore_errors=True)


def _rows(path: Path) -> object:
    entries = row_files.entries(path)
    return [row.sha256 for row in row_files.rows(entries)]


def _row_seeds() -> list[dict]:
    made = (row_maker.classic, row_maker.verified, row_maker.first, row_maker.second)
    return [make(instance_id=f"shop__till-{n}") for n, make in enumerate(made)]


def _parquet() -> list[bytes]:
    import pyarrow
    from pyarrow import parquet

    made = []
    for row in (row_maker.classic(), row_maker.first()):
        out = io.BytesIO()
        parquet.write_table(pyarrow.Table.from_pylist([row]), out, compression="none")
        made.append(out.getvalue())
    return made


def _table(path: Path) -> object:
    return parquet.read("runs", path)


def _tables() -> list[bytes]:
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder) / "run"
        run_maker.make_run(run)
        extract(run, run_maker.RUN_ID, Path(folder) / "out")
        return [(Path(folder) / "out" / "runs.parquet").read_bytes()]


_CARD = b"""---
configs:
- config_name: default
  default: true
  data_files:
  - split: test
    path: "data/**/test-*.jsonl"
  - split: train
    path: [a.jsonl, b.parquet]
---
# Rows
"""
_NAMES = ["data/test-00000-of-00001.jsonl", "data/x/test-1.jsonl", "a.jsonl", "aaaaaaaaaaa.parquet"]


def _card(data: bytes) -> object:
    wanted = hub.HubSplit("a/b", "test", "0" * 40)
    return hub.split_files(_NAMES, data.decode(errors="replace"), wanted)


# What users write


def _yaml_seeds(*names: str, copies: str = "") -> Callable[[], list[bytes]]:
    """Files of config/; with `copies`, also a text of aliases that ends with it."""
    more = [_copies(copies)] if copies else []
    return lambda: [*((ROOT / "config" / name).read_bytes() for name in names), *more]


def _copies(tail: str) -> bytes:
    """A few lines whose aliases stand for a million values."""
    lines = [f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 20)]
    return "".join(["a0: &a0 [x, x]\n", *lines, tail]).encode()


def _loaded(data: bytes) -> object:
    """A configuration that is laid over the base file, in the repository's own folder."""
    with tempfile.NamedTemporaryFile(dir=_folder(), suffix=".yaml") as file:
        file.write(data)
        file.flush()
        return load_config([ROOT / "config" / "config.yaml", Path(file.name)]).cells()


def _given(data: bytes) -> object:
    """A configuration as JSON on the command line, and a text of it for its type."""
    given = untrusted.loads(data)
    if not isinstance(given, dict):
        raise ValueError("the command line takes mappings only")
    layers.typed(layers.merge({"agent": {"max_turns": 3}}, given), given)
    return load_config(given)


def _of_cells(path: Path) -> object:
    base = yaml.safe_load((ROOT / "config" / "config.yaml").read_text("utf-8"))
    return load_config(base | {"dataset": "d", "sweep": {"cells": str(path)}}).cells()


def _task(path: Path) -> object:
    return task_file.load_task("t", str(path), "tasks.t: ").prompt


def _size(data: bytes) -> object:
    with suppress(ValueError):
        units.parse_size(_text(data))
    return units.parse_cpus(_text(data))


def _credential(path: Path) -> object:
    path.chmod(stat.S_IRUSR | stat.S_IWUSR)
    with suppress(ConfigError, ValueError):
        credentials.Credential.from_message(untrusted.loads(path.read_bytes()))
    return credentials.read(f"file:{path}", "https://x.example")


# The endpoint, and those who ask it

_ASKED = {
    **{"model": "m", "max_tokens": 100, "stream": True},
    "tools": [{"name": "Bash", "input_schema": {}}, {"type": "web_search_20250305", "name": "w"}],
    "messages": [
        {"role": "user", "content": "Fix it"},
        {
            "role": "assistant",
            "content": [{"type": "tool_use", "id": "t1", "name": "Bash", "input": {}}],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [], "is_error": True}
            ],
        },
    ],
}


def _asked(data: bytes) -> object:
    asked = MessagesRequest.parse(data, {"x-claude-code-agent-id": "a"})
    Rules((), ("m",)).check(json.loads(data))
    return asked.input_tokens, asked.tool_calls, asked.is_of_main


def _pieces(data: bytes) -> Iterator[bytes]:
    """As a network may cut it: a small answer at each byte, a large one often."""
    size = 1 if len(data) < 4096 else 128
    for start in range(0, len(data), size):
        yield data[start : start + size]


def _streamed(data: bytes) -> object:
    reader = sse.EventReader()
    return [event for piece in _pieces(data) for event in reader.feed(piece)]


def _heard(data: bytes) -> object:
    """An answer as the gateway of a live model reads it along, as a stream and as one body."""
    for streams in (True, False):
        exchange = exchanges.Exchange(1, 0, 0, "POST", "/v1/messages")
        listener = live._Listener(exchange, lambda streams=streams: streams)
        for piece in _pieces(data):
            listener.hear(piece)
        listener.is_whole()
        json.dumps(exchange.usage().__dict__)
    return None


def _redacted(data: bytes) -> object:
    redactor = credentials.Redactor((b"sk-secret", b"c2stc2VjcmV0"))
    return [*map(redactor.feed, _pieces(data)), redactor.end()]


@functools.cache
def _loop() -> asyncio.AbstractEventLoop:
    """One for all inputs; what nobody awaits and fails is a fault."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _, context: _UNHANDLED.append(context))
    return loop


_UNHANDLED: list[dict] = []
_TOKEN = "token-1"
# Longer than any of these servers needs to hear a client out, or to leave it.
_PATIENCE_S = 20


@functools.cache
def _gateway() -> str:
    """The socket of a gateway in this process that plays a scenario."""
    folder = _fresh()
    (folder / "s.yaml").write_text("turns: [{text: Hi}]\n", encoding="utf-8")
    log = exchanges.ExchangeLog(folder / "api.jsonl")
    model = ScriptedModel(scenario.load(folder / "s.yaml"), 0.0)
    served = gateway.Gateway(model, log, _TOKEN, Budget(None, None, None))
    bounds = http_server.Bounds(head_s=0.5, body_s=0.5, idle_s=0.5, drain_s=0.2)
    server = http_server.HttpServer(served.handle, served.admits, bounds)
    bound, address = listening.bind(f"unix:{folder}/s")
    _loop().run_until_complete(server.start(bound))
    return address.removeprefix("unix:")


async def _talk(place: str, data: bytes) -> bytes:
    reader, writer = await asyncio.open_unix_connection(place)
    try:
        with suppress(ConnectionError):
            writer.write(data)
            writer.write_eof()
        with suppress(ConnectionError):
            return await asyncio.wait_for(reader.read(), _PATIENCE_S)
        return b""
    finally:
        writer.close()


def _served(data: bytes) -> object:
    """Raw bytes to the gateway's socket: an answer or a close, and nothing that nobody caught."""
    _UNHANDLED.clear()
    errors, sys.stderr = sys.stderr, io.StringIO()
    try:
        answer = _loop().run_until_complete(_talk(_gateway(), data))
        said = sys.stderr.getvalue()
    finally:
        sys.stderr = errors
    assert answer == b"" or answer.startswith(b"HTTP/1.1 "), answer[:100]
    assert not _UNHANDLED, _UNHANDLED
    # It catches what its handler raises, answers 500, and says so.
    assert "Traceback" not in said, said[-1000:]
    return None


def _http() -> list[bytes]:
    body = json.dumps(_ASKED).encode()
    head = b"POST /v1/messages?beta=true HTTP/1.1\r\nhost: x\r\nx-api-key: %s\r\n" % _TOKEN.encode()
    once = b"%scontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (
        head,
        len(body),
        body,
    )
    chunks = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    packed = gzip.compress(body, mtime=0)
    return [
        *(once, once + once, b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n"),
        head + b"transfer-encoding: chunked\r\n\r\n" + chunks,
        head + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(packed) + packed,
        b"GET /v1/models/a HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %s\r\n\r\n"
        % _TOKEN.encode(),
        once.replace(b"/messages?", b"/messages/count_tokens?"),
    ]


@functools.cache
def _endpoint() -> tuple[upstream.Upstream, list[bytes]]:
    """A client of an endpoint on loopback that answers with what is in the list."""
    said: list[bytes] = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(said[0])
            await writer.drain()
        writer.close()

    listening = socket.create_server(("127.0.0.1", 0))
    _loop().run_until_complete(asyncio.start_server(answer, sock=listening))
    return upstream.Upstream(f"http://127.0.0.1:{listening.getsockname()[1]}", None, {}), said


def _answered(data: bytes) -> object:
    """What an endpoint sends in the place of an answer, as HTTP."""
    client, said = _endpoint()
    said[:] = [data]

    async def ask() -> list[bytes]:
        async with asyncio.timeout(_PATIENCE_S), client.open("POST", "/v1/messages", {}) as answer:
            dict(answer.headers)
            return [chunk async for chunk in answer.chunks()]

    return _loop().run_until_complete(ask())


def _answers() -> list[bytes]:
    body = json.dumps(_MESSAGE).encode()
    head = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nrequest-id: r\r\n"
    return [
        head + b"content-length: %d\r\n\r\n%s" % (len(body), body),
        head + b"transfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(body), body),
        b"HTTP/1.1 529 Overloaded\r\nretry-after: 3\r\nconnection: close\r\n\r\n{}",
    ]


# Engines and registries

_CONTAINER = {
    **{"Id": "ab" * 32, "Image": "sha256:cd", "State": {"Running": True, "Pid": 42}},
    **{"Config": {"Env": ["A=b"], "Labels": {}}, "GraphDriver": {"Data": {"UpperDir": "/u"}}},
}
_PODMAN_INFO = {
    "host": {
        **{"ociRuntime": {"name": "crun"}, "security": {"rootless": False}},
        **{"cgroupVersion": "v2", "cgroupManager": "systemd"},
    },
    "store": {"graphDriverName": "overlay", "graphRoot": "/var/lib/containers"},
    "version": {"Version": "4.3.1"},
}
_DOCKER_INFO = {
    **{"ID": "x", "ServerVersion": "24.0", "DefaultRuntime": "runc", "Driver": "overlay2"},
    **{"CgroupVersion": "2", "CgroupDriver": "systemd", "DockerRootDir": "/var/lib/docker"},
    **{"SecurityOptions": ["name=seccomp"], "KernelVersion": os.uname().release},
}
_OWNED = [{"Id": "ab" * 32, "Labels": {LABEL: "a", OWNER_LABEL: "b"}}]


def _engine(kind: type, data: bytes):
    """An engine whose client prints `data`, whatever it is asked."""
    made = kind(None, _folder())
    text = data.decode(errors="replace")
    made.call = lambda *_, **__: subprocess.CompletedProcess([], 0, text, "")
    return made


def _asked_engine(kind: type, *questions: Callable[[object], object]) -> Callable[[bytes], object]:
    """A reader of what an engine's client prints; each question may end in one sentence."""

    def of_bytes(data: bytes) -> object:
        for question in questions:
            with suppress(InfraError):
                question(_engine(kind, data))
        return None

    return of_bytes


def _started(engine) -> object:
    engine._named["ab" * 32] = frozenset()
    return engine.start("ab" * 32, "n")


_OF_ANY_ENGINE = (
    *(_started, lambda e: e.inspect("n"), lambda e: e.image_config("i"), lambda e: e.image_id("i")),
    *(lambda e: e.image_size_bytes("i"), lambda e: e.commit("c", "i", "t"), lambda e: e.owned()),
)


def _engine_seeds(info: dict) -> list[bytes]:
    said = (info, [_CONTAINER], _CONTAINER["Config"] | {"Cmd": None, "User": "1"}, _OWNED, 12345)
    return [json.dumps(one).encode() for one in said]


def _manifest(data: bytes) -> object:
    real, images.skopeo.run = images.skopeo.run, lambda *_, image: data
    try:
        return images.resolve("docker://example.org/a:1")
    finally:
        images.skopeo.run = real


_MANIFESTS = (
    {"layers": [{"size": 1}, {"size": 2}], "config": {"digest": "sha256:ab"}},
    {"manifests": [{"digest": "sha256:ab", "platform": {"os": "linux", "architecture": "amd64"}}]},
)


def _kept(folder: Path) -> object:
    for place in (
        image_distribution.Place(folder, None),
        image_distribution.Place(folder, "r.example/a"),
    ):
        image_distribution._kept(place, "k")
    return None


def _in_line(path: Path) -> object:
    """What another user's process says of itself in the line for this machine."""
    entry = admission._entry(path)
    return entry.said, *(topology.parse_list(entry.told[key] or "") for key in ("usable", "cpuset"))


_ENTRY = {
    **{"name": "cell", "state": "held", "memory_bytes": 2**30, "cores": 1, "usable": "0-1"},
    **{"cpuset": "0", "owner": "a"},
}


def _json(*values: object) -> Callable[[], list[bytes]]:
    return lambda: [json.dumps(value).encode() for value in values]


def _as(*seeds: bytes) -> Callable[[], list[bytes]]:
    return lambda: list(seeds)


_CELLS_TABLE = (
    b"task,agent,memory,cpus,replicate\nlogstats,claude,512MiB,0.5,0\nlogstats,claude,1GiB,1,1\n"
)
_SETTINGS = {"mode": "scripted", "scenario": "s", "listen": "unix:/x", "log": "l", "token": "t"}
_FAILED = b"Building\nagentsweep: a cell: the image is missing\nagentsweep: build it\n"

# Of what users write, and of what they name.
_WRONG = (ConfigError,)

TARGETS = (
    Target("json", untrusted.loads, _json(_RESULT_EVENT, [[1]]), (ValueError,)),
    # Sessions and runs
    Target("session-lines", _lines, _session),
    Target("session", _in_file("s.jsonl", _parse), _session),
    Target("session-archive", _in_file("session.tar", _archive), _of_run("session.tar")),
    Target("command", lambda d: tool_category.categorise("Bash", _text(d)),
           _as(b"cd /x && A=1 python -m pytest -k 'a b' <<EOF\nx\nEOF\n", b"git log | head -n 3")),
    Target("shell-line", lambda d: mark_matching.evaluated(_text(d)),
           _as(run_maker.shell_line("make 'it'").encode(), b'eval "a \\" b" ')),
    Target("stream", _in_file("stream.jsonl", _stream),
           lambda: [run_maker.lines([{"type": "assistant", "message": _MESSAGE}, _RESULT_EVENT])]),
    Target("run", _in_folder(_extracted, _lay), _run),
    Target("atif", _in_folder(_trajectory, _lay), _run),
    Target("samples", _in_file("samples.arrow", _series), _of_run("samples.arrow")),
    Target("marks-file", _in_file("marks.jsonl", _marks_file), _of_run("marks.jsonl")),
    Target("exchanges", _in_file("api.jsonl", gateway_facts.read), _exchanges),
    Target("recording", _in_folder(_load_recording),
           lambda: [*_run()[:2], bundle(s_jsonl=_session()[0])], _WRONG),
    Target("recorded-runs", _in_folder(_find), _recorded_runs, _WRONG),
    # The container
    Target("marks", _hear, _as(b"B 12\nE 12 0\n", b"B 4294967295\n\nE 3 255\n")),
    Target("work-tree", git_snapshot.parse, _looked, (InfraError,)),
    Target("history", lambda d: git_history.read(_text(d), "ab"), _as(_HISTORY), (InfraError,)),
    Target("image-check", lambda d: image_check.judge(_text(d), "i", "/testbed", "1000"),
           _as(_CHECKED), (InfraError,)),
    Target("kernel-log", lambda d: oom_log.parse_kill(d.decode(errors="replace"), "/libpod_parent"),
           _as(_KILL)),
    Target("counters", _counters,
           _as(b"123\n", b"anon 1\nusage_usec 2\n", b"some avg10=0.00 total=5\nfull total=6\n",
               b"8:0 rbytes=1 wbytes=2\n", b"8:0 Read 1\n8:0 Write 2\nTotal 3\n")),
    Target("cpu-list", lambda d: topology.parse_list(_text(d)), _as(b"0-1,4\n"), (InfraError,)),
    # Gradings
    Target("report", pytest_reports.parse_report, _as(_REPORT)),
    Target("judged", _judged, lambda: [bundle(report=_REPORT, log=_LOG, seen=_SEEN)]),
    Target("witness", witness.parse, _as(_SEEN)),
    Target("evidence", _in_file("evidence.tar.gz", evidence.members), _evidence_archives),
    Target("grading", _in_folder(_graded, _lay_evidence), _grading, (AgentsweepError,)),
    Target("patch", lambda d: patch_paths.touched(_text(d)), _as(_PATCH)),
    Target("patch-list", _in_file("patches.json", patches.read),
           _json([{"task": "t", "patch_sha256": "ab", "run": "r"}]), (AgentsweepError,)),
    # Stores and tables
    Target("sealed", _in_folder(_sealed, _lay_sealed), _sealed_seeds),
    Target("table", _in_file("runs.parquet", _table), _tables, (AgentsweepError,)),
    # Data sets of others
    Target("agentcgroup", _in_folder(_imported), _attempt, (AgentsweepError,)),
    Target("rows-jsonl", _in_file("rows.jsonl", _rows),
           lambda: [row_maker.jsonl(_row_seeds()).encode()], _WRONG),
    Target("rows-json", _in_file("rows.json", _rows),
           lambda: [json.dumps(_row_seeds()).encode()], _WRONG),
    Target("rows-parquet", _in_file("rows.parquet", _rows), _parquet, _WRONG),
    Target("hub-card", _card, _as(_CARD, b"---\nconfigs: [{data_files: x.jsonl}]\n---\n",
               b"---\n%s---\n" % _copies("configs: [{config_name: *a19, data_files: *a19}]\n")),
           _WRONG),
    # What users write
    Target("yaml", _in_file("x.yaml", yamlfile.read),
           _as(b"a: &x [1, 2]\nb: *x\n<<: {c: 2020-01-01}\n", b"a: !!set {b}\n"), _WRONG),
    Target("scenario", _in_file("s.yaml", scenario.load),
           _yaml_seeds("scenarios/logstats.yaml", "scenarios/two-plus-two.yaml",
                       copies="turns: *a19\n"),
           _WRONG),
    Target("configuration", _loaded,
           _yaml_seeds("demo.yaml", "replay.yaml", copies="sweep: {tasks: *a19}\n"), _WRONG),
    Target("command-line", _given,
           lambda: [json.dumps(yaml.safe_load(one)).encode() for one in _yaml_seeds("demo.yaml")()],
           (ConfigError, ValueError)),
    Target("cells", _in_file("cells.csv", _of_cells),
           _as(_CELLS_TABLE, _CELLS_TABLE.replace(b",", b"\t")), _WRONG),
    Target("task", _in_file("t.yaml", _task),
           _yaml_seeds("tasks/logstats.yaml", "tasks/two-plus-two.yaml", copies="prompt: *a19\n"),
           _WRONG),
    Target("image-lock", _in_file("l.yaml", image_lock.read),
           _yaml_seeds("images.lock.yaml"), _WRONG),
    Target("agent-lock", _in_file("l.yaml", lambda path: invocation.binary_sha256(path, "2.1.330")),
           _yaml_seeds("agents.lock.yaml"), _WRONG),
    Target("published", _in_file("p.csv", claims.read_published),
           _yaml_seeds("agentcgroup-published.csv"), (AgentsweepError,)),
    Target("sizes", _size, _as(b"512MiB", b"0.5", b"1e2"), (ValueError,)),
    Target("credential", _in_file("key", _credential),
           _as(b"sk-x\n", b'{"kind": "bearer", "secret": "x"}'), _WRONG),
    Target("schema-words", lambda d: show(untrusted.loads(d)), _json(["a"]), (ValueError,)),
    # The endpoint, and those who ask it
    Target("request", _asked, _json(_ASKED), (BadRequest, NotAllowed)),
    Target("http", _served, _http),
    Target("gateway-settings", settings.Settings.parse, _json(_SETTINGS), _WRONG),
    Target("events", _streamed, _events),
    Target("answer", _heard, lambda: [*_events(), json.dumps(_MESSAGE).encode()]),
    Target("redacted", _redacted, _as(b"a sk-secret, and sk-secre", b"c2stc2VjcmV0" * 3)),
    Target("endpoint", _answered, _answers,
           (upstream.UpstreamUnreachable, upstream.UpstreamBroken)),
    # Engines, registries, other processes of this machine
    Target("podman", _asked_engine(Podman, *_OF_ANY_ENGINE, lambda e: e._ask_info()),
           lambda: _engine_seeds(_PODMAN_INFO)),
    Target("docker", _asked_engine(Docker, *_OF_ANY_ENGINE, lambda e: e.info()),
           lambda: _engine_seeds(_DOCKER_INFO)),
    Target("manifest", _manifest, _json(*_MANIFESTS), (InfraError,)),
    Target("kept-image", _in_file("k.json", lambda path: _kept(path.parent)),
           _json({"kept": "a.tar", "digest": "sha256:ab"})),
    Target("line", _in_file("3.json", _in_line), _json(_ENTRY)),
    Target("job-log", lambda d: failures.sentence(d.decode(errors="replace")), _as(_FAILED)),
)  # fmt: skip
BY_NAME = {target.name: target for target in TARGETS}
