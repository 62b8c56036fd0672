"""Every published number, as a function of the tables.

Runs and calls are rows of the tables as dictionaries. A value that the rows do not hold is None,
never 0. `Estimate` and `Value` carry the number that a value rests on, because null values leave
runs out.

A run that did not complete is censored: it ended early because it was killed or failed, not because
it was done. What a run takes (times, memory, calls, fidelity) is therefore summed up over completed
runs alone (`completed`), and shares of outcomes leave out what says nothing about the limit
(`countable`). Functions of one run judge nothing; each summary says which runs it is over.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from statistics import fmean, median, stdev
from typing import Any

import numpy as np

from agentsweep.analysis.cohort import MB, Cohort, CohortRun, covered_s, intervals_of
from agentsweep.analysis.run_metrics import (
    CORRECTED,
    LONGEST_STEP_S,
    MODES,
    PAPER,
    RATE_BURST_CPU,
    RATE_BURST_MEMORY_MB,
    TRAJECTORY_POINTS,
    UNKNOWN,
    active_s,
    burst_steps,
    call_places,
    change_rates,
    command_kind,
    container_s,
    correlation,
    cut_memory_mb,
    duration_s,
    has_bash_run,
    has_retry_loop,
    in_listed_calls,
    known_steps,
    least_tool_share,
    listed_correlation,
    listed_kind,
    listed_seconds,
    listed_test_rises,
    load_correlation,
    mean_load,
    mean_load_error,
    mean_of_means,
    memory_over_time,
    memory_trajectory,
    model_share,
    os_share,
    output_tokens,
    peak_mb,
    peak_to_average,
    plus,
    quantile_interval,
    ratio,
    residual_startup_s,
    rounds,
    start_correlation,
    startup_share,
    startup_total_s,
    test_rises,
    tool_share,
    unattenuated_correlation,
    uncertain_share,
    within,
)
from agentsweep.extraction.fidelity import (
    KILLED,
    LIMITED,
    SAME,
    STATE_DIFFERS,
    TEXT_DIFFERS,
    TIMED_OUT,
    UNFINISHED,
)
from agentsweep.intervals import length
from agentsweep.runs.outcome import OUTCOMES, UNRELATED_OUTCOMES

Row = Mapping[str, Any]

TIME_PARTS = ("startup", "model", "both", "tools", "other")
# Its time is that of its own model and tools.
AGENT_CATEGORY = "agent"
NOT_COMPARABLE, NOT_REACHED = "not_comparable", "not_reached"
# What may become of a recorded tool call in a replay.
FATES = (
    SAME,
    TEXT_DIFFERS,
    STATE_DIFFERS,
    KILLED,
    TIMED_OUT,
    UNFINISHED,
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
    if run["source"] == "imported" and run["outcome"] is None:
        return not run.get("exit_code")
    return run["outcome"] == "completed"


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
    cells: dict[tuple, list[Row]] = {}
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
    order = [*OUTCOMES, *sorted(set(found) - {*OUTCOMES, UNKNOWN}), UNKNOWN]
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
    most = [most for _, most in bounds]
    return ToolKills(
        sum(least or 0 for least, _ in bounds),
        None if None in most else sum(most),
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
    return run["agent_s"]


def peak_memory_bytes(run: Row) -> int | None:
    """Peak of the memory charged to the container in the agent's phase, page cache included."""
    return run["mem_peak_bytes"]


def memory_limit_bytes(run: Row) -> int | None:
    """The limit in force; the one asked for where that is not known."""
    effective = run["mem_effective_bytes"]
    return run["mem_limit_bytes"] if effective is None else effective


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
    return ratio(sum(call["time_source"] == "exact" for call in timed), len(timed))


# --- replays ---


def replayed(runs: Iterable[Row]) -> list[Row]:
    """The runs that replay a recording."""
    return [run for run in runs if run["model_mode"] == "replay"]


def run_fidelity(run: Row) -> float | None:
    """How closely a replay repeats its recording: mean fidelity of the calls that have one."""
    return run["fidelity"]


def has_diverged(run: Row) -> bool:
    """Whether a replay left its recording."""
    return run["outcome"] == "diverged" or run["diverged_reason"] is not None


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


# --- what a paper on agents' resources says of a data set ---
#
# Each of these functions gives the numbers of one claim for one cohort, in one of two modes:
# `paper` follows the definition of AgentCgroup (arXiv 2602.09345) with its defects, `corrected` the
# rules of docs/measurement.md. Shares are percent, durations seconds, memory decimal megabytes, CPU
# percent of one core. Those with `_of_completed` are over all runs that count in `paper` mode and
# over the completed ones of them in `corrected` mode; the others are over all that count in both.


