"""What the gateway saw of a run: a witness of how it ended that the agent cannot reach.

Whoever holds the run's token can ask the gateway as the agent does, and tools do hold it. What they
ask is asked by the run and counts for it; what was answered, they cannot change.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentsweep import untrusted
from agentsweep.sse import EventReader

MESSAGES = "/v1/messages"
TOKENS = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
)
# After these the model expects to be asked again.
_GOES_ON = ("tool_use", "pause_turn")
_ENDS_WELL = ("end_turn", "stop_sequence")
_WORD_CHARACTERS = 100


@dataclass
class Facts:
    """Of the requests for a message that a gateway wrote down, in their order.

    statuses: of each request that a model was asked; None where what came was no message. refused:
    of each that the gateway itself refused, so that they say nothing of a model. answers: how many
    messages with text or a tool call were given to the agent and its sub-agents. tool_calls: in
    these. turns: whole answers in the main conversation; asked: requests there. last_status and
    stop_reason: of the last request, and of the last whole answer, in the main conversation.
    tokens: of all answers. whole: no answer broke off. readable: whether answers could be read, if
    there were any.
    """

    statuses: list[int | None] = field(default_factory=list)
    refused: list[int | None] = field(default_factory=list)
    answers: int = 0
    tool_calls: int = 0
    turns: int = 0
    asked: int = 0
    last_status: int | None = None
    stop_reason: str | None = None
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TOKENS, 0))
    whole: bool = True
    readable: bool = True

    @property
    def final(self) -> bool | None:
        """Whether the model's last answer in the main conversation ends it; None: nobody knows."""
        if self.turns and self.stop_reason is None:
            return None
        return self.turns > 0 and self.stop_reason not in _GOES_ON

    @property
    def odd_end(self) -> bool:
        """Whether the last answer is one that an agent may take for a failure: cut, or refused."""
        return bool(self.final) and self.stop_reason not in _ENDS_WELL

    def as_dict(self) -> dict[str, Any]:
        """For result.json: no list of statuses, and of refusals the number."""
        said = {name: value for name, value in vars(self).items() if name != "statuses"}
        return said | {"refused": len(self.refused)}


def was_answered(path: Path) -> bool:
    """Whether an api.jsonl holds any answer: what came before it may have cost money."""
    try:
        return any(
            line.get("path") == MESSAGES and line.get("message_id") is not None
            for line in untrusted.objects(path)
        )
    except OSError:
        return False


@dataclass(frozen=True)
class _Answer:
    kind: object
    status: int | None
    whole: bool
    stop_reason: str | None
    says_something: bool
    calls: int


def read(path: Path) -> Facts:
    """The facts in an api.jsonl."""
    facts, answers, identified = Facts(), [], 0
    for line in untrusted.objects(path):
        if line.get("path") != MESSAGES:
            continue
        status, identity = line.get("status"), line.get("message_id")
        stop_reason, error = _word(line.get("stop_reason")), line.get("error")
        whole = status == 200 and identity is not None and bool(stop_reason or error is None)
        if line.get("refused") is True:
            facts.refused.append(status)
        else:
            facts.statuses.append(None if status == 200 and identity is None else status)
        facts.whole &= whole or status != 200
        identified += identity is not None
        for name in TOKENS:
            count = line.get(name)
            facts.tokens[name] += count if type(count) is int else 0
        says, calls = _content(line) if whole else (False, 0)
        answers.append(_Answer(line.get("kind"), status, whole, stop_reason, says, calls))
    facts.readable = identified > 0 or all(answer.status != 200 for answer in answers)
    # An agent without tools has errands alone, and a request that was not read has no kind.
    main = ("main",) if any(a.kind == "main" for a in answers) else ("side", "other")
    for answer in answers:
        if answer.kind not in (*main, "subagent"):
            continue
        facts.answers += answer.says_something
        facts.tool_calls += answer.calls
        if answer.kind in main:
            facts.asked += 1
            facts.last_status = 200 if answer.whole else _failed(answer.status)
            if answer.whole:
                facts.turns += 1
                facts.stop_reason = answer.stop_reason
    return facts


def _word(value: object) -> str | None:
    return value[:_WORD_CHARACTERS] if isinstance(value, str) else None


def _failed(status: int | None) -> int | None:
    return None if status == 200 else status


def _content(line: dict[str, Any]) -> tuple[bool, int]:
    """Whether an answer has text or a tool call, and its number of tool calls."""
    whole = "".join(text for _, text in pieces_of(line))
    if line.get("stream"):
        says, calls = False, 0
        for event in EventReader().feed(whole.encode("utf-8", "replace")):
            block, delta = event.get("content_block"), event.get("delta")
            calls += isinstance(block, dict) and block.get("type") == "tool_use"
            says = says or _has_text(block) or _has_text(delta)
        return says or calls > 0, calls
    try:
        body = untrusted.loads(whole)
    except ValueError:
        return False, 0
    content = body.get("content") if isinstance(body, dict) else None
    blocks = [b for b in content if isinstance(b, dict)] if isinstance(content, list) else []
    calls = sum(block.get("type") == "tool_use" for block in blocks)
    return calls > 0 or any(map(_has_text, blocks)), calls


def pieces_of(line: dict[str, Any]) -> list[tuple[int, str]]:
    """The pieces of an answer (`Exchange.events`), or none where any is of another shape."""
    listed = line.get("events")
    pieces = [tuple(e) for e in listed if isinstance(e, list)] if isinstance(listed, list) else []
    return pieces if all(list(map(type, piece)) == [int, str] for piece in pieces) else []


def _has_text(block: object) -> bool:
    text = block.get("text") if isinstance(block, dict) else None
    return isinstance(text, str) and bool(text.strip())
