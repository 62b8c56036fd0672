"""The reader on the cgroup files of real v2 containers, against what was known otherwise.

Each file of `cgroup_recordings` has the kernel's files of one container, what its workload did,
and what the engine, systemd and /proc said at the same time (see the README there).
"""

import json
import os
import re
from pathlib import Path

import pytest
from cgroup_trees import PID, RECORDINGS, FakePeak, laid_out

from agentsweep.host import limits
from agentsweep.host.cgroup import reader_for_pid
from agentsweep.host.cgroup_reader import CgroupReader

MIB = 2**20
NAMES = sorted(path.stem for path in RECORDINGS.glob("*.json"))

USER = "/user.slice/user-1000.slice/user@1000.service/user.slice"
SCOPE = r"/libpod-[0-9a-f]{64}\.scope"
# Where each engine, runtime and manager puts a container.
LEVELS = {
    "rootless-crun": f"{USER}{SCOPE}/container",
    "rootless-crun-oom": f"{USER}{SCOPE}/container",
    "rootless-runc": f"{USER}{SCOPE}",
    # Where Podman itself was, with its monitor.
    "rootless-cgroupfs": rf"{USER}/podman-\d+\.scope",
    "rootless-no-cpu": f"{USER}{SCOPE}/container",
    "root-small-slice": f"/machine.slice{SCOPE}/container",
    "docker-systemd": r"/system.slice/docker-[0-9a-f]{64}\.scope",
    "docker-cgroupfs": r"/docker/[0-9a-f]{64}",
}


def raw_of(name: str) -> dict:
    return json.loads((RECORDINGS / f"{name}.json").read_text(encoding="utf-8"))


class Recorded:
    """A recording laid out as files, and a reader of it."""

    def __init__(self, name: str, folder: Path):
        self.name = name
        self.kind = name.removesuffix("-6.12")
        self.raw = raw_of(name)
        self.proc, self.sysfs = laid_out(self.raw, folder)
        self.asked, self.did, self.said = (self.raw[key] for key in ("asked", "did", "said"))
        self.reader = reader_for_pid(PID, root=self.proc, sysfs=self.sysfs)

    def counters(self):
        self.reader.open()
        try:
            return self.reader.read()
        finally:
            self.reader.close()


@pytest.fixture(params=NAMES)
def one(request, tmp_path) -> Recorded:
    return Recorded(request.param, tmp_path)


@pytest.fixture
def make(tmp_path):
    return lambda name: Recorded(name, tmp_path / name)


def test_there_is_a_recording_of_every_layout():
    assert {name.removesuffix("-6.12") for name in NAMES} == set(LEVELS)
    kernels = {raw_of(name)["about"]["kernel"] for name in NAMES}
    assert {kernel.split(".")[1] for kernel in kernels} == {"1", "12"}


def test_the_containers_own_cgroup_is_found(one):
    assert one.reader.version == 2
    assert re.fullmatch(LEVELS[one.kind], one.reader.level)
    engines = one.said["engine_level"]
    # Docker does not say.
    assert engines is None or one.reader.level.removesuffix("/container") == engines


# Counters

# The file of each counter and what picks its numbers out of it, which are added up.
SOURCES = {
    "memory_current_bytes": ("memory.current", r"(\d+)"),
    "memory_anon_bytes": ("memory.stat", r"^anon (\d+)"),
    "memory_file_bytes": ("memory.stat", r"^file (\d+)"),
    "memory_kernel_bytes": ("memory.stat", r"^kernel (\d+)"),
    "memory_slab_bytes": ("memory.stat", r"^slab (\d+)"),
    "memory_shmem_bytes": ("memory.stat", r"^shmem (\d+)"),
    "memory_inactive_file_bytes": ("memory.stat", r"^inactive_file (\d+)"),
    "memory_swap_bytes": ("memory.swap.current", r"(\d+)"),
    "memory_oom_kill": ("memory.events", r"^oom_kill (\d+)"),
    "memory_failcnt": ("memory.events", r"^max (\d+)"),
    "cpu_usage_usec": ("cpu.stat", r"^usage_usec (\d+)"),
    "cpu_user_usec": ("cpu.stat", r"^user_usec (\d+)"),
    "cpu_system_usec": ("cpu.stat", r"^system_usec (\d+)"),
    "cpu_nr_periods": ("cpu.stat", r"^nr_periods (\d+)"),
    "cpu_nr_throttled": ("cpu.stat", r"^nr_throttled (\d+)"),
    "cpu_throttled_usec": ("cpu.stat", r"^throttled_usec (\d+)"),
    "pids_current": ("pids.current", r"(\d+)"),
    "cpu_pressure_some_usec": ("cpu.pressure", r"^some .*total=(\d+)"),
    "memory_pressure_some_usec": ("memory.pressure", r"^some .*total=(\d+)"),
    "memory_pressure_full_usec": ("memory.pressure", r"^full .*total=(\d+)"),
    "io_pressure_some_usec": ("io.pressure", r"^some .*total=(\d+)"),
    "io_pressure_full_usec": ("io.pressure", r"^full .*total=(\d+)"),
    "io_read_bytes": ("io.stat", r"rbytes=(\d+)"),
    "io_write_bytes": ("io.stat", r"wbytes=(\d+)"),
}