MEMORY_BURST_MB = 300.0
CPU_BURST_PERCENT = 30.0
HIGH_CPU_PERCENT = 50.0
LARGE_CHANGE_MB = 100.0
# A container whose image has to be copied first takes minutes, any other one less than this.
COLD_START_S = 10.0


@dataclass(frozen=True)
class Value:
    """A number with all that it takes to read it.

    n counts what it rests on, which the definition names. `low` and `high` bound it where it is an
    estimate. `value` is None where no run has what it takes.
    """

    value: float | None
    n: int
    unit: str
    definition: str
    low: float | None = None
    high: float | None = None


Values = dict[str, Value]
Summary = Callable[[Sequence[float]], float]


def _over_runs(
    runs: Iterable[CohortRun],
    metric: Callable[[CohortRun], float | None],
    summary: Summary,
    unit: str,
    definition: str,
    bound: Callable[[CohortRun], float | None] | None = None,
) -> Value:
    """The summary of a metric over the runs that have it; `bound` gives its other bound."""
    pairs = [(value, run) for run in runs if (value := metric(run)) is not None]
    if not pairs:
        return Value(None, 0, unit, definition)
    value = float(summary([value for value, _ in pairs]))
    if bound is None:
        return Value(value, len(pairs), unit, definition)
    # A run without a bound is as far as is known.
    bounds = [value if (b := bound(run)) is None else b for value, run in pairs]
    other = float(summary(bounds))
    return Value(value, len(pairs), unit, definition, min(value, other), max(value, other))


def _share(part: float, whole: float, n: int, unit: str, definition: str) -> Value:
    return Value(100 * part / whole if whole else None, n, unit, definition)


def datasets(cohorts: Sequence[Cohort]) -> Sequence[Cohort]:
    """The cohorts of single data sets, without the unions of several."""
    return [cohort for cohort in cohorts if not cohort.union]


def everything(cohorts: Sequence[Cohort]) -> Cohort:
    """The runs of all data sets, whatever their source: what a panel without colours shows."""
    sets = datasets(cohorts)
    if len(sets) == 1:
        return sets[0]
    runs = [run for cohort in sets for run in cohort.runs]
    attempts = sum(cohort.attempts for cohort in sets)
    return Cohort("all", runs, frozenset(), attempts, union=True)


def counted(cohort: Cohort, mode: str) -> Cohort:
    """The runs that a mode's numbers are over: all in `paper` mode, else the completed ones."""
    if mode == PAPER:
        return cohort
    return replace(cohort, runs=[run for run in cohort.runs if is_completed(run.row)])


def _of_completed(metric: Callable) -> Callable:
    """A metric over what `counted` gives, whose definitions say so.

    The published way has all runs; but a run that was killed or failed is censored, and would make
    less memory look faster.
    """

    @wraps(metric)
    def over(cohort: Cohort, mode: str, *more: Any) -> Any:
        found = metric(counted(cohort, mode), mode, *more)
        return found if mode == PAPER else _said_so(found)

    return over


def _said_so(found: Any) -> Any:
    if isinstance(found, Value) and not found.definition.endswith(_COMPLETED_ALONE):
        return replace(found, definition=found.definition + _COMPLETED_ALONE)
    if isinstance(found, dict):
        return {name: _said_so(value) for name, value in found.items()}
    return found


_COMPLETED_ALONE = " Completed runs alone."


# Durations and where the time went.


@_of_completed
def task_duration_mean(cohort: Cohort, mode: str) -> Value:
    """How long a task takes: mean over runs."""
    return _task_duration(cohort, mode, fmean, "Mean")


@_of_completed
def task_duration_median(cohort: Cohort, mode: str) -> Value:
    """How long a task takes: median over runs."""
    return _task_duration(cohort, mode, median, "Median")


def _task_duration(cohort: Cohort, mode: str, summary: Summary, name: str) -> Value:
    if mode == PAPER:
        said = f"{name} over runs of the container's time, its creation included."
        return _over_runs(cohort.runs, container_s, summary, "s", said)
    said = f"{name} over runs of the agent's phase, its start to its last record."
    return _over_runs(cohort.runs, lambda run: run.row["agent_s"], summary, "s", said)


@_of_completed
def tool_share_of_active_mean(cohort: Cohort, mode: str) -> Value:
    """How much of the agent's active time tools take: mean over runs."""
    return _tool_share(cohort, mode, fmean, "Mean")


@_of_completed
def tool_share_of_active_median(cohort: Cohort, mode: str) -> Value:
    """How much of the agent's active time tools take: median over runs."""
    return _tool_share(cohort, mode, median, "Median")


@_of_completed
def tool_share_of_active_max(cohort: Cohort, mode: str) -> Value:
    """How much of the agent's active time tools take: the most in any run."""
    return _tool_share(cohort, mode, max, "Maximum")


