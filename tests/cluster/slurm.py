"""A Slurm cluster on loopback: munged, slurmctld and some slurmd, each node with its own storage.

Everything lives below one directory and ends with `stop`, by process id. A node is a slurmd with a
name and a port of its own; what makes it a node for containers is its task prolog, which gives each
job the node's own storage configuration and scratch directory.

Slurm binds to whatever address the host's name has. So its daemons and their jobs are on a host
that is called `localhost`: each daemon has a UTS namespace of its own.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "unshare")
# The login node: it has a storage, and runs no jobs.
HEAD = "head"
LOOPBACK = "127.0.0.1"
_SBIN = "/usr/sbin:/sbin"
_HOST = "localhost"

# Seconds are short: a test must see within seconds what a cluster's own settings see in minutes.
_CONF = """
ClusterName=agentsweep
SlurmctldHost={host}({loopback})
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket,cred_expire=5
SlurmctldPort={port}
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/%n.pid
SlurmdSpoolDir={root}/%n/spool
StateSaveLocation={root}/state
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/%n.log
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
TaskProlog={root}/task_prolog
SlurmdParameters=config_overrides
SlurmctldTimeout=10
SlurmdTimeout=6
InactiveLimit=0
KillWait=10
MinJobAge=300
ReturnToService=1
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0
{more}
{nodes}
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

_STORAGE = """
[storage]
driver = "overlay"
graphroot = "{root}/graph"
runroot = "{root}/run"
"""

_PROLOG = """#!/bin/sh
# What a node has for itself; Slurm puts it into the environment of each job.
echo "export CONTAINERS_STORAGE_CONF={root}/$SLURMD_NODENAME/storage.conf"
echo "export TMPDIR={root}/$SLURMD_NODENAME/tmp"
"""

_PROGRAMS = {
    # Snakemake's jobsteps start srun without SLURM_CONF, as on clusters where it is in /etc.
    "srun": 'SLURM_CONF={root}/slurm.conf exec {program} "$@"',
    # Which node came by which image, and how: `<node> <verb> <its arguments>`, a line each.
    "podman": """\
[ "$1" = --runtime ] && verb=$3 || verb=$1
node=${{CONTAINERS_STORAGE_CONF%/storage.conf}}
case $verb in load|pull|commit) echo "${{node##*/}} $verb $*" >> {root}/images.log ;; esac
exec {program} "$@"
""",
}


def missing_programs() -> list[str]:
    """What of Slurm and munge is not installed."""
    return [name for name in PROGRAMS if found(name) is None]


def found(program: str) -> str | None:
    """Where a program is, also one of those that only root uses."""
    return shutil.which(program, path=_path())