def test_every_counter_lands_in_its_column_and_what_is_not_there_is_none(one):
    files = one.raw["cgroups"][one.reader.level[1:]]
    expected = {}
    for column, (name, pattern) in SOURCES.items():
        numbers = re.findall(pattern, files.get(name, ""), re.MULTILINE)
        expected[column] = sum(map(int, numbers)) if numbers else None
    assert one.counters().as_dict() == expected
    missing = {column for column, value in expected.items() if value is None}
    without_cpu = {"cpu_nr_periods", "cpu_nr_throttled", "cpu_throttled_usec"}
    without_io = {"io_read_bytes", "io_write_bytes"}
    assert missing == (without_cpu | without_io if one.kind == "rootless-no-cpu" else set())


def test_memory_is_what_the_workload_took(one):
    did, found = one.did, one.counters()
    assert found.memory_anon_bytes == pytest.approx(did["pss_anon_bytes"], abs=2 * MIB)
    assert found.memory_anon_bytes > did["anon_bytes"]
    assert found.memory_shmem_bytes == pytest.approx(did["shmem_bytes"], abs=MIB)
    disk = found.memory_file_bytes - found.memory_shmem_bytes
    assert did["file_bytes"] <= disk < did["file_bytes"] + 2 * MIB
    # Which the kernel makes active when it is short of memory.
    assert found.memory_inactive_file_bytes <= disk
    if not did["killed"]:
        assert found.memory_inactive_file_bytes >= did["file_bytes"]
    assert 0 < found.memory_slab_bytes < found.memory_kernel_bytes < 8 * MIB
    parts = found.memory_anon_bytes + found.memory_file_bytes + found.memory_kernel_bytes
    # The kernel counts what it has ready for each CPU with the whole.
    assert found.memory_current_bytes == pytest.approx(parts, abs=2 * MIB)
    # Each of these containers has swap closed, and the machine has none.
    assert found.memory_swap_bytes == 0


def test_the_engine_and_systemd_say_the_same(one):
    found, stats = one.counters(), one.said["stats"]
    tasks = int(stats.get("pids") or stats["PIDs"])
    assert found.pids_current == tasks
    if "mem_usage" in stats:
        # Podman 4.3.1 calls the anonymous memory the used one.
        used = float(stats["mem_usage"].split("MB")[0]) * 1e6
        assert found.memory_anon_bytes == pytest.approx(used, abs=MIB)
    else:
        used = float(stats["MemUsage"].split("MiB")[0]) * MIB
        assert found.memory_current_bytes - found.memory_inactive_file_bytes == pytest.approx(
            used, abs=MIB
        )
    systemd = one.said.get("systemd")
    if systemd is None:
        assert one.kind == "docker-cgroupfs"
        return
    assert found.memory_current_bytes == pytest.approx(int(systemd["MemoryCurrent"]), abs=MIB)
    # It was asked a moment later; the workload slept.
    assert 0 <= int(systemd["CPUUsageNSec"]) / 1e3 - found.cpu_usage_usec < 1e6
    assert found.pids_current == int(systemd["TasksCurrent"])


def test_processes_are_those_that_proc_has(one):
    # With the cgroupfs manager the monitor is among them.
    more = one.kind == "rootless-cgroupfs"
    assert one.counters().pids_current == one.did["tasks"] + more
    assert len(one.reader.pids()) >= one.did["tasks"]


def test_cpu_time_is_what_the_workload_used(one):
    found = one.counters()
    own_usec = one.did["cpu_s"] * 1e6
    # Besides it: the runtime that started it and, where there was one, what the kernel killed.
    assert own_usec <= found.cpu_usage_usec < own_usec + 3e6
    parts = found.cpu_user_usec + found.cpu_system_usec
    assert parts == pytest.approx(found.cpu_usage_usec, abs=2)


