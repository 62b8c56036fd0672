"""A recorded session as something that can be played: conversations, their turns, their pace.

Made from any Claude Code session file, or from a run of our own. The words come from the session;
of our own runs the exact events and their times come from the gateway's record, joined by message
id. From a session alone the pace is derived: a block is sent when the session notes it, counted
from when the model was asked (the CLI's own record of the request, else the record that the
message answers).
"""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from agentsweep.agents.claude_code import trace
from agentsweep.agents.claude_code.records import AGENT_TOOLS, ToolCall, Trace
from agentsweep.agents.claude_code.records import Message as SessionMessage
from agentsweep.agents.claude_code.records import Usage as SessionUsage
from agentsweep.agents.claude_code.trace import Source
from agentsweep.errors import ConfigError
from agentsweep.extraction import gateway_facts
from agentsweep.extraction.run_directory import (
    Damage,
    read_lines,
    read_result,
    session_sources,
    word,
)
from agentsweep.gateway import messages_api
from agentsweep.gateway.messages_api import Message, Usage
from agentsweep.sse import EventReader

# Of a message whose pace within a block is not known, a block goes in deltas of this length.
_DELTA_CHARS = 4096

Events = tuple[tuple[float, dict[str, Any]], ...]


@dataclass(frozen=True)
class RecordedCall:
    """A tool call and what it gave when it was recorded.

    text: its result, None where there is none; is_error and exit_code: None where the session does
    not say; timed_out, killed: as the session's CLI put it.
    """

    id: str
    name: str
    has_result: bool
    is_error: bool | None
    exit_code: int | None
    timed_out: bool
    killed: bool
    text: str | None

    def as_dict(self) -> dict[str, Any]:
        """As it is written down in api.jsonl."""
        return asdict(self)


@dataclass(frozen=True)
class RecordedTurn:
    """One assistant message: what it says, and its events with their offsets in seconds from the
    moment at which the model was asked."""

    message: Message
    events: Events
    calls: tuple[RecordedCall, ...]


@dataclass(frozen=True)
class Conversation:
    """The main conversation, or that of a sub-agent: then `prompt` is what it was started with.

    recorded: false for a sub-agent of which the session has the report alone (CLI 2.1.16 to 2.1.69
    keep the rest in files of their own, which are easily lost); its one turn says that report.
    """

    name: str
    prompt: str | None
    turns: tuple[RecordedTurn, ...]
    recorded: bool = True


@dataclass(frozen=True)
class Recording:
    """kind: `recording` where events and their times are exact, `session` where the pace was
    derived, `mixed` where both occur; tools: the names of all tools that are called."""

    kind: str
    main: Conversation
    subagents: tuple[Conversation, ...]

    @property
    def conversations(self) -> tuple[Conversation, ...]:
        return (self.main, *self.subagents)

    @property
    def tools(self) -> frozenset[str]:
        turns = (turn for conversation in self.conversations for turn in conversation.turns)
        return frozenset(call.name for turn in turns for call in turn.calls)


def load(path: Path | str) -> Recording:
    """The recording in a session file, or in the directory of a run of ours.

    Raises ConfigError with one sentence where there is nothing to play.
    """
    path = Path(path)
    if "\0" in str(path):
        raise ConfigError(f"{str(path)!r} cannot be read: there is a NUL in its name")
    try:
        with _sources(path) as sources:
            session = trace.parse_sources(sources, keep_content=True)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    exact: dict[str, list[Events]] = {}
    for identity, events in _exact_events(path / "api.jsonl") if path.is_dir() else ():
        exact.setdefault(identity, []).append(events)
    maker = _Maker(session, exact)
    main = maker.conversation("main", None, None)
    if not main.turns:
        raise ConfigError(
            f"{path} holds no answer of a model in its main conversation, so there is nothing to "
            "replay: name another session"
        )
    subagents = tuple(maker.subagents())
    return Recording(maker.kind, main, subagents)


@contextlib.contextmanager
def _sources(path: Path) -> Iterator[list[Source]]:
    if not path.is_dir():
        yield trace.file_sources(path)
        return
    damage = Damage()
    session_id = word(read_result(path, damage)("agent", "session_id"))
    with session_sources(path, session_id, damage) as sources:
        yield sources


def _clean(block: Any) -> dict[str, Any] | None:
    """A block as the API sends it, without what the CLI adds; None for one that says nothing."""
    if not isinstance(block, dict) or not isinstance(block.get("type"), str):
        return None
    match block["type"]:
        case "text":
            text = block.get("text")
            return {"type": "text", "text": text} if isinstance(text, str) and text else None
        case "thinking":
            thought, signature = block.get("thinking"), block.get("signature")
            return {
                "type": "thinking",
                "thinking": thought if isinstance(thought, str) else "",
                "signature": signature if isinstance(signature, str) else "",
            }
        case "tool_use":
            identity, name, given = (block.get(key) for key in ("id", "name", "input"))
            if not (isinstance(identity, str) and isinstance(name, str) and identity and name):
                return None
            given = given if isinstance(given, dict) else {}
            return {"type": "tool_use", "id": identity, "name": name, "input": given}
    return block


