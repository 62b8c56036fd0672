"""Which CPUs of a machine are threads of one core, and which ones to pin a run to.

CPUs have the kernel's numbers. Sources: /sys/devices/system/cpu/cpu<n>/topology and
/sys/devices/system/node (Documentation/admin-guide/cputopology.rst of the kernel).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from agentsweep.errors import InfraError

SYSFS = Path("/sys/devices/system")
_THREADS = ("core_cpus_list", "thread_siblings_list")
# Many times what kernels are built for.
_MOST_CPUS = 2**16


@dataclass(frozen=True)
class Topology:
    """The CPUs of each core, and those of each NUMA node; in the order of their numbers."""

    cores: tuple[tuple[int, ...], ...]
    nodes: tuple[tuple[int, ...], ...]

    @classmethod
    def read(cls, usable: Iterable[int], sysfs: Path = SYSFS) -> "Topology":
        """Of the usable CPUs alone; a CPU of which the kernel tells nothing is a core by itself."""
        usable = set(usable)
        cores = {tuple(sorted(_siblings(cpu, sysfs) & usable)) for cpu in usable}
        nodes = [
            tuple(sorted(parse_list(path.read_text(encoding="utf-8")) & usable))
            for path in sorted(sysfs.glob("node/node[0-9]*/cpulist"))
        ]
        whole = tuple(sorted(usable))
        return cls(tuple(sorted(cores)), tuple(node for node in nodes if node) or (whole,))

    def choose(self, free: frozenset[int] | set[int], count: int) -> tuple[int, ...] | None:
        """`count` of the free CPUs, or None where there are none that keep threads together.

        A run gets all threads of a core as far as the count goes, so that it does not share a core
        with another run: only what is left over when the count is divided by the threads of a core
        may be a part of one, and is then taken from a core that is in parts already. The CPUs are
        of one NUMA node where one has enough.
        """
        nodes = sorted(self.nodes, key=lambda node: len(free.intersection(node)))
        everything = tuple(cpu for core in self.cores for cpu in core)
        for pool in (*nodes, everything):
            found = self._from(free.intersection(pool), count)
            if found is not None:
                return found
        return None

    def _from(self, free: frozenset[int] | set[int], count: int) -> tuple[int, ...] | None:
        whole = [core for core in self.cores if free.issuperset(core)]
        taken: list[tuple[int, ...]] = []
        left = count
        for core in sorted(whole, key=lambda core: (-len(core), core)):
            if len(core) <= left:
                taken.append(core)
                left -= len(core)
        if left:
            if left > count % max(map(len, self.cores)):
                return None
            parts = [tuple(sorted(free.intersection(core))) for core in self.cores]
            enough = [part for part in parts if len(part) >= left and part not in taken]
            if not enough:
                return None
            taken.append(min(enough, key=len)[:left])
        return tuple(sorted(cpu for part in taken for cpu in part))


def _siblings(cpu: int, sysfs: Path) -> set[int]:
    """All threads of a CPU's core; the older name is all that kernels before 5.1 have."""
    for name in _THREADS:
        try:
            return parse_list(
                (sysfs / f"cpu/cpu{cpu}/topology/{name}").read_text(encoding="utf-8")
            ) | {cpu}
        except FileNotFoundError:
            continue
    return {cpu}


def parse_list(text: str) -> set[int]:
    """The CPUs of a list as the kernel writes it: `0-1,4`; InfraError where it is none."""
    found: set[int] = set()
    left = _MOST_CPUS
    try:
        for part in text.strip().split(",") if text.strip() else ():
            first, _, last = part.partition("-")
            cpus = range(int(first), int(last or first) + 1)
            # Any number of them would be made.
            left -= max(0, cpus.stop - cpus.start)
            if cpus.start < 0 or left < 0:
                raise ValueError(f"{part} is no part of a list of CPUs")
            found.update(cpus)
    except ValueError:
        raise InfraError(f"{text.strip()!r} is no list of CPUs such as 0-1,4") from None
    return found


def list_text(cpus: Iterable[int]) -> str:
    """CPUs as the kernel writes them: `0-1,4`."""
    parts: list[list[int]] = []
    for cpu in sorted(cpus):
        if parts and parts[-1][1] == cpu - 1:
            parts[-1][1] = cpu
        else:
            parts.append([cpu, cpu])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