def test_throttling_is_what_the_quota_took_from_the_loop(one):
    found, did = one.counters(), one.did
    if one.kind == "rootless-no-cpu":
        assert found.cpu_nr_periods is found.cpu_nr_throttled is found.cpu_throttled_usec is None
        assert found.cpu_usage_usec > 0
        return
    if one.kind == "rootless-cgroupfs":
        assert found.cpu_nr_periods == found.cpu_nr_throttled == found.cpu_throttled_usec == 0
        return
    quota = 0.25 if one.kind == "root-small-slice" else one.asked["cpus"]
    # No less than the quota makes it; more where the machine was busy.
    assert did["spun_wall_s"] > 0.95 * did["spun_s"] / quota
    held = did["spun_s"] / quota - did["spun_s"]
    if one.kind == "root-small-slice":
        # The periods of a quota are those of the cgroup that has it, and not of one below.
        return
    assert found.cpu_nr_periods >= did["spun_wall_s"] / 0.1 - 1
    assert 0.8 * did["spun_s"] / quota / 0.1 <= found.cpu_nr_throttled <= found.cpu_nr_periods
    assert found.cpu_throttled_usec > 0.9 * held * 1e6
    assert found.cpu_pressure_some_usec > 0.8 * held * 1e6


def test_written_bytes_are_those_of_the_file(one):
    found, size = one.counters(), one.did["file_bytes"]
    if one.kind == "rootless-no-cpu":
        assert found.io_read_bytes is found.io_write_bytes is None
        assert found.io_pressure_some_usec is not None
        return
    assert size <= found.io_write_bytes < size + MIB
    assert found.io_read_bytes < 64 * MIB
    assert 0 < found.io_pressure_full_usec <= found.io_pressure_some_usec


KILLS = {"rootless-crun-oom": 2, "root-small-slice": 1, "docker-cgroupfs": 2}


def test_kills_are_those_that_the_workload_saw(one):
    found, seen = one.counters(), one.did["killed"]
    assert seen == KILLS.get(one.kind, 0)
    events = (one.sysfs / one.reader.level[1:] / "memory.events").read_text(encoding="utf-8")
    # A group's first victim is counted as such and once more as one of the group.
    groups = int(re.search(r"^oom_group_kill (\d+)", events, re.MULTILINE)[1])
    assert groups == (one.kind == "docker-cgroupfs")
    assert found.memory_oom_kill == seen + groups
    # With the ancestor's limit the container's own is never met.
    assert (found.memory_failcnt > 0) == (one.kind in ("rootless-crun-oom", "docker-cgroupfs"))


def test_a_kill_in_a_cgroup_below_counts_too(make):
    """As a container that makes cgroups has it: here the scope, with crun's leaf below it."""
    one = make("rootless-crun-oom")
    scope = one.reader.level.removesuffix("/container")
    (one.proc / str(PID) / "cgroup").write_text(f"0::{scope}\n", encoding="utf-8")
    one.reader = reader_for_pid(PID, root=one.proc, sysfs=one.sysfs)
    assert one.reader.level == scope
    assert "oom_kill 0" in (one.sysfs / scope[1:] / "memory.events.local").read_text(
        encoding="utf-8"
    )
    assert one.counters().memory_oom_kill == 2


def test_a_kill_by_an_ancestors_limit_is_noticed(make):
    """The kernel counts `oom` at the limit that was met, and `oom_kill` where the victim was."""
    one = make("root-small-slice")
    path = one.sysfs / one.reader.level[1:] / "memory.events"
    after = path.read_text(encoding="utf-8")
    assert "oom 0\noom_kill 1\n" in after
    path.write_text(after.replace("oom_kill 1", "oom_kill 0"), encoding="utf-8")
    one.reader.open()
    assert one.reader.oom_eventfd() is not None
    assert one.reader.drain_oom_events() is False
    path.write_text(after, encoding="utf-8")
    assert one.reader.drain_oom_events() is True
    one.reader.close()


# Limits


def test_limits_are_those_asked_for_and_at_the_containers_level(one):
    found, level = one.reader.effective_limits(), one.reader.level
    wanted = {
        "memory_bytes": one.asked["memory_bytes"],
        "swap_bytes": 0,
        "cpus": one.asked["cpus"],
        "pids": one.asked["pids"],
        "memory_level": level,
        "cpu_level": level,
    }
    if one.kind == "rootless-no-cpu":
        wanted |= {"cpus": None, "cpu_level": None}
    if one.kind == "root-small-slice":
        wanted |= {"memory_bytes": 144 * MIB, "memory_level": "/machine.slice"}
        wanted |= {"cpus": 0.25, "cpu_level": "/machine.slice"}
    if one.kind == "rootless-cgroupfs":
        wanted |= dict.fromkeys(("memory_bytes", "swap_bytes", "cpus", "memory_level", "cpu_level"))
        # systemd's default for a scope.
        wanted["pids"] = 4700
    # No recording pins CPUs: the set is the machine's, whether the controller is there or not.
    assert found == wanted | {"cpuset": "0-1"}


