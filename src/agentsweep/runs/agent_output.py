"""What an agent's output stream says about how its run ended: a claim, and no more than that.

A tool can write into the stream. So nothing is decided by it that the exit code or the gateway
knows, of its final event only known fields are kept, and what contradicts the facts is named.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypedDict

from agentsweep import untrusted
from agentsweep.containers.client import last_line
from agentsweep.extraction import gateway_facts
from agentsweep.extraction.gateway_facts import Facts

_LAST_BYTES = 65536
_TEXT_CHARACTERS, _WORD_CHARACTERS = 4096, 200
_LARGEST = 2**63 - 1
# Ids that are told apart; what counts is whether there is any.
_MAX_MESSAGES = 10000

# The fields of the final event that are kept, by their kind. Others may be anything.
_TEXTS = ("result",)
_WORDS = (
    *("type", "subtype", "terminal_reason", "stop_reason", "session_id", "uuid"),
    "fast_mode_state",
)
_FLAGS = ("is_error",)
_WHOLES = (
    *("api_error_status", "num_turns", "duration_ms", "duration_api_ms", "ttft_ms"),
    *("ttft_stream_ms", "first_content_frame_ms", "time_to_request_ms", "queued_turn_count"),
    *("result_index", "safety_stops"),
)
_NUMBERS = ("total_cost_usd",)
# What the CLI counts of each model, and what the gateway calls it.
_MODEL_TOKENS = {
    "inputTokens": "input_tokens",
    "outputTokens": "output_tokens",
    "cacheReadInputTokens": "cache_read_input_tokens",
    "cacheCreationInputTokens": "cache_creation_input_tokens",
}
_MAX_MODELS = 100


class Claims(TypedDict):
    """What an output stream says; see `read_stream`."""

    result: dict[str, Any] | None
    result_events: int
    assistant_messages: int


def read_stream(path: Path) -> Claims:
    """From the CLI's output stream: the final `result` event, and how many assistant messages.

    `result` has known fields of the event alone (`known_fields`), None without an event;
    `result_events` is how many events there are. Synthetic messages (the CLI's own words after an
    API error) do not count, nor do empty ones.
    """
    result: dict[str, Any] | None = None
    events, messages = 0, set[int]()
    for event in untrusted.objects(path):
        if event.get("type") == "result":
            result, events = known_fields(event), events + 1
        message = event.get("message")
        if event.get("type") != "assistant" or not isinstance(message, dict):
            continue
        if message.get("model") == "<synthetic>" or len(messages) >= _MAX_MESSAGES:
            continue
        if _says_something(message.get("content")):
            messages.add(hash(str(message.get("id"))))
    return {"result": result, "result_events": events, "assistant_messages": len(messages)}


def known_fields(event: dict[str, Any]) -> dict[str, Any]:
    """The known scalar fields of a result event, each of its type and bounded; `tokens` are the
    sums over its models. Fields of another type are left out."""
    kept: dict[str, Any] = {}
    for name, value in event.items():
        if name in _TEXTS and type(value) is str:
            kept[name] = _text(value, _TEXT_CHARACTERS)
        elif name in _WORDS and type(value) is str:
            kept[name] = _text(value, _WORD_CHARACTERS)
        elif (name in _FLAGS and type(value) is bool) or (name in _WHOLES and _is_whole(value)):
            kept[name] = value
        elif name in _NUMBERS and type(value) in (int, float) and abs(value) < 1e15:
            kept[name] = float(value)
        elif name == "api_error_status" and value is None:
            kept[name] = None
    models = event.get("modelUsage")
    if isinstance(models, dict) and len(models) <= _MAX_MODELS:
        usages = [usage for usage in models.values() if isinstance(usage, dict)]
        sums = {
            ours: sum(usage[theirs] for usage in usages if _is_whole(usage.get(theirs)))
            for theirs, ours in _MODEL_TOKENS.items()
        }
        if usages and all(map(_is_whole, sums.values())):
            kept["tokens"] = sums
    return kept


def disagreements(
    result: dict[str, Any] | None, result_events: int, exit_code: int | None, facts: Facts
) -> dict[str, str]:
    """What the stream's final event says against what the exit code and the gateway say.

    {field: "said <claim>, seen <fact>"}; empty where they agree or nothing can be compared.
    """
    found = {}
    if result_events > 1:
        found["result_events"] = f"said {result_events} times how it ended, seen one end"
    if result is None:
        if exit_code == 0:
            found["result"] = "said nothing, seen exit code 0"
        return found
    is_error, reason = result.get("is_error"), result.get("terminal_reason")
    # Other codes are of signals, before or after which anything may have been said.
    if exit_code in (0, 1) and is_error is not None and is_error != (exit_code == 1):
        found["is_error"] = f"said {is_error}, seen exit code {exit_code}"
    if reason == "max_turns" and exit_code not in (1, None):
        found["terminal_reason"] = f"said {reason}, seen exit code {exit_code}"
    if not facts.readable:
        return found
    if reason == "completed" and is_error is False and facts.final is False:
        found["terminal_reason"] = f"said {reason}, seen the stop reason {facts.stop_reason}"
    if reason == "api_error" and facts.last_status == 200 and not facts.odd_end:
        found["terminal_reason"] = f"said {reason}, seen status 200 of the last answer"
    if reason == "max_turns" and facts.final:
        found["terminal_reason"] = f"said {reason}, seen the stop reason {facts.stop_reason}"
    turns, most = result.get("num_turns"), facts.asked + facts.tool_calls + 1
    if turns is not None and not 0 <= turns <= most:
        found["num_turns"] = f"said {turns}, seen at most {most}"
    return found | _differing_tokens(result, facts)


def _differing_tokens(result: dict[str, Any], facts: Facts) -> dict[str, str]:
    """Where an event's tokens are not the gateway's; under `tokens` where they are far off."""
    said, seen = result.get("tokens"), facts.tokens
    if said is None:
        cost_usd = result.get("total_cost_usd")
        if cost_usd and any(seen.values()):
            return {"total_cost_usd": f"said {cost_usd:g} without tokens"}
        return {}
    if not facts.whole:
        # Of an answer that breaks off, each side may know another part.
        return {}
    whole_said, whole_seen = sum(said.values()), sum(seen.values())
    if not whole_seen / 2 <= whole_said <= whole_seen * 2:
        return {"tokens": f"said {whole_said}, seen {whole_seen}"}
    return {
        name: f"said {said[name]}, seen {seen[name]}"
        for name in gateway_facts.TOKENS
        if said[name] != seen[name]
    }


# What shows that the numbers of an event are made up.
_NUMERIC = ("num_turns", "total_cost_usd", "tokens")


def believed(result: dict[str, Any] | None, differs: Iterable[str]) -> dict[str, Any] | None:
    """The final event as far as it may be used: nothing of one whose numbers are made up."""
    return None if set(differs) & set(_NUMERIC) else result


def last_words(path: Path) -> str:
    """The last line that says something in a file of any size."""
    with os.fdopen(untrusted.open_untrusted(path), "rb") as file:
        file.seek(max(0, file.seek(0, 2) - _LAST_BYTES))
        return last_line(file.read(_LAST_BYTES).decode(errors="replace"))


def _text(value: str, most: int) -> str:
    return value[:most].encode("utf-8", "replace").decode()


def _is_whole(value: object) -> bool:
    return type(value) is int and -_LARGEST <= value <= _LARGEST


def _says_something(content: object) -> bool:
    blocks = [b for b in content if isinstance(b, dict)] if isinstance(content, list) else []
    return any(b.get("type") == "tool_use" or str(b.get("text") or "").strip() for b in blocks)
