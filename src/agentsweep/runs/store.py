"""The run store: sealed attempts, found by the hash of their spec.

Layout, append-only and never deleted by the workflow:

    store/<spec sha256>/lock                     held while an attempt runs
    store/<spec sha256>/spec.json                the canonical spec
    store/<spec sha256>/attempt-<n>/             sealed: complete and durable
    store/<spec sha256>/attempt-<n>.partial/     being written, under the lock
    store/<spec sha256>/attempt-<n>.failed/      an infrastructure error, kept for a look
    store/<spec sha256>/attempt-<n>.interrupted/ its runner died or was stopped
    store/<spec sha256>/attempt-<n>.superseded/  sealed, and then set aside to be run again

An attempt is written as `.partial`, synced to disk and sealed by one rename, so that a crash
at any moment leaves either a sealed attempt or one that nobody takes for sealed. A sealed attempt
holds `seal.json`, which says what its files are (`seal`).
"""

import contextlib
import fcntl
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from agentsweep import locks, seal, untrusted
from agentsweep.errors import AgentsweepError
from agentsweep.files import disk_errors, link, sync, sync_tree, write_durably

_ATTEMPT = re.compile(r"^attempt-([0-9]+)(?:\.(partial|failed|interrupted|superseded))?$")
SEALED, SUPERSEDED = "sealed", "superseded"

# The files of a run that results get. The others are for a look when something went wrong.
PUBLISHED = (
    "result.json",
    "trace.jsonl",
    "session.tar",
    "samples.arrow",
    "marks.jsonl",
    "api.jsonl",
    "patch.diff",
)


@dataclass(frozen=True)
class Attempt:
    """One attempt directory; `state` is sealed, partial, failed, interrupted or superseded."""

    spec_sha256: str
    number: int
    state: str
    path: Path

    @property
    def id(self) -> str:
        return f"{self.spec_sha256[:12]}-{self.number}"

    def result(self) -> dict[str, Any] | None:
        """The attempt's `result.json`, or None where it was never written or is unreadable."""
        try:
            found = untrusted.read_json(self.path / "result.json")
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None


def spec_sha256(spec: str) -> str:
    """The name under which a canonical spec's attempts are stored."""
    return sha256(spec.encode()).hexdigest()


