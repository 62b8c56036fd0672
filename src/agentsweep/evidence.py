"""What a grading left, read back: without an engine, and without trust in it.

The archive was made in the grading's container, where the code of a patch had every right. It is
read and never unpacked, so that a link in it leads nowhere.
"""

import contextlib
import json
import tarfile
import zlib
from pathlib import Path

from agentsweep import pytest_reports
from agentsweep.verdict import Command

RECORD, ARCHIVE = "grade.json", "evidence.tar.gz"

_MEMBER_BYTES = 64 * 2**20


def read(folder: Path) -> tuple[dict, list[Command]]:
    """A grading's `grade.json` and what each of its test commands left."""
    record = json.loads((folder / RECORD).read_text())
    left = members(folder / ARCHIVE)
    commands = []
    for number in range(1, record["n_commands"] + 1):
        ended = left.get(f"exit-{number}", b"").strip()
        commands.append(
            Command(
                exit_code=int(ended) if ended.isdigit() else None,
                report=pytest_reports.parse_report(left.get(f"report-{number}.xml")),
                log=left.get(f"log-{number}", b"").decode(errors="replace"),
            )
        )
    return record, commands


def members(archive: Path) -> dict[str, bytes]:
    """The plain files of an archive, each as far as _MEMBER_BYTES; a broken end is left out."""
    found: dict[str, bytes] = {}
    broken = (tarfile.TarError, EOFError, OSError, zlib.error)
    with contextlib.suppress(*broken), tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            if member.isreg() and (content := tar.extractfile(member)) is not None:
                found[member.name.removeprefix("./")] = content.read(_MEMBER_BYTES)
    return found
