"""Which recorded session a replay plays: a session file, a run, or the one of many runs that fits.

This is asked each time the configuration is loaded, in every process of a workflow. So a session is
read for its hash and, beyond that, only up to the model's first answer; whether it can be played to
its end shows when it is. What was found holds for the life of the process.
"""

import functools
import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentsweep import seal, untrusted
from agentsweep.agents.claude_code import trace
from agentsweep.agents.claude_code.lines import LineReport, read_records
from agentsweep.agents.claude_code.records import SYNTHETIC_MODEL, is_session_record
from agentsweep.errors import ConfigError
from agentsweep.extraction.agentcgroup_layout import ATTEMPT
from agentsweep.vocabulary import ModelMode

# Runs further down in a directory of runs are not found.
DEPTH = 5

_RESULT, _TRACE = "result.json", "trace.jsonl"
# What of a run of ours is played: the session, its sub-agents, the exact answers and their times.
_PLAYED = (_TRACE, "session.tar", "api.jsonl")
_UNSEALED = (".partial", ".failed", ".interrupted")


@dataclass(frozen=True)
class ReplaySource:
    """One recorded session, with absolute paths.

    trace: its main file. run_dir: the directory of the run, None where that is not one of ours.
    files: everything that decides what is played; sha256: the hash of their contents, which does
    not depend on where they lie.
    """

    trace: Path
    run_dir: Path | None
    files: tuple[Path, ...]
    sha256: str


def find(path: Path, task: str, instance_id: str, replicate: int) -> ReplaySource:
    """What a replay of a task's replicate plays, from a session file, a run or a directory of runs.

    A session file or a run is played whatever its task. Of a directory, it is the only run of the
    task, or else the only one with this replicate number. Raises ConfigError with one sentence.
    """
    return _find(Path(path).absolute(), task, instance_id, replicate)


@functools.cache
def _find(path: Path, task: str, instance_id: str, replicate: int) -> ReplaySource:
    try:
        if not path.exists():
            raise ConfigError(
                f"{path}: there is no such file or directory: make the recording first, or name "
                "another one"
            )
        if not path.is_dir():
            return _source(path, None)
        if (path / _RESULT).exists():
            return _source(path / _TRACE, path)
        if (path / _TRACE).exists():
            return _source(path / _TRACE, None)
        run = _choose(path, task, instance_id, replicate)
        return _source(run.directory / _TRACE, run.directory if run.ours else None)
    except OSError as error:
        raise ConfigError(
            f"{error.filename or path} cannot be read ({error.strerror}): mend that, or name "
            "another recording"
        ) from None


# One run out of many


@dataclass(frozen=True)
class _Run:
    """A run below a directory.

    tasks, instance_ids: what its task may be called, by its result or by its directories.
    replicate: None where that is not known.
    """

    directory: Path
    ours: bool
    tasks: frozenset[str]
    instance_ids: frozenset[str]
    replicate: int | None


def _choose(path: Path, task: str, instance_id: str, replicate: int) -> _Run:
    runs = _runs(path)
    if not runs:
        raise ConfigError(
            f"{path} holds no run that can be replayed: name a session file, or a directory that "
            f"has {_RESULT} or {_TRACE} at most {DEPTH} levels down"
        )
    named = [run for run in runs if task in run.tasks or instance_id in run.instance_ids]
    of_task = list(_last_attempts(named))
    if not of_task:
        raise ConfigError(
            f"{path} holds no run of task {task} (instance {instance_id}), but {len(runs)} of "
            "others: record one, or leave the task out"
        )
    same = [run for run in of_task if run.replicate == replicate]
    if len(of_task) == 1 or len(same) == 1:
        return of_task[0] if len(of_task) == 1 else same[0]
    first, second = (str(run.directory.relative_to(path)) for run in (same or of_task)[:2])
    raise ConfigError(
        f"{path} holds {len(same or of_task)} runs that could be replicate {replicate} of task "
        f"{task}, such as {first} and {second}: name one of them"
    )


