"""What one run leaves on this node while it lives: a scratch directory and a container.

Both carry their owner, so that the next start on this node can tell what a killed runner left
behind, and remove that and nothing else.
"""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path

from agentsweep.engine import Engine
from agentsweep.errors import InfraError
from agentsweep.process import owner_is_dead, owner_tag


def root() -> Path:
    """This user's scratch directory on this node; short, because socket paths end at 107 bytes."""
    base = Path(tempfile.gettempdir()) / f"agentsweep-{os.getuid()}"
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    if base.lstat().st_uid != os.getuid() or base.is_symlink():
        raise InfraError(f"{base} belongs to somebody else: remove it or set TMPDIR")
    return base


def engine_dir() -> Path:
    """Where engine calls run and what is known of this node's engine is kept."""
    folder = root() / "engine"
    folder.mkdir(exist_ok=True)
    return folder


def create(attempt_id: str) -> Path:
    """A new scratch directory of one attempt."""
    folder = root() / "runs" / attempt_id
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / "owner").write_text(owner_tag())
    return folder


def clean_up(engine: Engine) -> list[str]:
    """Remove what runs of this user left behind whose runner is dead; returns what was removed."""
    removed = []
    for container in engine.owned():
        if owner_is_dead(container["owner"]):
            engine.remove(container["id"])
            removed.append(f"container {container['attempt']}")
    runs = root() / "runs"
    with contextlib.suppress(FileNotFoundError):
        for folder in sorted(runs.iterdir()):
            with contextlib.suppress(FileNotFoundError):
                if owner_is_dead((folder / "owner").read_text()):
                    shutil.rmtree(folder, ignore_errors=True)
                    removed.append(f"scratch directory {folder.name}")
    return removed
