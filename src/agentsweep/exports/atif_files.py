"""`agentsweep export atif`: the finished runs of a sweep as ATIF trajectories, a file for each."""

import json
from collections.abc import Callable
from pathlib import Path

from agentsweep.config.config import Config
from agentsweep.exports import atif_trajectory, finished_runs
from agentsweep.exports.finished_runs import FinishedRun
from agentsweep.extraction.linked_run import Curve, Run
from agentsweep.extraction.run_directory import Damage, Fields
from agentsweep.files import disk_errors, write_durably


def export(config: Config, out: Path, say: Callable[[str], None] = print) -> None:
    """Write `<out>/<cell id>.json` for each finished run, whatever its outcome.

    The same run gives the same bytes. Damage of a run's files is said, and stands in the
    trajectory. Raises AgentsweepError where there is no finished run.
    """
    runs, missing = finished_runs.find(config)
    for run in runs:
        read = _read(run)
        path = out / f"{run.cell.id}.json"
        text = json.dumps(atif_trajectory.trajectory(read), indent=1, allow_nan=False)
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_durably(path, text.encode("ascii") + b"\n")
        if damage := read.damage.sentence():
            say(f"{run.cell.id}: {damage}")
    say(f"{out}: {len(runs)} trajectories")
    if missing:
        say(finished_runs.missing_line(missing, len(config.cells())))


def _read(run: FinishedRun) -> Run:
    """The run with its texts. Samples are left unread: no step needs them."""
    return Run(run.cell.id, run.directory, Fields(run.result), Curve(), Damage(), True)
