"""What the workflow's rules look up: the sweep as Snakemake sees it, without Snakemake.

Made once when the Snakefile is parsed, in the main process and again in that of every job, so it
reads the configuration and what that names, and does nothing else.
"""

import re
import shlex
import sys
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any, TextIO

from agentsweep import untrusted
from agentsweep.config import model_settings
from agentsweep.config.agent_models import LIVE
from agentsweep.config.cells import Cell
from agentsweep.config.config import Import
from agentsweep.config.load import load
from agentsweep.errors import AgentsweepError, ConfigError
from agentsweep.extraction.agentcgroup_layout import AttemptDir, attempts_in
from agentsweep.gateway import credentials
from agentsweep.grading import grading_job, grading_plan
from agentsweep.host.capacity import Machine
from agentsweep.runs.live_run_count import Ledger
from agentsweep.runs.recall import is_run_of
from agentsweep.runs.spec import ImageRef

# Names the environment variables that jobs have no use for, but runs and the doctor.
SECRETS = "AGENTSWEEP_SECRETS"
UNMATCHABLE = "(?!x)x"


class Sweep:
    """The cells of a configuration that are taken on, and their images.

    announce: whether this is the process that the user started. Only that one leaves out cells
    that do not fit (`sweep.skip_unfit`), each with a line on `stream`: the process of a job may
    be on another machine and must find whatever cell it was given. It also says there how many
    runs would be paid.
    machine: where the runs will be; None where that is not this machine, but nodes whose size
    their batch system knows. Then nothing is left out.
    """

    def __init__(
        self,
        merged: dict[str, Any],
        files: Iterable[str | Path] = (),
        announce: bool = True,
        machine: Machine | None = None,
        stream: TextIO | None = None,
    ):
        self.config = load(merged, files=files)
        self.cells = self.config.cells()
        self.gradable = [
            task for task in self.config.task_names() if grading_plan.gradable(self.config, task)
        ]
        if self.config.sweep.skip_unfit and announce and machine is not None:
            self._skip_unfit(machine, stream or sys.stderr)
        if announce:
            self._leave_out_invalid(stream or sys.stderr)
            self._announce_live(stream or sys.stderr)
        self.images = {
            image.directory: image
            for image in (self.config.image_of(task) for task in self._values("task"))
        }
        self._by_values = {
            (c.task, c.agent, c.memory, c.cpu_limit, c.replicate): c for c in self.cells
        }

    def base_commit(self, image: ImageRef) -> str | None:
        """The commit at which an image's work tree is, None where no task of it names one.

        Tasks that name different ones are refused when the configuration is read.
        """
        tasks = [task for task in self.config.task_names() if self.config.image_of(task) == image]
        rows = (self.config.task(task).row for task in tasks)
        return next((row.base_commit for row in rows if row is not None), None)

    def cell(self, wildcards: Any) -> Cell:
        """The cell behind the wildcards of a path."""
        return self._by_values[
            wildcards.task,
            wildcards.agent,
            wildcards.memory,
            wildcards.cpus,
            int(wildcards.replicate),
        ]

    def wanted(self) -> list[Cell]:
        """The cells that figures are made of: all, or with `partial` those that have their run."""
        if not self.config.partial:
            return self.cells
        return [cell for cell in self.cells if self.has_run(cell)]

    def has_run(self, cell: Cell) -> bool:
        """Whether a run of exactly this cell exists, in the store or among the results."""
        choice = self.config.choice(cell)
        if choice.attempt is not None:
            return True
        # Where earlier runs of it do not count, neither do their files.
        if choice.before:
            return False
        result = Path(self.config.paths.results) / "runs" / cell.id / "result.json"
        try:
            found = untrusted.read_json(result)
        except (OSError, ValueError):
            return False
        return is_run_of(self.config.spec(cell), found)

    def coverage(self) -> str | None:
        """`17 of 18 cells have a run`, where an unfinished sweep is made do with (`partial`)."""
        have = len(self.wanted())
        if have == len(self.cells):
            return None
        return f"{have} of {len(self.cells)} cells have a run"

    def refusal(self, cell: Cell, cores: int, mem_mb: int | None) -> str | None:
        """Why a cell cannot be run with what Snakemake gives it, or None.

        Snakemake clamps `threads` and `mem_mb` without a word. A cell that has its run is only
        recalled, which needs nothing.
        """
        lacking = []
        if cores < self.config.reserved_cores(cell):
            wanted = self.config.reserved_cores(cell)
            lacking.append(f"needs {wanted} cores and Snakemake gives {cores} (--cores)")
        if isinstance(mem_mb, int) and mem_mb < self.config.reserved_mb(cell):
            wanted = self.config.reserved_mb(cell)
            lacking.append(f"needs {wanted} MB and Snakemake gives {mem_mb} (--resources mem_mb)")
        if not lacking or self.has_run(cell):
            return None
        return (
            f"{cell.id} {' and '.join(lacking)}: give more, or leave it out with "
            "sweep.skip_unfit: true"
        )

    def check_credentials(self, cells: Iterable[Cell]) -> None:
        """ConfigError with a line for each live agent whose key cannot be read.

        Asked of the cells that are about to be run; those that are only recalled need no key.
        """
        wrong = []
        paid = (cell for cell in cells if self.config.is_paid(cell))
        for name in dict.fromkeys(cell.agent for cell in paid):
            try:
                model_settings.key_header(self.config.agent_settings(name))
            except ConfigError as error:
                wrong += [f"agents.{name}: {problem}" for problem in error.problems]
        if wrong:
            raise ConfigError(wrong)

    def secret_variables(self) -> list[str]:
        """The environment variables that may hold the key of a live run."""
        names = dict.fromkeys(cell.agent for cell in self.cells)
        settings = [self.config.agent_settings(name) for name in names]
        return credentials.variables(one.credential for one in settings)

    def check_host(self, cells: Iterable[Cell], stream: TextIO | None = None) -> None:
        """Ask this machine, before the first image is pulled, what the cells to be run need of it.

        InfraError where their limits would not hold; a line on `stream` where their gradings do
        not fit. Cells that are recalled, or must not be run, need neither engine nor room.
        """
        running = [
            cell
            for cell in cells
            if not self.config.is_sealed(cell)
            and self.config.agent_settings(cell.agent).on_miss == "run"
        ]
        if not running:
            return
        from agentsweep.cli.checks import limits

        limits.check_limits(self.config)
        graded = [cell for cell in running if cell.task in self.gradable]
        reason = grading_plan.misfit(self.config, Machine.here()) if graded else None
        if reason is not None:
            print(
                f"agentsweep: the patches of {len(graded)} of {len(running)} runs cannot be graded "
                f"here: a grading {reason}; set grading.memory or grading.cpus lower, or grade on "
                "a larger machine",
                file=stream or sys.stderr,
            )

    def graded_cells(self) -> list[Cell]:
        """The wanted cells whose patches are graded."""
        return [cell for cell in self.wanted() if cell.task in self.gradable]

    def validations(self, tasks: Iterable[str] | None = None) -> dict[str, str]:
        """The validations of gradable tasks (default: all), each with the first task it is of."""
        found: dict[str, str] = {}
        for task in self.gradable if tasks is None else tasks:
            found.setdefault(grading_plan.plan(self.config, task).validation_id, task)
        return found

    def validated(self) -> dict[str, str]:
        """The tasks of the sweep whose own patches decide what others come to: task, validation.

        With `keep_invalid`, too: whether a task is valid then decides nothing, but what its tests
        come to with its own patch does.
        """
        if not self.config.grading.validations:
            return {}
        tasks = dict.fromkeys(cell.task for cell in self.graded_cells())
        return {task: grading_plan.plan(self.config, task).validation_id for task in tasks}

    def ungradable(self) -> dict[str, str]:
        """The tasks of the sweep whose tests cannot be graded, and why."""
        tasks = dict.fromkeys(cell.task for cell in self.wanted())
        reasons = {task: grading_plan.ungradable(self.config, task) for task in tasks}
        return {task: reason for task, reason in reasons.items() if reason is not None}

    def cell_pattern(self) -> str:
        """The path of a cell with a wildcard for each value, constrained to exact membership.

        A misspelt target then matches no rule, instead of starting a run. The constraints are in
        the pattern, because Snakemake (9.27) does not apply the workflow's own to what comes out
        of a path variable.
        """
        fields = {name: name for name in ("task", "agent", "memory", "replicate")}
        wildcards = {
            name: f"{{{name},{one_of(self._values(field))}}}"
            for name, field in (fields | {"cpus": "cpu_limit"}).items()
        }
        return "task~{task}/agent~{agent}/mem~{memory}_cpus~{cpus}_rep~{replicate}".format(
            **wildcards
        )

    def image_constraints(self) -> dict[str, str]:
        """Exact membership for the wildcards of an image's path."""
        parts = [directory.split("~") for directory in self.images]
        return {
            "image": one_of(name for name, _ in parts),
            "key": one_of(key for _, key in parts),
        }

    def _values(self, name: str) -> list[Any]:
        return list(dict.fromkeys(getattr(cell, name) for cell in self.cells))

    def _announce_live(self, stream: TextIO) -> None:
        live = [cell for cell in self.wanted() if self.config.mode(cell) == LIVE]
        if not live:
            return
        paid = sum(self.config.is_paid(cell) for cell in live)
        sealed = sum(self.config.is_sealed(cell) for cell in live)
        line = (
            f"{paid} live run{'' if paid == 1 else 's'} would be paid, {sealed} "
            f"{'is' if sealed == 1 else 'are'} in the store"
        )
        started = Ledger(self.config.store().root).started()
        most = self.config.agent.max_live_runs
        if most is not None:
            left = max(0, most - started)
            if left < paid:
                line += (
                    f"; agent.max_live_runs leaves {left}, and the other {paid - left} will be "
                    "refused"
                )
        print(f"agentsweep: {line}", file=stream)

    def _leave_out_invalid(self, stream: TextIO) -> None:
        """Drop the tasks whose own gold patch does not resolve them, unless they are kept.

        Cells that have their run cost nothing, and stay: figures leave them out. So what is to be
        made does not change when the sweep that found the task out has ended.
        """
        for task in dict.fromkeys(cell.task for cell in self.cells):
            if task not in self.gradable:
                continue
            reason = grading_job.invalidity(grading_plan.plan(self.config, task))
            if reason is not None:
                self.cells = [
                    cell for cell in self.cells if cell.task != task or self.has_run(cell)
                ]
                print(
                    f"agentsweep: left out: all runs of {task}: {reason} "
                    "(grading.keep_invalid: true keeps them)",
                    file=stream,
                )

    def _skip_unfit(self, machine: Machine, stream: TextIO) -> None:
        kept = []
        for cell in self.cells:
            reason = self.config.misfit(cell, machine)
            if reason is None or self.has_run(cell):
                kept.append(cell)
            else:
                print(f"agentsweep: left out: {cell.id} {reason}", file=stream)
        self.cells = kept


