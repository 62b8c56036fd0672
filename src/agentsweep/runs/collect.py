"""What is taken out of a container whose agent has ended: session files, trace and patch."""

from dataclasses import dataclass, field
from pathlib import Path

from agentsweep import seal
from agentsweep.agents.claude_code import invocation
from agentsweep.containers import git_snapshot
from agentsweep.containers.engine import Container, Engine
from agentsweep.errors import InfraError
from agentsweep.hashes import file_sha256
from agentsweep.host import disk, scratch
from agentsweep.runs.agent_process import AgentRun
from agentsweep.runs.attempt_run import AttemptRun
from agentsweep.runs.container import Started
from agentsweep.runs.preflight import Prepared
from agentsweep.typed_json import OMIT_NONE

# What the runner itself leaves of a run; what gateway and sampler wrote, they say themselves.
_FILES = ("stream.jsonl", "stderr.txt", "trace.jsonl", "session.tar", "patch.diff")
_START_TRIES = 3


@dataclass(frozen=True)
class Patch:
    """What is known of `patch.diff`.

    status: `ok`, `empty` or `unavailable`. reason: what could not be read, or why there is none.
    cause, of an unavailable one: `run` (what the agent left, or the limits) or `image`.
    """

    status: str
    sha256: str | None
    bytes: int
    reason: str | None = field(default=None, metadata=OMIT_NONE)
    cause: str | None = field(default=None, metadata=OMIT_NONE)


@dataclass(frozen=True)
class Collected:
    """session: how many files and bytes the archive has, and how many were skipped. written: the
    sizes, and hashes as far as known, of what the runner wrote."""

    patch: Patch
    session: dict[str, int]
    written: dict[str, seal.FileFacts]


def collect(
    run: AttemptRun,
    prepared: Prepared,
    started: Started,
    agent_run: AgentRun,
    disk_watch: disk.Watch,
) -> Collected:
    """Session tree, trace and patch into the attempt, whatever ended the agent."""
    patch = take_patch(run, prepared, started, agent_run.alive, disk_watch)
    session_dir = run.path / "session"
    # No tool of the agent can remove it: to the container it is a mount.
    if not session_dir.is_dir():
        raise InfraError(f"{session_dir} is gone: something outside removed it")
    session = invocation.archive_session(
        session_dir, run.session, run.path / "trace.jsonl", run.path / "session.tar"
    )
    scratch.remove_trees(session_dir)
    return Collected(patch, session, _written(run.path, patch))


def take_patch(
    run: AttemptRun, prepared: Prepared, started: Started, alive: bool, disk_watch: disk.Watch
) -> Patch:
    """The patch; where none can be made of what is there, that is said.

    alive: whether the container's init outlived the agent. InfraError where the engine does not do
    its part: the run would lose its patch for ever.
    """
    target = run.path / "patch.diff"
    target.touch()
    engine, container = prepared.engine, started.container
    user, workdir = run.job.container.user, run.job.task.workdir
    reason, cause = "the image has no git", "image"
    try:
        if not alive:
            # Only its processes are gone; what the agent wrote is still in its layer.
            _start_again(engine, container)
        unread = git_snapshot.write_patch(
            engine, container.id, user, workdir, prepared.image, target
        )
    except (InfraError, OSError) as error:
        if alive and not started.is_alive(within_s=0.5):
            raise _went_away(container) from error
        # An engine that has no space left does not do its part either.
        if not isinstance(error, git_snapshot.Unreadable) and disk_watch.over is None:
            raise
        unread, reason, cause = None, str(error), "run"
    if unread is None:
        target.write_bytes(b"")
        return Patch("unavailable", None, 0, reason, cause)
    size = target.stat().st_size
    status = "ok" if size else "empty"
    return Patch(status, file_sha256(target), size, "; ".join(unread) or None)


def _start_again(engine: Engine, container: Container) -> None:
    """Start the container whose processes the kernel killed."""
    for attempt in range(_START_TRIES):
        try:
            engine.call("start", container.id)
            return
        except InfraError as error:
            if attempt < _START_TRIES - 1:
                continue
            # An engine that still knows it blames the container: its limit is too small.
            try:
                engine.inspect(container.id)
            except InfraError as gone:
                raise _went_away(container) from gone
            raise git_snapshot.Unreadable(str(error)) from error


def _went_away(container: Container) -> InfraError:
    return InfraError(
        f"container {container.name} went away before the patch was taken: something "
        "outside removed it"
    )


def _written(folder: Path, patch: Patch) -> dict[str, seal.FileFacts]:
    written: dict[str, seal.FileFacts] = {
        name: {"bytes": (folder / name).stat().st_size} for name in _FILES
    }
    written["patch.diff"] = {"bytes": patch.bytes, "sha256": patch.sha256}
    return written
