"""Reading a configuration: its files, their layers, and all that is wrong with them.

Loading reads files and nothing else: no engine, no network, no key. Whatever is wrong is reported
at once, a line each, with file, key, value and what is allowed.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from agentsweep import schema
from agentsweep.agents.claude_code import invocation
from agentsweep.config import semantics
from agentsweep.config.agent_models import SCRIPTED, Agent
from agentsweep.config.cells import Cell, cells_of
from agentsweep.config.config import Config
from agentsweep.config.layers import is_base, merge, own_names
from agentsweep.config.models import Configuration
from agentsweep.containers import image_lock
from agentsweep.containers.image_lock import Locked
from agentsweep.errors import ConfigError
from agentsweep.extraction import recorded_runs
from agentsweep.schema import Json, KeyPath
from agentsweep.tasks import task_sets
from agentsweep.tasks.hub import HubSplit
from agentsweep.tasks.task_file import Task, load_task
from agentsweep.tasks.task_row import TaskRow
from agentsweep.tasks.task_sets import TaskSet
from agentsweep.utf8 import is_text

T = TypeVar("T")
# A file's name and what it says.
Layer = tuple[str, Json]

_NOT_TEXT = "half of a surrogate pair is not Unicode text; write the whole character"


def load(
    source: Iterable[Path] | Json, overrides: Json | None = None, files: Iterable[str | Path] = ()
) -> Config:
    """A checked configuration from files (later ones win, mappings are merged) or a mapping.

    `files` says, for a mapping that was merged from files, which ones: messages then name the file
    that a value comes from. Raises ConfigError with every problem that was found.
    """
    try:
        merged, layers = _merged(source, files)
        if overrides:
            merged = merge(merged, overrides)
        return _checked(merged, _Places(merged, layers))
    except RecursionError:
        # Out of JSON: a file is refused where it is read.
        raise ConfigError("--config: nested too deeply") from None


def hub_splits(source: Iterable[Path] | Json) -> list[HubSplit]:
    """The splits on the Hugging Face hub that a configuration names, each once.

    Nothing else of it is checked: until they are fetched, a configuration cannot be loaded.
    """
    tasks = _merged(source)[0].get("tasks")
    return task_sets.hub_splits(tasks if isinstance(tasks, dict) else {})


def _merged(
    source: Iterable[Path] | Json, files: Iterable[str | Path] = ()
) -> tuple[Json, list[Layer]]:
    if isinstance(source, Mapping):
        return dict(source), _layers(files)
    layers = [(str(path), schema.read_mapping(Path(path))) for path in source]
    merged: Json = {}
    for _, content in layers:
        merged = merge(merged, content)
    named = [content for path, content in layers if not is_base(Path(path))]
    return own_names(merged, named), layers


def _layers(files: Iterable[str | Path]) -> list[Layer]:
    layers: list[Layer] = []
    wrong: list[str] = []
    for path in files:
        try:
            layers.append((str(path), schema.read_mapping(Path(path))))
        except ConfigError as error:
            wrong += error.problems
    if wrong:
        raise ConfigError(wrong)
    return layers


class _Places:
    """Which file a value comes from: the last one that has it, else the command line."""

    def __init__(self, merged: Json, layers: list[Layer]):
        self._merged, self._layers = merged, layers

    def __call__(self, path: KeyPath) -> str:
        """`config/config.yaml: sweep.memory[1]`."""
        return f"{self._file(path)}: {schema.dotted(path)}"

    def _file(self, path: KeyPath) -> str:
        depth, value = _reach(self._merged, path)
        for name, content in reversed(self._layers):
            # What is missing is missing where its surroundings are.
            if _reach(content, path[:depth]) == (depth, value):
                return name
        return "--config"


def _reach(content: Any, path: KeyPath) -> tuple[int, object]:
    """How far a path of keys leads into a content; and what is there, where it leads to its end."""
    for depth, key in enumerate(path):
        try:
            content = content[key]
        except (KeyError, IndexError, TypeError):
            return depth, None
    return len(path), None if isinstance(content, Mapping) else content


def _checked(merged: Json, place: _Places) -> Config:
    # Out of JSON: YAML files are refused where they are read.
    wrong = [f"{place(path)}: {_NOT_TEXT}" for path in _not_text(merged)]
    if wrong:
        raise ConfigError(wrong)
    settings, problems = schema.check(Configuration, merged)
    if settings is None:
        raise ConfigError([f"{place(path)}: {said}" for path, said in problems])
    wrong = [f"{place(path)}: {said}" for path, said in semantics.problems(settings)]
    locked = _collect(wrong, image_lock.read, Path(settings.images.lock)) or {}
    settings, tasks, sets = _load_tasks(settings, locked, place, wrong)
    names = {name: found.names if found else None for name, found in sets.items()}
    wrong += [
        f"{place(('tasks', name))}: a set has the name of the task {name!r}; give it another"
        for name in sets
        # A set of one task may be called like it.
        if name in tasks and names[name] != [name]
    ]
    cells = cells_of(settings, place, wrong, names)
    wrong += [f"{place(path)}: {said}" for path, said in _base_commit_problems(cells, tasks)]
    for name in dict.fromkeys(cell.agent for cell in cells):
        own = [cell for cell in cells if cell.agent == name and cell.task in tasks]
        _check_agent(name, settings.agent_settings(name), own, tasks, place, wrong)
    if wrong:
        raise ConfigError(list(dict.fromkeys(wrong)))
    return Config(settings, tasks, locked, cells, filter(None, sets.values()))


def _check_agent(
    name: str,
    settings: Agent,
    cells: list[Cell],
    tasks: Mapping[str, Task],
    place: _Places,
    wrong: list[str],
) -> None:
    """What an agent of the sweep needs for its cells: its binary's hash, scenarios, recordings."""
    _collect(wrong, invocation.binary_sha256, Path(settings.lock), settings.version)
    for task in dict.fromkeys(cell.task for cell in cells):
        if settings.mode == SCRIPTED and not tasks[task].scenario:
            where = place(("tasks", task))
            wrong.append(f"{where}: no scenario, which agent {name} (model scripted) plays")
    recordings = settings.replayed_path
    for task, replicate in dict.fromkeys((cell.task, cell.replicate) for cell in cells):
        if recordings is not None:
            asked = (recordings, task, tasks[task].instance_id, replicate)
            where = f"{place(('agents', name, 'model', 'replay'))}: "
            _collect(wrong, recorded_runs.find, *asked, where=where)


