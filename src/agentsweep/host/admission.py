"""Admission: the limits of all that runs on a machine never add up to more than the machine has.

    <directory>/lock             held while the line is looked at or changed
    <directory>/<ticket>.json    what one process holds or waits for; locked by that process

Runs and gradings of all invocations of a user stand in one line, in the order of their tickets, and
none overtakes another: a large one would wait for ever behind small ones. A file's lock goes with
its process, however that ends, and what a dead one held is given out again when the container that
it left behind is gone.

The directory is this user's own on this machine, in memory (so that it ends with the machine), and
the same for every session and job, which TMPDIR is not. It knows nothing of other users and of
other programs, nor, where a batch system gives each job a /dev/shm of its own, of other jobs:
there the batch system's own accounting keeps them apart.
"""

import contextlib
import fcntl
import getpass
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentsweep import locks
from agentsweep.errors import InfraError, LastingError
from agentsweep.host import scratch
from agentsweep.host.capacity import Machine, MachineSettings
from agentsweep.host.topology import Topology, list_text, parse_list

_HELD, _WAITING = "held", "waiting"
# The line is looked at again after so many seconds for each that is before us, and one at most: a
# look costs half a millisecond of the CPUs that others are measured on.
_LOOK_S, _LAST_LOOK_S = 0.2, 1.0
_MOST_NAMES = 8
_TICKET = re.compile(r"[0-9]{1,18}")
_CPU_LIST = re.compile(r"[0-9]{1,4}(-[0-9]{1,4})?(,[0-9]{1,4}(-[0-9]{1,4})?)*")
# In place of what a damaged file does not say: nothing is held that anybody knows of.
_DAMAGED = {
    "name": "an unreadable entry",
    "memory_bytes": 0,
    "cores": 0,
    "usable": "",
    "cpuset": None,
    "owner": "unknown",
}

Say = Callable[[str], object]


@dataclass(frozen=True)
class Need:
    """What a run or a grading asks for: bytes of memory, whole cores, and whether to be pinned.

    `name` is what messages call it, `cure` what they advise where it can never fit.
    """

    name: str
    memory_bytes: int
    cores: int
    pinned: bool = False
    cure: str = "leave it out or run it on a larger machine"


@dataclass(frozen=True)
class Grant:
    """What it was given; `cpuset`: the CPUs that it alone is pinned to, as the kernel lists them.

    waited_s: seconds in line.
    """

    memory_bytes: int
    cores: int
    cpuset: str | None
    waited_s: float


@contextlib.contextmanager
def admitted(
    need: Need, settings: MachineSettings, say: Say, clean: Callable[[], object]
) -> Iterator[Grant]:
    """Wait in line for room on this machine, and hold it while the body runs.

    `settings` is the section `machine` of a configuration, `clean` removes the containers of dead
    processes of this user. Raises InfraError, with a sentence that names what is short, where the
    machine can never have the room, and where it has had none for `wait_s` seconds.
    """
    usable = os.sched_getaffinity(0)
    machine = Machine.here()
    room = machine.offered(settings)
    topology = Topology.read(usable)
    misfit = machine.misfit(need.memory_bytes, need.cores, settings)
    if misfit is None and need.pinned and topology.choose(usable, need.cores) is None:
        misfit = f"needs {_cores(need.cores)} of its own, and may use CPUs {list_text(usable)} only"
    if misfit is not None:
        raise LastingError(f"{need.name} {misfit}: {need.cure}")
    line = _Line(_directory(settings), need, room, topology, clean)
    begin = time.monotonic()
    deadline = begin + settings.wait_s
    told = False
    with line.place(deadline):
        while not line.advance(deadline):
            if not told:
                say(f"waiting for room on this machine: {line.situation}")
                told = True
            left = deadline - time.monotonic()
            if left <= 0:
                raise InfraError(
                    f"{need.name}: no room on this machine for {settings.wait_s:g} s "
                    f"(machine.wait_s): {line.situation}"
                )
            time.sleep(min(_LOOK_S * (1 + line.ahead), _LAST_LOOK_S, left))
        waited_s = time.monotonic() - begin
        if told:
            say(f"there is room on this machine after {waited_s:.0f} s")
        yield Grant(need.memory_bytes, need.cores, line.cpuset, round(waited_s, 3))