def one_of(values: Iterable[object]) -> str:
    """A pattern that matches the values and nothing else."""
    return "|".join(re.escape(str(value)) for value in dict.fromkeys(values)) or UNMATCHABLE


def imported_attempts(imports: Iterable[Import]) -> dict[str, list[AttemptDir]]:
    """The attempts of each data set; ConfigError with a line for each data set without one."""
    found, wrong = {}, []
    for entry in imports:
        try:
            found[entry.name] = attempts_in(entry.directory)
        except AgentsweepError as error:
            wrong.append(f"imports.{entry.name}: {error}")
            continue
        braced = [str(a.path) for a in found[entry.name] if set("{}") & set(str(a.path))]
        if braced:
            wrong.append(
                f"imports.{entry.name}: {braced[0]}: Snakemake takes braces in a path for a "
                "wildcard; rename the directory"
            )
    if wrong:
        raise ConfigError(wrong)
    return found


def shell_prefix(source: Path, python: Path, prefer_path: bool) -> str:
    """What every rule's command starts with, so that it runs this clone's code.

    It takes the place of Snakemake's own strict mode, so it sets that again: a failure before a
    pipe must fail the job. Python is told to take paths for UTF-8, whatever the node's locale.
    The interpreter's directory goes before PATH, or after it where a deployment method (conda)
    has just put its own environment there. What `data/job.sh` defines starts a command that was
    killed again, and keeps the variables that SECRETS names from commands without use for them.
    """
    bin_directory = shlex.quote(str(python.parent))
    path = f"$PATH:{bin_directory}" if prefer_path else f"{bin_directory}:$PATH"
    # Environment modules of clusters bring packages by PYTHONPATH.
    modules = f"{shlex.quote(str(source))}${{PYTHONPATH:+:$PYTHONPATH}}"
    export = f"export PYTHONUTF8=1 PYTHONPATH={modules} PATH={path}"
    functions = shlex.quote(str(resources.files("agentsweep") / "data" / "job.sh"))
    return f"set -euo pipefail; {export}; . {functions}; "
