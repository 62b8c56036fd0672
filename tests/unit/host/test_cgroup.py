"""Finding a container's cgroup and parsing its files, both versions behind one interface.

What real v2 containers show is in test_cgroup_recorded.py; here is what none of them does.
"""

import os

import pytest
from cgroup_trees import LEAF, PID, V1_LEAF, proc, v1, v2, write

from agentsweep.errors import InfraError
from agentsweep.host.cgroup import reader_for_pid
from agentsweep.host.cgroup_files import BlkioBytes, IoStat, Keyed, Number, Pressure
from agentsweep.host.cgroup_reader import CgroupGone, CgroupReader
from agentsweep.host.counters import COLUMNS, Counters


def reader_of(tree) -> CgroupReader:
    root, sysfs = tree
    return reader_for_pid(PID, root=root, sysfs=sysfs)


def counters_of(tree) -> dict:
    reader = reader_of(tree)
    reader.open()
    try:
        return reader.read().as_dict()
    finally:
        reader.close()


PRESSURE = {
    "cpu_pressure_some_usec": 11,
    "memory_pressure_some_usec": 21,
    "memory_pressure_full_usec": 22,
    "io_pressure_some_usec": 31,
    "io_pressure_full_usec": 32,
}


def test_every_v1_counter_lands_in_its_column_and_what_v1_has_not_is_none(tmp_path):
    assert counters_of(v1(tmp_path)) == {
        **dict.fromkeys(PRESSURE),
        "memory_current_bytes": 167772160,
        "memory_anon_bytes": 104857600,
        "memory_file_bytes": 52428800,
        "memory_kernel_bytes": 3145728,
        "memory_shmem_bytes": 1048576,
        "memory_inactive_file_bytes": 41943040,
        "memory_slab_bytes": None,
        "memory_oom_kill": 3,
        "memory_failcnt": 9,
        "cpu_nr_periods": 120,
        "cpu_nr_throttled": 30,
        "cpu_throttled_usec": 1500000,
        "pids_current": 7,
        "io_read_bytes": 1049576,
        "io_write_bytes": 2097176,
        "memory_swap_bytes": 8192,
        "cpu_usage_usec": 7654321,
        # Clock ticks, 100 a second.
        "cpu_user_usec": 6000000,
        "cpu_system_usec": 1650000,
    }


def test_a_hybrid_host_gives_pressure_and_fine_cpu_times_too(tmp_path):
    found = counters_of(v1(tmp_path, hybrid=True))
    assert {name: found[name] for name in PRESSURE} == PRESSURE
    assert (found["cpu_usage_usec"], found["cpu_user_usec"]) == (7654325, 6000003)
    assert found["memory_swap_bytes"] == 8192


def test_pressure_of_a_v2_side_that_is_not_the_containers_is_not_taken(tmp_path):
    root, sysfs = v1(tmp_path, hybrid=True)
    membership = (root / str(PID) / "cgroup").read_text(encoding="utf-8")
    (root / str(PID) / "cgroup").write_text(
        membership.replace(f"0::{V1_LEAF}", "0::/"), encoding="utf-8"
    )
    write(sysfs / "unified", cpu__pressure="some avg10=0 avg60=0 avg300=0 total=99\n")
    assert counters_of((root, sysfs))["cpu_pressure_some_usec"] is None


def test_a_v1_controller_decides_for_v1_and_a_named_hierarchy_does_not(tmp_path):
    assert reader_of(v1(tmp_path / "one")).version == 1
    root, sysfs = v2(tmp_path / "two")
    mounts = (root / "mounts").read_text(encoding="utf-8")
    (root / "mounts").write_text(
        mounts + "cgroup /sys/fs/cgroup/systemd cgroup rw,xattr,name=systemd 0 0\n",
        encoding="utf-8",
    )
    assert reader_of((root, sysfs)).version == 2


