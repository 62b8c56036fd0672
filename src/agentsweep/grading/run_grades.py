"""What gradings say about runs: each patch of a task was graded once, for all runs that left it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentsweep.errors import AgentsweepError
from agentsweep.grading import evidence, patches, verdict
from agentsweep.tables.rows import NewRow, Row
from agentsweep.vocabulary import GradeStatus, PatchStatus


@dataclass(frozen=True)
class Judged:
    """What is known of a task: why it is not valid, and why its tests cannot be graded, or None.

    gold: what its own patch came to, None where nobody knows.
    """

    invalid: str | None = None
    ungradable: str | None = None
    gold: verdict.Gold | None = None

    @classmethod
    def of(
        cls,
        validation: Mapping[str, Any] | None,
        ungradable: str | None,
        keep_invalid: bool = False,
    ) -> "Judged":
        """From the record of a validation (`grading_job.validate`), which may say nothing."""
        invalid, gold = None, None
        if validation is not None:
            if validation["valid"] is False and not keep_invalid:
                invalid = f"its task is not valid: {validation['problems'][0]}"
            if validation.get("gold"):
                gold = verdict.Gold.of_content(validation["gold"])
        return cls(invalid, ungradable, gold)


# A task and the hash of a patch, None where nobody knows.
_Key = tuple[str | None, str | None]


class Grades:
    """The verdicts on the gradings of the patches that a list names (`patches.collect`).

    judged: what is known of tasks, by name.
    """

    def __init__(self, patch_list: Path | None, judged: Mapping[str, Judged] | None = None):
        self._judged = judged or {}
        # Tasks of which a grading could not be made, and why.
        self._refused: dict[str, str | None] = {}
        self._verdicts: dict[_Key, verdict.Verdict] = {}
        self._graders: dict[_Key, str] = {}
        self._rows: dict[_Key, str | None] = {}
        if patch_list is not None:
            self._read(patch_list)

    def _read(self, patch_list: Path) -> None:
        for patch in patches.read(patch_list):
            folder = patches.grading_folder(patch_list, patch)
            record, commands = evidence.read(folder)
            if record["patch_sha256"] != patch["patch_sha256"]:
                raise AgentsweepError(
                    f"the grading in {folder} is that of another patch: remove that folder and "
                    f"{patch_list}, and run again"
                )
            key = patch["task"], patch["patch_sha256"]
            gold = self._judged.get(patch["task"], Judged()).gold
            self._verdicts[key] = verdict.judge(record, commands, gold)
            self._graders[key] = str(record["grader"]["version"])
            self._rows[key] = record.get("row_sha256")
            if self._verdicts[key].status == GradeStatus.UNGRADED:
                self._refused[patch["task"]] = self._verdicts[key].detail

    def of(self, run: Row) -> NewRow:
        """The columns of `runs` that grading fills: of a run without benchmark tests, nothing."""
        if run["row_sha256"] is None:
            return {}
        judged = self._judged.get(run["task"], Judged())
        if judged.invalid is not None:
            return _columns(GradeStatus.INVALID_TASK, judged.invalid, None)
        if judged.ungradable is not None:
            return _columns(GradeStatus.UNGRADED, judged.ungradable, None)
        found = self._verdicts.get(_key(run))
        if found is not None:
            # It may have been corrected since the run was made.
            row = {"row_sha256": self._rows[_key(run)] or run["row_sha256"]}
            said = _columns(found.status, found.detail, found.resolved)
            return said | {"grade_evidence": found.evidence} | row
        if run["patch_status"] == PatchStatus.EMPTY:
            if run["task"] in self._refused:
                # Else those without a patch alone would be the graded runs of their task.
                return _columns(GradeStatus.UNGRADED, self._refused[run["task"]], None)
            return _columns(GradeStatus.NO_PATCH, "the agent changed nothing", False)
        if run["patch_status"] == PatchStatus.OK:
            return _columns(
                GradeStatus.UNGRADED,
                "the task's tests are not pytest's, or no grading was asked for",
                None,
            )
        if run.get("patch_cause") == "run":
            # The agent must not be able to leave the denominator.
            if run["task"] in self._refused:
                return _columns(GradeStatus.UNGRADED, self._refused[run["task"]], None)
            why = f"no patch could be taken of what the agent left: {run.get('patch_reason')}"
            return _columns(GradeStatus.NO_PATCH, why, False)
        return _columns(GradeStatus.UNGRADED, "the run's patch is unavailable", None)

    def tests(self, run: Row) -> list[NewRow]:
        """The rows of `tests` for a run: none where its patch was not graded."""
        key = _key(run)
        if run["row_sha256"] is None or key not in self._verdicts:
            return []
        graded = {"run_id": run["run_id"], "grader": self._graders[key]}
        return [graded | test for test in self._verdicts[key].tests]


def _key(run: Row) -> _Key:
    return run["task"], run["patch_sha256"]


def _columns(status: str, detail: str | None, resolved: bool | None) -> NewRow:
    return {"grade_status": status, "grade_detail": detail, "resolved": resolved}
