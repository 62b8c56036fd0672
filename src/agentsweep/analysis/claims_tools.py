"""What a paper says of tools, and of the commands in a shell.

Functions of a cohort and of a mode; `values` says what the modes are, and the units.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from agentsweep.analysis.cohort import Cohort, intervals_of
from agentsweep.analysis.run_metrics import (
    CORRECTED,
    PAPER,
    UNKNOWN,
    call_places,
    command_kind,
    has_bash_run,
    has_retry_loop,
    listed_kind,
    listed_seconds,
)
from agentsweep.analysis.values import Value, Values, between, of_completed, share_of
from agentsweep.intervals import length
from agentsweep.tables.rows import Row


@of_completed
def tool_time_share(cohort: Cohort, mode: str) -> Values:
    """How the tools' time splits into tools; by the tool's name."""
    said = {
        PAPER: "Request-to-result times of the tool's calls over those of all calls, summed over "
        "runs; n counts the tool's calls.",
        CORRECTED: "Time with the tool at work (union of intervals in each run, at most what it "
        "can be) over the sum of that of all leaf tools; n counts the tool's calls; bounds: with "
        "the least tool time.",
    }[mode]
    return _time_shares(cohort, mode, said, lambda call: call["name"] or UNKNOWN)


@of_completed
def bash_time_share(cohort: Cohort, mode: str) -> Values:
    """How the time of shell commands splits into kinds of commands; by kind."""
    said = {
        PAPER: "Request-to-result times of the Bash calls of the kind (first matching pattern on "
        "the command line) over those of all Bash calls; n counts the kind's calls.",
        CORRECTED: "Time with a Bash call of the kind (by the programs that it starts) at work, "
        "at most what it can be, over the sum of that of all kinds; n counts the kind's calls; "
        "bounds: with the least tool time.",
    }[mode]

    def kind(call: Row) -> str | None:
        if call["name"] != "Bash":
            return None
        return listed_kind(call["command"]) if mode == PAPER else command_kind(call)

    return _time_shares(cohort, mode, said, kind)


def _time_shares(
    cohort: Cohort, mode: str, said: str, group_of: Callable[[Row], str | None]
) -> Values:
    seconds: dict[str, float] = {}
    least: dict[str, float] = {}
    calls: dict[str, int] = {}
    timed: set[str] = set()
    for run in cohort.runs:
        groups: dict[str, list[Row]] = {}
        for call in run.calls if mode == PAPER else run.leaf_calls:
            name = group_of(call)
            if name is not None:
                groups.setdefault(name, []).append(call)
        for name, found in groups.items():
            calls[name] = calls.get(name, 0) + len(found)
            if any(None not in (call["start_utc_ns"], call["end_utc_ns"]) for call in found):
                timed.add(name)
            spent = (
                sum(map(listed_seconds, found))
                if mode == PAPER
                else length(intervals_of(found)) / 1e9
            )
            seconds[name] = seconds.get(name, 0.0) + spent
            if mode == CORRECTED:
                certain = length(intervals_of(run.certain_calls(found), least=True)) / 1e9
                least[name] = least.get(name, 0.0) + certain
    total, least_total = sum(seconds.values()), sum(least.values())
    shares = {}
    for name in sorted(seconds, key=lambda name: (-seconds[name], name)):
        shares[name] = share_of(seconds[name], total, calls[name], "%", said)
        if mode == CORRECTED and name not in timed:
            # None of its calls has a time: they may have taken any part of it.
            shares[name] = replace(shares[name], value=None)
        elif mode == CORRECTED:
            most, fewest = seconds[name], least[name]
            extremes = [(most, most + least_total - fewest), (fewest, fewest + total - most)]
            bounds = [share_of(part, whole, 0, "%", said) for part, whole in extremes]
            shares[name] = between(shares[name], [shares[name], *bounds])
    return shares


@of_completed
def retry_loop_tasks(cohort: Cohort, mode: str) -> Value:
    """Tasks in which the agent tries the same thing again and again."""
    said = {
        PAPER: "Runs with three or more Bash calls in a row, whatever they do; n counts the runs "
        "with a tool call.",
        CORRECTED: "Runs with the same test command three or more times in a row among the Bash "
        "calls of one chain (edits and reads may lie between); n counts the runs with a tool call.",
    }[mode]
    looped = has_bash_run if mode == PAPER else has_retry_loop
    runs = [run for run in cohort.runs if run.calls]
    return Value(float(sum(map(looped, runs))) if runs else None, len(runs), "tasks", said)


def large_shares(shares: Sequence[Values], least_percent: float = 1.0) -> list[Values]:
    """Shares of several data sets, with what is smaller than this in all of them as `other`.

    All have the same names in one order: that of the largest share, `other` last. A name that a
    data set has not is 0 there; where none of its shares is known, nothing is.
    """
    most: dict[str, float] = {}
    for values in shares:
        for name, value in values.items():
            most[name] = max(most.get(name, 0.0), value.value or 0.0)
    shown = [name for name in most if most[name] >= least_percent and name != _OTHER]
    shown.sort(key=lambda name: (-most[name], name))
    return [_with_other(values, shown, len(shown) < len(most)) for values in shares]


_OTHER = "other"


def _with_other(values: Values, shown: Sequence[str], other: bool) -> Values:
    rest = [value for name, value in values.items() if name not in shown]
    first = next(iter(values.values()), Value(None, 0, "%", ""))
    known = any(value.value is not None for value in values.values())
    nothing = Value(0.0 if known else None, 0, first.unit, first.definition)
    found = {name: values.get(name, nothing) for name in shown}
    if other:
        parts = [value.value for value in rest if value.value is not None]
        total = sum(parts) if known and (parts or not rest) else None
        found[_OTHER] = replace(nothing, value=total, n=sum(value.n for value in rest))
    return found


SHOWN_TOOLS = ("Bash", "Read", "Edit", "Grep", "Glob", "Write", "TodoWrite")


@of_completed
def calls_by_decile(cohort: Cohort, mode: str) -> dict[str, list[int]]:
    """How many calls of each of `SHOWN_TOOLS` and of `other` fall into each tenth of their run."""
    counts = {name: [0] * 10 for name in (*SHOWN_TOOLS, _OTHER)}
    for run in cohort.runs:
        for name, place in call_places(run, mode):
            counts[name if name in SHOWN_TOOLS else _OTHER][min(int(place * 10), 9)] += 1
    return counts
