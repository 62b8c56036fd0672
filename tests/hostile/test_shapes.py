"""Values of any shape where a file has others: one sentence at most, never a traceback."""

import contextlib
import json
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agentsweep import schema, yamlfile
from agentsweep.config import cells
from agentsweep.config.models import Configuration
from agentsweep.errors import AgentsweepError, ConfigError
from agentsweep.gateway import recording
from agentsweep.grading import patch_paths
from agentsweep.host import admission
from agentsweep.tasks import row_files

QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
TEXTS = st.text(max_size=8) | st.sampled_from(["\0", "\ud83d", "0-99999999999", "tool_use", "m"])
NUMBERS = st.integers() | st.floats() | st.sampled_from([10**30, 2**63, -1, 10**4000])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=6,
)


def paths(value, path=()):
    """Every place in a JSON value."""
    yield path
    items = value.items() if isinstance(value, dict) else ()
    items = enumerate(value) if isinstance(value, list) else items
    for key, below in items:
        yield from paths(below, (*path, key))


def put(value, path, new):
    if not path:
        return new
    copy = value.copy()
    copy[path[0]] = put(value[path[0]], path[1:], new)
    return copy


def one_changed(value):
    """The value with anything in place of any part of it."""
    return st.tuples(st.sampled_from(list(paths(value))), VALUES).map(
        lambda change: put(value, *change)
    )


def _record(kind, number, message, **more):
    return {
        "type": kind, "uuid": f"u{number}", "parentUuid": f"u{number - 1}" if number else None,
        "sessionId": "s", "version": "2.1.50", "isSidechain": False,
        "timestamp": f"2026-01-01T00:00:0{number}Z", "message": message, **more,
    }  # fmt: skip


CALL = {"type": "tool_use", "id": "t", "name": "Bash", "input": {"command": "ls"}}
USAGE = {"input_tokens": 1, "output_tokens": 1}
SESSION = [
    _record("user", 0, {"role": "user", "content": "x"}),
    _record("assistant", 1, {
        "id": "m", "role": "assistant", "model": "c", "type": "message", "stop_reason": "tool_use",
        "content": [{"type": "text", "text": "x"}, CALL], "usage": USAGE,
    }, requestId="r"),
    _record("user", 2, {"role": "user", "content": [
        {"type": "tool_result", "tool_use_id": "t", "content": "x", "is_error": False},
    ]}, toolUseResult={"stdout": "x", "agentId": "a", "backgroundTaskId": "b"}),
    _record("system", 3, None, subtype="api_error", retryInMs=5, retryAttempt=1,
            error={"status": 529, "message": "x", "cause": {"code": "x"}}),
    _record("attachment", 4, None, attachment={"type": "queued_command", "prompt": "x"}),
    {"type": "api-request", "id": "q", "params": {"model": "c"}, "querySource": "x"},
    {"type": "cost-state", "startTime": 1, "totalCostUSD": 1.0},
    _record("progress", 5, None, parentToolUseID="t", data={"agentId": "a", "message": {
        "type": "assistant", "uuid": "p", "message": {"id": "n", "content": [CALL]}}}),
    _record("assistant", 6, {
        "id": "n", "role": "assistant", "model": "c", "type": "message", "stop_reason": "end_turn",
        "content": [{"type": "thinking", "thinking": "x", "signature": "s"}], "usage": USAGE,
    }),
]  # fmt: skip


@settings(QUICK, max_examples=250)
@given(one_changed(SESSION))
def test_a_session_is_a_recording_or_a_sentence(tmp_path, records):
    path = tmp_path / "s.jsonl"
    lines = map(json.dumps, records if isinstance(records, list) else [records])
    with contextlib.suppress(ValueError):  # numbers that JSON does not write
        path.write_text("\n".join(lines), encoding="utf-8")
    with contextlib.suppress(AgentsweepError):
        recording.load(path)


TICKET = {
    "name": "x", "state": "held", "memory_bytes": 1, "cores": 1, "usable": "0-3", "cpuset": None,
    "owner": "process 1 of root",
}  # fmt: skip


