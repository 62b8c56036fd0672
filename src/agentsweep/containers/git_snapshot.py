"""The work tree before and after the agent, as git trees, and the patch between them.

The start is kept in the image, in a store of root's (`snapshot_scripts.STORE`). The end is listed
and hashed file by file after the agent and all its tools are dead, with no part of the agent's
repository: its settings, objects, index, attributes, filters and nested repositories change
nothing, and a removed `.git` neither. What decides is here: which files count, and that the patch
makes the end out of the start.
"""

import contextlib
import hashlib
import posixpath
import shlex
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentsweep.containers import git_snapshot_scripts as scripts
from agentsweep.containers.caches import is_cache
from agentsweep.containers.client import EngineTimeout
from agentsweep.containers.engine import Engine, ExecFailed, OutputTooLarge
from agentsweep.errors import InfraError

_TIMEOUT_S = 600
_FIRST_TIMEOUT_S = 3600
_TRIES = 3
# What is said of files that could not be read: this many, and so many characters of each.
_SAID = 20
_SAID_CHARACTERS = 200

_FILE, _EXECUTABLE, _LINK = b"100644", b"100755", b"120000"

Entries = dict[bytes, tuple[bytes, bytes]]


class Unreadable(InfraError):
    """No patch can be made of what is in this work tree; the engine works."""


@dataclass
class Look:
    """A work tree as it was seen; paths are relative to it, as bytes.

    entries: {path: (mode, object id)} of files and links, without ignored files that nobody knows
    by name. targets: of links. unreadable: files and
    directories. large: files that are too large to be read. ignored: those that rules ignore.
    listed: in the index of the repository there. tracked and start: known of the start alone.
    """

    entries: Entries
    targets: dict[bytes, bytes]
    unreadable: list[bytes] = field(default_factory=list)
    large: list[bytes] = field(default_factory=list)
    ignored: set[bytes] = field(default_factory=set)
    listed: set[bytes] = field(default_factory=set)
    tracked: set[bytes] = field(default_factory=set)
    start: Entries = field(default_factory=dict)


def prepare(workdir: str, uid: int, gid: int) -> str:
    """The shell script (for root) that hands a work tree, made if missing, to the agent's user.

    A work tree that is a link is handed over where it leads to.
    """
    folder = shlex.quote(workdir)
    return f'set -e; mkdir -p {folder}; cd {folder}; chown -R {uid}:{gid} "$(pwd -P)"'


def take_start(engine: Engine, container: str, user: str, workdir: str) -> dict[str, str | None]:
    """Keep the untouched work tree: {git_dir, git_path, start_commit, start_tree}.

    git_dir is the store that was made; start_commit is None where the work tree is no repository.
    All are None where the image has no git.
    """
    found = engine.exec(container, "sh", "-c", "command -v git", check=False)
    if found.returncode != 0:
        return dict.fromkeys(("git_dir", "git_path", "start_commit", "start_tree"))
    own = engine.exec(
        container, "git", "rev-parse", "--verify", "HEAD",
        user=user, workdir=workdir, check=False,
    )  # fmt: skip
    # chown changed every file's ctime; without a refreshed index the agent's first `git status`
    # would read the whole tree again, in every run. A filter that is not there is no reason to
    # have no image: the agent's own git says it.
    engine.exec(container, "git", "status", "--short", user=user, workdir=workdir, check=False)
    path = found.stdout.strip()
    where = (workdir, scripts.STORE, posixpath.dirname(path))
    timeout_s = _FIRST_TIMEOUT_S
    try:
        seen = _look(engine, container, scripts.LOOK_FIRST, where, "0:0", timeout_s)
        kept = {
            name: entry
            for name, entry in seen.entries.items()
            if _is_name(name)
            and (name in seen.tracked or not (is_cache(name) or name in seen.ignored))
        }
        given = _given({}, kept, seen.targets)
        tree = (
            _ask(
                engine, container, scripts.MAKE_START, where, given, user="0:0", timeout_s=timeout_s
            )
            .decode()
            .strip()
        )
    except InfraError as error:
        raise InfraError(f"the work tree {workdir} cannot be kept with git: {error}") from error
    return {
        "git_dir": scripts.STORE,
        "git_path": path,
        "start_commit": own.stdout.strip() if own.returncode == 0 else None,
        "start_tree": tree,
    }


