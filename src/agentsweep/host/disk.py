"""What a run writes on this machine's disks, watched while it runs, and held to a budget.

All channels count together: the agent's home, session and marks, its two outputs, the container's
layer and the records that are made of the run. A run that has used its budget, or that has filled a
disk, is ended and is data; a disk that something else fills is a failure of the host.
"""

import contextlib
import ctypes
import os
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

# What a run may write unless `container.disk` says otherwise, and what a grading may.
BUDGET_BYTES = 8 * 2**30
# A file has at least this, so that empty ones are no way around the budget.
_ENTRY_BYTES = 512
_MOST_ENTRIES = 1_000_000
# Below this a disk is taken for full; records that are being written have their space already.
RESERVE_BYTES = 32 * 2**20
_RESERVE_INODES = 1000
_FREE_EVERY_S, _USED_EVERY_S = 0.25, 1.0
# Counting takes at most this share of the time.
_SHARE = 20
# A disk that has lost so much since then, and all that the run had left, is a reason to count now.
_LOST_BYTES = 256 * 2**20
# Another run that fills the disk is ended within seconds, and its space is then free again.
_PATIENCE_S = 30
# A run that has this share of its budget, or of what was free, has filled the disk itself.
_OWN_SHARE = 4
_KEEP_SIZE = 1


def used_bytes(folders: Iterable[Path], most_entries: int = _MOST_ENTRIES) -> int | None:
    """Bytes on disk of all that is in these folders; None where it is too many files to count.

    No link is followed, a file with several names counts once, and holes do not count.
    """
    total, entries, seen = 0, 0, set()
    waiting = [os.fspath(folder) for folder in folders]
    while waiting:
        with contextlib.suppress(OSError), os.scandir(waiting.pop()) as found:
            for entry in found:
                entries += 1
                if entries > most_entries:
                    return None
                with contextlib.suppress(OSError):
                    state = entry.stat(follow_symlinks=False)
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif state.st_nlink > 1:
                        if (state.st_dev, state.st_ino) in seen:
                            continue
                        seen.add((state.st_dev, state.st_ino))
                    total += max(state.st_blocks * 512, _ENTRY_BYTES)
    return total


def unlinked_bytes(
    pids: Iterable[int],
    folders: Iterable[Path],
    most_entries: int = _MOST_ENTRIES,
    proc: Path = Path("/proc"),
) -> int | None:
    """Bytes of files without a name that these processes hold open, each file once; None where
    there is too much to look at.

    Only those on the disks of `folders` and of the processes' own root count: others are memory,
    as memfd_create(2) and /dev/shm make them.
    """
    found: dict[tuple[int, int], int] = {}
    entries, named = 0, {state.st_dev for state in map(_state, folders) if state is not None}
    for pid in pids:
        own = proc / str(pid)
        root = _state(own / "root")
        disks = named if root is None else named | {root.st_dev}
        # A file that is mapped needs no descriptor.
        for kind in ("fd", "map_files"):
            with contextlib.suppress(OSError), os.scandir(own / kind) as handles:
                for handle in handles:
                    entries += 1
                    if entries > most_entries:
                        return None
                    state = _state(handle.path)
                    if state is not None and state.st_nlink == 0 and state.st_dev in disks:
                        found[state.st_dev, state.st_ino] = state.st_blocks * 512
    return sum(found.values())


def _state(path: str | Path) -> os.stat_result | None:
    try:
        return Path(path).stat()
    except OSError:
        return None


def hold(path: Path, n_bytes: int) -> None:
    """Give a file that is being written space beyond its end, where its file system can.

    fallocate(2), FALLOC_FL_KEEP_SIZE: the file's size stays, and what is appended finds its place
    on a disk that somebody else has filled. `release` gives back what was not needed.
    """
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            size, length = ctypes.c_int64(os.fstat(handle).st_size), ctypes.c_int64(n_bytes)
            libc.fallocate(handle, _KEEP_SIZE, size, length)
        finally:
            os.close(handle)


def release(path: Path) -> None:
    """Give back the space that `hold` took and that was not written to."""
    with contextlib.suppress(OSError):
        os.truncate(path, path.lstat().st_size)


