"""The configuration: read, checked, and turned into cells, specs and jobs.

Loading reads files and nothing else: no engine, no network, no key. Whatever is wrong is reported
at once, a line each, with file, key, value and what is allowed.
"""

import functools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from agentsweep import schema
from agentsweep.agents.claude_code import invocation
from agentsweep.config import model_settings
from agentsweep.config.cells import Cell, cells_of
from agentsweep.config.layers import is_base, merge, own_names
from agentsweep.containers import image_lock
from agentsweep.errors import ConfigError, show
from agentsweep.extraction import recorded_runs
from agentsweep.extraction.recorded_runs import ReplaySource
from agentsweep.hashes import text_sha256
from agentsweep.host import disk
from agentsweep.host.capacity import Machine, MachineSettings, decimal_mb
from agentsweep.runs.job import Job
from agentsweep.runs.recall import Choice, Recall, Repeat
from agentsweep.runs.spec import FIX_RECIPE, PROTOCOL, ImageRef, canonical, cores
from agentsweep.runs.store import Store, spec_sha256
from agentsweep.tasks import task_sets
from agentsweep.tasks.hub import HubSplit
from agentsweep.tasks.task_file import Task, load_task
from agentsweep.tasks.task_sets import TaskSet
from agentsweep.units import parse_cpus, parse_size
from agentsweep.utf8 import is_text

# What a run may take beside its agent: loading an image of some gigabytes, collecting, sealing.
START_UP_S = 900

_MODEL_ALIASES = {"default", "best", "haiku", "sonnet", "opus", "opusplan", "fable"}
_NOT_TEXT = "half of a surrogate pair is not Unicode text; write the whole character"
_OWN_ARGUMENTS = {
    *("-p", "--print", "--verbose", "--output-format", "--input-format", "--model"),
    *("--session-id", "--dangerously-skip-permissions", "--max-turns", "--tools"),
    *("--resume", "--continue", "--fork-session", "--no-session-persistence"),
}
_RUNNER_KEYS = ("timeout_s", "stall_s", "grace_s", "on_miss", "repeat", "repeat_times")
_CONTAINER_KEYS = (
    *("engine", "runtime", "userland", "network", "host_mounts", "uid", "gid"),
    "cgroup_parent",
)
_IMAGES_KEYS = ("distribute", "archive_directory", "registry")
_AGENT_SPEC_KEYS = ("system_search", "bash_timeout_s", "max_turns", "max_retries")


@dataclass(frozen=True)
class Import:
    """A data set of runs that others made: where it lies, how, and which attempts count."""

    name: str
    directory: Path
    layout: str
    attempts: str