class Store:
    """A directory of attempts. Creating one writes nothing."""

    def __init__(self, root: Path):
        self.root = Path(root)

    def attempts(self, key: str) -> list[Attempt]:
        """All attempts of one spec, by number."""
        found = []
        with contextlib.suppress(FileNotFoundError):
            for path in (self.root / key).iterdir():
                if match := _ATTEMPT.match(path.name):
                    number, state = int(match[1]), match[2] or "sealed"
                    found.append(Attempt(key, number, state, path))
        return sorted(found, key=lambda attempt: (attempt.number, attempt.state))

    def sealed(self, key: str) -> Attempt | None:
        """The first sealed attempt: which one is recalled must not depend on later ones."""
        return next((a for a in self.attempts(key) if a.state == "sealed"), None)

    def keys(self) -> list[str]:
        """The spec hashes that the store holds anything for."""
        with contextlib.suppress(FileNotFoundError):
            return sorted(
                p.name for p in self.root.iterdir() if re.fullmatch(r"[0-9a-f]{64}", p.name)
            )
        return []

    def spec(self, key: str) -> dict[str, Any] | None:
        """The spec behind a hash, or None where the file is missing or is no spec."""
        try:
            content = untrusted.read_json(self.root / key / "spec.json")
        except (OSError, ValueError):
            return None
        return content if isinstance(content, dict) else None

    @contextlib.contextmanager
    def locked(self, key: str, spec: str) -> Iterator[None]:
        """Hold the spec's lock: the only way to write attempts of it.

        A second caller waits, and then finds what the first one sealed. The lock goes with its
        process, so a killed runner leaves none behind.
        """
        folder = self.root / key
        with disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            with disk_errors(folder):
                if not (folder / "spec.json").exists():
                    write_durably(folder / "spec.json", spec.encode())
            yield
        finally:
            os.close(handle)

    def is_locked(self, key: str) -> bool:
        """Whether a living process holds a spec's lock."""
        path = self.root / key / "lock"
        if not path.exists():
            return False
        with path.open("a", encoding="utf-8") as handle:
            return not locks.take(handle.fileno())

    def retire_partials(self, key: str) -> list[Attempt]:
        """Under the lock, a partial attempt has no living runner: mark it interrupted, keep it."""
        retired = []
        for attempt in self.attempts(key):
            if attempt.state == "partial":
                attempt.path.rename(self.root / key / f"attempt-{attempt.number}.interrupted")
                retired.append(attempt)
        return retired

    def begin(self, key: str) -> Attempt:
        """A new partial attempt with the next free number."""
        number = max((a.number for a in self.attempts(key)), default=0) + 1
        path = self.root / key / f"attempt-{number}.partial"
        with disk_errors(path):
            path.mkdir()
        return Attempt(key, number, "partial", path)

    def finish(
        self,
        attempt: Attempt,
        state: str,
        needed: Iterable[str] = (),
        said: seal.Facts | None = None,
    ) -> Attempt:
        """Sync a partial attempt to disk and rename it: `sealed`, `failed` or `interrupted`.

        needed, said: of one that is to be sealed, as `seal.make` takes them. Raises InfraError,
        and seals nothing, where its files are not as they must be.
        """
        name = f"attempt-{attempt.number}" + ("" if state == "sealed" else f".{state}")
        target = attempt.path.with_name(name)
        with disk_errors(attempt.path):
            sync_tree(attempt.path)
            if state == SEALED:
                content = seal.make(attempt.path, needed, said)
                write_durably(attempt.path / seal.SEAL, content)
            attempt.path.rename(target)
            sync(attempt.path.parent)
        return Attempt(attempt.spec_sha256, attempt.number, state, target)

    def supersede(self, attempt: Attempt) -> Attempt:
        """Set a sealed attempt aside: it is kept, and not recalled any more."""
        target = attempt.path.with_name(f"attempt-{attempt.number}.{SUPERSEDED}")
        with disk_errors(attempt.path):
            attempt.path.rename(target)
            sync(attempt.path.parent)
        return Attempt(attempt.spec_sha256, attempt.number, SUPERSEDED, target)

    def remove(self, attempt: Attempt) -> None:
        """Delete one attempt; for the user's explicit command only."""
        shutil.rmtree(attempt.path)

    def resolve(self, name: str) -> list[Attempt]:
        """The attempts that a user names: `<hash prefix>` or `<hash prefix>-<n>`.

        Raises AgentsweepError where nothing or more than one spec matches.
        """
        match = re.fullmatch(r"([0-9a-f]{6,64})(?:-([0-9]+))?", name)
        if not match:
            raise AgentsweepError(
                f"{name!r} names no attempt: write at least 6 digits of a spec hash, "
                "with -<n> for one attempt, as `agentsweep store list` shows them"
            )
        keys = [key for key in self.keys() if key.startswith(match[1])]
        if len(keys) != 1:
            found = "no spec" if not keys else f"{len(keys)} specs"
            raise AgentsweepError(f"{name!r} matches {found} in {self.root}; write more digits")
        attempts = self.attempts(keys[0])
        if match[2]:
            attempts = [a for a in attempts if a.number == int(match[2])]
        if not attempts:
            raise AgentsweepError(f"{name!r}: no such attempt in {self.root / keys[0]}")
        return attempts


def publish(attempt: Attempt, out: Path, names: tuple[str, ...]) -> None:
    """Put a sealed attempt's files into a result directory, as hard links where possible.

    Hard links cost no space and survive `rm -rf results`; another file system gets copies, and
    so does a second cell of the same spec: the time that is set below belongs to one of them. The
    seal goes with them, as far as there is one, so that they can be compared with it there.
    """
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for name in (*names, seal.SEAL):
            target = out / name
            target.unlink(missing_ok=True)
            source = attempt.path / name
            if name == seal.SEAL and not source.exists():
                continue
            if source.stat().st_nlink > 1 or not link(source, target):
                shutil.copy2(source, target)
            # Snakemake compares times: a recalled file must be newer than its inputs, and a
            # hard link would otherwise carry the day on which the run was made.
            os.utime(target)
