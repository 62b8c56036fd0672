"""A gateway process, and a client of it that speaks as the CLI does."""

import contextlib
import http.client
import itertools
import json
import re
import socket
import time
from pathlib import Path

from agentsweep.host.processes import LineService

TOKEN = "canary-token-5f1c"

BASIC = """\
turns:
  - thinking: What is there?
    text: I will look first.
    tools:
      - Bash: {command: ls -la}
      - Read: {file_path: /testbed/x.py}
  - id: build
    text: Now the build.
    tools: [{Bash: {command: make}}]
    next:
      - if: {result_matches: Killed, is_error: true}
        goto: smaller
      - goto: done
  - id: smaller
    tools: [{Bash: {command: make small}}]
  - id: done
    text: Finished.
subagents:
  explore:
    marker: "[[explore]]"
    turns:
      - tools: [{Bash: {command: ls}}]
      - text: Explored.
"""


class Gateway:
    """A gateway process and a client of it."""

    def __init__(self, folder: Path, scenario: str, listen: str = "tcp:127.0.0.1:0", **more):
        self.log = folder / "api.jsonl"
        (folder / "scenario.yaml").write_text(scenario, encoding="utf-8")
        self.errors = folder / "stderr.txt"
        self.service = LineService("agentsweep.gateway", self.errors)
        started = {
            "mode": "scripted",
            "scenario": str(folder / "scenario.yaml"),
            "listen": listen,
            "log": str(self.log),
            "token": TOKEN,
            **more,
        }
        self.ready = self.service.ask(started)
        self.address = self.ready["address"]

    @property
    def pid(self) -> int:
        return self.service._process.pid

    def socket(self) -> socket.socket:
        if self.address.startswith("unix:"):
            made = socket.socket(socket.AF_UNIX)
            made.settimeout(20)
            made.connect(self.address.removeprefix("unix:"))
            return made
        host, port = self.address.removeprefix("http://").rsplit(":", 1)
        return socket.create_connection((host.strip("[]"), int(port)), timeout=20)

    def connect(self) -> http.client.HTTPConnection:
        connection = http.client.HTTPConnection("localhost")
        connection.sock = self.socket()
        return connection

    def call(self, method, path, body=None, headers=(), token=TOKEN, connection=None):
        """Status, headers and body of one exchange."""
        connection = connection or self.connect()
        given = {"x-api-key": token} if token else {}
        data = json.dumps(body) if isinstance(body, dict) else body
        connection.request(method, path, data, {**given, **dict(headers)})
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def ask(self, messages, stream=False, agent=None, session="s-1", tools=True, **more):
        """One request for a message: the message, put together from its stream where it is one."""
        status, _, body = self.call(
            "POST",
            "/v1/messages?beta=true",
            request(messages, stream, tools),
            **who(agent, session),
        )
        assert status == 200, body
        return assemble(body) if stream else json.loads(body)

    def exchanges(self, count=None) -> list[dict]:
        """The lines of the record; waits until there are `count` of them.

        A line that is being written is none yet.
        """
        deadline = time.monotonic() + 30
        while True:
            whole = self.log.read_bytes().rpartition(b"\n")[0]
            rows = [json.loads(line) for line in whole.splitlines()]
            if count is None or len(rows) >= count:
                return rows
            assert time.monotonic() < deadline, f"{len(rows)} exchanges, expected {count}"
            time.sleep(0.01)


@contextlib.contextmanager
def starter(folder: Path):
    """Gives a function that starts gateways, each in a directory of its own below `folder`."""
    with contextlib.ExitStack() as stack:
        numbers = itertools.count()

        def start(scenario: str = BASIC, **more) -> Gateway:
            own = folder / str(next(numbers))
            own.mkdir()
            gateway = Gateway(own, scenario, **more)
            stack.callback(gateway.service.stop)
            return gateway

        yield start


def request(messages, stream=False, tools=True, model="claude-test-1"):
    offered = {"tools": [{"name": "Bash", "input_schema": {}}]} if tools else {}
    return {"model": model, "max_tokens": 100, "stream": stream, "messages": messages, **offered}


def who(agent=None, session="s-1"):
    headers = {"x-claude-code-session-id": session}
    if agent:
        headers["x-claude-code-agent-id"] = agent
    return {"headers": headers}


def user(text):
    return {"role": "user", "content": [{"type": "text", "text": text}]}


def answered(message, *results):
    """An assistant message and what its tool calls gave: texts, or (text, is_error)."""
    blocks = []
    for block, result in zip(calls(message), results, strict=True):
        text, is_error = result if isinstance(result, tuple) else (result, False)
        blocks.append(
            {
                "type": "tool_result",
                "tool_use_id": block["id"],
                "content": [{"type": "text", "text": text}],
                **({"is_error": True} if is_error else {}),
            }
        )
    return [
        {"role": "assistant", "content": message["content"]},
        {"role": "user", "content": blocks},
    ]


def calls(message):
    return [block for block in message["content"] if block["type"] == "tool_use"]


def text_of(message):
    return "".join(block.get("text", "") for block in message["content"])


def events(body: bytes) -> list[dict]:
    found = []
    for part in body.decode().strip().split("\n\n"):
        kind, data = re.fullmatch(r"event: (\w+)\ndata: (.*)", part).groups()
        event = json.loads(data)
        assert event["type"] == kind
        found.append(event)
    return found


def assemble(body: bytes) -> dict:
    """The message that a stream's events make, as a client puts it together."""
    message, partial = None, {}
    for event in events(body):
        kind, index = event["type"], event.get("index")
        if kind == "message_start":
            message = event["message"]
        elif kind == "content_block_start":
            assert index == len(message["content"])
            message["content"].append(event["content_block"])
            partial[index] = ""
        elif kind == "content_block_delta":
            block, delta = message["content"][index], event["delta"]
            match delta["type"]:
                case "text_delta":
                    block["text"] += delta["text"]
                case "thinking_delta":
                    block["thinking"] += delta["thinking"]
                case "signature_delta":
                    block["signature"] += delta["signature"]
                case "input_json_delta":
                    partial[index] += delta["partial_json"]
        elif kind == "content_block_stop" and message["content"][index]["type"] == "tool_use":
            message["content"][index]["input"] = json.loads(partial[index])
        elif kind == "message_delta":
            message |= event["delta"]
            message["usage"] |= event["usage"]
    return message


def raw(gateway, data: bytes) -> bytes:
    """What comes back for these bytes until the gateway closes the connection."""
    with gateway.socket() as connection:
        connection.sendall(data)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer


def timing(row):
    return (row["first_byte_ns"] - row["start_ns"]) / 1e9, (row["end_ns"] - row["start_ns"]) / 1e9


def send_only(gateway, stream=True) -> socket.socket:
    """A connection on which a request was sent, and nothing read."""
    connection = gateway.socket()
    body = json.dumps(request([user("Go.")], stream))
    connection.sendall(
        f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {TOKEN}\r\n"
        f"content-length: {len(body)}\r\n\r\n{body}".encode()
    )
    return connection


def active(gateway) -> int:
    return gateway.service.ask({"cmd": "status"})["active"]


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)
