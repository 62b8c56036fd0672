"""Made-up /proc and /sys/fs/cgroup trees in the kernel's documented file formats.

The tests read these where a real host of that kind is not at hand: cgroup v2, limits on
ancestors, missing controllers. What needs a kernel (watermark reset, OOM) is tested with real
containers in tests/integration.
"""

from pathlib import Path

PID = 4242
NO_LIMIT = "9223372036854771712"

V2_MEMORY_STAT = """\
anon 104857600
file 52428800
kernel 3145728
kernel_stack 65536
pagetables 262144
sec_pagetables 0
percpu 1440
sock 4096
vmalloc 0
shmem 1048576
file_mapped 20971520
file_dirty 0
file_writeback 0
swapcached 0
inactive_anon 104869888
active_anon 8192
inactive_file 41943040
active_file 9437184
unevictable 0
slab_reclaimable 1500000
slab_unreclaimable 500000
slab 2000000
workingset_refault_anon 0
workingset_refault_file 12
pgfault 40000
pgmajfault 17
"""

V2_CPU_STAT = """\
usage_usec 7654321
user_usec 6000000
system_usec 1654321
nice_usec 0
core_sched.force_idle_usec 0
nr_periods 120
nr_throttled 30
throttled_usec 1500000
nr_bursts 0
burst_usec 0
"""

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


def pressure(some: int, full: int | None) -> str:
    """A PSI file; without `full` as the CPU's on kernels before 5.13."""
    text = f"some avg10=1.53 avg60=0.87 avg300=0.21 total={some}\n"
    if full is not None:
        text += f"full avg10=0.00 avg60=0.00 avg300=0.00 total={full}\n"
    return text


def write(directory: Path, **files: str) -> Path:
    """Files with `__` for the dot in their names."""
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (directory / name.replace("__", ".")).write_text(text)
    return directory


def proc(root: Path, mounts: str, membership: str, pid: int = PID) -> Path:
    """A /proc with the mounts of this process and the cgroups of one."""
    (root / "proc" / str(pid)).mkdir(parents=True, exist_ok=True)
    (root / "proc" / "mounts").write_text(mounts)
    (root / "proc" / str(pid) / "cgroup").write_text(membership)
    return root / "proc"


V2_MOUNTS = (
    "proc /proc proc rw,nosuid 0 0\n"
    "cgroup2 /sys/fs/cgroup cgroup2 rw,nosuid,nodev,noexec,relatime,nsdelegate 0 0\n"
)
SLICE = "/user.slice/user-1000.slice/user@1000.service/user.slice"
SCOPE = f"{SLICE}/libpod-5be78b4a6af3.scope"
LEAF = f"{SCOPE}/container"


def v2(root: Path, leaf: str = LEAF, **files: str) -> tuple[Path, Path]:
    """A rootless Podman container with crun: limits and processes are in the leaf."""
    sysfs = root / "sys"
    directory = sysfs
    for part in Path(leaf).parts[1:]:
        directory /= part
        write(directory, memory__max="max\n", memory__swap__max="max\n", pids__max="max\n")
        write(directory, cpu__max="max 100000\n", cgroup__procs="")
    write(sysfs, cgroup__procs="1\n", cpuset__cpus__effective="0-3\n")
    write(
        directory,
        memory__current="167772160\n",
        memory__peak="209715200\n",
        memory__stat=V2_MEMORY_STAT,
        memory__swap__current="4096\n",
        memory__events="low 0\nhigh 0\nmax 9\noom 2\noom_kill 3\noom_group_kill 0\n",
        cpu__stat=V2_CPU_STAT,
        pids__current="7\n",
        io__stat=(
            "259:0 rbytes=1048576 wbytes=2097152 rios=9 wios=8 dbytes=0 dios=0\n"
            "8:16 rbytes=1000 wbytes=24 rios=1 wios=1 dbytes=0 dios=0\n"
        ),
        cpu__pressure=pressure(11, 12),
        memory__pressure=pressure(21, 22),
        io__pressure=pressure(31, 32),
        cgroup__procs=f"{PID}\n",
        memory__max="536870912\n",
        memory__swap__max="0\n",
        cpu__max="50000 100000\n",
        pids__max="4096\n",
    )
    write(directory, **files)
    return proc(root, V2_MOUNTS, f"0::{leaf}\n"), sysfs


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
