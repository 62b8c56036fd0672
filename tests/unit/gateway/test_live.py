"""Live mode: requests go to an endpoint on this host (a second, scripted gateway that plays the
API) and come back as they are, with the credential on the far side only."""

import contextlib
import http.client
import json
import socket
import threading
from contextlib import closing

import pytest
from gateway_client import TOKEN, answered, assemble, calls, request, starter, text_of, user, who

from agentsweep.errors import InfraError
from agentsweep.gateway import live as live_model
from agentsweep.gateway.exchanges import Exchange

UPSTREAM_KEY = "sk-upstream-canary-91"
# The upstream gateway takes its own token for the key.
CREDENTIAL = {"kind": "x-api-key", "secret": UPSTREAM_KEY}

TALK = """\
turns:
  - {text: I look., tools: [{Bash: {command: ls}}], usage: {input_tokens: 70, output_tokens: 5}}
  - {text: Done., usage: {input_tokens: 90, output_tokens: 2, cache_read_input_tokens: 7}}
"""


@pytest.fixture
def start(tmp_path):
    with starter(tmp_path) as start:
        yield start


@pytest.fixture
def pair(start):
    """A live gateway and the upstream behind it."""

    def make(scenario=TALK, credential=CREDENTIAL, **more):
        upstream = start(scenario, token=UPSTREAM_KEY)
        live = start(mode="live", base_url=upstream.address, credential=credential, **more)
        return live, upstream

    return make


def asked_of(upstream, count: int) -> list[dict]:
    """What came to the upstream after the probe with which each live gateway begins."""
    probe, *rows = upstream.exchanges(count + 1)
    assert (probe["method"], probe["path"]) == ("HEAD", "/")
    return rows


def fault(text: str) -> str:
    return f"turns: [{{text: x, chunk_chars: 1, fault: {{{text}}}}}]"


@pytest.mark.parametrize("stream", [True, False])
def test_a_conversation_goes_through(pair, stream):
    live, upstream = pair()
    first = live.ask([user("Go.")], stream)
    assert text_of(first) == "I look." and len(calls(first)) == 1
    second = live.ask([user("Go."), *answered(first, "x")], stream)
    assert (text_of(second), second["stop_reason"]) == ("Done.", "end_turn")
    rows, beyond = live.exchanges(2), asked_of(upstream, 2)
    for name in ("request_sha256", "message_id", "stop_reason", "input_tokens", "output_tokens"):
        assert [row[name] for row in rows] == [row[name] for row in beyond], name
    assert [row["cache_read_input_tokens"] for row in rows] == [0, 7]
    assert [(r["kind"], r["turn"], r["retry"], r["status"], r["error"]) for r in rows] == [
        ("main", 0, 0, 200, None),
        ("main", 1, 0, 200, None),
    ]
    assert [r["model"] for r in rows] == ["claude-test-1"] * 2


def test_bytes_and_query_arrive_as_they_are(pair):
    live, upstream = pair()
    body = json.dumps(request([user("Gr\u00fc\u00dfe.")], stream=True)).encode()
    for gateway, token in ((live, TOKEN), (upstream, UPSTREAM_KEY)):
        before = len(gateway.exchanges())
        _, _, answer = gateway.call("POST", "/v1/messages?beta=true", body, **who(), token=token)
        text = "".join(text for _, text in gateway.exchanges(before + 1)[-1]["events"])
        assert text.encode() == answer
    sent, direct = (asked_of(upstream, 2)[n] for n in (0, 1))
    assert sent["request_sha256"] == direct["request_sha256"]
    assert sent["request_bytes"] == len(body)


def test_the_record_has_each_piece_with_its_time(pair):
    slow = "turns: [{text: abcdef, latency_s: 0.2, chunk_chars: 2, chunk_s: 0.1}]"
    live, _ = pair(slow)
    live.ask([user("Go.")], stream=True)
    (row,) = live.exchanges(1)
    offsets_s = [offset_ns / 1e9 for offset_ns, _ in row["events"]]
    planned_s = [0.2, 0.3, 0.4, 0.5, 0.6]
    # Never early; late by no more than a busy machine takes.
    for offset_s, planned in zip(offsets_s, planned_s, strict=True):
        assert planned - 0.01 < offset_s < planned + 0.25
    assert row["response_bytes"] == sum(len(text.encode()) for _, text in row["events"])