def write_patch(
    engine: Engine, container: str, user: str, workdir: str, start: dict[str, Any], target: Path
) -> list[str] | None:
    """Write what changed since the start as a binary git diff.

    Returns what could not be read, one line each, and None where nothing can be said at all.
    `start` is what `take_start` returned. Raises Unreadable where no patch can be made of what is
    there, another InfraError when the engine does not do its part.
    """
    target.write_bytes(b"")
    if start["start_tree"] is None:
        return None
    where = (workdir, start["git_dir"], posixpath.dirname(start["git_path"]), start["start_tree"])
    seen = _look(engine, container, scripts.LOOK, where, user=user)
    end, said = _end(seen)
    if end != seen.start:
        given = _given(seen.start, end, seen.targets)
        note = _ask(engine, container, scripts.MAKE_PATCH, where, given, target, user=user)
        said += note.decode().splitlines()[:1]
    return said


def _end(seen: Look) -> tuple[Entries, list[str]]:
    """The files of the end tree, and a line for each that could not be read."""
    end: Entries = {}
    odd = []
    for path, entry in seen.entries.items():
        if path not in seen.start:
            if is_cache(path) or (path in seen.ignored and path not in seen.listed):
                continue
            if not _is_name(path):
                odd.append(f"{_printed(path)} has a name that no patch can hold")
                continue
        end[path] = entry
    closed = []
    why = dict.fromkeys(seen.unreadable, "cannot be read")
    why |= dict.fromkeys(seen.large, "is larger than 1 GiB")
    for path, reason in why.items():
        if path in seen.start or not (is_cache(path) or path in seen.ignored):
            closed.append(f"{_printed(path)} {reason}")
        # It may be as it was: a patch that deletes it would be made up.
        below = path + b"/"
        end |= {
            name: entry
            for name, entry in seen.start.items()
            if (name == path or name.startswith(below)) and name not in seen.entries
        }
    return end, (closed + odd)[:_SAID]


def _is_name(path: bytes) -> bool:
    """Whether git takes a path into a tree: it refuses its own directory, however written."""
    return all(part.lower() != b".git" for part in path.split(b"/"))


def _printed(path: bytes) -> str:
    return path.decode("utf-8", "backslashreplace").replace("\n", "\\n")[:_SAID_CHARACTERS]


def _given(start: Entries, end: Entries, targets: dict[bytes, bytes]) -> bytes:
    """What the scripts are given: contents that are new, then the changes of the index."""
    changed = {path: entry for path, entry in end.items() if start.get(path) != entry}
    gone = [path for path in start if path not in end]
    files = [b"./" + path for path, (mode, _) in changed.items() if mode != _LINK]
    links = sorted({targets[path] for path, (mode, _) in changed.items() if mode == _LINK})
    index = [b"0 " + b"0" * len(start[path][1]) + b"\t" + path for path in gone]
    index += [mode + b" " + name + b"\t" + path for path, (mode, name) in changed.items()]
    return b"".join(entry + b"\0" for entry in [*files, b"", *links, b"", *index])


def _look(
    engine: Engine,
    container: str,
    script: str,
    where: tuple[str, ...],
    user: str | None = None,
    timeout_s: float = _TIMEOUT_S,
) -> Look:
    return parse(_ask(engine, container, script, where, b"", user=user, timeout_s=timeout_s))


