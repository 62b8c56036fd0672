"""What a command says while it works."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator

_TICK_S = 1


def say(line: str) -> None:
    """Print one line at once."""
    print(line, flush=True)


def counted(rows: dict[str, int]) -> str:
    """Counts of rows by table, in words."""
    return ", ".join(f"{count} {name}" for name, count in rows.items())


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str], None]]:
    """A `say` for long work: a line for each step; on a terminal also how long the last one takes.

    A log gets the plain lines.
    """
    if not sys.stdout.isatty():
        yield say
        return
    over, writing, begin = threading.Event(), threading.Lock(), [time.monotonic()]

    def step(line: str) -> None:
        with writing:
            begin[0] = time.monotonic()
            # Back to the first column, and nothing left of the seconds that stood there.
            print(f"\r\033[K{line}", flush=True)

    def tick() -> None:
        while not over.wait(_TICK_S):
            with writing:
                print(f"\r\033[K  {time.monotonic() - begin[0]:.0f} s", end="", flush=True)

    ticking = threading.Thread(target=tick, daemon=True)
    ticking.start()
    try:
        yield step
    finally:
        over.set()
        ticking.join()
        print("\r\033[K", end="", flush=True)
