"""Every published number, as a function of the tables.

Runs and calls are rows of the tables as dictionaries; samples are arrays by column with NaN for
null. A value that the rows do not hold is None, never 0. `Estimate` carries the number of runs
that a value rests on, because null values leave runs out.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

import numpy as np

from agentsweep.outcome import OUTCOMES

Row = Mapping[str, Any]

UNKNOWN = "unknown"
TIME_PARTS = ("startup", "model", "both", "tools", "other")
# Its time is that of its own model and tools.
AGENT_CATEGORY = "agent"

# Two samples further apart than both of these have a gap between them, which no line crosses.
_GAP_PERIODS = 5.0
_GAP_NS = 500_000_000
# A CFS period is 100 ms: over five of them a rate exceeds the quota by a fifth at most, because a
# time that is not aligned with them can hold the quota of one more.
_RATE_NS = 500_000_000
# A bin that is covered less than this would show a moment as if it were a bin.
_LEAST_BIN = 0.6


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
    """The summary (median by default) of a metric over the runs that have it."""
    values = [value for value in map(metric, runs) if value is not None]
    return Estimate(summary(values) if values else None, len(values))


# --- which runs there are ---


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
    """The runs of each task; of each task and agent where there are several agents."""
    several = len({run["agent"] for run in runs}) > 1
    subjects: dict[str, list[Row]] = {}
    for run in runs:
        task = run["task"] or UNKNOWN
        name = f"{task} ({run['agent'] or UNKNOWN})" if several else task
        subjects.setdefault(name, []).append(run)
    return dict(sorted(subjects.items()))


# --- outcomes ---


def outcome_counts(runs: Iterable[Row]) -> dict[str, int]:
    """Runs of each outcome that occurs, in the order of the closed set; `unknown` last."""
    found = [run["outcome"] or UNKNOWN for run in runs]
    order = [*OUTCOMES, *sorted(set(found) - {*OUTCOMES, UNKNOWN}), UNKNOWN]
    return {name: found.count(name) for name in order if name in found}


def tool_oom_count(runs: Iterable[Row]) -> int | None:
    """Kernel OOM kills that the agents survived, summed; None where no run has the count."""
    counts = [run["tool_oom_count"] for run in runs if run["tool_oom_count"] is not None]
    return sum(counts) if counts else None


def runs_with_tool_oom(runs: Iterable[Row]) -> int:
    """Runs in which the kernel killed at least one tool and the agent lived."""
    return sum((run["tool_oom_count"] or 0) > 0 for run in runs)


def had_oom(run: Row) -> bool:
    """Whether the kernel killed anything for memory in the run."""
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
    return _ratio(run["mem_peak_bytes"], memory_limit_bytes(run))


def peak_sources(runs: Iterable[Row]) -> dict[str, int]:
    """Runs whose peak comes from each source: `counter`, `watermark`, `sampled`."""
    found = [run["mem_peak_source"] for run in runs if run["mem_peak_source"] is not None]
    return {source: found.count(source) for source in sorted(set(found))}


def throttled_period_share(run: Row) -> float | None:
    """Share of the CFS periods in which the container ran that ended throttled, 0 to 1."""
    return _ratio(run["cpu_nr_throttled"], run["cpu_nr_periods"])


def throttled_s_per_s(run: Row) -> float | None:
    """Throttled seconds, summed over CPUs by the kernel, for each second of the agent's phase."""
    throttled = run["cpu_throttled_usec"]
    return None if throttled is None else _ratio(throttled / 1e6, run["agent_s"])


def _ratio(part: float | None, whole: float | None) -> float | None:
    return None if part is None or not whole else part / whole


def time_split(run: Row) -> dict[str, float] | None:
    """Seconds of the agent's phase by `TIME_PARTS`, which add up to it; None if not known.

    `model` is time with a request open and no tool at work, `tools` the reverse, `both` the
    overlap; `other` is what the run table says is none of these.
    """
    overlap = run["overlap_s"] or 0.0
    if None in (run["agent_s"], run["model_s"], run["tool_s"]):
        return None
    parts = {
        "startup": run["startup_s"] or 0.0,
        "model": run["model_s"] - overlap,
        "both": overlap,
        "tools": run["tool_s"] - overlap,
    }
    other = run["other_s"]
    if other is None:
        other = max(run["agent_s"] - sum(parts.values()), 0.0)
    return parts | {"other": other}