def parse(printed: bytes) -> Look:
    """What a looking script printed; Unreadable where its lists do not fit together."""
    try:
        return _parsed(printed)
    except (ValueError, LookupError) as error:
        raise Unreadable("what was printed of the work tree is not whole") from error


def _parsed(printed: bytes) -> Look:
    lists, at = {}, 0
    while at < len(printed):
        end = printed.index(b"\0", at)
        name, _, size = printed[at:end].partition(b" ")
        if not size.isdigit():
            raise ValueError("a list without its size")
        at = end + 1 + int(size)
        lists[name.decode()] = printed[end + 1 : at]
    files, links = _paths(lists["files"]), _paths(lists["links"])
    hashes, targets = lists["hashes"].split(), lists["targets"].split(b"\0")[:-1]
    if len(hashes) != len(files) or len(targets) != len(links):
        raise Unreadable("the work tree changed while it was read")
    start = {}
    for record in lists["start"].split(b"\0")[:-1]:
        facts, _, path = record.partition(b"\t")
        mode, _, name = facts.split(b" ")
        start[path] = (mode, name)
    executable = set(_paths(lists["executable"]))
    names = (*hashes[:1], *(name for _, name in start.values()))
    kind = "sha256" if any(len(name) == 64 for name in names) else "sha1"
    entries = {
        path: (_EXECUTABLE if path in executable else _FILE, name)
        for path, name in zip(files, hashes, strict=True)
    }
    for path, content in zip(links, targets, strict=True):
        blob = hashlib.new(kind, b"blob %d\0" % len(content) + content, usedforsecurity=False)
        entries[path] = (_LINK, blob.hexdigest().encode())
    rules = lists["ignored"].split(b"\0")[:-1]
    return Look(
        entries,
        dict(zip(links, targets, strict=True)),
        _paths(lists["unreadable"]),
        _paths(lists["large"]),
        # Source, line, pattern, path. A pattern with `!` takes a path back in.
        {
            path.removeprefix(b"./")
            for pattern, path in zip(rules[2::4], rules[3::4], strict=True)
            if not pattern.startswith(b"!")
        },
        set(_paths(lists["listed"])),
        set(_paths(lists["tracked"])),
        start,
    )


def _paths(entries: bytes) -> list[bytes]:
    return [entry.removeprefix(b"./") for entry in entries.split(b"\0")[:-1]]


def _ask(
    engine: Engine,
    container: str,
    script: str,
    where: tuple[str, ...],
    given: bytes,
    target: Path | None = None,
    timeout_s: float = _TIMEOUT_S,
    user: str | None = None,
) -> bytes:
    """Run a script in the container: its output; where `target` gets that, its stderr.

    A client or a runtime that was killed is tried again. What ends again and again in a container
    that answers is the work tree's doing: git had no memory, for example.
    """
    with contextlib.ExitStack() as stack:
        if target is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            out = folder / "out"
        else:
            out = target
        for left in reversed(range(_TRIES)):
            try:
                said = engine.exec_to_file(
                    container, out, "/bin/bash", "-c", script, "agentsweep", *where,
                    user=user, timeout_s=timeout_s, given=given, env=scripts.ENVIRONMENT,
                )  # fmt: skip
                return said.encode() if target else out.read_bytes()
            except EngineTimeout as error:
                out.write_bytes(b"")
                _answers(engine, container)
                raise Unreadable(str(error)) from error
            except OutputTooLarge as error:
                out.write_bytes(b"")
                raise Unreadable(str(error)) from error
            except ExecFailed as error:
                out.write_bytes(b"")
                if error.status == scripts.REFUSED:
                    raise Unreadable(str(error)) from error
                if not left:
                    _answers(engine, container)
                    raise Unreadable(str(error)) from error
    raise AssertionError("unreachable")


def _answers(engine: Engine, container: str) -> None:
    """InfraError where the engine does not run the least of commands in the container."""
    engine.exec(container, "/bin/sh", "-c", ":", user="0:0", timeout_s=60)