class Config:
    """A checked configuration; `config["container"]` and so on are its sections.

    In `config["tasks"]` a task set is gone, and each of its tasks is there by its own name.
    """

    def __init__(
        self,
        data: dict,
        tasks: dict[str, Task],
        locked: dict,
        cells: list[Cell],
        sets: Iterable[TaskSet] = (),
    ):
        self._data, self._tasks, self._locked, self._cells = data, tasks, locked, cells
        self._sets = list(sets)
        self._by_id = {cell.id: cell for cell in cells}

    def __getitem__(self, section: str):
        return self._data[section]

    def cells(self) -> list[Cell]:
        """Every cell of the sweep, in the order of the configuration."""
        return list(self._cells)

    def cell(self, cell_id: str) -> Cell:
        """The cell of that id; ConfigError where the sweep has none."""
        if cell_id not in self._by_id:
            raise ConfigError(f"{cell_id} is no cell of this sweep; `agentsweep plan` lists them")
        return self._by_id[cell_id]

    def imports(self) -> list[Import]:
        """The data sets to import, in the order of the configuration."""
        node = schema.load_schema("config")["properties"]["imports"]["additionalProperties"]
        base = Path(self._data["imports_directory"])
        found = []
        for name, given in self._data["imports"].items():
            entry = schema.with_defaults("config", given, node)
            found.append(
                Import(name, base / entry["directory"], entry["layout"], entry["attempts"])
            )
        return found

    def task(self, name: str) -> Task:
        """One task; ConfigError where the configuration has none of that name."""
        if name not in self._tasks:
            raise ConfigError(f"{name} is no task of this configuration: name one of `tasks`")
        return self._tasks[name]

    def task_names(self) -> list[str]:
        """The tasks of the sweep, each once, in its order."""
        return list(dict.fromkeys(cell.task for cell in self._cells))

    def task_sets(self) -> list[TaskSet]:
        """The task sets, in the order of the configuration."""
        return list(self._sets)

    @functools.cache  # noqa: B019 - a Config lives as long as its process
    def agent_settings(self, name: str) -> dict:
        """`agent`, with what this agent overrides."""
        return _settings(self._data, name)

    def mode(self, cell: Cell) -> str:
        """Where the cell's model turns come from: scripted, live or replay."""
        return model_settings.mode(self.agent_settings(cell.agent))

    def recording(self, cell: Cell) -> ReplaySource | None:
        """What a replay agent plays in this cell; None for other agents."""
        path = model_settings.replayed_path(self.agent_settings(cell.agent))
        if path is None:
            return None
        instance_id = self._tasks[cell.task].instance_id
        return recorded_runs.find(path, cell.task, instance_id, cell.replicate)

    @functools.cache  # noqa: B019
    def image_of(self, task: str) -> ImageRef:
        """The image that a task runs in."""
        wanted, user = self._tasks[task], self._data["container"]
        locked = self._locked.get(wanted.reference)
        return ImageRef(
            reference=wanted.reference,
            digest=locked.digest if locked else None,
            config_digest=locked.config_digest if locked else None,
            workdir=wanted.workdir,
            uid=user["uid"],
            gid=user["gid"],
        )

    def image_references(self) -> list[str]:
        """The references of all images that the sweep needs, each once."""
        return list(dict.fromkeys(self._tasks[cell.task].reference for cell in self._cells))

    def references_to_lock(self) -> list[str]:
        """Those, and those whose sizes decide which rows a set takes; each once."""
        sized = [reference for found in self._sets for reference in found.sized]
        return list(dict.fromkeys([*self.image_references(), *sized]))

    @functools.cache  # noqa: B019
    def _half_spec(self, task_name: str, agent_name: str) -> dict:
        """What a spec says apart from limits, model and replicate: the same for many cells."""
        task, settings = self._tasks[task_name], self.agent_settings(agent_name)
        container, image = self._data["container"], self.image_of(task_name)
        args = [*settings["extra_args"]]
        if settings["tools"] is not None:
            args += ["--tools", ",".join(settings["tools"])]
        return {
            "protocol": PROTOCOL,
            "agent": {
                "name": "claude-code",
                "version": settings["version"],
                "binary_sha256": self._binary_sha256(agent_name),
                "model_id": settings["model_id"],
                "args": args,
                **{key: settings[key] for key in _AGENT_SPEC_KEYS},
            },
            "timeout_s": settings["timeout_s"],
            "stall_s": settings["stall_s"],
            "grace_s": settings["grace_s"],
            "prompt_sha256": text_sha256(task.prompt),
            "task": {
                "workdir": task.workdir,
                "environment_sha256": text_sha256(task.environment),
                "python": task.python,
                **_row_part(task),
            },
            "image": {
                "digest": image.digest or image_lock.UNLOCKED,
                "recipe": FIX_RECIPE,
                "uid": image.uid,
                "gid": image.gid,
            },
            "container": {key: container[key] for key in ("userland", "network", "host_mounts")},
        }

    @functools.cache  # noqa: B019
    def _binary_sha256(self, agent_name: str) -> str:
        settings = self.agent_settings(agent_name)
        return invocation.binary_sha256(Path(settings["lock"]), settings["version"])

    def limits(self, cell: Cell) -> dict:
        """The cell's limits, in bytes and CPUs."""
        container = self._data["container"]
        return {
            "memory_bytes": parse_size(cell.memory),
            "swap_bytes": 0,
            "cpus": cell.cpus,
            "cpu_mode": cell.cpu_mode,
            "pids": container["pids"],
        }

    def _disk_limit(self) -> dict:
        """What a spec says of the disk: nothing at the default, as before there was a limit."""
        n_bytes = parse_size(self._data["container"]["disk"])
        return {} if n_bytes == disk.BUDGET_BYTES else {"disk_bytes": n_bytes}

    @functools.cache  # noqa: B019
    def spec(self, cell: Cell) -> str:
        """The canonical JSON of all that the agent gets, which decides the run's outcome."""
        settings, task = self.agent_settings(cell.agent), self._tasks[cell.task]
        of_cell = {
            # Each replicate may have a recording of its own.
            "model": model_settings.spec(settings, task, self.recording(cell)),
            "limits": self.limits(cell) | self._disk_limit(),
            "replicate": cell.replicate,
        }
        return canonical(self._half_spec(cell.task, cell.agent) | of_cell)

    def job(self, cell: Cell) -> Job:
        """Everything that the runner needs for one cell; holds no secret."""
        task, settings = self._tasks[cell.task], self.agent_settings(cell.agent)
        container, images, paths = (self._data[key] for key in ("container", "images", "paths"))
        cli = ("version", "model_id", *_AGENT_SPEC_KEYS, "tools", "extra_args")
        content = {
            "cell": cell.id,
            "names": {
                "dataset": self._data["dataset"],
                "task": cell.task,
                "agent": cell.agent,
                "instance_id": task.instance_id,
                "kind": task.kind,
                "row_sha256": task.row_sha256,
            },
            "prompt": task.prompt,
            "task": {
                "workdir": task.workdir,
                "environment": task.environment,
                "python": task.python,
            },
            "agent": {
                "settings": {key: settings[key] for key in cli}
                | model_settings.cli_settings(settings, container["network"]),
                "binary": str(Path(paths["agents"]) / f"claude-{settings['version']}" / "claude"),
                "binary_sha256": self._binary_sha256(cell.agent),
            },
            "model": model_settings.job(settings, task, self.recording(cell)),
            "budget": model_settings.budget(settings),
            "rules": model_settings.rules(settings) or None,
            "max_live_runs": self._data["agent"]["max_live_runs"],
            **{key: settings[key] for key in _RUNNER_KEYS},
            "limits": self.limits(cell),
            "disk_bytes": parse_size(container["disk"]),
            "needs": {
                "memory_bytes": self.reserved_bytes(cell),
                "cores": self.reserved_cores(cell),
            },
            "machine": dict(self._data["machine"]),
            "container": {key: container[key] for key in _CONTAINER_KEYS},
            "image": asdict(self.image_of(cell.task)),
            "images": {key: images[key] for key in _IMAGES_KEYS},
            "rate_hz": self._data["measure"]["rate_hz"],
            # Absolute: the engine is called from a directory of its own.
            "paths": {key: str(Path(paths[key]).absolute()) for key in ("store", "results")},
        }
        return Job.from_json(content)

    def for_cell(self, cell: Cell) -> dict:
        """The configuration cut down to one cell, for its run, which needs no rows.

        To find a row in a large file takes a second, and hundreds of megabytes beside the run.
        """
        task = self._tasks[cell.task]
        cut = self._cut_down_to(cell)
        return cut | {"tasks": {task.name: task.without_row()}} if task.row_sha256 else cut

    def for_task(self, name: str) -> dict:
        """The configuration cut down to one task of the sweep, with its row."""
        return self._cut_down_to(next(cell for cell in self._cells if cell.task == name))

    def _cut_down_to(self, cell: Cell) -> dict:
        return self._data | {
            "sweep": {
                "tasks": [cell.task],
                "agents": [cell.agent],
                "memory": [cell.memory],
                "cpus": [cell.cpus],
                "cpu_modes": [cell.cpu_mode],
                "replicates": cell.replicate + 1,
                "cells": None,
                "skip_unfit": False,
            },
            "tasks": {cell.task: self._data["tasks"][cell.task]},
            "agents": {cell.agent: self._data["agents"][cell.agent]},
            "imports": {},
        }

    def reserved_cores(self, cell: Cell) -> int:
        """Whole cores that the cell keeps from others while it runs."""
        return cores(cell.cpus)

    def reserved_bytes(self, cell: Cell) -> int:
        """Bytes of memory that the cell keeps from others: its limit, and what watches it."""
        return parse_size(cell.memory) + parse_size(self._data["measure"]["mem_overhead"])

    def reserved_mb(self, cell: Cell) -> int:
        """The same in decimal megabytes, in which Snakemake counts."""
        return decimal_mb(self.reserved_bytes(cell))

    def reserved_minutes(self, cell: Cell) -> int:
        """Minutes within which the cell's run ends, whatever its agent does."""
        settings = self.agent_settings(cell.agent)
        return minutes(settings["timeout_s"] + settings["grace_s"])

    def misfit(self, cell: Cell, machine: Machine) -> str | None:
        """Why a cell can never run on a machine, or None where it can."""
        needs = self.reserved_bytes(cell), self.reserved_cores(cell)
        memory = f"{cell.memory} + {self._data['measure']['mem_overhead']} = "
        return machine.misfit(*needs, MachineSettings(**self._data["machine"]), memory)

    @functools.cache  # noqa: B019
    def store(self) -> Store:
        """The run store."""
        return Store(Path(self._data["paths"]["store"]))

    def spec_sha256(self, cell: Cell) -> str:
        """The name under which the store keeps the cell's runs."""
        return spec_sha256(self.spec(cell))

    @functools.cache  # noqa: B019
    def recall(self) -> Recall:
        """The store's runs by what their agents got."""
        return Recall(self.store())

    def choice(self, cell: Cell) -> Choice:
        """The run that the store gives a cell, or that one has to be made."""
        settings = self.agent_settings(cell.agent)
        repeat = Repeat.of(settings["on_miss"], settings["repeat"], settings["repeat_times"])
        return self.recall().choose(self.spec(cell), repeat)

    def is_sealed(self, cell: Cell) -> bool:
        """Whether the store gives this cell its run, so that none has to be made."""
        return self.choice(cell).attempt is not None

    def is_paid(self, cell: Cell) -> bool:
        """Whether running the cell would cost money: its agent is live, and no run is sealed."""
        settings = self.agent_settings(cell.agent)
        return (
            model_settings.mode(settings) == model_settings.LIVE
            and settings["on_miss"] == "run"
            and not self.is_sealed(cell)
        )


