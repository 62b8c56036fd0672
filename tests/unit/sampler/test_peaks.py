"""The peaks of a phase and of its calls. The reader is a stand-in whose watermark a test sets."""

import hashlib
import json
import os
from dataclasses import replace

import pytest

from agentsweep.host.counters import COLUMNS, Counters
from agentsweep.sampler.peaks import Call, Ledger


class Reader:
    """A container whose watermark can be reset."""

    can_reset_peak = True

    def __init__(self):
        self.watermark_bytes = 0

    def fold_peak(self) -> int:
        return self.watermark_bytes

    def peak_bytes(self) -> int | None:
        return self.watermark_bytes


def counters(current_bytes: int) -> Counters:
    values = dict.fromkeys(COLUMNS, 0) | {"memory_current_bytes": current_bytes}
    return Counters(**values)


def call(seq: int, now: Counters) -> Call:
    return Call(seq, 100 + seq, "true", -1, 0, 0, now)


def test_a_call_with_the_same_numbers_as_its_phase_does_not_end_the_phase(tmp_path, monkeypatch):
    # A coarse clock, so that the times are the same too.
    monkeypatch.setattr("agentsweep.sampler.peaks.time.monotonic_ns", lambda: 1)
    reader = Reader()
    ledger = Ledger(reader, tmp_path / "marks.jsonl")
    now = counters(50)
    ledger.begin_phase(now)
    first = call(1, now)
    ledger.begin_call(first)
    # Nothing has happened: the two intervals hold the same values.
    ledger.end_call(first, "mark", 0, (1, 1), now)
    second = call(2, now)
    ledger.begin_call(second)
    reader.watermark_bytes = 800
    ledger.end_call(second, "mark", 0, (2, 2), now)
    reader.watermark_bytes = 60
    assert ledger.end_phase(now) == (800, "watermark")
    ledger.close()
    assert len((tmp_path / "marks.jsonl").read_text(encoding="utf-8").splitlines()) == 2


def test_the_line_of_a_call_is_whole(tmp_path):
    reader = Reader()
    reader.watermark_bytes = 900
    ledger = Ledger(reader, tmp_path / "marks.jsonl")
    assert (ledger.source, ledger.write_error) == ("watermark", None)
    before = replace(counters(100), cpu_usage_usec=1_000, memory_oom_kill=2)
    after = replace(counters(300), cpu_usage_usec=5_500, memory_oom_kill=3)
    made = Call(7, 107, "echo größer", -1, 11, 12, before)
    ledger.begin_call(made)
    assert ledger.calls == {107: made}
    ledger.end_call(made, "mark", 137, (21, 22), after)
    assert ledger.calls == {}
    descriptor = ledger._file
    ledger.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    text = (tmp_path / "marks.jsonl").read_text(encoding="utf-8")
    # As people read it, and not as escapes.
    assert "größer" in text and text.endswith("}\n")
    assert json.loads(text) == {
        "seq": 7,
        "wrapper_pid": 107,
        "command": "echo größer",
        "start_ns": 11,
        "start_utc_ns": 12,
        "end_ns": 21,
        "end_utc_ns": 22,
        "end_source": "mark",
        "exit_code": 137,
        "mem_before_bytes": 100,
        "mem_peak_bytes": 900,
        "mem_after_bytes": 300,
        "mem_peak_source": "watermark",
        "cpu_usec": 4_500,
        "oom_kill": 1,
    }


@pytest.mark.parametrize(("before", "after"), [(None, 5), (5, None), (None, None)])
def test_a_counter_that_the_kernel_does_not_have_has_no_difference(tmp_path, before, after):
    ledger = Ledger(Reader(), tmp_path / "marks.jsonl")
    given = [
        replace(counters(1), cpu_usage_usec=value, memory_oom_kill=value)
        for value in (before, after)
    ]
    made = call(1, given[0])
    ledger.begin_call(made)
    ledger.end_call(made, "exit", None, (1, 1), given[1])
    ledger.close()
    line = json.loads((tmp_path / "marks.jsonl").read_text(encoding="utf-8"))
    assert (line["cpu_usec"], line["oom_kill"]) == (None, None)


class WithoutReset(Reader):
    """A container whose watermark is of all time, or (None) that has none."""

    can_reset_peak = False

    def __init__(self, *marks: int | None):
        self.marks = list(marks)

    def peak_bytes(self) -> int | None:
        return self.marks.pop(0)


