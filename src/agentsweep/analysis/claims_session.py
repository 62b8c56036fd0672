"""What a paper says of conversations, models, prompts, test interpreters and images.

Functions of a cohort and of a mode; `values` says what the modes are, and the units.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from statistics import fmean, median

import numpy as np

from agentsweep.analysis.cohort import Cohort, CohortRun
from agentsweep.analysis.run_metrics import (
    CORRECTED,
    MODES,
    PAPER,
    correlation,
    duration_s,
    output_tokens,
    peak_mb,
    rounds,
)
from agentsweep.analysis.values import Summary, Value, Values, of_completed


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


@of_completed
def rounds_duration_correlation(cohort: Cohort, mode: str) -> Value:
    """Whether longer conversations take longer: Pearson's r over runs."""
    return _over_pairs(cohort, mode, rounds, duration_s, "Pearson's r over runs of {} and {}.")


@of_completed
def rounds_peak_correlation(cohort: Cohort, mode: str) -> Value:
    """Whether longer conversations take more memory: Pearson's r over runs."""
    return _over_pairs(cohort, mode, rounds, peak_mb, "Pearson's r over runs of {} and {}.")


@of_completed
def tokens_peak_correlation(cohort: Cohort, mode: str) -> Value:
    """Whether more tokens take more memory: Pearson's r over runs."""
    said = "Pearson's r over runs of {} and {}."
    if mode == CORRECTED:
        said = "Pearson's r over the runs that have the final number of each message, of {} and {}."
    return _over_pairs(cohort, mode, output_tokens, peak_mb, said)


_Metric = Callable[[CohortRun, str], float | None]
_NAMES: dict[_Metric, tuple[str, str]] = {
    rounds: ("records of the model", "messages of the model"),
    output_tokens: ("output tokens summed over records", "output tokens, each message's once"),
    duration_s: ("the container's time", "the agent's phase"),
    peak_mb: ("the highest sample of the memory", "the peak of the memory"),
}


def _over_pairs(cohort: Cohort, mode: str, first: _Metric, second: _Metric, said: str) -> Value:
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
