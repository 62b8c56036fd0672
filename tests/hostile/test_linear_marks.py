"""Linking marks to calls takes no n², and finds what looking at all of them would find."""

import functools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timing import LIMIT, growth

from agentsweep.agents.claude_code.mark_matching import SLACK_NS, Mark, match_marks
from agentsweep.agents.claude_code.records import ToolCall

FAR = 10**18


def call(command, requested=None, end=None, background=False):
    made = ToolCall("t", "Bash", {}, command, "x", "m", None, None, requested)
    made.end_utc_ns, made.background = end, background
    return made


def many(count, shell_line, command="ls -la", requested=0):
    """Marks and calls of the same time; `%d` is their number."""
    numbered = [
        (shell_line.replace("%d", str(i)), command.replace("%d", str(i))) for i in range(count)
    ]
    marks = [Mark({}, line, 10**12, 10**12) for line, _ in numbered]
    calls = [call(text, requested) for _, text in numbered]
    return functools.partial(match_marks, marks, calls)


@pytest.mark.parametrize(
    ("shell_line", "command", "requested"),
    [
        ("eval 'ls -la'", "ls -la", 0),
        ("eval 'ls -la'", "ls -la", FAR),
        ("sh -c ls -la", "ls -la", 0),
        ("sh -c cd /repository && echo %d", "cd /repository && echo %d", 0),
        ("sh -c cd /repository && echo no%d", "cd /repository && echo %d", 0),
    ],
)
def test_many_marks_take_no_square_of_their_number(shell_line, command, requested):
    make = functools.partial(many, shell_line=shell_line, command=command, requested=requested)
    assert growth(make, 3000) < LIMIT


TIMES = st.integers(0, 12).map(lambda step: 10**12 + step * SLACK_NS // 2)
COMMANDS = st.sampled_from(["ls", "ls -a", "cd x && ls", "echo aaaaaaaaaa", "echo aaaaaaaaaab"])


@st.composite
def some_marks(draw):
    command, begin, length = draw(COMMANDS), draw(TIMES), draw(st.integers(0, 3)) * SLACK_NS // 2
    line = draw(st.sampled_from([f"x && eval '{command}' < y", f"sh -c {command}; ls", command]))
    return Mark({}, line, begin, begin + length)


CALLS = st.builds(call, COMMANDS, st.none() | TIMES, st.none() | TIMES, st.booleans())


@settings(max_examples=200, deadline=None)
@given(st.lists(some_marks(), max_size=10), st.lists(CALLS, max_size=10))
def test_the_call_of_a_mark_is_the_one_that_must_end_first(marks, calls):
    found = match_marks(marks, calls)
    assert {mark: id(one) for mark, one in found.items()} == _slowly(marks, calls)


def _slowly(marks, calls):
    """The same by looking at each call for each mark."""
    free, found = list(calls), {}
    order = sorted(range(len(marks)), key=lambda index: marks[index].start_utc_ns)

    def take(index, candidates):
        fitting = [one for one in candidates if _fits(marks[index], one)]
        if fitting:
            never = FAR
            best = min(fitting, key=lambda o: (o.end_utc_ns or never, o.requested_utc_ns or 0))
            free[:] = [one for one in free if one is not best]
            found[index] = id(best)

    for index in order:
        line = marks[index].command
        if "eval" in line:
            take(index, [one for one in free if line == f"x && eval '{one.command}' < y"])
    for index in order:
        if index not in found:
            line = marks[index].command.replace(" ", "").replace("'", "")
            within = [one for one in free if one.command.replace(" ", "") in line]
            longest = max((len(one.command.replace(" ", "")) for one in within), default=0)
            take(index, [one for one in within if len(one.command.replace(" ", "")) == longest])
    return found


def _fits(mark, one):
    if one.requested_utc_ns is not None and mark.start_utc_ns < one.requested_utc_ns - SLACK_NS:
        return False
    last = mark.start_utc_ns if one.background else mark.end_utc_ns
    return one.end_utc_ns is None or last <= one.end_utc_ns + SLACK_NS