@dataclass(frozen=True)
class _Entry:
    """What another process holds or waits for."""

    ticket: int
    path: Path
    alive: bool
    content: dict[str, Any]

    @property
    def holds(self) -> bool:
        """One that was cut short while it was written may have held something."""
        return self.content.get("state") != _WAITING

    @property
    def told(self) -> dict[str, Any]:
        """Its content, whole."""
        return _DAMAGED | self.content

    @property
    def said(self) -> str:
        of = self.told
        return f"{of['name']} ({_mib(of['memory_bytes'])}, {_cores(of['cores'])}, {of['owner']})"


class _Line:
    """The line of a machine as one process sees it that stands in it."""

    def __init__(
        self,
        folder: Path,
        need: Need,
        room: Machine,
        topology: Topology,
        clean: Callable[[], object],
    ):
        self.folder, self.situation, self.ahead = folder, "", 0
        self.cpuset: str | None = None
        self._need, self._room, self._topology, self._clean = need, room, topology, clean
        self._usable = {cpu for core in topology.cores for cpu in core}
        self._ticket, self._file = 0, -1

    @contextlib.contextmanager
    def place(self, deadline: float) -> Iterator[None]:
        """A place at the end of the line, given up at the end."""
        with contextlib.ExitStack() as stack:
            with self._locked(deadline):
                self._ticket = max((entry.ticket for entry in self._others()), default=0) + 1
                path = self.folder / f"{self._ticket}.json"
                self._file = _create(path, os.O_RDWR | os.O_EXCL)
                stack.callback(os.close, self._file)
                # Called first: nobody may find the file without its lock, and take us for dead.
                stack.callback(path.unlink, missing_ok=True)
                fcntl.flock(self._file, fcntl.LOCK_EX)
                self._write(_WAITING)
            yield

    def advance(self, deadline: float) -> bool:
        """Take what is needed where it is our turn and there is room; else `situation` says why."""
        with self._locked(deadline):
            others = self._living()
            held = [entry for entry in others if entry.holds]
            ahead = [e for e in others if not e.holds and e.ticket < self._ticket]
            if not self._fits(held) or ahead:
                self.situation, self.ahead = self._told(held, ahead), len(ahead)
                return False
            self._write(_HELD)
            return True

    def _fits(self, held: list[_Entry]) -> bool:
        need, room = self._need, self._room
        memory_bytes, cores = self._taken(held)
        if memory_bytes + need.memory_bytes > room.memory_bytes or cores + need.cores > room.cpus:
            return False
        if need.pinned:
            chosen = self._topology.choose(self._unpinned(held), need.cores)
            self.cpuset = None if chosen is None else list_text(chosen)
            return chosen is not None
        return True

    def _unpinned(self, held: list[_Entry]) -> set[int]:
        """The usable CPUs that no run is pinned to."""
        return self._usable.difference(*(parse_list(e.told["cpuset"] or "") for e in held))

    def _taken(self, held: list[_Entry]) -> tuple[int, int]:
        """Bytes of memory, and cores; those of processes that share no CPU with us do not count."""
        of = [entry.told for entry in held]
        near = [c["cores"] for c in of if self._usable & parse_list(c["usable"])]
        return sum(c["memory_bytes"] for c in of), sum(near)

    def _told(self, held: list[_Entry], ahead: list[_Entry]) -> str:
        memory_bytes, cores = self._taken(held)
        said = (
            f"{_mib(self._need.memory_bytes)} and {_cores(self._need.cores)} are needed, "
            f"{_mib(max(0, self._room.memory_bytes - memory_bytes))} and "
            f"{_cores(max(0, self._room.cpus - cores))} are free"
        )
        if self._need.pinned:
            said += f", CPUs to be pinned to: {list_text(self._unpinned(held)) or 'none'}"
        if held:
            said += f"; held by {_names(held)}"
        return f"{said}; before it in line: {_names(ahead)}" if ahead else said

    def _living(self) -> list[_Entry]:
        """The others, once what dead ones left is gone."""
        others = self._others()
        dead = [entry for entry in others if not entry.alive]
        if any(entry.holds for entry in dead):
            self._clean()
        for entry in dead:
            # In a directory that users share it may not be ours to delete; it counts no more.
            with contextlib.suppress(OSError):
                entry.path.unlink()
        return [entry for entry in others if entry.alive]

    def _others(self) -> list[_Entry]:
        found = []
        for path in self.folder.glob("*.json"):
            if _TICKET.fullmatch(path.stem) and int(path.stem) != self._ticket:
                entry = _entry(path)
                found += [entry] if entry else []
        return sorted(found, key=lambda entry: entry.ticket)

    def _write(self, state: str) -> None:
        need = self._need
        content = {
            "name": need.name,
            "state": state,
            "memory_bytes": need.memory_bytes,
            "cores": need.cores,
            "usable": list_text(self._usable),
            "cpuset": self.cpuset,
            "owner": f"process {os.getpid()} of {_user()}",
        }
        data = json.dumps(content).encode()
        os.pwrite(self._file, data, 0)
        os.ftruncate(self._file, len(data))

    @contextlib.contextmanager
    def _locked(self, deadline: float) -> Iterator[None]:
        path = self.folder / "lock"
        with contextlib.ExitStack() as stack:
            stack.enter_context(_its_errors(self.folder))
            try:
                # Where users share the directory, it is one's own and only read by the others.
                handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except FileNotFoundError:
                handle = _create(path, os.O_RDONLY)
            stack.callback(os.close, handle)
            while not locks.take(handle):
                if time.monotonic() > deadline:
                    raise InfraError(
                        f"{self._need.name}: {path} is locked by another process: see what that "
                        "does, or raise machine.wait_s"
                    )
                time.sleep(0.02)
            yield


