"""What one run leaves on this node while it lives: a scratch directory and a container.

Both carry their owner, so that the next start on this node can tell what a killed runner left
behind, and remove that and nothing else.
"""

import contextlib
import fcntl
import os
import stat
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agentsweep.engine import Engine
from agentsweep.engines import find_engine
from agentsweep.errors import AgentsweepError, LastingError
from agentsweep.process import owner_is_dead, owner_tag

_OWNER = "owner"
# An engine may take minutes to say that it cannot remove a container.
_AGAIN_S = 600


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


@dataclass(frozen=True)
class Cleaned:
    """What was removed of runs whose runner is dead, and a sentence for each thing that stays."""

    removed: tuple[str, ...] = ()
    left: tuple[str, ...] = ()

    @property
    def said(self) -> list[str]:
        """All of it, for people."""
        removed = [f"removed {what}, left behind by a run that was killed" for what in self.removed]
        return [*removed, *self.left]


def clean_up(engine: Engine) -> Cleaned:
    """Remove what runs of this user left behind whose runner is dead.

    What cannot be removed is no reason to stop, or each later run of this user would: it is said,
    and tried again after a while. One process at a time, because two that remove one container
    get into each other's way.
    """
    with node_lock(engine.workdir, "clean-up"):
        return _remove_dead(engine)


def clean_engine(settings: Mapping, say: Callable[[str], object] = print) -> Engine:
    """The engine of a section `container`, after `clean_up`."""
    found = find_engine(settings["engine"], settings["runtime"], engine_dir())
    for sentence in clean_up(found).said:
        say(sentence)
    return found


def _remove_dead(engine: Engine) -> Cleaned:
    removed, left = [], []
    for container in engine.owned():
        if not owner_is_dead(container["owner"]):
            continue
        stuck = engine.workdir / f"stuck-{container['id']}"
        if (said := _tried_lately(stuck)) is not None:
            left.append(said)
            continue
        try:
            engine.remove(container["id"])
        except AgentsweepError as error:
            sentence = f"{error} (container {container['attempt']}, whose run was killed)"
            stuck.write_text(sentence, encoding="utf-8")
            left.append(sentence)
            continue
        stuck.unlink(missing_ok=True)
        removed.append(f"container {container['attempt']}")
    runs = root() / "runs"
    with contextlib.suppress(FileNotFoundError):
        for folder in sorted(runs.iterdir()):
            with contextlib.suppress(FileNotFoundError, UnicodeDecodeError):
                if owner_is_dead((folder / _OWNER).read_text(encoding="utf-8")):
                    remove(folder)
                    if folder.exists():
                        left.append(f"{folder} cannot be removed: delete it by hand")
                    else:
                        removed.append(f"scratch directory {folder.name}")
    return Cleaned(tuple(removed), tuple(left))


def _tried_lately(stuck: Path) -> str | None:
    """What was said when a container could not be removed, for as long as it is not tried again."""
    with contextlib.suppress(OSError):
        if 0 <= time.time() - stuck.stat().st_mtime < _AGAIN_S:
            return stuck.read_text(encoding="utf-8", errors="replace")
    return None


@contextlib.contextmanager
def node_lock(folder: Path, name: str) -> Iterator[None]:
    """One process of this node at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{name}.lock").open("w", encoding="utf-8") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