@dataclass
class Cluster:
    """A cluster below `root`, which should be short; `cpus` and `memory_mb` are each node's.

    `more` are further lines of slurm.conf.
    """

    root: Path
    names: tuple[str, ...] = ("n1", "n2", "n3")
    cpus: int = 1
    memory_mb: int = 2500
    more: str = "AccountingStorageType=accounting_storage/none"
    processes: dict[str, subprocess.Popen] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """That of the login node; nothing of a Slurm job that this runs in."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "SBATCH_"))}
        return kept | {
            "SLURM_CONF": str(self.root / "slurm.conf"),
            "PATH": f"{self.root}/bin:{_path()}",
            "CONTAINERS_STORAGE_CONF": str(self.root / HEAD / "storage.conf"),
            "TMPDIR": str(self.root / HEAD / "tmp"),
        }

    def start(self) -> None:
        """Start all daemons and wait until every node is idle."""
        self.start_munge()
        self.run("slurmctld", "slurmctld", "-D", "-f", str(self.root / "slurm.conf"))
        for name in self.names:
            self.run(name, "slurmd", "-D", "-N", name, "-f", str(self.root / "slurm.conf"))
        self.until(lambda: self.states() == dict.fromkeys(self.names, "idle"), "the nodes")

    def start_munge(self) -> None:
        """Write all configuration, and start the daemon that the others need."""
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "state").mkdir()
        self._configure()
        key = self.root / "munge.key"
        key.write_bytes(os.urandom(64))
        key.chmod(0o400)
        self.run(
            "munged", "munged", "--foreground", "--force", f"--key-file={key}",
            f"--socket={self.root}/munge.socket", f"--pid-file={self.root}/munge.pid",
            f"--log-file={self.root}/munge.log", f"--seed-file={self.root}/munge.seed",
        )  # fmt: skip
        self.until(lambda: (self.root / "munge.socket").exists(), "munged")

    def kill_node(self, name: str) -> None:
        """What a power cut does to a node: daemon, jobs and containers end without a word."""
        _kill([self.processes.pop(name).pid, *self._of_node(name)])
        self.remove_containers(name)

    def states(self) -> dict[str, str]:
        """Each node's state in Slurm's words: idle, mixed, allocated, down ..."""
        said = self.client("sinfo", "--noheader", "--Node", "--format", "%N %T", check=False)
        return dict(line.split() for line in said.splitlines())

    def client(self, *command: str, check: bool = True) -> str:
        """What a Slurm client says."""
        done = subprocess.run(
            command,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            encoding="utf-8",
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def podman(self, node: str, *arguments: str, check: bool = True) -> str:
        """What a node's Podman says."""
        storage = {"CONTAINERS_STORAGE_CONF": str(self.root / node / "storage.conf")}
        done = subprocess.run(
            ["podman", *arguments], env=os.environ | storage, cwd=self.root,
            capture_output=True, text=True, check=False, timeout=120, encoding="utf-8",
        )  # fmt: skip
        if check and done.returncode != 0:
            raise AssertionError(f"podman {' '.join(arguments)} on {node}: {done.stderr}")
        return done.stdout

    def containers(self, node: str) -> list[str]:
        """The containers that a node has, running or not."""
        return self.podman(node, "ps", "--all", "--quiet").split()

    def remove_containers(self, node: str) -> None:
        """Remove a node's containers."""
        if found := self.containers(node):
            self.podman(node, "rm", "--force", "--time", "0", *found, check=False)

    def images_taken(self, node: str) -> list[tuple[str, str]]:
        """How the node came by its images: (load, pull or commit; last argument), a call each."""
        lines = (self.root / "images.log").read_text(encoding="utf-8").splitlines()
        words = [line.split() for line in lines]
        return [(found[1], found[-1]) for found in words if found[0] == node]

    def listening(self) -> dict[str, set[str]]:
        """The addresses to which this cluster's processes listen now, by TCP, by program."""
        addresses = _listeners()
        heard: dict[str, set[str]] = {}
        for folder in self._processes(lambda environment: str(self.root).encode() in environment):
            with contextlib.suppress(OSError):
                name = (folder / "comm").read_text(encoding="utf-8").strip()
                for handle in (folder / "fd").iterdir():
                    with contextlib.suppress(OSError):
                        if address := addresses.get(str(handle.readlink())):
                            heard.setdefault(name, set()).add(address)
        return heard

    def stop(self) -> None:
        """End daemons, jobs and what they left; no process and no mount is below `root` then."""
        daemons = list(self.processes.values())
        self.processes.clear()
        # Those of the nodes first: they would restart nothing, but report to slurmctld.
        _kill([process.pid for process in reversed(daemons)])
        for process in daemons:
            process.wait()
        for name in (HEAD, *self.names):
            _kill(self._of_node(name))
            if not (self.root / name).exists():
                continue
            self.remove_containers(name)
            # Podman mounts its storage over itself.
            subprocess.run(["umount", str(self.root / name / "graph" / "overlay")], check=False,
                           stderr=subprocess.DEVNULL)  # fmt: skip

    def _of_node(self, name: str) -> list[int]:
        """The processes that a node's jobs consist of: the task prolog marked them.

        Slurm's own come first: one that outlived the others would tell of their end.
        """
        steps = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if (folder / "cmdline").read_bytes().startswith(b"slurmstepd: ["):
                    # Which node's it is shows in the log that it has open.
                    opened = [str(handle.readlink()) for handle in (folder / "fd").iterdir()]
                    if f"{self.root / name}.log" in opened:
                        steps.append(int(folder.name))
        mark = f"TMPDIR={self.root}/{name}/tmp".encode()
        marked = self._processes(lambda environment: mark in environment.split(b"\0"))
        return [*steps, *(int(folder.name) for folder in marked)]

    @staticmethod
    def _processes(is_meant) -> list[Path]:
        """The processes, as directories of /proc, whose environment is meant."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if is_meant((folder / "environ").read_bytes()):
                    found.append(folder)
        return found

    def _configure(self) -> None:
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={_HOST} NodeAddr={LOOPBACK} Port={free_port()} "
            f"CPUs={self.cpus} RealMemory={self.memory_mb} State=UNKNOWN"
            for name in self.names
        )
        user = subprocess.check_output(["id", "-un"], text=True, encoding="utf-8").strip()
        conf = _CONF.format(
            host=_HOST, loopback=LOOPBACK, user=user, root=self.root, port=free_port(),
            nodes=nodes, more=self.more,
        )  # fmt: skip
        (self.root / "slurm.conf").write_text(conf, encoding="utf-8")
        (self.root / "bin").mkdir()
        self._write_program("task_prolog", _PROLOG)
        for name, text in _PROGRAMS.items():
            self._write_program(f"bin/{name}", f"#!/bin/sh\n{text}", found(name))
        (self.root / "images.log").touch()
        for name in (HEAD, *self.names):
            own = self.root / name
            for folder in ("spool", "tmp", "graph", "run"):
                (own / folder).mkdir(parents=True)
            (own / "storage.conf").write_text(_STORAGE.format(root=own), encoding="utf-8")

    def _write_program(self, name: str, text: str, program: str | None = None) -> None:
        path = self.root / name
        path.write_text(text.format(root=self.root, program=program), encoding="utf-8")
        path.chmod(0o755)

    def run(self, name: str, *command: str) -> None:
        """Start a daemon that stays in the foreground; what it says goes to `<name>.out`."""
        renamed = ["unshare", "--uts", "sh", "-c", f'hostname {_HOST}; exec "$@"', "sh"]
        with (self.root / f"{name}.out").open("ab") as out:
            self.processes[name] = subprocess.Popen(
                [*renamed, *command], env=self.environment, cwd=self.root, stdout=out, stderr=out,
                stdin=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip

    def until(self, met, what: str, within_s: float = 60) -> None:
        """Wait until the daemons have come so far."""
        deadline = time.monotonic() + within_s
        while not met():
            for name, process in self.processes.items():
                if process.poll() is not None:
                    said = (self.root / f"{name}.out").read_text(encoding="utf-8")[-500:]
                    raise AssertionError(f"{name} ended at once: {said}")
            if time.monotonic() > deadline:
                raise AssertionError(f"{what} did not come up within {within_s:.0f} s")
            time.sleep(0.1)


@contextlib.contextmanager
def running(kind: type[Cluster] = Cluster, **settings) -> Iterator[Cluster]:
    """A started cluster, of which nothing is left at the end, also that by SIGINT or SIGTERM."""
    numbers = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(number, signal.default_int_handler) for number in numbers]
    try:
        # Short, because the path of a socket is below it.
        with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
            made = kind(Path(folder), **settings)
            try:
                made.start()
                yield made
            finally:
                # A second one must not keep the first from its end.
                for number in numbers:
                    signal.signal(number, signal.SIG_IGN)
                made.stop()
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def free_port() -> int:
    """A port of loopback that nobody listens to."""
    with socket.socket() as free:
        free.bind((LOOPBACK, 0))
        return free.getsockname()[1]


def _listeners() -> dict[str, str]:
    """The address of each listening TCP socket of this host, by how /proc/<pid>/fd links to it."""
    addresses = {}
    for family, name in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        for line in Path(f"/proc/net/{name}").read_text(encoding="utf-8").splitlines()[1:]:
            words = line.split()
            local, state, inode = words[1].split(":")[0], words[3], words[9]
            if state == "0A":
                # The kernel prints words of four bytes in the host's order.
                raw = bytes.fromhex(local)
                packed = b"".join(raw[at : at + 4][::-1] for at in range(0, len(raw), 4))
                addresses[f"socket:[{inode}]"] = socket.inet_ntop(family, packed)
    return addresses


def _kill(processes: list[int]) -> None:
    for pid in processes:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:{_SBIN}"
