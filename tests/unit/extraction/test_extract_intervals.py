"""Time covered by overlapping intervals."""

import random

from agentsweep.intervals import length, union


def test_overlap_counts_once_and_outside_does_not_count():
    assert union([(5, 9), (0, 3), (2, 4), (8, 12), (20, 30)], (1, 10)) == [(1, 4), (5, 10)]
    assert length(union([(5, 9), (0, 3), (2, 4), (8, 12)], (1, 10))) == 8


def test_nothing_and_empty_intervals():
    assert union([], (0, 10)) == []
    assert union([(5, 5), (7, 6)], (0, 10)) == []


def test_touching_intervals_are_one():
    assert union([(0, 3), (3, 5)], (0, 10)) == [(0, 5)]


def test_against_counting_every_unit():
    for seed in range(100):
        chance = random.Random(seed)
        intervals = [
            (start := chance.randrange(60), start + chance.randrange(20)) for _ in range(8)
        ]
        low, high = 10, 50
        covered = {t for start, end in intervals for t in range(start, end) if low <= t < high}
        assert length(union(intervals, (low, high))) == len(covered)
