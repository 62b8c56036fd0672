"""What a paper says of the memory that agents take.

Functions of a cohort and of a mode; `values` says what the modes are, and the units.
"""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, stdev

import numpy as np

from agentsweep.analysis.change_rates import LONGEST_STEP_S, all_rates, burst_steps, known_steps
from agentsweep.analysis.cohort import MB, Cohort, CohortRun, covered_s
from agentsweep.analysis.run_metrics import (
    CORRECTED,
    PAPER,
    TRAJECTORY_POINTS,
    cut_memory_mb,
    in_listed_calls,
    listed_test_rises,
    memory_over_time,
    memory_trajectory,
    peak_mb,
    peak_to_average,
    quantile_interval,
    test_rises,
    within,
)
from agentsweep.analysis.values import (
    Summary,
    Value,
    between,
    joined,
    of_completed,
    over_runs,
    share_of,
    with_calls_known,
)
from agentsweep.tables.arrays import Floats

MEMORY_BURST_MB = 300.0
LARGE_CHANGE_MB = 100.0


@of_completed
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

    return over_runs(cohort.runs, baseline, fmean, "MB", said)


@of_completed
def memory_bursts_in_tools(cohort: Cohort, mode: str) -> Value:
    """How many of the memory bursts come while tools work."""
    said = {
        PAPER: "Samples over 300 MB (the printed text without its last three letters) between "
        "request and result of any call, of all such samples; n counts them.",
        CORRECTED: "Live samples over 300 MB with a leaf tool at work, of all such samples; n "
        "counts them; lower bound: with the least tool time.",
    }[mode]
    inside = least = high = 0
    for run in with_calls_known(cohort):
        if mode == PAPER:
            burst, tools = cut_memory_mb(run.series) > MEMORY_BURST_MB, in_listed_calls(run)
        else:
            live = run.series.live
            burst = live & (run.series.memory_bytes / MB > MEMORY_BURST_MB)
            tools = within(run.series.utc_ns, run.tool_time)
            least += int((burst & within(run.series.utc_ns, run.least_tool_time)).sum())
        high += int(burst.sum())
        inside += int((burst & tools).sum())
    value = share_of(inside, high, high, "%", said)
    if mode == PAPER:
        return value
    return between(value, [value, share_of(least, high, high, "%", said)])


@of_completed
def memory_burst_time_share(cohort: Cohort, mode: str) -> Value:
    """How much of the sampled time tools work, against which their share of bursts is held."""
    if mode == PAPER:
        said = "Samples between request and result of any call, of all samples; n counts samples."
        inside = [in_listed_calls(run) for run in with_calls_known(cohort)]
        total = sum(map(len, inside))
        return share_of(float(sum(found.sum() for found in inside)), total, total, "%", said)
    said = (
        "Time with a leaf tool at work, of the time between the first and the last live sample, "
        "summed over runs; n counts runs; lower bound: the least tool time."
    )
    covered = least = spent = 0.0
    runs = 0
    for run in with_calls_known(cohort):
        times = run.series.utc_ns[run.series.live]
        if len(times) < 2:
            continue
        runs += 1
        covered += float(covered_s(run.tool_time, times[:1], times[-1:])[0])
        least += float(covered_s(run.least_tool_time, times[:1], times[-1:])[0])
        spent += float(times[-1] - times[0]) / 1e9
    value = share_of(covered, spent, runs, "%", said)
    return between(value, [value, share_of(least, spent, runs, "%", said)])


@of_completed
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


@of_completed
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


@of_completed
def intervals_memory_over_100mb(cohort: Cohort, mode: str) -> Value:
    """How often the memory changes by more than 100 MB within a second."""
    if mode == PAPER:
        said = (
            "Steps with a change of CPU over 20 %/s or of memory over 50 MB/s (and not, as it is "
            "called, of memory over 100 MB); n counts steps."
        )
        steps = sum(map(known_steps, cohort.runs))
        return share_of(sum(map(burst_steps, cohort.runs)), steps, steps, "%", said)
    said = (
        "Steps between live samples less than 2 s apart in which the memory changed by more than "
        "100 MB; n counts steps."
    )
    changes = []
    for run in cohort.runs:
        step = np.diff(run.series.live_t_s)
        usable = (step > 0) & (step < LONGEST_STEP_S)
        changes.append(np.abs(np.diff(run.series.live_memory_mb))[usable])
    change = joined(changes)
    return share_of(float((change > LARGE_CHANGE_MB).sum()), len(change), len(change), "%", said)


@of_completed
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

    return over_runs(cohort.runs, position, fmean, "%", said)


@of_completed
def peak_to_average_max(cohort: Cohort, mode: str) -> Value:
    """How much more memory a run takes at its peak than on average: the most in any run."""
    return _peak_to_average(cohort, mode, max, "Maximum")


@of_completed
def peak_to_average_mean(cohort: Cohort, mode: str) -> Value:
    """How much more memory a run takes at its peak than on average: mean over runs."""
    return _peak_to_average(cohort, mode, fmean, "Mean")


def _peak_to_average(cohort: Cohort, mode: str, summary: Summary, name: str) -> Value:
    said = {
        PAPER: f"{name} over runs of the highest sample over the mean of the samples.",
        CORRECTED: f"{name} over runs of the peak over the average of the live samples, weighted "
        "by time.",
    }[mode]
    return over_runs(cohort.runs, lambda run: peak_to_average(run, mode), summary, "x", said)


@of_completed
def memory_peak_min(cohort: Cohort, mode: str) -> Value:
    """The lowest peak of any run."""
    return _peak(cohort, mode, min, "MB", "Lowest peak of any run")


@of_completed
def memory_peak_max(cohort: Cohort, mode: str) -> Value:
    """The highest peak of any run."""
    return _peak(cohort, mode, max, "MB", "Highest peak of any run")


@of_completed
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
    return over_runs(cohort.runs, lambda run: peak_mb(run, mode), summary, unit, definition)


@of_completed
def memory_trajectories(cohort: Cohort, mode: str) -> Floats:
    """Memory in MB of each run (a row) at 100 points of its progress (columns)."""
    found = [memory_trajectory(run, mode) for run in cohort.runs]
    return np.array([row for row in found if row is not None]).reshape(-1, TRAJECTORY_POINTS)
