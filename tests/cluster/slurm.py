"""A Slurm cluster on loopback: munged, slurmctld and some slurmd, each node with its own storage.

Everything lives below one directory and ends with `stop`, by process id. A node is a slurmd with a
name and a port of its own; what makes it a node for containers is its task prolog, which gives each
job the node's own storage configuration and scratch directory.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol")
# The login node: it has a storage, and runs no jobs.
HEAD = "head"
_SBIN = "/usr/sbin:/sbin"

# Seconds are short: a test must see within seconds what a cluster's own settings see in minutes.
_CONF = """
ClusterName=agentsweep
SlurmctldHost={host}(127.0.0.1)
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
AccountingStorageType=accounting_storage/none
TaskProlog={root}/task_prolog
SlurmdParameters=config_overrides
SlurmctldTimeout=10
SlurmdTimeout=6
InactiveLimit=0
KillWait=10
MinJobAge=300
ReturnToService=1
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0
{nodes}
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""

_STORAGE = """
[storage]
driver = "{driver}"
graphroot = "{root}/graph"
runroot = "{root}/run"
"""

_PROLOG = """#!/bin/sh
# What a node has for itself; Slurm puts it into the environment of each job.
echo "export CONTAINERS_STORAGE_CONF={root}/$SLURMD_NODENAME/storage.conf"
echo "export TMPDIR={root}/$SLURMD_NODENAME/tmp"
"""


def missing_programs() -> list[str]:
    """What of Slurm and munge is not installed."""
    return [name for name in PROGRAMS if _found(name) is None]


@dataclass
class Cluster:
    """A cluster below `root`, which should be short; `cpus` and `memory_mb` are each node's."""

    root: Path
    names: tuple[str, ...] = ("n1", "n2", "n3")
    cpus: int = 1
    memory_mb: int = 2500
    driver: str = "overlay"
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
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "state").mkdir()
        self._configure()
        key = self.root / "munge.key"
        key.write_bytes(os.urandom(64))
        key.chmod(0o400)
        self._run(
            "munged", "munged", "--foreground", "--force", f"--key-file={key}",
            f"--socket={self.root}/munge.socket", f"--pid-file={self.root}/munge.pid",
            f"--log-file={self.root}/munge.log", f"--seed-file={self.root}/munge.seed",
        )  # fmt: skip
        self._until(lambda: (self.root / "munge.socket").exists(), "munged")
        self._run("slurmctld", "slurmctld", "-D", "-f", str(self.root / "slurm.conf"))
        for name in self.names:
            self.start_node(name)
        self._until(lambda: self.states() == dict.fromkeys(self.names, "idle"), "the nodes")

    def start_node(self, name: str) -> None:
        """Start a node's slurmd."""
        self._run(name, "slurmd", "-D", "-N", name, "-f", str(self.root / "slurm.conf"))

    def kill_node(self, name: str) -> None:
        """What a power cut does to a node: daemon, jobs and containers end without a word."""
        for pid in [self.processes.pop(name).pid, *self._of_node(name)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.remove_containers(name)

    def states(self) -> dict[str, str]:
        """Each node's state in Slurm's words: idle, mixed, allocated, down ..."""
        said = self.client("sinfo", "--noheader", "--Node", "--format", "%N %T", check=False)
        return dict(line.split() for line in said.splitlines())

    def client(self, *command: str, check: bool = True) -> str:
        """What a Slurm client says."""
        done = subprocess.run(
            command, env=self.environment, capture_output=True, text=True, check=False, timeout=60
        )
        if check and done.returncode != 0:
            raise AssertionError(f"{' '.join(command)}: {done.stderr}")
        return done.stdout

    def podman(self, node: str, *arguments: str, check: bool = True) -> str:
        """What a node's Podman says."""
        storage = {"CONTAINERS_STORAGE_CONF": str(self.root / node / "storage.conf")}
        done = subprocess.run(
            ["podman", *arguments], env=os.environ | storage, cwd=self.root,
            capture_output=True, text=True, check=False, timeout=120,
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

    def stop(self) -> None:
        """End jobs, daemons and what they left; the nodes' storages are unmounted and empty."""
        with contextlib.suppress(AssertionError, subprocess.TimeoutExpired):
            self.client("scancel", "--signal=KILL", "--user", str(os.getuid()))
        for name, process in reversed(self.processes.items()):
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for pid in self._of_node(name):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.processes.clear()
        for name in (HEAD, *self.names):
            self.remove_containers(name)
            self.podman(name, "rmi", "--all", "--force", check=False)
            # Podman mounts its storage over itself.
            subprocess.run(["umount", str(self.root / name / "graph" / self.driver)], check=False,
                           stderr=subprocess.DEVNULL)  # fmt: skip

    def _of_node(self, name: str) -> list[int]:
        """The processes that a node's jobs consist of: the task prolog marked them."""
        mark = f"TMPDIR={self.root}/{name}/tmp".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                is_step = (folder / "cmdline").read_bytes().startswith(b"slurmstepd: [")
                is_here = (folder / "cwd").resolve().is_relative_to(self.root / name)
                marked = mark in (folder / "environ").read_bytes().split(b"\0")
                if marked or (is_step and is_here):
                    found.append(int(folder.name))
        return found

    def _configure(self) -> None:
        host = socket.gethostname()
        nodes = "\n".join(
            f"NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={_free_port()} "
            f"CPUs={self.cpus} RealMemory={self.memory_mb} State=UNKNOWN"
            for name in self.names
        )
        user = subprocess.check_output(["id", "-un"], text=True).strip()
        conf = _CONF.format(host=host, user=user, root=self.root, port=_free_port(), nodes=nodes)
        (self.root / "slurm.conf").write_text(conf)
        prolog = self.root / "task_prolog"
        prolog.write_text(_PROLOG.format(root=self.root))
        prolog.chmod(0o755)
        # Snakemake's jobsteps start srun without SLURM_CONF, as on clusters where it is in /etc.
        srun = self.root / "bin" / "srun"
        srun.parent.mkdir()
        srun.write_text(
            f'#!/bin/sh\nSLURM_CONF={self.root}/slurm.conf exec {_found("srun")} "$@"\n'
        )
        srun.chmod(0o755)
        for name in (HEAD, *self.names):
            own = self.root / name
            for folder in ("spool", "tmp", "graph", "run"):
                (own / folder).mkdir(parents=True)
            (own / "storage.conf").write_text(_STORAGE.format(root=own, driver=self.driver))

    def _run(self, name: str, *command: str) -> None:
        with (self.root / f"{name}.out").open("ab") as out:
            self.processes[name] = subprocess.Popen(
                command, env=self.environment, cwd=self.root, stdin=subprocess.DEVNULL,
                stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip

    def _until(self, met, what: str, within_s: float = 30) -> None:
        deadline = time.monotonic() + within_s
        while not met():
            for name, process in self.processes.items():
                if process.poll() is not None:
                    said = (self.root / f"{name}.out").read_text()[-500:]
                    raise AssertionError(f"{name} ended at once: {said}")
            if time.monotonic() > deadline:
                raise AssertionError(f"{what} did not come up within {within_s:.0f} s")
            time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def _found(program: str) -> str | None:
    return shutil.which(program, path=_path())


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:{_SBIN}"
