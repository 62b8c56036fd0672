"""The Messages API as text: what a request says, and how an answer or an error is written.

Knows neither sockets nor scenarios.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

# Lengths are all that a scripted answer knows of its tokens: about four bytes of English or code
# make one.
BYTES_PER_TOKEN = 4
# Values of one request's JSON. A million tokens hold fewer; each takes up to some 110 bytes of
# memory, and as few as one and a half on the wire.
MAX_VALUES = 1_000_000
MAX_NAME_CHARS = 256

ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    405: "invalid_request_error",
    413: "request_too_large",
    415: "invalid_request_error",
    429: "rate_limit_error",
    529: "overloaded_error",
}

# What the CLI says when it asks for the summary that replaces a conversation, and what the
# conversation that follows begins with.
_SUMMARY_REQUEST = "CRITICAL: Respond with TEXT ONLY"
_SUMMARY_START = "This session is being continued from a previous conversation"

# What the CLI says when a stream broke off after its first whole block, which it then keeps.
_CUT_OFF = "Your response above was cut off mid-stream"


class BadRequest(Exception):
    """A request body that the Messages API would refuse with 400."""


class ToolResult(NamedTuple):
    """What one tool call gave back: its text (of all text blocks) and whether it is an error."""

    text: str
    is_error: bool


@dataclass(frozen=True)
class Usage:
    """Tokens of one message, as the API counts them: input_tokens leaves out what was cached."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0


@dataclass(frozen=True)
class Message:
    """An assistant message. Content blocks are in the API's form; a thinking block carries its
    signature."""

    id: str
    model: str
    content: tuple[dict[str, Any], ...]
    stop_reason: str
    usage: Usage


@dataclass
class MessagesRequest:
    """A request for a message: who asks, and what the conversation holds so far.

    max_tokens: how many the answer may have, None where the request does not say. tools: names of
    the client's own tools that it offers, without those that the API has. said: the ids of the tool
    calls of each assistant message, in order; results: what each call gave back, where the
    conversation says so. ended: an assistant message without a tool call follows the last one with
    a call. cut_off: the client has part of that message and wants it again. summary: None, `wanted`
    (the client asks for a summary of the conversation) or `given` (the conversation begins with
    one).
    """

    model: str
    stream: bool
    max_tokens: int | None
    tools: frozenset[str]
    agent_id: str | None
    session_id: str | None
    size_bytes: int
    sha256: str
    opening: tuple[str, ...] = ()
    said: list[tuple[str, ...]] = field(default_factory=list)
    results: dict[str, ToolResult] = field(default_factory=dict)
    ended: bool = False
    cut_off: bool = False
    summary: str | None = None

    @classmethod
    def parse(cls, body: bytes, headers: dict[str, str]) -> "MessagesRequest":
        """Raises BadRequest with one sentence. `headers` has lower-case names."""
        return cls.of(json_object(body), body, headers)

    @classmethod
    def of(cls, content: dict[str, Any], body: bytes, headers: dict[str, str]) -> "MessagesRequest":
        """The same for a body that was read already: `content` is what `json_object` made of it."""
        messages, model = content.get("messages"), content.get("model")
        if not isinstance(messages, list) or not messages:
            raise BadRequest("messages: at least one message is required")
        if not all(isinstance(message, dict) for message in messages):
            raise BadRequest("messages: each message must be an object")
        if not isinstance(model, str) or not model:
            raise BadRequest("model: a model name is required")
        if len(model) > MAX_NAME_CHARS:
            raise BadRequest(f"model: a name has at most {MAX_NAME_CHARS} characters")
        request = cls(
            model=model,
            stream=content.get("stream") is True,
            max_tokens=_max_tokens(content.get("max_tokens")),
            tools=_tools(content.get("tools")),
            agent_id=headers.get("x-claude-code-agent-id", "")[:MAX_NAME_CHARS] or None,
            session_id=headers.get("x-claude-code-session-id", "")[:MAX_NAME_CHARS] or None,
            size_bytes=len(body),
            sha256=hashlib.sha256(body).hexdigest(),
        )
        request._read(messages)
        return request

    def _read(self, messages: list[dict[str, Any]]) -> None:
        last_user: tuple[str, ...] = ()
        for message in messages:
            # Newer CLIs put messages of the role `system` among the others; they are no turn.
            if message.get("role") == "assistant":
                ids = (block.get("id") for block in _blocks(message, "tool_use"))
                calls = tuple(call for call in ids if isinstance(call, str) and call)
                self.said.append(calls)
                self.ended = not calls
            elif message.get("role") == "user":
                last_user = tuple(_text(block) for block in _blocks(message, "text"))
                self.opening = self.opening or last_user
                for block in _blocks(message, "tool_result"):
                    result = ToolResult(_text_of(block.get("content")), bool(block.get("is_error")))
                    self.results[str(block.get("tool_use_id"))] = result
        self.cut_off = any(text.startswith(_CUT_OFF) for text in last_user)
        if any(text.startswith(_SUMMARY_REQUEST) for text in last_user):
            self.summary = "wanted"
        elif any(text.startswith(_SUMMARY_START) for text in self.opening):
            self.summary = "given"

    @property
    def tool_calls(self) -> list[str]:
        """The ids of all tool calls, in order."""
        return [call for calls in self.said for call in calls]

    @property
    def is_of_main(self) -> bool:
        """Whether it belongs to the main conversation: neither a sub-agent's, nor an errand of the
        client's own, which offers no tools."""
        return self.agent_id is None and bool(self.tools)

    @property
    def input_tokens(self) -> int:
        """An estimate from the request's size; see BYTES_PER_TOKEN."""
        return tokens_in(self.size_bytes)


