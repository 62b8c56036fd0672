"""What a program in the container can send to its model endpoint: none of it takes the host's
memory or disk, keeps the gateway from answering its runner, or makes the run anything but data."""

import contextlib
import functools
import gzip
import json
import re
import signal
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from gateway_client import TOKEN, active, raw, request, send_only, starter, user, wait_until
from run_parts import attempt_run

from agentsweep.gateway import exchanges, http_parser, http_server, listening, messages_api
from agentsweep.gateway.exchanges import Exchange, ExchangeLog
from agentsweep.gateway.messages_api import BadRequest, MessagesRequest
from agentsweep.host.processes import OVERWHELMED, LineService, ServiceLost
from agentsweep.runs import services
from agentsweep.runs.outcome import Evidence, judge
from agentsweep.runs.watch import GatewayStatus

KEY = f"x-api-key: {TOKEN}\r\n".encode()
SLOW = "turns: [{text: x, latency_s: 60}]"
QUICK = "turns: [{text: x}]"
MIB = 2**20
# What a request of everything that is allowed may make of the gateway; see docs/measurement.md.
MEMORY_MIB = 700


@pytest.fixture
def start(tmp_path):
    with starter(tmp_path) as start:
        yield start


def post(headers: bytes, body: bytes = b"", path: bytes = b"/v1/messages") -> bytes:
    return b"POST %s HTTP/1.1\r\nhost: x\r\n%s\r\n%s" % (path, headers, body)


def sized(body: bytes, headers: bytes = KEY) -> bytes:
    return post(headers + b"content-length: %d\r\n" % len(body), body)


def memory_mib(gateway, key: str) -> int:
    text = Path(f"/proc/{gateway.pid}/status").read_text(encoding="utf-8")
    return int(re.search(rf"^{key}:\s+(\d+)", text, re.MULTILINE)[1]) // 1024


def status_line(gateway, data: bytes) -> bytes:
    """The first answer to these bytes; the client goes on sending whatever happens."""
    with gateway.socket() as connection:
        with contextlib.suppress(OSError):
            connection.sendall(data)
        return connection.recv(65536).partition(b"\r\n")[0]


def packed_bomb(inner: bytes, count: int) -> bytes:
    """A message whose list of `inner` packs to almost nothing."""
    return gzip.compress(b'{"model":"m","messages":[' + inner * count + b"{}]}", 9)


# The token comes first


@pytest.mark.parametrize(
    "framing", [b"content-length: 20000000\r\n", b"transfer-encoding: chunked\r\n"]
)
@pytest.mark.parametrize("token", [b"", b"x-api-key: wrong\r\n"])
def test_a_body_without_the_token_is_never_read(start, framing, token):
    """Answered while the body has not begun, and no byte of it is kept."""
    gateway = start(QUICK)
    with gateway.socket() as connection:
        connection.sendall(post(token + framing))
        answer = connection.recv(65536)
        assert answer.startswith(b"HTTP/1.1 401 ")
        assert b"connection: close" in answer
        with contextlib.suppress(OSError):
            for _ in range(100):
                connection.sendall(bytes(MIB))
    assert memory_mib(gateway, "VmHWM") < 100
    (row,) = gateway.exchanges(1)
    assert (row["status"], row["request_bytes"], row["refused"]) == (401, 0, True)


