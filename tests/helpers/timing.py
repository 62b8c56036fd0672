"""CPU time of a task at a size and at eight times that: what takes n² is seen without a clock."""

import gc
import time
from collections.abc import Callable

# How far the sizes are apart. What takes n² takes 64 times as long; caches and other processes
# make the larger size two or three times as dear as the count of its parts.
TIMES = 8
LIMIT = 24.0


def growth(make: Callable[[int], Callable[[], object]], largest: int, tries: int = 10) -> float:
    """How many times as long the task takes at `largest` as at an eighth of it: by the least time
    of either in several tries, because what else the machine does makes each of them longer.

    `make` gives the task of a size; making it does not count.
    """
    # What other tests left is not to be walked by each collection.
    gc.collect()
    gc.freeze()
    small, large = make(largest // TIMES), make(largest)
    small_s = large_s = float("inf")
    for _ in range(tries):
        small_s, large_s = min(small_s, seconds(small)), min(large_s, seconds(large))
        if large_s / small_s < 1.5 * TIMES:
            break
    return large_s / small_s


def seconds(task: Callable[[], object]) -> float:
    """CPU time of one call."""
    gc.collect()
    begin = time.process_time()
    task()
    return max(time.process_time() - begin, 1e-4)
