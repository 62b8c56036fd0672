"""Marks of the Bash wrapper and the calls of the trace: which belongs to which."""

import random
import shlex

import pytest

from agentsweep.agents.claude_code.mark_matching import SLACK_NS, Mark, evaluated, match_marks
from agentsweep.agents.claude_code.records import ToolCall

SECOND = 1_000_000_000


def quoted(command: str) -> str:
    """Single quotes as the CLI writes them."""
    return "'" + command.replace("'", "'\"'\"'") + "'"


def shell_line(command: str) -> str:
    """The line that CLI 2.1.330 gives to the wrapper, with its paths shortened."""
    return (
        "{ case \"${BASH_VERSINFO-}\" in '2'|'3') \\builtin exit 126;; esac; } && "
        "source /c/shell-snapshots/snapshot-bash-1.sh 2>/dev/null || true && "
        "{ \\builtin shopt -u extglob || \\builtin setopt NO_EQUALS; } >/dev/null 2>&1 || true && "
        f"{{ \\builtin unalias -- 'which'; }} >/dev/null 2>&1 || true && eval {quoted(command)} "
        "< /dev/null && pwd -P >| /tmp/claude-1234-cwd"
    )


def mark(command: str, start: float, end: float, line: str | None = None) -> Mark:
    times = {"start_ns": round(start * SECOND), "end_ns": round(end * SECOND)}
    return Mark(times, line or shell_line(command), times["start_ns"], times["end_ns"])


def call(identity: str, command: str, requested: float, end: float | None, **more) -> ToolCall:
    made = ToolCall(
        identity, "Bash", {}, command, "shell", "m", None, "2.1.330", round(requested * SECOND)
    )
    made.end_utc_ns = None if end is None else round(end * SECOND)
    for name, value in more.items():
        setattr(made, name, value)
    return made


def ids(marks, calls):
    return {index: found.id for index, found in match_marks(marks, calls).items()}


COMMANDS = [
    "ls -la",
    "echo 'single' \"double $HOME\" \\\\back !bang `date`",
    "cat <<'EOF' > f.txt\nit's a \"test\"\nEOF\nwc f.txt",
    "python3 -c \"print('a')\" 2>&1 | tail -5",
    "  echo padded  \n",
    "echo é测试 $'x\\ty'",
    "eval 'echo inner'; eval \"x\"",
    "grep -rn \"foo && eval 'bar'\" . | head",
    "",
    "'",
    "x" * 10_000,
]


@pytest.mark.parametrize("command", COMMANDS)
def test_the_evaluated_command_is_the_one_in_quotes(command):
    assert evaluated(shell_line(command)) == command


@pytest.mark.parametrize("command", COMMANDS)
def test_other_ways_of_quoting_are_read_as_a_shell_reads_them(command):
    double = "".join("\\" + c if c in '$`"\\' else c for c in command)
    assert evaluated(f'x && eval "{double}" \\< /dev/null') == command
    assert evaluated(f"eval {shlex.quote(command)} \\< /dev/null && pwd -P") == command


def test_without_eval_or_without_end_there_is_no_command():
    assert evaluated("ls -la && echo medieval x") is None
    assert evaluated("eval 'ls") is None
    assert evaluated('eval "ls') is None
    assert evaluated("eval ls\\ -la; pwd") == "ls -la"


def test_marks_go_to_the_calls_with_their_command_in_any_order():
    calls = [call(str(i), command, i, i + 0.9) for i, command in enumerate(COMMANDS)]
    marks = [mark(command, i + 0.1, i + 0.8) for i, command in enumerate(COMMANDS)]
    order = list(range(len(marks)))
    random.Random(5).shuffle(order)
    assert ids([marks[i] for i in order], calls) == {k: str(i) for k, i in enumerate(order)}


def test_identical_commands_one_after_the_other():
    calls = [call("a", "make", 0, 2), call("b", "make", 1, 10), call("c", "make", 11, 12)]
    marks = [mark("make", 11.1, 11.9), mark("make", 2.2, 9.5), mark("make", 0.1, 1.9)]
    assert ids(marks, calls) == {0: "c", 1: "b", 2: "a"}


def test_identical_commands_at_once():
    calls = [call("a", "sleep 1", 0, 1.3), call("b", "sleep 1", 0.01, 1.2)]
    marks = [mark("sleep 1", 0.1, 1.1), mark("sleep 1", 0.11, 1.11)]
    assert sorted(ids(marks, calls).values()) == ["a", "b"]


def test_a_mark_outside_the_bounds_stays_unmatched():
    calls = [call("a", "ls", 10, 11)]
    slack = SLACK_NS / SECOND
    assert ids([mark("ls", 9.5, 10.5)], calls) == {}
    assert ids([mark("ls", 10.5, 11.5)], calls) == {}
    assert ids([mark("ls", 10 - slack * 0.9, 11 + slack * 0.9)], calls) == {0: "a"}


def test_each_call_takes_one_mark():
    marks = [mark("ls", 1, 2), mark("ls", 1.1, 2.1)]
    assert ids(marks, [call("a", "ls", 0, 3)]) == {0: "a"}


def test_a_call_without_an_end_and_one_in_the_background():
    calls = [call("killed", "sleep 100", 1, None), call("back", "server", 1, 2, background=True)]
    marks = [mark("sleep 100", 1.1, 60), mark("server", 1.5, 50)]
    assert ids(marks, calls) == {0: "killed", 1: "back"}


def test_lines_of_another_shape_match_by_what_they_contain():
    calls = [call("short", "ls", 0, 9), call("long", 'ls -la "a b"', 0, 9)]
    marks = [
        mark("", 1, 2, line="setup; ls -la a\\ b < /dev/null; pwd"),
        mark("", 2, 3, line="setup; ls; pwd"),
    ]
    assert ids(marks, calls) == {0: "long", 1: "short"}


def test_a_contained_command_does_not_take_the_mark_of_an_exact_one():
    calls = [call("short", "ls", 0, 9), call("long", "ls -la", 0, 9)]
    assert ids([mark("ls -la", 1, 2)], calls) == {0: "long"}
    assert ids([mark("ls", 1, 2)], calls) == {0: "short"}


def test_calls_of_other_tools_are_left_alone():
    other = call("read", "", 0, 9)
    other.command = None
    assert ids([mark("ls", 1, 2)], [other]) == {}


def test_many_marks_are_matched_in_good_time():
    calls = [call(str(i), f"echo {i % 50}", i, i + 1) for i in range(3000)]
    marks = [mark(f"echo {i % 50}", i + 0.2, i + 0.9) for i in range(3000)]
    assert ids(marks, calls) == {i: str(i) for i in range(3000)}