def test_errands_and_sub_agents_are_told_apart(pair):
    live, _ = pair("turns: [{text: x}]\nsubagents: {a: {marker: '[[a]]', turns: [{text: y}]}}")
    live.ask([user("Go.")], tools=False)
    live.ask([user("[[a]]")], agent="agent-1")
    live.ask([user("Go.")])
    assert [row["kind"] for row in live.exchanges(3)] == ["side", "subagent", "main"]
    assert live.exchanges(3)[1]["agent_id"] == "agent-1"


def test_counting_and_lists_go_through_too(pair):
    live, upstream = pair()
    status, _, answer = live.call("POST", "/v1/messages/count_tokens", b'{"model": "1234567"}')
    assert (status, json.loads(answer)) == (200, {"input_tokens": 5})
    status, _, answer = live.call("GET", "/v1/models/claude-x")
    assert (status, json.loads(answer)["id"]) == (200, "claude-x")
    paths = [row["path"] for row in asked_of(upstream, 2)]
    assert paths == ["/v1/messages/count_tokens", "/v1/models/claude-x"]


@pytest.mark.parametrize(
    ("text", "status", "error"),
    [
        ("status: 429, retry_after_s: 7", 429, "rate_limit_error"),
        ("status: 500", 500, "api_error"),
        ("status: 529", 529, "overloaded_error"),
        ("status: 400", 400, "invalid_request_error"),
    ],
)
def test_errors_reach_the_client_as_they_are(pair, text, status, error):
    live, _ = pair(fault(text))
    got, headers, body = live.call("POST", "/v1/messages", request([user("Go.")]), **who())
    assert (got, json.loads(body)["error"]["type"]) == (status, error)
    assert headers["retry-after"] == ("7" if status == 429 else None)
    assert headers["request-id"].startswith("req_")
    (row,) = live.exchanges(1)
    assert (row["status"], row["error"], row["message_id"]) == (status, error, None)
    assert live.ask([user("Go.")])["content"] == [{"type": "text", "text": "x"}]
    assert live.exchanges(2)[1]["retry"] == 1


def test_a_wrong_key_is_the_endpoints_to_refuse(pair):
    live, _ = pair(credential=CREDENTIAL | {"secret": "sk-wrong"})
    status, _, body = live.call("POST", "/v1/messages", request([user("Go.")]), **who())
    assert (status, json.loads(body)["error"]["type"]) == (401, "authentication_error")
    assert live.exchanges(1)[0]["error"] == "authentication_error"


def test_an_endpoint_without_a_key_gets_none(pair):
    live, _ = pair(credential=None)
    status, _, _ = live.call("POST", "/v1/messages", request([user("Go.")]), **who())
    # The upstream here wants one, and the run's own token is not passed on in its place.
    assert status == 401


def test_an_error_in_the_stream_is_noted(pair):
    live, _ = pair(fault("stream_error: overloaded_error"))
    _, _, body = live.call("POST", "/v1/messages", request([user("Go.")], stream=True), **who())
    assert b"event: error" in body
    (row,) = live.exchanges(1)
    assert (row["status"], row["error"]) == (200, "overloaded_error")


def test_what_is_not_the_api_is_noted(pair):
    live, _ = pair(fault("malformed: body"))
    _, _, body = live.call("POST", "/v1/messages", request([user("Go.")], stream=True), **who())
    assert body == b"<html>Not the API</html>"
    assert live.exchanges(1)[0]["error"] == "malformed"


def raw(gateway, body: dict) -> bytes:
    """All bytes that come back, until the connection is closed or reset."""
    data, came = json.dumps(body).encode(), b""
    with gateway.socket() as connection:
        connection.sendall(
            f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {TOKEN}\r\nconnection: close\r\n"
            f"content-length: {len(data)}\r\n\r\n".encode()
            + data
        )
        with contextlib.suppress(ConnectionResetError):
            while more := connection.recv(65536):
                came += more
    return came


def test_a_whole_answer_has_both_its_ends(pair):
    live, _ = pair()
    came = raw(live, request([user("Go.")], stream=True))
    assert came.startswith(b"HTTP/1.1 200") and b"message_stop" in came
    assert came.endswith(b"0\r\n\r\n")


def test_an_answer_that_breaks_off_breaks_off_here(pair):
    live, _ = pair(fault("drop: midstream"))
    came = raw(live, request([user("Go.")], stream=True))
    # What had come was handed on, and its end is not made up: neither the message's nor the body's.
    assert came.startswith(b"HTTP/1.1 200") and b"message_start" in came
    assert b"message_stop" not in came and not came.endswith(b"0\r\n\r\n")
    (row,) = live.exchanges(1)
    assert (row["status"], row["error"]) == (200, "upstream_broken")
    # What came of it is paid for.
    assert row["input_tokens"] > 0


