"""What the runs of a sweep come to, as functions of the tables: the numbers of its figures.

Runs and calls are rows of the tables as dictionaries. A value that the rows do not hold is None,
never 0. `Estimate` carries the number of runs that a value rests on, because null values leave runs
out.

A run that did not complete is censored: it ended early because it was killed or failed, not because
it was done. What a run takes (times, memory, calls, fidelity) is therefore summed up over completed
runs alone (`completed`), and shares of outcomes leave out what says nothing about the limit
(`countable`). Functions of one run judge nothing; each summary says which runs it is over.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from agentsweep.analysis.run_metrics import UNKNOWN, ratio
from agentsweep.extraction.fidelity import LIMITED
from agentsweep.tables.rows import Row
from agentsweep.vocabulary import (
    AGENT_CATEGORY,
    UNRELATED_OUTCOMES,
    ModelMode,
    Outcome,
    ReplayStatus,
    RunSource,
    TimeSource,
)

TIME_PARTS = ("startup", "model", "both", "tools", "other")
NOT_COMPARABLE, NOT_REACHED = "not_comparable", "not_reached"
# What may become of a recorded tool call in a replay.
FATES = (
    ReplayStatus.SAME,
    ReplayStatus.TEXT_DIFFERS,
    ReplayStatus.STATE_DIFFERS,
    ReplayStatus.KILLED,
    ReplayStatus.TIMED_OUT,
    ReplayStatus.UNFINISHED,
    NOT_COMPARABLE,
    NOT_REACHED,
)


@dataclass(frozen=True)
class Estimate:
    """A value and the number of runs that it rests on; None if no run has it."""

    value: float | None
    n: int


def estimate(
    runs: Iterable[Row],
    metric: Callable[[Row], float | None],
    summary: Callable[[Sequence[float]], float] = median,
) -> Estimate:
    """The summary (median by default) of a metric over the completed runs that have it."""
    values = [value for value in map(metric, completed(runs)) if value is not None]
    return Estimate(summary(values) if values else None, len(values))


# --- which runs there are ---


def is_completed(run: Row) -> bool:
    """Whether the run came to its own end: what it took is a measurement, not a lower bound.

    Imported runs have no outcome; there the exit code tells, where it is known.
    """
    if run["source"] == RunSource.IMPORTED and run["outcome"] is None:
        return not run.get("exit_code")
    return bool(run["outcome"] == Outcome.COMPLETED)


def completed(runs: Iterable[Row]) -> list[Row]:
    """The completed runs."""
    return [run for run in runs if is_completed(run)]


def countable(runs: Iterable[Row]) -> list[Row]:
    """The runs that shares are of: without those whose outcome says nothing about the limit."""
    return [run for run in runs if run["outcome"] not in UNRELATED_OUTCOMES]


def left_out_counts(runs: Iterable[Row]) -> dict[str, int]:
    """How many runs of each of `UNRELATED_OUTCOMES` shares leave out; without zeros."""
    found = [run["outcome"] for run in runs]
    return {name: found.count(name) for name in UNRELATED_OUTCOMES if name in found}


def completed_share(runs: Iterable[Row]) -> float | None:
    """Share of the countable runs that completed, 0 to 1."""
    known = countable(runs)
    return ratio(len(completed(known)), len(known))


def memory_limits(runs: Iterable[Row]) -> list[int | None]:
    """The memory limits asked for (bytes), in order; None (no limit) last."""
    return _ordered(run["mem_limit_bytes"] for run in runs)


def cpu_limits(runs: Iterable[Row]) -> list[float | None]:
    """The CPU limits asked for, in order; None (no limit) last."""
    return _ordered(run["cpu_limit"] for run in runs)


def _ordered(values: Iterable[Any]) -> list[Any]:
    return sorted(set(values), key=lambda value: (value is None, value or 0))


def by_cell(runs: Iterable[Row]) -> dict[tuple[int | None, float | None], list[Row]]:
    """The runs of each pair of memory limit (bytes) and CPU limit."""
    cells: dict[tuple[int | None, float | None], list[Row]] = {}
    for run in runs:
        cells.setdefault((run["mem_limit_bytes"], run["cpu_limit"]), []).append(run)
    return cells


def by_subject(runs: Sequence[Row]) -> dict[str, list[Row]]:
    """The runs of each task; of each task and agent where there are several agents.

    Likewise of each CPU mode where there are several: two cores are not the time of two cores.
    """
    subjects: dict[str, list[Row]] = {}
    several = [key for key in ("agent", "cpu_mode") if len({run[key] for run in runs}) > 1]
    for run in runs:
        more = ", ".join(run[key] or UNKNOWN for key in several)
        task = run["task"] or UNKNOWN
        subjects.setdefault(f"{task} ({more})" if more else task, []).append(run)
    return dict(sorted(subjects.items()))


def by_cpu_mode(runs: Sequence[Row]) -> dict[str, list[Row]]:
    """The runs of each CPU mode where there are several; all of them by `` where there are not."""
    modes: dict[str, list[Row]] = {}
    for run in runs:
        modes.setdefault(run["cpu_mode"] or UNKNOWN, []).append(run)
    return dict(sorted(modes.items())) if len(modes) > 1 else {"": list(runs)}


# --- outcomes ---


def outcome_counts(runs: Iterable[Row]) -> dict[str, int]:
    """Runs of each outcome that occurs, in the order of the closed set; `unknown` last."""
    found = [run["outcome"] or UNKNOWN for run in runs]
    order = [*Outcome, *sorted(set(found) - {*Outcome, UNKNOWN}), UNKNOWN]
    return {name: found.count(name) for name in order if name in found}


@dataclass(frozen=True)
class ToolKills:
    """Kernel OOM kills that agents survived: `least` to `most` of them, in `runs_known` runs.

    `runs_known` counts the runs with at least one for certain, `runs_completed` those of them that
    completed, `runs_unknown` the runs in which the number is not known (`least` takes 0 for each,
    `most` the most that it can be; None where there is no bound).
    """

    least: int
    most: int | None
    runs_known: int
    runs_completed: int
    runs_unknown: int


def tool_kills(runs: Iterable[Row]) -> ToolKills | None:
    """The kills of tools in all runs, whatever came of them; None where no run tells anything."""
    rows = list(runs)
    bounds = [tool_kill_bounds(run) for run in rows]
    if not any(least is not None or most is not None for least, most in bounds):
        return None
    with_kills = [run for run, (least, _) in zip(rows, bounds, strict=True) if least]
    most = [most for _, most in bounds if most is not None]
    return ToolKills(
        sum(least or 0 for least, _ in bounds),
        sum(most) if len(most) == len(bounds) else None,
        len(with_kills),
        len(completed(with_kills)),
        sum(least is None for least, _ in bounds),
    )


def tool_kill_bounds(run: Row) -> tuple[int | None, int | None]:
    """Kernel OOM kills that the agent survived: their number twice, or None and the most it can be.

    Where the order of the kills is not known, neither is the number.
    """
    count, kills = run["tool_oom_count"], run["oom_kill_count"]
    if count is not None:
        return count, count
    if kills == 0:
        return 0, 0
    most = run.get("tool_oom_count_max")
    return None, kills if most is None else most


def had_oom(run: Row) -> bool:
    """Whether the kernel killed anything for memory in the run, as far as is known."""
    return (run["oom_kill_count"] or 0) > 0 or (run["tool_oom_count"] or 0) > 0


# --- one run ---


def agent_wall_s(run: Row) -> float | None:
    """Seconds of the agent's phase, its start to its end."""
    seconds: float | None = run["agent_s"]
    return seconds


