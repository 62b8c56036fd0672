"""Which cgroup a process is in, and the reader of its counters and limits, v1 or v2."""

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from agentsweep.errors import LastingError
from agentsweep.host.cgroup_reader import CgroupGone, CgroupReader, Mount
from agentsweep.host.cgroup_v1 import CgroupV1
from agentsweep.host.cgroup_v2 import CgroupV2
from agentsweep.utf8 import kernel_lines

_V1_CONTROLLERS = {"memory", "cpu", "cpuacct", "cpuset", "pids", "blkio"}


def reader_for_pid(
    pid: int, root: str | Path = "/proc", sysfs: str | Path = "/sys/fs/cgroup"
) -> CgroupReader:
    """The reader of the cgroup that process `pid` of this host is in.

    A mounted v1 controller decides for v1, even where a cgroup2 mount exists beside it.
    `root` and `sysfs` stand in for /proc and /sys/fs/cgroup. CgroupGone when there is no such
    process, InfraError when its cgroup cannot be seen from here.
    """
    v1_mounts, v2_mounts = _mounts(Path(root), pid, Path(sysfs))
    members = _membership(pid, Path(root))
    v2_mount = _mount_of(v2_mounts, members.get(""))
    if v1_mounts:
        chosen = {
            controller: mount
            for controller, mounts in v1_mounts.items()
            if controller in members
            and (mount := _mount_of(mounts, members[controller])) is not None
        }
        paths = {
            controller: _directory(mount, members[controller])
            for controller, mount in chosen.items()
        }
        if "memory" not in paths:
            raise LastingError(
                "this host has cgroup v1 without the memory controller, so that no memory "
                "limit acts: boot it without cgroup_disable=memory or with cgroup v2"
            )
        unified = None
        # The hybrid layout's v2 side has pressure, if it has a cgroup for this container.
        if v2_mount and members.get("") == members["memory"] != "/":
            unified = _directory_if_seen(v2_mount, members[""])
        return CgroupV1(paths, chosen, unified)
    if v2_mount is None or "" not in members:
        raise LastingError(
            f"no cgroup file system is mounted under {sysfs}: mount cgroup2 there, or run "
            "agentsweep on the host itself and not in a container"
        )
    return CgroupV2({"": _directory(v2_mount, members[""])}, {"": v2_mount})


def _mounts(proc: Path, pid: int, sysfs: Path) -> tuple[dict[str, list[Mount]], list[Mount]]:
    """The mounts of each v1 controller, and those of v2, as this process sees them."""
    v1: dict[str, list[Mount]] = {}
    v2: list[Mount] = []
    for root, point, kind, options in _mount_lines(proc, pid):
        below = os.path.relpath(point, "/sys/fs/cgroup")
        path = Path(point) if below.startswith("..") else Path(os.path.normpath(sysfs / below))
        if kind == "cgroup":
            for controller in _V1_CONTROLLERS & set(options.split(",")):
                v1.setdefault(controller, []).append(Mount(path, root))
        elif kind == "cgroup2":
            v2.append(Mount(path, root))
    return v1, v2


def _mount_lines(proc: Path, pid: int) -> Iterator[tuple[str, str, str, str]]:
    """Root, mount point, kind and the file system's options of each mount.

    `mounts` does not have the roots, and is for a /proc without the other. A /proc that stands in
    for the real one may have no `self`. proc(5).
    """
    for who in ("self", str(pid)):
        with contextlib.suppress(OSError):
            for line in kernel_lines(proc / who / "mountinfo"):
                mount, _, system = line.partition(" - ")
                _, _, _, root, point, *_ = mount.split(" ")
                kind, _, options = system.split(" ", 2)
                yield _unescaped(root), _unescaped(point), kind, options
            return
    for line in kernel_lines(proc / "mounts"):
        _, point, kind, options, *_ = line.split(" ")
        yield "/", _unescaped(point), kind, options


def _unescaped(path: str) -> str:
    """proc(5): blanks in paths are written as octal escapes."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), path)


def _mount_of(mounts: list[Mount], member: str | None) -> Mount | None:
    """The mount through which a cgroup can be seen; the first where none is, None without any."""
    seen = (mount for mount in mounts if member is not None and mount.below(member) is not None)
    return next(seen, mounts[0] if mounts else None)


def _membership(pid: int, proc: Path) -> dict[str, str]:
    """Controller to cgroup path of a process; the key of v2 is the empty string. proc(5)."""
    try:
        lines = kernel_lines(proc / str(pid) / "cgroup")
    except (FileNotFoundError, ProcessLookupError):
        raise CgroupGone(f"process {pid} has gone: its container ended") from None
    members: dict[str, str] = {}
    for line in lines:
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            members[controller] = path
    return members


def _directory(mount: Mount, member: str) -> Path:
    """Where a cgroup is in the file system; InfraError where it is not to be seen there."""
    directory = mount.below(member)
    if member.startswith("/..") or directory is None:
        raise LastingError(
            f"the cgroup {member} lies outside of what can be seen here: run agentsweep on the "
            "host itself, or in a container with --cgroupns=host"
        )
    if not directory.is_dir():
        raise CgroupGone(f"the cgroup {member} has gone: its container ended")
    return directory


def _directory_if_seen(mount: Mount, member: str) -> Path | None:
    directory = mount.below(member)
    if member.startswith("/..") or directory is None or not directory.is_dir():
        return None
    return directory
