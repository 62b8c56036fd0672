"""Lengths of time that is covered by intervals, however they overlap. Times are nanoseconds."""

from collections.abc import Iterable

Interval = tuple[int, int]


def union(intervals: Iterable[Interval], within: Interval) -> list[Interval]:
    """Disjoint intervals in order that cover what the given ones cover inside `within`."""
    low, high = within
    merged: list[Interval] = []
    for start, end in sorted(intervals):
        start, end = max(start, low), min(end, high)
        if end <= start:
            continue
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((start, end))
    return merged


def length(intervals: Iterable[Interval]) -> int:
    """Nanoseconds in disjoint intervals."""
    return sum(end - start for start, end in intervals)
