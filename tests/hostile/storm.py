"""Random kills and stops of the processes of a sweep, and what they leave behind.

Only what belongs to the sweep is struck: processes that work in its directory, hold a file of it
open, or live in a container of one of its attempts.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

# How often a kind is struck where all of them are there. Snakemake takes long to start again.
WEIGHTS = {
    "snakemake": 1,
    "runner": 3,
    "gateway": 3,
    "sampler": 3,
    "client": 4,
    "conmon": 4,
    "agent": 3,
    "init": 2,
}
# What a run may end of in another way than the undisturbed one: the kernel tells nobody whether a
# tool of the agent or somebody outside has sent a signal.
INSIDE = {"agent", "init"}
# How often a cell is struck at most: as often as its job tries again, so that it need not fail.
STRIKES_OF_A_CELL = 2
# Whoever waits for these waits for ever, as it should: they go on after a while in any case.
PATIENT = {"snakemake", "runner"}


@dataclass(frozen=True)
class Process:
    """A process of the sweep.

    attempt: the id of the attempt that it belongs to, if to one yet; cell: the beginning of the
    hash of that cell's spec, None for a process of the whole sweep.
    """

    pid: int
    start: str
    kind: str
    attempt: str | None
    cell: str | None

    def signal(self, number: int) -> bool:
        """Send a signal to this process and no other that got its number."""
        try:
            handle = os.pidfd_open(self.pid)
        except OSError:
            return False
        try:
            if _start(self.pid) != self.start:
                return False
            signal.pidfd_send_signal(handle, number)
        except OSError:
            return False
        finally:
            os.close(handle)
        return True


@dataclass
class Storm:
    """The strikes against the sweep in `folder`, made by one generator of random numbers."""

    folder: Path
    chance: random.Random
    strikes: int
    run_s: float
    always_go_on: bool = False
    counts: Counter = field(default_factory=Counter)
    of_cells: Counter = field(default_factory=Counter)
    struck_inside: set[str] = field(default_factory=set)
    container_ids: set[str] = field(default_factory=set)
    _due: dict[str, float] = field(default_factory=dict)
    _stopped: list[tuple[float, Process]] = field(default_factory=list)

    def step(self, snakemake: int) -> None:
        """Strike what is due; `snakemake` is the process that was started."""
        now = time.monotonic()
        for entry in [entry for entry in self._stopped if entry[0] < now]:
            self._stopped.remove(entry)
            entry[1].signal(signal.SIGCONT)
        for path in self.folder.glob("store/*/attempt-*.partial"):
            name = f"{path.parent.name[:12]}-{path.stem.removeprefix('attempt-')}"
            if name not in self._due and self.strikes > 0:
                self._due[name] = now + self.chance.uniform(0, 1.2 * self.run_s)
        due = [name for name, when in self._due.items() if when < now]
        for name in due:
            self._due[name] = float("inf")
            if self.strikes > 0 and self.of_cells[name.split("-")[0]] < STRIKES_OF_A_CELL:
                self._strike(name, snakemake)

    def calm(self) -> None:
        """All that was stopped goes on, and nothing is struck any more."""
        self.strikes = 0
        for _, process in self._stopped:
            process.signal(signal.SIGCONT)
        self._stopped.clear()

    def _strike(self, attempt: str, snakemake: int) -> None:
        cell, there = attempt.split("-")[0], {}
        for process in processes(self.folder, snakemake, self.container_ids):
            if process.attempt in (attempt, None) and process.cell in (cell, None):
                there.setdefault(process.kind, []).append(process)
        kinds = [kind for kind in WEIGHTS if kind in there]
        if not kinds:
            return
        (kind,) = self.chance.choices(kinds, [WEIGHTS[kind] for kind in kinds])
        victim = self.chance.choice(there[kind])
        stops = self.chance.random() < 0.3
        if kind in INSIDE and victim.attempt:
            self.struck_inside.add(victim.attempt)
        if victim.signal(signal.SIGSTOP if stops else signal.SIGKILL):
            self.strikes -= 1
            self.of_cells[victim.cell] += 1
            goes_on = stops and (self.always_go_on or kind in PATIENT or self.chance.random() < 0.7)
            if goes_on:
                later = time.monotonic() + self.chance.uniform(0.5, 4)
                self._stopped.append((later, victim))
            what = ("stopped for a while" if goes_on else "stopped") if stops else "killed"
            self.counts[f"{kind} {what}"] += 1


def keys(folder: Path) -> list[str]:
    """The beginnings of the hashes of the specs in the sweep's store, as containers are named."""
    return [path.name[:12] for path in folder.glob("store/*") if len(path.name) == 64]