def test_a_probe_without_the_token_may_have_no_body(start):
    gateway = start(QUICK)
    head = b"GET /api/hello HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n"
    answer = raw(gateway, head + b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n")
    # What followed was no second request.
    assert answer.count(b"HTTP/1.1 200 ") == 1
    assert len(gateway.exchanges(1)) == 1


def test_a_refused_client_that_still_sends_gets_its_answer(start):
    """A close with bytes unread would be a reset, which over TCP may overtake the answer."""
    gateway = start(QUICK)
    for _ in range(5):
        assert status_line(gateway, sized(bytes(3 * MIB), b"")).startswith(b"HTTP/1.1 401 ")


# Bounds


def test_connections_are_bounded_and_the_agents_own_goes_on(start):
    gateway = start(QUICK)
    descriptors = Path(f"/proc/{gateway.pid}/fd")
    with contextlib.ExitStack() as stack:
        for _ in range(600):
            stack.enter_context(gateway.socket()).sendall(b"POST /v1/mess")
        assert gateway.call("POST", "/v1/messages", request([user("Go.")]))[0] == 200
        most = http_server.Bounds().connections
        assert len(list(descriptors.iterdir())) < most + 30


def test_heads_and_their_lines_are_bounded(start):
    gateway = start(QUICK)
    many = b"GET / HTTP/1.1\r\nhost: x\r\n" + b"a: b\r\n" * 5000 + b"\r\n"
    long = b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"b" * 200_000 + b"\r\n\r\n"
    assert status_line(gateway, many).startswith(b"HTTP/1.1 431 ")
    assert status_line(gateway, long).startswith(b"HTTP/1.1 431 ")


@pytest.mark.parametrize("digits", [19, 5000])
def test_a_content_length_that_no_body_has(start, digits):
    """More than 4300 digits are a ValueError to int()."""
    assert status_line(start(QUICK), post(KEY + b"content-length: %s\r\n" % (b"9" * digits))) == (
        b"HTTP/1.1 400 Bad Request"
    )


def test_the_bodies_of_all_requests_together_are_bounded(start):
    gateway = start(QUICK)
    with contextlib.ExitStack() as stack:
        for _ in range(4):
            held = stack.enter_context(gateway.socket())
            held.sendall(post(KEY + b"content-length: %d\r\n" % (30 * MIB)))
            with contextlib.suppress(OSError):
                held.sendall(bytes(29 * MIB))
        rows = gateway.exchanges(2)
        assert {row["status"] for row in rows} == {503}
        assert memory_mib(gateway, "VmHWM") < 300
    # What they held is free again.
    wait_until(lambda: gateway.call("POST", "/v1/messages", request([user("Go.")]))[0] == 200)
    big = json.dumps(request([user("x" * 20 * MIB)]))
    assert gateway.call("POST", "/v1/messages", big)[0] == 200


def test_requests_at_once_are_bounded(start):
    gateway = start(SLOW)
    most = http_server.Bounds().requests
    with contextlib.ExitStack() as stack:
        for _ in range(most):
            stack.enter_context(send_only(gateway))
        wait_until(lambda: active(gateway) == most)
        status, _, body = gateway.call("POST", "/v1/messages", request([user("Go.")]))
        assert (status, json.loads(body)["error"]["type"]) == (503, "api_error")
    wait_until(lambda: active(gateway) == 0)


@pytest.mark.parametrize(
    "inner", [b"[],", b'{"a":[]},', b'"",', b"0,", b'{"\\\\":"[,"},', b"[[[[0]]]],"]
)
def test_what_unpacks_to_much_more_is_refused_early(start, inner):
    gateway = start(QUICK)
    body = packed_bomb(inner, 30 * MIB // len(inner))
    begin = time.monotonic()
    status = status_line(gateway, sized(body, KEY + b"content-encoding: gzip\r\n"))
    assert status.startswith((b"HTTP/1.1 413 ", b"HTTP/1.1 400 "))
    assert memory_mib(gateway, "VmHWM") < 200
    assert time.monotonic() - begin < 30


@pytest.mark.parametrize("inner", [b"[],", b'{"a":[]},', b'"",', b"0,", b'"a\\"",'])
def test_json_of_very_many_values_is_refused_before_it_is_made(start, inner):
    gateway = start(QUICK)
    body = b'{"model":"m","messages":[' + inner * (20 * MIB // len(inner)) + b"{}]}"
    assert status_line(gateway, sized(body)) == b"HTTP/1.1 400 Bad Request"
    assert memory_mib(gateway, "VmHWM") < MEMORY_MIB


def test_the_most_that_is_allowed_keeps_within_the_bound(start):
    """Characters that take four bytes each once one of them is there, and as many values."""
    gateway = start(QUICK)
    wide = request([user("\U0001f40d" + "x" * (28 * MIB))])
    wide["metadata"] = [{"a": {}}] * (messages_api.MAX_VALUES // 5)
    body = json.dumps(wide, ensure_ascii=False, separators=(",", ":")).encode()
    assert len(body) < http_parser.BODY_LIMIT_BYTES
    assert status_line(gateway, sized(body)) == b"HTTP/1.1 200 OK"
    assert memory_mib(gateway, "VmHWM") < MEMORY_MIB


def test_values_are_counted_outside_of_strings():
    def body(text: str, **more) -> bytes:
        return json.dumps(request([user(text)]) | more).encode()

    # A text of nothing but what is counted, with every kind of escape before its quotes.
    text = ",[{" * messages_api.MAX_VALUES + '\\"' + "\\\\" * 3
    assert MessagesRequest.parse(body(text), {}).model == "claude-test-1"
    with pytest.raises(BadRequest, match="more than 1000000 values"):
        MessagesRequest.parse(body("x", more=[0] * (messages_api.MAX_VALUES + 1)), {})
    with pytest.raises(BadRequest, match="more than"):
        # In UTF-16 a letter may have a quote's byte, behind which values would hide.
        hidden = '{"∢":[' + "[]," * messages_api.MAX_VALUES + "0]}"
        MessagesRequest.parse(hidden.encode(), {})
    with pytest.raises(BadRequest, match="not valid JSON"):
        MessagesRequest.parse(json.dumps(request([user("x")])).encode("utf-16"), {})


def test_names_that_are_kept_or_repeated_are_short():
    with pytest.raises(BadRequest, match="at most 256 characters"):
        MessagesRequest.parse(json.dumps(request([user("x")], model="m" * 257)).encode(), {})
    headers = {"x-claude-code-agent-id": "a" * 60_000, "x-claude-code-session-id": "s" * 60_000}
    asked = MessagesRequest.parse(json.dumps(request([user("x")])).encode(), headers)
    assert (len(asked.agent_id), len(asked.session_id)) == (256, 256)


def test_a_connection_that_stays_open_holds_no_body(start):
    gateway = start(QUICK)
    big = json.dumps(request([user("x" * 12 * MIB)]))
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            connection = gateway.connect()
            stack.callback(connection.close)
            assert gateway.call("POST", "/v1/messages", big, connection=connection)[0] == 200
        assert memory_mib(gateway, "VmRSS") < 200


def test_one_that_has_no_bound_ends_the_gateway_and_not_the_host(start):
    """The last line of defence, as the kernel has it."""
    limits = Path(f"/proc/{start(QUICK).pid}/limits").read_text(encoding="utf-8")
    limit = int(re.search(r"^Max data size\s+(\d+)", limits, re.MULTILINE)[1])
    assert limit < 1500 * MIB


# Time


def serve_here(bounds, handler=None):
    """A server in this process, in a thread of its own: its address, and how to end it."""
    import asyncio

    ready, loop = threading.Event(), asyncio.new_event_loop()
    bound, address = listening.bind("tcp:127.0.0.1:0")

    async def answer(request, reply):
        if request.problem:
            await reply.send(request.problem[0], {}, b"")
        else:
            await reply.send(200, {}, b"ok")

    async def main():
        server = http_server.HttpServer(handler or answer, bounds=bounds)
        await server.start(bound)
        stop = asyncio.Event()
        main.stop = lambda: loop.call_soon_threadsafe(stop.set)
        ready.set()
        await stop.wait()
        await server.stop()
        bound.close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    assert ready.wait(10)
    host, port = address.removeprefix("http://").split(":")

    def end():
        main.stop()
        thread.join(10)
        assert not thread.is_alive()

    return (host, int(port)), end


@pytest.mark.parametrize(
    ("sent", "bounds", "answer"),
    [
        (b"", {"head_s": 0.3}, b""),
        (b"GET / HT", {"head_s": 0.3}, b""),
        (post(b"content-length: 9\r\n", b"x"), {"body_s": 0.3}, b"HTTP/1.1 408 "),
        (post(b"transfer-encoding: chunked\r\n", b"9\r\nx"), {"body_s": 0.3}, b"HTTP/1.1 408 "),
        (b"GET / HTTP/1.1\r\nhost: x\r\n\r\n", {"idle_s": 0.3, "head_s": 0.4}, b"HTTP/1.1 200 "),
    ],
)
def test_slow_clients_are_left(sent, bounds, answer):
    address, end = serve_here(http_server.Bounds(drain_s=0.3, **bounds))
    try:
        with socket.create_connection(address, timeout=30) as connection:
            connection.sendall(sent)
            begin, got = time.monotonic(), b""
            with contextlib.suppress(ConnectionResetError):
                while part := connection.recv(65536):
                    got += part
            assert got.startswith(answer) and (answer or not got)
            assert time.monotonic() - begin < 20
    finally:
        end()


def test_a_client_that_sends_byte_by_byte_gains_no_time():
    address, end = serve_here(http_server.Bounds(head_s=0.5, drain_s=0.3))
    try:
        begin = time.monotonic()
        with socket.create_connection(address, timeout=10) as connection, pytest.raises(OSError):
            for _ in range(500):
                connection.sendall(b"x")
                time.sleep(0.05)
        # Of 25 s.
        assert time.monotonic() - begin < 20
    finally:
        end()


def read_all(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while connection.recv(MIB):
            pass


def test_many_requests_in_one_packet_keep_nobody_waiting(start):
    gateway = start(QUICK)
    flood = b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n" * 20_000
    with gateway.socket() as connection:
        reading = threading.Thread(target=read_all, args=(connection,))
        sending = threading.Thread(target=lambda: connection.sendall(flood))
        reading.start(), sending.start()
        begin = time.monotonic()
        assert gateway.call("POST", "/v1/messages", request([user("Go.")]))[0] == 200
        assert time.monotonic() - begin < 2
        sending.join()
        connection.shutdown(socket.SHUT_RDWR)
        reading.join()


def costly_request() -> bytes:
    """About the most work that one request may make."""
    content = request([user("x" * 25 * MIB)]) | {"x": [[]] * 400_000}
    return sized(json.dumps(content, separators=(",", ":")).encode())


def test_the_runner_gets_its_answers_while_the_agent_attacks(start):
    """Over all of it: status within seconds, and the end within its time, with exit code 0."""
    gateway = start(QUICK)
    done = threading.Event()
    bomb = gzip.compress(b'{"x":{' + b'"a":0,' * (5 * MIB) + b'"b":1}}', 1)
    sent = [
        costly_request(),
        sized(bomb, KEY + b"content-encoding: gzip\r\n"),
        sized(bytes(MIB), b""),
    ]

    def attack(number: int) -> None:
        while not done.is_set():
            with contextlib.suppress(OSError), gateway.socket() as connection:
                connection.sendall(sent[number % len(sent)])
                connection.recv(65536)

    threads = [threading.Thread(target=attack, args=(number,)) for number in range(30)]
    for thread in threads:
        thread.start()
    try:
        slowest = 0
        for _ in range(20):
            begin = time.monotonic()
            gateway.service.ask({"cmd": "status"}, timeout_s=40)
            slowest = max(slowest, time.monotonic() - begin)
            time.sleep(0.1)
        assert slowest < 20
        assert memory_mib(gateway, "VmHWM") < MEMORY_MIB
        assert gateway.service.stop(10) == 0
    finally:
        done.set()
        for thread in threads:
            thread.join()


def test_the_end_comes_in_time_with_work_in_hand(start):
    gateway = start(SLOW)
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            stack.enter_context(send_only(gateway))
        wait_until(lambda: active(gateway) == 100)
        begin = time.monotonic()
        assert gateway.service.stop(10) == 0
        assert time.monotonic() - begin < 10
    assert [row["error"] for row in gateway.exchanges()] == ["gateway_stopped"] * 100


# The record


def test_what_a_request_says_of_itself_is_cut(start):
    gateway = start(QUICK)
    paths = [b"\xff" * 60_000, b"/" + b"x" * 60_000, b"/short"]
    for path in paths:
        status_line(gateway, b"GET " + path + b" HTTP/1.1\r\nhost: x\r\n" + KEY + b"\r\n")
    status_line(gateway, b"G" * 60_000 + b" / HTTP/1.1\r\nhost: x\r\n\r\n")
    rows = gateway.exchanges(4)
    assert rows[0]["path"].endswith("… (60000 characters)")
    assert rows[2]["path"] == "/short"
    assert rows[3]["method"] == "G" * 32
    assert gateway.log.stat().st_size < 4 * 10_000


def test_refused_requests_beyond_a_thousand_are_counted(start):
    gateway = start(QUICK)
    flood = b"GET /" + b"\xff" * 5000 + b" HTTP/1.1\r\nhost: x\r\n\r\n"
    total = exchanges.SINGLE_LINES + 700
    for _ in range(total):
        with gateway.socket() as connection:
            connection.sendall(flood)
            connection.recv(65536)
    assert gateway.call("POST", "/v1/messages", request([user("Go.")]))[0] == 200
    assert gateway.service.stop() == 0
    rows = gateway.exchanges()
    assert sum(row["requests"] for row in rows) == total + 1
    assert len(rows) < exchanges.SINGLE_LINES + 20
    counted = [row for row in rows if row["requests"] > 1]
    assert {(row["status"], row["error"], row["path"]) for row in counted} == {
        (400, "invalid_request_error", "")
    }
    assert sum(row["status"] == 200 for row in rows) == 1


def test_counts_are_known_to_half_without_a_proper_end(tmp_path):
    log = ExchangeLog(tmp_path / "api.jsonl")
    for number in range(exchanges.SINGLE_LINES + 5000):
        status = 401 if number % 2 else 200
        log.write(Exchange(number, 0, 0, "GET", "/", status=status), unasked=True)
    rows = [json.loads(line) for line in log.path.read_text("utf-8").splitlines()]
    assert log.count == len(rows) < exchanges.SINGLE_LINES + 50
    assert sum(row["requests"] for row in rows) > exchanges.SINGLE_LINES + 2500
    log.close()
    rows = [json.loads(line) for line in log.path.read_text("utf-8").splitlines()]
    assert sum(row["requests"] for row in rows) == exchanges.SINGLE_LINES + 5000


# Whose fault it is


def service_that(tmp_path, monkeypatch, code: str) -> LineService:
    (tmp_path / "odd_service.py").write_text(f"import os, sys, time\n{code}\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return LineService("odd_service", tmp_path / "log")


@pytest.mark.parametrize(
    ("code", "by_host"),
    [
        ("time.sleep(60)", False),
        ("os.kill(os.getpid(), 19); time.sleep(60)", True),
        ("sys.exit(0)", True),
        ("os.kill(os.getpid(), 9)", True),
        ("os.kill(os.getpid(), 15)", True),
        ("os.abort()", False),
        ("raise MemoryError", False),
        (f"sys.exit({OVERWHELMED})", False),
    ],
)
def test_only_evidence_makes_it_the_hosts_fault(tmp_path, monkeypatch, code, by_host):
    service = service_that(tmp_path, monkeypatch, code)
    try:
        if "sleep" in code:
            time.sleep(1)
        with pytest.raises(ServiceLost) as lost:
            service.ask({}, timeout_s=1 if "sleep" in code else 20)
        assert lost.value.by_host is by_host
    finally:
        service.stop(timeout_s=0.1)


def test_a_lost_gateway_keeps_its_last_word_and_a_taken_one_ends_the_attempt():
    class Service:
        def __init__(self, *answers):
            self.answers = list(answers)

        def ask(self, message):
            answer = self.answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

    said = {"last_byte_ns": 5, "active": 3, "budget": {"refused": None}}
    status = GatewayStatus(Service(said, ServiceLost("gave no answer", by_host=False)))
    assert status.ask({"cmd": "status"}) == said
    for _ in range(2):
        assert status.ask({"cmd": "status"}) == said | {"active": 0, "lost": "gave no answer"}
    with pytest.raises(ServiceLost):
        GatewayStatus(Service(ServiceLost("killed", by_host=True))).ask({"cmd": "status"})


@pytest.mark.parametrize("exit_code", [0, 1, 137, None])
@pytest.mark.parametrize("stopped_by", [None, "gateway_lost"])
def test_a_run_whose_gateway_was_lost_is_data(exit_code, stopped_by):
    from agentsweep.host.oom_kills import Kills

    seen = Evidence(
        exit_code=exit_code,
        stopped_by=stopped_by,
        kills=Kills(0, ()),
        agent_pids=frozenset({5}),
        container_pids=frozenset({1}),
        oom_kill_near_end=False,
        container_alive=True,
        result={"terminal_reason": "api_error", "is_error": True},
        assistant_messages=0,
        live=True,
        gateway_lost="agentsweep.gateway gave no answer within 60 s",
    )
    judged = judge(seen)
    assert judged.outcome == "agent_error"
    assert "overwhelmed its own model endpoint: agentsweep.gateway gave no answer" in judged.detail


def test_a_gateway_that_is_killed_for_want_of_time_is_no_error_of_the_host(tmp_path, monkeypatch):
    service = service_that(tmp_path, monkeypatch, "time.sleep(60)")
    assert service.stop(timeout_s=0.2) == OVERWHELMED
    stopped = service_that(tmp_path, monkeypatch, "os.kill(os.getpid(), 19); time.sleep(60)")
    wait_until(lambda: stopped._is_held_up())
    assert stopped.stop(timeout_s=0.2) == -signal.SIGKILL


def test_of_a_gateway_that_was_killed_at_its_stop_the_run_knows(tmp_path, monkeypatch):
    said = []
    gateway = service_that(tmp_path, monkeypatch, "time.sleep(60)")
    gateway.stop = functools.partial(gateway.stop, timeout_s=0.2)
    written = {"samples.arrow": {"bytes": 0}}
    (tmp_path / "sampler.json").write_text(json.dumps({"written": written}), encoding="utf-8")
    (tmp_path / "api.jsonl").write_bytes(b"{}\n")
    run, beside = (
        attempt_run(tmp_path, said),
        services.Services(gateway, SimpleNamespace(lost=None), SimpleNamespace(stop=lambda: 0)),
    )
    stopped = services.stop(run, beside, tmp_path)
    assert (stopped.summary, stopped.written) == ({}, written | {"api.jsonl": {"bytes": 3}})
    assert stopped.gateway_cut == "odd_service could not be stopped in time"
    assert said == ["odd_service was overwhelmed by what the agent sent"]


def test_a_line_counts_for_as_many_requests_as_it_says():
    from agentsweep.extraction.run_row import _requests

    assert [_requests(line) for line in ({}, {"requests": 700}, {"requests": "x"})] == [1, 700, 1]