def _tool_share(cohort: Cohort, mode: str, summary: Summary, name: str) -> Value:
    if mode == PAPER:
        said = (
            f"{name} over runs of the sum of request-to-result times of all calls over the "
            "session's span."
        )
        return _over_runs(cohort.runs, _percent(tool_share, mode), summary, "%", said)
    said = (
        f"{name} over runs of the time with a leaf tool at work (union of intervals; a sub-agent's "
        "model time is model time) over the agent's phase after its start-up."
    )
    least = _percent(lambda run, _: least_tool_share(run), mode)
    return _over_runs(cohort.runs, _percent(tool_share, mode), summary, "%", said, least)


def _percent(metric: Callable[[CohortRun, str], float | None], mode: str):
    def percent(run: CohortRun) -> float | None:
        share = metric(run, mode)
        return None if share is None else 100 * share

    return percent


@_of_completed
def startup_share_mean(cohort: Cohort, mode: str) -> Value:
    """How much of the container's time passes before the agent works."""
    said = {
        PAPER: "Mean over runs of (container's time - session's span) / container's time.",
        CORRECTED: "Mean over runs of the time from creating the container to the first request, "
        "as measured, over the container's time.",
    }[mode]
    return _over_runs(cohort.runs, _percent(startup_share, mode), fmean, "%", said)


@_of_completed
def model_share_mean(cohort: Cohort, mode: str) -> Value:
    """How much of the container's time the model takes."""
    if mode == PAPER:
        said = "Mean over runs of session's span x (1 - tool share) / container's time."
        return _over_runs(cohort.runs, _percent(model_share, mode), fmean, "%", said)
    said = (
        "Mean over runs of the time with a request to the model open (union of intervals, "
        "sub-agents included; without a record of requests, from the record before an answer to "
        "the answer's last) over the container's time."
    )
    most = _percent(lambda run, mode: plus(model_share(run, mode), uncertain_share(run)), mode)
    return _over_runs(cohort.runs, _percent(model_share, mode), fmean, "%", said, most)


@_of_completed
def os_share_mean(cohort: Cohort, mode: str) -> Value:
    """How much of the container's time start-up and tools take."""
    if mode == PAPER:
        said = "Mean over runs of start-up share + session's span x tool share / container's time."
        return _over_runs(cohort.runs, _percent(os_share, mode), fmean, "%", said)
    said = (
        "Mean over runs of measured start-up + time with a leaf tool at work, over the "
        "container's time."
    )
    least = _percent(lambda run, mode: plus(os_share(run, mode), uncertain_share(run), -1), mode)
    return _over_runs(cohort.runs, _percent(os_share, mode), fmean, "%", said, least)


@_of_completed
def startup_cold_mean(cohort: Cohort, mode: str) -> Value:
    """Start-up of runs whose image had to be copied or fetched first."""
    return _startup(cohort, mode, cold=True)


@_of_completed
def startup_warm_mean(cohort: Cohort, mode: str) -> Value:
    """Start-up of runs whose image was ready."""
    return _startup(cohort, mode, cold=False)


def _startup(cohort: Cohort, mode: str, cold: bool) -> Value:
    runs = [
        run
        for run in cohort.runs
        if run.row["create_s"] is not None and (run.row["create_s"] >= COLD_START_S) is cold
    ]
    which = f"{'at least' if cold else 'less than'} {COLD_START_S:.0f} s to create its container"
    if mode == PAPER:
        said = f"Mean over runs with {which} of container's time - session's span, a residual."
        return _over_runs(runs, residual_startup_s, fmean, "s", said)
    said = f"Mean over runs with {which} of the time from creating it to the first request."
    return _over_runs(runs, startup_total_s, fmean, "s", said)


@_of_completed
def active_split(cohort: Cohort, mode: str) -> Values:
    """Where the active time went: the mean share of each part over runs; by part.

    The parts, which add up to 100 %, are `tools`, `both` (tools and model at once), `model` and
    `other`; in `paper` mode only `tools` and `model`, which is all the rest.
    """
    said = {
        PAPER: "Mean over runs of the sum of request-to-result times of all calls over the "
        "session's span, and of what is left of it, called the model's.",
        CORRECTED: "Mean over runs of the part's time (unions of intervals) over the agent's phase "
        "after its start-up.",
    }[mode]
    splits = [split for run in cohort.runs if (split := _active_split(run, mode)) is not None]
    if not splits:
        return {}
    return {
        part: Value(100 * fmean(split[part] for split in splits), len(splits), "%", said)
        for part in splits[0]
    }


def _active_split(run: CohortRun, mode: str) -> dict[str, float] | None:
    if mode == PAPER:
        tools = tool_share(run, mode)
        return None if tools is None else {"tools": tools, "model": 1 - tools}
    active, split = active_s(run, mode), time_split({**run.row, "other_s": None})
    if split is None or not active:
        return None
    return {part: split[part] / active for part in ("tools", "both", "model", "other")}


