"""What a scenario says, once it was read: scripts of turns, their pace, faults and branches."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from agentsweep.gateway.messages_api import ToolResult


@dataclass(frozen=True)
class Pace:
    """How an answer comes: latency_s until its first byte, then chunks of chunk_chars characters,
    chunk_s apart."""

    latency_s: float = 0.0
    chunk_chars: int = 200
    chunk_s: float = 0.0


@dataclass(frozen=True)
class Fault:
    """What goes wrong when a turn is asked for.

    kind: `status` (value: the HTTP status), `drop` (connect or midstream), `hang_s` (value:
    seconds), `stream_error` (value: the error type) or `malformed` (event or body). times: how
    many attempts meet it, None for all of them.
    """

    kind: str
    value: Any
    times: int | None = 1
    retry_after_s: int | None = None

    def hits(self, attempt: int) -> bool:
        """Whether attempt number `attempt` (the first one is 0) meets the fault."""
        return self.times is None or attempt < self.times


@dataclass(frozen=True)
class Tool:
    """One tool call of a turn: the tool's name and its arguments."""

    name: str
    input: dict[str, Any]


@dataclass(frozen=True)
class Branch:
    """Where to go after a turn, when one of its tool results meets every condition given.

    result_matches: regular expression that is searched for in the result's text; is_error: how
    the result is marked. Without a condition the branch is always taken.
    """

    goto: int
    result_matches: str | None = None
    is_error: bool | None = None

    @property
    def always(self) -> bool:
        return self.result_matches is None and self.is_error is None

    def taken(self, results: Iterable[ToolResult]) -> bool:
        return self.always or any(self._met(result) for result in results)

    def _met(self, result: ToolResult) -> bool:
        if self.is_error is not None and result.is_error != self.is_error:
            return False
        return self.result_matches is None or bool(re.search(self.result_matches, result.text))


@dataclass(frozen=True)
class Turn:
    """One assistant message. `number` counts from 1 within its script; a turn without tools ends
    the conversation. text None and an empty text both say nothing."""

    number: int
    id: str | None
    text: str | None
    thinking: str | None
    tools: tuple[Tool, ...]
    pace: Pace
    usage: dict[str, int]
    fault: Fault | None
    branches: tuple[Branch, ...]

    def next_index(self, results: Sequence[ToolResult]) -> int:
        """Index of the turn that follows these tool results; the first branch that holds wins."""
        for branch in self.branches:
            if branch.taken(results):
                return branch.goto
        return self.number


@dataclass(frozen=True)
class Script:
    """The turns of one conversation; `marker` is what a sub-agent's first message must hold."""

    name: str
    marker: str | None
    turns: tuple[Turn, ...]


@dataclass(frozen=True)
class Scenario:
    """A whole scenario. sha256 is over what it makes the model do: comments, layout, the
    description and the path do not count."""

    description: str
    main: Script
    subagents: tuple[Script, ...]
    sha256: str