def _row_part(task: Task) -> dict:
    """What a spec says of a task's row: nothing of its tests, which decide its grading alone."""
    if task.row_sha256 is None:
        # As it was said before, so that the hashes of these specs stay what they are.
        return {"row_sha256": None}
    return {"base_commit": task.base_commit}


def minutes(seconds: float) -> int:
    """Whole minutes for what takes `seconds` once it has started, with the allowance for that."""
    return math.ceil((seconds + START_UP_S) / 60)


def load(source: Iterable[Path] | Mapping, overrides: Mapping | None = None, files=()) -> Config:
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


def hub_splits(source: Iterable[Path] | Mapping) -> list[HubSplit]:
    """The splits on the Hugging Face hub that a configuration names, each once.

    Nothing else of it is checked: until they are fetched, a configuration cannot be loaded.
    """
    tasks = _merged(source)[0].get("tasks")
    return task_sets.hub_splits(tasks if isinstance(tasks, Mapping) else {})


def _merged(source: Iterable[Path] | Mapping, files=()) -> tuple[dict, list[tuple[str, dict]]]:
    if isinstance(source, Mapping):
        return dict(source), _layers(files)
    layers = [(str(path), schema.read_mapping(Path(path))) for path in source]
    merged: dict = {}
    for _, content in layers:
        merged = merge(merged, content)
    named = [content for path, content in layers if not is_base(Path(path))]
    return own_names(merged, named), layers


