"""Intervals of a run and their memory peaks: the agent's phase and each of its Bash calls.

There is one watermark for all intervals that are open at the same time. At each boundary it is
read, folded into every open interval and reset, so each interval gets the true peak over its own
time, however they overlap, and the phase's peak is the largest of its folds.
"""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentsweep.host.cgroup_reader import CgroupGone, CgroupReader
from agentsweep.host.counters import Counters
from agentsweep.tally import Tally


@dataclass(eq=False)
class Interval:
    """A time over which the peak of memory is wanted, all in bytes. Equal to itself alone.

    `counter_bytes` is the kernel's watermark at the start, where it cannot be reset.
    """

    start_ns: int
    watermark_bytes: int = 0
    sampled_bytes: int = 0
    counter_bytes: int | None = None


@dataclass(frozen=True)
class SaidEnd:
    """What was measured when somebody said that a call had ended; times are monotonic and UTC."""

    status: int | None
    times_ns: tuple[int, int]
    after: Counters
    peak_bytes: int
    peak_source: str


@dataclass(eq=False)
class Call:
    """One Bash call that has begun; `answer` is the write end of its wrapper's FIFO.

    said_end: the last word of its end. Any process in the container may have said it.
    """

    seq: int
    wrapper_pid: int
    command: str
    answer: int
    start_ns: int
    start_utc_ns: int
    before: Counters
    interval: Interval | None = None
    said_end: SaidEnd | None = None


# What marks.jsonl may have: tools can forge calls as fast as they can write.
MARKS_BYTES = 256 * 2**20


class Ledger:
    """All open intervals, the calls among them, and marks.jsonl.

    `source` is what the peaks of calls come from: `watermark` or `sampled`.
    """

    def __init__(self, reader: CgroupReader, marks: Path):
        self._reader = reader
        self._seq = 0
        self._phase: Interval | None = None
        self._intervals: list[Interval] = []
        self.calls: dict[int, Call] = {}
        self.source = "watermark" if reader.can_reset_peak else "sampled"
        self.write_error: str | None = None
        self._written_bytes = 0
        # Whether calls are missing from the file because it was full.
        self.cut = False
        self.tally = Tally()
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC
        self._file = os.open(marks, flags, 0o644)

    def note(self, t_ns: int, current_bytes: int) -> None:
        """A sample of the memory in use, perhaps from before some interval began."""
        for interval in self._intervals:
            if current_bytes > interval.sampled_bytes and t_ns >= interval.start_ns:
                interval.sampled_bytes = current_bytes

    def look(self) -> None:
        """Note the watermark without a boundary, so that little is lost if the container goes."""
        if self._reader.can_reset_peak:
            self._note_watermark(self._reader.peak_bytes() or 0)

    def begin_phase(self, now: Counters) -> None:
        """The agent's phase begins, counted from here."""
        if self._phase is not None:
            self._intervals.remove(self._phase)
        self._phase = self._open(now)

    def end_phase(self, now: Counters) -> tuple[int | None, str]:
        """The phase's peak in bytes and its source.

        `counter`: the kernel's watermark that cannot be reset, which includes the time before
        the phase. None: no phase has begun.
        """
        if self._phase is None:
            return None, "sampled"
        return self._close(self._phase, now)

    def begin_call(self, call: Call) -> None:
        """A call begins; its `before` has just been read."""
        self.calls[call.wrapper_pid] = call
        call.interval = self._open(call.before)

    def next_seq(self) -> int:
        """The number of the next call, from 1."""
        self._seq += 1
        return self._seq

    def measure_end(
        self, call: Call, status: int | None, times_ns: tuple[int, int], after: Counters
    ) -> SaidEnd:
        """The end of a call as of now; the call goes on until `end_call`."""
        assert call.interval is not None  # begin_call gave it one
        return SaidEnd(status, times_ns, after, *self._close(call.interval, after))

    def end_call(
        self,
        call: Call,
        end_source: str,
        status: int | None,
        times_ns: tuple[int, int],
        after: Counters,
    ) -> None:
        """A call ends: `mark`, `exit` or `stop`; its line is written. Times: monotonic, UTC."""
        self.end_call_at(call, end_source, self.measure_end(call, status, times_ns, after))

    def end_call_at(self, call: Call, end_source: str, end: SaidEnd) -> None:
        """The same for an end that was measured before."""
        del self.calls[call.wrapper_pid]
        assert call.interval is not None  # begin_call gave it one
        self._intervals.remove(call.interval)
        before, after = call.before, end.after
        self._write(
            {
                "seq": call.seq,
                "wrapper_pid": call.wrapper_pid,
                "command": call.command,
                "start_ns": call.start_ns,
                "start_utc_ns": call.start_utc_ns,
                "end_ns": end.times_ns[0],
                "end_utc_ns": end.times_ns[1],
                "end_source": end_source,
                "exit_code": end.status,
                "mem_before_bytes": before.memory_current_bytes,
                "mem_peak_bytes": end.peak_bytes,
                "mem_after_bytes": after.memory_current_bytes,
                "mem_peak_source": end.peak_source,
                "cpu_usec": _difference(after.cpu_usage_usec, before.cpu_usage_usec),
                "oom_kill": _difference(after.memory_oom_kill, before.memory_oom_kill),
            }
        )

    def close(self) -> None:
        """Close the marks file."""
        os.close(self._file)

    def _open(self, now: Counters) -> Interval:
        interval = Interval(time.monotonic_ns(), sampled_bytes=now.memory_current_bytes or 0)
        try:
            self._fold()
            if not self._reader.can_reset_peak:
                interval.counter_bytes = self._reader.peak_bytes()
        except CgroupGone:
            # Then there is nothing more to find out about this interval.
            pass
        self._intervals.append(interval)
        return interval

    def _close(self, interval: Interval, now: Counters) -> tuple[int, str]:
        interval.sampled_bytes = max(interval.sampled_bytes, now.memory_current_bytes or 0)
        sampled_bytes = max(interval.sampled_bytes, interval.watermark_bytes)
        try:
            if self._reader.can_reset_peak:
                self._fold()
                return max(interval.watermark_bytes, interval.sampled_bytes), "watermark"
            counter_bytes = self._reader.peak_bytes()
        except CgroupGone:
            return sampled_bytes, "sampled"
        if counter_bytes is None or interval.counter_bytes is None:
            return sampled_bytes, "sampled"
        # A watermark that has risen since the start was set within the interval.
        if interval is self._phase or counter_bytes > interval.counter_bytes:
            return counter_bytes, "counter"
        return sampled_bytes, "sampled"

    def _fold(self) -> None:
        if self._reader.can_reset_peak:
            self._note_watermark(self._reader.fold_peak() or 0)

    def _note_watermark(self, peak_bytes: int) -> None:
        for interval in self._intervals:
            interval.watermark_bytes = max(interval.watermark_bytes, peak_bytes)

    def _write(self, line: dict[str, Any]) -> None:
        if self.cut:
            return
        data = json.dumps(line, ensure_ascii=False).encode() + b"\n"
        self._written_bytes += len(data)
        if self._written_bytes > MARKS_BYTES:
            self.cut = True
            return
        try:
            written = os.write(self._file, data)
        except OSError as error:
            self.write_error = f"marks: {error.strerror}"
            return
        if written != len(data):
            self.write_error = "marks: the disk is full"
        self.tally.add(data[:written])


def _difference(after: int | None, before: int | None) -> int | None:
    return None if after is None or before is None else after - before
