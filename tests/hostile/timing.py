"""CPU time of a task at a size and at twice that size: what takes n² is seen without a clock."""

import gc
import time
from collections.abc import Callable


def doubled(make: Callable[[int], Callable[[], object]], size: int, tries: int = 4) -> float:
    """How many times as long the task takes at twice the size: the least of several pairs, because
    what else the machine does makes either of a pair longer.

    `make` gives the task of a size; making it does not count.
    """
    once, twice = make(size), make(2 * size)
    least = float("inf")
    for _ in range(tries):
        least = min(least, seconds(twice) / seconds(once))
        if least < 2.5:
            break
    return least


def seconds(task: Callable[[], object]) -> float:
    """CPU time of one call."""
    gc.collect()
    begin = time.process_time()
    task()
    return max(time.process_time() - begin, 1e-4)
