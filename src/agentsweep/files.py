"""Files that a crash leaves whole or not at all, and disks that take no more."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from agentsweep.errors import LastingError


def write_durably(path: Path, data: bytes) -> None:
    """Write a file so that after a crash it is there whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with temporary.open("wb") as handle:
        handle.write(data)
        handle.flush()
        os.fsync(handle.fileno())
    temporary.rename(path)
    sync(path.parent)


@contextlib.contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn a full or read-only disk into one sentence; nothing sealed is ever touched."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise LastingError(
                f"the disk that holds {where} is full: free some space and run again; "
                "sealed attempts are intact"
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise LastingError(
                f"{where} cannot be written ({error.strerror}): mend its permissions, or name "
                "another directory"
            ) from error
        raise


def sync_tree(root: Path) -> None:
    """Sync all files below a directory to disk, and the directories."""
    for folder, _, files in os.walk(root):
        for name in files:
            path = Path(folder) / name
            if path.is_file() and not path.is_symlink():
                sync(path)
        sync(Path(folder))


def sync(path: Path) -> None:
    """Sync one file, or what a directory lists, to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def link(source: Path, target: Path) -> bool:
    """Make a hard link; False where the file system does not have them from here to there."""
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.ENOTSUP):
            raise
        return False
    return True


def cut(path: Path, limit_bytes: int) -> None:
    """Shorten a file to the whole lines that its first `limit_bytes` have."""
    with contextlib.suppress(OSError):
        flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        with os.fdopen(os.open(path, flags), "rb+") as file:
            if os.fstat(file.fileno()).st_size <= limit_bytes:
                return
            end = limit_bytes
            while end > 0:
                begin = max(0, end - 2**16)
                file.seek(begin)
                at = file.read(end - begin).rfind(b"\n")
                if at >= 0:
                    end = begin + at + 1
                    break
                end = begin
            # A line that is longer than that is cut.
            file.truncate(end or limit_bytes)
