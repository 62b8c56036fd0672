"""Parsers of the kernel's counter files: bytes to integers, cheap enough for every sample.

A parser is called with the whole content of one file and returns one value for each name in its
`columns`. File formats: Documentation/admin-guide/cgroup-v1/ and cgroup-v2.rst in Linux.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

Values = Sequence[int | None]

_ABSENT = -1


class Parser(Protocol):
    columns: tuple[str, ...]

    def __call__(self, data: bytes) -> Values: ...


class Number:
    """A file with one number; `divide` turns its unit into the column's."""

    def __init__(self, column: str, divide: int = 1):
        self.columns: tuple[str, ...] = (column,)
        self._divide = divide

    def __call__(self, data: bytes) -> Values:
        return (int(data) // self._divide,)


class Keyed:
    """A file of `key value` lines, such as memory.stat.

    `keys` maps key to column; `scale` gives (multiply, divide) for the keys whose unit is not
    the column's. The keys are searched for once; afterwards their positions are only checked,
    which costs a fraction of a search, and searched for again when the kernel has moved them.
    """

    def __init__(self, keys: dict[str, str], scale: dict[str, tuple[int, int]] | None = None):
        self.columns: tuple[str, ...] = tuple(keys.values())
        self._keys = tuple((key.encode(), *(scale or {}).get(key, (1, 1))) for key in keys)
        # Beyond any file, so that the first call searches.
        self._places = tuple((sys.maxsize, *key) for key in self._keys)

    def __call__(self, data: bytes) -> Values:
        words = data.split()
        values = self._values(words)
        if values is None:
            found = {key: 2 * line for line, key in enumerate(words[::2])}
            self._places = tuple((found.get(key[0], _ABSENT), *key) for key in self._keys)
            values = self._values(words)
        return values or ()

    def _values(self, words: list[bytes]) -> Values | None:
        values: list[int | None] = []
        for place, key, multiply, divide in self._places:
            if place == _ABSENT:
                values.append(None)
            elif place < len(words) and words[place] == key:
                values.append(int(words[place + 1]) * multiply // divide)
            else:
                return None
        return values


class Pressure:
    """A PSI file: the `total=` of the lines `some` and `full`, in microseconds."""

    def __init__(self, some: str, full: str | None = None):
        self.columns: tuple[str, ...] = (some,) if full is None else (some, full)

    def __call__(self, data: bytes) -> Values:
        # some avg10=0.00 avg60=0.00 avg300=0.00 total=0\nfull ...; the CPU's `full` came later.
        totals = data.split(b"total=")[1 : len(self.columns) + 1]
        values: list[int | None] = [int(total.split(None, 1)[0]) for total in totals]
        return values + [None] * (len(self.columns) - len(values))


def pressure_files(directory: Path) -> list[tuple[Path, Parser]]:
    """The three PSI files of a cgroup, with their columns."""
    return [
        (directory / "cpu.pressure", Pressure("cpu_pressure_some_usec")),
        (
            directory / "memory.pressure",
            Pressure("memory_pressure_some_usec", "memory_pressure_full_usec"),
        ),
        (directory / "io.pressure", Pressure("io_pressure_some_usec", "io_pressure_full_usec")),
    ]


class IoStat:
    """io.stat of cgroup v2: bytes read and written, summed over devices."""

    columns: tuple[str, ...] = ("io_read_bytes", "io_write_bytes")

    def __call__(self, data: bytes) -> Values:
        read = write = 0
        for word in data.split():
            if word.startswith(b"rbytes="):
                read += int(word[7:])
            elif word.startswith(b"wbytes="):
                write += int(word[7:])
        return (read, write)


class BlkioBytes:
    """blkio.throttle.io_service_bytes_recursive of cgroup v1, summed over devices.

    A kernel that does not account here prints `Total 0` and no device, whatever was written: that
    is no measurement, so the values are None until a device is listed.
    """

    columns: tuple[str, ...] = ("io_read_bytes", "io_write_bytes")

    def __call__(self, data: bytes) -> Values:
        read = write = None
        words = data.split()
        for place, word in enumerate(words[:-1]):
            if word == b"Read":
                read = (read or 0) + int(words[place + 1])
            elif word == b"Write":
                write = (write or 0) + int(words[place + 1])
        return (read, write)
