"""The share of runs that resolved their task."""

import pytest

from agentsweep.analysis import resolved_share


@pytest.mark.parametrize(
    ("count", "n", "lower", "upper"),
    [
        # By hand from (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n).
        (0, 10, 0.0, 0.27753),
        (10, 10, 0.72247, 1.0),
        (5, 10, 0.23659, 0.76341),
        (1, 1, 0.20655, 1.0),
        (81, 263, 0.25527, 0.36618),
    ],
)
def test_the_interval_is_wilsons(count, n, lower, upper):
    assert resolved_share.wilson(count, n) == pytest.approx((lower, upper), abs=5e-5)


def test_runs_that_were_not_graded_do_not_count():
    runs = [{"resolved": r, "outcome": "completed"} for r in (True, None, False, None, True)]
    found = resolved_share.resolved(runs)
    assert (found.count, found.n, found.share) == (2, 3, 2 / 3)
    assert found.lower < found.share < found.upper
    # The provider failed or the money was spent: that says nothing about the limit.
    unrelated = [{"resolved": False, "outcome": o} for o in ("api_error", "over_budget")]
    assert resolved_share.resolved([*runs, *unrelated]) == found
    assert resolved_share.resolved(unrelated) is None
    assert resolved_share.resolved([{"resolved": None, "outcome": "completed"}]) is None
    assert resolved_share.resolved([]) is None
