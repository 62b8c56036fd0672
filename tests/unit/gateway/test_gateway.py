"""The gateway as a process: who may connect, HTTP, errors, the record, start and end."""

import contextlib
import gzip
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import zlib
from pathlib import Path

import pytest
from gateway_client import (
    BASIC,
    TOKEN,
    active,
    raw,
    request,
    send_only,
    starter,
    text_of,
    timing,
    user,
    wait_until,
)

from agentsweep.errors import InfraError

CHUNKED = (
    b"POST / HTTP/1.1\r\nhost: x\r\nx-api-key: %s\r\ntransfer-encoding: chunked\r\n\r\n"
    % TOKEN.encode()
)
FIELDS = {
    "refused",
    "requests",
    "events",
    "recorded",
    "seq",
    "start_ns",
    "start_utc_ns",
    "first_byte_ns",
    "end_ns",
    "end_utc_ns",
    "method",
    "path",
    "kind",
    "agent_id",
    "model",
    "stream",
    "status",
    "error",
    "retry",
    "turn",
    "turn_id",
    "request_sha256",
    "request_bytes",
    "response_bytes",
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "message_id",
    "stop_reason",
    "queued_ns",
}


@pytest.fixture
def start(tmp_path):
    with starter(tmp_path) as start:
        yield start


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A gateway for tests that only ask for what is refused."""
    with starter(tmp_path_factory.mktemp("shared")) as start:
        yield start()


# Paths


def test_count_tokens(start):
    gateway = start()
    body = request([user("Go." * 100)])
    status, _, answer = gateway.call("POST", "/v1/messages/count_tokens?beta=true", body)
    assert (status, json.loads(answer)) == (200, {"input_tokens": -(-len(json.dumps(body)) // 4)})
    (row,) = gateway.exchanges(1)
    assert (row["kind"], row["path"]) == ("other", "/v1/messages/count_tokens")


def test_probes_need_no_token_and_models_are_listed(start):
    gateway = start()
    for method, path in (("HEAD", "/"), ("HEAD", "/api/hello"), ("GET", "/api/hello")):
        assert gateway.call(method, path, token=None)[0] == 200
    status, _, body = gateway.call("GET", "/v1/models")
    assert (status, json.loads(body)["data"], json.loads(body)["has_more"]) == (200, [], False)
    status, _, body = gateway.call("GET", "/v1/models/claude-x%2F1")
    assert (status, json.loads(body)["id"]) == (200, "claude-x/1")


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "kind"),
    [
        ("GET", "/v1/unknown", None, 404, "not_found_error"),
        ("POST", "/", {}, 404, "not_found_error"),
        ("GET", "/v1/messages", None, 405, "invalid_request_error"),
        ("GET", "/v1/messages/count_tokens", None, 405, "invalid_request_error"),
        ("POST", "/v1/models", {}, 405, "invalid_request_error"),
        ("POST", "/v1/messages", "{", 400, "invalid_request_error"),
        ("POST", "/v1/messages", "[]", 400, "invalid_request_error"),
        ("POST", "/v1/messages", "[" * 100_000, 400, "invalid_request_error"),
        ("POST", "/v1/messages", {"model": "m"}, 400, "invalid_request_error"),
        ("POST", "/v1/messages", {"model": "m", "messages": ["x"]}, 400, "invalid_request_error"),
        ("POST", "/v1/messages", {"messages": [user("x")]}, 400, "invalid_request_error"),
        ("POST", "/v1/messages/count_tokens", "x", 400, "invalid_request_error"),
    ],
)
def test_errors_have_the_form_of_the_api(shared, method, path, body, status, kind):
    seen = len(shared.exchanges())
    got, headers, answer = shared.call(method, path, body)
    assert got == status
    assert headers["content-type"] == "application/json"
    error = json.loads(answer)
    assert (error["type"], error["error"]["type"]) == ("error", kind)
    assert error["error"]["message"]
    row = shared.exchanges(seen + 1)[-1]
    assert (row["status"], row["error"], row["path"]) == (status, kind, path)


# The token


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-api-key": "wrong"},
        {"x-api-key": TOKEN + "x"},
        {"x-api-key": TOKEN[:-1]},
        {"x-api-key": "\xff\xfe"},
        {"authorization": TOKEN},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": "Bearer "},
    ],
)
def test_without_the_token_nothing_is_answered(shared, headers):
    seen = len(shared.exchanges())
    for path in ("/v1/messages", "/v1/messages/count_tokens", "/v1/models", "/other"):
        status, _, body = shared.call(
            "POST", path, request([user("Go.")]), headers=headers, token=None
        )
        assert (status, json.loads(body)["error"]["type"]) == (401, "authentication_error")
    rows = shared.exchanges(seen + 4)[seen:]
    assert [(row["status"], row["message_id"]) for row in rows] == [(401, None)] * 4


def test_the_token_is_taken_from_either_header_and_never_written(start, tmp_path):
    gateway = start()
    for headers in ({"x-api-key": TOKEN}, {"Authorization": f"Bearer {TOKEN}"}):
        body = request([user(f"the {TOKEN} in a prompt is not ours to hide")])
        path = f"/v1/messages?key={TOKEN}"
        assert gateway.call("POST", path, body, headers=headers, token=None)[0] == 200
    gateway.call("POST", "/v1/messages", "{broken", headers={"x-extra": TOKEN})
    gateway.exchanges(3)
    assert gateway.service.stop() == 0
    for path in tmp_path.rglob("*"):
        if path.is_file():
            assert TOKEN not in path.read_text(encoding="utf-8"), path


# HTTP


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
def test_compressed_bodies(start, coding):
    data = json.dumps(request([user("Go." * 10_000)])).encode()
    packed = gzip.compress(data) if coding == "gzip" else zlib.compress(data)
    gateway = start()
    headers = {"content-encoding": coding}
    assert gateway.call("POST", "/v1/messages", packed, headers=headers)[0] == 200
    assert gateway.exchanges(1)[0]["request_bytes"] == len(data)
    for broken in (packed[:-9], b"not packed"):
        status, _, body = gateway.call("POST", "/v1/messages", broken, headers=headers)
        assert (status, json.loads(body)["error"]["type"]) == (400, "invalid_request_error")


def test_a_coding_that_is_not_known(start):
    gateway = start()
    status, _, body = gateway.call(
        "POST", "/v1/messages", b"x", headers={"content-encoding": "zstd"}
    )
    assert status == 415
    assert "zstd is not supported" in json.loads(body)["error"]["message"]


def test_a_body_that_unpacks_to_more_than_is_allowed(start):
    bomb = gzip.compress(bytes(130 * 1024 * 1024))
    status, _, body = start().call(
        "POST", "/v1/messages", bomb, headers={"content-encoding": "gzip"}
    )
    assert (status, json.loads(body)["error"]["type"]) == (413, "request_too_large")


def test_chunked_bodies(start):
    gateway = start()
    data = json.dumps(request([user("Go." * 1000)])).encode()
    connection = gateway.connect()
    pieces = iter([data[:1], data[1:700], data[700:]])
    connection.request("POST", "/v1/messages", pieces, {"x-api-key": TOKEN}, encode_chunked=True)
    assert connection.getresponse().status == 200
    assert gateway.exchanges(1)[0]["request_bytes"] == len(data)


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"rubbish\r\n\r\n", 400),
        (b"GET / SPDY/3\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\n\r\n", 505),
        (b"GET / HTTP/1.1\r\nhost: x\r\nno colon\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: many\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 999999999999\r\n\r\n", 413),
        (CHUNKED + b"xyz\r\n", 400),
        (CHUNKED + b"-5\r\n", 400),
        (CHUNKED + b"1\r\nxy\r\n", 400),
        (CHUNKED + b"FFFFFFFFFF\r\n", 413),
        (b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: br\r\n\r\n", 501),
        (b"GET / HTTP/1.1\r\nhost: x\r\nx: " + b"y" * 70_000, 431),
    ],
)
def test_what_is_not_http_is_refused_and_the_connection_closed(shared, sent, status):
    seen = len(shared.exchanges())
    head, _, body = raw(shared, sent).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(body)["type"] == "error"
    assert shared.exchanges(seen + 1)[-1]["status"] == status
    assert shared.call("HEAD", "/")[0] == 200


def test_a_connection_is_used_again_and_again(start):
    gateway = start()
    connection = gateway.connect()
    for _ in range(5):
        status, headers, _ = gateway.call(
            "POST", "/v1/messages", request([user("Go.")], True), connection=connection
        )
        assert (status, headers["connection"]) == (200, "keep-alive")
    assert len({row["start_ns"] for row in gateway.exchanges(5)}) == 5


def test_pipelined_requests_are_answered_in_order(start):
    one = b"GET /v1/models/%s HTTP/1.1\r\nhost: x\r\nx-api-key: " + TOKEN.encode() + b"\r\n%s\r\n"
    answer = raw(start(), one % (b"a", b"") + one % (b"b", b"connection: close\r\n"))
    assert re.findall(rb'"id": "(\w)"', answer) == [b"a", b"b"]


def test_http_1_0_and_continue(start):
    gateway = start()
    assert raw(gateway, b"HEAD / HTTP/1.0\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    with gateway.socket() as connection:
        connection.sendall(
            b"POST /v1/messages/count_tokens HTTP/1.1\r\nhost: x\r\nx-api-key: "
            + TOKEN.encode()
            + b"\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n"
        )
        assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(b"{}")
        assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_a_big_request(start):
    gateway = start()
    body = json.dumps(request([user("x" * 12_000_000)]))
    began = time.monotonic()
    assert gateway.call("POST", "/v1/messages", body)[0] == 200
    assert time.monotonic() - began < 5
    (row,) = gateway.exchanges(1)
    assert row["request_bytes"] == len(body)
    assert row["input_tokens"] > 3_000_000


def test_many_connections_at_once(start):
    gateway = start("turns: [{text: x, latency_s: 0.5}]")
    texts = []

    def client(number):
        texts.append(text_of(gateway.ask([user("Go.")], stream=True, session=f"s-{number}")))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(100)]
    began = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # One after another they would take 50 s.
    assert time.monotonic() - began < 10
    assert texts == ["x"] * 100
    rows = gateway.exchanges(100)
    assert sorted(row["seq"] for row in rows) == list(range(1, 101))
    assert all(row["retry"] == 0 for row in rows)


# Where it listens


@pytest.mark.parametrize(
    "listen",
    [
        "tcp:0.0.0.0:0",
        "tcp::0",
        "tcp:[::]:0",
        "tcp:localhost:0",
        "tcp:127.0.0.2:0",
        "tcp:192.168.0.1:80",
        "tcp:127.0.0.1:http",
        "tcp:127.0.0.1:",
        "tcp:127.0.0.1:٣",
        "tcp:127.0.0.1:70000",
        "unix:api.sock",
        "unix:",
        "127.0.0.1:0",
        "http://127.0.0.1:0",
        "fd:3",
    ],
)
def test_it_listens_on_this_host_only(start, listen):
    with pytest.raises(InfraError, match="listen: '"):
        start(listen=listen)


def test_ipv6_loopback(start):
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this host has no IPv6 loopback")
    gateway = start(listen="tcp:[::1]:0")
    assert gateway.address.startswith("http://[::1]:")
    assert gateway.call("HEAD", "/")[0] == 200


def test_a_port_in_use(start):
    port = start().address.rsplit(":", 1)[1]
    with pytest.raises(InfraError, match=f"listen: tcp:127.0.0.1:{port} is in use by another"):
        start(listen=f"tcp:127.0.0.1:{port}")


def test_the_unix_socket(start, tmp_path):
    path = tmp_path / "api.sock"
    gateway = start(listen=f"unix:{path}")
    assert gateway.address == f"unix:{path}"
    # The agent's user in the container is not ours, and connecting takes the right to write.
    assert stat.S_IMODE(path.stat().st_mode) == 0o666
    assert text_of(gateway.ask([user("Go.")], stream=True)) == "I will look first."
    with pytest.raises(InfraError, match=f"listen: unix:{path} is in use by another process"):
        start(listen=f"unix:{path}")
    assert gateway.call("HEAD", "/")[0] == 200
    assert gateway.service.stop() == 0
    assert not path.exists()


def test_a_dead_gateways_socket_is_replaced_and_a_file_is_not(start, tmp_path):
    path = tmp_path / "api.sock"
    first = start(listen=f"unix:{path}")
    os.kill(first.pid, signal.SIGKILL)
    first.service.stop()
    assert path.exists()
    assert start(listen=f"unix:{path}").call("HEAD", "/")[0] == 200
    other = tmp_path / "file"
    other.write_text("kept", encoding="utf-8")
    with pytest.raises(InfraError, match="is in use"):
        start(listen=f"unix:{other}")
    assert other.read_text(encoding="utf-8") == "kept"


def test_a_socket_path_that_is_too_long_or_nowhere(start, tmp_path):
    with pytest.raises(InfraError, match=r"is too long for a socket \(1\d\d bytes, at most 107\)"):
        start(listen=f"unix:/tmp/{'x' * 110}")
    with pytest.raises(InfraError, match="cannot be used: No such file or directory"):
        start(listen=f"unix:{tmp_path}/no/api.sock")


# The record


def test_a_client_that_leaves_in_mid_stream_is_written_down(start):
    gateway = start("turns: [{text: %s, chunk_chars: 10, chunk_s: 0.05}]" % ("x" * 2000))
    connection = send_only(gateway)
    assert connection.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n")
    connection.close()
    (row,) = gateway.exchanges(1)
    assert (row["status"], row["error"]) == (200, "client_disconnected")
    assert row["response_bytes"] > 0 and row["output_tokens"] is None
    assert timing(row)[1] < 5


def test_a_client_that_leaves_while_the_model_thinks_is_written_down(start):
    gateway = start("turns: [{text: x, latency_s: 60}]")
    connection = send_only(gateway)
    wait_until(lambda: active(gateway) == 1)
    connection.close()
    (row,) = gateway.exchanges(1)
    assert (row["status"], row["error"]) == (None, "client_disconnected")


def test_a_client_that_does_not_read_holds_up_nobody_else(start):
    gateway = start("turns: [{text: %s, chunk_chars: 1000000}]" % ("x" * 20_000_000))
    with send_only(gateway):
        wait_until(lambda: active(gateway) == 1)
        assert gateway.call("HEAD", "/")[0] == 200
        assert gateway.service.stop() == 0
    errors = {row["path"]: row["error"] for row in gateway.exchanges()}
    assert errors == {"/": None, "/v1/messages": "gateway_stopped"}


def test_a_client_that_sends_without_end_is_held_back(start):
    gateway = start("turns: [{text: x, latency_s: 60}]")
    with send_only(gateway) as connection:
        connection.settimeout(1)
        with pytest.raises(TimeoutError):
            for _ in range(200):
                connection.sendall(bytes(1_000_000))
        assert gateway.call("HEAD", "/")[0] == 200


def test_half_a_request_is_no_exchange(start):
    gateway = start()
    head = b"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: %s\r\ncontent-length: 9\r\n\r\n{"
    for part in (b"POST /v1/mess", head % TOKEN.encode()):
        with gateway.socket() as connection:
            connection.sendall(part)
    gateway.call("HEAD", "/")
    assert [row["path"] for row in gateway.exchanges(1)] == ["/"]
    assert gateway.errors.read_text(encoding="utf-8") == ""


def test_what_runs_when_the_gateway_ends_is_written_down(start):
    gateway = start("turns: [{text: x, latency_s: 60}]")
    with send_only(gateway):
        wait_until(lambda: active(gateway) == 1)
        os.kill(gateway.pid, signal.SIGTERM)
        assert gateway.service._process.wait(5) == 0
    assert gateway.exchanges()[0]["error"] == "gateway_stopped"


def test_every_line_has_every_field(start):
    gateway = start()
    gateway.call("HEAD", "/")
    gateway.ask([user("Go.")])
    gateway.call("GET", "/nowhere")
    rows = gateway.exchanges(3)
    assert all(set(row) == FIELDS for row in rows)
    assert [row["seq"] for row in rows] == [1, 2, 3]
    assert all(row["start_ns"] <= row["first_byte_ns"] <= row["end_ns"] for row in rows)


def test_a_line_is_there_as_soon_as_its_exchange_is_over(start):
    gateway = start()
    assert gateway.exchanges() == []
    for count in range(1, 4):
        gateway.call("HEAD", "/")
        assert len(gateway.exchanges(count)) == count
    assert gateway.log.read_bytes().endswith(b"\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full to be a full disk")
def test_a_full_disk_stops_no_run_but_is_an_error(start):
    gateway = start(log="/dev/full")
    assert gateway.call("HEAD", "/")[0] == 200
    assert gateway.ask([user("Go.")])["stop_reason"] == "tool_use"
    assert "No space left on device" in gateway.service.ask({"cmd": "status"})["log_failed"]
    assert gateway.service.stop() == 1
    (line,) = gateway.errors.read_text(encoding="utf-8").splitlines()
    assert line == "log: /dev/full: No space left on device; exchanges are missing from it"


# The process


def test_status_tells_of_traffic(start):
    gateway = start()
    assert gateway.service.ask({"cmd": "status"}) == {
        "last_byte_ns": None,
        "active": 0,
        "exchanges": 0,
        "log_failed": None,
        "budget": {"refused": None, "turns": 0, "cost_usd": None},
    }
    before_ns = time.monotonic_ns()
    gateway.call("HEAD", "/")
    # The client has its answer a moment before the gateway has counted it.
    wait_until(lambda: gateway.service.ask({"cmd": "status"})["exchanges"])
    status = gateway.service.ask({"cmd": "status"})
    assert before_ns < status["last_byte_ns"] < time.monotonic_ns()
    assert status["exchanges"] == 1
    assert "allowed is status" in gateway.service.ask({"cmd": "dance"})["error"]
    assert "allowed is status" in gateway.service.ask(["status"])["error"]


def run_gateway(line: bytes) -> tuple[int, str, str]:
    ended = subprocess.run(
        [sys.executable, "-m", "agentsweep.gateway"], input=line, capture_output=True, timeout=20
    )
    return ended.returncode, ended.stdout.decode(), ended.stderr.decode()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"mode": "psychic"},
            "gateway: mode: 'psychic' is not allowed; write scripted or replay or live",
        ),
        ({"token": ""}, "gateway: token: missing; write a text"),
        ({"log": None}, "gateway: log: missing; write a text"),
        (
            {"latency_scale": -1},
            "gateway: latency_scale: -1 is not allowed; write a number from .*",
        ),
        ({"latency_scale": True}, "gateway: latency_scale: True is not allowed; .*"),
        ({"speed": 1}, "gateway: unknown key 'speed'"),
        ({"scenario": "none.yaml"}, "none.yaml: there is no such file"),
        ({"listen": "tcp:0.0.0.0:80"}, "listen: 'tcp:0.0.0.0:80' is not allowed; write tcp:.*"),
        ({"log": "/none/api.jsonl"}, "log: /none/api.jsonl cannot be written: No such file .*"),
    ],
)
def test_settings_that_cannot_be_served(tmp_path, change, expected):
    (tmp_path / "s.yaml").write_text(BASIC, encoding="utf-8")
    settings = {
        "mode": "scripted",
        "scenario": str(tmp_path / "s.yaml"),
        "listen": "tcp:127.0.0.1:0",
        "log": str(tmp_path / "api.jsonl"),
        "token": TOKEN,
    }
    code, said, errors = run_gateway(json.dumps(settings | change).encode() + b"\n")
    assert (code, said) == (2, "")
    (line,) = errors.splitlines()
    assert re.fullmatch(expected, line)
    assert TOKEN not in errors


@pytest.mark.parametrize("line", [b"", b"\n", b"[]\n", b"{\n", b"\xff\n"])
def test_a_first_line_that_is_no_settings(line):
    code, said, errors = run_gateway(line)
    assert (code, said) == (2, "")
    assert errors == "gateway: the first line on stdin must be a JSON object\n"


def test_a_broken_scenario_is_told_line_by_line(tmp_path):
    (tmp_path / "s.yaml").write_text("turns: [{text: 4}, {txt: x}]\n", encoding="utf-8")
    settings = {"mode": "scripted", "listen": "tcp:127.0.0.1:0", "log": str(tmp_path / "l")}
    settings |= {"token": TOKEN, "scenario": str(tmp_path / "s.yaml")}
    code, _, errors = run_gateway(json.dumps(settings).encode() + b"\n")
    assert code == 2
    assert all(line.startswith(f"{tmp_path}/s.yaml: turn ") for line in errors.splitlines())


def test_commands_that_come_with_the_settings_are_obeyed(tmp_path):
    (tmp_path / "s.yaml").write_text(BASIC, encoding="utf-8")
    settings = {"mode": "scripted", "listen": "tcp:127.0.0.1:0", "log": str(tmp_path / "l")}
    settings |= {"token": TOKEN, "scenario": str(tmp_path / "s.yaml")}
    command = [sys.executable, "-m", "agentsweep.gateway"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdin.write(json.dumps(settings).encode() + b'\n{"cmd": "status"}\n')
        process.stdin.flush()
        # Answered while stdin is still open.
        ready, status = (json.loads(process.stdout.readline()) for _ in range(2))
        process.stdin.close()
        assert process.wait(10) == 0
    assert (ready["ready"], status["exchanges"]) == (True, 0)


def test_it_ends_with_its_parent(tmp_path):
    (tmp_path / "s.yaml").write_text(BASIC, encoding="utf-8")
    settings = {"mode": "scripted", "listen": f"unix:{tmp_path}/s", "log": str(tmp_path / "l")}
    settings |= {"token": TOKEN, "scenario": str(tmp_path / "s.yaml")}
    # The grandchild's stdin is held open by us, so that only its parent's death can end it.
    reading, writing = os.pipe()
    os.write(writing, json.dumps(settings).encode() + b"\n")
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import subprocess, sys, time\n"
            "p = subprocess.Popen([sys.executable, '-m', 'agentsweep.gateway'], stdin=0)\n"
            "print(p.pid, flush=True)\n"
            "time.sleep(600)\n",
        ],
        stdin=reading,
        stdout=subprocess.PIPE,
    )
    os.close(reading)
    child = int(parent.stdout.readline())
    assert json.loads(parent.stdout.readline())["ready"]
    parent.kill()
    parent.wait()
    parent.stdout.close()
    with contextlib.suppress(ProcessLookupError):
        watched = os.pidfd_open(child)
        wait_until(lambda: not Path(f"/proc/{child}").exists() or _is_zombie(child))
        os.close(watched)
    os.close(writing)
    assert not (tmp_path / "s").exists()


def _is_zombie(pid: int) -> bool:
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
            == "Z"
        )
    except OSError:
        return True


def test_a_thousand_connections_leave_nothing_open(start):
    gateway = start("turns: [{text: x}]")
    descriptors = Path(f"/proc/{gateway.pid}/fd")
    gateway.ask([user("Go.")])
    wait_until(lambda: active(gateway) == 0)
    before = len(list(descriptors.iterdir()))
    for number in range(1000):
        with gateway.socket() as connection:
            if number % 3 == 0:
                connection.sendall(b"HEAD / HTTP/1.1\r\nhost: x\r\n\r\n")
                connection.recv(1000)
            elif number % 3 == 1:
                connection.sendall(b"HEAD")
    wait_until(lambda: len(list(descriptors.iterdir())) <= before)


def test_starting_loads_nothing_heavy():
    code = (
        "import sys, agentsweep.gateway\n"
        "heavy = {'jsonschema', 'pandas', 'pyarrow', 'numpy', 'matplotlib', 'http.server'}\n"
        "print(sorted(heavy & sys.modules.keys()))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert ended.stdout == b"[]\n"
