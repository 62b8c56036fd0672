"""Record the cgroup v2 files of a real container under a workload whose numbers are known.

    record.py OUT.json ENGINE [--kills N] [--group] [--memory MIB] [--no-cpus]
              [--engine=OPTION]... [--run=OPTION]...

ENGINE is podman or docker. Nothing but Python is needed. The container's system is this host's,
mounted over an image of empty directories: the classic command line. `--group` sets
memory.oom.group. The sizes of the workload are in `work`; README.md says what a file holds.
"""

import argparse
import contextlib
import errno
import json
import mmap
import os
import platform
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

MIB = 2**20
CPUS, PIDS = 0.5, 100
IDLERS, ANON_MIB, FILE_MIB, SHM_MIB, BUMP_MIB, SPIN_S = 3, 64, 20, 8, 32, 2.0
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
TOP = Path("/sys/fs/cgroup")
IMAGE = "localhost/cgroup-recording"
SYSTEM = ("/usr", "/lib", "/lib64", "/etc", "/bin", "/sbin")
# Above the container's own cgroup only what limits it, and enough for a wrong level to show.
ABOVE = re.compile(
    r"(memory|memory\.swap|pids|cpu)\.max|memory\.(current|peak|events)|cpu\.stat|pids\.current|"
    r"cpuset\.cpus\.effective|cgroup\.(controllers|subtree_control)"
)
# Large or by node, and read by nobody.
NEVER = re.compile(r"memory\.numa_stat|(hugetlb|rdma|misc|net_).*|cgroup\.(kill|pressure)")


# In the container


def work(folder: Path, kills: int, group: bool) -> None:
    """Use known amounts, write what was done to `did.json`, then wait for orders."""
    for _ in range(IDLERS):
        if os.fork() == 0:
            time.sleep(1000)
    killed = sum(_grow(group) for _ in range(kills))
    anon = mmap.mmap(-1, ANON_MIB * MIB, PRIVATE)
    _touch(anon)
    with open("/tmp/file", "wb") as file:  # noqa: PTH123
        for _ in range(FILE_MIB):
            file.write(b"x" * MIB)
        os.fsync(file.fileno())
    Path("/dev/shm/file").write_bytes(b"x" * SHM_MIB * MIB)
    wall, begin = time.monotonic(), time.process_time()
    while time.process_time() < begin + SPIN_S:
        pass
    wall = time.monotonic() - wall
    _write(
        folder / "did.json",
        {
            "anon_bytes": ANON_MIB * MIB,
            "file_bytes": FILE_MIB * MIB,
            "shmem_bytes": SHM_MIB * MIB,
            "cpu_s": round(time.process_time(), 3),
            "spun_s": SPIN_S,
            "spun_wall_s": round(wall, 3),
            "killed": killed,
            # By /proc, which knows nothing of cgroups.
            "tasks": len([*Path("/proc").glob("[0-9]*/task/*")]),
            "pss_anon_bytes": sum(map(_pss_anon, Path("/proc").glob("[0-9]*"))),
        },
    )
    while not (folder / "bump").exists():
        time.sleep(0.1)
    with mmap.mmap(-1, BUMP_MIB * MIB, PRIVATE) as brief:
        _touch(brief)
    (folder / "bumped").touch()
    signal.pause()


def _touch(memory: mmap.mmap) -> None:
    for place in range(0, len(memory), mmap.PAGESIZE):
        memory[place] = 1


def _grow(group: bool) -> int:
    """A child takes memory until the kernel kills it, and one beside it where it kills groups."""
    children = [os.fork() or _grown(group)]
    if group:
        children.append(os.fork() or _beside())
    return sum(os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL for child in children)


def _grown(group: bool) -> None:
    if group:
        # The other one has to be there.
        time.sleep(1)
        _may_be_killed()
    kept = []
    while True:
        kept.append(mmap.mmap(-1, 16 * MIB, PRIVATE))
        _touch(kept[-1])


def _beside() -> None:
    _may_be_killed()
    time.sleep(1000)


