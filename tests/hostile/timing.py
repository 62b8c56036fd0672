"""CPU time of a task at a size and at twice that size: what takes n² is seen without a clock."""

import gc
import time
from collections.abc import Callable


def doubled(make: Callable[[int], Callable[[], object]], size: int, tries: int = 10) -> float:
    """How many times as long the task takes at twice the size: by the least time of either in
    several tries, because what else the machine does makes each of them longer.

    `make` gives the task of a size; making it does not count.
    """
    once, twice = make(size), make(2 * size)
    once_s = twice_s = float("inf")
    for _ in range(tries):
        once_s, twice_s = min(once_s, seconds(once)), min(twice_s, seconds(twice))
        if twice_s / once_s < 2.5:
            break
    return twice_s / once_s


def seconds(task: Callable[[], object]) -> float:
    """CPU time of one call."""
    gc.collect()
    begin = time.process_time()
    task()
    return max(time.process_time() - begin, 1e-4)
