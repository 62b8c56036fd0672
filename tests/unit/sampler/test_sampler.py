"""The sampler's parts that need no container: time series, peaks, deadlines, kernel log."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest

from agentsweep.host.cgroup_reader import CgroupGone
from agentsweep.host.counters import COLUMNS, Counters
from agentsweep.host.oom_log import OomLog, parse_kill
from agentsweep.sampler.peaks import Call, Ledger
from agentsweep.sampler.series import SampleWriter, read_samples, schema
from agentsweep.sampler.timerfd import PeriodicTimer

# The time series


def rows(count: int, start: int = 0) -> list[tuple]:
    return [
        (start + n, 10**18 + start + n, *([n * 1000] * 5), None, *([7] * (len(COLUMNS) - 6)))
        for n in range(count)
    ]


def test_samples_come_back_as_they_were_written(tmp_path):
    path = tmp_path / "samples.arrow"
    writer = SampleWriter(path, schema(1, 50))
    writer.write(rows(45))
    writer.write(rows(3, start=45))
    writer.close()
    table, ended = read_samples(path)
    assert ended
    assert table.column_names == ["t_ns", "utc_ns", *COLUMNS]
    assert set(table.schema.types) == {pa.int64()}
    assert [tuple(row.values()) for row in table.to_pylist()] == rows(45) + rows(3, start=45)
    assert table.schema.metadata == {
        b"agentsweep_schema": b"1",
        b"cgroup_version": b"1",
        b"rate_hz": b"50",
    }
    table.validate(full=True)


def test_a_column_that_is_sometimes_none(tmp_path):
    path = tmp_path / "samples.arrow"
    writer = SampleWriter(path, schema(2, 100))
    values = [None, 5, None, 0, 2**62, None, None, None, -1, None]
    writer.write([(n, n, *([value] * len(COLUMNS))) for n, value in enumerate(values)])
    writer.close()
    table, _ = read_samples(path)
    table.validate(full=True)
    assert table["io_read_bytes"].to_pylist() == values
    assert table["io_read_bytes"].null_count == 6


def test_the_stream_is_what_other_arrow_readers_expect(tmp_path):
    path = tmp_path / "samples.arrow"
    writer = SampleWriter(path, schema(1, 50))
    writer.write(rows(10))
    writer.close()
    with pa.ipc.open_stream(str(path)) as stream:
        assert stream.read_all().num_rows == 10


@pytest.mark.slow
def test_a_file_cut_off_anywhere_gives_its_complete_batches(tmp_path):
    path = tmp_path / "samples.arrow"
    writer = SampleWriter(path, schema(1, 50))
    writer.write(rows(4))
    first = path.stat().st_size
    writer.write(rows(4))
    second = path.stat().st_size
    writer.close()
    data = path.read_bytes()
    for length in range(first, len(data)):
        path.write_bytes(data[:length])
        table, ended = read_samples(path)
        assert not ended
        assert table.num_rows == (4 if length < second else 8)
        table.validate(full=True)


def test_a_full_disk_leaves_what_was_there_readable(tmp_path, monkeypatch):
    path = tmp_path / "samples.arrow"
    writer = SampleWriter(path, schema(1, 50))
    writer.write(rows(4))
    write, length = os.write, path.stat().st_size

    def half(descriptor, data):
        if len(data) > 100:
            return write(descriptor, bytes(data[:100]))
        raise OSError(28, "No space left on device")

    # A disk cannot be filled in a test without harm to its host, so os.write says so.
    monkeypatch.setattr("agentsweep.sampler.series.os.write", half)
    with pytest.raises(OSError, match="No space"):
        writer.write(rows(4))
    monkeypatch.undo()
    assert path.stat().st_size == length
    assert read_samples(path)[0].num_rows == 4
    writer.write(rows(2))
    writer.close()
    assert read_samples(path)[0].num_rows == 6


# Peaks of overlapping intervals


class FakeMemory:
    """A cgroup whose memory the test sets; the real one is tested in tests/integration."""

    def __init__(self, can_reset_peak: bool = True, has_peak: bool = True):
        self.can_reset_peak, self._has_peak = can_reset_peak, has_peak
        self.now = self._peak = 100
        self.gone = False

    def use(self, *levels: int) -> None:
        for level in levels:
            self.now = level
            self._peak = max(self._peak, level)

    def counters(self) -> Counters:
        return Counters(memory_current_bytes=self.now, cpu_usage_usec=5, memory_oom_kill=1)

    def peak_bytes(self):
        if self.gone:
            raise CgroupGone("gone")
        return self._peak if self._has_peak else None

    def fold_peak(self):
        peak = self.peak_bytes()
        if self.can_reset_peak:
            self._peak = self.now
        return peak


@pytest.fixture
def ledger_of(tmp_path):
    def make(memory):
        return Ledger(memory, tmp_path / "marks.jsonl")

    return make


def begin(ledger: Ledger, memory: FakeMemory, pid: int) -> Call:
    call = Call(ledger.next_seq(), pid, f"command {pid}", -1, 1, 2, memory.counters())
    ledger.begin_call(call)
    return call


def end(ledger: Ledger, memory: FakeMemory, call: Call, source: str = "mark") -> dict:
    ledger.end_call(call, source, 0 if source == "mark" else None, (3, 4), memory.counters())
    return call.wrapper_pid


def lines(tmp_path: Path) -> list[dict]:
    return [
        json.loads(line)
        for line in (tmp_path / "marks.jsonl").read_text(encoding="utf-8").splitlines()
    ]


def test_overlapping_calls_each_get_the_peak_of_their_own_time(tmp_path, ledger_of):
    memory = FakeMemory()
    ledger = ledger_of(memory)
    ledger.begin_phase(memory.counters())
    memory.use(900, 100)
    one = begin(ledger, memory, 1)
    memory.use(300, 150)
    two = begin(ledger, memory, 2)
    memory.use(500, 200)
    end(ledger, memory, one)
    memory.use(250, 120)
    three = begin(ledger, memory, 3)
    end(ledger, memory, three)
    memory.use(180)
    end(ledger, memory, two)
    memory.use(700, 100)
    assert ledger.end_phase(memory.counters()) == (900, "watermark")
    found = {line["wrapper_pid"]: line for line in lines(tmp_path)}
    assert {pid: line["mem_peak_bytes"] for pid, line in found.items()} == {1: 500, 2: 500, 3: 120}
    assert {line["mem_peak_source"] for line in found.values()} == {"watermark"}
    assert [found[1][f"mem_{when}_bytes"] for when in ("before", "after")] == [100, 200]
    assert [line["seq"] for line in lines(tmp_path)] == [1, 3, 2]


def test_the_phase_does_not_count_what_was_before_it(ledger_of):
    memory = FakeMemory()
    ledger = ledger_of(memory)
    memory.use(5000, 100)
    ledger.begin_phase(memory.counters())
    memory.use(300, 50)
    assert ledger.end_phase(memory.counters()) == (300, "watermark")
    memory.use(400, 50)
    assert ledger.end_phase(memory.counters()) == (400, "watermark")
    ledger.begin_phase(memory.counters())
    assert ledger.end_phase(memory.counters()) == (50, "watermark")


def test_without_a_phase_there_is_no_peak(ledger_of):
    memory = FakeMemory()
    assert ledger_of(memory).end_phase(memory.counters()) == (None, "sampled")


def test_a_watermark_that_cannot_be_reset_is_exact_for_a_call_that_raised_it(tmp_path, ledger_of):
    memory = FakeMemory(can_reset_peak=False)
    ledger = ledger_of(memory)
    assert ledger.source == "sampled"
    memory.use(500, 100)
    ledger.begin_phase(memory.counters())
    raising = begin(ledger, memory, 1)
    memory.use(800, 100)
    end(ledger, memory, raising)
    lower = begin(ledger, memory, 2)
    memory.use(700, 300)
    ledger.note(time.monotonic_ns(), 600)
    end(ledger, memory, lower)
    assert ledger.end_phase(memory.counters()) == (800, "counter")
    one, two = lines(tmp_path)
    assert (one["mem_peak_bytes"], one["mem_peak_source"]) == (800, "counter")
    assert (two["mem_peak_bytes"], two["mem_peak_source"]) == (600, "sampled")


def test_without_any_watermark_the_highest_sample_counts(tmp_path, ledger_of):
    memory = FakeMemory(can_reset_peak=False, has_peak=False)
    ledger = ledger_of(memory)
    ledger.note(time.monotonic_ns(), 9999)
    ledger.begin_phase(memory.counters())
    before_ns = time.monotonic_ns()
    call = begin(ledger, memory, 1)
    ledger.note(before_ns, 8888)
    ledger.note(time.monotonic_ns(), 400)
    end(ledger, memory, call)
    assert lines(tmp_path)[0]["mem_peak_bytes"] == 400
    assert lines(tmp_path)[0]["mem_peak_source"] == "sampled"
    assert ledger.end_phase(memory.counters()) == (8888, "sampled")


def test_a_container_that_goes_leaves_the_last_look(tmp_path, ledger_of):
    memory = FakeMemory()
    ledger = ledger_of(memory)
    ledger.begin_phase(memory.counters())
    call = begin(ledger, memory, 1)
    memory.use(600, 100)
    ledger.look()
    memory.use(650, 100)
    memory.gone = True
    end(ledger, memory, call, "exit")
    assert ledger.end_phase(memory.counters()) == (600, "sampled")
    (line,) = lines(tmp_path)
    assert (line["mem_peak_bytes"], line["mem_peak_source"]) == (600, "sampled")
    assert (line["end_source"], line["exit_code"]) == ("exit", None)


def test_a_marks_file_on_a_full_disk_is_noted_and_no_reason_to_end():
    memory = FakeMemory()
    ledger = Ledger(memory, Path("/dev/full"))
    end(ledger, memory, begin(ledger, memory, 1))
    assert ledger.write_error == "marks: No space left on device"


# Deadlines


def test_deadlines_that_nobody_waited_for_are_counted_and_not_made_up_for():
    timer = PeriodicTimer()
    zero_ns = timer.start(10_000_000)
    time.sleep(0.105)
    expired = timer.expired()
    assert expired == (time.monotonic_ns() - zero_ns) // 10_000_000
    assert timer.expired() == 0
    timer.stop()
    time.sleep(0.02)
    assert timer.expired() == 0
    os.close(timer.descriptor)


# The kernel log

KILL = (
    "6,812,2303980189,-;oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=libpod-6b,"
    "mems_allowed=0,oom_memcg=/libpod_parent/libpod-6b,task_memcg={cgroup},task={comm},"
    "pid=21561,uid=1000\n"
)


def test_a_kill_is_read_with_its_victim_and_time():
    record = KILL.format(cgroup="/libpod_parent/libpod-6b", comm="python3")
    victim = parse_kill(record, "/libpod_parent/libpod-6b")
    assert (victim.pid, victim.comm, victim.uid) == (21561, "python3", 1000)
    assert victim.t_ns == 2303980189000
    offset_ns = time.time_ns() - time.monotonic_ns()
    assert abs(victim.utc_ns - victim.t_ns - offset_ns) < 10**8


def test_a_kill_below_the_cgroup_is_its_own_and_one_beside_it_is_not():
    below = KILL.format(cgroup="/libpod_parent/libpod-6b/child", comm="x")
    beside = KILL.format(cgroup="/libpod_parent/libpod-6bb", comm="x")
    assert parse_kill(below, "/libpod_parent/libpod-6b")
    assert parse_kill(below, "/")
    assert parse_kill(beside, "/libpod_parent/libpod-6b") is None


def test_a_name_that_a_process_chose_to_deceive():
    comm = "a,pid=1,uid=0"
    record = KILL.format(cgroup="/c", comm=comm)
    victim = parse_kill(record, "/c")
    assert (victim.comm, victim.pid, victim.uid) == (comm, 21561, 1000)


@pytest.mark.parametrize(
    "record",
    [
        "",
        "garbage",
        "6,812,2303980189,-;Memory cgroup out of memory: Killed process 1 (x)",
        # Facility 1: written by a process into /dev/kmsg, not by the kernel.
        KILL.format(cgroup="/c", comm="x").replace("6,812", "14,812"),
        KILL.format(cgroup="/c", comm="x").replace("pid=21561", "pid=x"),
    ],
)
def test_other_records_are_no_kills(record):
    assert parse_kill(record, "/c") is None


def test_a_log_that_cannot_be_read_says_none(tmp_path):
    log = OomLog("/c", tmp_path / "missing")
    assert log.victims() is None
    log.close()


def test_a_log_tells_of_kills_from_now_on_only(tmp_path):
    # A regular file has no records, so that one read gives one appended record here too.
    path = tmp_path / "kmsg"
    path.write_text(KILL.format(cgroup="/c", comm="old"), encoding="utf-8")
    log = OomLog("/c", path)
    assert log.victims() == []
    with path.open("a", encoding="utf-8") as file:
        file.write(KILL.format(cgroup="/c", comm="new"))
    assert [victim.comm for victim in log.victims()] == ["new"]
    assert [victim.as_dict()["comm"] for victim in log.victims()] == ["new"]
    log.close()


# The process, as far as it goes without a container


def start(first_line: str | None) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-m", "agentsweep.sampler"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        encoding="utf-8",
    )  # fmt: skip
    if first_line is not None:
        process.stdin.write(first_line + "\n")
        process.stdin.flush()
    return process


def test_nothing_to_do_is_no_error():
    process = start(None)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("setup", "complaint"),
    [
        ("not json", "Expecting value"),
        ("{}", "'summary'"),
        ('{"pid": 999999999, "summary": "s", "samples": "a", "marks": "m"}', "has gone"),
        ('{"pid": 1, "summary": "s", "rate_hz": 1000}', "allowed is 0.1 to 200"),
        ('{"pid": 1, "summary": "s", "rate_hz": 0}', "allowed is 0.1 to 200"),
    ],
)
def test_a_setup_that_cannot_work_is_one_sentence(setup, complaint):
    process = start(setup)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 1
    answer = json.loads(out)
    assert answer["ready"] is False
    assert complaint in answer["error"]
    assert len(err.splitlines()) == 1


@pytest.mark.slow
def test_a_sampler_ends_with_its_parent():
    script = (
        "import subprocess, sys, time\n"
        "p = subprocess.Popen([sys.executable, '-m', 'agentsweep.sampler'],"
        " stdin=sys.stdin)\n"
        "print(p.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    # The sampler's stdin stays open here, so that only the death signal can end it.
    parent = subprocess.Popen(
        [sys.executable, "-c", script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    child = int(parent.stdout.readline())
    time.sleep(1.5)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}/cmdline").exists() and time.monotonic() < deadline:
        if "Z" in Path(f"/proc/{child}/stat").read_text(encoding="utf-8").rpartition(")")[2][:3]:
            return
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists()
