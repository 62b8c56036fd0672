"""Curves over the time of one run, from its samples and tool calls.

Samples are arrays by column with NaN for null.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from agentsweep.analysis.run_metrics import UNKNOWN
from agentsweep.tables.arrays import Bools, Floats, Ints, Numbers
from agentsweep.tables.rows import Row
from agentsweep.vocabulary import AGENT_CATEGORY

# Two samples further apart than both of these have a gap between them, which no line crosses.
_GAP_PERIODS = 5.0
_GAP_NS = 500_000_000
# A CFS period is 100 ms: over five of them a rate exceeds the quota by a fifth at most, because a
# time that is not aligned with them can hold the quota of one more.
_RATE_NS = 500_000_000
# A bin that is covered less than this would show a moment as if it were a bin.
_LEAST_BIN = 0.6


@dataclass(frozen=True)
class Curve:
    """A line over time: seconds since the run's start, and values; NaN where the line breaks."""

    t_s: Floats
    value: Floats

    @property
    def empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not np.isfinite(self.value).any()


def working_set_bytes(samples: Mapping[str, Floats]) -> Floats:
    """Memory charged minus inactive page cache, at each sample; NaN where either is null."""
    return samples["memory_current_bytes"] - samples["memory_inactive_file_bytes"]


def peak_curve(
    t_ns: Numbers, values: Floats, start_ns: int, end_ns: int, points: int = 400
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
    t_ns: Numbers, cumulative_usec: Floats, start_ns: int, end_ns: int, points: int = 400
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


def kill_times(t_ns: Numbers, oom_kill: Floats, start_ns: int) -> list[tuple[float, int]]:
    """Seconds since the start, and kills, at each sample in which the kill count had risen."""
    known = np.isfinite(oom_kill)
    t_ns, kills = t_ns[known], oom_kill[known]
    rises = np.diff(kills)
    return [
        (float(t_ns[place + 1] - start_ns) / 1e9, int(rises[place]))
        for place in np.flatnonzero(rises > 0)
    ]


_NO_CURVE = Curve(np.empty(0), np.empty(0))


def _within(t_ns: Numbers, values: Floats, start_ns: int, end_ns: int) -> tuple[Numbers, Floats]:
    inside = (t_ns >= start_ns) & (t_ns <= end_ns)
    return t_ns[inside], values[inside]


def _gap_ns(t_ns: Numbers) -> float:
    if len(t_ns) < 2:
        return _GAP_NS
    return max(_GAP_NS, _GAP_PERIODS * float(np.median(np.diff(t_ns))))


def _bin_ns(t_ns: Numbers, length_ns: int, points: int, least_ns: int) -> float:
    """The length of a bin: `points` in all, but never shorter than two samples."""
    period = float(np.median(np.diff(t_ns))) if len(t_ns) > 1 else 0.0
    return max(length_ns / points, 2 * period, least_ns, 1.0)


def _bins(t_ns: Numbers, start_ns: int, bin_ns: float) -> Ints:
    return ((t_ns - start_ns) // bin_ns).astype(np.int64)


def _broken(t_ns: Numbers, values: Floats, breaks: Bools, start_ns: int) -> Curve:
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