def peak_memory_bytes(run: Row) -> int | None:
    """Peak of the memory charged to the container in the agent's phase, page cache included."""
    peak: int | None = run["mem_peak_bytes"]
    return peak


def memory_limit_bytes(run: Row) -> int | None:
    """The limit in force; the one asked for where that is not known."""
    effective, asked = run["mem_effective_bytes"], run["mem_limit_bytes"]
    limit: int | None = asked if effective is None else effective
    return limit


def peak_share_of_limit(run: Row) -> float | None:
    """Peak memory as a share of the limit in force, 0 to 1."""
    return ratio(run["mem_peak_bytes"], memory_limit_bytes(run))


def peak_sources(runs: Iterable[Row]) -> dict[str, int]:
    """Runs whose peak comes from each source: `counter`, `watermark`, `sampled`."""
    found = [run["mem_peak_source"] for run in runs if run["mem_peak_source"] is not None]
    return {source: found.count(source) for source in sorted(set(found))}


def throttled_period_share(run: Row) -> float | None:
    """Share of the CFS periods in which the container ran that ended throttled, 0 to 1."""
    return ratio(run["cpu_nr_throttled"], run["cpu_nr_periods"])


def throttled_s_per_s(run: Row) -> float | None:
    """Throttled seconds, summed over CPUs by the kernel, for each second of the agent's phase."""
    throttled = run["cpu_throttled_usec"]
    return None if throttled is None else ratio(throttled / 1e6, run["agent_s"])


def time_split(run: Row) -> dict[str, float] | None:
    """Seconds of the agent's phase by `TIME_PARTS`, which add up to it; None if not known.

    `model` is time with a request open and no tool at work, `tools` the reverse, `both` the
    overlap; `other` is what the run table says is none of these.
    """
    if None in (run["agent_s"], run["startup_s"], run["model_s"], run["tool_s"], run["overlap_s"]):
        return None
    parts = {
        "startup": run["startup_s"],
        "model": run["model_s"] - run["overlap_s"],
        "both": run["overlap_s"],
        "tools": run["tool_s"] - run["overlap_s"],
    }
    other = run["other_s"]
    if other is None:
        other = max(run["agent_s"] - sum(parts.values()), 0.0)
    return parts | {"other": other}


def mean_time_split(runs: Iterable[Row]) -> tuple[dict[str, float], int]:
    """The mean of `time_split` over the completed runs that have it, and their number."""
    splits = [split for split in map(time_split, completed(runs)) if split is not None]
    if not splits:
        return {}, 0
    return {part: fmean(split[part] for split in splits) for part in TIME_PARTS}, len(splits)