class Watch:
    """Looks at a run's folders and disks, in a thread of its own, until `stop`.

    budget_bytes: of all folders together. `pids` gives the processes of the container. `over` is
    one sentence once the run has used too much, and `on_over` is then called in the thread; `host`
    is one once a disk stays full of what the run has not written.
    """

    def __init__(
        self,
        folders: Iterable[Path],
        disks: Iterable[Path],
        budget_bytes: int,
        pids: Callable[[], Iterable[int]],
        on_over: Callable[[], object] = lambda: None,
    ):
        self._folders, self._disks = tuple(folders), _one_each(disks)
        self._budget_bytes, self._pids, self._on_over = budget_bytes, pids, on_over
        self._free_bytes = {path: _free(path)[0] for path in self._disks}
        self._free_when_counted = self._free_bytes
        self._low_since: float | None = None
        self.used_bytes: int | None = 0
        self.over: str | None = None
        self.host: str | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        if self._thread.ident is not None:
            self._thread.join()

    def look(self) -> None:
        """Count now, once more; for the end of a run, when the thread has been stopped."""
        self._count()
        self._check_free()

    def _run(self) -> None:
        due = 0.0
        while not self._ended.wait(_FREE_EVERY_S) and self.over is None:
            begin = time.monotonic()
            self._check_free()
            if begin >= due or self._may_be_over():
                self._count()
                took = time.monotonic() - begin
                due = begin + max(_USED_EVERY_S, _SHARE * took)
        if self.over is not None:
            self._on_over()

    def _may_be_over(self) -> bool:
        """Whether the run may have used up what it had left when it was counted last. Very many
        files take seconds to count, so that the next time is minutes away."""
        left = self._budget_bytes - (self.used_bytes or 0)
        enough = max(left, _LOST_BYTES)
        return any(self._free_when_counted[path] - _free(path)[0] > enough for path in self._disks)

    def _count(self) -> None:
        self._free_when_counted = {path: _free(path)[0] for path in self._disks}
        self.used_bytes = self._used()
        if self.used_bytes is None:
            self.over = f"the run made, or holds open, more than {_MOST_ENTRIES:,} files"
        elif self.used_bytes > self._budget_bytes:
            self.over = (
                f"the run wrote more than container.disk allows ({_said(self._budget_bytes)})"
            )

    def _used(self) -> int | None:
        named = used_bytes(self._folders)
        if named is None:
            return None
        nameless = unlinked_bytes(self._pids(), self._folders)
        return None if nameless is None else named + nameless

    def _check_free(self) -> None:
        full = [path for path in self._disks if _is_full(path)]
        if not full or self.over is not None:
            self._low_since = None
            return
        now = time.monotonic()
        if self._low_since is None:
            self._low_since = now
        path = full[0]
        used = self._used()
        own = self._budget_bytes if used is None else used
        if own * _OWN_SHARE >= min(self._budget_bytes, self._free_bytes[path]):
            self.over = f"the run filled the disk of {path} with {_said(own)}"
        elif now - self._low_since > _PATIENCE_S:
            self.host = f"the disk that holds {path} is full, and not of what this run wrote"


def _one_each(paths: Iterable[Path]) -> tuple[Path, ...]:
    found: dict[int, Path] = {}
    for path in paths:
        with contextlib.suppress(OSError):
            found.setdefault(path.stat().st_dev, path)
    return tuple(found.values())


def _free(path: Path) -> tuple[int, bool]:
    """Bytes that are free, and whether there are files to be had; root's own share counts too."""
    try:
        state = os.statvfs(path)
    except OSError:
        return 2**63, True
    free = state.f_bfree if os.geteuid() == 0 else state.f_bavail
    # Some file systems have no number of files.
    return free * state.f_frsize, not state.f_files or state.f_ffree > _RESERVE_INODES


def _is_full(path: Path) -> bool:
    free_bytes, has_inodes = _free(path)
    return free_bytes < RESERVE_BYTES or not has_inodes


def _said(n_bytes: int) -> str:
    return f"{n_bytes / 2**30:.1f} GiB" if n_bytes >= 2**30 else f"{n_bytes / 2**20:.0f} MiB"
