"""A container's counters and limits: what readers of cgroup v1 and v2 have in common."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import TypedDict, TypeVar

from agentsweep.errors import InfraError
from agentsweep.host.cgroup_files import Parser, Values
from agentsweep.host.counters import COLUMNS, Counters

__all__ = ["COLUMNS", "CgroupGone", "CgroupReader", "Counters", "Raw"]

Raw = list[bytes]
N = TypeVar("N", int, float)

# The first look at a file; the largest, memory.stat and io.stat, have some two kilobytes.
_READ_BYTES = 16384
# Numbers grow, so each file gets this much more room than it needs at first.
_ROOM = 2
_ROOM_BYTES = 32


class CgroupGone(InfraError):
    """The cgroup does not exist any more: its container ended or was removed."""


class EffectiveLimits(TypedDict):
    """The limits that bind: the smallest over a container's cgroup and every ancestor.

    cpus: the quota. cpuset: as the kernel writes it. memory_level, cpu_level: the cgroup that the
    binding limit belongs to. None: no limit, or, for swap on v1, one that this kernel does not
    account.
    """

    memory_bytes: int | None
    swap_bytes: int | None
    cpus: float | None
    cpuset: str | None
    pids: int | None
    memory_level: str | None
    cpu_level: str | None


class CgroupReader(ABC):
    """The counters, the memory watermark and the limits of one container.

    `version` is 1 or 2; `paths` gives the directory of each controller (on v2 all the same one);
    `level` is the cgroup's path as the kernel names it. `open()` before reading. Every read of a
    cgroup that has vanished raises CgroupGone.
    """

    version: int

    def __init__(self, paths: dict[str, Path], mounts: dict[str, "Mount"]):
        self.paths = paths
        self._mounts = mounts
        self._often = _Files()
        self._seldom = _Files()
        self._arrange: Callable[[Sequence[int | None]], tuple[int | None, ...]] = tuple
        self._nothing: tuple[None, ...] = ()
        self._peak: int | None = None
        self.can_reset_peak = False

    # What a version has to say.

    @abstractmethod
    def _files(self) -> list[tuple[Path, Parser]]:
        """The counter files that are read for every sample, memory.current's first."""

    @abstractmethod
    def _seldom_files(self) -> list[tuple[Path, Parser]]:
        """Files of cumulative counters that are read once for each batch of samples.

        Each file costs a sample some microseconds, and these are not needed as finely.
        """

    @abstractmethod
    def _open_peak(self) -> None:
        """Open the watermark: sets `_peak` (None where there is none) and `can_reset_peak`."""

    @abstractmethod
    def effective_limits(self) -> EffectiveLimits:
        """The limits that bind now."""

    @abstractmethod
    def oom_eventfd(self) -> int | None:
        """A descriptor that polls `oom_poll_events` when the kernel had to kill; None without."""

    @abstractmethod
    def drain_oom_events(self) -> bool:
        """Take the pending event off `oom_eventfd`; whether it is an OOM, and no lesser event."""

    oom_poll_events: int
    # What is written to the watermark to reset it.
    _peak_reset: bytes

    # What both share.

    @property
    def level(self) -> str:
        """The memory cgroup's path below its mount, as the kernel log names it."""
        controller = "memory" if self.version == 1 else ""
        return level_name(self.paths[controller], self._mounts[controller])

    def open(self) -> None:
        """Open every counter file that this kernel has, once and for all reads.

        CgroupGone when the cgroup has vanished.
        """
        present = [
            *self._often.open(self._files()),
            *self._seldom.open(self._seldom_files()),
        ]
        if not present or present[0] != "memory_current_bytes":
            self.close()
            raise CgroupGone(f"the cgroup {self.level} has gone: its container ended")
        # A sample without the seldom files has None for them, and any column that no file gives
        # takes the None that every sample has at its end.
        often = sum(len(parser.columns) for parser in self._often.parsers)
        self._nothing = (None,) * (len(present) - often + 1)
        places = {column: place for place, column in enumerate(present)}
        self._arrange = itemgetter(*(places.get(column, -1) for column in COLUMNS))
        self._open_peak()

    def read_raw(self) -> Raw:
        """All counter files as bytes."""
        try:
            return [*map(os.pread, *self.read_plan()), *self.read_seldom()]
        except OSError:
            raise CgroupGone(f"the cgroup {self.level} has gone: its container ended") from None

    def read_plan(self) -> tuple[list[int], list[int], list[int]]:
        """Descriptors, sizes and offsets: `list(map(os.pread, *plan))` is one sample.

        For a loop in which even a method call would show. OSError when the cgroup has gone.
        """
        return self._often.descriptors, self._often.sizes, self._often.offsets

    def read_seldom(self) -> Raw:
        """The files that not every sample has, to be put behind one; OSError when gone."""
        files = self._seldom
        return list(map(os.pread, files.descriptors, files.sizes, files.offsets))

    def parse(self, raw: Raw) -> tuple[int | None, ...]:
        """A sample, with or without the seldom files, as values in the order of COLUMNS."""
        often = len(self._often.parsers)
        values = self._often.parse(raw[:often])
        if len(raw) == often:
            values += self._nothing
        else:
            values += self._seldom.parse(raw[often:])
            values.append(None)
        return self._arrange(values)

    def read(self) -> Counters:
        """The counters now."""
        return Counters(*self.parse(self.read_raw()))

    def peak_bytes(self) -> int | None:
        """The watermark of memory in bytes, page cache included; None where there is none."""
        if self._peak is None:
            return None
        return int(self._pread(self._peak))

    def fold_peak(self) -> int | None:
        """The watermark in bytes since the last fold, and the start of the next interval.

        Where the kernel cannot reset it: since the container's start. None: no watermark. Read and
        reset are two calls, some microseconds apart, because no kernel has both in one.
        """
        peak_bytes = self.peak_bytes()
        if self.can_reset_peak and self._peak is not None:
            try:
                os.pwrite(self._peak, self._peak_reset, 0)
            except OSError:
                raise CgroupGone(f"the cgroup {self.level} has gone: its container ended") from None
        return peak_bytes

    def reset_peak(self) -> bool:
        """Start a new watermark interval; False where the kernel cannot."""
        if self.can_reset_peak:
            self.fold_peak()
        return self.can_reset_peak

    def pids(self) -> list[int]:
        """Host pids of all processes in the cgroup and below it."""
        top = self.paths["memory" if self.version == 1 else ""]
        found: list[int] = []
        for directory, _, _ in os.walk(top):
            try:
                found += map(
                    int, Path(directory, "cgroup.procs").read_text(encoding="utf-8").split()
                )
            except OSError:
                # A cgroup that vanished during the walk has no processes.
                continue
        if not top.is_dir():
            raise CgroupGone(f"the cgroup {self.level} has gone: its container ended")
        return sorted(found)

    def close(self) -> None:
        """Close all files; the reader can be opened again."""
        self._often.close()
        self._seldom.close()
        if self._peak is not None:
            os.close(self._peak)
            self._peak = None
        self.can_reset_peak = False

    def _pread(self, descriptor: int) -> bytes:
        try:
            return os.pread(descriptor, _READ_BYTES, 0)
        except OSError:
            raise CgroupGone(f"the cgroup {self.level} has gone: its container ended") from None


