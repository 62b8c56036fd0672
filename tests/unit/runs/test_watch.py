"""Watching and ending processes; the cgroup is a stand-in, the processes are real."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentsweep.errors import InfraError
from agentsweep.host.cgroup_reader import CgroupGone
from agentsweep.runs import watch


class Group:
    """A cgroup that holds these processes while they live."""

    version = 1

    def __init__(self, *pids: int):
        self.members = pids

    def pids(self) -> list[int]:
        return [pid for pid in self.members if not dead(pid)]


class Unkillable(Group):
    def pids(self) -> list[int]:
        return list(self.members)


class Gone(Group):
    def pids(self) -> list[int]:
        raise CgroupGone("gone")


class Service:
    """Answers as the sampler and the gateway do."""

    def __init__(self, **answer):
        self.answer = answer
        self.asked = 0

    def ask(self, message: dict) -> dict:
        assert message == {"cmd": "status"}
        self.asked += 1
        return self.answer


def dead(pid: int) -> bool:
    try:
        return (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
            in "ZX"
        )
    except OSError:
        return True


@pytest.fixture
def start():
    started = []

    def start(*command: str) -> subprocess.Popen:
        started.append(subprocess.Popen(command))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def test_all_but_init_and_its_pause_are_killed(start):
    init = start(sys.executable, "-c", "import subprocess as s; s.run(['sleep', 'infinity'])")
    children = Path(f"/proc/{init.pid}/task/{init.pid}/children")
    while not children.read_text(encoding="utf-8").split():
        time.sleep(0.01)
    pause = int(children.read_text(encoding="utf-8"))
    while b"sleep" not in Path(f"/proc/{pause}/cmdline").read_bytes():
        time.sleep(0.01)
    # Called the same, and not the pause.
    others = [start("sleep", "infinity"), start("sleep", "60")]
    try:
        group = Group(init.pid, pause, *(p.pid for p in others))
        assert watch.kill_all_but_init(group, init.pid) == 2
        assert [p.wait() for p in others] == [-signal.SIGKILL] * 2
        assert not dead(init.pid)
        assert not dead(pause)
        assert watch.kill_all_but_init(group, init.pid) == 0
    finally:
        os.kill(pause, signal.SIGKILL)


def test_what_outlives_sigkill_is_an_error_and_not_ignored(start):
    process = start("sleep", "60")
    begin = time.monotonic()
    with pytest.raises(InfraError, match=f"outlive SIGKILL \\(process {process.pid} is one\\)"):
        watch.kill_all_but_init(Unkillable(process.pid), 1, timeout_s=0.3)
    # Without a time of its own it would wait for the 60 s of the process.
    assert time.monotonic() - begin < 20


class Version2(Group):
    version = 2

    def __init__(self, folder: Path, *pids: int):
        super().__init__(*pids)
        self.paths = {"": folder}


def test_a_container_that_something_else_paused_stays_paused(start, tmp_path):
    process = start("sleep", "60")
    file = tmp_path / "cgroup.freeze"
    file.write_text("1\n", encoding="utf-8")
    group = Version2(tmp_path, process.pid)
    with pytest.raises(InfraError, match="something outside paused the container"):
        watch.kill_all_but_init(group, 1)
    assert file.read_text(encoding="utf-8") == "1\n"
    assert not dead(process.pid)
    file.write_text("0\n", encoding="utf-8")
    assert watch.kill_all_but_init(group, 1) == 1


def test_a_container_that_has_gone_has_nothing_left():
    assert watch.kill_all_but_init(Gone(), 1) == 0
    with pytest.raises(CgroupGone):
        watch.host_pid(Gone(), 1)


def test_a_process_is_found_by_its_number_inside():
    inside = int(
        next(
            line.split()[-1]
            for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
            if line.startswith("NSpid:")
        )
    )
    group = Unkillable(1, os.getpid(), 2**22 + 1)
    assert watch.host_pid(group, inside) == os.getpid()
    assert watch.host_pid(Unkillable(2**22 + 1), inside) is None


def test_an_end_is_seen_at_once(start):
    process = start("sleep", "0.2")
    with watch.exit_watch(process.pid) as exits:
        assert not exits.wait(0)
        assert exits.wait(5)
    with watch.exit_watch(None) as exits:
        assert not exits.wait(0.01)
    process.wait()
    with watch.exit_watch(process.pid) as exits:
        assert not exits.wait(0.01)


def activity(tmp_path, calls=0, last_byte_ns=None, gone=False):
    sampler = Service(active_calls=calls, gone=gone)
    gateway = Service(last_byte_ns=last_byte_ns)
    return watch.Activity((tmp_path / "stream.jsonl",), sampler, gateway), sampler


def test_quiet_counts_from_the_last_sign_of_life(tmp_path):
    quiet, _ = activity(tmp_path)
    now = time.monotonic()
    assert quiet.quiet_s(now + 1) == pytest.approx(0, abs=0.1)
    assert 8 < quiet.quiet_s(now + 10) < 10
    (tmp_path / "stream.jsonl").write_text("x", encoding="utf-8")
    assert quiet.quiet_s(now + 20) == 0
    assert 9 < quiet.quiet_s(now + 30) < 11


def test_a_tool_at_work_and_traffic_are_signs_of_life(tmp_path):
    now = time.monotonic()
    working, _ = activity(tmp_path, calls=1)
    # The first look has nothing to compare with, so that it always is one.
    assert [working.quiet_s(now + later) for later in (1, 100, 200)] == [0, 0, 0]
    idle, _ = activity(tmp_path)
    assert [idle.quiet_s(now + later) for later in (1, 101, 201)] == [0, 100, 200]
    talking, _ = activity(tmp_path, last_byte_ns=int((now + 95) * 1e9))
    talking.quiet_s(now + 1)
    assert 4 < talking.quiet_s(now + 100) < 6


def test_the_services_are_asked_once_a_second(tmp_path):
    quiet, sampler = activity(tmp_path, gone=True)
    now = time.monotonic() + 10
    for step in range(20):
        quiet.quiet_s(now + step / 10)
    assert sampler.asked == 2
    assert quiet.gone