def test_controllers_mounted_together_are_found(tmp_path):
    root, sysfs = v1(tmp_path)
    mounts = (root / "mounts").read_text(encoding="utf-8")
    for name in ("cpu", "cpuacct"):
        mounts = mounts.replace(f"cgroup /sys/fs/cgroup/{name} cgroup rw,relatime,{name} 0 0\n", "")
    (root / "mounts").write_text(
        mounts + "cgroup /sys/fs/cgroup/cpu,cpuacct cgroup rw,relatime,cpu,cpuacct 0 0\n",
        encoding="utf-8",
    )
    membership = (root / str(PID) / "cgroup").read_text(encoding="utf-8")
    membership = membership.replace(f"2:cpu:{V1_LEAF}\n", "").replace(":cpuacct:", ":cpu,cpuacct:")
    (root / str(PID) / "cgroup").write_text(membership, encoding="utf-8")
    joint = sysfs / "cpu,cpuacct" / V1_LEAF[1:]
    write(joint, cpu__stat="nr_periods 5\n", cpuacct__usage="9000\n", cpu__cfs_quota_us="-1\n")
    found = counters_of((root, sysfs))
    assert (found["cpu_nr_periods"], found["cpu_usage_usec"]) == (5, 9)


@pytest.mark.parametrize(
    "missing", ["blkio.throttle.io_service_bytes_recursive", "memory.kmem.usage_in_bytes"]
)
def test_a_file_that_a_kernel_does_not_have_costs_its_own_columns_only(tmp_path, missing):
    root, sysfs = v1(tmp_path)
    for path in sysfs.rglob(missing):
        path.unlink()
    found = counters_of((root, sysfs))
    column = "io_read_bytes" if "blkio" in missing else "memory_kernel_bytes"
    assert found[column] is None
    assert found["memory_current_bytes"] == 167772160
    assert found["pids_current"] == 7


def test_a_kernel_that_does_not_account_io_gives_none_and_not_zero(tmp_path):
    root, sysfs = v1(tmp_path)
    for path in sysfs.rglob("blkio.throttle.io_service_bytes_recursive"):
        path.write_text("Total 0\n", encoding="utf-8")
    assert counters_of((root, sysfs))["io_write_bytes"] is None


def test_pressure_that_is_switched_off_is_none(tmp_path):
    root, sysfs = v2(tmp_path)
    # A kernel booted with psi=0 answers reads with EOPNOTSUPP; here the file is a directory,
    # whose reads fail too.
    path = sysfs / LEAF[1:] / "memory.pressure"
    path.unlink()
    path.mkdir()
    found = counters_of((root, sysfs))
    assert found["memory_pressure_some_usec"] is None
    assert found["io_pressure_full_usec"] > 0


def test_a_process_that_has_gone(tmp_path):
    root, sysfs = v2(tmp_path)
    with pytest.raises(CgroupGone, match="process 1 has gone"):
        reader_for_pid(1, root=root, sysfs=sysfs)


def test_a_cgroup_that_has_gone(tmp_path):
    root, sysfs = v2(tmp_path)
    (root / str(PID) / "cgroup").write_text("0::/elsewhere\n", encoding="utf-8")
    with pytest.raises(CgroupGone, match="/elsewhere has gone"):
        reader_for_pid(PID, root=root, sysfs=sysfs)


def test_a_cgroup_that_goes_between_finding_and_opening(tmp_path):
    root, sysfs = v2(tmp_path)
    reader = reader_of((root, sysfs))
    for path in (sysfs / LEAF[1:]).iterdir():
        path.unlink()
    (sysfs / LEAF[1:]).rmdir()
    with pytest.raises(CgroupGone):
        reader.open()
    with pytest.raises(CgroupGone):
        reader.pids()


OUTER = "/docker/0123abcd"