def _layers(files: Iterable) -> list[tuple[str, dict]]:
    layers, wrong = [], []
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

    def __init__(self, merged: Mapping, layers: list[tuple[str, dict]]):
        self._merged, self._layers = merged, layers

    def __call__(self, path: tuple) -> str:
        """`config/config.yaml: sweep.memory[1]`."""
        return f"{self._file(path)}: {schema.dotted(path)}"

    def _file(self, path: tuple) -> str:
        depth, value = _reach(self._merged, path)
        for name, content in reversed(self._layers):
            # What is missing is missing where its surroundings are.
            if _reach(content, path[:depth]) == (depth, value):
                return name
        return "--config"


def _reach(content, path: tuple) -> tuple[int, object]:
    """How far a path of keys leads into a content; and what is there, where it leads to its end."""
    for depth, key in enumerate(path):
        try:
            content = content[key]
        except (KeyError, IndexError, TypeError):
            return depth, None
    return len(path), None if isinstance(content, Mapping) else content


def _checked(merged: dict, place: _Places) -> Config:
    # Out of JSON: YAML files are refused where they are read.
    wrong = [f"{place(path)}: {_NOT_TEXT}" for path in _not_text(merged)]
    if wrong:
        raise ConfigError(wrong)
    wrong = [f"{place(path)}: {said}" for path, said in schema.problems("config", merged)]
    if wrong:
        raise ConfigError(wrong)
    data = schema.with_defaults("config", merged)
    wrong += [f"{place(path)}: {said}" for path, said in _semantic_problems(data)]
    locked = _collect(wrong, image_lock.read, Path(data["images"]["lock"])) or {}
    tasks, sets = _load_tasks(data, locked, place, wrong)
    names = {name: found.names if found else None for name, found in sets.items()}
    wrong += [
        f"{place(('tasks', name))}: a set has the name of the task {name!r}; give it another"
        for name in sets
        # A set of one task may be called like it.
        if name in tasks and names[name] != [name]
    ]
    cells = cells_of(data, place, wrong, names)
    wrong += [f"{place(path)}: {said}" for path, said in _base_commit_problems(cells, tasks)]
    for name in dict.fromkeys(cell.agent for cell in cells):
        settings = _settings(data, name)
        _collect(wrong, invocation.binary_sha256, Path(settings["lock"]), settings["version"])
        own = [cell for cell in cells if cell.agent == name and cell.task in tasks]
        for task in dict.fromkeys(cell.task for cell in own):
            if (
                model_settings.mode(settings) == model_settings.SCRIPTED
                and not tasks[task].scenario
            ):
                where = place(("tasks", task))
                wrong.append(f"{where}: no scenario, which agent {name} (model scripted) plays")
        recordings = model_settings.replayed_path(settings)
        for task, replicate in dict.fromkeys((cell.task, cell.replicate) for cell in own):
            if recordings is not None:
                asked = (recordings, task, tasks[task].instance_id, replicate)
                where = f"{place(('agents', name, 'model', 'replay'))}: "
                _collect(wrong, recorded_runs.find, *asked, where=where)
    if wrong:
        raise ConfigError(list(dict.fromkeys(wrong)))
    return Config(data, tasks, locked, cells, sets.values())


