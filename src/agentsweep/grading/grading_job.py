"""From a configuration to gradings: of a run's patch, and of the two that validate a task.

A task is valid when its gold patch resolves it and no patch does not, each time of several.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from agentsweep.config import config as configuration
from agentsweep.config.config import Config
from agentsweep.containers import image_distribution
from agentsweep.containers.image_lock import UNLOCKED
from agentsweep.errors import AgentsweepError
from agentsweep.files import write_durably
from agentsweep.grading import evidence, grading, pytest_reports, verdict
from agentsweep.grading.grading import CannotGrade, Grader, Ground
from agentsweep.host.admission import Say, admitted
from agentsweep.host.capacity import Machine, decimal_mb
from agentsweep.runs.spec import cores as spec_cores
from agentsweep.runs.store import Store, spec_sha256
from agentsweep.tasks.log_parsers import PYTEST_PARSERS, own_program
from agentsweep.units import parse_cpus, parse_size
from agentsweep.vocabulary import GradeStatus

_VALIDATIONS = "validations"


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


def ground(config: Config, task: str) -> Ground:
    """Where the patches of a gradable task are graded."""
    wanted, image = config.task(task), config.image_of(task)
    return Ground(
        row=wanted.row,
        reference=wanted.reference,
        digest=image.digest or UNLOCKED,
        config_digest=image.config_digest or UNLOCKED,
        workdir=wanted.workdir,
        environment=wanted.environment,
    )


def grader(config: Config) -> Grader:
    """The conditions of all gradings."""
    wanted = config["grading"]
    return Grader(
        memory_bytes=parse_size(wanted["memory"]),
        cpus=parse_cpus(wanted["cpus"]),
        timeout_s=float(wanted["timeout_s"]),
        network=wanted["network"],
        install=wanted["install"],
    )


def cores(config: Config) -> int:
    """Whole cores that a grading takes."""
    return spec_cores(parse_cpus(config["grading"]["cpus"]))


def mem_mb(config: Config) -> int:
    """Decimal megabytes that a grading takes."""
    return decimal_mb(parse_size(config["grading"]["memory"]))


def misfit(config: Config, machine: Machine) -> str | None:
    """Why no grading can ever be made on a machine, or None where they can."""
    need = grader(config).memory_bytes, cores(config)
    return machine.misfit(*need, config["machine"])


def minutes(config: Config, gradings: int = 1) -> int:
    """Minutes within which so many gradings end."""
    return configuration.minutes(gradings * grader(config).timeout_s)


def validation_minutes(config: Config) -> int:
    """Minutes within which the validation of a task ends."""
    return minutes(config, 2 * config["grading"]["validations"])


def store(config: Config) -> Store:
    """Where gradings are sealed."""
    return Store(config.store().root.absolute() / grading.FOLDER)


def spec(config: Config, task: str, patch_sha256: str) -> str:
    """All that decides the grading of a patch, as canonical JSON."""
    return grading.spec(ground(config, task), grader(config), patch_sha256)


def grade(
    config: Config, task: str, patch: bytes, out: Path, engine, say: Say = print
) -> verdict.Verdict:
    """Grade a patch or recall its grading, publish it to `out`; returns the verdict.

    A grading that cannot be made here leaves a record there that says why (`ungraded`), which is
    never sealed.
    """
    where, rules = ground(config, task), grader(config)
    room = _room(config, engine, say)
    try:
        sealed = grading.grade(
            store(config), where, rules, patch, engine, room, place=_place(config)
        )
    except CannotGrade as error:
        return verdict.judge(evidence.ungraded(out, patch, rules, str(error)), ())
    found = verdict.judge(*evidence.read(sealed.path), gold(config, task))
    grading.published(sealed, out)
    return found


def gold(config: Config, task: str) -> verdict.Gold | None:
    """What the task's own patch came to, as far as the store has it; None where it has not."""
    where, rules, kept = ground(config, task), grader(config), store(config)
    patch_sha256 = hashlib.sha256(where.row.patch.encode()).hexdigest()
    found = []
    for repeat in range(max(1, config["grading"]["validations"])):
        key = spec_sha256(grading.spec(where, rules, patch_sha256, repeat))
        sealed = grading.recalled(kept, key)
        if sealed is not None:
            found.append(evidence.read(sealed.path))
    return verdict.gold_of(found)