def mean_time_split(runs: Iterable[Row]) -> tuple[dict[str, float], int]:
    """The mean of `time_split` over the runs that have it, and their number."""
    splits = [split for split in map(time_split, runs) if split is not None]
    if not splits:
        return {}, 0
    return {part: fmean(split[part] for split in splits) for part in TIME_PARTS}, len(splits)


def time_share(runs: Iterable[Row], part: str) -> Estimate:
    """Median share of the agent's phase that a part of `TIME_PARTS` takes, 0 to 1."""

    def share(run: Row) -> float | None:
        split = time_split(run)
        return None if split is None else _ratio(split[part], run["agent_s"])

    return estimate(runs, share)


# --- tool calls ---


@dataclass(frozen=True)
class CategoryUse:
    """The calls of one category in a set of runs.

    `seconds` sums the durations of the calls that have one (overlapping calls count each);
    it is None for sub-agents, whose time is that of their own model and tools.
    """

    calls: int
    errors: int
    untimed: int
    seconds: float | None


def category_use(calls: Iterable[Row]) -> dict[str, CategoryUse]:
    """What the calls of each category came to; the most time first, then the most calls."""
    found: dict[str, list[Row]] = {}
    for call in calls:
        found.setdefault(call["category"] or UNKNOWN, []).append(call)
    use = {name: _use(name, rows) for name, rows in found.items()}
    return dict(sorted(use.items(), key=lambda u: (-(u[1].seconds or 0), -u[1].calls, u[0])))


def _use(category: str, calls: Sequence[Row]) -> CategoryUse:
    timed = [call["duration_s"] for call in calls if call["duration_s"] is not None]
    seconds = None if category == AGENT_CATEGORY else sum(timed)
    errors = sum(call["is_error"] is True for call in calls)
    return CategoryUse(len(calls), errors, len(calls) - len(timed), seconds)


def exact_time_share(calls: Iterable[Row]) -> float | None:
    """Share of the timed calls whose times are exact, not bounds from the trace; 0 to 1."""
    timed = [call for call in calls if call["duration_s"] is not None]
    return _ratio(sum(call["time_source"] == "exact" for call in timed), len(timed))


# --- samples of one run ---


@dataclass(frozen=True)
class Curve:
    """A line over time: seconds since the run's start, and values; NaN where the line breaks."""

    t_s: np.ndarray
    value: np.ndarray

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not np.isfinite(self.value).any()


def working_set_bytes(samples: Mapping[str, np.ndarray]) -> np.ndarray:
    """Memory charged minus inactive page cache, at each sample; NaN where either is null."""
    return samples["memory_current_bytes"] - samples["memory_inactive_file_bytes"]


def peak_curve(
    t_ns: np.ndarray, values: np.ndarray, start_ns: int, end_ns: int, points: int = 400
) -> Curve:
    """A level over time, thinned to the highest value of each of `points` equal times.

    Peaks survive the thinning. The line breaks where samples are missing.
    """
    t_ns, values = _within(t_ns, values, start_ns, end_ns)
    known = np.isfinite(values)
    gap_ns = _gap_ns(t_ns)
    t_ns, values = t_ns[known], values[known]
    if not len(t_ns):
        return _NO_CURVE
    bins = _bins(t_ns, start_ns, _bin_ns(t_ns, end_ns - start_ns, points, 0))
    starts = np.flatnonzero(np.r_[True, bins[1:] != bins[:-1]])
    highest = np.maximum.reduceat(values, starts)
    first, last = t_ns[starts], t_ns[np.r_[starts[1:], len(t_ns)] - 1]
    return _broken((first + last) / 2, highest, first[1:] - last[:-1] > gap_ns, start_ns)