# Tools.


@_of_completed
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


@_of_completed
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
        shares[name] = _share(seconds[name], total, calls[name], "%", said)
        if mode == CORRECTED and name not in timed:
            # None of its calls has a time: they may have taken any part of it.
            shares[name] = replace(shares[name], value=None)
        elif mode == CORRECTED:
            most, fewest = seconds[name], least[name]
            extremes = [(most, most + least_total - fewest), (fewest, fewest + total - most)]
            bounds = [_share(part, whole, 0, "%", said) for part, whole in extremes]
            shares[name] = _between(shares[name], [shares[name], *bounds])
    return shares


@_of_completed
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


@_of_completed
def calls_by_decile(cohort: Cohort, mode: str) -> dict[str, list[int]]:
    """How many calls of each of `SHOWN_TOOLS` and of `other` fall into each tenth of their run."""
    counts = {name: [0] * 10 for name in (*SHOWN_TOOLS, _OTHER)}
    for run in cohort.runs:
        for name, place in call_places(run, mode):
            counts[name if name in SHOWN_TOOLS else _OTHER][min(int(place * 10), 9)] += 1
    return counts


# CPU.


@_of_completed
def cpu_mean(cohort: Cohort, mode: str) -> Value:
    """The CPU that an agent and its tools use on average, over the tasks of all data sets."""
    if mode == PAPER:
        said = (
            "Mean over the runs of the tasks that all data sets have (all runs, if there is no "
            "such task) of the mean of the samples, each an average since the container's start."
        )
        return _over_runs(cohort.common, mean_of_means, fmean, "% of a core", said)
    said = (
        "Mean over the runs of the tasks that all data sets have (all runs, if there is no such "
        "task) of the CPU time between the first and the last sample over the time between them."
    )
    value = _over_runs(cohort.common, mean_load, fmean, "% of a core", said)
    errors = [error for run in cohort.common if (error := mean_load_error(run)) is not None]
    if value.value is None or not any(errors):
        return value
    half = fmean(errors)
    return replace(value, low=value.value - half, high=value.value + half)


@_of_completed
def cpu_max(cohort: Cohort, mode: str) -> Value:
    """The most CPU that was seen."""
    if mode == PAPER:
        percent = _joined(run.series.mean_cpu_percent for run in cohort.runs)
        known = percent[np.isfinite(percent)]
        said = (
            "Maximum of all samples, each an average since the container's start; n counts samples."
        )
        return Value(float(known.max()) if len(known) else None, len(known), "% of a core", said)
    load, error = _loads(cohort)
    said = (
        "Maximum of the load between two samples, a second apart, of the CPU time reconstructed "
        "or counted; n counts steps."
    )
    if not len(load):
        return Value(None, 0, "% of a core", said)
    bounds = (float((load - error).max()), float((load + error).max()))
    return Value(float(load.max()), len(load), "% of a core", said, *_bounds(bounds, error))


@_of_completed
def cpu_samples_over_50(cohort: Cohort, mode: str) -> Value:
    """How often half a core or more is in use."""
    if mode == PAPER:
        percent = _joined(run.series.mean_cpu_percent for run in cohort.runs)
        known = percent[np.isfinite(percent)]
        said = (
            "Samples over 50 % of a core, each an average since the container's start; n counts "
            "samples."
        )
        return _share(float((known > HIGH_CPU_PERCENT).sum()), len(known), len(known), "%", said)
    load, error = _loads(cohort)
    said = "Steps between samples with a load over 50 % of a core; n counts steps."
    value = _share(float((load > HIGH_CPU_PERCENT).sum()), len(load), len(load), "%", said)
    if value.value is None:
        return value
    bounds = [100 * float((load + sign * error > HIGH_CPU_PERCENT).mean()) for sign in (-1, 1)]
    low, high = _bounds(bounds, error)
    return replace(value, low=low, high=high)


def _bounds(bounds: Sequence[float], error: np.ndarray) -> tuple[float | None, float | None]:
    """Bounds only where there is something to bound: counters are exact."""
    return (bounds[0], bounds[1]) if error.any() else (None, None)


def _loads(cohort: Cohort) -> tuple[np.ndarray, np.ndarray]:
    """The load of all steps of all runs, in percent of a core, and its half-width."""
    series = [run.cpu for run in cohort.runs if run.cpu is not None]
    return _joined(s.load_percent for s in series), _joined(s.load_error_percent for s in series)


