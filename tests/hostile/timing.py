"""CPU time of a task at a size and at twice that size: what takes n² is seen without a clock."""

import gc
import time
from collections.abc import Callable


def doubled(make: Callable[[int], Callable[[], object]], size: int, tries: int = 3) -> float:
    """How many times as long the task takes at twice the size; the best of several tries each.

    `make` gives the task of a size; making it does not count.
    """
    return _best_s(make(2 * size), tries) / _best_s(make(size), tries)


def _best_s(task: Callable[[], object], tries: int) -> float:
    best = float("inf")
    for _ in range(tries):
        gc.collect()
        begin = time.process_time()
        task()
        best = min(best, time.process_time() - begin)
    return max(best, 1e-4)