def rate_curve(
    t_ns: np.ndarray, cumulative_usec: np.ndarray, start_ns: int, end_ns: int, points: int = 400
) -> Curve:
    """CPUs in use over time, from a cumulative counter: its rise over the time in each bin.

    Only pairs of neighbouring samples count: never one across a gap, a null or a counter that
    went back. A bin is 0.5 s long or longer; what is left over of one at a break or at the end is
    not drawn.
    """
    t_ns, usec = _within(t_ns, cumulative_usec, start_ns, end_ns)
    if len(t_ns) < 2:
        return _NO_CURVE
    step_ns, rise_ns = np.diff(t_ns), np.diff(usec) * 1000
    usable = np.isfinite(rise_ns) & (rise_ns >= 0) & (step_ns > 0) & (step_ns <= _gap_ns(t_ns))
    if not usable.any():
        return _NO_CURVE
    middle = (t_ns[:-1] + t_ns[1:]) / 2
    bin_ns = _bin_ns(t_ns, end_ns - start_ns, points, _RATE_NS)
    bins = _bins(middle, start_ns, bin_ns)
    # A bin ends where a pair is unusable, so that no rate is drawn across it.
    segment = np.cumsum(~usable)
    bins, segment, middle = bins[usable], segment[usable], middle[usable]
    step_ns, rise_ns = step_ns[usable], rise_ns[usable]
    starts = np.flatnonzero(np.r_[True, (bins[1:] != bins[:-1]) | (segment[1:] != segment[:-1])])
    length = np.add.reduceat(step_ns, starts)
    rate = np.add.reduceat(rise_ns, starts) / length
    centre = np.add.reduceat(middle * step_ns, starts) / length
    long = length >= _LEAST_BIN * bin_ns
    if not long.any():
        return _NO_CURVE
    segment = segment[starts][long]
    return _broken(centre[long], rate[long], segment[1:] != segment[:-1], start_ns)


def kill_times(t_ns: np.ndarray, oom_kill: np.ndarray, start_ns: int) -> list[tuple[float, int]]:
    """Seconds since the start, and kills, at each sample in which the kill count had risen."""
    known = np.isfinite(oom_kill)
    t_ns, kills = t_ns[known], oom_kill[known]
    rises = np.diff(kills)
    return [
        (float(t_ns[place + 1] - start_ns) / 1e9, int(rises[place]))
        for place in np.flatnonzero(rises > 0)
    ]


_NO_CURVE = Curve(np.empty(0), np.empty(0))


def _within(t_ns: np.ndarray, values: np.ndarray, start_ns: int, end_ns: int) -> tuple:
    inside = (t_ns >= start_ns) & (t_ns <= end_ns)
    return t_ns[inside], values[inside]


def _gap_ns(t_ns: np.ndarray) -> float:
    if len(t_ns) < 2:
        return _GAP_NS
    return max(_GAP_NS, _GAP_PERIODS * float(np.median(np.diff(t_ns))))


def _bin_ns(t_ns: np.ndarray, length_ns: int, points: int, least_ns: int) -> float:
    """The length of a bin: `points` in all, but never shorter than two samples."""
    period = float(np.median(np.diff(t_ns))) if len(t_ns) > 1 else 0.0
    return max(length_ns / points, 2 * period, least_ns, 1.0)


def _bins(t_ns: np.ndarray, start_ns: int, bin_ns: float) -> np.ndarray:
    return ((t_ns - start_ns) // bin_ns).astype(np.int64)


def _broken(t_ns: np.ndarray, values: np.ndarray, breaks: np.ndarray, start_ns: int) -> Curve:
    """A curve with a NaN where `breaks` (one for each pair of neighbours) says so."""
    places = np.flatnonzero(breaks) + 1
    t_s = (t_ns - start_ns) / 1e9
    return Curve(np.insert(t_s, places, np.nan), np.insert(values, places, np.nan))


# --- tools of one run ---


def tool_bands(
    calls: Iterable[Row], run: Row, start_ns: int, end_ns: int
) -> list[tuple[float, float, str]]:
    """Start and end in seconds since the run's start, and category, of each call with a start.

    Sub-agent calls themselves are left out. A call without an end lasts until the run's end.
    Times that are only known in UTC are moved by the run's own difference of the clocks.
    """
    offset = None
    if None not in (run["agent_start_utc_ns"], run["agent_start_ns"]):
        offset = run["agent_start_utc_ns"] - run["agent_start_ns"]
    bands = []
    for call in calls:
        start, end = call["start_ns"], call["end_ns"]
        if start is None and None not in (offset, call["start_utc_ns"]):
            start = call["start_utc_ns"] - offset
            end = None if call["end_utc_ns"] is None else call["end_utc_ns"] - offset
        if start is None or call["category"] == AGENT_CATEGORY:
            continue
        end = end_ns if end is None else end
        bands.append(
            ((start - start_ns) / 1e9, (end - start_ns) / 1e9, call["category"] or UNKNOWN)
        )
    return sorted(bands)
