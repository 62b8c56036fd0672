"""Signals that stop a job: it cleans up, and says that nothing was sealed."""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

from agentsweep.errors import AgentsweepError
from agentsweep.runs.store import Attempt, Store


class Interrupted(AgentsweepError):
    """The runner was told to stop; nothing was sealed."""

    def __init__(self, number: int):
        super().__init__(f"interrupted by {signal.Signals(number).name}; nothing was sealed")
        self.exit_code = 128 + number


@contextlib.contextmanager
def kept_unsealed(store: Store, attempt: Attempt) -> Iterator[None]:
    """Keep an attempt whose body raises, as failed or interrupted, with `error.txt`."""
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, Interrupted) or not isinstance(error, Exception)
        # The disk may be what failed: what cannot be said there is said on stderr.
        with contextlib.suppress(OSError, AgentsweepError):
            (attempt.path / "error.txt").write_text(
                f"{type(error).__name__}: {error}\n", encoding="utf-8"
            )
        with contextlib.suppress(OSError, AgentsweepError):
            store.finish(attempt, "interrupted" if stopped else "failed")
        raise


class Signals:
    """TERM, INT and HUP stop a run cleanly instead of killing the runner in the middle.

    The first one raises Interrupted and later ones are ignored, because a second one (Snakemake
    sends TERM to a job that the terminal has sent INT already) would interrupt the clean-up, or
    end the process with another exit status after it: they stay ignored until the process ends.
    After `hold`, when the agent has ended and all that it cost is spent, the first one waits
    until the run is sealed; one that comes some seconds after it is taken at its word.
    """

    _NUMBERS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    _INSISTING_S = 3

    def __init__(self, say: Callable[[str], object]):
        self._say = say
        self._held = False
        self._raised = False
        self._first_s: float | None = None
        self._old: dict[int, Any] = {}

    def __enter__(self) -> "Signals":
        # Who started us with a signal ignored (nohup) wants it ignored.
        self._old = {
            number: signal.signal(number, self._on_signal)
            for number in self._NUMBERS
            if signal.getsignal(number) != signal.SIG_IGN
        }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._old.items():
            # What Python handles has its default again while Python ends; what is ignored stays so.
            signal.signal(number, signal.SIG_IGN if self._raised else handler)

    def hold(self) -> None:
        """From here on a signal lets the run be sealed first."""
        self._held = True

    def _on_signal(self, number: int, _frame: object) -> None:
        if self._raised:
            return
        now = time.monotonic()
        if self._held and (self._first_s is None or now - self._first_s < self._INSISTING_S):
            if self._first_s is None:
                self._first_s = now
                self._say("the agent has ended: its run is sealed before stopping")
            return
        self._raised = True
        raise Interrupted(number)
