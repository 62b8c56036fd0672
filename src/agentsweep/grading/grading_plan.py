"""From a configuration to what the gradings of a task take: made once, handed down, asked no more.

Nothing else in this package knows a configuration.
"""

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path

from agentsweep.config import config as configuration
from agentsweep.config.config import Config
from agentsweep.containers import image_distribution
from agentsweep.containers.image_lock import UNLOCKED
from agentsweep.grading import grading, verdict
from agentsweep.grading.grading import Grader, Ground
from agentsweep.host.capacity import Machine, MachineSettings, decimal_mb
from agentsweep.runs.spec import cores as spec_cores
from agentsweep.runs.store import Store, spec_sha256
from agentsweep.tasks.log_parsers import PYTEST_PARSERS, own_program
from agentsweep.tasks.task_row import TaskRow
from agentsweep.units import parse_cpus, parse_size

_VALIDATIONS = "validations"


@dataclass(frozen=True)
class GradingPlan:
    """All that the gradings of one task take.

    store_root: where gradings are sealed. validations: how many times the gold patch and none are
    graded to validate the task. keep_invalid: whether runs of an invalid task count. place: where
    other machines find its image; None where each has its own. machine: the section of a
    configuration that says what this machine offers.
    """

    task: str
    ground: Ground
    grader: Grader
    store_root: Path
    validations: int
    keep_invalid: bool
    place: image_distribution.Place | None
    machine: MachineSettings

    @property
    def store(self) -> Store:
        return Store(self.store_root)

    def spec(self, patch_sha256: str, repeat: int = 0) -> str:
        """All that decides the grading of a patch, as canonical JSON; `repeat` tells those of a
        validation apart."""
        return grading.spec(self.ground, self.grader, patch_sha256, repeat)

    @property
    def validation_id(self) -> str:
        """What the task is validated as: those with the same row, image and conditions share it."""
        key = hashlib.sha256(self.spec("").encode()).hexdigest()
        return f"{self.ground.row.instance_id}~{key[:12]}"

    @property
    def validation_record(self) -> Path:
        """Where the record of the task's last validation is kept."""
        nothing = hashlib.sha256(b"").hexdigest()
        return self.store_root / _VALIDATIONS / f"{spec_sha256(self.spec(nothing))}.json"

    def misfit(self, machine: Machine) -> str | None:
        """Why the grading can never be made on a machine, or None where it can."""
        return machine.misfit(self.grader.memory_bytes, cores(self.grader), self.machine)


def plan(config: Config, task: str) -> GradingPlan:
    """The plan of a gradable task; ValueError for one without a benchmark's row."""
    row = config.task(task).row
    if row is None:
        raise ValueError(f"the task {task} has no row of a benchmark")
    return GradingPlan(
        task=task,
        ground=_ground(config, task, row),
        grader=grader(config),
        store_root=config.store().root.absolute() / grading.FOLDER,
        validations=config.grading.validations,
        keep_invalid=config.grading.keep_invalid,
        place=image_distribution.place_of(
            config.images.distribute,
            config.images.archive_directory,
            config.images.registry,
            config.paths.results,
        ),
        machine=MachineSettings(**config.machine.model_dump()),
    )


def _ground(config: Config, task: str, row: TaskRow) -> Ground:
    wanted, image = config.task(task), config.image_of(task)
    return Ground(
        row=row,
        reference=wanted.reference,
        digest=image.digest or UNLOCKED,
        config_digest=image.config_digest or UNLOCKED,
        workdir=wanted.workdir,
        environment=wanted.environment,
    )


def grader(config: Config) -> Grader:
    """The conditions of all gradings."""
    wanted = config.grading
    return Grader(
        memory_bytes=parse_size(wanted.memory),
        cpus=parse_cpus(wanted.cpus),
        timeout_s=float(wanted.timeout_s),
        network=wanted.network,
        install=wanted.install,
    )


def gradable(config: Config, task: str) -> bool:
    """Whether a task has tests that can be graded here."""
    return config.task(task).row is not None and ungradable(config, task) is None


def ungradable(config: Config, task: str) -> str | None:
    """Why a task's tests cannot be graded here; None where they can, and for tasks without a row.

    Only what the row says counts: whether an image can run them is known when it has.
    """
    row = config.task(task).row
    if row is None:
        return None
    write = "write the row's install_config with its test_cmd and log_parser"
    if row.log_parser is None or not (row.test_commands or row.eval_script):
        return (
            f"the tests of {row.repo} are run by its own {own_program(row.repo)} and not by "
            f"pytest: where they are pytest's in this row, {write}"
        )
    if row.log_parser not in PYTEST_PARSERS:
        return f"the row's tests are not pytest's: its log_parser is {row.log_parser}"
    return verdict.foreign_name(asdict(row))


# --- what all gradings of a sweep reserve ---


def cores(grader: Grader) -> int:
    """Whole cores that a grading takes."""
    return spec_cores(grader.cpus)


def mem_mb(grader: Grader) -> int:
    """Decimal megabytes that a grading takes."""
    return decimal_mb(grader.memory_bytes)


def minutes(grader: Grader, gradings: int = 1) -> int:
    """Minutes within which so many gradings end."""
    return configuration.minutes(gradings * grader.timeout_s)


def misfit(config: Config, machine: Machine) -> str | None:
    """Why no grading of a sweep can ever be made on a machine, or None where they can."""
    wanted = grader(config)
    return machine.misfit(
        wanted.memory_bytes, cores(wanted), MachineSettings(**config.machine.model_dump())
    )