def in_a_container(tree, root=OUTER, member=OUTER + V1_LEAF, who="self"):
    """A tree whose mounts begin at a cgroup below the host's, as in a container on v1."""
    proc_folder, _ = tree
    mounts = (proc_folder / "mounts").read_text(encoding="utf-8")
    lines = []
    for number, line in enumerate(mounts.splitlines(), 30):
        _, point, kind, options, *_ = line.split(" ")
        system = options.removeprefix("rw,relatime,")
        lines.append(f"{number} 25 0:{number} {root} {point} ro,nosuid - {kind} {kind} rw,{system}")
    (proc_folder / who).mkdir(exist_ok=True)
    (proc_folder / who / "mountinfo").write_text("\n".join(lines), encoding="utf-8")
    cgroup = proc_folder / str(PID) / "cgroup"
    text = cgroup.read_text(encoding="utf-8")
    cgroup.write_text(text.replace(V1_LEAF, member), encoding="utf-8")
    return tree


@pytest.mark.parametrize("who", ["self", str(PID)])
def test_in_a_container_a_mounts_root_is_taken_off(tmp_path, who):
    outside = counters_of(v1(tmp_path / "host"))
    tree = in_a_container(v1(tmp_path / "container"), who=who)
    assert counters_of(tree) == outside
    reader = reader_of(tree)
    # As the kernel's log names it, which knows nothing of mounts.
    assert reader.level == OUTER + V1_LEAF
    limits = reader.effective_limits()
    assert (limits["memory_bytes"], limits["cpus"]) == (536870912, 0.5)
    assert limits["memory_level"] == limits["cpu_level"] == OUTER + V1_LEAF


def test_in_a_container_a_v2_side_that_is_elsewhere_is_done_without(tmp_path):
    tree = in_a_container(v1(tmp_path, hybrid=True))
    assert counters_of(tree)["cpu_pressure_some_usec"] == 11
    mountinfo = tree[0] / "self" / "mountinfo"
    lines = mountinfo.read_text(encoding="utf-8").splitlines()
    moved = [line.replace(OUTER, "/other") if "cgroup2" in line else line for line in lines]
    mountinfo.write_text("\n".join(moved), encoding="utf-8")
    assert counters_of(tree)["cpu_pressure_some_usec"] is None


def test_on_a_host_the_roots_in_mountinfo_change_nothing(tmp_path):
    plain = reader_of(v1(tmp_path / "a"))
    tree = in_a_container(v1(tmp_path / "b"), root="/", member=V1_LEAF)
    assert reader_of(tree).level == plain.level == V1_LEAF
    assert reader_of(tree).effective_limits() == plain.effective_limits()


@pytest.mark.parametrize("member", ["/libpod_parent/x", "/docker/0123abcdef/x", "/docker", "/"])
def test_a_cgroup_beside_what_is_mounted_is_refused_by_its_reason(tmp_path, member):
    tree = in_a_container(v1(tmp_path), member=member)
    with pytest.raises(InfraError, match=f"{member} lies outside of what can be seen") as caught:
        reader_of(tree)
    assert not isinstance(caught.value, CgroupGone)


def test_the_mount_that_shows_a_cgroup_is_taken(tmp_path):
    """Another container's cgroup may be mounted before the one that is looked for."""
    tree = in_a_container(v1(tmp_path))
    mountinfo = tree[0] / "self" / "mountinfo"
    own = mountinfo.read_text(encoding="utf-8")
    other = own.replace(OUTER, "/docker/ffff").replace(" /sys/fs/cgroup", " /mnt/other")
    mountinfo.write_text(f"{other}\n{own}", encoding="utf-8")
    assert reader_of(tree).level == OUTER + V1_LEAF


def test_a_cgroup_outside_of_our_namespace_is_refused(tmp_path):
    root, sysfs = v2(tmp_path)
    (root / str(PID) / "cgroup").write_text("0::/../../other\n", encoding="utf-8")
    with pytest.raises(InfraError, match="outside of what can be seen"):
        reader_of((root, sysfs))


