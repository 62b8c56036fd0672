"""Watching a run: when the agent ends, whether anything still happens, and ending what is left."""

import contextlib
import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentsweep import utf8
from agentsweep.errors import InfraError
from agentsweep.host.cgroup_reader import CgroupGone, CgroupReader
from agentsweep.host.processes import LineService, ServiceLost


class Activity:
    """When anything last happened: output, traffic, or a tool at work."""

    def __init__(self, files: tuple[Path, ...], sampler: LineService, gateway: "GatewayStatus"):
        self._files, self._sampler, self._gateway = files, sampler, gateway
        self._sizes: tuple[int, ...] = ()
        self._last = time.monotonic()
        self._asked = 0.0
        self.gone = False

    def quiet_s(self, now: float) -> float:
        """Seconds since the last sign of life; asks the sampler and the gateway once a second."""
        if now - self._asked < 1:
            return now - self._last
        self._asked = now
        sizes = tuple(p.stat().st_size if p.exists() else 0 for p in self._files)
        status = self._sampler.ask({"cmd": "status"})
        traffic_ns = self._gateway.ask({"cmd": "status"})["last_byte_ns"] or 0
        self.gone = status["gone"]
        if sizes != self._sizes or status["active_calls"]:
            self._sizes, self._last = sizes, now
        self._last = max(self._last, traffic_ns / 1e9)
        return now - self._last


class GatewayStatus:
    """What a run's gateway says of itself; of one that its agent overwhelmed, what it said last.

    lost: one sentence where it answers no more and nothing shows that the host is to blame. Such a
    run is data: otherwise an agent could choose, by its load, that it never counts.
    """

    def __init__(self, gateway: LineService):
        self._gateway = gateway
        self._last: dict[str, Any] = {
            "last_byte_ns": None,
            "active": 0,
            "exchanges": 0,
            "log_failed": None,
            "budget": {"refused": None, "turns": 0, "cost_usd": None},
        }
        self.lost: str | None = None

    def ask(self, message: dict[str, Any]) -> dict[str, Any]:
        """Its answer to `status`, with `lost` where it is; ServiceLost where the host is known to
        have taken it away."""
        if self.lost is None:
            try:
                self._last = self._gateway.ask(message)
            except ServiceLost as lost:
                if lost.by_host:
                    raise
                self.lost = str(lost)
                self._last = self._last | {"active": 0, "lost": self.lost}
        return self._last


class Exit:
    """Waits for a process that is not our child."""

    def __init__(self, handle: int | None):
        self._handle = handle

    def wait(self, timeout_s: float) -> bool:
        """True once the process has ended; without a process, only waits."""
        if self._handle is None:
            time.sleep(timeout_s)
            return False
        return bool(select.select([self._handle], [], [], timeout_s)[0])


@contextlib.contextmanager
def exit_watch(pid: int | None) -> Iterator[Exit]:
    handle = None
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            handle = os.pidfd_open(pid)
    try:
        yield Exit(handle)
    finally:
        if handle is not None:
            os.close(handle)


def kill_all_but_init(reader: CgroupReader, init_pid: int, timeout_s: float = 30) -> int:
    """SIGKILL what is left in a container until only its init is; returns how many there were.

    Processes that make others faster than they are killed are frozen first. InfraError when some
    survive, because counters that still move are no final counters, and where something outside
    has paused the container: the engine could not remove it if it were thawed here.
    """
    if is_frozen(reader, init_pid):
        raise InfraError("something outside paused the container: see who uses its engine")
    killed: set[int] = set()
    begin = time.monotonic()
    while time.monotonic() - begin < timeout_s:
        frozen = _frozen(reader, init_pid) if time.monotonic() - begin > 0.1 else _as_it_is()
        with frozen:
            try:
                left = [pid for pid in reader.pids() if pid not in init_and_pause(init_pid)]
            except CgroupGone:
                return len(killed)
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
        if not left:
            return len(killed)
        time.sleep(0.005)
    raise InfraError(
        f"{len(left)} processes of the agent outlive SIGKILL (process {left[0]} is one): see what "
        "they wait for with `ps`"
    )


