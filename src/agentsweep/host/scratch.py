"""Scratch directories of this user on this node, one for each run while it lives, and locks.

Each carries its owner, so that the next start on this node can tell what a killed runner left
behind, and remove that and nothing else.
"""

import contextlib
import fcntl
import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from agentsweep.errors import LastingError
from agentsweep.host.processes import owner_is_dead, owner_tag

_OWNER = "owner"


def root() -> Path:
    """This user's scratch directory on this node; short, because socket paths end at 107 bytes."""
    return own_directory(Path(tempfile.gettempdir()), "set TMPDIR")


def own_directory(base: Path, cure: str) -> Path:
    """This user's own directory below one that all can write; InfraError where it is not ours."""
    folder = base / f"agentsweep-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.lstat().st_uid != os.getuid() or folder.is_symlink():
        raise LastingError(f"{folder} belongs to somebody else: remove it or {cure}")
    return folder


def engine_dir() -> Path:
    """Where engine calls run and what is known of this node's engine is kept."""
    folder = root() / "engine"
    folder.mkdir(exist_ok=True)
    return folder


def create(name: str) -> Path:
    """A new scratch directory; no other process may have one of that name."""
    folder = root() / "runs" / name
    remove(folder)
    folder.mkdir(parents=True)
    (folder / _OWNER).write_text(owner_tag(), encoding="utf-8")
    return folder


def open_to_all(folder: Path) -> None:
    """Let every user read what is in a folder, whatever the umask was when it was made.

    For what is mounted into containers, whose users are nobody on this host; the folder itself
    stays below one that is this user's alone. Programs stay programs; sockets are left alone.
    """
    for path in (folder, *folder.rglob("*")):
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            path.chmod(0o755)
        elif stat.S_ISREG(mode):
            path.chmod(0o755 if mode & stat.S_IXUSR else 0o644)


def remove(folder: Path) -> None:
    """Delete a scratch directory, whatever the agent made in it; silent where there is none.

    Its owner's name goes last, so that a removal that is killed is finished by the next start.
    """
    with contextlib.suppress(OSError):
        remove_trees(*(path for path in folder.iterdir() if path.name != _OWNER))
    remove_trees(folder)


def left_behind() -> list[Path]:
    """The scratch directories whose owner is dead, by name."""
    found = []
    with contextlib.suppress(FileNotFoundError):
        for folder in sorted((root() / "runs").iterdir()):
            with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
                if owner_is_dead((folder / _OWNER).read_text(encoding="utf-8")):
                    found.append(folder)
    return found


def remove_trees(*paths: Path) -> None:
    """`rm -rf`, which goes as deep as an agent can nest directories, and Python does not."""
    if not paths:
        return
    command = ["rm", "-rf", "--", *map(str, paths)]
    done = subprocess.run(command, stderr=subprocess.DEVNULL, check=False, start_new_session=True)
    if done.returncode != 0 and os.getuid() != 0:
        # The agent may have taken permissions away from its (and thereby our) own directories.
        subprocess.run(
            ["chmod", "-R", "u+rwX", "--", *(str(path) for path in paths if path.is_dir())],
            stderr=subprocess.DEVNULL,
            check=False,
        )
        subprocess.run(command, stderr=subprocess.DEVNULL, check=False)


@contextlib.contextmanager
def node_lock(folder: Path, name: str) -> Iterator[None]:
    """One process of this node at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