def test_no_cgroups_at_all(tmp_path):
    root = proc(tmp_path, "proc /proc proc rw 0 0\n", "0::/\n")
    with pytest.raises(InfraError, match="no cgroup file system"):
        reader_for_pid(PID, root=root, sysfs=tmp_path)


def test_v1_without_the_memory_controller_is_refused(tmp_path):
    root, sysfs = v1(tmp_path)
    mounts = (root / "mounts").read_text(encoding="utf-8")
    (root / "mounts").write_text(mounts.replace("memory", "hugetlb"), encoding="utf-8")
    with pytest.raises(InfraError, match="without the memory controller"):
        reader_of((root, sysfs))


def test_pids_of_the_cgroup_and_below(tmp_path):
    root, sysfs = v2(tmp_path, cgroup__procs=f"{PID}\n")
    write(sysfs / LEAF[1:] / "child", cgroup__procs="77\n12\n")
    assert reader_of((root, sysfs)).pids() == [12, 77, PID]


def test_a_file_that_outgrows_its_buffer_is_read_whole(tmp_path):
    root, sysfs = v2(tmp_path, io__stat="8:0 rbytes=1 wbytes=2\n")
    reader = reader_of((root, sysfs))
    reader.open()
    assert reader.read().io_read_bytes == 1
    lines = (f"8:{n} rbytes=1000 wbytes=1 rios=1 wios=1 dbytes=0 dios=0\n" for n in range(500))
    (sysfs / LEAF[1:] / "io.stat").write_text("".join(lines), encoding="utf-8")
    assert reader.read().io_read_bytes == 500_000
    assert reader.read().io_read_bytes == 500_000
    reader.close()


def test_a_file_that_is_empty_at_first_is_parsed_all_the_same(tmp_path):
    reader = reader_of(v2(tmp_path, io__stat=""))
    reader.open()
    first = reader.read()
    reader.close()
    assert first.memory_current_bytes is not None
    assert len(first.as_dict()) == len(COLUMNS)
    assert first.io_read_bytes in (0, None)


def test_a_sample_has_all_but_the_seldom_files(tmp_path):
    reader = reader_of(v2(tmp_path))
    reader.open()
    sample = dict(zip(COLUMNS, reader.parse(list(map(os.pread, *reader.read_plan()))), strict=True))
    whole = reader.read().as_dict()
    reader.close()
    seldom = {*PRESSURE, "io_read_bytes", "io_write_bytes"}
    assert {name for name in COLUMNS if sample[name] is None} == seldom
    assert all(sample[name] == whole[name] for name in COLUMNS if name not in seldom)
    assert None not in whole.values()


def test_level_is_the_kernels_name_of_the_cgroup(tmp_path):
    assert reader_of(v2(tmp_path / "two")).level == LEAF
    assert reader_of(v1(tmp_path / "one")).level == V1_LEAF


# Limits


def test_v1_limits_are_found_at_the_container(tmp_path):
    assert reader_of(v1(tmp_path)).effective_limits() == {
        "memory_bytes": 536870912,
        "swap_bytes": 0,
        "cpus": 0.5,
        "cpuset": "0-1",
        "pids": 4096,
        "memory_level": V1_LEAF,
        "cpu_level": V1_LEAF,
    }


def test_a_smaller_v1_ancestor_binds(tmp_path):
    root, sysfs = v1(tmp_path)
    write(sysfs / "memory/libpod_parent", memory__limit_in_bytes="268435456\n")
    write(sysfs / "cpu", cpu__cfs_quota_us="20000\n")
    limits = reader_of((root, sysfs)).effective_limits()
    assert (limits["memory_bytes"], limits["memory_level"]) == (268435456, "/libpod_parent")
    assert (limits["cpus"], limits["cpu_level"]) == (0.2, "/")