@pytest.mark.parametrize(
    ("marks", "levels", "peak"),
    [
        # What is in use at either end is a sample too.
        ((500, 500), (400, 100), (400, "sampled")),
        ((500, 500), (100, 400), (400, "sampled")),
        ((500, 700), (100, 400), (700, "counter")),
        # One look is not enough to say that it rose.
        ((None, 700), (100, 400), (400, "sampled")),
        ((500, None), (100, 400), (400, "sampled")),
        ((None, None), (0, 0), (0, "sampled")),
    ],
)
def test_peaks_without_a_reset(tmp_path, marks, levels, peak):
    ledger = Ledger(WithoutReset(*marks), tmp_path / "marks.jsonl")
    assert ledger.source == "sampled"
    made = call(1, counters(levels[0]))
    ledger.begin_call(made)
    assert ledger._close(made.interval, counters(levels[1])) == peak
    ledger.close()


def test_a_container_without_memory_counters_has_a_peak_of_nothing(tmp_path):
    unknown = replace(counters(0), memory_current_bytes=None)
    reader = Reader()
    ledger = Ledger(reader, tmp_path / "marks.jsonl")
    ledger.begin_phase(unknown)
    ledger.look()
    assert ledger.end_phase(unknown) == (0, "watermark")
    ledger.close()


def test_a_sample_from_before_an_interval_is_not_its(tmp_path, monkeypatch):
    monkeypatch.setattr("agentsweep.sampler.peaks.time.monotonic_ns", lambda: 100)
    ledger = Ledger(WithoutReset(None, None), tmp_path / "marks.jsonl")
    made = call(1, counters(10))
    ledger.begin_call(made)
    ledger.note(99, 900)
    assert made.interval.sampled_bytes == 10
    ledger.note(100, 50)
    ledger.note(101, 40)
    assert made.interval.sampled_bytes == 50
    ledger.close()


def make_calls(ledger: Ledger, count: int) -> None:
    """Calls whose lines have the same number of bytes."""
    for seq in range(1, count + 1):
        made = call(seq, counters(10))
        ledger.begin_call(made)
        ledger.end_call(made, "mark", 0, (1, 1), counters(10))


def test_the_file_of_marks_ends_where_it_may_grow_no_more(tmp_path, monkeypatch):
    path = tmp_path / "marks.jsonl"
    ledger = Ledger(Reader(), path)
    make_calls(ledger, 1)
    ledger.close()
    line_bytes = path.stat().st_size
    assert ledger.cut is False and ledger.write_error is None
    # As much as it may have, and a byte less than the next line needs.
    for more, kept in ((0, 3), (line_bytes - 1, 3), (line_bytes, 4)):
        monkeypatch.setattr("agentsweep.sampler.peaks.MARKS_BYTES", 3 * line_bytes + more)
        ledger = Ledger(Reader(), path)
        make_calls(ledger, kept)
        assert ledger.cut is False
        make_calls(ledger, 2)
        assert ledger.cut is True
        ledger.close()
        assert path.stat().st_size == kept * line_bytes


def test_a_short_line_after_the_cut_is_not_written_either(tmp_path, monkeypatch):
    """Else calls would be missing in the middle, and the number of lines would say nothing."""
    path = tmp_path / "marks.jsonl"
    monkeypatch.setattr("agentsweep.sampler.peaks.MARKS_BYTES", 1_000)
    ledger = Ledger(Reader(), path)
    for seq, command in ((1, "long" * 300), (2, "short")):
        made = replace(call(seq, counters(10)), command=command)
        ledger.begin_call(made)
        ledger.end_call(made, "mark", 0, (1, 1), counters(10))
    ledger.close()
    assert ledger.cut is True
    assert path.read_bytes() == b""


def test_a_line_of_which_a_part_was_written_is_told(tmp_path, monkeypatch):
    write = os.write
    ledger = Ledger(Reader(), tmp_path / "marks.jsonl")
    monkeypatch.setattr(
        "agentsweep.sampler.peaks.os.write", lambda file, data: write(file, data[:-1])
    )
    make_calls(ledger, 1)
    monkeypatch.undo()
    ledger.close()
    assert ledger.write_error == "marks: the disk is full"
    written = (tmp_path / "marks.jsonl").read_bytes()
    assert not written.endswith(b"\n")
    assert ledger.tally.facts()["sha256"] == hashlib.sha256(written).hexdigest()