def time_share(runs: Iterable[Row], part: str) -> Estimate:
    """Median share of the agent's phase that a part of `TIME_PARTS` takes, 0 to 1; over completed
    runs."""

    def share(run: Row) -> float | None:
        split = time_split(run)
        return None if split is None else ratio(split[part], run["agent_s"])

    return estimate(runs, share)


# --- tool calls ---


@dataclass(frozen=True)
class CategoryUse:
    """The calls of one category in a set of runs.

    `seconds` sums the durations of the calls that have one (overlapping calls count each);
    it is None where none has one, and for sub-agents, whose time is that of their own model and
    tools. `errors` counts the calls with an error, `unknown` those of which nobody knows whether
    they had one: the agent ended before their result.
    """

    calls: int
    errors: int
    unknown: int
    untimed: int
    seconds: float | None


def category_use(calls: Iterable[Row]) -> dict[str, CategoryUse]:
    """What these calls (of all runs, or of those that are given) came to, by category.

    The most time first, then the most calls.
    """
    found: dict[str, list[Row]] = {}
    for call in calls:
        found.setdefault(call["category"] or UNKNOWN, []).append(call)
    use = {name: _use(name, rows) for name, rows in found.items()}
    return dict(sorted(use.items(), key=lambda u: (-(u[1].seconds or 0), -u[1].calls, u[0])))


def _use(category: str, calls: Sequence[Row]) -> CategoryUse:
    timed = [call["duration_s"] for call in calls if call["duration_s"] is not None]
    seconds = sum(timed) if timed and category != AGENT_CATEGORY else None
    errors = sum(call["is_error"] is True for call in calls)
    unknown = sum(call["is_error"] is None for call in calls)
    return CategoryUse(len(calls), errors, unknown, len(calls) - len(timed), seconds)


def exact_time_share(calls: Iterable[Row]) -> float | None:
    """Share of the timed calls whose times are exact, not bounds from the trace; 0 to 1."""
    timed = [call for call in calls if call["duration_s"] is not None]
    return ratio(sum(call["time_source"] == TimeSource.EXACT for call in timed), len(timed))


# --- replays ---


def replayed(runs: Iterable[Row]) -> list[Row]:
    """The runs that replay a recording."""
    return [run for run in runs if run["model_mode"] == ModelMode.REPLAY]


def run_fidelity(run: Row) -> float | None:
    """How closely a replay repeats its recording: mean fidelity of the calls that have one."""
    fidelity: float | None = run["fidelity"]
    return fidelity


def has_diverged(run: Row) -> bool:
    """Whether a replay left its recording."""
    return run["outcome"] == Outcome.DIVERGED or run["diverged_reason"] is not None


def fates(runs: Iterable[Row], calls: Iterable[Row]) -> dict[str, int]:
    """The tool calls of replays by what became of them, in the order of `FATES`; of all runs.

    Nothing is pooled with what was cut short: calls that a run did not come to have a fate, too.
    `not_comparable` are those that the agent does not offer and those without a recorded result,
    `not_reached` the recorded calls that the run did not come to; a recording whose number of
    calls is not known adds none of these.
    """
    left = {run["run_id"]: run["n_recorded_calls"] for run in runs}
    counts: Counter[str] = Counter()
    for call in calls:
        status = call["replay_status"]
        if call["run_id"] in left and status is not None:
            counts[status if status in FATES else NOT_COMPARABLE] += 1
            if left[call["run_id"]] is not None:
                left[call["run_id"]] -= 1
    counts[NOT_REACHED] = sum(max(number, 0) for number in left.values() if number is not None)
    return {fate: counts[fate] for fate in FATES if counts[fate]}


def fate_share(counts: Mapping[str, int], *wanted: str) -> float | None:
    """Share of all calls that one of these fates befell, 0 to 1."""
    return ratio(sum(counts.get(fate, 0) for fate in wanted), sum(counts.values()))


def limited_share(counts: Mapping[str, int]) -> float | None:
    """Share of all calls that were killed or timed out in the replay alone, 0 to 1."""
    return fate_share(counts, *LIMITED)


@dataclass(frozen=True)
class Patches:
    """The distinct patches that `runs` completed runs left, replays of `recordings` recordings;
    `alike` says whether all those replays of a recording left the same one."""

    distinct: int
    runs: int
    recordings: int
    alike: bool


def distinct_patches(runs: Iterable[Row]) -> Patches:
    """The distinct patches of the completed replays whose patch is known; an empty patch is one.

    What a replay that was cut short had changed by then is half a patch, not another one.
    """
    found: dict[str | None, set[str]] = {}
    known = [run for run in completed(runs) if run["patch_sha256"] is not None]
    for run in known:
        found.setdefault(run["replay_source_sha256"], set()).add(run["patch_sha256"])
    distinct = set().union(*found.values())
    return Patches(
        len(distinct), len(known), len(found), all(len(left) == 1 for left in found.values())
    )