def _entry(path: Path) -> _Entry | None:
    """What is in a file of the line; None where it has just gone."""
    try:
        # A FIFO of that name would be waited for.
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        alive = not locks.take(handle)
        if not alive and not path.exists():
            return None
        return _Entry(int(path.stem), path, alive, _content(os.read(handle, 2**16)))
    finally:
        os.close(handle)


def _content(data: bytes) -> dict[str, Any]:
    """What a process wrote of itself, without what is not of the shape that it writes."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    told = found.items() if isinstance(found, dict) else ()
    return {key: value for key, value in told if key in _SHAPES and _SHAPES[key](value)}


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _is_list(value: object) -> bool:
    """Whether it lists CPUs as the kernel does: `0-3,8`."""
    return isinstance(value, str) and (value == "" or _CPU_LIST.fullmatch(value) is not None)


_SHAPES = {
    "name": _is_text,
    "state": lambda value: value in (_HELD, _WAITING),
    "memory_bytes": _is_count,
    "cores": _is_count,
    "usable": _is_list,
    "cpuset": lambda value: value is None or _is_list(value),
    "owner": _is_text,
}


def _create(path: Path, flags: int) -> int:
    """A file that all may read who may come to it, whatever the umask."""
    handle = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o644)
    os.fchmod(handle, 0o644)
    return handle


@contextlib.contextmanager
def _its_errors(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise LastingError(
            f"{folder}, in which runs stand in line: {error.strerror}: mend it or set "
            "machine.ledger"
        ) from error


def _directory(settings: MachineSettings) -> Path:
    if settings.ledger is not None:
        folder = Path(settings.ledger)
    else:
        memory = Path("/dev/shm")
        base = memory if os.access(memory, os.W_OK) else Path("/tmp")
        folder = scratch.own_directory(base, "set machine.ledger") / "ledger"
    with _its_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
    return folder


def _names(entries: list[_Entry]) -> str:
    said = [entry.said for entry in entries[:_MOST_NAMES]]
    more = len(entries) - len(said)
    return ", ".join(said) + (f" and {more} more" if more else "")


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.0f} MiB"


def _cores(count: int) -> str:
    return f"{count} core{'' if count == 1 else 's'}"


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"user {os.getuid()}"
