"""Which engine to use: the one that the configuration names, or the first that works here."""

import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

from agentsweep.containers import podman
from agentsweep.containers.docker import Docker
from agentsweep.containers.engine import Engine
from agentsweep.containers.podman import Podman
from agentsweep.errors import InfraError, LastingError
from agentsweep.host import limits

AUTO = "auto"


def chosen(engine: Engine, asked: str) -> str:
    """Which engine it is, and with `auto` why, for people."""
    info = engine.info()
    said = f"{info['name']} {info['version']} with {info['runtime']}"
    if asked == AUTO:
        said += ", the first engine that works here"
        said += "".join(f" (not {reason})" for reason in engine.passed_over)
    return said


def _docker(runtime: str, workdir: Path) -> list[Engine]:
    return [Docker(None if runtime == AUTO else runtime, workdir)]


_CANDIDATES: dict[str, tuple[type[Engine], Callable[[str, Path], Iterable[Engine]]]] = {
    "podman": (Podman, podman.candidates),
    "docker": (Docker, _docker),
}


def find_engine(name: str, runtime: str, workdir: Path) -> Engine:
    """The engine and runtime that the configuration asks for, `auto` meaning: one that works here.

    Podman goes before Docker, and one that ignores limits behind one that does not. Works means
    that a container was started, which is tried once per boot and remembered in `workdir`.
    InfraError, with the reason of each, where none does.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    names = list(_CANDIDATES) if name == AUTO else [name]
    present = [candidate for candidate in names if shutil.which(candidate)]
    if not present:
        hint = _CANDIDATES[names[0]][0].install_hint
        raise LastingError(f"no container engine: {' or '.join(names)} is not on PATH; {hint}")
    reasons: list[str] = []
    without_limits: Engine | None = None
    for candidate in present:
        for engine in _CANDIDATES[candidate][1](runtime, workdir):
            problem = engine.problem()
            if problem is None:
                problem = limits.ignored(engine.info())
                if problem is None:
                    engine.passed_over = tuple(reasons)
                    return engine
                without_limits = without_limits or engine
            reasons.append(f"{candidate}: {problem}")
    if without_limits is not None:
        return without_limits
    raise InfraError(
        f"no container can be started here ({'; '.join(reasons)}): run `agentsweep doctor`"
    )