def _exact_events(log: Path) -> Iterator[tuple[str, Events]]:
    """Message id and events of each answer that the gateway's record has whole."""
    for line in read_lines(log, Damage()):
        pieces, identity = gateway_facts.pieces_of(line), line.get("message_id")
        if not (line.get("stream") and pieces and identity) or line.get("error") is not None:
            continue
        if not isinstance(identity, str):
            continue
        reader, events = EventReader(), []
        for offset_ns, text in pieces:
            data = text.encode("utf-8", "replace")
            events += [(offset_ns / 1e9, event) for event in reader.feed(data)]
        typed = all(isinstance(event.get("type"), str) for _, event in events)
        if events and typed and events[-1][1]["type"] == "message_stop":
            yield identity, tuple(events)


class _Maker:
    def __init__(self, session: Trace, exact: dict[str, list[Events]]):
        self._session = session
        answers: dict[str, list[SessionMessage]] = {}
        for message in session.messages:
            if message.role == "assistant":
                answers.setdefault(message.id, []).append(message)
        self._exact = dict(_by_answer(answers, exact))
        self._starts = [call for call in session.tool_calls if call.name in AGENT_TOOLS]
        self._ids: set[str] = set()
        self._names: set[str] = set()
        self._exact_turns = self._turns = 0

    @property
    def kind(self) -> str:
        """What `Recording.kind` says of the turns made so far."""
        if not self._exact_turns:
            return "session"
        return "recording" if self._exact_turns == self._turns else "mixed"

    def conversation(self, name: str, prompt: str | None, agent_id: str | None) -> Conversation:
        """The turns of one conversation. What the CLI itself said in the model's place (after an
        error of the API) is no turn; nor is what the user left behind by going back."""
        said = [
            message
            for message in self._session.messages
            if message.role == "assistant"
            and message.kind != "error"
            and message.agent_id == agent_id
            and not message.abandoned
        ]
        if all(message.position is not None for message in said):
            # Clocks may step back; links do not.
            said.sort(key=lambda message: message.position or 0)
        return Conversation(name, prompt, tuple(map(self._turn, said)))

    def subagents(self) -> Iterator[Conversation]:
        """Those that a call started; what the CLI starts by itself (warm-ups) is not replayed."""
        started = set()
        for agent in self._session.agents:
            call = agent.parent
            if call is None or call.name not in AGENT_TOOLS:
                continue
            made = self.conversation("", _prompt(call), agent.agent_id)
            if agent.missing and made.turns and made.turns[-1].calls and _gave_report(call):
                # The main file repeats its calls, and has its last words as their result.
                made = replace(made, turns=(*made.turns, _report(call)))
            if made.turns or not agent.missing:
                started.add(id(call))
                yield replace(made, name=self._name(call))
        for call in self._starts:
            # Where the call failed there was none.
            if id(call) not in started and _gave_report(call):
                prompt = _prompt(call)
                if prompt is not None:
                    yield Conversation(self._name(call), prompt, (_report(call),), recorded=False)

    def _name(self, call: ToolCall) -> str:
        return _first_free(f"sub-agent {call.id}", self._names)

    def _turn(self, message: SessionMessage) -> RecordedTurn:
        content, times_ns, calls, renamed = [], [], [], False
        made = iter(message.calls)
        for time_ns, raw in message.content or ():
            block = _clean(raw)
            call = next(made, None) if raw.get("type") == "tool_use" else None
            if block is None:
                continue
            if block["type"] == "tool_use":
                # Tool calls lead through a conversation, so no id may come twice, as it does from
                # some servers.
                unique = _first_free(block["id"], self._ids)
                if unique != block["id"]:
                    block, renamed = block | {"id": unique}, True
                calls.append(_recorded(block, call))
            content.append(block)
            times_ns.append(time_ns)
        # What the session does not know is counted from the texts.
        usage = message.usage or SessionUsage()
        said = Message(
            # The CLI takes answers of one id for one answer.
            id=message.key,
            model=message.model or "unknown",
            content=tuple(content),
            stop_reason=_stop_reason(message.stop_reason, bool(calls)),
            usage=Usage(
                usage.input_tokens,
                # CLI 2.1.9 to 2.1.58 notes a placeholder, which is no number of tokens.
                usage.output_tokens
                if usage.output_final
                else max(usage.output_tokens, messages_api.output_tokens(tuple(content))),
                usage.cache_read_input_tokens,
                usage.cache_creation_input_tokens,
            ),
        )
        events = None if renamed else self._exact.get(message.key)
        self._turns += 1
        self._exact_turns += events is not None
        if events is None:
            events = _derived_events(said, self._asked_ns(message), times_ns)
        return RecordedTurn(said, events, tuple(calls))

    def _asked_ns(self, message: SessionMessage) -> int | None:
        """When the attempt began that was answered (UTC): after the waits for those that failed,
        which older CLIs note as errors only."""
        asked_ns = message.start_utc_ns
        if message.start_source != "previous" or message.first_utc_ns is None:
            return asked_ns
        for error in self._session.api_errors:
            if error.agent_id != message.agent_id:
                continue
            if error.utc_ns is None or error.retry_in_ms is None or asked_ns is None:
                continue
            if asked_ns <= error.utc_ns <= message.first_utc_ns:
                again_ns = error.utc_ns + round(error.retry_in_ms * 1e6)
                asked_ns = min(max(asked_ns, again_ns), message.first_utc_ns)
        return asked_ns


