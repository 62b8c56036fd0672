"""The seal of an attempt: `seal.json`, with the size and SHA-256 of each of its files.

It is written last, when all files are on disk, and only where each of them is there and is what
its writer says that it wrote. Whoever takes a sealed attempt for data compares the files that it
reads with the seal. Attempts that earlier versions sealed have none: of them it is known only
which files there must be, and what `result.json` says of the patch.
"""

import json
import os
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

from agentsweep import untrusted
from agentsweep.errors import InfraError

SEAL = "seal.json"
# What is found of a seal, also in the column `seal` of runs.
WHOLE, NO_HASHES, DAMAGED = "sha256", "none", "damaged"

# In a record of an attempt: it was sealed with a seal, so that one that is missing was lost.
RECORDS = ("result.json", "grade.json")
MARK = "written"

_SEAL_BYTES = 64 * 2**20
# NAME_MAX, and far less than PATH_MAX.
_NAME_BYTES, _PATH_BYTES = 255, 1024
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

# What is said of a file, and of all files by name.
FileFacts = Mapping[str, int | str | None]
Facts = Mapping[str, FileFacts]


@dataclass(frozen=True)
class Found:
    """What became of a sealed attempt: WHOLE, NO_HASHES or DAMAGED.

    wrong: of a damaged one, what is wrong with each such file, by name.
    """

    state: str
    wrong: Mapping[str, str]

    @property
    def sentence(self) -> str:
        """`patch.diff has 0 bytes and not 1234`; nothing where nothing is wrong."""
        said = [f"{name} {why}" for name, why in self.wrong.items()]
        more = f", and {len(said) - 1} more" if len(said) > 1 else ""
        return f"{said[0]}{more}" if said else ""


def make(folder: Path, needed: Iterable[str] = (), said: Facts | None = None) -> bytes:
    """The content of the seal of a folder whose files are final.

    needed: files without which it is none. said: by name, what the writers of files say of them:
    bytes, sha256 (None where unknown), and counts, which are kept in the seal. Raises InfraError
    where a file is missing, or is not what its writer says.
    """
    said = said or {}
    files = {name: facts(folder / name) for name in _names(folder)}
    missing = sorted({*needed, *said} - files.keys())
    if missing:
        raise _changed(folder, missing[0], "is missing")
    for name, told in said.items():
        why = _difference(files[name], told)
        if why:
            raise _changed(folder, name, why)
        files[name] |= {key: value for key, value in told.items() if value is not None}
    return (json.dumps({"schema": 1, "files": files}, indent=1, sort_keys=True) + "\n").encode()


def compare(folder: Path, said: Facts) -> None:
    """InfraError where a file is not what its writer says, before a seal is made."""
    for name, told in said.items():
        why = _unlike(folder / name, told)
        if why:
            raise _changed(folder, name, why)


def check(
    folder: Path,
    needed: Iterable[str] = (),
    only: Iterable[str] | None = None,
    is_copy: bool = False,
) -> Found:
    """Compare a sealed folder with its seal.

    needed: files that it must have. only: compare these alone, which a reader reads; else all.
    is_copy: the folder holds some of its files, and perhaps not its seal.
    """
    needed = tuple(needed)
    sealed = _read(folder)
    if sealed is None:
        wrong = {name: why for name in needed if (why := _unlike(folder / name, {}))}
        patch = None if is_copy else _patch(folder)
        if patch and not wrong and (why := _unlike(folder / "patch.diff", patch)):
            wrong["patch.diff"] = why
        if not is_copy and MARK in _record(folder):
            wrong = {SEAL: "is missing"} | wrong
        return Found(DAMAGED if wrong else NO_HASHES, wrong)
    if not sealed:
        return Found(DAMAGED, {SEAL: "cannot be read"})
    compared = sealed if only is None else {name: sealed[name] for name in only if name in sealed}
    if is_copy:
        compared = {name: of for name, of in compared.items() if (folder / name).exists()}
    wrong = {name: "is not in its seal" for name in needed if name not in sealed}
    wrong |= {name: why for name, told in compared.items() if (why := _unlike(folder / name, told))}
    return Found(DAMAGED if wrong else WHOLE, wrong)


def facts(path: Path) -> dict[str, int | str | None]:
    """{bytes, sha256} of a regular file; OSError where it is none, or cannot be read."""
    with os.fdopen(os.open(path, _READ), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(f"{path} is no regular file")
        return {"bytes": found.st_size, "sha256": file_digest(file, "sha256").hexdigest()}


def _changed(folder: Path, name: str, why: str) -> InfraError:
    return InfraError(
        f"{folder}/{name} {why}, although its writer says otherwise: something outside changed it, "
        "so that nothing was sealed"
    )


def _names(folder: Path) -> list[str]:
    found = []
    for place, _, names in os.walk(folder):
        for name in names:
            path = Path(place) / name
            if stat.S_ISREG(path.lstat().st_mode):
                found.append(str(path.relative_to(folder)))
    return sorted(name for name in found if name != SEAL)


def _unlike(path: Path, told: Mapping[str, Any]) -> str | None:
    """What is wrong with a file by what its seal tells of it; with no facts, whether it is there.

    The size is compared first, which reads nothing.
    """
    try:
        if not told:
            path.stat()
            return None
        size = path.lstat().st_size
        why = _difference({"bytes": size, "sha256": None}, told)
        return why if why or not told.get("sha256") else _difference(facts(path), told)
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror or error})"


def _difference(found: Mapping[str, Any], told: Mapping[str, Any]) -> str | None:
    if told.get("bytes") is not None and found["bytes"] != told["bytes"]:
        return f"has {found['bytes']} bytes and not {told['bytes']}"
    if found["sha256"] and told.get("sha256") and found["sha256"] != told["sha256"]:
        return "has another content than when it was written"
    return None


def _read(folder: Path) -> dict[str, dict[str, Any]] | None:
    """The files of a seal; nothing in one that cannot be read, and None where there is none."""
    try:
        with os.fdopen(os.open(folder / SEAL, _READ), "rb") as file:
            content = untrusted.loads(file.read(_SEAL_BYTES))
        files = content["files"] if isinstance(content, dict) else {}
        told = {name: {"bytes": of["bytes"], "sha256": of["sha256"]} for name, of in files.items()}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return {}
    return told if all(map(_is_inside, told)) else {}


def _is_inside(name: str) -> bool:
    """Whether a file below the folder can have that name."""
    try:
        parts = os.fsencode(name).split(b"/")
    except ValueError:
        return False
    return len(name) < _PATH_BYTES and all(
        0 < len(part) <= _NAME_BYTES and part not in (b".", b"..") and b"\0" not in part
        for part in parts
    )


def _record(folder: Path) -> dict[str, Any]:
    """The attempt's own record: empty where it has none that can be read."""
    for name in RECORDS:
        try:
            with os.fdopen(os.open(folder / name, _READ), "rb") as file:
                found = untrusted.loads(file.read(_SEAL_BYTES))
        except (OSError, ValueError):
            continue
        return found if isinstance(found, dict) else {}
    return {}


def _patch(folder: Path) -> dict[str, Any] | None:
    said = _record(folder).get("patch")
    said = said if isinstance(said, dict) else {}
    size, sha256 = said.get("bytes"), said.get("sha256")
    known = isinstance(size, int) and isinstance(sha256, str)
    return {"bytes": size, "sha256": sha256} if known else None