def test_an_endpoint_that_goes_away_is_a_connection_that_fails(pair):
    live, upstream = pair()
    upstream.service.stop()
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        live.call("POST", "/v1/messages", request([user("Go.")]), **who())
    (row,) = live.exchanges(1)
    assert (row["status"], row["error"]) == (None, "upstream_connect")


def test_a_client_that_leaves_ends_the_request_upstream(pair):
    live, upstream = pair("turns: [{text: x, latency_s: 30}]")
    connection = live.socket()
    body = json.dumps(request([user("Go.")], stream=True)).encode()
    connection.sendall(
        f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {TOKEN}\r\n"
        f"content-length: {len(body)}\r\n\r\n".encode()
        + body
    )
    while not upstream.service.ask({"cmd": "status"})["active"]:
        pass
    connection.close()
    assert live.exchanges(1)[0]["error"] == "client_disconnected"
    assert asked_of(upstream, 1)[0]["error"] == "client_disconnected"


def test_the_key_is_on_the_far_side_only(start):
    """An endpoint that repeats whatever it was sent, headers too, in pieces."""
    seen = []

    def serve(listening):
        # A stand-in: no real endpoint can be told to repeat its client's key.
        for _ in range(2):
            connection, _ = listening.accept()
            with connection:
                head = b""
                while not head.endswith(b"}" if head.startswith(b"POST") else b"\r\n\r\n"):
                    head += connection.recv(65536)
                seen.append(head)
                place = head.find(UPSTREAM_KEY.encode()) + 5
                body = head if place > 5 else b"nothing"
                parts = [body[:place], body[place:]] if place > 5 else [body]
                connection.sendall(b"HTTP/1.1 401 X\r\nx-echo: " + UPSTREAM_KEY.encode() + b"\r\n")
                connection.sendall(b"transfer-encoding: chunked\r\nconnection: close\r\n\r\n")
                for part in parts:
                    connection.sendall(b"%x\r\n%s\r\n" % (len(part), part))
                connection.sendall(b"0\r\n\r\n")

    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        server = threading.Thread(target=serve, args=(listening,), daemon=True)
        server.start()
        port = listening.getsockname()[1]
        live = start(mode="live", base_url=f"http://127.0.0.1:{port}", credential=CREDENTIAL)
        _, headers, body = live.call("POST", "/v1/messages", request([user("Go.")]), **who())
        server.join(10)
    probe, asked = seen
    assert UPSTREAM_KEY.encode() not in probe
    assert f"x-api-key: {UPSTREAM_KEY}".encode() in asked
    assert TOKEN.encode() not in asked
    assert b"[redacted]" in body
    for place in (body, str(headers).encode(), live.log.read_bytes(), live.errors.read_bytes()):
        assert UPSTREAM_KEY.encode() not in place


def test_an_endpoint_that_is_not_http_is_refused_before_anything_is_asked(start):
    def serve(listening):
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                # Read first: to close before that would be a reset, another failure.
                connection.recv(65536)
                connection.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")

    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        threading.Thread(target=serve, args=(listening,), daemon=True).start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        with pytest.raises(InfraError, match="HTTP") as caught:
            start(mode="live", base_url=url)
    assert url in str(caught.value) and "\n" not in str(caught.value)


def test_an_endpoint_that_does_not_answer_is_refused_too(start):
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    with pytest.raises(InfraError, match=url):
        start(mode="live", base_url=url)


def test_what_broken_answers_cost_is_counted(pair):
    price = {"input": 1e6, "output": 0, "cache_read": 0, "cache_write": 0}
    scenario = (
        "turns: [{text: x, chunk_chars: 1, usage: {input_tokens: 3}, fault: {drop: midstream}}]"
    )
    live, _ = pair(scenario, budget={"max_cost_usd": 3, "price": price})
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        live.call("POST", "/v1/messages", request([user("Go.")], stream=True), **who())
    live.exchanges(1)
    said = live.service.ask({"cmd": "status"})["budget"]
    assert (said["cost_usd"], said["turns"]) == (3, 0)
    status, _, _ = live.call("POST", "/v1/messages", request([user("Go.")]), **who())
    assert status == 403


