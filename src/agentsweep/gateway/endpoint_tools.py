"""What a request asks of the endpoint beside an answer: tools that run there, sources that it
fetches, other models and dearer service.

An agent without a network would have one through these, so a request may hold only what is known
to stay between the agent and its model: an allow-list of fields, of tools that the client runs, and
of kinds of content. The rest has a name in `agent.endpoint_tools`, which allows it.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

WEB_SEARCH, WEB_FETCH, CODE_EXECUTION, MCP = "web_search", "web_fetch", "code_execution", "mcp"
URL_SOURCES, FILES, OTHER = "url_sources", "files", "other"
NAMES = (WEB_SEARCH, WEB_FETCH, CODE_EXECUTION, MCP, URL_SOURCES, FILES, OTHER)

_FIELDS = frozenset(
    (
        *("model", "messages", "system", "max_tokens", "stream", "metadata", "stop_sequences"),
        *("temperature", "top_p", "top_k", "tools", "tool_choice", "thinking", "output_config"),
        *("output_format", "context_management", "cache_control"),
        # Those that cost more are refused by value (_PLAIN_SERVICE).
        *("service_tier", "speed", "inference_geo"),
    )
)
_NAMED_FIELDS = {"mcp_servers": MCP, "container": CODE_EXECUTION}
# What costs what the price list says; a field that is not there has one of these.
_PLAIN_SERVICE = {
    "service_tier": (None, "auto", "standard", "standard_only"),
    "speed": (None, "standard"),
    "inference_geo": (None, "global", "not_available"),
}

_CLIENT_TOOL = re.compile(r"custom|(bash|text_editor|computer|memory)_[0-9]+")
_ENDPOINT_TOOL = re.compile(r"(web_search|web_fetch|code_execution|mcp)(_.*|)", re.DOTALL)

# Content that says something and fetches nothing.
_PLAIN = frozenset(
    (
        *("text", "thinking", "redacted_thinking", "tool_use", "tool_reference", "tool_removal"),
        "compaction",
    )
)
_ENDPOINT_CONTENT = re.compile(
    r"(web_search|web_fetch|mcp|(?:bash_|text_editor_)?code_execution)_tool_(?:use|result|listing)"
)
_ENDPOINT_CALL = re.compile(r"(web_search|web_fetch|(?:bash_|text_editor_)?code_execution)")
_SOURCES = {"base64": None, "text": None, "url": URL_SOURCES, "file": FILES}
_SHOWN_CHARS = 64


@dataclass(frozen=True)
class Wish:
    """Something that a request asks of the endpoint. name: what allows it, None where nothing
    does; said: what it is and where, for a sentence."""

    name: str | None
    said: str


class NotAllowed(Exception):
    """A request that asks for more than its run may; the message is one sentence."""


class Rules:
    """What a run may ask of its endpoint, and how often it asked for more.

    allowed: of NAMES. models: the ids that it may ask for; None means the first one that is asked
    for, and no other.
    """

    def __init__(self, allowed: Iterable[str] = (), models: Iterable[str] | None = None):
        self.allowed = frozenset(allowed)
        self.models = frozenset(models) if models is not None else None
        self.refused = 0
        self.first_refused: str | None = None

    def check(self, content: dict[str, Any]) -> None:
        """Raises NotAllowed for a request, given as its body, that is to be refused; counts it."""
        try:
            self._check(content)
        except NotAllowed as refused:
            self.refused += 1
            self.first_refused = self.first_refused or str(refused)
            raise

    def _check(self, content: dict[str, Any]) -> None:
        model = content.get("model")
        if self.models is None and isinstance(model, str):
            self.models = frozenset((model,))
        for asked in (model, *_fallback_models(content)):
            if not isinstance(asked, str) or asked not in (self.models or ()):
                raise NotAllowed(
                    f"{_show(asked)} is not the run's model ({', '.join(sorted(self.models or ()))}"
                    "), and agent.other_models does not name it"
                )
        for wish in wishes(content):
            if wish.name is None:
                raise NotAllowed(f"{wish.said} has another price than the run's")
            if wish.name not in self.allowed:
                raise NotAllowed(
                    f"{wish.said} is run or fetched by the endpoint, outside of the sandbox, and "
                    f"agent.endpoint_tools does not name {wish.name}"
                )

    def progress(self) -> dict[str, Any]:
        """For the gateway's status and the run's record."""
        return {
            "allowed": sorted(self.allowed),
            "refused": self.refused,
            "first_refused": self.first_refused,
        }


def wishes(content: dict[str, Any]) -> Iterator[Wish]:
    """All that a request's body asks of the endpoint beside an answer; linear in its size."""
    for field in content.keys() - _FIELDS:
        yield Wish(_NAMED_FIELDS.get(field, OTHER), f"the field {_show(field)}")
    for field, plain in _PLAIN_SERVICE.items():
        value = content.get(field)
        if not (value is None or isinstance(value, str)) or value not in plain:
            yield Wish(None, f"{field} {_show(value)}")
    yield from _of_tools("tools", content.get("tools"))
    yield from _of_content("system", content.get("system"))
    messages = content.get("messages")
    for number, message in enumerate(messages if isinstance(messages, list) else ()):
        where = f"messages[{number}].content"
        if isinstance(message, dict):
            yield from _odd_keys(where, message)
            yield from _of_content(where, message.get("content"))
        else:
            yield Wish(OTHER, f"messages[{number}]")


