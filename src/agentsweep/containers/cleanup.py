"""What this user's killed runs left on this node: containers and scratch directories."""

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agentsweep.containers.engine import Engine
from agentsweep.containers.engines import find_engine
from agentsweep.errors import AgentsweepError
from agentsweep.host import scratch
from agentsweep.host.processes import owner_is_dead

# An engine may take minutes to say that it cannot remove a container.
_AGAIN_S = 600


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
    with scratch.node_lock(engine.workdir, "clean-up"):
        return _remove_dead(engine)


def clean_engine(name: str, runtime: str, say: Callable[[str], object] = print) -> Engine:
    """The engine that a configuration names, after `clean_up`."""
    engine = find_engine(name, runtime, scratch.engine_dir())
    for sentence in clean_up(engine).said:
        say(sentence)
    return engine


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
    for folder in scratch.left_behind():
        scratch.remove(folder)
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
