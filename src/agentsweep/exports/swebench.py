"""`agentsweep export swebench`: what agents left, as predictions that SWE-bench's harness grades.

The format is that of `swebench.harness.utils.get_predictions_from_file` (5.0.2): JSON Lines with
`instance_id`, `model_name_or_path` and `model_patch`. The harness keeps one prediction for each
instance of a file and names its logs by `model_name_or_path`, so that each point of the sweep
(agent, memory, CPUs, replicate) is a file and a name of its own.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

from agentsweep.config.cells import Cell
from agentsweep.config.config import Config
from agentsweep.errors import AgentsweepError
from agentsweep.exports import finished_runs
from agentsweep.exports.finished_runs import FinishedRun
from agentsweep.extraction.run_directory import Fields
from agentsweep.files import disk_errors, write_durably
from agentsweep.vocabulary import UNRELATED_OUTCOMES, Outcome, PatchStatus

GRADED_KIND = "swe"


def export(config: Config, out: Path, say: Callable[[str], None] = print) -> None:
    """Write `<point>.jsonl` for each point of the sweep; says what is left out, a line each.

    Raises AgentsweepError where nothing can be exported, where two tasks of a point are the same
    instance, and, after everything else was written, with a line for each run whose patch cannot
    be written as it is.
    """
    runs, missing = finished_runs.find(config)
    points: dict[str, dict[str, tuple[Cell, str]]] = {}
    wrong: list[str] = []
    for run in _gradable(config, runs, say):
        task = config.task(run.cell.task)
        try:
            patch = _patch(run)
        except AgentsweepError as error:
            wrong.append(str(error))
            continue
        point = points.setdefault(point_name(run.cell), {})
        other = point.setdefault(task.instance_id, (run.cell, patch))[0]
        if other != run.cell:
            raise AgentsweepError(
                f"{run.cell.id}: its instance {task.instance_id} is that of task {other.task} too, "
                "and a file has one prediction for each: export them with one sweep.tasks each"
            )
        if note := _note(run):
            say(f"{run.cell.id}: {note}")
    for name, predictions in points.items():
        _write(out, name, {instance: patch for instance, (_, patch) in predictions.items()}, say)
    if missing:
        say(finished_runs.missing_line(missing, len(config.cells())))
    if wrong:
        raise AgentsweepError("\n".join(wrong))
    if not points:
        raise AgentsweepError(
            f"none of {len(runs)} finished runs can be graded: predictions are made of runs of "
            f"tasks of kind {GRADED_KIND}"
        )


def point_name(cell: Cell) -> str:
    """The name of a cell's point: `agent~claude_mem~1GiB_cpus~2_rep~0`, as in the cell's id.

    Without a slash, which the harness would replace in its own files.
    """
    return f"agent~{cell.agent}_mem~{cell.memory}_cpus~{cell.cpu_limit}_rep~{cell.replicate}"


def _gradable(
    config: Config, runs: list[FinishedRun], say: Callable[[str], None]
) -> list[FinishedRun]:
    """The runs that have a prediction; the others are said, by task, outcome or one by one.

    The harness counts an instance without a patch as not resolved, which a run that the provider
    or the budget ended says nothing about.
    """
    kept: list[FinishedRun] = []
    others: dict[str, tuple[str, int]] = {}
    unrelated: list[tuple[Outcome, str]] = []
    for run in runs:
        kind, outcome = config.task(run.cell.task).kind, run.result.get("outcome")
        if kind != GRADED_KIND:
            others[run.cell.task] = (kind, others.get(run.cell.task, (kind, 0))[1] + 1)
        elif outcome not in [*Outcome]:
            say(f"left out: {run.cell.id}: its outcome {outcome!r} says nothing about the agent")
        elif outcome in UNRELATED_OUTCOMES:
            unrelated.append((Outcome(outcome), run.cell.id))
        else:
            kept.append(run)
    for task, (kind, count) in others.items():
        say(f"left out: {count} runs of task {task}, which is of kind {kind}")
    for outcome in UNRELATED_OUTCOMES:
        cells = [cell for found, cell in unrelated if found == outcome]
        if cells:
            more = ", ..." if len(cells) > 1 else ""
            say(
                f"left out: {len(cells)} of {len(runs)} runs with the outcome {outcome}, which "
                f"says nothing about the limit ({cells[0]}{more})"
            )
    return kept


def _patch(run: FinishedRun) -> str:
    """The run's patch, byte for byte; empty where it left none.

    Raises AgentsweepError where the file is lost or changed, or is no UTF-8: JSON holds text, and
    the harness writes it as UTF-8, so that such a patch would arrive as another one.
    """
    said = Fields(run.result.get("patch"))
    if said("status") != PatchStatus.OK:
        return ""
    path = run.directory / "patch.diff"
    try:
        data = path.read_bytes()
    except OSError as error:
        raise AgentsweepError(
            f"{run.cell.id}: {path} cannot be read ({error.strerror}): bring it back from your "
            "archive, or remove the attempt and run the cell again"
        ) from None
    if hashlib.sha256(data).hexdigest() != said("sha256"):
        raise AgentsweepError(
            f"{run.cell.id}: {path} is not the patch that the run sealed (its sha256 differs): "
            "bring it back from your archive, or remove the attempt and run the cell again"
        )
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise AgentsweepError(
            f"{run.cell.id}: left out: its patch is no UTF-8 (byte {error.start} of {path}), which "
            "a prediction cannot hold: grade that file by hand"
        ) from None


def _note(run: FinishedRun) -> str | None:
    """What a reader of a prediction should know about its patch, None where that is nothing."""
    said = Fields(run.result.get("patch"))
    if said("status") not in (PatchStatus.OK, PatchStatus.EMPTY):
        return f"no patch could be taken ({said('reason')}): its prediction is empty"
    if said("reason"):
        return f"its patch lacks what git could not read: {said('reason')}"
    return None


def _write(out: Path, name: str, patches: dict[str, str], say: Callable[[str], None]) -> None:
    lines = (
        json.dumps({"instance_id": instance, "model_name_or_path": name, "model_patch": patch})
        for instance, patch in patches.items()
    )
    path = out / f"{name}.jsonl"
    with disk_errors(path):
        out.mkdir(parents=True, exist_ok=True)
        # ASCII: the harness reads with the encoding of its locale.
        write_durably(path, "".join(f"{line}\n" for line in lines).encode("ascii"))
    empty = sum(not patch for patch in patches.values())
    say(f"{path}: {len(patches)} predictions, {empty} of them empty")
