"""The peaks of a phase and of its calls. The reader is a stand-in whose watermark a test sets."""

from agentsweep.calls import Call, Ledger
from agentsweep.counters import COLUMNS, Counters


class Reader:
    """A container whose watermark can be reset."""

    can_reset_peak = True

    def __init__(self):
        self.watermark_bytes = 0

    def fold_peak(self) -> int:
        return self.watermark_bytes


def counters(current_bytes: int) -> Counters:
    values = dict.fromkeys(COLUMNS, 0) | {"memory_current_bytes": current_bytes}
    return Counters(**values)


def call(seq: int, now: Counters) -> Call:
    return Call(seq, 100 + seq, "true", -1, 0, 0, now)


def test_a_call_with_the_same_numbers_as_its_phase_does_not_end_the_phase(tmp_path, monkeypatch):
    # A coarse clock, so that the times are the same too.
    monkeypatch.setattr("agentsweep.calls.time.monotonic_ns", lambda: 1)
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
