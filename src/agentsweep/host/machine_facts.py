"""Facts about the machine that travel with each run."""

import os
import platform
import socket
from pathlib import Path
from typing import Any


def facts() -> dict[str, Any]:
    """What does not change during a run: host name, kernel, processor, cores, memory, swap."""
    memory = _meminfo()
    return {
        "hostname": socket.gethostname(),
        "kernel": platform.release(),
        "cpu_model": _cpu_model(),
        "cpu_count": os.cpu_count() or 1,
        "memory_bytes": memory["MemTotal"],
        "swap_total_bytes": memory["SwapTotal"],
    }


def noise() -> dict[str, Any]:
    """What does: load average over one minute, and pages swapped since boot; proc(5)."""
    counters = dict(
        line.split()[:2]
        for line in Path("/proc/vmstat").read_text(encoding="utf-8").splitlines()
        if line
    )
    return {
        "load1": os.getloadavg()[0],
        "pswpin": int(counters.get("pswpin", 0)),
        "pswpout": int(counters.get("pswpout", 0)),
    }


def usable_cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0))


def memory_bytes() -> int:
    """All memory of the machine."""
    return _meminfo()["MemTotal"]


def swap_bytes() -> int:
    """All swap of the machine."""
    return _meminfo()["SwapTotal"]


def sees_kernel_pids() -> bool:
    """Whether process ids are those that the kernel's log uses: its first pid namespace's."""
    # PROC_PID_INIT_INO in Linux.
    return Path("/proc/self/ns/pid").stat().st_ino == 0xEFFFFFFC


def free_bytes(path: Path) -> int:
    """Free space where `path` lies, or would lie."""
    while not path.exists():
        path = path.parent
    state = os.statvfs(path)
    return state.f_bavail * state.f_frsize


def _meminfo() -> dict[str, int]:
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    return {
        name: int(rest.split()[0]) * 1024
        for name, _, rest in (line.partition(":") for line in lines)
    }


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.machine()