def _of_tools(where: str, tools: Any) -> Iterator[Wish]:
    if tools is None:
        return
    if not isinstance(tools, list):
        yield Wish(OTHER, where)
        return
    for number, tool in enumerate(tools):
        yield from _of_tool(f"{where}[{number}]", tool)


def _of_tool(where: str, tool: Any) -> Iterator[Wish]:
    kind = tool.get("type", "custom") if isinstance(tool, dict) else tool
    kind = "custom" if kind is None else kind
    if not isinstance(tool, dict) or not isinstance(kind, str):
        yield Wish(OTHER, f"{where} {_show(kind)}")
    elif _CLIENT_TOOL.fullmatch(kind):
        yield from _odd_keys(where, tool)
    else:
        found = _ENDPOINT_TOOL.fullmatch(kind)
        yield Wish(found[1] if found else OTHER, f"{where} {_show(kind)}")


def _of_content(where: str, content: Any) -> Iterator[Wish]:
    """Blocks and the blocks in them; without recursion, for they may be nested deep."""
    waiting = [(where, content)]
    while waiting:
        place, inner = waiting.pop()
        if inner is None or isinstance(inner, str):
            continue
        if not isinstance(inner, list):
            yield Wish(OTHER, place)
            continue
        for block in inner:
            kind = block.get("type") if isinstance(block, dict) else None
            if not isinstance(kind, str):
                yield Wish(OTHER, f"{place} {_show(kind)}")
                continue
            yield from _odd_keys(place, block)
            if kind in _PLAIN:
                continue
            if kind in ("tool_result", "search_result"):
                waiting.append((f"{where} {kind}", block.get("content")))
            elif kind in ("image", "document"):
                source = block.get("source")
                if isinstance(source, dict) and source.get("type") == "content":
                    yield from _odd_keys(place, source)
                    waiting.append((f"{where} {kind}", source.get("content")))
                else:
                    yield from _of_source(f"{place} {kind}", source)
            elif kind == "tool_addition":
                yield from _of_added_tool(f"{place} {kind}", block.get("tool"))
            else:
                yield Wish(_name_of_content(kind, block), f"{place} {_show(kind)}")


def _of_source(where: str, source: Any) -> Iterator[Wish]:
    kind = source.get("type") if isinstance(source, dict) else None
    if not isinstance(kind, str) or kind not in _SOURCES:
        yield Wish(OTHER, f"{where} source {_show(kind)}")
        return
    yield from _odd_keys(where, source)
    # Whatever it is called: a source that says where to fetch it is one of that kind.
    held = {"url": URL_SOURCES, "file_id": FILES}
    name = _SOURCES[kind] or next((held[key] for key in held if key in source), None)
    if name is not None:
        yield Wish(name, f"{where} by {kind if kind in ('url', 'file') else name}")


def _of_added_tool(where: str, tool: Any) -> Iterator[Wish]:
    kind = tool.get("type") if isinstance(tool, dict) else None
    if kind == "tool_definition":
        yield from _of_tool(where, tool.get("definition"))
    elif kind != "tool_reference":
        yield Wish(OTHER, f"{where} {_show(kind)}")


def _name_of_content(kind: str, block: dict[str, Any]) -> str:
    if kind == "container_upload":
        return FILES
    if kind == "server_tool_use":
        called = block.get("name")
        found = _ENDPOINT_CALL.fullmatch(called) if isinstance(called, str) else None
    else:
        found = _ENDPOINT_CONTENT.fullmatch(kind)
    if found is None:
        return OTHER
    return CODE_EXECUTION if found[1].endswith(CODE_EXECUTION) else found[1]


def _odd_keys(where: str, given: dict[str, Any]) -> Iterator[Wish]:
    """Keys that some endpoints take for the same as those that are checked here."""
    for key in given:
        if key != key.lower():
            yield Wish(OTHER, f"{where} the key {_show(key)}")


def _fallback_models(content: dict[str, Any]) -> Iterator[Any]:
    """Models that the endpoint may go over to by itself."""
    fallbacks = content.get("fallbacks")
    for entry in fallbacks if isinstance(fallbacks, list) else ():
        yield entry.get("model") if isinstance(entry, dict) else entry


def _show(value: Any) -> str:
    """A value of the client's, short and printable."""
    text = value if isinstance(value, str) else type(value).__name__
    shown = ascii(text[:_SHOWN_CHARS])[1:-1]
    return shown + "..." if len(text) > _SHOWN_CHARS else shown