class Freezer:
    """Whether somebody has paused a container. The agent cannot: the file is not its to write.

    cgroup v1: freezer-subsystem.rst in Linux; v2: `frozen` in cgroup.events, ancestors included.
    """

    def __init__(self, reader: CgroupReader, init_pid: int):
        self._is_v2 = reader.version == 2
        self._file = reader.paths[""] / "cgroup.events" if self._is_v2 else _v1_freezer(init_pid)

    def frozen(self) -> bool:
        """As of now; False where the container has gone, or there is no freezer."""
        try:
            text = self._file.read_text(encoding="utf-8")
        except OSError:
            return False
        return "frozen 1" in text.splitlines() if self._is_v2 else text.strip() != "THAWED"


_as_it_is = contextlib.nullcontext


@contextlib.contextmanager
def _frozen(reader: CgroupReader, init_pid: int) -> Iterator[None]:
    """A container in which nothing runs, as far as this host has a freezer that we may use.

    cgroup v1: freezer-subsystem.rst in Linux; v2: cgroup.freeze. A signal to a frozen process
    acts at the latest when it is thawed.
    """
    file, stop, go = _freezer(reader, init_pid)
    try:
        with contextlib.suppress(OSError):
            file.write_text(stop, encoding="utf-8")
            deadline = time.monotonic() + 0.5
            while reader.version == 1 and file.read_text(encoding="utf-8").strip() != stop:
                if time.monotonic() > deadline:
                    break
                time.sleep(0.002)
        yield
    finally:
        with contextlib.suppress(OSError):
            file.write_text(go, encoding="utf-8")


def is_frozen(reader: CgroupReader, init_pid: int) -> bool:
    """Whether a container is paused; False where it has gone or has no freezer that is seen."""
    file, stop, _ = _freezer(reader, init_pid)
    with contextlib.suppress(OSError):
        return file.read_text(encoding="utf-8").strip() == stop
    return False


def _freezer(reader: CgroupReader, init_pid: int) -> tuple[Path, str, str]:
    """The file of a container's freezer, what it says when frozen, and else."""
    if reader.version == 2:
        return reader.paths[""] / "cgroup.freeze", "1", "0"
    return _v1_freezer(init_pid), "FROZEN", "THAWED"


def _v1_freezer(pid: int) -> Path:
    """The state file of a process's own freezer; one that cannot be written where it has none."""
    with contextlib.suppress(OSError):
        for line in utf8.kernel_lines(Path(f"/proc/{pid}/cgroup")):
            _, controllers, path = line.split(":", 2)
            if controllers == "freezer" and path != "/":
                return Path("/sys/fs/cgroup/freezer", path.lstrip("/"), "freezer.state")
    return Path("/proc/self/no-freezer")


def init_and_pause(init_pid: int) -> set[int]:
    """PID 1 (an init) and the `sleep` that it was started with."""
    keep = {init_pid}
    with contextlib.suppress(OSError):
        children = (
            Path(f"/proc/{init_pid}/task/{init_pid}/children").read_text(encoding="utf-8").split()
        )
        for child in map(int, children):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{child}/cmdline").read_bytes().split(b"\0")
                if words[:2] == [b"sleep", b"infinity"]:
                    keep.add(child)
                    break
    return keep


def host_pid(reader: CgroupReader, inside: int) -> int | None:
    """The host's number of a container process; None when it has ended. proc(5), NSpid.

    CgroupGone when the whole container has.
    """
    for pid in reader.pids():
        with contextlib.suppress(OSError):
            # The name above it may hold any bytes: tools name themselves, and are cut at 15.
            for line in utf8.kernel_lines(Path(f"/proc/{pid}/status")):
                if line.startswith("NSpid:") and int(line.split()[-1]) == inside:
                    return pid
    return None
