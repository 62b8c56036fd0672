"""The files of one published run, each read as far as it is readable.

What is missing or damaged is counted and named, never raised: one broken file must not lose what
the others say.
"""

import contextlib
import itertools
import os
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentsweep import untrusted
from agentsweep.agents.claude_code.mark_matching import Mark
from agentsweep.agents.claude_code.records import Trace
from agentsweep.agents.claude_code.trace import Source, agent_id_of, parse_sources
from agentsweep.hashes import text_sha256
from agentsweep.vocabulary import FileStatus

_ARCHIVE = "session.tar"
_COMPARED_BYTES = 256
# What says who started a sub-agent.
_META_BYTES = 2**20
_MAX_INT = 2**63 - 1
# The CLI writes some records of its own before the prompt.
_PROMPT_WITHIN = 50


@dataclass(slots=True)
class Damage:
    """What could not be read of a run, by the name of the file."""

    lines: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, note: str) -> None:
        self.notes.append(f"{name}: {note}")

    def sentence(self) -> str | None:
        """All of it in one line, None when nothing is damaged."""
        lines = [f"{name}: {count} bad lines" for name, count in self.lines.items()]
        return "; ".join([*lines, *self.notes]) or None


def whole(value: object) -> int | None:
    """An integer that fits a column, else None."""
    return value if type(value) is int and -_MAX_INT <= value <= _MAX_INT else None


def number(value: object) -> float | None:
    """A finite number, else None; numbers may be written as strings (`"0.5"`)."""
    if type(value) is str:
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return None if value != value or abs(value) > 1e300 else float(value)


def word(value: object) -> str | None:
    """A string that is not empty, else None."""
    if type(value) is not str or not value:
        return None
    return value.encode("utf-8", "replace").decode()


def truth(value: object) -> bool | None:
    return value if type(value) is bool else None


class Fields:
    """A JSON object whose parts may be missing or of the wrong type: `f("limits", "effective")`."""

    def __init__(self, value: object):
        self._value = value if isinstance(value, dict) else {}

    def __call__(self, *path: str) -> object:
        here: object = self._value
        for key in path:
            here = here.get(key) if isinstance(here, dict) else None
        return here


def read_result(run_dir: Path, damage: Damage) -> Fields:
    """result.json, or empty fields when it is missing or no JSON object."""
    try:
        value = untrusted.read_json(run_dir / "result.json")
    except OSError as error:
        damage.add("result.json", str(error.strerror))
        return Fields(None)
    except ValueError:
        damage.add("result.json", "is not JSON")
        return Fields(None)
    if not isinstance(value, dict):
        damage.add("result.json", "is not a JSON object")
    return Fields(value)


