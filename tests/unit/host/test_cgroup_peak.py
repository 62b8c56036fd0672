"""The memory watermark of cgroup v2, whose reset needs a kernel of 6.12 or later.

`FakePeak` acts as that kernel's memory.peak, and test_cgroup_recorded.py sees that it does so.
cgroup v1 is tested with real containers.
"""

from pathlib import Path

import pytest
from cgroup_trees import LEAF, PID, V1_LEAF, FakePeak, v1, v2

from agentsweep.host import cgroup_v2
from agentsweep.host.cgroup import reader_for_pid


@pytest.fixture
def make(tmp_path, monkeypatch):
    opened = []

    def make(writable: bool):
        root, sysfs = v2(tmp_path)
        fake = FakePeak(sysfs / LEAF[1:] / "memory.peak", writable)
        monkeypatch.setattr(cgroup_v2, "os", fake)
        monkeypatch.setattr("agentsweep.host.cgroup_reader.os", fake)
        reader = reader_for_pid(PID, root=root, sysfs=sysfs)
        reader.open()
        opened.append(reader)
        return reader, fake

    yield make
    for reader in opened:
        reader.close()


def test_each_fold_gives_the_peak_since_the_last(make):
    reader, kernel = make(writable=True)
    assert reader.can_reset_peak
    kernel.use(9000)
    kernel.use(2000)
    assert reader.fold_peak() == 9000
    kernel.use(3000)
    assert reader.peak_bytes() == 3000
    kernel.use(1500)
    assert reader.fold_peak() == 3000
    assert reader.fold_peak() == 1500
    assert reader.reset_peak()


def test_what_was_there_before_the_reader_is_no_peak_of_it(make):
    reader, kernel = make(writable=True)
    assert kernel.all_time == 1000
    kernel.use(500)
    assert reader.reset_peak()
    assert reader.fold_peak() == 500


def test_a_kernel_without_reset_keeps_the_peak_since_the_start(make):
    reader, kernel = make(writable=False)
    assert not reader.can_reset_peak
    kernel.use(9000)
    kernel.use(2000)
    assert reader.fold_peak() == reader.fold_peak() == 9000
    assert reader.reset_peak() is False


def test_a_kernel_without_memory_peak(tmp_path):
    root, sysfs = v2(tmp_path)
    (sysfs / LEAF[1:] / "memory.peak").unlink()
    reader = reader_for_pid(PID, root=root, sysfs=sysfs)
    reader.open()
    assert reader.peak_bytes() is reader.fold_peak() is None
    assert not reader.can_reset_peak
    reader.close()


def test_all_descriptors_are_closed(tmp_path):
    before = set(Path("/proc/self/fd").iterdir())
    for tree in (v1(tmp_path / "one"), v2(tmp_path / "two")):
        reader = reader_for_pid(PID, root=tree[0], sysfs=tree[1])
        reader.open()
        reader.oom_eventfd()
        assert set(Path("/proc/self/fd").iterdir()) > before
        reader.close()
        assert set(Path("/proc/self/fd").iterdir()) == before


def test_v2_oom_notice_is_told_from_a_met_limit(tmp_path):
    before = "low 0\nhigh 0\nmax 9\noom 2\noom_kill 3\noom_group_kill 0\n"
    root, sysfs = v2(tmp_path, memory__events=before)
    events = sysfs / LEAF[1:] / "memory.events"
    reader = reader_for_pid(PID, root=root, sysfs=sysfs)
    reader.open()
    assert reader.oom_eventfd() is not None
    events.write_text(
        "low 0\nhigh 0\nmax 10\noom 2\noom_kill 3\noom_group_kill 0\n", encoding="utf-8"
    )
    assert reader.drain_oom_events() is False
    events.write_text(
        "low 0\nhigh 0\nmax 10\noom 3\noom_kill 3\noom_group_kill 0\n", encoding="utf-8"
    )
    assert reader.drain_oom_events() is True
    assert reader.drain_oom_events() is False
    reader.close()


def test_v1_without_event_control_has_no_notice(tmp_path):
    root, sysfs = v1(tmp_path)
    (sysfs / "memory" / V1_LEAF[1:] / "cgroup.event_control").mkdir()
    reader = reader_for_pid(PID, root=root, sysfs=sysfs)
    reader.open()
    assert reader.oom_eventfd() is None
    reader.close()
