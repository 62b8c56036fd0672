"""What the agent's output stream and the gateway's log say about how a run ended."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path


def read_stream(path: Path) -> dict:
    """From the CLI's output stream: the final `result` event, and how many assistant messages.

    Synthetic messages (the CLI's own words after an API error) do not count, nor do empty ones.
    """
    result, messages = None, set()
    with path.open("rb") as lines:
        for line in lines:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if not isinstance(event, dict):
                continue
            if event.get("type") == "result":
                result = event
            message = event.get("message") or {}
            if event.get("type") == "assistant" and message.get("model") != "<synthetic>":
                for block in message.get("content") or []:
                    if block.get("type") == "tool_use" or (block.get("text") or "").strip():
                        messages.add(message.get("id"))
    return {"result": result, "assistant_messages": len(messages)}


def api_statuses(path: Path) -> Iterator[int | None]:
    """The status of each exchange that the gateway wrote down, in order."""
    with path.open("rb") as lines:
        for line in lines:
            with contextlib.suppress(ValueError):
                yield json.loads(line).get("status")