def test_a_host_that_ignores_or_lowers_the_limits_is_refused(one, monkeypatch):
    # Without swap, what is not said about it does not count.
    monkeypatch.setattr(limits.machine_facts, "swap_bytes", lambda: 0)
    wanted = limits.Limits(one.asked["memory_bytes"], cpus="0.5", cpu_mode="quota")
    said = "; ".join(limits.limit_differences(wanted, one.reader.effective_limits()))
    expected = {
        "rootless-cgroupfs": "the kernel enforces no limit of memory, but 160 MiB were "
        "requested; the kernel enforces no limit of CPUs, but 0.5 were requested",
        "root-small-slice": "the kernel enforces 144 MiB of memory, but 160 MiB were "
        "requested; the kernel enforces 0.25 CPUs, but 0.5 were requested",
        "rootless-no-cpu": "the kernel enforces no limit of CPUs, but 0.5 were requested",
    }
    assert said == expected.get(one.kind, "")


# The watermark


def test_the_peak_is_that_of_the_interval_or_of_the_whole_life(one, monkeypatch):
    reader, fake = with_kernel(one, monkeypatch)
    reader.open()
    said, current = one.said["watermark"], reader.read().memory_current_bytes
    if reader.can_reset_peak:
        fake.use(said["current_before"] + said["bump_bytes"])
        fake.use(said["current_after"])
        assert reader.fold_peak() == pytest.approx(said["reset_after_bump"], abs=MIB)
        assert reader.fold_peak() == said["current_after"]
    else:
        limit = reader.effective_limits()["memory_bytes"] or 2 * current
        # What is charged in advance may exceed an ancestor's limit for a moment.
        assert current <= reader.fold_peak() <= limit + MIB
        if one.kind in ("rootless-crun-oom", "docker-cgroupfs"):
            assert reader.fold_peak() == limit
    reader.close()


def test_only_linux_6_12_resets_a_peak(one, monkeypatch):
    reader, _ = with_kernel(one, monkeypatch)
    reader.open()
    assert reader.can_reset_peak == ("6.12" in one.raw["about"]["kernel"])
    reader.close()


def test_the_fake_kernel_acts_as_the_real_one_did(one):
    """What the tests of the watermark stand on: a reset costs the others their peak."""
    said = one.said["watermark"]
    if "reset_after_bump" not in said:
        assert (said.get("open"), said.get("write")) in ((None, "EINVAL"), ("EACCES", None))
        assert "6.1." in one.raw["about"]["kernel"]
        return
    path = one.sysfs / one.reader.level[1:] / "memory.peak"
    fake = FakePeak(path, writable=True)
    fake.current, fake.all_time = said["current_before"], said["before"]
    reset, other = (os.open(path, os.O_RDWR) for _ in range(2))

    def read(descriptor: int) -> int:
        return int(fake.pread(descriptor, 100, 0))

    fake.pwrite(reset, b"reset\n", 0)
    # A page or two come and go with every call.
    assert read(reset) == pytest.approx(said["reset_after_reset"], abs=MIB)
    assert read(other) == said["other_after_reset"]
    fake.use(said["current_before"] + said["bump_bytes"])
    fake.use(said["current_before"])
    assert read(reset) == pytest.approx(said["reset_after_bump"], abs=MIB)
    assert read(other) == pytest.approx(said["other_after_bump"], abs=MIB)
    fake.current = said["current_after"]
    fake.pwrite(other, b"reset\n", 0)
    assert read(reset) == pytest.approx(said["reset_after_other_reset"], abs=MIB)
    assert said["reset_after_other_reset"] < said["reset_after_bump"] - said["bump_bytes"] + MIB
    os.close(reset)
    os.close(other)


def with_kernel(one: Recorded, monkeypatch) -> tuple[CgroupReader, FakePeak]:
    """The reader above a memory.peak that can be reset where the recorded kernel's could."""
    said = one.said["watermark"]
    path = one.sysfs / one.reader.level[1:] / "memory.peak"
    fake = FakePeak(path, writable="reset_after_bump" in said)
    fake.all_time = int(path.read_text(encoding="utf-8"))
    fake.current = said.get("current_before", 0)
    monkeypatch.setattr("agentsweep.host.cgroup_v2.os", fake)
    monkeypatch.setattr("agentsweep.host.cgroup_reader.os", fake)
    return one.reader, fake