def _last_attempts(runs: Iterable[_Run]) -> Iterable[_Run]:
    """Of the attempts at a task in AgentCgroup's layout, the last one in the order of names."""
    found: dict[Path, _Run] = {}
    for run in runs:
        several = not run.ours and ATTEMPT.match(run.directory.name)
        found[run.directory.parent if several else run.directory] = run
    return found.values()


@functools.cache
def _runs(root: Path) -> list[_Run]:
    """The runs below a directory, in the order of their names; replays are none."""
    return list(_look(root, root, 0))


def _look(root: Path, directory: Path, depth: int) -> Iterator[_Run]:
    with os.scandir(directory) as scanned:
        entries = {entry.name: entry for entry in sorted(scanned, key=lambda entry: entry.name)}
    if _RESULT in entries:
        yield from _run_of_ours(directory)
    elif _TRACE in entries:
        levels = frozenset((root.name, *directory.relative_to(root).parts))
        yield _Run(directory, False, levels, levels, None)
    elif depth < DEPTH:
        for name, entry in entries.items():
            if entry.is_dir(follow_symlinks=False) and not name.endswith(_UNSEALED):
                yield from _look(root, directory / name, depth + 1)


def _run_of_ours(directory: Path) -> Iterator[_Run]:
    """The run of a directory with result.json; nothing where that is a replay, or says no task."""
    try:
        # Another shape is one of the errors below.
        result: Any = untrusted.read_json(directory / _RESULT)
        names, spec = result["names"], result["spec"]
        if spec["model"]["mode"] != ModelMode.REPLAY:
            task, instance_id = frozenset([names["task"]]), frozenset([names["instance_id"]])
            yield _Run(directory, True, task, instance_id, spec["replicate"])
    except (ValueError, KeyError, TypeError):
        return


# The session of a run


@functools.cache
def _source(main: Path, run_dir: Path | None) -> ReplaySource:
    _check(main)
    if run_dir is None:
        files = tuple(_session_files(main))
    else:
        files = tuple(path for name in _PLAYED if (path := run_dir / name).is_file())
        found = seal.check(run_dir, only=_PLAYED, is_copy=True)
        if found.wrong:
            raise ConfigError(
                f"{run_dir}/{found.sentence}, so that it is not what was recorded: bring it back "
                "from a copy, or name another recording"
            )
    return ReplaySource(main, run_dir, files, _sha256(main, files))


def _check(main: Path) -> None:
    """Whether the file is a session in which a model answered; ConfigError where it is not."""
    if not stat.S_ISREG(main.stat().st_mode):
        raise ConfigError(f"{main} is no regular file: name a session file")
    recognised = False
    with main.open("rb") as file:
        lines = untrusted.lines(file)
        for _, record in read_records(lines, str(main), LineReport(), is_session_record):
            recognised = recognised or is_session_record(record)
            if recognised and _is_answer(record):
                return
    if not recognised:
        why = trace.why_not(trace.parse_file(main))
        raise ConfigError(f"{main} is not a Claude Code session file: {why}; name one that is")
    raise ConfigError(
        f"{main} holds no answer of a model in its main conversation, so that there is nothing to "
        "replay: name another recording"
    )


def _is_answer(record: dict[str, Any]) -> bool:
    """Whether a record of the main conversation is the model's, and not the CLI's in its place."""
    message = record.get("message")
    return (
        record["type"] == "assistant"
        and isinstance(message, dict)
        and message.get("model") != SYNTHETIC_MODEL
        and record.get("isApiErrorMessage") is not True
        and record.get("isSidechain") is not True
    )


def _session_files(main: Path) -> Iterator[Path]:
    """The main file, and for each sub-agent its own with what says who started it."""
    for source in trace.file_sources(main):
        yield Path(source.name)
        if source.meta is not None:
            yield Path(source.name).with_suffix(".meta.json")


def _sha256(main: Path, files: Iterable[Path]) -> str:
    """Hash of the contents; the main file may have any name, sub-agents are known by theirs."""
    whole = hashlib.sha256()
    for path in files:
        name = _TRACE if path == main else path.relative_to(main.parent).as_posix()
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").digest()
        encoded = os.fsencode(name)
        whole.update(b"%d:%b" % (len(encoded), encoded) + digest)
    return whole.hexdigest()
