"""Containers that only their monitor, the OCI runtime or the kernel still knows.

A `podman start` that is killed half-way leaves a monitor (conmon) that goes on and makes the
container, while Podman believes that it was never started: `podman rm` then forgets a container
whose processes live on. Where the monitor is killed, `podman rm` forgets the runtime's state and
the cgroups, which stay. So each container that agentsweep makes has a note on this
node, with its owner, until nothing of it is left.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agentsweep.utf8 import kernel_text

# A monitor ends by itself within hundredths of a second after `podman rm`.
_GRACE_S = 0.1
_PATIENCE_S = 30


_NOTES = "containers"
_ID = re.compile(r"[0-9a-f]{64}")
_CGROUPS = Path("/sys/fs/cgroup")
_RUNTIMES = ("runc", "crun")


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


@dataclass(frozen=True)
class Note:
    """What is known of a container that was made here: its id, its name and its owner's tag."""

    container_id: str
    name: str
    owner: str


def note(workdir: Path, made: Note) -> None:
    """Remember a container until `forget`."""
    folder = workdir / _NOTES
    folder.mkdir(exist_ok=True)
    (folder / made.container_id).write_text(f"{made.name}\n{made.owner}\n", encoding="utf-8")


def noted(workdir: Path) -> list[Note]:
    """All containers of which something may be left."""
    found = []
    for path in sorted((workdir / _NOTES).glob("*")):
        with contextlib.suppress(OSError, UnicodeDecodeError):
            lines = path.read_text(encoding="utf-8").splitlines()
            # One that was being written when its writer died has no owner yet: Podman has it.
            if _ID.fullmatch(path.name) and len(lines) == 2:
                found.append(Note(path.name, *lines))
    return found


def forget(workdir: Path, container_id: str) -> None:
    """Nothing of a container is left."""
    (workdir / _NOTES / container_id).unlink(missing_ok=True)


def states(container_id: str) -> list[Path]:
    """Where an OCI runtime of this user keeps its state of a container, as far as it has one."""
    roots = ["/run", *([os.environ["XDG_RUNTIME_DIR"]] if "XDG_RUNTIME_DIR" in os.environ else [])]
    places = (Path(root, name, container_id) for root in roots for name in _RUNTIMES)
    return [place for place in places if place.is_dir()]


def cgroups_of(container_id: str, root: Path = _CGROUPS) -> list[Path]:
    """The cgroups that are named after a container, the deepest first."""
    found = []
    for folder, names, _ in os.walk(root):
        # Container ids are the only names of that length; conmon's own cgroup has one too.
        found += [Path(folder, name) for name in names if container_id in name]
    return sorted(found, key=lambda path: len(path.parts), reverse=True)


def purge(container_id: str, environment: Mapping[str, str], root: Path = _CGROUPS) -> bool:
    """Delete what the runtime and the kernel still hold of a container that the engine has not.

    Returns whether nothing is left. What the runtime has no state of has no cgroup either: it
    removes its state last.
    """
    left = states(container_id)
    if not left:
        return True
    cgroups = cgroups_of(container_id, root)
    for state in left:
        runtime = shutil.which(state.parent.name) or state.parent.name
        _delete(Monitor(container_id, "", runtime), environment)
    deadline = time.monotonic() + _PATIENCE_S
    while cgroups := [folder for folder in cgroups if folder.is_dir()]:
        for folder in cgroups:
            _empty(folder)
        if time.monotonic() > deadline:
            break
        time.sleep(0.02)
    return not cgroups and not states(container_id)


def _empty(cgroup: Path) -> None:
    """Kill what a cgroup holds and remove it, with what is below it; in part where that is all."""
    for folder, _, _ in os.walk(cgroup, topdown=False):
        with contextlib.suppress(OSError, ValueError):
            for pid in (Path(folder) / "cgroup.procs").read_text(encoding="utf-8").split():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        with contextlib.suppress(OSError):
            Path(folder).rmdir()


def freeze_again(container_id: str) -> bool:
    """Freeze a container (cgroup v1) that its engine takes for paused and that was thawed.

    The runtime cannot resume what is not frozen, and the engine removes nothing that it cannot
    resume. Returns whether it was thawed.
    """
    for state in states(container_id):
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            known = json.loads((state / "state.json").read_text(encoding="utf-8"))
            file = Path(known["cgroup_paths"]["freezer"], "freezer.state")
            if file.read_text(encoding="utf-8").strip() == "THAWED":
                file.write_text("FROZEN", encoding="utf-8")
                return True
    return False