def test_a_stream_is_put_together_by_the_client_as_without_us(pair):
    live, upstream = pair()
    body = request([user("Go.")], stream=True)
    answers = [
        assemble(gateway.call("POST", "/v1/messages", body, **who(), token=token)[2])
        for gateway, token in ((live, TOKEN), (upstream, UPSTREAM_KEY))
    ]
    assert answers[0] == answers[1]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/../../v1/files",
        "/v1/models/%2e%2e/%2e%2e/v1/files",
        "/v1/models/..%2f..%2fadmin",
        "/v1/models/%252e%252e/x",
        "/v1/models/",
        "/v1/models/a?x#y".replace("?", "#"),
        "/v1/files",
        "/v1/messages/batches",
    ],
)
def test_nothing_else_can_be_asked_for_with_the_key(pair, path):
    live, upstream = pair()
    status, _, _ = live.call("GET", path)
    assert status in (404, 405)
    assert asked_of(upstream, 0) == []


def serving(answers):
    """A stand-in for an endpoint that misbehaves: raw bytes of answers, one a connection."""
    listening = socket.create_server(("127.0.0.1", 0))

    def serve():
        for answer in answers:
            connection, _ = listening.accept()
            with connection:
                head = b""
                while not head.endswith(b"}" if head.startswith(b"POST") else b"\r\n\r\n"):
                    head += connection.recv(65536)
                connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    return closing(listening)


PROBED = b"HTTP/1.1 404 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
STREAM = b"HTTP/1.1 200 X\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
BEGUN = b'data: {"type":"message_start","message":{"id":"m","usage":{"input_tokens":7}}}\n\n'


def asked_raw(start, answer: bytes):
    with serving([PROBED, answer]) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        live = start(mode="live", base_url=url, credential=CREDENTIAL)
        with contextlib.suppress(http.client.HTTPException, ConnectionError):
            live.call("POST", "/v1/messages", request([user("Go.")], stream=True), **who())
        (row,) = live.exchanges(1)
    return live, row


def test_an_answer_that_ends_before_its_message_is_broken(start):
    _, row = asked_raw(start, STREAM + BEGUN)
    assert (row["status"], row["error"], row["input_tokens"]) == (200, "upstream_broken", 7)


def test_a_head_alone_is_no_answer(start):
    broken = STREAM.replace(b"connection: close", b"content-length: 50\r\nconnection: close")
    _, row = asked_raw(start, broken)
    assert (row["status"], row["first_byte_ns"]) == (None, None)
    assert row["error"] == "upstream_broken"


def test_an_answer_without_a_body_is_one(start):
    refused = b"HTTP/1.1 401 X\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
    _, row = asked_raw(start, refused)
    assert row["status"] == 401 and row["first_byte_ns"] >= row["start_ns"]


def test_a_key_that_comes_back_in_an_event_is_not_noted(start):
    key = UPSTREAM_KEY.encode()
    begun = BEGUN.replace(b'"m"', b'"m-' + key + b'"')
    error = b'event: error\ndata: {"type":"error","error":{"type":"x_' + key + b'"}}\n\n'
    live, row = asked_raw(start, STREAM + begun + error)
    assert (row["message_id"], row["error"]) == ("m-[redacted]", "x_[redacted]")
    assert key not in live.log.read_bytes() + live.errors.read_bytes()


def test_what_is_not_read_here_is_not_passed_on(pair):
    live, upstream = pair()
    for body in (b"no json", b'{"model": "m", "model": "n"}', json.dumps({}).encode("utf-16")):
        status, _, _ = live.call("POST", "/v1/messages", body, **who())
        assert status == 400
    assert {row["error"] for row in live.exchanges(3)} == {"invalid_request_error"}
    assert asked_of(upstream, 0) == []
    odd = request([{"role": "user", "content": [{"type": "text", "text": 5}]}])
    status, _, _ = live.call("POST", "/v1/messages", odd, **who())
    assert (status, live.exchanges(4)[3]["error"]) == (200, None)


def test_an_answer_longer_than_any_message_is_none_and_is_not_kept(monkeypatch):
    monkeypatch.setattr(live_model.untrusted, "FILE_BYTES", 100)

    def heard(body: bytes):
        exchange = Exchange(1, 0, 0, "POST", "/v1/messages")
        listener = live_model._Listener(exchange, lambda: False)
        for start in range(0, len(body), 7):
            listener.hear(body[start : start + 7])
        assert listener.is_whole()
        return exchange, listener

    short, _ = heard(b'{"id": "m", "usage": {"input_tokens": 3}}')
    assert (short.message_id, short.input_tokens, short.error) == ("m", 3, None)
    long, listener = heard(b'{"id": "m"' + b" " * 300 + b"}")
    assert (long.message_id, long.error) == (None, "malformed")
    assert len(listener._body) == 101
