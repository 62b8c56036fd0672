"""Which mark of the Bash wrapper belongs to which Bash call of the trace.

The wrapper sees the whole shell line that the CLI makes, with the command quoted inside it
(`... && eval '<command>' < /dev/null && pwd -P >| ...`), and the trace has the command itself. A
mark and a call belong together when the text is the same and the mark lies within the call's
bounds; identical commands are told apart by their bounds and then by their order.
"""

import heapq
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from agentsweep.agents.claude_code.first_fit import FirstFit, Order
from agentsweep.agents.claude_code.records import ToolCall

# The trace has milliseconds, the mark nanoseconds; the CLI notes a result some time after the end
# of the command, but its tool_use record may be noted after the tool has started.
SLACK_NS = 250_000_000

_EVAL = re.compile(r"(?:^|[\s;&|({])eval\s+(?=['\"\\\w./$~-])")
_NOISE = re.compile(r"[\s'\"\\]+")
# Commands are found in a line by a piece of so many characters; so many of each are considered.
_PIECE, _MOST_PIECES = 8, 64
# Of commands that are alike, the longest so many are compared with a line.
_MOST_ALIKE = 64


@dataclass(slots=True)
class Mark:
    """One call of the Bash wrapper; `line` is the line of marks.jsonl that says so."""

    line: dict[str, Any]
    command: str
    start_utc_ns: int
    end_utc_ns: int


def evaluated(shell_line: str) -> str | None:
    """The command that a shell line evaluates: the argument of its first `eval`, unquoted.

    None without an `eval`, or when its quotes do not end.
    """
    match = _EVAL.search(shell_line)
    return None if match is None else _unquote(shell_line, match.end())


def _unquote(text: str, at: int) -> str | None:
    """The first shell word of `text` from `at` on, as a POSIX shell reads it without expansion."""
    word = []
    length = len(text)
    while at < length:
        character = text[at]
        if character == "'":
            end = text.find("'", at + 1)
            if end < 0:
                return None
            word.append(text[at + 1 : end])
            at = end + 1
        elif character == '"':
            at += 1
            while at < length and text[at] != '"':
                if text[at] == "\\" and at + 1 < length and text[at + 1] in '$`"\\\n':
                    at += 1
                word.append(text[at])
                at += 1
            if at >= length:
                return None
            at += 1
        elif character == "\\":
            word.append(text[at + 1 : at + 2])
            at += 2
        elif character in " \t\n;&|<>()":
            break
        else:
            word.append(character)
            at += 1
    return "".join(word)


def match_marks(marks: Iterable[Mark], calls: Iterable[ToolCall]) -> dict[int, ToolCall]:
    """Call by the position of its mark in `marks`; each mark and each call is used once at most.

    First the marks whose evaluated command is exactly that of a call; then, for shell lines of
    another shape, those that contain the command when quotes, backslashes and white space are
    left out. A mark outside the bounds of every call with its command stays unmatched. Takes
    n log n of time, whatever the commands and times are.
    """
    marks = list(marks)
    free = [call for call in calls if call.command is not None]
    matched: dict[int, ToolCall] = {}
    by_command = _grouped(
        ((call.command or "").strip(), place, call) for place, call in enumerate(free)
    )
    order = sorted(range(len(marks)), key=lambda index: marks[index].start_utc_ns)
    for index in order:
        command = evaluated(marks[index].command)
        if command is not None and command.strip() in by_command:
            call = _take_first(marks[index], [by_command[command.strip()]])
            if call is not None:
                matched[index] = call
    if len(matched) == len(marks):
        return matched
    taken = {id(call) for call in matched.values()}
    within = _Within([call for call in free if id(call) not in taken])
    for index in order:
        if index not in matched:
            longest = within.longest(_NOISE.sub("", marks[index].command))
            call = _take_first(marks[index], [within.calls[plain] for plain in longest])
            if call is not None:
                matched[index] = call
                within.forget_used(longest)
    return matched


class _Candidates:
    """The free calls of one command: those in the background, and the others."""

    def __init__(self, calls: list[tuple[int, ToolCall]]):
        self._kinds = [
            (background, FirstFit([item for item in calls if item[1].background is background]))
            for background in (False, True)
        ]

    @property
    def left(self) -> int:
        return sum(calls.left for _, calls in self._kinds)

    def fitting(self, mark: Mark) -> Iterator[tuple[Order, int, FirstFit]]:
        """Of either kind the first call whose bounds hold the mark."""
        for background, calls in self._kinds:
            # The result of a call in the background comes while its command goes on.
            end_ns = mark.start_utc_ns if background else mark.end_utc_ns
            found = calls.first(end_ns - SLACK_NS, mark.start_utc_ns + SLACK_NS)
            if found is not None:
                yield (*found, calls)


def _grouped(calls: Iterable[tuple[str, int, ToolCall]]) -> dict[str, _Candidates]:
    groups: dict[str, list[tuple[int, ToolCall]]] = {}
    for text, place, call in calls:
        groups.setdefault(text, []).append((place, call))
    return {text: _Candidates(group) for text, group in groups.items()}


def _take_first(mark: Mark, candidates: list[_Candidates]) -> ToolCall | None:
    """Of the calls whose bounds hold the mark, the one that must end first; it is used up."""
    found = [fit for calls in candidates for fit in calls.fitting(mark)]
    if not found:
        return None
    _, index, calls = min(found, key=lambda fit: fit[0])
    return calls.remove(index)


class _Within:
    """Finds which of very many commands a shell line contains, by a few characters of each.

    Of each command some pieces are looked at, and the one that the fewest others have stands for
    it, so that few commands need to be compared with a line as a whole.
    """

    def __init__(self, calls: list[ToolCall]):
        plain = ((_NOISE.sub("", call.command or ""), i, call) for i, call in enumerate(calls))
        self.calls = _grouped(item for item in plain if item[0])
        pieces = {text: _pieces(text) for text in self.calls}
        common = Counter(piece for some in pieces.values() for piece in some)
        self._by_piece: dict[str, list[str]] = {}
        # The longest first: `ls` is contained in nearly everything.
        for text in sorted(self.calls, key=len, reverse=True):
            piece = min(pieces[text], key=common.__getitem__)
            self._by_piece.setdefault(piece, []).append(text)
        self._piece_of = {text: p for p, texts in self._by_piece.items() for text in texts}
        self._sizes = sorted({len(piece) for piece in self._by_piece})

    def longest(self, line: str) -> list[str]:
        """The longest commands in the line; they are of one length."""
        there = {line[at : at + size] for size in self._sizes for at in range(len(line) - size + 1)}
        texts = (self._by_piece[piece][:_MOST_ALIKE] for piece in there & self._by_piece.keys())
        some = heapq.nlargest(_MOST_ALIKE, itertools.chain.from_iterable(texts), key=len)
        found: list[str] = []
        for text in some:
            if found and len(text) < len(found[0]):
                break
            if text in line:
                found.append(text)
        return found

    def forget_used(self, texts: list[str]) -> None:
        """Commands without a free call are looked for no more."""
        for text in texts:
            if not self.calls[text].left:
                self._by_piece[self._piece_of[text]].remove(text)


def _pieces(text: str) -> set[str]:
    """Some of the pieces of a text, from all over it."""
    last = max(0, len(text) - _PIECE)
    return {text[at : at + _PIECE] for at in range(0, last + 1, last // _MOST_PIECES + 1)}