def read_lines(path: Path, damage: Damage) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file with one on each line; others are counted."""
    try:
        lines = os.fdopen(untrusted.open_untrusted(path, follow=True), "rb")
    except OSError as error:
        damage.add(path.name, str(error.strerror))
        return
    with lines:
        for line in untrusted.lines(lines):
            text = line.strip(b"\0 \t\r\n")
            if not text:
                bad = b"\0" in line
            else:
                try:
                    value = untrusted.loads(text.decode(errors="replace"))
                except ValueError:
                    value = None
                bad = not isinstance(value, dict)
                if isinstance(value, dict):
                    yield value
            if bad:
                damage.lines[path.name] = damage.lines.get(path.name, 0) + 1


def read_marks(run_dir: Path, damage: Damage) -> list[Mark]:
    """The calls of the Bash wrapper; a line without its times is a bad line."""
    marks = []
    for line in read_lines(run_dir / "marks.jsonl", damage):
        start, end = whole(line.get("start_utc_ns")), whole(line.get("end_utc_ns"))
        monotonic = whole(line.get("start_ns")), whole(line.get("end_ns"))
        command = line.get("command")
        if start is None or end is None or None in monotonic or not isinstance(command, str):
            damage.lines["marks.jsonl"] = damage.lines.get("marks.jsonl", 0) + 1
            continue
        marks.append(Mark(line, command, start, end))
    return marks


def read_trace(
    run_dir: Path, session_id: str | None, damage: Damage, keep_content: bool = False
) -> tuple[Trace, str]:
    """The run's session with its sub-agents, and its status.

    The status is that of the trace (`ok`, `damaged`, `empty`), or `missing` when there is no file.
    The main file is trace.jsonl; the session tree gives the sub-agents, and further main files
    when the agent worked in several project folders. `keep_content` as in `parse_sources`.
    """
    present = (run_dir / "trace.jsonl").is_file()
    with session_sources(run_dir, session_id, damage) as sources:
        trace = parse_sources(sources, keep_content)
    status = trace.status
    if not present and status == FileStatus.EMPTY:
        status = FileStatus.MISSING
    if status == FileStatus.OK and any(note.startswith(_ARCHIVE) for note in damage.notes):
        status = FileStatus.DAMAGED  # sub-agents may be missing
    return trace, status


def prompt_was_garbled(trace: Path, prompt_sha256: str | None) -> bool:
    """Whether a run's agent got bytes that were not UTF-8 in place of the prompt of its spec.

    Early versions wrote the prompt in the locale's encoding. The agent then read U+FFFD for what it
    could not decode, in a text that the spec's hash does not know.
    """
    if prompt_sha256 is None:
        return False
    for record in itertools.islice(read_lines(trace, Damage()), _PROMPT_WITHIN):
        said = Fields(record)("message", "content")
        if record.get("type") == "user" and isinstance(said, str):
            texts = (said, said.strip(), f"{said}\n")
            return "\N{REPLACEMENT CHARACTER}" in said and prompt_sha256 not in map(
                text_sha256, texts
            )
    return False


@contextlib.contextmanager
def session_sources(
    run_dir: Path, session_id: str | None, damage: Damage
) -> Iterator[list[Source]]:
    """The files of a run's session, readable as long as the block lasts; the main file first."""
    path = run_dir / "trace.jsonl"
    sources = []
    if path.is_file() and path.stat().st_size:
        sources.append(Source.of_path(path))
    archive = _open_archive(run_dir, damage)
    try:
        if archive is not None:
            sources += _archived(archive, path, session_id, damage)
        yield sources
    finally:
        if archive is not None:
            archive.close()


def _open_archive(run_dir: Path, damage: Damage) -> tarfile.TarFile | None:
    try:
        return tarfile.open(run_dir / _ARCHIVE, "r:")
    except (OSError, tarfile.TarError) as error:
        damage.add(_ARCHIVE, getattr(error, "strerror", None) or str(error))
        return None


def _archived(
    archive: tarfile.TarFile, main: Path, session_id: str | None, damage: Damage
) -> list[Source]:
    """The session's files in the archive, without the copy of the main file."""
    mains: list[tarfile.TarInfo] = []
    agents: list[tarfile.TarInfo] = []
    metas: dict[str, tarfile.TarInfo] = {}
    try:
        for member in archive:
            name = member.name.rsplit("/", 1)[-1]
            if not member.isfile():
                continue
            if agent_id_of(name):
                agents.append(member)
            elif name.startswith("agent-") and name.endswith(".meta.json"):
                metas[member.name] = member
            elif name.endswith(".jsonl") and "/subagents/" not in member.name:
                mains.append(member)
    except (OSError, tarfile.TarError, EOFError, ValueError) as error:
        damage.add(_ARCHIVE, str(error))
    beginning = b""
    if main.is_file():
        with main.open("rb") as file:
            beginning = file.read(_COMPARED_BYTES)
    if session_id is None and beginning:
        copies = [m for m in mains if _begins(archive, m, beginning)]
        session_id = Path(copies[0].name).stem if copies else None
    if session_id is not None:
        mains = [m for m in mains if m.name.rsplit("/", 1)[-1] == f"{session_id}.jsonl"]
        # Beside the main file lie the sub-agents of every session, below it only its own.
        below = f"/{session_id}/subagents/"
        agents = [m for m in agents if "/subagents/" not in m.name or below in m.name]
    if beginning and not mains:
        damage.add(_ARCHIVE, "does not hold the session")
    extra = [m for m in mains if not beginning or not _begins(archive, m, beginning)]
    sources = [_source(archive, m, None, None) for m in extra]
    for member in agents:
        meta = metas.get(member.name.removesuffix(".jsonl") + ".meta.json")
        agent_id = agent_id_of(member.name.rsplit("/", 1)[-1])
        if "/subagents/" not in member.name and not _of_session(archive, member, session_id):
            continue
        sources.append(_source(archive, member, agent_id, meta))
    return sources


