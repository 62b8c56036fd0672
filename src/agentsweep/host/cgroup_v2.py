"""cgroup v2: one directory with every controller that was delegated to it."""

import contextlib
import os
import select
from collections.abc import Callable
from pathlib import Path

from agentsweep.host.cgroup_files import IoStat, Keyed, Number, Parser, Values, pressure_files
from agentsweep.host.cgroup_reader import (
    CgroupReader,
    EffectiveLimits,
    Mount,
    N,
    binding,
    level_name,
    read_first,
    upwards,
)

_MEMORY_STAT = {
    "anon": "memory_anon_bytes",
    "file": "memory_file_bytes",
    "kernel": "memory_kernel_bytes",
    "slab": "memory_slab_bytes",
    "shmem": "memory_shmem_bytes",
    "inactive_file": "memory_inactive_file_bytes",
}
# The last three only where the cpu controller is delegated.
_CPU_STAT = {
    "usage_usec": "cpu_usage_usec",
    "user_usec": "cpu_user_usec",
    "system_usec": "cpu_system_usec",
    "nr_periods": "cpu_nr_periods",
    "nr_throttled": "cpu_nr_throttled",
    "throttled_usec": "cpu_throttled_usec",
}


class CgroupV2(CgroupReader):
    """A container on a v2 host.

    The cgroup is the one that the container's processes are in, which with Podman and crun is the
    leaf `container` below the scope: processes and limits are there, and the scope says `max`.
    """

    version = 2
    _peak_reset = b"reset\n"
    # kernfs wakes pollers of memory.events with POLLPRI (and POLLERR) when an event is counted.
    oom_poll_events = select.EPOLLPRI

    def __init__(self, paths: dict[str, Path], mounts: dict[str, Mount]):
        super().__init__(paths, mounts)
        self._events: int | None = None
        # Where an ancestor's limit was met, `oom` is counted there, and here only the kill.
        self._ooms = Keyed({"oom": "oom", "oom_kill": "oom_kill"})
        self._oom_counts: Values = ()

    def _files(self) -> list[tuple[Path, Parser]]:
        top = self.paths[""]
        return [
            (top / "memory.current", Number("memory_current_bytes")),
            (top / "memory.stat", Keyed(_MEMORY_STAT)),
            (top / "memory.swap.current", Number("memory_swap_bytes")),
            # Not memory.events.local: a kill in a cgroup below is one of this container's too.
            (
                top / "memory.events",
                Keyed({"oom_kill": "memory_oom_kill", "max": "memory_failcnt"}),
            ),
            (top / "cpu.stat", Keyed(_CPU_STAT)),
            (top / "pids.current", Number("pids_current")),
        ]

    def _seldom_files(self) -> list[tuple[Path, Parser]]:
        top = self.paths[""]
        return [(top / "io.stat", IoStat()), *pressure_files(top)]

    def _open_peak(self) -> None:
        """Linux 6.12 or later starts a new interval for the descriptor that is written to.

        There is one descriptor, because a write also takes from all others the peak that they
        would have shown (recorded on 6.12: tests/unit/host/cgroup_recordings).
        """
        path = self.paths[""] / "memory.peak"
        try:
            self._peak = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            os.pwrite(self._peak, self._peak_reset, 0)
            self.can_reset_peak = True
            return
        except OSError:
            if self._peak is not None:
                os.close(self._peak)
                self._peak = None
        # Linux 5.19 to 6.11, or a file that is not ours to write; before that there is no file.
        with contextlib.suppress(OSError):
            self._peak = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def effective_limits(self) -> EffectiveLimits:
        memory_bytes, memory_level = self._smallest(_number("memory.max"))
        swap_bytes, _ = self._smallest(_number("memory.swap.max"))
        cpus, cpu_level = self._smallest(_quota_cpus)
        pids, _ = self._smallest(_number("pids.max"))
        chain = upwards(self.paths[""], self._mounts[""])
        return {
            "memory_bytes": memory_bytes,
            "swap_bytes": swap_bytes,
            "cpus": cpus,
            # Where the controller is not delegated, the nearest ancestor's set is the one.
            "cpuset": read_first(directory / "cpuset.cpus.effective" for directory in chain),
            "pids": pids,
            "memory_level": memory_level,
            "cpu_level": cpu_level,
        }

    def _smallest(self, limit: Callable[[Path], N | None]) -> tuple[N | None, str | None]:
        mount = self._mounts[""]
        chain = upwards(self.paths[""], mount)
        return binding((limit(directory), level_name(directory, mount)) for directory in chain)

    def oom_eventfd(self) -> int | None:
        if self._events is None:
            with contextlib.suppress(OSError):
                self._events = os.open(self.paths[""] / "memory.events", os.O_RDONLY | os.O_CLOEXEC)
                self.drain_oom_events()
        return self._events

    def drain_oom_events(self) -> bool:
        if self._events is None:
            return False
        # Reading through the polled descriptor is what marks the event as seen. The file also
        # tells of each time that the limit was met, which may be hundreds of times a second.
        before = self._oom_counts
        self._oom_counts = self._ooms(self._pread(self._events))
        return self._oom_counts != before

    def close(self) -> None:
        super().close()
        if self._events is not None:
            os.close(self._events)
            self._events = None


def _number(name: str) -> Callable[[Path], int | None]:
    def limit(directory: Path) -> int | None:
        text = read_first((directory / name,))
        return None if text is None or text == "max" else int(text)

    return limit


def _quota_cpus(directory: Path) -> float | None:
    text = read_first((directory / "cpu.max",))
    if text is None or text.startswith("max"):
        return None
    quota, period = text.split()
    return int(quota) / int(period)