def test_the_scope_may_say_max_and_the_leaf_the_limit_or_the_other_way_round(tmp_path):
    root, sysfs = v2(tmp_path, memory__max="max\n")
    write(sysfs / LEAF[1:] / "..", memory__max="1073741824\n")
    limits = reader_of((root, sysfs)).effective_limits()
    assert limits["memory_bytes"] == 1073741824
    assert limits["memory_level"] == LEAF.removesuffix("/container")


def test_no_limit_on_v1_is_none_and_never_a_huge_number(tmp_path):
    tree = v1(tmp_path)
    huge = "9223372036854771712\n"
    memory = tree[1] / "memory" / V1_LEAF[1:]
    write(memory, memory__limit_in_bytes=huge, memory__memsw__limit_in_bytes=huge)
    write(tree[1] / "cpu" / V1_LEAF[1:], cpu__cfs_quota_us="-1\n")
    limits = reader_of(tree).effective_limits()
    for name in ("memory_bytes", "memory_level", "swap_bytes", "cpus"):
        assert limits[name] is None


def test_v1_swap_is_what_memory_and_swap_may_be_beyond_memory(tmp_path):
    root, sysfs = v1(tmp_path)
    write(sysfs / "memory" / V1_LEAF[1:], memory__memsw__limit_in_bytes="1073741824\n")
    assert reader_of((root, sysfs)).effective_limits()["swap_bytes"] == 536870912


def test_v1_swap_that_is_not_accounted_is_none(tmp_path):
    root, sysfs = v1(tmp_path)
    for path in sysfs.rglob("memory.memsw.limit_in_bytes"):
        path.unlink()
    assert reader_of((root, sysfs)).effective_limits()["swap_bytes"] is None


# Parsers


def test_keyed_follows_keys_that_move():
    parse = Keyed({"b": "B", "a": "A", "never": "N"}, {"b": (10, 4)})
    assert list(parse(b"a 1\nb 2\n")) == [5, 1, None]
    assert list(parse(b"new 7\na 3\nb 4\n")) == [10, 3, None]
    assert list(parse(b"a 5\n")) == [None, 5, None]


def test_keyed_does_not_take_a_value_for_a_key():
    assert list(Keyed({"7": "X"})(b"a 7\n7 8\n")) == [8]


def test_the_same_bytes_are_parsed_once_and_others_again(tmp_path):
    root, sysfs = v2(tmp_path)
    reader = reader_of((root, sysfs))
    parsed = []

    class Counting(Number):
        def __call__(self, data):
            parsed.append(data)
            return super().__call__(data)

    files = reader._files()
    reader._files = lambda: [(files[0][0], Counting("memory_current_bytes")), *files[1:]]
    reader.open()
    parsed.clear()
    path = sysfs / LEAF[1:] / "memory.current"
    found = []
    for text in ("1\n", "1\n", "2\n", "1\n"):
        path.write_text(text, encoding="utf-8")
        found.append(reader.read().memory_current_bytes)
    reader.close()
    assert found == [1, 1, 2, 1]
    assert parsed == [b"1\n", b"2\n", b"1\n"]


def test_pressure_without_a_full_line():
    some = b"some avg10=0.00 avg60=0.00 avg300=0.00 total=77\n"
    assert list(Pressure("s", "f")(some)) == [77, None]
    assert list(Pressure("s")(some)) == [77]


def test_io_of_devices_without_statistics():
    assert IoStat()(b"254:0 \n8:0 rbytes=5 wbytes=6\n") == (5, 6)
    assert IoStat()(b"") == (0, 0)


def test_blkio_of_no_device_is_unknown():
    assert BlkioBytes()(b"Total 0\n") == (None, None)
    assert BlkioBytes()(b"8:0 Read 0\n8:0 Write 3\nTotal 3\n") == (0, 3)


def test_columns_are_the_fields_of_counters():
    assert tuple(Counters().as_dict()) == COLUMNS
    assert set(Counters().as_dict().values()) == {None}