def _by_answer(
    answers: dict[str, list[SessionMessage]], exact: dict[str, list[Events]]
) -> Iterator[tuple[str, Events]]:
    """The events of each answer by its key. Where the gateway has another number of answers under
    an id than the session has, whose events are whose is not known."""
    for identity, played in exact.items():
        messages = answers.get(identity, [])
        if len(messages) == 1:
            yield messages[0].key, played[-1]
        elif len(messages) == len(played):
            for message, events in zip(messages, played, strict=True):
                yield message.key, tuple((s, _named(event, message.key)) for s, event in events)


def _named(event: dict[str, Any], identity: str) -> dict[str, Any]:
    """An event with another id of its message."""
    message = event.get("message")
    if event.get("type") != "message_start" or not isinstance(message, dict):
        return event
    return event | {"message": message | {"id": identity}}


def _first_free(wanted: str, taken: set[str]) -> str:
    """The name, or with a number where it is taken; it is taken from now on."""
    made, number = wanted, 1
    while made in taken:
        number += 1
        made = f"{wanted}_{number}"
    taken.add(made)
    return made


def _gave_report(call: ToolCall) -> bool:
    return call.finished and call.is_error is not True


def _derived_events(message: Message, start_ns: int | None, times_ns: list[int | None]) -> Events:
    """A block goes when the session has noted it, all of it at once; the message opens with its
    first block and closes with its last."""
    offsets, latest_s = [], 0.0
    for time_ns in times_ns:
        if time_ns is not None and start_ns is not None:
            latest_s = max(latest_s, (time_ns - start_ns) / 1e9)
        offsets.append(latest_s)
    events = [(offsets[0] if offsets else 0.0, messages_api.start_event(message))]
    for index, block in enumerate(message.content):
        made = messages_api.block_events(index, block, _DELTA_CHARS)
        events += [(offsets[index], event) for event in made]
    return (*events, *((latest_s, event) for event in messages_api.end_events(message)))


def _recorded(block: dict[str, Any], call: ToolCall | None) -> RecordedCall:
    done = call if call is not None and call.finished else None
    return RecordedCall(
        id=block["id"],
        name=block["name"],
        has_result=done is not None,
        is_error=done.is_error if done else None,
        exit_code=done.exit_code if done else None,
        timed_out=bool(done and done.timed_out),
        killed=bool(done and done.killed),
        text=done.result_text if done else None,
    )


def _stop_reason(recorded: str | None, has_calls: bool) -> str:
    """Older CLIs never note it, and some servers end a message with calls like any other."""
    if has_calls:
        return "tool_use"
    return recorded if recorded not in (None, "tool_use") else "end_turn"


def _prompt(call: ToolCall) -> str | None:
    prompt = call.input.get("prompt")
    return prompt if isinstance(prompt, str) else None


def _report(call: ToolCall) -> RecordedTurn:
    """What a sub-agent without a session of its own gave back, as its one turn. It takes as long
    as the call took: what of it the model took and what its tools is not known."""
    # The CLI adds lines of its own to the report.
    text = (call.result_text or "").split("\nagentId: ")[0].strip() or "Done."
    identity = (
        "msg_" + hashlib.sha256(f"{call.id}/{text}".encode("utf-8", "replace")).hexdigest()[:24]
    )
    content = ({"type": "text", "text": text},)
    message = Message(identity, "unknown", content, "end_turn", Usage())
    return RecordedTurn(message, _derived_events(message, call.start_utc_ns, [call.end_utc_ns]), ())