def _not_text(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Where a configuration holds a string that is not Unicode text."""
    if isinstance(value, str):
        if not is_text(value):
            yield path
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            if isinstance(key, str) and not is_text(key):
                yield path
            yield from _not_text(inner, (*path, key))
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            yield from _not_text(inner, (*path, index))


def _collect(
    wrong: list[str], function: Callable[..., T], *arguments: Any, where: str = ""
) -> T | None:
    """Call it; what it finds wrong joins the list, with the place before it."""
    try:
        return function(*arguments)
    except ConfigError as error:
        wrong += [f"{where}{problem}" for problem in error.problems]
        return None


def _load_tasks(
    settings: Configuration, locked: Mapping[str, Locked], place: _Places, wrong: list[str]
) -> tuple[Configuration, dict[str, Task], dict[str, TaskSet | None]]:
    """All tasks, and the sets that some of them are of; None is a set that cannot be read.

    In the configuration that is returned each set in `tasks` is replaced by its tasks.
    """
    tasks: dict[str, Task] = {}
    sets: dict[str, TaskSet | None] = {}
    flat: dict[str, str | Json] = {}
    of: dict[str, str] = {}
    for name, source in settings.tasks.items():
        where = place(("tasks", name))
        if isinstance(source, str) and not Path(source).is_file():
            wrong.append(f"{where}: {source!r} is not a file; write a task file")
            flat[name] = source
            continue
        if _collect(wrong, task_sets.content_of, source) is None:
            found: list[tuple[str, str | Json, str, TaskRow | None]] = [
                (name, source, f"{where}.", None)
            ]
        else:
            of_set = _collect(wrong, task_sets.load_set, name, source, where, locked)
            sets[name] = of_set
            found = (
                [
                    (row.instance_id, of_set.task(row), f"{where}.{row.instance_id}.", row)
                    for row in of_set.rows
                ]
                if of_set
                else []
            )
        for task_name, entry, said, row in found:
            if task_name in flat:
                wrong.append(
                    f"{where}: {task_name!r} is a task of {of[task_name]!r} too; leave one out"
                )
                continue
            flat[task_name], of[task_name] = entry, name
            task = _collect(wrong, load_task, task_name, entry, said, row)
            if task is not None:
                tasks[task_name] = task
    return settings.model_copy(update={"tasks": flat}), tasks, sets


def _base_commit_problems(
    cells: list[Cell], tasks: Mapping[str, Task]
) -> Iterator[tuple[KeyPath, str]]:
    """Tasks on one image that say that its work tree is at different commits.

    One of them is wrong, and its solution may lie in the history that the other needs.
    """
    firsts: dict[tuple[str, str], tuple[str, TaskRow]] = {}
    for name in dict.fromkeys(cell.task for cell in cells):
        task = tasks.get(name)
        if task is None or task.row is None:
            continue
        where = task.reference, task.workdir
        other, row = firsts.setdefault(where, (task.name, task.row))
        if row.base_commit != task.row.base_commit:
            yield (
                ("tasks", name),
                f"has the image of {other!r} ({task.reference}) and another base_commit "
                f"({task.row.base_commit[:12]}, there {row.base_commit[:12]}); write the "
                "image that was made for it",
            )