def _may_be_killed() -> None:
    Path("/proc/self/oom_score_adj").write_text("0", encoding="utf-8")


def _pss_anon(process: Path) -> int:
    with contextlib.suppress(OSError):
        found = re.search(
            r"Pss_Anon: +(\d+) kB", (process / "smaps_rollup").read_text(encoding="utf-8")
        )
        return int(found[1]) * 1024 if found else 0
    return 0


def _write(path: Path, value: dict) -> None:
    part = path.with_suffix(".part")
    part.write_text(json.dumps(value), encoding="utf-8")
    part.rename(path)


# On the host


def run(*command: str, check: bool = True) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd="/tmp", encoding="utf-8"
    )
    if check and done.returncode != 0:
        sys.exit(f"{' '.join(command)}: {done.stderr}")
    return done.stdout.strip()


def tree(pid: int) -> dict:
    """/proc/mounts, the process's cgroup, and the files of that and of all above it."""
    mounts = [
        line
        for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()
        if line.split(" ")[2] in ("cgroup", "cgroup2", "proc", "sysfs")
    ]
    membership = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8")
    own = TOP / membership.strip().removeprefix("0::/")
    # crun's leaf is the container's own; so is the scope around it.
    near = (own, own.parent) if own.name == "container" else (own,)
    chain = [own, *own.parents]
    found = {
        str(folder.relative_to(TOP)): _files(folder, everything=folder in near)
        for folder in chain[: chain.index(TOP) + 1]
    }
    return {"mounts": mounts, "membership": membership, "cgroups": found}


def _files(folder: Path, everything: bool) -> dict[str, str]:
    kept = {}
    for path in sorted(folder.iterdir()):
        if path.is_file() and (everything or ABOVE.fullmatch(path.name)):
            if NEVER.fullmatch(path.name):
                continue
            # Some can only be written to, and pressure cannot be read where it is switched off.
            with contextlib.suppress(OSError):
                kept[path.name] = path.read_text(encoding="utf-8")
    return kept


def watermark(own: Path, folder: Path) -> dict:
    """What the kernel's memory.peak does with two descriptors, one of them reset before a peak."""
    path = own / "memory.peak"
    try:
        reset = os.open(path, os.O_RDWR)
    except OSError as error:
        return {"mode": oct(path.stat().st_mode & 0o777), "open": errno.errorcode[error.errno]}
    other = os.open(path, os.O_RDWR)

    def read(descriptor: int) -> int:
        return int(os.pread(descriptor, 100, 0))

    said = {
        "mode": oct(path.stat().st_mode & 0o777),
        "current_before": int((own / "memory.current").read_text(encoding="utf-8")),
        "before": read(reset),
    }
    try:
        os.pwrite(reset, b"reset\n", 0)
    except OSError as error:
        return said | {"write": errno.errorcode[error.errno]}
    said |= {"reset_after_reset": read(reset), "other_after_reset": read(other)}
    (folder / "bump").touch()
    _wait(folder / "bumped")
    said |= {"reset_after_bump": read(reset), "other_after_bump": read(other)}
    os.pwrite(other, b"reset\n", 0)
    return said | {
        "reset_after_other_reset": read(reset),
        "current_after": int((own / "memory.current").read_text(encoding="utf-8")),
        "bump_bytes": BUMP_MIB * MIB,
    }


def _wait(path: Path, timeout_s: float = 300) -> None:
    deadline = time.monotonic() + timeout_s
    while not path.exists():
        if time.monotonic() > deadline:
            sys.exit(f"no {path.name} after {timeout_s} s")
        time.sleep(0.1)