def count_tokens(body: bytes) -> int:
    """The same estimate for a request to count_tokens; raises BadRequest."""
    json_object(body)
    return tokens_in(len(body))


def tokens_in(size_bytes: int) -> int:
    """About how many tokens so many bytes of text are; rounded up."""
    return -(-size_bytes // BYTES_PER_TOKEN)


def output_tokens(content: tuple[dict[str, Any], ...]) -> int:
    """An estimate from the bytes that the model would have written; at least 1."""
    size = 0
    for block in content:
        written = block.get("text") or block.get("thinking") or ""
        if block["type"] == "tool_use":
            written = block["name"] + json.dumps(block["input"])
        # A session may be cut within a surrogate pair, and hold blocks of any shape.
        size += len(written.encode("utf-8", "replace")) if isinstance(written, str) else 0
    return max(1, tokens_in(size))


# Writing


def message_body(message: Message) -> bytes:
    """The answer to a request that does not stream."""
    return _dump(
        _envelope(message, list(message.content), message.stop_reason)
        | {"usage": _usage(message.usage)}
    )


def stream_parts(message: Message, chunk_chars: int) -> list[bytes]:
    """The same message as server-sent events, cut where a model's stream has its pauses.

    The first part opens the message, the last one closes it, and each one between holds one
    delta of at most chunk_chars characters, with what opens or closes its block.
    """
    parts = [encode(start_event(message)) + encode({"type": "ping"})]
    for index, block in enumerate(message.content):
        opening, *deltas, closing = map(encode, block_events(index, block, chunk_chars))
        if not deltas:
            deltas = [b""]
        deltas[0] = opening + deltas[0]
        deltas[-1] += closing
        parts += deltas
    return [*parts, b"".join(map(encode, end_events(message)))]


def start_event(message: Message) -> dict[str, Any]:
    """The event that opens a message."""
    # As the API does it: the real count of output tokens comes with the end.
    usage = _usage(message.usage) | {"output_tokens": 1}
    return {"type": "message_start", "message": _envelope(message, [], None) | {"usage": usage}}


def block_events(index: int, block: dict[str, Any], chunk_chars: int) -> list[dict[str, Any]]:
    """The events of one content block: it opens, is filled by deltas, and closes.

    A block of a kind that has no deltas (`redacted_thinking`) is whole when it opens.
    """
    empty, deltas = _block_deltas(block, chunk_chars)
    return [
        {"type": "content_block_start", "index": index, "content_block": empty},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def end_events(message: Message) -> list[dict[str, Any]]:
    """The events that close a message: why it stopped, and its tokens."""
    delta = {"stop_reason": message.stop_reason, "stop_sequence": None}
    return [
        {"type": "message_delta", "delta": delta, "usage": _usage(message.usage)},
        {"type": "message_stop"},
    ]


def encode(event: dict[str, Any]) -> bytes:
    """One event as it goes over the wire."""
    return b"event: %s\ndata: %s\n\n" % (event["type"].encode("utf-8", "replace"), _dump(event))


def error_body(status: int, said: str, request_id: str | None = None) -> bytes:
    """An error in the API's form; its type follows from the HTTP status."""
    return _dump(error_object(error_type(status), said) | {"request_id": request_id})


def error_type(status: int) -> str:
    """The API's name for an HTTP status of 400 and more."""
    return ERROR_TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")


def error_object(kind: str, said: str) -> dict[str, Any]:
    return {"type": "error", "error": {"type": kind, "message": said}}


def error_event(kind: str, said: str) -> bytes:
    """An error that comes when the stream has begun."""
    return b"event: error\ndata: " + _dump(error_object(kind, said)) + b"\n\n"


def broken_event() -> bytes:
    """A stream event whose data ends in the middle."""
    delta = {"type": "text_delta", "text": "..."}
    whole = encode({"type": "content_block_delta", "index": 0, "delta": delta})
    return whole[: len(whole) * 2 // 3].rstrip() + b"\n\n"


def _envelope(
    message: Message, content: list[dict[str, Any]], stop_reason: str | None
) -> dict[str, Any]:
    return {
        "id": message.id,
        "type": "message",
        "role": "assistant",
        "model": message.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
    }


def _usage(usage: Usage) -> dict[str, Any]:
    created = usage.cache_creation_input_tokens
    return {
        "input_tokens": usage.input_tokens,
        "cache_creation_input_tokens": created,
        "cache_read_input_tokens": usage.cache_read_input_tokens,
        "cache_creation": {"ephemeral_5m_input_tokens": created, "ephemeral_1h_input_tokens": 0},
        "output_tokens": usage.output_tokens,
        "service_tier": "standard",
    }


def _block_deltas(
    block: dict[str, Any], chunk_chars: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A block as it opens, still empty, and the deltas that fill it."""
    match block["type"]:
        case "text":
            deltas = [{"type": "text_delta", "text": t} for t in _cut(block["text"], chunk_chars)]
            return {"type": "text", "text": ""}, deltas
        case "thinking":
            pieces = _cut(block["thinking"], chunk_chars)
            deltas = [{"type": "thinking_delta", "thinking": t} for t in pieces]
            deltas.append({"type": "signature_delta", "signature": block["signature"]})
            return {"type": "thinking", "thinking": "", "signature": ""}, deltas
        case "tool_use":
            pieces = _cut(json.dumps(block["input"]), chunk_chars)
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces]
            return {**block, "input": {}}, deltas
    return block, []


def _cut(text: str, size: int) -> Iterator[str]:
    for start in range(0, len(text), size):
        yield text[start : start + size]


def _dump(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


# Reading


def _tools(tools: Any) -> frozenset[str]:
    offered = [tool for tool in tools if isinstance(tool, dict)] if isinstance(tools, list) else []
    own = (tool.get("name") for tool in offered if tool.get("type") in (None, "custom"))
    return frozenset(name for name in own if isinstance(name, str))


def json_object(body: bytes) -> dict[str, Any]:
    """The one object of a body; BadRequest for anything else, before it takes memory.

    How deep it may be is bounded by the parser (RecursionError), how many values it has here. A key
    that comes twice is refused: of two values another reader may take the other one.
    """
    if _has_too_many_values(body):
        raise BadRequest(f"the request body has more than {MAX_VALUES} values")
    try:
        # Decoded here, because json.loads would take UTF-16 too, in which nothing was counted.
        content = json.loads(body.decode(), object_pairs_hook=_without_repeats)
    except (ValueError, RecursionError):
        raise BadRequest("the request body is not valid JSON") from None
    if not isinstance(content, dict):
        raise BadRequest("the request body must be a JSON object")
    return content


def _has_too_many_values(body: bytes) -> bool:
    """Whether JSON text has more than MAX_VALUES values, by its commas and opening brackets: in
    linear time and without making the values."""
    # `[],` is two of them in three bytes, and nothing is shorter.
    if len(body) * 2 <= MAX_VALUES * 3:
        return False
    if sum(map(body.count, (b",", b"[", b"{"))) <= MAX_VALUES:
        return False
    # Those within strings do not count. Without its escapes, text has each quote at an end of one.
    plain = body.replace(rb"\\", b"").replace(rb"\"", b"")
    if plain.count(b'"') > 4 * MAX_VALUES:
        return True
    outside = b"".join(plain.split(b'"')[::2])
    return sum(map(outside.count, (b",", b"[", b"{"))) > MAX_VALUES


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise BadRequest("the request body has a key twice in one object")
    return made


def _max_tokens(value: Any) -> int | None:
    """Refused unless it is a whole number: an endpoint may take `1e5` or `"100000"` for one, and
    what the answer may cost is reserved by it."""
    if value is None or (type(value) is int and value >= 0):
        return value
    raise BadRequest("max_tokens: a whole number is required")


def _blocks(message: dict[str, Any], kind: str) -> Iterator[dict[str, Any]]:
    content = message.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    for block in content if isinstance(content, list) else ():
        if isinstance(block, dict) and block.get("type") == kind:
            yield block


def _text_of(content: Any) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(_text(block) for block in _blocks({"content": content}, "text"))


def _text(block: dict[str, Any]) -> str:
    text = block.get("text")
    return text if isinstance(text, str) else ""
