"""What a paper says of how long tasks take and where the time goes.

Functions of a cohort and of a mode; `values` says what the modes are, and the units.
"""

from collections.abc import Callable
from statistics import fmean, median

from agentsweep.analysis.cohort import Cohort, CohortRun
from agentsweep.analysis.run_metrics import (
    CORRECTED,
    PAPER,
    active_s,
    container_s,
    least_tool_share,
    model_share,
    os_share,
    plus,
    residual_startup_s,
    startup_share,
    startup_total_s,
    tool_share,
    uncertain_share,
)
from agentsweep.analysis.sweep_metrics import time_split
from agentsweep.analysis.values import Summary, Value, Values, of_completed, over_runs

# A container whose image has to be copied first takes minutes, any other one less than this.
COLD_START_S = 10.0


@of_completed
def task_duration_mean(cohort: Cohort, mode: str) -> Value:
    """How long a task takes: mean over runs."""
    return _task_duration(cohort, mode, fmean, "Mean")


@of_completed
def task_duration_median(cohort: Cohort, mode: str) -> Value:
    """How long a task takes: median over runs."""
    return _task_duration(cohort, mode, median, "Median")


def _task_duration(cohort: Cohort, mode: str, summary: Summary, name: str) -> Value:
    if mode == PAPER:
        said = f"{name} over runs of the container's time, its creation included."
        return over_runs(cohort.runs, container_s, summary, "s", said)
    said = f"{name} over runs of the agent's phase, its start to its last record."
    return over_runs(cohort.runs, lambda run: run.row["agent_s"], summary, "s", said)


@of_completed
def tool_share_of_active_mean(cohort: Cohort, mode: str) -> Value:
    """How much of the agent's active time tools take: mean over runs."""
    return _tool_share(cohort, mode, fmean, "Mean")


@of_completed
def tool_share_of_active_median(cohort: Cohort, mode: str) -> Value:
    """How much of the agent's active time tools take: median over runs."""
    return _tool_share(cohort, mode, median, "Median")


@of_completed
def tool_share_of_active_max(cohort: Cohort, mode: str) -> Value:
    """How much of the agent's active time tools take: the most in any run."""
    return _tool_share(cohort, mode, max, "Maximum")


def _tool_share(cohort: Cohort, mode: str, summary: Summary, name: str) -> Value:
    if mode == PAPER:
        said = (
            f"{name} over runs of the sum of request-to-result times of all calls over the "
            "session's span."
        )
        return over_runs(cohort.runs, _percent(tool_share, mode), summary, "%", said)
    said = (
        f"{name} over runs of the time with a leaf tool at work (union of intervals; a sub-agent's "
        "model time is model time) over the agent's phase after its start-up."
    )
    least = _percent(lambda run, _: least_tool_share(run), mode)
    return over_runs(cohort.runs, _percent(tool_share, mode), summary, "%", said, least)


def _percent(
    metric: Callable[[CohortRun, str], float | None], mode: str
) -> Callable[[CohortRun], float | None]:
    def percent(run: CohortRun) -> float | None:
        share = metric(run, mode)
        return None if share is None else 100 * share

    return percent


@of_completed
def startup_share_mean(cohort: Cohort, mode: str) -> Value:
    """How much of the container's time passes before the agent works."""
    said = {
        PAPER: "Mean over runs of (container's time - session's span) / container's time.",
        CORRECTED: "Mean over runs of the time from creating the container to the first request, "
        "as measured, over the container's time.",
    }[mode]
    return over_runs(cohort.runs, _percent(startup_share, mode), fmean, "%", said)


@of_completed
def model_share_mean(cohort: Cohort, mode: str) -> Value:
    """How much of the container's time the model takes."""
    if mode == PAPER:
        said = "Mean over runs of session's span x (1 - tool share) / container's time."
        return over_runs(cohort.runs, _percent(model_share, mode), fmean, "%", said)
    said = (
        "Mean over runs of the time with a request to the model open (union of intervals, "
        "sub-agents included; without a record of requests, from the record before an answer to "
        "the answer's last) over the container's time."
    )
    most = _percent(lambda run, mode: plus(model_share(run, mode), uncertain_share(run)), mode)
    return over_runs(cohort.runs, _percent(model_share, mode), fmean, "%", said, most)


@of_completed
def os_share_mean(cohort: Cohort, mode: str) -> Value:
    """How much of the container's time start-up and tools take."""
    if mode == PAPER:
        said = "Mean over runs of start-up share + session's span x tool share / container's time."
        return over_runs(cohort.runs, _percent(os_share, mode), fmean, "%", said)
    said = (
        "Mean over runs of measured start-up + time with a leaf tool at work, over the "
        "container's time."
    )
    least = _percent(lambda run, mode: plus(os_share(run, mode), uncertain_share(run), -1), mode)
    return over_runs(cohort.runs, _percent(os_share, mode), fmean, "%", said, least)


@of_completed
def startup_cold_mean(cohort: Cohort, mode: str) -> Value:
    """Start-up of runs whose image had to be copied or fetched first."""
    return _startup(cohort, mode, cold=True)


@of_completed
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
        return over_runs(runs, residual_startup_s, fmean, "s", said)
    said = f"Mean over runs with {which} of the time from creating it to the first request."
    return over_runs(runs, startup_total_s, fmean, "s", said)


@of_completed
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