def _source(
    archive: tarfile.TarFile,
    member: tarfile.TarInfo,
    agent_id: str | None,
    meta: tarfile.TarInfo | None,
) -> Source:
    def lines() -> Iterable[bytes]:
        file = archive.extractfile(member)
        return _tolerant(untrusted.lines(file)) if file is not None else ()

    value = None
    if meta is not None:
        try:
            whole = b"".join(_tolerant(archive.extractfile(meta) or ()))
            value = untrusted.loads(whole) if meta.size <= _META_BYTES else None
        except ValueError:
            value = None
    return Source(member.name, lines, agent_id, value if isinstance(value, dict) else None)


def _tolerant(file: Iterable[bytes]) -> Iterator[bytes]:
    """The lines of an archive's member up to where the archive is cut off."""
    try:
        yield from file
    except (OSError, tarfile.TarError, EOFError):
        return


def _begins(archive: tarfile.TarFile, member: tarfile.TarInfo, beginning: bytes) -> bool:
    file = archive.extractfile(member)
    if file is None:
        return False
    try:
        start = file.read(len(beginning))
    except (OSError, tarfile.TarError, EOFError):
        return False
    # A trace that was damaged or cut off after it was copied is still the copy of this file.
    compared = min(len(start), len(beginning))
    return compared > 0 and start[:compared] == beginning[:compared]


def _of_session(archive: tarfile.TarFile, member: tarfile.TarInfo, session_id: str | None) -> bool:
    if session_id is None:
        return True
    file = archive.extractfile(member)
    head = b"".join(line for line, _ in zip(_tolerant(file or ()), range(20), strict=False))
    return f'"sessionId":"{session_id}"'.encode() in head


def samples_status(path: Path, rows: int, damage: Damage) -> str:
    """`missing` without the file, `damaged` where some of it could not be read, `empty`, `ok`."""
    if not path.is_file():
        return FileStatus.MISSING
    if any(note.startswith(f"{path.name}:") for note in damage.notes):
        return FileStatus.DAMAGED
    return FileStatus.OK if rows else FileStatus.EMPTY


class SampleReader:
    """The samples of a run, batch by batch, up to the last complete batch.

    `batches()` yields pyarrow record batches; `complete` says afterwards whether the file was
    ended properly. A file without a readable schema yields nothing.
    """

    def __init__(self, path: Path, damage: Damage):
        self._path, self._damage = path, damage
        self.complete = False

    def batches(self) -> Iterator[object]:
        import pyarrow as pa

        errors = (pa.ArrowException, OSError, ValueError)
        try:
            with pa.OSFile(str(self._path)) as file:
                stream = pa.ipc.open_stream(file)
                while True:
                    try:
                        batch = stream.read_next_batch()
                        batch.validate()
                    except StopIteration:
                        self.complete = self._ended()
                        if not self.complete:
                            self._damage.add(self._path.name, "is cut off")
                        return
                    yield batch
        except errors as error:
            text = str(error).strip() or type(error).__name__
            self._damage.add(self._path.name, text.splitlines()[0][:200])

    def _ended(self) -> bool:
        """Whether the end-of-stream marker is there: a file cut between batches just ends."""
        with self._path.open("rb") as file:
            file.seek(0, 2)
            if file.tell() < 8:
                return False
            file.seek(-8, 2)
            return file.read() == b"\xff\xff\xff\xff\0\0\0\0"
