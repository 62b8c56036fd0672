"""What a grading left, read back: without an engine, and without trust in it.

The archive was made in the grading's container, where the code of a patch had every right. It is
read and never unpacked, so that a link in it leads nowhere.
"""

import contextlib
import gzip
import hashlib
import json
import re
import tarfile
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from agentsweep import seal, untrusted
from agentsweep.errors import AgentsweepError
from agentsweep.files import write_durably
from agentsweep.grading import pytest_reports, witness
from agentsweep.grading.verdict import KINDS, TestCommandResult
from agentsweep.hashes import file_sha256

# What `grade.json` holds: schemas/evidence.schema.yaml says what each field is.
Record = dict[str, Any]

RECORD, ARCHIVE = "grade.json", "evidence.tar.gz"

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_MEMBER_BYTES = 64 * 2**20
# Of a task's row; each leaves some files.
_MOST_COMMANDS = 10_000
# Of all members, unpacked: a small archive may unpack to any size.
_ARCHIVE_BYTES = 2**30


def read(folder: Path) -> tuple[Record, list[TestCommandResult]]:
    """A grading's `grade.json` and what each of its test commands left.

    Raises AgentsweepError for files that are not those that the grading wrote.
    """
    try:
        record = _record(untrusted.read_json(folder / RECORD))
        if record is not None and record["evidence_sha256"] != digest(folder):
            record = None
    except (OSError, ValueError):
        record = None
    found = seal.check(folder, (RECORD, ARCHIVE), (RECORD, ARCHIVE))
    if record is None or found.state == seal.DAMAGED:
        why = f" ({found.sentence})" if found.wrong else ""
        raise AgentsweepError(
            f"the grading in {folder} is damaged or not whole{why}: remove that folder and run "
            "again"
        )
    numbers = range(1, record["n_commands"] + 1)
    left = members(folder / ARCHIVE, numbers)
    commands = []
    for number in numbers:
        ended = left.get(f"exit-{number}", b"").strip()
        commands.append(
            TestCommandResult(
                exit_code=int(ended) if re.fullmatch(rb"[0-9]{1,3}", ended) else None,
                report=pytest_reports.parse_report(left.get(f"report-{number}.xml")),
                log=left.get(f"log-{number}", b"").decode(errors="replace"),
                witness=witness.parse(left.get(f"seen-{number}")),
            )
        )
    return record, commands


def _record(value: object) -> Record | None:
    """The record of a grading, if it has what a verdict asks of one, each of its type."""
    return value if isinstance(value, dict) and _is_record(value) else None


def _is_record(record: Record) -> bool:
    if not isinstance(record.get("evidence_sha256"), str):
        return False
    commands, why = record.get("n_commands"), record.get("ungraded")
    if type(commands) is not int or not 0 <= commands <= _MOST_COMMANDS:
        return False
    if why:
        return isinstance(why, str)
    grader, placed = record.get("grader"), record.get("placed")
    return (
        isinstance(record.get("applied_by", 0), str | None)
        and all(isinstance(record.get(name), bool) for name in ("tests_applied", "timed_out"))
        and isinstance(record.get("oom_kill_count", ""), int | None)
        and isinstance(grader, dict)
        and isinstance(grader.get("timeout_s"), int | float)
        and all(_are_texts(record.get(kind)) for kind in KINDS)
        # Gradings of earlier versions have none.
        and (placed is None or (isinstance(placed, dict) and _are_texts(list(placed))))
    )


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(text, str) for text in value)


def ungraded(folder: Path, patch: bytes, grader: "DataclassInstance", reason: str) -> Record:
    """Write the record of a grading that could not be made into a folder, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    # Of what was there before.
    (folder / seal.SEAL).unlink(missing_ok=True)
    write_durably(folder / ARCHIVE, b"")
    record: Record = {
        "schema": 1,
        "ungraded": reason,
        "patch_sha256": hashlib.sha256(patch).hexdigest(),
        "grader": {"version": None, **asdict(grader)},
        "n_commands": 0,
        "evidence_sha256": digest(folder),
    }
    write_durably(folder / RECORD, (json.dumps(record, indent=1, sort_keys=True) + "\n").encode())
    return record


def digest(folder: Path) -> str:
    """The SHA-256 of a grading's archive."""
    return file_sha256(folder / ARCHIVE)


def members(archive: Path, numbers: Iterable[int] = range(1, 1000)) -> dict[str, bytes]:
    """What the test commands of these numbers left in an archive, each as far as _MEMBER_BYTES.

    Only plain files count; a broken end is left out.
    """
    found: dict[str, bytes] = {}
    wanted = {
        name
        for number in numbers
        for name in (f"exit-{number}", f"log-{number}", f"seen-{number}", f"report-{number}.xml")
    }
    # Who makes an archive can make it so that reading it fails in any way.
    with (
        contextlib.suppress(Exception),
        gzip.open(archive) as content,
        # In this mode nothing but `read` is called.
        tarfile.open(fileobj=cast(IO[bytes], _Bounded(content)), mode="r|") as tar,
    ):
        for member in tar:
            name = member.name.removeprefix("./")
            if member.isreg() and name in wanted:
                file = tar.extractfile(member)
                found[name] = file.read(_MEMBER_BYTES) if file is not None else b""
    return found


class _Bounded:
    """The beginning of a stream, as far as _ARCHIVE_BYTES."""

    def __init__(self, stream: gzip.GzipFile):
        self._stream, self._left = stream, _ARCHIVE_BYTES

    def read(self, size: int) -> bytes:
        content = self._stream.read(min(size, self._left))
        self._left -= len(content)
        return content