class _Files:
    """Counter files that are read together: what `os.pread` needs, and their parsers.

    Most files of a container stand still most of the time, so the same bytes are not parsed again.
    """

    def __init__(self) -> None:
        self.descriptors: list[int] = []
        self.sizes: list[int] = []
        self.offsets: list[int] = []
        self.parsers: list[Parser] = []
        self._data: list[bytes | None] = []
        self._values: list[Values] = []

    def open(self, files: Iterable[tuple[Path, Parser]]) -> list[str]:
        """Open those that this kernel has and that can be read; returns their columns."""
        columns: list[str] = []
        for path, parser in files:
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            try:
                data = os.pread(descriptor, _READ_BYTES, 0)
                parser(data)
            except (OSError, ValueError, IndexError):
                # For example PSI files where the kernel was booted with psi=0.
                os.close(descriptor)
                continue
            self.descriptors.append(descriptor)
            # Small buffers are cheaper by far than a page for each number.
            self.sizes.append(_ROOM * len(data) + _ROOM_BYTES)
            self.offsets.append(0)
            self.parsers.append(parser)
            # Nothing read yet: not even an empty file, such as io.stat before any I/O.
            self._data.append(None)
            self._values.append(())
            columns.extend(parser.columns)
        return columns

    def parse(self, raw: Raw) -> list[int | None]:
        """The values of all columns, in the order of the files."""
        values: list[int | None] = []
        for place, data in enumerate(raw):
            if data != self._data[place]:
                self._data[place] = data
                if len(data) == self.sizes[place]:
                    # The file has outgrown its buffer, for example by a new device in io.stat.
                    data = self._read_whole(place)
                self._values[place] = self.parsers[place](data)
            values += self._values[place]
        return values

    def close(self) -> None:
        for descriptor in self.descriptors:
            os.close(descriptor)
        for kept in (self.descriptors, self.sizes, self.offsets, self.parsers):
            kept.clear()
        self._data.clear()
        self._values.clear()

    def _read_whole(self, place: int) -> bytes:
        """Make more room for a file and read it again."""
        while True:
            self.sizes[place] *= _ROOM
            try:
                data = os.pread(self.descriptors[place], self.sizes[place], 0)
            except OSError:
                # What was cut off belongs to a container that has gone.
                return b""
            if len(data) < self.sizes[place]:
                return data


@dataclass(frozen=True)
class Mount:
    """Where a hierarchy is mounted, and which of its cgroups is the top there.

    In a container `root` may be the container's own cgroup; on a host it is `/`.
    """

    point: Path
    root: str = "/"

    def below(self, member: str) -> Path | None:
        """The directory of a cgroup; None where it lies outside of what is mounted here."""
        if f"{member}/".startswith(f"{self.root.rstrip('/')}/"):
            return self.point / member[len(self.root.rstrip("/")) :].lstrip("/")
        return None


def level_name(directory: Path, mount: Mount) -> str:
    """A cgroup's path as the kernel names it: `/` for the root of all, else `/a/b`."""
    below = directory.relative_to(mount.point).as_posix()
    return mount.root if below == "." else f"{mount.root.rstrip('/')}/{below}"


def upwards(directory: Path, mount: Mount) -> list[Path]:
    """A cgroup's directory and all its ancestors up to the mount."""
    chain = [directory, *directory.parents]
    return chain[: chain.index(mount.point) + 1]


def binding(limits: Iterable[tuple[N | None, str]]) -> tuple[N | None, str | None]:
    """The smallest limit and its level; the first of equals, and (None, None) without any."""
    real = [(limit, level) for limit, level in limits if limit is not None]
    return min(real, key=itemgetter(0), default=(None, None))


def read_first(paths: Iterable[Path]) -> str | None:
    """The content of the first of these files that there is and that is not empty."""
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8").strip()
        except OSError:
            continue
        if text:
            return text
    return None
