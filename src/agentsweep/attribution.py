"""Which mark of the Bash wrapper belongs to which Bash call of the trace.

The wrapper sees the whole shell line that the CLI makes, with the command quoted inside it
(`... && eval '<command>' < /dev/null && pwd -P >| ...`), and the trace has the command itself. A
mark and a call belong together when the text is the same and the mark lies within the call's
bounds; identical commands are told apart by their bounds and then by their order.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from agentsweep.trace_records import ToolCall

# The trace has milliseconds, the mark nanoseconds; the CLI notes a result some time after the end
# of the command, but its tool_use record may be noted after the tool has started.
SLACK_NS = 250_000_000

_EVAL = re.compile(r"(?:^|[\s;&|({])eval\s+(?=['\"\\\w./$~-])")
_NOISE = re.compile(r"[\s'\"\\]+")
_ALWAYS = 2**63 - 1


@dataclass(slots=True)
class Mark:
    """One call of the Bash wrapper; `line` is the line of marks.jsonl that says so."""

    line: dict
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
    left out. A mark outside the bounds of every call with its command stays unmatched.
    """
    marks = list(marks)
    free = [call for call in calls if call.command is not None]
    matched: dict[int, ToolCall] = {}
    by_command: dict[str, list[ToolCall]] = {}
    for call in free:
        by_command.setdefault(call.command.strip(), []).append(call)
    order = sorted(range(len(marks)), key=lambda index: marks[index].start_utc_ns)
    for index in order:
        command = evaluated(marks[index].command)
        if command is None:
            continue
        candidates = by_command.get(command.strip(), [])
        call = _first_in_time(marks[index], candidates)
        if call is not None:
            candidates.remove(call)
            matched[index] = call
    taken = {id(call) for call in matched.values()}
    rest = [call for call in free if id(call) not in taken]
    plain = {id(call): _NOISE.sub("", call.command) for call in rest}
    # The longest first: `ls` is contained in nearly everything.
    rest.sort(key=lambda call: -len(plain[id(call)]))
    for index in order:
        if index in matched:
            continue
        shell_line = _NOISE.sub("", marks[index].command)
        within = [call for call in rest if plain[id(call)] and plain[id(call)] in shell_line]
        longest = [c for c in within if len(plain[id(c)]) == len(plain[id(within[0])])]
        call = _first_in_time(marks[index], longest)
        if call is not None:
            rest.remove(call)
            matched[index] = call
    return matched


def _first_in_time(mark: Mark, calls: list[ToolCall]) -> ToolCall | None:
    """Of the calls whose bounds hold the mark, the one that must end first."""
    fitting = [call for call in calls if _fits(mark, call)]
    return min(
        fitting,
        key=lambda call: (call.end_utc_ns or _ALWAYS, call.requested_utc_ns or 0),
        default=None,
    )


def _fits(mark: Mark, call: ToolCall) -> bool:
    requested, end = call.requested_utc_ns, call.end_utc_ns
    if requested is not None and mark.start_utc_ns < requested - SLACK_NS:
        return False
    if end is None:
        return True
    if call.background:
        # The result of such a call comes while its command goes on.
        return mark.start_utc_ns <= end + SLACK_NS
    return mark.end_utc_ns <= end + SLACK_NS
