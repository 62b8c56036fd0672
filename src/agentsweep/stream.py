"""What the agent's output stream and the gateway's log say about how a run ended."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

from agentsweep.engine import last_line

_LINE_BYTES = 64 * 2**20
_LAST_BYTES = 65536


def read_stream(path: Path) -> dict:
    """From the CLI's output stream: the final `result` event, and how many assistant messages.

    Synthetic messages (the CLI's own words after an API error) do not count, nor do empty ones.
    """
    result, messages = None, set()
    for event in _events(path):
        if event.get("type") == "result":
            result = event
        message = event.get("message")
        if event.get("type") != "assistant" or not isinstance(message, dict):
            continue
        if message.get("model") != "<synthetic>" and _says_something(message.get("content")):
            messages.add(str(message.get("id")))
    return {"result": result, "assistant_messages": len(messages)}


def api_statuses(path: Path) -> Iterator[int | None]:
    """The status of each request for a message that the gateway wrote down, in order; None where
    what came with it was no message."""
    for event in _events(path):
        if event.get("path") == "/v1/messages":
            status = event.get("status")
            yield None if status == 200 and event.get("message_id") is None else status


def last_words(path: Path) -> str:
    """The last line that says something in a file of any size."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, 2) - _LAST_BYTES))
        return last_line(file.read().decode(errors="replace"))


def _says_something(content: object) -> bool:
    blocks = [b for b in content if isinstance(b, dict)] if isinstance(content, list) else []
    return any(b.get("type") == "tool_use" or str(b.get("text") or "").strip() for b in blocks)


def _events(path: Path) -> Iterator[dict]:
    """The JSON objects among the lines. A tool can write into the agent's output, so that it may
    hold anything: lines that are none, or are longer than any event, are passed over.
    """
    with path.open("rb") as file:
        while line := file.readline(_LINE_BYTES):
            if len(line) == _LINE_BYTES and not line.endswith(b"\n"):
                while rest := file.readline(_LINE_BYTES):
                    if rest.endswith(b"\n"):
                        break
                continue
            with contextlib.suppress(ValueError, RecursionError):
                event = json.loads(line)
                if isinstance(event, dict):
                    yield event