def make_image(engine: list[str]) -> None:
    with tempfile.TemporaryDirectory() as top:
        for name in ("proc", "sys", "dev", "tmp", "run", "out", *(p[1:] for p in SYSTEM)):
            Path(top, name).mkdir()
        Path(top, "tmp").chmod(0o1777)
        tar = subprocess.run(["tar", "-c", "-C", top, "."], capture_output=True, check=True)
        subprocess.run([*engine, "import", "-", IMAGE], input=tar.stdout, check=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("out", type=Path)
    parser.add_argument("name", choices=("podman", "docker"))
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument("--group", action="store_true")
    parser.add_argument("--memory", type=int, default=160)
    parser.add_argument("--no-cpus", action="store_true")
    parser.add_argument("--engine", action="append", default=[])
    parser.add_argument("--run", action="append", default=[])
    asked = parser.parse_args()
    engine = [asked.name, *asked.engine]
    make_image(engine)
    limits = ["--memory", f"{asked.memory}m", "--memory-swap", f"{asked.memory}m"]
    limits += [] if asked.no_cpus else ["--cpus", str(CPUS)]
    limits += ["--pids-limit", str(PIDS)]
    options = ["--network=host", *limits, *asked.run]
    if asked.name == "podman" and os.getuid() != 0:
        options.append("--userns=keep-id")
    if asked.group:
        # All but the workload may be killed.
        options += ["--oom-score-adj=-1000"]
    with tempfile.TemporaryDirectory(dir="/tmp") as scratch:
        folder = Path(scratch)
        folder.chmod(0o777)
        mounts = [f"--volume={path}:{path}:ro" for path in SYSTEM if Path(path).exists()]
        mounts += [f"--volume={folder}:/out", f"--volume={Path(__file__).resolve()}:/run/record:ro"]
        arguments = ["python3", "/run/record", "work", str(asked.kills), str(int(asked.group))]
        container = run(*engine, "create", *options, *mounts, IMAGE, *arguments)
        try:
            recording = _record(asked, engine, container, folder, options)
        finally:
            run(*engine, "rm", "--force", container, check=False)
    asked.out.write_text(json.dumps(recording, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def _record(asked, engine: list[str], container: str, folder: Path, options: list[str]) -> dict:
    run(*engine, "start", container)
    state = json.loads(run(*engine, "inspect", container))[0]
    pid = state["State"]["Pid"]
    if asked.group:
        level = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8").strip().removeprefix("0::/")
        (TOP / level / "memory.oom.group").write_text("1", encoding="utf-8")
    _wait(folder / "did.json")
    recording = tree(pid)
    said = {
        "stats": _stats(engine, container),
        "engine_level": state["State"].get("CgroupPath"),
    }
    own = TOP / recording["membership"].strip().removeprefix("0::/")
    scope = next((p.name for p in (own, own.parent) if p.name.endswith(".scope")), None)
    if scope:
        user = [] if os.getuid() == 0 else ["--user"]
        properties = "MemoryCurrent,CPUUsageNSec,TasksCurrent"
        shown = run("systemctl", *user, "show", scope, "-p", properties)
        said["systemd"] = dict(line.split("=", 1) for line in shown.splitlines())
    said["watermark"] = watermark(own, folder)
    info = json.loads(run(*engine, "info", "--format", "{{json .}}"))
    host = info.get("host", {})
    recording["about"] = {
        "kernel": platform.release(),
        "engine": run(*engine, "--version"),
        "runtime": state.get("OCIRuntime") or state["HostConfig"]["Runtime"],
        "cgroup_manager": host.get("cgroupManager") or info["CgroupDriver"],
        "rootless": os.getuid() != 0,
        "options": [*asked.engine, *options],
    }
    recording["asked"] = {
        "memory_bytes": asked.memory * MIB,
        "cpus": None if asked.no_cpus else CPUS,
        "pids": PIDS,
    }
    recording["did"] = json.loads((folder / "did.json").read_text(encoding="utf-8"))
    recording["said"] = said
    return recording


def _stats(engine: list[str], container: str) -> dict:
    said = json.loads(run(*engine, "stats", "--no-stream", "--format", "{{json .}}", container))
    # Podman gives a list of one.
    return said[0] if isinstance(said, list) else said


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work(Path("/out"), int(sys.argv[2]), bool(int(sys.argv[3])))
    else:
        main()
