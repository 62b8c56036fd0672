"""/proc and /sys/fs/cgroup trees: recorded ones laid out, and made-up ones.

Containers on v2 are in `cgroup_recordings`; a test may change some files of one for what none of
them shows. Those on v1 are made up in the kernel's documented formats.
"""

import json
import os
from pathlib import Path

PID = 4242
NO_LIMIT = "9223372036854771712"

V1_MEMORY_STAT = """\
cache 11
rss 12
shmem 13
inactive_file 14
swap 15
hierarchical_memory_limit 536870912
total_cache 52428800
total_rss 104857600
total_rss_huge 0
total_shmem 1048576
total_mapped_file 20971520
total_swap 8192
total_inactive_anon 104869888
total_inactive_file 41943040
"""


def pressure(some: int, full: int) -> str:
    """A PSI file."""
    return (
        f"some avg10=1.53 avg60=0.87 avg300=0.21 total={some}\n"
        f"full avg10=0.00 avg60=0.00 avg300=0.00 total={full}\n"
    )


def write(directory: Path, **files: str) -> Path:
    """Files with `__` for the dot in their names."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text, encoding="utf-8")
    return directory


def proc(root: Path, mounts: str, membership: str, pid: int = PID) -> Path:
    """A /proc with the mounts of this process and the cgroups of one."""
    (root / "proc" / str(pid)).mkdir(parents=True, exist_ok=True)
    (root / "proc" / "mounts").write_text(mounts, encoding="utf-8")
    (root / "proc" / str(pid) / "cgroup").write_text(membership, encoding="utf-8")
    return root / "proc"


def laid_out(recording: dict, root: Path) -> tuple[Path, Path]:
    """The files of one of `cgroup_recordings`."""
    for level, files in recording["cgroups"].items():
        directory = root / "sys" / level
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (directory / name).write_text(text, encoding="utf-8")
    mounts = "".join(f"{line}\n" for line in recording["mounts"])
    return proc(root, mounts, recording["membership"]), root / "sys"


RECORDINGS = Path(__file__).parents[1] / "unit" / "host" / "cgroup_recordings"
_TYPICAL = json.loads((RECORDINGS / "rootless-crun.json").read_text(encoding="utf-8"))
LEAF = _TYPICAL["membership"].strip().removeprefix("0::")


def v2(root: Path, **files: str) -> tuple[Path, Path]:
    """A rootless Podman container with crun, as recorded but for these files of its own."""
    tree = laid_out(_TYPICAL, root)
    write(root / "sys" / LEAF[1:], **files)
    return tree


V1_CONTROLLERS = ("memory", "cpu", "cpuacct", "cpuset", "pids", "blkio")
V1_LEAF = "/libpod_parent/libpod-5be78b4a6af3"


def v1(root: Path, leaf: str = V1_LEAF, hybrid: bool = False) -> tuple[Path, Path]:
    """A container of root's Podman on a host with one mount for each v1 controller."""
    sysfs = root / "sys"
    mounts = "".join(
        f"cgroup /sys/fs/cgroup/{name} cgroup rw,relatime,{name} 0 0\n" for name in V1_CONTROLLERS
    )
    mounts += "cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0\n"
    mounts += "cgroup2 /sys/fs/cgroup/unified cgroup2 rw,relatime 0 0\n"
    membership = "".join(f"{n}:{name}:{leaf}\n" for n, name in enumerate(V1_CONTROLLERS, 1))
    membership += f"9:name=systemd:{leaf}\n0::{leaf}\n"
    for name in V1_CONTROLLERS:
        directory = sysfs / name
        for part in ("", *Path(leaf).parts[1:]):
            directory /= part
            write(directory, cgroup__procs="")
            if name == "memory":
                write(directory, memory__limit_in_bytes=f"{NO_LIMIT}\n")
                write(directory, memory__memsw__limit_in_bytes=f"{NO_LIMIT}\n")
            if name == "cpu":
                write(directory, cpu__cfs_quota_us="-1\n", cpu__cfs_period_us="100000\n")
    io_file = "blkio__throttle__io_service_bytes_recursive"
    write(sysfs / "blkio", **{io_file: "8:0 Read 5\n8:0 Write 6\nTotal 11\n"})
    write(
        sysfs / "memory" / leaf[1:],
        memory__usage_in_bytes="167772160\n",
        memory__max_usage_in_bytes="209715200\n",
        memory__kmem__usage_in_bytes="3145728\n",
        memory__failcnt="9\n",
        memory__stat=V1_MEMORY_STAT,
        memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
        memory__limit_in_bytes="536870912\n",
        memory__memsw__limit_in_bytes="536870912\n",
        cgroup__procs=f"{PID}\n",
    )
    cpu_stat = "nr_periods 120\nnr_throttled 30\nthrottled_time 1500000999\nnr_bursts 0\n"
    write(sysfs / "cpu" / leaf[1:], cpu__stat=cpu_stat, cpu__cfs_quota_us="50000\n")
    write(
        sysfs / "cpuacct" / leaf[1:],
        cpuacct__usage="7654321999\n",
        cpuacct__stat="user 600\nsystem 165\n",
    )
    write(sysfs / "cpuset" / leaf[1:], cpuset__cpus="\n", cpuset__effective_cpus="0-1\n")
    write(sysfs / "pids" / leaf[1:], pids__current="7\n", pids__max="4096\n")
    write(sysfs / "pids" / Path(leaf[1:]).parent, pids__max="max\n")
    io = "8:0 Read 1048576\n8:0 Write 2097152\n8:0 Sync 9\n8:16 Read 1000\n8:16 Write 24\nTotal 1\n"
    write(sysfs / "blkio" / leaf[1:], **{io_file: io})
    if hybrid:
        write(
            sysfs / "unified" / leaf[1:],
            cpu__stat="usage_usec 7654325\nuser_usec 6000003\nsystem_usec 1654322\n",
            cpu__pressure=pressure(11, 12),
            memory__pressure=pressure(21, 22),
            io__pressure=pressure(31, 32),
        )
    return proc(root, mounts, membership), sysfs


class FakePeak:
    """`os` above a memory.peak as of Linux 6.12, or (not writable) as before.

    There is one peak since the last write, whoever wrote: a write takes from the other descriptors
    what they had not read (mm/memcontrol.c). One that was never written to has that of all time.
    """

    def __init__(self, path, writable: bool):
        self.file, self.writable = path, writable
        self.high: dict[int, int] = {}
        self.current = self.all_time = self.since_write = 1000

    def use(self, bytes_now: int) -> None:
        self.current = bytes_now
        self.all_time = max(self.all_time, bytes_now)
        self.since_write = max(self.since_write, bytes_now)

    def pwrite(self, descriptor, data, offset):
        if Path(f"/proc/self/fd/{descriptor}").readlink() != self.file or not self.writable:
            raise OSError(22, "Invalid argument")
        assert data
        self.since_write = self.current
        for other, bytes_then in self.high.items():
            self.high[other] = max(bytes_then, self.current)
        self.high[descriptor] = self.current
        return len(data)

    def pread(self, descriptor, size, offset):
        if Path(f"/proc/self/fd/{descriptor}").readlink() == self.file:
            own = self.high.get(descriptor)
            peak = self.all_time if own is None else max(own, self.since_write)
            return f"{peak}\n".encode()
        return os.pread(descriptor, size, offset)

    def __getattr__(self, name):
        return getattr(os, name)
