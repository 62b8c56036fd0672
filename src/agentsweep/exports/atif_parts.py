"""The parts of an ATIF trajectory that one message or one tool call makes: see `atif`."""

import math
from collections.abc import Iterable
from typing import Any

from agentsweep.agents.claude_code.records import (
    Message,
    ToolCall,
    Usage,
    as_text,
    format_time,
    result_text,
)

# Columns of `tool_calls`. A memory peak is there only where the kernel's counter gave it.
_CALL_COLUMNS = """category requested_utc_ns start_utc_ns end_utc_ns duration_s duration_lower_s
    time_source mem_peak_bytes mem_peak_source cpu_usec oom_kill_count"""
_RESULT_COLUMNS = """is_error exit_code timed_out killed interrupted background background_status
    result_chars"""
# What of an answer is exported; blocks of other types are counted in its step.
_BLOCKS = ("text", "thinking", "tool_use")

# An object of the format, as it is written.
Json = dict[str, Any]

EMPTY_STEP: Json = {
    "source": "system",
    "message": "No message of this conversation was recorded.",
    "extra": {"kind": "empty"},
}


def is_answer(message: Message) -> bool:
    """Whether a model gave it: the CLI writes of failed requests as if it were one."""
    return message.role == "assistant" and message.kind != "error"


def agent_step(message: Message) -> Json:
    """A step of the agent, without its tools. What the CLI says of a failed request is one too."""
    blocks = [block for _, block in message.content or ()]
    thoughts = (as_text(b.get("thinking")) for b in blocks if b.get("type") == "thinking")
    reasoning = "\n".join(thought for thought in thoughts if thought)
    step = {**_stamp(message), "source": "agent", "message": text_of(message)}
    extra: Json = {"message_id": message.key, "kind": message.kind}
    if message.abandoned:
        extra |= {"abandoned": True}
    if not is_answer(message):
        return step | {"llm_call_count": 0, "extra": extra}
    others = {kind: n for kind, n in message.blocks.items() if kind not in _BLOCKS}
    return {
        **step,
        **({"model_name": message.model} if message.model else {}),
        **({"reasoning_content": reasoning} if reasoning else {}),
        "metrics": _metrics(message.whole_usage),
        "llm_call_count": 1,
        "extra": {
            **extra,
            **({"stop_reason": message.stop_reason} if message.stop_reason else {}),
            **({"blocks_left_out": _clean(others)} if others else {}),
        },
    }


def user_step(message: Message, text: str) -> Json:
    """What went to the model beside tool results: from the user, else (`extra.kind`) the CLI."""
    source = "user" if message.kind in ("prompt", "interrupt") else "system"
    extra: Json = {"message_id": message.key, "kind": message.kind}
    return {**_stamp(message), "source": source, "message": text, "extra": extra}


def _stamp(message: Message) -> Json:
    time = format_time(message.first_utc_ns)
    return {"timestamp": time} if time else {}


def text_of(message: Message) -> str:
    """All text of a message, its blocks joined by line ends."""
    return as_text(result_text([block for _, block in message.content or ()])) or ""


def _metrics(usage: Usage) -> Json:
    """Tokens of one API message; `output_tokens_final` false: no more than a lower bound of them.

    ATIF's prompt is all of it; the API's `input_tokens` leave out what came from the cache or went
    into it.
    """
    return {
        "prompt_tokens": _prompt_tokens(usage),
        "completion_tokens": usage.output_tokens,
        "cached_tokens": usage.cache_read_input_tokens,
        "extra": {
            "cache_creation_input_tokens": usage.cache_creation_input_tokens,
            "output_tokens_final": usage.output_final,
        },
    }


def final_metrics_of(usages: list[Usage], steps: int) -> Json:
    """Sums over the steps of one conversation, without its sub-agents."""
    return {
        "total_prompt_tokens": sum(map(_prompt_tokens, usages)),
        "total_completion_tokens": sum(usage.output_tokens for usage in usages),
        "total_cached_tokens": sum(usage.cache_read_input_tokens for usage in usages),
        "total_steps": steps,
        "extra": {"output_tokens_final": all(usage.output_final for usage in usages)},
    }


def _prompt_tokens(usage: Usage) -> int:
    return usage.total - usage.output_tokens


def tool_call(call: ToolCall, row: Json) -> Json:
    """A tool call, with what its row in `tool_calls` says of times and memory."""
    extra = known(row, _CALL_COLUMNS.split())
    try:
        arguments = _clean(call.input)
    except RecursionError:
        arguments, extra = {}, extra | {"arguments_left_out": "nested too deeply"}
    return {
        "tool_call_id": call.id,
        "function_name": call.name,
        "arguments": arguments,
        "extra": extra,
    }


def result_of(call: ToolCall, row: Json, references: list[Json]) -> Json:
    """A call's result. One that never came has no content, but may have started a sub-agent."""
    made = {"source_call_id": call.id, "extra": known(row, ("finished", *_RESULT_COLUMNS.split()))}
    if call.finished:
        made["content"] = call.result_text or ""
    return made | ({"subagent_trajectory_ref": references} if references else {})


def known(row: Json, names: Iterable[str]) -> Json:
    """The columns that have a value."""
    return {name: row[name] for name in names if row.get(name) is not None}


def _clean(value: object) -> object:
    """A value as JSON and UTF-8 can hold it: no halves of emojis, no NaN (Python's JSON has it)."""
    if isinstance(value, str):
        return as_text(value)
    if isinstance(value, dict):
        return {as_text(key): _clean(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
