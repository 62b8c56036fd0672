"""Containers that only their monitor and the OCI runtime still know.

A `podman start` that is killed half-way leaves a monitor (conmon) that goes on and makes the
container, while Podman believes that it was never started: `podman rm` then forgets a container
whose processes live on.
"""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agentsweep.utf8 import kernel_text

# A monitor ends by itself within hundredths of a second after `podman rm`.
_GRACE_S = 0.1
_PATIENCE_S = 10


@dataclass(frozen=True)
class Monitor:
    """A conmon process of this user: its container's id and name, and the runtime it uses."""

    container_id: str
    name: str
    runtime: str


def monitors(proc: Path = Path("/proc")) -> list[Monitor]:
    """All of this user that run now."""
    found = []
    for folder in proc.glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            words = kernel_text(folder / "cmdline").split("\0")
            if Path(words[0]).name == "conmon" and folder.stat().st_uid == os.getuid():
                values = (words[words.index(option) + 1] for option in ("-c", "-n", "-r"))
                found.append(Monitor(*values))
    return found


def remove(
    name: str,
    environment: Mapping[str, str],
    find: Callable[[], list[Monitor]] = monitors,
) -> bool:
    """Delete what is left of a container (name or id) that Podman has removed, waiting for it.

    Returns whether nothing is left. A monitor that is only just making its container is asked
    again until there is something to delete.
    """
    begin = time.monotonic()
    while left := [m for m in find() if name in (m.name, m.container_id)]:
        waited = time.monotonic() - begin
        if waited > _PATIENCE_S:
            return False
        if waited > _GRACE_S:
            for monitor in left:
                _delete(monitor, environment)
        time.sleep(0.02)
    return True


def _delete(monitor: Monitor, environment: Mapping[str, str]) -> None:
    # Without root the runtime has to be in Podman's user namespace to see its containers.
    inside = [] if os.getuid() == 0 else ["podman", "unshare"]
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run(
            [*inside, monitor.runtime, "delete", "--force", monitor.container_id],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE_S,
            check=False,
            env=dict(environment),
            start_new_session=True,
        )
