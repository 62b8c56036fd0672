"""Makes small Claude Code sessions for tests: the records of one file, as objects or as bytes."""

import json

SESSION = "0f0e0d0c-0b0a-4908-8706-050403020100"
MODEL = "claude-haiku-4-5-20251001"


def stamp(second: float) -> str:
    """The time stamp of a second after the session's beginning (12:00:00 UTC)."""
    millisecond = round(second * 1000)
    minute, rest = divmod(millisecond, 60_000)
    return f"2026-03-01T12:{minute:02d}:{rest // 1000:02d}.{rest % 1000:03d}Z"


class Session:
    """Collects records; every method adds one and returns it, so that a test can change it."""

    def __init__(self, version="2.1.330", session=SESSION, agent=None, prefix="u"):
        self.records: list[dict] = []
        self.version, self.session, self.agent, self.prefix = version, session, agent, prefix
        self.number = 0

    def common(self, kind: str, at: float | None, **more) -> dict:
        self.number += 1
        record = {
            "parentUuid": None,
            "isSidechain": self.agent is not None,
            "type": kind,
            "uuid": f"{self.prefix}-{self.number}",
            "sessionId": self.session,
            "version": self.version,
            "cwd": "/testbed",
        }
        if self.agent:
            record["agentId"] = self.agent
        if at is not None:
            record["timestamp"] = stamp(at)
        record.update(more)
        self.records.append(record)
        return record

    def user(self, text, at, **more) -> dict:
        return self.common("user", at, message={"role": "user", "content": text}, **more)

    def assistant(
        self, message_id, block, at, stop="tool_use", output=10, model=MODEL, usage=None, **more
    ) -> dict:
        usage = usage or {
            "input_tokens": 4,
            "output_tokens": output,
            "cache_read_input_tokens": 100,
            "cache_creation_input_tokens": 20,
        }
        message = {
            "id": message_id,
            "type": "message",
            "role": "assistant",
            "model": model,
            "content": [block],
            "stop_reason": stop,
            "usage": usage,
        }
        more.setdefault("requestId", f"req-{message_id}")
        return self.common("assistant", at, message=message, **more)

    def text(self, message_id, text, at, **more) -> dict:
        return self.assistant(message_id, {"type": "text", "text": text}, at, **more)

    def tool(self, message_id, tool_id, name, given, at, **more) -> dict:
        block = {"type": "tool_use", "id": tool_id, "name": name, "input": given}
        return self.assistant(message_id, block, at, **more)

    def bash(self, message_id, tool_id, command, at, **more) -> dict:
        return self.tool(message_id, tool_id, "Bash", {"command": command}, at, **more)

    def result(self, tool_id, content, at, is_error=False, details=None, **more) -> dict:
        block = {"type": "tool_result", "tool_use_id": tool_id, "content": content}
        block["is_error"] = is_error
        if details is not None:
            more["toolUseResult"] = details
        return self.common("user", at, message={"role": "user", "content": [block]}, **more)

    def other(self, kind, **more) -> dict:
        record = {"type": kind, "sessionId": self.session, **more}
        self.records.append(record)
        return record

    def lines(self) -> list[bytes]:
        return [encode(record) for record in self.records]

    def data(self) -> bytes:
        return b"".join(line + b"\n" for line in self.lines())


def encode(record: object) -> bytes:
    return json.dumps(record, separators=(",", ":"), ensure_ascii=False).encode(
        "utf-8", "surrogatepass"
    )


def succeeded(stdout: str = "") -> dict:
    """The details that the CLI gives with a Bash call that ended with 0."""
    return {"stdout": stdout, "stderr": "", "interrupted": False, "isImage": False}


def small_session(version: str = "2.1.330") -> Session:
    """Three messages, two tools; the tokens add up to 12 in, 60 out, 300 read, 60 created."""
    session = Session(version)
    session.other("queue-operation", operation="enqueue", timestamp=stamp(0), content="Fix it")
    session.user("Fix it", 1)
    session.text("m1", "I look.", 2, output=10)
    session.bash("m1", "t1", "ls -la", 2.1, output=10)
    session.result("t1", "a\nb", 3, details=succeeded("a\nb"))
    session.tool("m2", "t2", "Read", {"file_path": "/testbed/a"}, 4, output=20)
    session.result("t2", "1\ta", 5, details={"type": "text"})
    session.text("m3", "Done.", 6, stop="end_turn", output=30)
    session.other("last-prompt", lastPrompt="Fix it")
    return session