@_of_completed
def cpu_memory_correlation_mean(cohort: Cohort, mode: str) -> Value:
    """Whether CPU and memory rise together: Pearson's r over a run's samples, mean over runs."""
    if mode == PAPER:
        said = "Mean over runs of Pearson's r of the samples, CPU being an average since the start."
        return _over_runs(cohort.runs, listed_correlation, fmean, "r", said)
    said = (
        "Mean over runs of Pearson's r of the load in a step and the memory at its end; bounds: "
        "with the memory at the step's start, and without the error of a reconstructed load."
    )
    value = _over_runs(cohort.runs, load_correlation, fmean, "r", said)
    if value.value is None:
        return value
    others = [
        fmean(found)
        for metric in (start_correlation, unattenuated_correlation)
        if (found := [r for run in cohort.runs if (r := metric(run)) is not None])
    ]
    return replace(value, low=min(value.value, *others), high=max(value.value, *others))


@_of_completed
def cpu_bursts_in_tools(cohort: Cohort, mode: str) -> Value:
    """How much of the CPU bursts comes while tools work."""
    if mode == PAPER:
        said = (
            "Samples over 30 % of a core (averages since the start) between request and result of "
            "any call, of all such samples; n counts them."
        )
        inside = high = 0
        for run in _with_calls(cohort):
            burst = run.series.mean_cpu_percent > CPU_BURST_PERCENT
            high += int(burst.sum())
            inside += int((burst & in_listed_calls(run)).sum())
        return _share(inside, high, high, "%", said)
    said = (
        "Time of steps with a load over 30 % of a core in which a leaf tool was at work, of the "
        "time of all such steps; n counts them; bounds: with the load's error, and with the least "
        "tool time."
    )
    bursts = [_bursts_in_tools(cohort, said, sign) for sign in (0, -1, 1)]
    least = [_bursts_in_tools(cohort, said, sign, least=True) for sign in (0, -1, 1)]
    return _between(bursts[0], [*bursts, *least])


def _bursts_in_tools(cohort: Cohort, said: str, sign: int, least: bool = False) -> Value:
    """Share of the CPU bursts in tools, for the load plus `sign` times its error."""
    covered = spent = 0.0
    steps = 0
    for run in _with_calls(cohort):
        if run.cpu is None:
            continue
        burst = run.cpu.load_percent + sign * run.cpu.load_error_percent > CPU_BURST_PERCENT
        ns = run.ns_of(run.cpu_t_s)
        tools = run.least_tool_time if least else run.tool_time
        steps += int(burst.sum())
        covered += float(covered_s(tools, ns[:-1], ns[1:])[burst].sum())
        spent += float(np.diff(run.cpu_t_s)[burst].sum())
    return _share(covered, spent, steps, "%", said)


def _between(value: Value, others: Iterable[Value]) -> Value:
    """The value with the lowest and the highest of others as bounds, where they differ."""
    known = [other.value for other in others if other.value is not None]
    if value.value is None or min(known) == max(known):
        return value
    return replace(value, low=min(known), high=max(known))


# Memory.


