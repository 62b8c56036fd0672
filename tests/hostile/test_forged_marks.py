"""Any process in a container can write into the marks' FIFO; only a wrapper can close its own."""

import json
import os
import time
from types import SimpleNamespace

import pytest

from agentsweep.host.counters import COLUMNS, Counters
from agentsweep.sampler import sampler as sampling
from agentsweep.sampler.marks import Requests, make_marks_directory
from agentsweep.sampler.peaks import Ledger
from agentsweep.sampler.sampler import Sampler


class Memory:
    """A container's memory, whose watermark can be reset."""

    can_reset_peak = True

    def __init__(self):
        self.current_bytes = self.watermark_bytes = 100

    def use(self, size_bytes: int) -> None:
        self.current_bytes = size_bytes
        self.watermark_bytes = max(self.watermark_bytes, size_bytes)

    def peak_bytes(self) -> int:
        return self.watermark_bytes

    def fold_peak(self) -> int:
        peak, self.watermark_bytes = self.watermark_bytes, self.current_bytes
        return peak


class Wrapper:
    """What `bash-mark` does with its FIFOs; `write` anybody can."""

    def __init__(self, directory, pid: int):
        self._directory, self.pid = directory, pid
        os.mkfifo(directory / f"ack.{pid}")
        (directory / f"call.{pid}").write_text("make", encoding="utf-8")
        self._answer = os.open(directory / f"ack.{pid}", os.O_RDONLY | os.O_NONBLOCK)

    def write(self, text: str) -> None:
        with (self._directory / "req").open("r+b", buffering=0) as fifo:
            fifo.write(f"\n{text}\n".encode())

    def answers(self) -> int:
        try:
            return os.read(self._answer, 1000).count(b"ok")
        except BlockingIOError:
            return 0

    def end(self) -> None:
        os.close(self._answer)


@pytest.fixture
def memory():
    return Memory()


@pytest.fixture
def sampler(tmp_path, memory, monkeypatch):
    """A sampler whose events a test hands to it."""
    make_marks_directory(tmp_path / "marks")
    made = object.__new__(Sampler)
    made._requests = Requests(tmp_path / "marks")
    made._ledger = Ledger(memory, tmp_path / "marks.jsonl")
    made._reader, made._gone = memory, False
    made._bad_requests = made._requests_heard = 0
    made._poll = SimpleNamespace(modify=lambda *_: None)
    values = dict.fromkeys(COLUMNS, 0)

    def read():
        return Counters(**values | {"memory_current_bytes": memory.current_bytes})

    made._read = read
    made._watch = made._unwatch = lambda *_: None
    yield made
    made._requests.close()


def lines(tmp_path) -> list[dict]:
    return [json.loads(x) for x in (tmp_path / "marks.jsonl").read_bytes().splitlines()]


def begin(sampler, tmp_path):
    wrapper = Wrapper(tmp_path / "marks", 7)
    wrapper.write("B 7")
    sampler._on_request()
    assert wrapper.answers() == 1
    return wrapper, sampler._ledger.calls[7]


def test_a_call_ends_where_its_wrapper_says_so_and_goes(sampler, memory, tmp_path):
    wrapper, call = begin(sampler, tmp_path)
    memory.use(500)
    wrapper.write("E 7 3")
    sampler._on_request()
    assert wrapper.answers() == 1
    ended_ns = time.monotonic_ns()
    # Memory of what comes after the call, while the wrapper goes.
    memory.use(900)
    wrapper.end()
    sampler._on_wrapper_death(call)
    (line,) = lines(tmp_path)
    assert (line["end_source"], line["exit_code"], line["mem_peak_bytes"]) == ("mark", 3, 500)
    assert line["end_ns"] <= ended_ns
    assert not sampler._ledger.calls


def test_a_forged_end_ends_nothing(sampler, memory, tmp_path):
    wrapper, call = begin(sampler, tmp_path)
    wrapper.write("E 7 0")
    sampler._on_request()
    assert sampler._ledger.calls == {7: call} and lines(tmp_path) == []
    memory.use(800)
    wrapper.write("E 7 4")
    wrapper.end()
    sampler._on_wrapper_death(call)
    (line,) = lines(tmp_path)
    assert (line["end_source"], line["exit_code"], line["mem_peak_bytes"]) == ("mark", 4, 800)


@pytest.mark.parametrize("last", ["death", "stop"])
def test_a_forged_end_long_before_the_wrapper_goes_is_not_its_end(
    sampler, memory, tmp_path, monkeypatch, last
):
    wrapper, call = begin(sampler, tmp_path)
    wrapper.write("E 7 0")
    sampler._on_request()
    monkeypatch.setattr(sampling, "_GONE_WITHIN_NS", 0)
    memory.use(800)
    wrapper.end()
    if last == "death":
        sampler._on_wrapper_death(call)
    else:
        sampler._end_call(call, "stop")
    (line,) = lines(tmp_path)
    source = "exit" if last == "death" else "stop"
    assert (line["end_source"], line["exit_code"], line["mem_peak_bytes"]) == (source, None, 800)
