"""What is wrong with a configuration that its keys' types cannot say."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from agentsweep.config import model_settings
from agentsweep.config.agent_models import AgentKeys
from agentsweep.config.models import Configuration
from agentsweep.errors import show
from agentsweep.schema import KeyPath
from agentsweep.units import parse_cpus, parse_size

_MODEL_ALIASES = {"default", "best", "haiku", "sonnet", "opus", "opusplan", "fable"}
_OWN_ARGUMENTS = {
    *("-p", "--print", "--verbose", "--output-format", "--input-format", "--model"),
    *("--session-id", "--dangerously-skip-permissions", "--max-turns", "--tools"),
    *("--resume", "--continue", "--fork-session", "--no-session-persistence"),
}

Problems = Iterator[tuple[KeyPath, str]]


def problems(settings: Configuration) -> Problems:
    """Path of keys and sentence, for everything that is wrong with a configuration by itself."""
    yield from _amounts(settings)
    yield from _imports(settings)
    published = settings.paper.published
    if published is not None and not Path(published).is_file():
        yield ("paper", "published"), f"{published!r} is not a file; write a CSV file, or null"
    if settings.images.distribute == "registry" and settings.images.registry is None:
        yield (
            ("images", "registry"),
            "missing, and `distribute: registry` needs it; name a repository, as in "
            "docker://registry.example.org/me/agentsweep",
        )
    container = settings.container
    if container.host_mounts and container.userland != "host":
        yield (
            ("container", "host_mounts"),
            f"{show(container.host_mounts)} needs `userland: host`; write [] with "
            f"`userland: {container.userland}`",
        )
    yield from model_settings.problems(settings.agent, settings.agents)
    yield from _agents(settings)


def _amounts(settings: Configuration) -> Problems:
    """Sizes and numbers of CPUs that are none."""
    amounts: tuple[tuple[str, str, str | float | None, Callable[[Any], object]], ...] = (
        ("measure", "mem_overhead", settings.measure.mem_overhead, parse_size),
        ("machine", "memory", settings.machine.memory, parse_size),
        ("grading", "memory", settings.grading.memory, parse_size),
        ("grading", "cpus", settings.grading.cpus, parse_cpus),
        ("container", "disk", settings.container.disk, parse_size),
    )
    for section, key, value, parse in amounts:
        try:
            if value is not None:
                parse(value)
        except ValueError as error:
            yield (section, key), str(error)


def _imports(settings: Configuration) -> Problems:
    places: dict[Path, str] = {}
    for name, entry in settings.imports.items():
        directory = Path(settings.imports_directory) / entry.directory
        other = places.setdefault(directory.resolve(), name)
        if other != name:
            yield (
                ("imports", name, "directory"),
                f"{str(directory)!r} is that of {other!r} too; name each data set once",
            )
        if name == settings.dataset:
            yield ("imports", name), "has the name of the sweep's own dataset; give it another"
        if not directory.is_dir():
            yield (
                ("imports", name, "directory"),
                f"{str(directory)!r} is no directory; set imports_directory to where the data are "
                "(AgentCgroup's: docs/agentcgroup.md says how to get them)",
            )


def _agents(settings: Configuration) -> Problems:
    """Arguments and model ids of agents that we cannot take."""
    yield from _own_arguments(("agent",), settings.agent)
    for name, agent in settings.agents.items():
        yield from _own_arguments(("agents", name), agent)
        if agent.model_id.lower().split("[")[0] in _MODEL_ALIASES:
            yield (
                ("agents", name, "model_id"),
                f"{agent.model_id!r} is an alias, whose meaning changes; write a full model id, "
                "such as claude-haiku-4-5-20251001",
            )


def _own_arguments(path: KeyPath, keys: AgentKeys) -> Problems:
    for index, argument in enumerate(keys.extra_args):
        if argument.split("=")[0] in _OWN_ARGUMENTS:
            yield (
                (*path, "extra_args", index),
                f"{argument!r} is set by agentsweep itself; leave it out",
            )
