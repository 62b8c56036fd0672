"""cgroup v1: one directory per controller, in the plain and in the hybrid layout."""

import os
import select
from collections.abc import Callable
from pathlib import Path

from agentsweep.host.cgroup_files import BlkioBytes, Keyed, Number, Parser, pressure_files
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

# PAGE_COUNTER_MAX in bytes, rounded down to a page, is how v1 writes "no limit"; include/linux/
# page_counter.h. Everything near it is no limit either, whatever the page size.
_NO_LIMIT_BYTES = 2**62
_IO_FILE = "blkio.throttle.io_service_bytes_recursive"
# total_: with the cgroups below, as the usage counts them too.
_MEMORY_STAT = {
    "total_rss": "memory_anon_bytes",
    "total_cache": "memory_file_bytes",
    "total_shmem": "memory_shmem_bytes",
    "total_inactive_file": "memory_inactive_file_bytes",
    "total_swap": "memory_swap_bytes",
}
_CPU_TIMES = {
    "usage_usec": "cpu_usage_usec",
    "user_usec": "cpu_user_usec",
    "system_usec": "cpu_system_usec",
}
_THROTTLING = {
    "nr_periods": "cpu_nr_periods",
    "nr_throttled": "cpu_nr_throttled",
    "throttled_time": "cpu_throttled_usec",
}


class CgroupV1(CgroupReader):
    """A container on a v1 host.

    `unified` is its cgroup on the v2 side of a hybrid host, where there is one: it has no
    controllers there, but the scheduler keeps CPU times in microseconds and pressure for it.
    """

    version = 1
    _peak_reset = b"0"
    oom_poll_events = select.EPOLLIN

    def __init__(self, paths: dict[str, Path], mounts: dict[str, Mount], unified: Path | None):
        super().__init__(paths, mounts)
        self._unified = unified
        self._oom: int | None = None

    def _files(self) -> list[tuple[Path, Parser]]:
        memory = self.paths["memory"]
        files: list[tuple[Path, Parser]] = [
            (memory / "memory.usage_in_bytes", Number("memory_current_bytes")),
            (memory / "memory.stat", Keyed(_MEMORY_STAT)),
            (memory / "memory.kmem.usage_in_bytes", Number("memory_kernel_bytes")),
            (memory / "memory.oom_control", Keyed({"oom_kill": "memory_oom_kill"})),
        ]
        if self._unified and (self._unified / "cpu.stat").exists():
            # The same times in microseconds, which cpuacct.stat has in clock ticks only.
            files.append((self._unified / "cpu.stat", Keyed(_CPU_TIMES)))
        elif cpuacct := self.paths.get("cpuacct"):
            ticks = (1_000_000, os.sysconf("SC_CLK_TCK"))
            keys = {"user": "cpu_user_usec", "system": "cpu_system_usec"}
            files += [
                (cpuacct / "cpuacct.usage", Number("cpu_usage_usec", divide=1000)),
                (cpuacct / "cpuacct.stat", Keyed(keys, dict.fromkeys(keys, ticks))),
            ]
        if cpu := self.paths.get("cpu"):
            files.append((cpu / "cpu.stat", Keyed(_THROTTLING, {"throttled_time": (1, 1000)})))
        if pids := self.paths.get("pids"):
            files.append((pids / "pids.current", Number("pids_current")))
        return files

    def _seldom_files(self) -> list[tuple[Path, Parser]]:
        failures = self.paths["memory"] / "memory.failcnt"
        files: list[tuple[Path, Parser]] = [(failures, Number("memory_failcnt"))]
        if (blkio := self.paths.get("blkio")) and _accounts_io(self._mounts["blkio"].point):
            files.append((blkio / _IO_FILE, BlkioBytes()))
        if self._unified:
            files += pressure_files(self._unified)
        return files

    def _open_peak(self) -> None:
        path = self.paths["memory"] / "memory.max_usage_in_bytes"
        for mode, resettable in ((os.O_RDWR, True), (os.O_RDONLY, False)):
            try:
                self._peak = os.open(path, mode | os.O_CLOEXEC)
            except OSError:
                continue
            self.can_reset_peak = resettable
            return

    def effective_limits(self) -> EffectiveLimits:
        memory_bytes, memory_level = self._smallest("memory", _limit_bytes)
        both_bytes, _ = self._smallest("memory", _memory_and_swap_bytes)
        swap_bytes = None
        if both_bytes is not None:
            swap_bytes = max(0, both_bytes - (memory_bytes or 0))
        cpus, cpu_level = self._smallest("cpu", _quota_cpus)
        pids, _ = self._smallest("pids", _pids_max)
        cpuset = None
        if "cpuset" in self.paths:
            top = self.paths["cpuset"]
            cpuset = read_first((top / "cpuset.effective_cpus", top / "cpuset.cpus"))
        return {
            "memory_bytes": memory_bytes,
            "swap_bytes": swap_bytes,
            "cpus": cpus,
            "cpuset": cpuset,
            "pids": pids,
            "memory_level": memory_level,
            "cpu_level": cpu_level,
        }

    def _smallest(
        self, controller: str, limit: Callable[[Path], N | None]
    ) -> tuple[N | None, str | None]:
        if controller not in self.paths:
            return None, None
        mount = self._mounts[controller]
        chain = upwards(self.paths[controller], mount)
        return binding((limit(directory), level_name(directory, mount)) for directory in chain)

    def oom_eventfd(self) -> int | None:
        """An eventfd that the memory controller signals at each OOM and when the cgroup goes."""
        memory = self.paths["memory"]
        if self._oom is None:
            event = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            try:
                control = os.open(memory / "memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
                try:
                    (memory / "cgroup.event_control").write_text(
                        f"{event} {control}", encoding="utf-8"
                    )
                finally:
                    os.close(control)
            except OSError:
                os.close(event)
                return None
            self._oom = event
        return self._oom

    def drain_oom_events(self) -> bool:
        return self._oom is not None and os.eventfd_read(self._oom) > 0

    def close(self) -> None:
        super().close()
        if self._oom is not None:
            os.close(self._oom)
            self._oom = None


def _accounts_io(mount: Path) -> bool:
    """Whether this kernel counts bytes here: if not, not even the root cgroup has a device."""
    try:
        data = (mount / _IO_FILE).read_bytes()
    except OSError:
        return False
    return BlkioBytes()(data) != (None, None)


def _bytes(path: Path) -> int | None:
    text = read_first((path,))
    return None if text is None or int(text) >= _NO_LIMIT_BYTES else int(text)


def _limit_bytes(directory: Path) -> int | None:
    return _bytes(directory / "memory.limit_in_bytes")


def _memory_and_swap_bytes(directory: Path) -> int | None:
    return _bytes(directory / "memory.memsw.limit_in_bytes")


def _quota_cpus(directory: Path) -> float | None:
    quota = read_first((directory / "cpu.cfs_quota_us",))
    period = read_first((directory / "cpu.cfs_period_us",))
    if quota is None or period is None or int(quota) < 0:
        return None
    return int(quota) / int(period)


def _pids_max(directory: Path) -> int | None:
    text = read_first((directory / "pids.max",))
    return None if text is None or text == "max" else int(text)
