"""What a run writes: space for its records, its budget while the agent runs, and what is freed of a
run that has used it up."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from agentsweep import bounded, files
from agentsweep.agents.claude_code import invocation
from agentsweep.containers.engine import Container
from agentsweep.errors import InfraError, LastingError
from agentsweep.host import disk, machine_facts, scratch
from agentsweep.host.cgroup_reader import CgroupReader
from agentsweep.runs.attempt_run import AttemptRun

_FULL_BYTES = 2**20
# What is kept of each file of a run that has used up its disk.
_KEPT_BYTES = 64 * 2**20
# What is written while the agent runs has this much space from the start.
_HELD_BYTES = {"samples.arrow": 8 * 2**20, "api.jsonl": 8 * 2**20, "marks.jsonl": 2 * 2**20}


def watch(
    run: AttemptRun,
    folder: Path,
    container: Container,
    reader: CgroupReader,
    stack: contextlib.ExitStack,
) -> disk.Watch:
    """From here on the run has its budget, and what is recorded of it its space.

    folder: the run's scratch directory.
    """
    for name, n_bytes in _HELD_BYTES.items():
        disk.hold(run.path / name, n_bytes)

    def pids() -> set[int]:
        with contextlib.suppress(InfraError):
            return set(reader.pids())
        return set()

    folders = [run.path, folder, *([container.layer] if container.layer else [])]
    disk_watch = disk.Watch(folders, folders, run.job.disk_bytes, pids)
    disk_watch.start()
    stack.callback(disk_watch.stop)
    return disk_watch


def settle(
    run: AttemptRun, folder: Path, disk_watch: disk.Watch, outputs: Iterable[bounded.Drain]
) -> None:
    """The agent has ended: whether it kept to its budget; where not, free what it took."""
    disk_watch.stop()
    if disk_watch.over is None:
        disk_watch.look()
    if disk_watch.over is None and any(output.cut for output in outputs):
        disk_watch.over = "the agent's output is longer than what is kept of it"
    if disk_watch.over is not None:
        make_room(run, folder)


@contextlib.contextmanager
def freed_on_failure(run: AttemptRun, folder: Path, disk_watch: disk.Watch) -> Iterator[None]:
    """What is kept of an attempt that failed must not keep the disk full for others."""
    try:
        yield
    except BaseException:
        if disk_watch.over or disk_watch.host:
            make_room(run, folder)
        raise


def make_room(run: AttemptRun, folder: Path) -> None:
    """Free what a run has written too much of, but for the beginning of what is kept."""
    scratch.remove_trees(folder / "home")
    with contextlib.suppress(OSError):
        invocation.drop_all_but_session(run.path / "session", run.session, _KEPT_BYTES)
    for name in ("stream.jsonl", "stderr.txt"):
        files.cut(run.path / name, _KEPT_BYTES)


def release(run: AttemptRun) -> None:
    """Give back the space that records had and did not need."""
    for name in _HELD_BYTES:
        disk.release(run.path / name)


def refuse_full(run: AttemptRun) -> None:
    """LastingError where the attempt's disk is full: what was recorded may be cut."""
    if machine_facts.free_bytes(run.path) < _FULL_BYTES:
        raise LastingError(
            f"the disk that holds {run.path.parent} filled up during the run: free "
            "some space and run again"
        )