def validate(config: Config, task: str, engine, say: Say = print) -> dict:
    """Grade the gold patch and none, `grading.validations` times each; the task's record.

    `valid` is whether all of them came out as they must, `problems` says what did not, `gold` is
    what the other patches of the task are judged against (`verdict.Gold`). The record
    is also kept in the store, where `validation` finds it. Where they cannot be made here, `valid`
    is null, `unknown` says why, and nothing is kept.
    """
    where, rules = ground(config, task), grader(config)
    repeats = config["grading"]["validations"]
    record = {
        "task": task,
        "instance_id": where.row.instance_id,
        "row_sha256": where.row.sha256,
        "image_digest": where.digest,
        "repeats": repeats,
    }
    try:
        problems = _problems(config, task, where, rules, engine, say)
    except CannotGrade as error:
        return record | {"valid": None, "problems": [], "unknown": str(error)}
    known = gold(config, task)
    record |= {"valid": not problems, "problems": problems}
    record |= {"gold": known and known.content()}
    path = _record_path(config, task)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, (json.dumps(record, indent=1) + "\n").encode())
    return record


def _problems(
    config: Config, task: str, where: Ground, rules: Grader, engine, say: Say
) -> list[str]:
    """What of a task's validation came out otherwise than it must."""

    def found_engine():
        # Whoever has an archive of runs, and no engine, still gets its figures.
        try:
            return engine()
        except AgentsweepError as error:
            raise CannotGrade(f"no container can be started here: {error}") from None

    problems, room = [], _room(config, found_engine, say)
    repeats = config["grading"]["validations"]
    for name, patch, must in (("gold", where.row.patch, True), ("empty", "", False)):
        for repeat in range(repeats):
            sealed = grading.grade(
                *(store(config), where, rules, patch.encode(), found_engine, room),
                repeat=repeat,
                place=_place(config),
            )
            left = evidence.read(sealed.path)
            own = None if must else gold(config, task)
            found = verdict.own_judge(*left) if must else verdict.judge(*left, own)
            if found.status != GradeStatus.GRADED or found.resolved != must:
                problems.append(f"{name} patch, time {repeat + 1}: {_said(found)}")
    return problems


def validation_id(config: Config, task: str) -> str:
    """What a task is validated as: tasks with the same row, image and conditions share it."""
    key = hashlib.sha256(spec(config, task, "").encode()).hexdigest()
    return f"{config.task(task).row.instance_id}~{key[:12]}"


def validation(config: Config, task: str) -> dict | None:
    """The record of a task's last validation under these conditions.

    None where there is none, or a damaged one, which another validation writes again.
    """
    try:
        record = json.loads(_record_path(config, task).read_text(encoding="utf-8"))
        whole = bool(record["problems"]) != record["valid"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if whole else None


def invalidity(config: Config, task: str) -> str | None:
    """Why a task is left out of sweeps: what its last validation found; None where it is not."""
    if config["grading"]["keep_invalid"] or not gradable(config, task):
        return None
    record = validation(config, task)
    if record is None or record["valid"]:
        return None
    return f"its task is not valid: {record['problems'][0]}"


def _room(config: Config, engine, say: Say):
    """What `grading.grade` calls for a place on this machine; `engine` removes what is dead."""

    def room(need):
        reason = misfit(config, Machine.here())
        if reason is not None:
            raise CannotGrade(f"the grading {reason}: {need.cure}")
        return admitted(need, config["machine"], say, engine)

    return room


def _place(config: Config) -> image_distribution.Place | None:
    return image_distribution.place_of(config["images"], config["paths"]["results"])


def _record_path(config: Config, task: str) -> Path:
    nothing = hashlib.sha256(b"").hexdigest()
    key = spec_sha256(spec(config, task, nothing))
    return store(config).root / _VALIDATIONS / f"{key}.json"


def _said(found: verdict.Verdict) -> str:
    wrong = [
        f"{test['test_id']} {test['outcome']}"
        for test in found.tests
        if test["kind"] and test["outcome"] not in pytest_reports.PASSING
    ]
    if found.status != GradeStatus.GRADED:
        return f"{found.status}: {found.detail}"
    if not wrong and not found.detail:
        return "resolved"
    if found.detail:
        return f"not resolved: {found.detail}"
    more = f" and {len(wrong) - 3} more" if len(wrong) > 3 else ""
    return f"not resolved: {', '.join(wrong[:3])}{more}"