@QUICK
@given(one_changed(TICKET) | VALUES)
def test_a_ticket_of_any_shape_is_read(tmp_path, content):
    path = tmp_path / "1.json"
    with contextlib.suppress(ValueError):
        path.write_text(json.dumps(content), encoding="utf-8")
        told = admission._entry(path).told
        assert told.keys() >= TICKET.keys() - {"state"}
        assert admission._entry(path).said
        assert len(admission.parse_list(told["usable"])) < 10_001
        admission.parse_list(told["cpuset"] or "")


@pytest.mark.parametrize("text", ["[1]", "{", "[" * 30_000, "null", '{"cores": "x"}'])
def test_a_damaged_ticket_holds_nothing(tmp_path, text):
    path = tmp_path / "1.json"
    path.write_text(text, encoding="utf-8")
    told = admission._entry(path).told
    assert (told["memory_bytes"], told["cores"], told["usable"]) == (0, 0, "")


CONFIG = yaml.safe_load(
    "{tasks: {a: {prompt: x, image: y}}, sweep: {memory: [1GiB], cpus: [1], replicates: 1}, "
    "agents: {b: {model: m}}, agent: {max_turns: 1, timeout_s: 1}, container: {pids: 64, uid: 1}}"
)


@QUICK
@given(one_changed(CONFIG))
def test_a_configuration_of_any_shape_has_sentences(content):
    for path, said in schema.problems(Configuration, content):
        assert isinstance(schema.dotted(path), str)
        assert "\n" not in said


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"sweep": {"replicates": 10**30}}, "from 1 to 10000"),
        ({"sweep": {1: 2}}, "not a text"),
        ({"agent": {"timeout_s": float("inf")}}, "finite"),
        ({"agent": {"timeout_s": float("nan")}}, "finite"),
        ({"tasks": {"a": {"row": {"file": "x\0y", "id": "q"}}}}, "NUL"),
    ],
)
def test_what_no_plan_can_hold_is_refused(content, said):
    assert any(said in problem for _, problem in schema.problems(Configuration, content))


YAML = [
    *("? [a, b]\n: 1\n", "? {a: b}\n: 1\n", "a: 2026-99-99\n", "a: !!int x\n"),
    *("a: !!float x\n", "a: !!timestamp x\n", "a: !!binary é\n", "a: !!set [1]\n"),
    *("<<: 1\n", "a: &b [*b]\n"),
]


@pytest.mark.parametrize("text", YAML)
def test_yaml_of_any_shape_is_a_value_or_a_sentence(tmp_path, text):
    path = tmp_path / "x.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        found = yamlfile.read(path)
    except ConfigError as error:
        assert all(str(path) in problem for problem in error.problems)
    else:
        assert isinstance(found, dict)


@pytest.mark.parametrize("read", [yamlfile.read, row_files.entries, recording.load])
def test_a_path_with_a_nul_is_a_sentence(read):
    with pytest.raises(ConfigError):
        read(Path("x\0y"))


@QUICK
@given(st.text(alphabet=st.sampled_from('a/\\"07日\ud83d\udc80\té '), max_size=20))
def test_names_of_a_patch_may_hold_anything(name):
    for path in patch_paths.touched(f'diff --git "a/{name}" "b/{name}"\nrename from "{name}"\n'):
        assert isinstance(path.encode("utf-8", "surrogateescape"), bytes)


def test_quoted_names_are_bytes():
    patch = 'diff --git "a/日\\t\\346\\227\\245" "b/日\\t\\346\\227\\245"\n'
    assert list(patch_paths.touched(patch)) == ["日\t日"]


@pytest.mark.parametrize(
    ("sweep", "said"),
    [
        ({"memory": [f"{n}GiB" for n in range(1, 201)], "replicates": 10_000}, "most that a plan"),
        ({"cells": "task,agent,memory,cpus,replicate\na,b,1GiB,1," + "9" * 30}, "last replicate"),
    ],
)
def test_a_sweep_of_endless_cells_is_refused(tmp_path, sweep, said):
    if "cells" in sweep:
        (tmp_path / "cells.csv").write_text(sweep["cells"], encoding="utf-8")
        sweep = sweep | {"cells": str(tmp_path / "cells.csv")}
    agents = {"b": {"model_id": "m", "version": "1.2.3"}}
    data = {"sweep": {"cpus": [1], **sweep}, "tasks": {"a": {}}, "agents": agents}
    wrong = []
    assert cells.cells_of(Configuration.model_validate(data), str, wrong) == []
    assert said in " ".join(wrong)
