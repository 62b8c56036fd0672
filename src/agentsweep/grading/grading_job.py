"""The gradings of a task: of a run's patch, and of the two that validate the task.

A task is valid when its gold patch resolves it and no patch does not, each time of several.
"""

import hashlib
import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from agentsweep.containers.engine import Engine
from agentsweep.errors import AgentsweepError
from agentsweep.files import write_durably
from agentsweep.grading import evidence, grading, pytest_reports, verdict
from agentsweep.grading.grading import CannotGrade
from agentsweep.grading.grading_plan import GradingPlan
from agentsweep.host.admission import Need, Say, admitted
from agentsweep.host.capacity import Machine
from agentsweep.runs.store import spec_sha256
from agentsweep.vocabulary import GradeStatus

# What `validate` finds, as it is kept and as other jobs read it.
ValidationRecord = dict[str, Any]


def grade(
    plan: GradingPlan, patch: bytes, out: Path, engine: Callable[[], Engine], say: Say = print
) -> verdict.Verdict:
    """Grade a patch or recall its grading, publish it to `out`; returns the verdict.

    A grading that cannot be made here leaves a record there that says why (`ungraded`), which is
    never sealed.
    """
    try:
        sealed = grading.grade(
            *(plan.store, plan.ground, plan.grader, patch, engine, _room(plan, engine, say)),
            place=plan.place,
        )
    except CannotGrade as error:
        return verdict.judge(evidence.ungraded(out, patch, plan.grader, str(error)), ())
    found = verdict.judge(*evidence.read(sealed.path), gold(plan))
    grading.published(sealed, out)
    return found


def gold(plan: GradingPlan) -> verdict.Gold | None:
    """What the task's own patch came to, as far as the store has it; None where it has not."""
    patch_sha256 = hashlib.sha256(plan.ground.row.patch.encode()).hexdigest()
    found = []
    for repeat in range(max(1, plan.validations)):
        sealed = grading.recalled(plan.store, spec_sha256(plan.spec(patch_sha256, repeat)))
        if sealed is not None:
            found.append(evidence.read(sealed.path))
    return verdict.gold_of(found)


def validate(plan: GradingPlan, engine: Callable[[], Engine], say: Say = print) -> ValidationRecord:
    """Grade the gold patch and none, `plan.validations` times each; the task's record.

    `valid` is whether all of them came out as they must, `problems` says what did not, `gold` is
    what the other patches of the task are judged against (`verdict.Gold`). The record
    is also kept in the store, where `validation` finds it. Where they cannot be made here, `valid`
    is null, `unknown` says why, and nothing is kept.
    """
    record: ValidationRecord = {
        "task": plan.task,
        "instance_id": plan.ground.row.instance_id,
        "row_sha256": plan.ground.row.sha256,
        "image_digest": plan.ground.digest,
        "repeats": plan.validations,
    }
    try:
        problems = _problems(plan, engine, say)
    except CannotGrade as error:
        return record | {"valid": None, "problems": [], "unknown": str(error)}
    known = gold(plan)
    record |= {"valid": not problems, "problems": problems}
    record |= {"gold": known and known.content()}
    path = plan.validation_record
    path.parent.mkdir(parents=True, exist_ok=True)
    write_durably(path, (json.dumps(record, indent=1) + "\n").encode())
    return record


def _problems(plan: GradingPlan, engine: Callable[[], Engine], say: Say) -> list[str]:
    """What of a task's validation came out otherwise than it must."""

    def found_engine() -> Engine:
        # Whoever has an archive of runs, and no engine, still gets its figures.
        try:
            return engine()
        except AgentsweepError as error:
            raise CannotGrade(f"no container can be started here: {error}") from None

    problems, room = [], _room(plan, found_engine, say)
    for name, patch, must in (("gold", plan.ground.row.patch, True), ("empty", "", False)):
        for repeat in range(plan.validations):
            sealed = grading.grade(
                *(plan.store, plan.ground, plan.grader, patch.encode(), found_engine, room),
                repeat=repeat,
                place=plan.place,
            )
            left = evidence.read(sealed.path)
            own = None if must else gold(plan)
            found = verdict.own_judge(*left) if must else verdict.judge(*left, own)
            if found.status != GradeStatus.GRADED or found.resolved != must:
                problems.append(f"{name} patch, time {repeat + 1}: {_said(found)}")
    return problems


def validation(plan: GradingPlan) -> ValidationRecord | None:
    """The record of the task's last validation under these conditions.

    None where there is none, or a damaged one, which another validation writes again.
    """
    try:
        record: ValidationRecord = json.loads(plan.validation_record.read_text(encoding="utf-8"))
        whole = bool(record["problems"]) != record["valid"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return record if whole else None


def invalidity(plan: GradingPlan) -> str | None:
    """Why the task is left out of sweeps: what its last validation found; None where it is not."""
    if plan.keep_invalid:
        return None
    record = validation(plan)
    if record is None or record["valid"]:
        return None
    return f"its task is not valid: {record['problems'][0]}"


def _room(plan: GradingPlan, engine: Callable[[], Engine], say: Say) -> grading.Room:
    """What `grading.grade` calls for a place on this machine; `engine` removes what is dead."""

    def room(need: Need) -> AbstractContextManager[object]:
        reason = plan.misfit(Machine.here())
        if reason is not None:
            raise CannotGrade(f"the grading {reason}: {need.cure}")
        return admitted(need, plan.machine, say, engine)

    return room


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
