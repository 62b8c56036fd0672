"""Reading a session takes no n², whatever ids, times and links its records have."""

import functools
import json

import pytest
from timing import LIMIT, growth

from agentsweep.agents.claude_code import lines, trace
from agentsweep.agents.claude_code.lines import LineReport, read_records
from agentsweep.agents.claude_code.records import is_session_record


def record(kind, number, parent, message, times, **more):
    made = {"type": kind, "uuid": f"u{number}{more.pop('copy', '')}", "parentUuid": parent}
    made |= {"sessionId": "s", "version": "2.1.50", "message": message, **more}
    if times:
        made["timestamp"] = (
            f"2026-01-01T{number // 3600:02}:{number // 60 % 60:02}:{number % 60:02}Z"
        )
    return made


def answers(count, kind="tool_use", times=True, copy="", results=True, side=False):
    """Answers that all have one id, with calls that all have one, and their results."""
    made, parent = [], None
    block = {"type": "text", "text": "hi"}
    if kind == "tool_use":
        block = {"type": kind, "id": "t", "name": "Bash", "input": {"command": "ls"}}
    result = [{"type": "tool_result", "tool_use_id": "t", "content": "ok"}]
    more = {"copy": copy, "isSidechain": side}
    for number in range(count):
        said = {"id": "m", "role": "assistant", "content": [block], "usage": {"output_tokens": 1}}
        made.append(record("assistant", 2 * number, parent, said, times, **more))
        parent = made[-1]["uuid"]
        if results:
            heard = {"role": "user", "content": result if kind == "tool_use" else "go on"}
            made.append(record("user", 2 * number + 1, parent, heard, times, **more))
            parent = made[-1]["uuid"]
    return made


def results_last(count):
    """All calls first, then all results, which hang on nothing that is known."""
    made = answers(count)
    made.sort(key=lambda one: one["type"])
    return [one | {"parentUuid": None} for one in made]


def parallel(count):
    """One answer with very many calls of one id, each in a record of its own."""
    made = answers(count, times=False)
    for one in made:
        one["parentUuid"] = "u0"
    return sorted(made, key=lambda one: one["type"])


def sub_agents(count, tool_id="t{}", prompt="go", named=False, ended=False):
    """Calls that start sub-agents, and as many of these; nothing says which started which.

    named: each names the id of its call. ended: each call has a result, and its sub-agent a time.
    """
    made = []
    for number in range(count):
        call = {"type": "tool_use", "id": tool_id.format(number), "name": "Task"}
        call["input"] = {"prompt": prompt, "description": "x"}
        said = {"id": f"m{number}", "role": "assistant", "content": [call]}
        made.append(record("assistant", 3 * number, None, said, ended))
        of = {"isSidechain": True, "agentId": f"a{number}"}
        said = {
            "id": f"n{number}",
            "role": "assistant",
            "content": [{"type": "text", "text": "hi"}],
        }
        if prompt is not None:
            said = {"role": "user", "content": prompt}
        kind = said["role"]
        made.append(record(kind, 3 * number + 1, None, said, ended, **of))
        if named:
            data = {"agentId": f"a{number}", "type": "agent_progress"}
            made.append(
                {"type": "progress", "parentToolUseID": tool_id.format(number), "data": data}
            )
        if ended:
            result = [{"type": "tool_result", "tool_use_id": call["id"], "content": "ok"}]
            heard = {"role": "user", "content": result}
            made.append(record("user", 3 * number + 2, None, heard, True))
    return made


SESSIONS = {
    "one id": answers,
    "no times": functools.partial(answers, times=False),
    "texts without times": functools.partial(answers, kind="text", times=False),
    "two copies": lambda n: answers(n // 2, times=False) + answers(n // 2, times=False, copy="b"),
    "one answer": functools.partial(answers, results=False, times=False),
    "unnamed side chain": functools.partial(answers, side=True, results=False),
    "results last": results_last,
    "calls beside each other": parallel,
    "sub-agents of one prompt": sub_agents,
    "sub-agents without a prompt": functools.partial(sub_agents, prompt=None),
    "sub-agents by their times": functools.partial(sub_agents, prompt=None, ended=True),
    "sub-agents that name one id": functools.partial(sub_agents, tool_id="t", named=True),
}


@pytest.mark.parametrize("name", SESSIONS)
def test_many_answers_take_no_square_of_their_number(name, tmp_path):
    def make(count):
        path = tmp_path / f"{count}.jsonl"
        lines = map(json.dumps, SESSIONS[name](count))
        path.write_text("\n".join(lines), encoding="utf-8")
        return lambda: trace.parse_sources(trace.file_sources(path))

    # To read a sub-agent's record takes so long that only many of them show what takes n².
    assert growth(make, 8000 if "sub-agents" in name else 1600) < LIMIT


def read(line: bytes) -> LineReport:
    report = LineReport()
    list(read_records([line], "s.jsonl", report, is_session_record))
    return report


def test_a_long_line_is_not_read_once_for_each_false_start(monkeypatch):
    """Each false start has a text without an end, and more of it is read than the line has."""
    read = []

    def decode(text, at=0):
        read.append(len(text) - at)
        raise json.JSONDecodeError("Unterminated string starting at", text, at)

    monkeypatch.setattr(lines, "_DECODE", decode)
    report, line = LineReport(), b'{"type": "' * 100 + b"x" * 2**23
    assert not list(read_records([line], "s.jsonl", report, is_session_record))
    assert sum(read) < 8 * len(line) + 2**24
    assert report.unusable == 1
