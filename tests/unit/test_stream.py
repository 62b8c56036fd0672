"""What is read from an agent's output, which a tool of the agent can write into."""

import json

import pytest

from agentsweep import stream

RESULT = {"type": "result", "is_error": False}


def assistant(*content, message="m1", model="claude") -> dict:
    said = {"id": message, "model": model, "content": list(content)}
    return {"type": "assistant", "message": said}


def read(tmp_path, *lines) -> dict:
    path = tmp_path / "stream.jsonl"
    path.write_bytes(b"".join((x if isinstance(x, bytes) else json.dumps(x).encode()) + b"\n"
                              for x in lines))  # fmt: skip
    return stream.read_stream(path)


def test_the_last_result_and_the_messages_are_found(tmp_path):
    text, tool = {"type": "text", "text": "x"}, {"type": "tool_use", "name": "Bash"}
    said = assistant(text), assistant(tool), assistant(tool, message="m2")
    found = read(tmp_path, *said, {**RESULT, "n": 1}, {**RESULT, "n": 2})
    assert found == {"result": {**RESULT, "n": 2}, "assistant_messages": 2}


def test_what_says_nothing_is_no_message(tmp_path):
    lines = (
        assistant({"type": "text", "text": " \n"}),
        assistant({"type": "text", "text": "API Error"}, model="<synthetic>"),
        assistant({"type": "thinking", "thinking": "x"}),
        {"type": "user", "message": {"id": "u", "content": [{"type": "text", "text": "x"}]}},
    )
    assert read(tmp_path, *lines) == {"result": None, "assistant_messages": 0}


@pytest.mark.parametrize(
    "line",
    [b"", b"null", b"[]", b"7", b"{", b"\xff\xfe\0", b"[" * 100000, b'"x"',
     b'{"type":"assistant","message":[1]}', b'{"type":"assistant","message":{"content":7}}',
     b'{"type":"assistant","message":{"id":[],"content":[7,{"type":"text","text":[]}]}}'],
)  # fmt: skip
def test_a_line_that_is_no_event_costs_only_itself(tmp_path, line):
    assert read(tmp_path, line, RESULT, line)["result"] == RESULT


def test_a_line_without_end_is_not_held_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "_LINE_BYTES", 1000)
    endless = json.dumps({"type": "result", "x": "y" * 5000}).encode()
    exact = json.dumps({"type": "result", "x": ""}).encode()
    exact = exact.replace(b'""', b'"' + b"z" * (999 - len(exact)) + b'"')
    assert len(exact) == 999
    assert read(tmp_path, endless, RESULT)["result"] == RESULT
    assert read(tmp_path, RESULT, endless)["result"] == RESULT
    assert read(tmp_path, endless, exact)["result"]["x"].startswith("z")


def test_statuses_come_in_order(tmp_path):
    path = tmp_path / "api.jsonl"
    path.write_text(
        '{"path": "/v1/messages", "status": 429}\n{"path": "/api/hello", "status": 200}\n'
        '{"path": "/v1/messages", "status": null}\n'
        '{"path": "/v1/messages", "status": 200, "message_id": null}\n'
        '{"path": "/v1/messages", "status": 200, "message_id": "m"}\n{"path": "/v1/mess',
        encoding="utf-8",
    )
    assert list(stream.api_statuses(path)) == [429, None, None, 200]


def test_last_words_of_a_large_file(tmp_path):
    path = tmp_path / "stderr.txt"
    path.write_bytes(b"noise\n" * 50000 + b"Error: no loader\n\n")
    assert stream.last_words(path) == "Error: no loader"
    path.write_bytes(b"")
    assert stream.last_words(path) == "no message"
