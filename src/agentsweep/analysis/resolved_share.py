"""How many runs resolved their task, and how sure that is."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from agentsweep.analysis.sweep_metrics import countable
from agentsweep.tables.rows import Row

# The standard normal distribution's quantile for an interval of 95%.
_Z = 1.959963984540054


@dataclass(frozen=True)
class Resolved:
    """Of `n` graded runs `count` resolved their task; the 95% interval of that share.

    The interval takes runs for independent, which repetitions of one task are not: over few tasks
    it is too narrow.
    """

    count: int
    n: int
    lower: float
    upper: float

    @property
    def share(self) -> float:
        return self.count / self.n


def resolved(runs: Iterable[Row]) -> Resolved | None:
    """The resolved share of runs; None where none was graded.

    A run without a patch counts as not resolved, also where the agent left nothing that a patch
    could be taken of; one whose patch could not be graded is left out,
    and so is one whose outcome says nothing about the limit (`sweep_metrics.countable`).
    """
    known = [run["resolved"] for run in countable(runs) if run["resolved"] is not None]
    if not known:
        return None
    return Resolved(sum(known), len(known), *wilson(sum(known), len(known)))


def wilson(count: int, n: int) -> tuple[float, float]:
    """The 95% score interval of a share: E. B. Wilson, JASA 22 (1927), 209-212."""
    share, spread = count / n, _Z * _Z / n
    centre = (share + spread / 2) / (1 + spread)
    half = _Z * math.sqrt(share * (1 - share) / n + spread / (4 * n)) / (1 + spread)
    # At the ends the formula gives exactly 0 and 1, but for rounding.
    return (0.0 if count == 0 else centre - half), (1.0 if count == n else centre + half)
