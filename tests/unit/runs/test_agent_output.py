"""What is read from an agent's output, which a tool of the agent can write into."""

import json

import pytest

from agentsweep import untrusted
from agentsweep.extraction.gateway_facts import TOKENS, Facts
from agentsweep.runs import agent_output

RESULT = {"type": "result", "is_error": False}


def assistant(*content, message="m1", model="claude") -> dict:
    said = {"id": message, "model": model, "content": list(content)}
    return {"type": "assistant", "message": said}


def read(tmp_path, *lines) -> dict:
    path = tmp_path / "stream.jsonl"
    path.write_bytes(b"".join((x if isinstance(x, bytes) else json.dumps(x).encode()) + b"\n"
                              for x in lines))  # fmt: skip
    return agent_output.read_stream(path)


def test_the_last_result_and_the_messages_are_found(tmp_path):
    text, tool = {"type": "text", "text": "x"}, {"type": "tool_use", "name": "Bash"}
    said = assistant(text), assistant(tool), assistant(tool, message="m2")
    found = read(tmp_path, *said, {**RESULT, "num_turns": 1}, {**RESULT, "num_turns": 2})
    last = {**RESULT, "num_turns": 2}
    assert found == {"result": last, "result_events": 2, "assistant_messages": 2}


def test_what_says_nothing_is_no_message(tmp_path):
    lines = (
        assistant({"type": "text", "text": " \n"}),
        assistant({"type": "text", "text": "API Error"}, model="<synthetic>"),
        assistant({"type": "thinking", "thinking": "x"}),
        {"type": "user", "message": {"id": "u", "content": [{"type": "text", "text": "x"}]}},
    )
    nothing = {"result": None, "result_events": 0, "assistant_messages": 0}
    assert read(tmp_path, *lines) == nothing


@pytest.mark.parametrize(
    "line",
    [b"", b"null", b"[]", b"7", b"{", b"\xff\xfe\0", b"[" * 100000, b'"x"',
     b'{"type":"assistant","message":[1]}', b'{"type":"assistant","message":{"content":7}}',
     b'{"type":"assistant","message":{"id":[],"content":[7,{"type":"text","text":[]}]}}'],
)  # fmt: skip
def test_a_line_that_is_no_event_costs_only_itself(tmp_path, line):
    assert read(tmp_path, line, RESULT, line)["result"] == RESULT


def test_a_line_without_end_is_not_held_in_memory(tmp_path, monkeypatch):
    lines = untrusted.lines
    monkeypatch.setattr(untrusted, "lines", lambda file, _: lines(file, 1000))
    endless = json.dumps({"type": "result", "result": "y" * 5000}).encode()
    exact = json.dumps({"type": "result", "result": ""}).encode()
    exact = exact.replace(b'""', b'"' + b"z" * (999 - len(exact)) + b'"')
    assert len(exact) == 999
    assert read(tmp_path, endless, RESULT)["result"] == RESULT
    assert read(tmp_path, RESULT, endless)["result"] == RESULT
    assert read(tmp_path, endless, exact)["result"]["result"].startswith("z")


def test_last_words_of_a_large_file(tmp_path):
    path = tmp_path / "stderr.txt"
    path.write_bytes(b"noise\n" * 50000 + b"Error: no loader\n\n")
    assert agent_output.last_words(path) == "Error: no loader"
    path.write_bytes(b"")
    assert agent_output.last_words(path) == "no message"


def test_only_known_fields_of_their_type_are_kept_and_short(tmp_path):
    event = {
        "type": "result", "is_error": "yes", "num_turns": True, "total_cost_usd": 10**400,
        "result": "x" * 10**6, "terminal_reason": "y" * 10**6, "subtype": ["a"], "unknown": 1,
        "duration_ms": 2**63, "api_error_status": None, "session_id": "s\ud800",
    }  # fmt: skip
    (kept,) = [read(tmp_path, event)["result"]]
    assert kept.keys() == {"type", "result", "terminal_reason", "api_error_status", "session_id"}
    assert (len(kept["result"]), len(kept["terminal_reason"])) == (4096, 200)
    assert kept["session_id"] == "s?"
    assert read(tmp_path, event | {"total_cost_usd": float("nan")})["result"].keys() == kept.keys()
    assert len(json.dumps(kept)) < 6000


def test_an_event_that_is_nested_deep_or_of_very_many_values_is_none(tmp_path):
    deep = b'{"type":"result","x":' + b"[" * 750 + b"]" * 750 + b"}"
    wide = b'{"type":"result","x":[' + b"[]," * 10**6 + b"0]}"
    assert read(tmp_path, RESULT, deep, wide)["result_events"] == 1


def facts(**changes) -> Facts:
    """Of a run with three turns, two of them with a tool call."""
    made = {
        "statuses": [200] * 3, "answers": 3, "tool_calls": 2, "turns": 3, "asked": 3,
        "last_status": 200, "stop_reason": "end_turn",
        "tokens": dict.fromkeys(TOKENS, 0) | {"input_tokens": 900, "output_tokens": 100},
    }  # fmt: skip
    return Facts(**made | changes)


HONEST = {
    "is_error": False, "terminal_reason": "completed", "num_turns": 3, "total_cost_usd": 0.5,
    "tokens": dict.fromkeys(TOKENS, 0) | {"input_tokens": 900, "output_tokens": 100},
}  # fmt: skip


@pytest.mark.parametrize(
    ("result", "exit_code", "seen", "named", "kept"),
    [
        (HONEST, 0, {}, set(), True),
        (HONEST | {"num_turns": 424242}, 0, {}, {"num_turns"}, False),
        (HONEST | {"num_turns": -1}, 0, {}, {"num_turns"}, False),
        (HONEST, 1, {}, {"is_error"}, True),
        (HONEST | {"is_error": True}, 0, {}, {"is_error"}, True),
        (HONEST, 143, {"stop_reason": "tool_use"}, {"terminal_reason"}, True),
        (HONEST | {"terminal_reason": "api_error", "is_error": True}, 1, {}, {"terminal_reason"},
         True),
        (HONEST | {"terminal_reason": "max_turns"}, 143, {"stop_reason": "tool_use"},
         {"terminal_reason"}, True),
        (HONEST | {"tokens": HONEST["tokens"] | {"output_tokens": 99}}, 0, {}, {"output_tokens"},
         True),
        (HONEST | {"tokens": HONEST["tokens"] | {"output_tokens": 9999}}, 0, {}, {"tokens"}, False),
        (HONEST | {"tokens": HONEST["tokens"] | {"output_tokens": 99}}, 0, {"whole": False}, set(),
         True),
        ({k: v for k, v in HONEST.items() if k != "tokens"}, 0, {}, {"total_cost_usd"}, False),
        (None, 0, {}, {"result"}, True),
        (None, 137, {}, set(), True),
        # Nothing of the answers could be read: nothing can be compared with them.
        (HONEST | {"num_turns": 7}, 0, {"readable": False}, set(), True),
    ],
)  # fmt: skip
def test_what_contradicts_the_facts_is_named(result, exit_code, seen, named, kept):
    differs = agent_output.disagreements(result, 1, exit_code, facts(**seen))
    assert differs.keys() == named
    assert all(said.startswith("said ") for said in differs.values())
    assert agent_output.believed(result, differs) == (result if kept else None)


def test_a_second_end_is_named():
    assert "said 2 times" in agent_output.disagreements(HONEST, 2, 0, facts())["result_events"]