def _not_text(value, path: tuple = ()) -> Iterator[tuple]:
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


def _settings(data: Mapping, name: str) -> dict:
    """What holds for an agent: `agent`, with what it overrides."""
    return data["agent"] | {"model": model_settings.SCRIPTED} | data["agents"][name]


def _collect(wrong: list[str], function, *arguments, where: str = ""):
    """Call it; what it finds wrong joins the list, with the place before it."""
    try:
        return function(*arguments)
    except ConfigError as error:
        wrong += [f"{where}{problem}" for problem in error.problems]
        return None


def _load_tasks(
    data: dict, locked: dict, place: _Places, wrong: list[str]
) -> tuple[dict[str, Task], dict[str, TaskSet | None]]:
    """All tasks, and the sets that some of them are of; None is a set that cannot be read.

    Each set in `data["tasks"]` is replaced by its tasks.
    """
    tasks: dict[str, Task] = {}
    sets: dict[str, TaskSet | None] = {}
    flat: dict[str, str | Mapping] = {}
    of: dict[str, str] = {}
    for name, source in data["tasks"].items():
        where = place(("tasks", name))
        if isinstance(source, str) and not Path(source).is_file():
            wrong.append(f"{where}: {source!r} is not a file; write a task file")
            flat[name] = source
            continue
        if _collect(wrong, task_sets.content_of, source) is None:
            found = [(name, source, f"{where}.", None)]
        else:
            sets[name] = _collect(wrong, task_sets.load_set, name, source, where, locked)
            rows = sets[name].rows if sets[name] else ()
            found = [
                (row.instance_id, sets[name].task(row), f"{where}.{row.instance_id}.", row)
                for row in rows
            ]
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
    data["tasks"] = flat
    return tasks, sets


