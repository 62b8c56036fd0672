"""What the modules named `claims_` share: a number with all that it takes to read it, and sums.

Each of their functions gives the numbers of one claim for one cohort, in one of two modes: `paper`
follows the definition of AgentCgroup (arXiv 2602.09345) with its defects, `corrected` the rules of
docs/measurement.md. Shares are percent, durations seconds, memory decimal megabytes, CPU percent of
one core. Those with `of_completed` are over all runs that count in `paper` mode and over the
completed ones of them in `corrected` mode; the others are over all that count in both.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import numpy as np

from agentsweep.analysis.cohort import Cohort, CohortRun
from agentsweep.analysis.run_metrics import PAPER
from agentsweep.analysis.sweep_metrics import is_completed
from agentsweep.tables.arrays import Floats


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
_More = ParamSpec("_More")
_Found = TypeVar("_Found")
Summary = Callable[[Sequence[float]], float]


def over_runs(
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


def share_of(part: float, whole: float, n: int, unit: str, definition: str) -> Value:
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


def of_completed(
    metric: Callable[Concatenate[Cohort, str, _More], _Found],
) -> Callable[Concatenate[Cohort, str, _More], _Found]:
    """A metric over what `counted` gives, whose definitions say so.

    The published way has all runs; but a run that was killed or failed is censored, and would make
    less memory look faster.
    """

    @wraps(metric)
    def over(cohort: Cohort, mode: str, /, *more: _More.args, **named: _More.kwargs) -> _Found:
        found = metric(counted(cohort, mode), mode, *more, **named)
        if mode == PAPER:
            return found
        said: _Found = _said_so(found)
        return said

    return over


def _said_so(found: Any) -> Any:
    if isinstance(found, Value) and not found.definition.endswith(_COMPLETED_ALONE):
        return replace(found, definition=found.definition + _COMPLETED_ALONE)
    if isinstance(found, dict):
        return {name: _said_so(value) for name, value in found.items()}
    return found


_COMPLETED_ALONE = " Completed runs alone."


def between(value: Value, others: Iterable[Value]) -> Value:
    """The value with the lowest and the highest of others as bounds, where they differ."""
    known = [other.value for other in others if other.value is not None]
    if value.value is None or min(known) == max(known):
        return value
    return replace(value, low=min(known), high=max(known))


def with_calls_known(cohort: Cohort) -> list[CohortRun]:
    """The runs of which it is known when tools worked."""
    return [run for run in cohort.runs if run.calls_known]


def joined(arrays: Iterable[Floats]) -> Floats:
    found = list(arrays)
    return np.concatenate(found) if found else np.empty(0)
