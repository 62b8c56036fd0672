"""The time series of one run: an Arrow IPC stream that is readable after a crash.

Every row has time, memory, CPU and process counters. I/O, pressure and (on v1) failcnt are
cumulative and dear to read, and are in the last row of each batch only, once a second or so;
elsewhere they are null.
"""

import os
from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import pyarrow as pa

from agentsweep.host.counters import COLUMNS
from agentsweep.tally import Tally

SCHEMA_VERSION = "1"
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"


def schema(cgroup_version: int, rate_hz: float) -> pa.Schema:
    """`t_ns` (CLOCK_MONOTONIC), `utc_ns` (CLOCK_REALTIME), then Counters; all int64."""
    times = [pa.field(name, pa.int64(), nullable=False) for name in ("t_ns", "utc_ns")]
    return pa.schema(
        times + [pa.field(name, pa.int64()) for name in COLUMNS],
        metadata={
            "agentsweep_schema": SCHEMA_VERSION,
            "cgroup_version": str(cgroup_version),
            "rate_hz": f"{rate_hz:g}",
        },
    )


class SampleWriter:
    """Appends batches of rows; each batch is in the file as a whole or not at all."""

    def __init__(self, path: Path, sample_schema: pa.Schema):
        self._schema = sample_schema
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self._length = 0
        self.rows = 0
        self.tally = Tally()
        self._append(sample_schema.serialize())

    def write(self, rows: Sequence[Iterable[int | None]]) -> None:
        """Append rows of (t_ns, utc_ns, counters...); OSError when the disk does not take them."""
        columns = [_column(column) for column in zip(*rows, strict=True)]
        batch = pa.RecordBatch.from_arrays(columns, schema=self._schema).serialize()
        self._append(batch, len(rows))
        self.rows += len(rows)

    def close(self) -> None:
        """End the stream."""
        try:
            self._append(_END_OF_STREAM)
        finally:
            os.close(self._file)

    def _append(self, data: Any, rows: int = 0) -> None:
        view = memoryview(data).cast("B")
        written = 0
        try:
            while written < len(view):
                written += os.write(self._file, view[written:])
        except OSError:
            # A full disk may have taken a part; without it, what was there stays readable.
            os.ftruncate(self._file, self._length)
            os.lseek(self._file, self._length, os.SEEK_SET)
            raise
        self._length += written
        self.tally.add(view, rows)


def _column(values: Sequence[int | None]) -> pa.Array:
    """An int64 array, made from buffers: `pa.array` imports all of pandas first."""
    count = len(values)
    # It is found out by trying: a value is None rarely, and to look takes time for each sample.
    known = cast(Sequence[int], values)
    try:
        return pa.Array.from_buffers(pa.int64(), count, [None, pa.py_buffer(array("q", known))], 0)
    except TypeError:
        # Some are None, which is rare enough to be found out in this way.
        pass
    bits = sum(1 << place for place, value in enumerate(values) if value is not None)
    if not bits:
        return pa.nulls(count, pa.int64())
    validity = pa.py_buffer(bits.to_bytes((count + 7) // 8, "little"))
    filled = pa.py_buffer(array("q", [value or 0 for value in values]))
    return pa.Array.from_buffers(pa.int64(), count, [validity, filled])


def read_samples(path: Path) -> tuple[pa.Table, bool]:
    """The complete batches of a sample file, and whether it was ended properly.

    A file cut off anywhere gives what was complete. pa.ArrowException or OSError when not even
    its schema is.
    """
    batches: list[pa.RecordBatch] = []
    data = path.read_bytes()
    stream = pa.ipc.open_stream(data)
    ended = data.endswith(_END_OF_STREAM)
    while True:
        try:
            batches.append(stream.read_next_batch())
        except StopIteration:
            break
        except (pa.ArrowException, OSError):
            ended = False
            break
    return pa.Table.from_batches(batches, schema=stream.schema), ended