def processes(folder: Path, snakemake: int, container_ids: set[str]) -> list[Process]:
    """The sweep's processes by kind. Ids of containers that are seen are added to the set."""
    known, table = keys(folder), {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            words = (path / "cmdline").read_bytes().decode(errors="replace").split("\0")
            table[int(path.name)] = words
    containers = {}
    for words in table.values():
        if Path(words[0]).name == "conmon" and "-n" in words:
            name, identity = words[words.index("-n") + 1], words[words.index("-c") + 1]
            if any(key in name for key in known):
                containers[identity] = _attempt(name, known)
    container_ids |= containers.keys()
    found = []
    for pid, words in table.items():
        with contextlib.suppress(OSError, ValueError, IndexError):
            kind, attempt = _kind(pid, words, folder, snakemake, containers, table)
            if kind is not None:
                cell = attempt.split("-")[0] if attempt else _cell(pid, kind, table)
                found.append(Process(pid, _start(pid), kind, attempt, cell))
    return found


def _kind(pid, words, folder, snakemake, containers, table) -> tuple[str | None, str | None]:
    if pid == snakemake:
        return "snakemake", None
    name = Path(words[0]).name
    if name == "conmon":
        identity = words[words.index("-c") + 1] if "-c" in words else None
        return ("conmon", containers[identity]) if identity in containers else (None, None)
    cgroups = Path(f"/proc/{pid}/cgroup").read_text(encoding="utf-8")
    for identity, attempt in containers.items():
        if f"libpod-{identity}" in cgroups and "libpod-conmon" not in cgroups:
            inside = Path(f"/proc/{pid}/status").read_text("utf-8").split("NSpid:")[1].split()
            if inside[1] == "1":
                return "init", attempt
            return ("agent", attempt) if "claude" in name else (None, None)
    is_run = "run" in words[:4] and any(Path(word).name == "agentsweep" for word in words[:3])
    if is_run and Path(f"/proc/{pid}/cwd").readlink() == folder:
        return "runner", _open_attempt(pid, folder)
    if "agentsweep.gateway" in words or "agentsweep.sampler" in words:
        kind = "gateway" if "agentsweep.gateway" in words else "sampler"
        attempt = _open_attempt(pid, folder)
        return (kind, attempt) if attempt else (None, None)
    if name == "podman":
        parent = _parent(pid)
        if parent in table and _kind(parent, table[parent], folder, snakemake, containers, {})[0]:
            return "client", _open_attempt(parent, folder)
    return None, None


def _cell(pid: int, kind: str, table: dict[int, list[str]]) -> str | None:
    """The cell of a runner, or of its client, that has no attempt yet."""
    words = table[_parent(pid) if kind == "client" else pid]
    return words[words.index("--spec") + 1][:12] if "--spec" in words else None


def _open_attempt(pid: int, folder: Path) -> str | None:
    """The attempt whose files a process holds open."""
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            path = link.readlink()
            if path.is_relative_to(folder / "store"):
                key, *rest = path.relative_to(folder / "store").parts
                if rest and rest[0].startswith("attempt-"):
                    number = rest[0].removeprefix("attempt-").split(".")[0]
                    return f"{key[:12]}-{number}"
    return None


def _attempt(name: str, known: list[str]) -> str | None:
    """The attempt in a container's name, `agentsweep-<key>-<number>-<pid of its runner>`."""
    words = name.split("-")
    return f"{words[1]}-{words[2]}" if len(words) > 2 and words[1] in known else None


def _start(pid: int) -> str:
    return _stat(pid)[19]


def _parent(pid: int) -> int:
    return int(_stat(pid)[1])


def _stat(pid: int) -> list[str]:
    text = Path(f"/proc/{pid}/stat").read_bytes().decode(errors="replace")
    return text.rpartition(")")[2].split()


def leftovers(folder: Path, container_ids: set[str], scratch: Path) -> dict[str, list[str]]:
    """What a sweep that has ended left on this machine, by kind; nothing where all is well."""
    known = keys(folder)
    ours = lambda text: str(folder) in text or any(key in text for key in known)  # noqa: E731
    listed = _said("podman", "ps", "--all", "--no-trunc", "--format", "{{.ID}} {{.Names}}")
    containers = [line for line in listed.splitlines() if ours(line)]
    ids = container_ids | {line.split()[0] for line in containers}
    states = []
    for state in json.loads(_said("runc", "list", "--format", "json") or "null") or ():
        config = Path(state["bundle"], "config.json")
        text = config.read_text("utf-8", "replace") if config.exists() else ""
        if state["id"] in ids or ours(text):
            states.append(f"{state['id'][:12]} {state['status']}")
            ids.add(state["id"])
    by_id = lambda text: ours(text) or any(identity in text for identity in ids)  # noqa: E731
    return {
        "containers": containers,
        "runc": states,
        "processes": _processes(folder, ids, by_id),
        "cgroups": _cgroups(ids),
        "mounts": [line.split()[4] for line in _lines("/proc/self/mountinfo") if by_id(line)],
        "sockets": [line.split()[-1] for line in _lines("/proc/net/unix") if by_id(line)],
        "scratch": [path.name for path in scratch.glob("runs/*") if ours(path.name)],
        "partial": [str(path) for path in folder.glob("store/*/*.partial")],
    }


def _processes(folder: Path, ids: set[str], by_id) -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (path / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
            cgroups = (path / "cgroup").read_text(encoding="utf-8")
            here = (path / "cwd").readlink() == folder
            if (
                int(path.name) != os.getpid()
                and words
                and (here or by_id(words) or any(identity in cgroups for identity in ids))
            ):
                found.append(f"{path.name} {words[:100]}")
    return found


def _cgroups(ids: set[str]) -> list[str]:
    found = []
    for place, folders, _ in os.walk("/sys/fs/cgroup"):
        found += [f"{place}/{name}" for name in folders if any(i in name for i in ids)]
    return found


def _lines(path: str) -> list[str]:
    return Path(path).read_text(encoding="utf-8", errors="replace").splitlines()


def _said(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", check=False, cwd="/"
    )
    return done.stdout if done.returncode == 0 else ""