@_of_completed
def memory_baseline_mean(cohort: Cohort, mode: str) -> Value:
    """What the agent takes before it works: memory at the beginning, mean over runs."""
    said = {
        PAPER: "Mean over runs of the mean of the first tenth of the samples without the first "
        "one, 1 GB being 1024 MB.",
        CORRECTED: "Mean over runs of the mean of the first tenth of the live samples without the "
        "first one.",
    }[mode]

    def baseline(run: CohortRun) -> float | None:
        memory = memory_over_time(run, mode)[1]
        first = memory[1 : max(2, len(memory) // 10)]
        return float(first.mean()) if len(first) else None

    return _over_runs(cohort.runs, baseline, fmean, "MB", said)


@_of_completed
def memory_bursts_in_tools(cohort: Cohort, mode: str) -> Value:
    """How many of the memory bursts come while tools work."""
    said = {
        PAPER: "Samples over 300 MB (the printed text without its last three letters) between "
        "request and result of any call, of all such samples; n counts them.",
        CORRECTED: "Live samples over 300 MB with a leaf tool at work, of all such samples; n "
        "counts them; lower bound: with the least tool time.",
    }[mode]
    inside = least = high = 0
    for run in _with_calls(cohort):
        if mode == PAPER:
            burst, tools = cut_memory_mb(run.series) > MEMORY_BURST_MB, in_listed_calls(run)
        else:
            live = run.series.live
            burst = live & (run.series.memory_bytes / MB > MEMORY_BURST_MB)
            tools = within(run.series.utc_ns, run.tool_time)
            least += int((burst & within(run.series.utc_ns, run.least_tool_time)).sum())
        high += int(burst.sum())
        inside += int((burst & tools).sum())
    value = _share(inside, high, high, "%", said)
    if mode == PAPER:
        return value
    return _between(value, [value, _share(least, high, high, "%", said)])


@_of_completed
def memory_burst_time_share(cohort: Cohort, mode: str) -> Value:
    """How much of the sampled time tools work, against which their share of bursts is held."""
    if mode == PAPER:
        said = "Samples between request and result of any call, of all samples; n counts samples."
        inside = [in_listed_calls(run) for run in _with_calls(cohort)]
        total = sum(map(len, inside))
        return _share(float(sum(found.sum() for found in inside)), total, total, "%", said)
    said = (
        "Time with a leaf tool at work, of the time between the first and the last live sample, "
        "summed over runs; n counts runs; lower bound: the least tool time."
    )
    covered = least = spent = 0.0
    runs = 0
    for run in _with_calls(cohort):
        times = run.series.utc_ns[run.series.live]
        if len(times) < 2:
            continue
        runs += 1
        covered += float(covered_s(run.tool_time, times[:1], times[-1:])[0])
        least += float(covered_s(run.least_tool_time, times[:1], times[-1:])[0])
        spent += float(times[-1] - times[0]) / 1e9
    value = _share(covered, spent, runs, "%", said)
    return _between(value, [value, _share(least, spent, runs, "%", said)])


@_of_completed
def test_call_memory_rise_p95(cohort: Cohort, mode: str) -> Value:
    """How far a test command raises the memory: the 95th percentile."""
    if mode == PAPER:
        said = (
            "95th percentile of the highest sample within a test call of 0.1 s or more less the "
            "last sample before it (the printed text without its last three letters); n counts "
            "calls."
        )
        rises = [rise for run in cohort.runs for rise in listed_test_rises(run)]
    else:
        said = (
            "95th percentile of the peak within a test call of 0.1 s or more (by its programs) "
            "less the memory before it: watermark where there is one, else live samples within "
            "it; n counts calls; bounds: 95 % interval of the percentile, by ranks."
        )
        rises = [rise for run in cohort.runs for rise in test_rises(run)]
    value = float(np.percentile(rises, 95)) if rises else None
    if mode == PAPER or value is None:
        return Value(value, len(rises), "MB", said)
    return Value(value, len(rises), "MB", said, *quantile_interval(rises, 0.95))


@_of_completed
def memory_change_rate_max(cohort: Cohort, mode: str) -> Value:
    """The fastest change of the memory in use."""
    said = {
        PAPER: "Maximum of the change between two samples less than 2 s apart over their distance, "
        "1 GB being 1024 MB; n counts steps.",
        CORRECTED: "Maximum of the change between two live samples less than 2 s apart over their "
        "distance; n counts steps.",
    }[mode]
    rates = all_rates(cohort, mode, 1)
    return Value(float(rates.max()) if len(rates) else None, len(rates), "MB/s", said)


@_of_completed
def intervals_memory_over_100mb(cohort: Cohort, mode: str) -> Value:
    """How often the memory changes by more than 100 MB within a second."""
    if mode == PAPER:
        said = (
            "Steps with a change of CPU over 20 %/s or of memory over 50 MB/s (and not, as it is "
            "called, of memory over 100 MB); n counts steps."
        )
        steps = sum(map(known_steps, cohort.runs))
        return _share(sum(map(burst_steps, cohort.runs)), steps, steps, "%", said)
    said = (
        "Steps between live samples less than 2 s apart in which the memory changed by more than "
        "100 MB; n counts steps."
    )
    changes = []
    for run in cohort.runs:
        step = np.diff(run.series.live_t_s)
        usable = (step > 0) & (step < LONGEST_STEP_S)
        changes.append(np.abs(np.diff(run.series.live_memory_mb))[usable])
    change = _joined(changes)
    return _share(float((change > LARGE_CHANGE_MB).sum()), len(change), len(change), "%", said)


@_of_completed
def peak_position_mean(cohort: Cohort, mode: str) -> Value:
    """When in a run the memory peaks."""
    said = {
        PAPER: "Mean over runs of the number of the highest sample over that of the last one.",
        CORRECTED: "Mean over runs of the time of the highest live sample over that of the last "
        "one, both since the first.",
    }[mode]

    def position(run: CohortRun) -> float | None:
        if mode == PAPER:
            memory = memory_over_time(run, mode)[1]
            return 100 * float(np.argmax(memory)) / (len(memory) - 1) if len(memory) > 1 else None
        t_s = run.series.live_t_s
        if len(t_s) < 2:
            return None
        return 100 * float(
            (t_s[np.argmax(run.series.live_memory_mb)] - t_s[0]) / (t_s[-1] - t_s[0])
        )

    return _over_runs(cohort.runs, position, fmean, "%", said)


@_of_completed
def peak_to_average_max(cohort: Cohort, mode: str) -> Value:
    """How much more memory a run takes at its peak than on average: the most in any run."""
    return _peak_to_average(cohort, mode, max, "Maximum")


@_of_completed
def peak_to_average_mean(cohort: Cohort, mode: str) -> Value:
    """How much more memory a run takes at its peak than on average: mean over runs."""
    return _peak_to_average(cohort, mode, fmean, "Mean")


def _peak_to_average(cohort: Cohort, mode: str, summary: Summary, name: str) -> Value:
    said = {
        PAPER: f"{name} over runs of the highest sample over the mean of the samples.",
        CORRECTED: f"{name} over runs of the peak over the average of the live samples, weighted "
        "by time.",
    }[mode]
    return _over_runs(cohort.runs, lambda run: peak_to_average(run, mode), summary, "x", said)


@_of_completed
def memory_peak_min(cohort: Cohort, mode: str) -> Value:
    """The lowest peak of any run."""
    return _peak(cohort, mode, min, "MB", "Lowest peak of any run")


@_of_completed
def memory_peak_max(cohort: Cohort, mode: str) -> Value:
    """The highest peak of any run."""
    return _peak(cohort, mode, max, "MB", "Highest peak of any run")


@_of_completed
def memory_peak_cv(cohort: Cohort, mode: str) -> Value:
    """How much peaks differ: coefficient of variation."""

    def variation(peaks: Sequence[float]) -> float:
        return 100 * stdev(peaks) / fmean(peaks) if len(peaks) > 1 else 0.0

    said = "Standard deviation (of a sample) of the runs' peaks over their mean"
    value = _peak(cohort, mode, variation, "%", said)
    return value if value.n > 1 else replace(value, value=None)


def _peak(cohort: Cohort, mode: str, summary: Summary, unit: str, said: str) -> Value:
    source = {
        PAPER: "the highest sample of each",
        CORRECTED: "the kernel's peak where there is one, else the highest live sample, which is "
        "a lower bound",
    }[mode]
    definition = f"{said}; {source}."
    return _over_runs(cohort.runs, lambda run: peak_mb(run, mode), summary, unit, definition)


def image_size_median(cohort: Cohort, mode: str) -> Value:
    """How large the tasks' images are: median; of all runs, whatever came of them."""
    return _image_size(cohort, mode, median, "Median")


def image_size_mean(cohort: Cohort, mode: str) -> Value:
    """How large the tasks' images are: mean; of all runs, whatever came of them."""
    return _image_size(cohort, mode, fmean, "Mean")


def _image_size(cohort: Cohort, mode: str, summary: Summary, name: str) -> Value:
    said = {
        PAPER: f"{name} over tasks of the image's size in units of 2^30 bytes.",
        CORRECTED: f"{name} over distinct images of the size in units of 10^9 bytes; layers that "
        "images share count in each.",
    }[mode]
    sizes = image_sizes_gb(cohort, mode)
    return Value(summary(sizes) if sizes else None, len(sizes), "GB", said)


def image_sizes_gb(cohort: Cohort, mode: str) -> list[float]:
    """The size of each task's image once; in `paper` mode, a GB has 2^30 bytes."""
    key, unit = ("task", 2**30) if mode == PAPER else ("image_reference", 10**9)
    sizes: dict[str, float] = {}
    for run in cohort.runs:
        if run.row["image_size_bytes"]:
            sizes.setdefault(run.row[key] or run.row["task"], run.row["image_size_bytes"] / unit)
    return list(sizes.values())


@_of_completed
def memory_trajectories(cohort: Cohort, mode: str) -> np.ndarray:
    """Memory in MB of each run (a row) at 100 points of its progress (columns)."""
    found = [memory_trajectory(run, mode) for run in cohort.runs]
    return np.array([row for row in found if row is not None]).reshape(-1, TRAJECTORY_POINTS)


@_of_completed
def steps_over_threshold(cohort: Cohort, mode: str) -> Values:
    """How many changes within a second are what AgentCgroup calls a burst; of CPU and of memory."""
    cpu, memory = (all_rates(cohort, mode, place) for place in (0, 1))
    return {
        "cpu": _share_over(cpu, RATE_BURST_CPU, "% of a core"),
        "memory": _share_over(memory, RATE_BURST_MEMORY_MB, "MB"),
    }


@_of_completed
def all_rates(cohort: Cohort, mode: str, place: int) -> np.ndarray:
    """All known rates of change of CPU (0) or of memory (1)."""
    rates = _joined(change_rates(run, mode)[place] for run in cohort.runs)
    return rates[np.isfinite(rates)]


def _share_over(rates: np.ndarray, threshold: float, unit: str) -> Value:
    said = f"Steps with a change of more than {threshold:g} {unit} in a second; n counts steps."
    return _share(float((rates > threshold).sum()), len(rates), len(rates), "%", said)


@_of_completed
def cpu_change_rate_max(cohort: Cohort, mode: str) -> Value:
    """The fastest change of the CPU in use."""
    said = {
        PAPER: "Maximum of the change between two samples (averages since the start) less than 2 s "
        "apart over their distance; n counts steps.",
        CORRECTED: "Maximum of the change between the loads of two steps less than 2 s apart over "
        "their distance; n counts steps.",
    }[mode]
    rates = all_rates(cohort, mode, 0)
    return Value(float(rates.max()) if len(rates) else None, len(rates), "%/s", said)


def burstiest(cohort: Cohort) -> CohortRun | None:
    """The run with most of what AgentCgroup calls bursts, of all runs with two live samples.

    It is shown alone and pooled with nothing, whatever came of it.
    """
    runs = [run for run in cohort.runs if run.series.live.sum() > 1]
    return min(runs, key=lambda run: (-burst_steps(run), run.row["run_id"]), default=None)


# The conversation.


@_of_completed
def rounds_duration_correlation(cohort: Cohort, mode: str) -> Value:
    """Whether longer conversations take longer: Pearson's r over runs."""
    return _over_pairs(cohort, mode, rounds, duration_s, "Pearson's r over runs of {} and {}.")


@_of_completed
def rounds_peak_correlation(cohort: Cohort, mode: str) -> Value:
    """Whether longer conversations take more memory: Pearson's r over runs."""
    return _over_pairs(cohort, mode, rounds, peak_mb, "Pearson's r over runs of {} and {}.")


@_of_completed
def tokens_peak_correlation(cohort: Cohort, mode: str) -> Value:
    """Whether more tokens take more memory: Pearson's r over runs."""
    said = "Pearson's r over runs of {} and {}."
    if mode == CORRECTED:
        said = "Pearson's r over the runs that have the final number of each message, of {} and {}."
    return _over_pairs(cohort, mode, output_tokens, peak_mb, said)


_NAMES = {
    rounds: ("records of the model", "messages of the model"),
    output_tokens: ("output tokens summed over records", "output tokens, each message's once"),
    duration_s: ("the container's time", "the agent's phase"),
    peak_mb: ("the highest sample of the memory", "the peak of the memory"),
}


def _over_pairs(cohort: Cohort, mode: str, first, second, said: str) -> Value:
    place = MODES.index(mode)
    definition = said.format(_NAMES[first][place], _NAMES[second][place])
    pairs = [(first(run, mode), second(run, mode)) for run in cohort.runs]
    known = np.array([pair for pair in pairs if None not in pair], dtype=float).reshape(-1, 2)
    return Value(correlation(*known.T), len(known), "r", definition)


def models_main(cohort: Cohort, mode: str) -> Values:
    """Which models answered in the main chain; by model. Of all runs, whatever came of them."""
    said = {
        PAPER: "Runs whose command line asked for the model.",
        CORRECTED: "Runs in whose main chain the model answered most, as the session has it.",
    }[mode]
    column = "model_requested" if mode == PAPER else "model"
    return _counted([[run.row[column]] for run in cohort.runs if run.row[column]], "runs", said)


def models_subagent(cohort: Cohort, mode: str) -> Values:
    """Which models answered in sub-agents; by model. Of all runs. The paper knows of none."""
    said = "Runs in whose sub-agents the model answered, as the session has it."
    if mode == PAPER:
        return {}
    with_trace = [run for run in cohort.runs if run.row["model"]]
    named = [
        run.row["subagent_models"].split(", ") if run.row["subagent_models"] else []
        for run in with_trace
    ]
    return _counted(named, "runs", said)


def prompt_without_issue(cohort: Cohort, mode: str) -> Value | None:
    """Of all runs, those whose prompt held no text of an issue. The paper knows of none."""
    if mode == PAPER:
        return None
    known = [run for run in cohort.runs if run.row["prompt_issue_chars"] is not None]
    empty = sum(run.row["prompt_issue_chars"] == 0 for run in known)
    said = "Runs whose first prompt holds no text of an issue; n counts the runs with a prompt."
    return Value(float(empty) if known else None, len(known), "runs", said)


def test_interpreter(cohort: Cohort, mode: str) -> Values:
    """Which Python ran the tests; by version. Of all runs. The paper does not say."""
    if mode == PAPER:
        return {}
    said = (
        "Runs in which the banner of a test runner shows the version; n counts the runs with a "
        "banner."
    )
    versions = [
        sorted({call["test_interpreter"] for call in run.calls} - {None}) for run in cohort.runs
    ]
    return _counted([found for found in versions if found], "runs", said)


def _counted(names: Sequence[Sequence[str]], unit: str, said: str) -> Values:
    """How many of the lists hold each name; n is the number of lists."""
    counts = Counter(name for found in names for name in found)
    ordered = sorted(counts, key=lambda name: (-counts[name], name))
    return {name: Value(float(counts[name]), len(names), unit, said) for name in ordered}


def _with_calls(cohort: Cohort) -> list[CohortRun]:
    """The runs of which it is known when tools worked."""
    return [run for run in cohort.runs if run.calls_known]


def _joined(arrays: Iterable[np.ndarray]) -> np.ndarray:
    found = list(arrays)
    return np.concatenate(found) if found else np.empty(0)
