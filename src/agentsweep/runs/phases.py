"""The phases of a run, as people see them pass and as its record has their seconds."""

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

Say = Callable[[str], None]

_SENTENCES = {
    "preflight": "checking engine, agent and image",
    "create": "creating the container",
    "start": "starting the container",
    "verify": "reading the limits back from the kernel",
    "exec": "starting the agent",
    "collect": "collecting session and patch",
    "services": "stopping sampler and endpoint",
    "teardown": "removing the container",
}


@dataclass(frozen=True)
class Phases:
    """Seconds of each phase, timed one by one; none is what the others leave over."""

    say: Say
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Say what begins, and keep how long the body took, also where it fails."""
        self.say(_SENTENCES[name])
        begin = time.monotonic()
        try:
            yield
        finally:
            self.seconds[f"{name}_s"] = round(time.monotonic() - begin, 4)
