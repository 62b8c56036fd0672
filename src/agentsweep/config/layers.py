"""Which files a configuration is made of, and how they are laid over each other.

`agentsweep --config my.yaml` and `snakemake --configfile my.yaml` use the same layers, lowest
first: the demo's file (only where nothing else says what to sweep), the base file, and what was
named, in its order. A mapping is merged key by key; any other value replaces the one below.
"""

import copy
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from agentsweep import schema
from agentsweep.config.models import Configuration
from agentsweep.errors import ConfigError
from agentsweep.schema import Json, KeyPath

# Relative to the working directory, as all paths of a configuration are.
BASE = Path("config/config.yaml")
DEMO = Path("config/demo.yaml")


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> Json:
    """`base` with `over` laid upon it, mapping by mapping, as Snakemake merges its configs."""
    merged = dict(base)
    for key, value in over.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def files(named: Iterable[Path]) -> list[Path]:
    """All files of a configuration, lowest first; ConfigError where one cannot be read."""
    found = [*([BASE] if BASE.is_file() else []), *named]
    sweeps = any("sweep" in schema.read_mapping(path) for path in found)
    return found if sweeps or not _has_demo() else [DEMO, *found]


def of_workflow(merged: Json, named: Iterable[str | Path], given: Json) -> tuple[Json, list[Path]]:
    """What Snakemake merged, completed; and the demo's file, where it had to be laid below.

    named: the files after `--configfile`; given: what `--config` said.
    """
    below = [] if "sweep" in merged or not _has_demo() else [DEMO]
    for path in below:
        merged = merge(schema.read_mapping(path), merged)
    own = [schema.read_mapping(Path(path)) for path in named if not is_base(Path(path))]
    return own_names(typed(merged, given), [*own, given]), below


def is_base(path: Path) -> bool:
    """Whether it is the base file or the demo's, which everybody has, and not a user's own."""
    return any(ours.exists() and path.exists() and path.samefile(ours) for ours in (BASE, DEMO))


def typed(merged: Json, given: Json) -> Json:
    """`merged`, with numbers and booleans where `given` has their text and a text is refused.

    Snakemake reads what stands below the first level of `--config 'agent={max_turns: 3}'` as texts.
    """
    try:
        content = copy.deepcopy(dict(merged))
    except RecursionError:
        raise ConfigError("--config: nested too deeply") from None
    for path, _ in schema.problems(Configuration, content):
        text = _at(given, path)
        # At the first level Snakemake has told numbers from texts.
        if len(path) < 2 or not isinstance(text, str) or _at(content, path) != text:
            continue
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError):
            continue
        _at(content, path[:-1])[path[-1]] = value
    return content


def _at(content: Any, path: KeyPath) -> Any:
    for key in path:
        try:
            content = content[key]
        except (KeyError, IndexError, TypeError):
            return None
    return content


def own_names(merged: Json, named: Iterable[Json]) -> Json:
    """`merged`, where a sweep that names no tasks (or agents) has those of the named layers.

    Without this it would have those that the base file defines for everybody as well.
    """
    sweep, named = merged.get("sweep"), list(named)
    if not isinstance(sweep, Mapping) or sweep.get("cells") is not None:
        return dict(merged)
    filled = {}
    for key in ("tasks", "agents"):
        defined = [layer[key] for layer in named if isinstance(layer.get(key), Mapping)]
        names = list(dict.fromkeys(name for names in defined for name in names))
        if sweep.get(key) is None and names:
            filled[key] = names
    return dict(merged) | {"sweep": dict(sweep) | filled}


def _has_demo() -> bool:
    return BASE.is_file() and DEMO.is_file()
