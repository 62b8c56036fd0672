"""What a paper says of the CPU that agents use.

Functions of a cohort and of a mode; `values` says what the modes are, and the units.
"""

from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

import numpy as np

from agentsweep.analysis.change_rates import all_rates, burst_steps
from agentsweep.analysis.cohort import Cohort, CohortRun, covered_s
from agentsweep.analysis.run_metrics import (
    CORRECTED,
    PAPER,
    in_listed_calls,
    listed_correlation,
    load_correlation,
    mean_load,
    mean_load_error,
    mean_of_means,
    start_correlation,
    unattenuated_correlation,
)
from agentsweep.analysis.values import (
    Value,
    between,
    joined,
    of_completed,
    over_runs,
    share_of,
    with_calls_known,
)
from agentsweep.tables.arrays import Floats

CPU_BURST_PERCENT = 30.0
HIGH_CPU_PERCENT = 50.0


@of_completed
def cpu_mean(cohort: Cohort, mode: str) -> Value:
    """The CPU that an agent and its tools use on average, over the tasks of all data sets."""
    if mode == PAPER:
        said = (
            "Mean over the runs of the tasks that all data sets have (all runs, if there is no "
            "such task) of the mean of the samples, each an average since the container's start."
        )
        return over_runs(cohort.common, mean_of_means, fmean, "% of a core", said)
    said = (
        "Mean over the runs of the tasks that all data sets have (all runs, if there is no such "
        "task) of the CPU time between the first and the last sample over the time between them."
    )
    value = over_runs(cohort.common, mean_load, fmean, "% of a core", said)
    errors = [error for run in cohort.common if (error := mean_load_error(run)) is not None]
    if value.value is None or not any(errors):
        return value
    half = fmean(errors)
    return replace(value, low=value.value - half, high=value.value + half)


@of_completed
def cpu_max(cohort: Cohort, mode: str) -> Value:
    """The most CPU that was seen."""
    if mode == PAPER:
        known = _printed_percents(cohort)
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


@of_completed
def cpu_samples_over_50(cohort: Cohort, mode: str) -> Value:
    """How often half a core or more is in use."""
    if mode == PAPER:
        known = _printed_percents(cohort)
        said = (
            "Samples over 50 % of a core, each an average since the container's start; n counts "
            "samples."
        )
        return share_of(float((known > HIGH_CPU_PERCENT).sum()), len(known), len(known), "%", said)
    load, error = _loads(cohort)
    said = "Steps between samples with a load over 50 % of a core; n counts steps."
    value = share_of(float((load > HIGH_CPU_PERCENT).sum()), len(load), len(load), "%", said)
    if value.value is None:
        return value
    bounds = [100 * float((load + sign * error > HIGH_CPU_PERCENT).mean()) for sign in (-1, 1)]
    low, high = _bounds(bounds, error)
    return replace(value, low=low, high=high)


def _printed_percents(cohort: Cohort) -> Floats:
    """All samples, each an average since the container's start, as far as they are known."""
    percent = joined(run.series.mean_cpu_percent for run in cohort.runs)
    return percent[np.isfinite(percent)]


def _bounds(bounds: Sequence[float], error: Floats) -> tuple[float | None, float | None]:
    """Bounds only where there is something to bound: counters are exact."""
    return (bounds[0], bounds[1]) if error.any() else (None, None)


def _loads(cohort: Cohort) -> tuple[Floats, Floats]:
    """The load of all steps of all runs, in percent of a core, and its half-width."""
    series = [run.cpu for run in cohort.runs if run.cpu is not None]
    return joined(s.load_percent for s in series), joined(s.load_error_percent for s in series)


@of_completed
def cpu_memory_correlation_mean(cohort: Cohort, mode: str) -> Value:
    """Whether CPU and memory rise together: Pearson's r over a run's samples, mean over runs."""
    if mode == PAPER:
        said = "Mean over runs of Pearson's r of the samples, CPU being an average since the start."
        return over_runs(cohort.runs, listed_correlation, fmean, "r", said)
    said = (
        "Mean over runs of Pearson's r of the load in a step and the memory at its end; bounds: "
        "with the memory at the step's start, and without the error of a reconstructed load."
    )
    value = over_runs(cohort.runs, load_correlation, fmean, "r", said)
    if value.value is None:
        return value
    others = [
        fmean(found)
        for metric in (start_correlation, unattenuated_correlation)
        if (found := [r for run in cohort.runs if (r := metric(run)) is not None])
    ]
    return replace(value, low=min(value.value, *others), high=max(value.value, *others))


@of_completed
def cpu_bursts_in_tools(cohort: Cohort, mode: str) -> Value:
    """How much of the CPU bursts comes while tools work."""
    if mode == PAPER:
        said = (
            "Samples over 30 % of a core (averages since the start) between request and result of "
            "any call, of all such samples; n counts them."
        )
        inside = high = 0
        for run in with_calls_known(cohort):
            burst = run.series.mean_cpu_percent > CPU_BURST_PERCENT
            high += int(burst.sum())
            inside += int((burst & in_listed_calls(run)).sum())
        return share_of(inside, high, high, "%", said)
    said = (
        "Time of steps with a load over 30 % of a core in which a leaf tool was at work, of the "
        "time of all such steps; n counts them; bounds: with the load's error, and with the least "
        "tool time."
    )
    bursts = [_bursts_in_tools(cohort, said, sign) for sign in (0, -1, 1)]
    least = [_bursts_in_tools(cohort, said, sign, least=True) for sign in (0, -1, 1)]
    return between(bursts[0], [*bursts, *least])


def _bursts_in_tools(cohort: Cohort, said: str, sign: int, least: bool = False) -> Value:
    """Share of the CPU bursts in tools, for the load plus `sign` times its error."""
    covered = spent = 0.0
    steps = 0
    for run in with_calls_known(cohort):
        if run.cpu is None:
            continue
        burst = run.cpu.load_percent + sign * run.cpu.load_error_percent > CPU_BURST_PERCENT
        ns = run.ns_of(run.cpu_t_s)
        tools = run.least_tool_time if least else run.tool_time
        steps += int(burst.sum())
        covered += float(covered_s(tools, ns[:-1], ns[1:])[burst].sum())
        spent += float(np.diff(run.cpu_t_s)[burst].sum())
    return share_of(covered, spent, steps, "%", said)


@of_completed
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