def _base_commit_problems(
    cells: list[Cell], tasks: Mapping[str, Task]
) -> Iterator[tuple[tuple, str]]:
    """Tasks on one image that say that its work tree is at different commits.

    One of them is wrong, and its solution may lie in the history that the other needs.
    """
    firsts: dict[tuple, Task] = {}
    for name in dict.fromkeys(cell.task for cell in cells):
        task = tasks.get(name)
        if task is None or task.row is None:
            continue
        other = firsts.setdefault((task.reference, task.workdir), task)
        if other.row.base_commit != task.row.base_commit:
            yield (
                ("tasks", name),
                f"has the image of {other.name!r} ({task.reference}) and another base_commit "
                f"({task.row.base_commit[:12]}, there {other.row.base_commit[:12]}); write the "
                "image that was made for it",
            )


def _semantic_problems(data: dict) -> Iterator[tuple[tuple, str]]:
    """What a schema cannot say."""
    overhead = data["measure"]["mem_overhead"]
    try:
        parse_size(overhead)
    except ValueError as error:
        yield ("measure", "mem_overhead"), str(error)
    if data["machine"]["memory"] is not None:
        try:
            parse_size(data["machine"]["memory"])
        except ValueError as error:
            yield ("machine", "memory"), str(error)
    for section, key, parse in (
        ("grading", "memory", parse_size),
        ("grading", "cpus", parse_cpus),
        ("container", "disk", parse_size),
    ):
        try:
            parse(data[section][key])
        except ValueError as error:
            yield (section, key), str(error)
    places: dict[Path, str] = {}
    for name, entry in data["imports"].items():
        directory = Path(data["imports_directory"]) / entry["directory"]
        other = places.setdefault(directory.resolve(), name)
        if other != name:
            yield (
                ("imports", name, "directory"),
                f"{str(directory)!r} is that of {other!r} too; name each data set once",
            )
        if name == data["dataset"]:
            yield ("imports", name), "has the name of the sweep's own dataset; give it another"
        if not directory.is_dir():
            yield (
                ("imports", name, "directory"),
                f"{str(directory)!r} is no directory; set imports_directory to where the data are "
                "(AgentCgroup's: docs/agentcgroup.md says how to get them)",
            )
    published = data["paper"]["published"]
    if published is not None and not Path(published).is_file():
        yield ("paper", "published"), f"{published!r} is not a file; write a CSV file, or null"
    if data["images"]["distribute"] == "registry" and data["images"]["registry"] is None:
        yield (
            ("images", "registry"),
            "missing, and `distribute: registry` needs it; name a repository, as in "
            "docker://registry.example.org/me/agentsweep",
        )
    container = data["container"]
    if container["host_mounts"] and container["userland"] != "host":
        yield (
            ("container", "host_mounts"),
            f"{show(container['host_mounts'])} needs `userland: host`; write [] with "
            f"`userland: {container['userland']}`",
        )
    yield from model_settings.problems(data["agent"], data["agents"])
    sections = [("agent", data["agent"]), *((("agents", n), a) for n, a in data["agents"].items())]
    for path, settings in sections:
        path = path if isinstance(path, tuple) else (path,)
        for index, argument in enumerate(settings.get("extra_args", ())):
            if argument.split("=")[0] in _OWN_ARGUMENTS:
                yield (
                    (*path, "extra_args", index),
                    f"{argument!r} is set by agentsweep itself; leave it out",
                )
        alias = settings.get("model_id")
        if alias is not None and alias.lower().split("[")[0] in _MODEL_ALIASES:
            yield (
                (*path, "model_id"),
                f"{alias!r} is an alias, whose meaning changes; write a full model id, such as "
                "claude-haiku-4-5-20251001",
            )
