"""The checked configuration as cells, images, specs, jobs and what they need of a machine."""

import functools
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from agentsweep.agents.claude_code import invocation
from agentsweep.config import model_settings
from agentsweep.config.agent_models import LIVE, Agent
from agentsweep.config.cells import Cell
from agentsweep.config.models import Configuration
from agentsweep.containers import image_lock
from agentsweep.containers.image_lock import Locked
from agentsweep.errors import ConfigError
from agentsweep.extraction import recorded_runs
from agentsweep.extraction.recorded_runs import ReplaySource
from agentsweep.hashes import text_sha256
from agentsweep.host import disk
from agentsweep.host.capacity import Machine, MachineSettings, decimal_mb
from agentsweep.runs.job import Job
from agentsweep.runs.recall import Choice, Recall, Repeat
from agentsweep.runs.spec import FIX_RECIPE, PROTOCOL, ImageRef, canonical, cores
from agentsweep.runs.store import Store, spec_sha256
from agentsweep.schema import Json
from agentsweep.tasks.task_file import Task
from agentsweep.tasks.task_sets import TaskSet
from agentsweep.units import parse_size

# What a run may take beside its agent: loading an image of some gigabytes, collecting, sealing.
START_UP_S = 900

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
    """A checked configuration; `config.container` and so on are its sections.

    In `config.tasks` a task set is gone, and each of its tasks is there by its own name.
    """

    def __init__(
        self,
        settings: Configuration,
        tasks: dict[str, Task],
        locked: Mapping[str, Locked],
        cells: list[Cell],
        sets: Iterable[TaskSet] = (),
    ):
        self._settings, self._tasks, self._locked, self._cells = settings, tasks, locked, cells
        self._sets = list(sets)
        self._by_id = {cell.id: cell for cell in cells}
        # As a job's configuration and a job have it.
        self._data = settings.plain()
        self.dataset, self.partial, self.tasks = settings.dataset, settings.partial, settings.tasks
        self.sweep, self.agent, self.container = settings.sweep, settings.agent, settings.container
        self.images, self.grading, self.paths = settings.images, settings.grading, settings.paths
        self.measure, self.machine, self.paper = settings.measure, settings.machine, settings.paper

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
        base = Path(self._settings.imports_directory)
        return [
            Import(name, base / given.directory, given.layout, given.attempts)
            for name, given in self._settings.imports.items()
        ]

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
    def agent_settings(self, name: str) -> Agent:
        """An agent, with what holds for all where it says nothing."""
        return self._settings.agent_settings(name)

    def mode(self, cell: Cell) -> str:
        """Where the cell's model turns come from: scripted, live or replay."""
        return self.agent_settings(cell.agent).mode

    def recording(self, cell: Cell) -> ReplaySource | None:
        """What a replay agent plays in this cell; None for other agents."""
        path = self.agent_settings(cell.agent).replayed_path
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
    def _half_spec(self, task_name: str, agent_name: str) -> Json:
        """What a spec says apart from limits, model and replicate: the same for many cells."""
        task, settings = self._tasks[task_name], self.agent_settings(agent_name)
        image = self.image_of(task_name)
        args = [*settings.extra_args]
        if settings.tools is not None:
            args += ["--tools", ",".join(settings.tools)]
        return {
            "protocol": PROTOCOL,
            "agent": {
                "name": "claude-code",
                "version": settings.version,
                "binary_sha256": self._binary_sha256(agent_name),
                "model_id": settings.model_id,
                "args": args,
                **settings.model_dump(include=set(_AGENT_SPEC_KEYS)),
            },
            "timeout_s": settings.timeout_s,
            "stall_s": settings.stall_s,
            "grace_s": settings.grace_s,
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
            "container": self.container.model_dump(include={"userland", "network", "host_mounts"}),
        }

    @functools.cache  # noqa: B019
    def _binary_sha256(self, agent_name: str) -> str:
        settings = self.agent_settings(agent_name)
        return invocation.binary_sha256(Path(settings.lock), settings.version)

    def limits(self, cell: Cell) -> Json:
        """The cell's limits, in bytes and CPUs."""
        container = self._data["container"]
        return {
            "memory_bytes": parse_size(cell.memory),
            "swap_bytes": 0,
            "cpus": cell.cpus,
            "cpu_mode": cell.cpu_mode,
            "pids": container["pids"],
        }

    def _disk_limit(self) -> Json:
        """What a spec says of the disk: nothing at the default, as before there was a limit."""
        n_bytes = parse_size(self.container.disk)
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
        task = self._tasks[cell.task]
        settings = self.agent_settings(cell.agent).model_dump()
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

    def for_cell(self, cell: Cell) -> Json:
        """The configuration cut down to one cell, for its run, which needs no rows.

        To find a row in a large file takes a second, and hundreds of megabytes beside the run.
        """
        task = self._tasks[cell.task]
        cut = self._cut_down_to(cell)
        return cut | {"tasks": {task.name: task.without_row()}} if task.row_sha256 else cut

    def for_task(self, name: str) -> Json:
        """The configuration cut down to one task of the sweep, with its row."""
        return self._cut_down_to(next(cell for cell in self._cells if cell.task == name))

    def _cut_down_to(self, cell: Cell) -> Json:
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
        return minutes(settings.timeout_s + settings.grace_s)

    def misfit(self, cell: Cell, machine: Machine) -> str | None:
        """Why a cell can never run on a machine, or None where it can."""
        needs = self.reserved_bytes(cell), self.reserved_cores(cell)
        memory = f"{cell.memory} + {self.measure.mem_overhead} = "
        return machine.misfit(*needs, MachineSettings(**self._data["machine"]), memory)

    @functools.cache  # noqa: B019
    def store(self) -> Store:
        """The run store."""
        return Store(Path(self.paths.store))

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
        repeat = Repeat.of(settings.on_miss, settings.repeat, settings.repeat_times)
        return self.recall().choose(self.spec(cell), repeat)

    def is_sealed(self, cell: Cell) -> bool:
        """Whether the store gives this cell its run, so that none has to be made."""
        return self.choice(cell).attempt is not None

    def is_paid(self, cell: Cell) -> bool:
        """Whether running the cell would cost money: its agent is live, and no run is sealed."""
        settings = self.agent_settings(cell.agent)
        return settings.mode == LIVE and settings.on_miss == "run" and not self.is_sealed(cell)


def _row_part(task: Task) -> Json:
    """What a spec says of a task's row: nothing of its tests, which decide its grading alone."""
    if task.row_sha256 is None:
        # As it was said before, so that the hashes of these specs stay what they are.
        return {"row_sha256": None}
    return {"base_commit": task.base_commit}


def minutes(seconds: float) -> int:
    """Whole minutes for what takes `seconds` once it has started, with the allowance for that."""
    return math.ceil((seconds + START_UP_S) / 60)
