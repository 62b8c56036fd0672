"""The finished runs of a sweep, where their files lie: what exports read.

A run is finished when its attempt is sealed in the store. Results without their store (a copy of
`results/` alone) count too, where they were made with exactly the cell's spec.
"""

from dataclasses import dataclass
from pathlib import Path

from agentsweep import untrusted
from agentsweep.config.cells import Cell
from agentsweep.config.config import Config
from agentsweep.errors import AgentsweepError
from agentsweep.runs.recall import is_run_of, verify
from agentsweep.tables.rows import NewRow


@dataclass(frozen=True)
class FinishedRun:
    """A cell's run: the directory of its files, and its result.json."""

    cell: Cell
    directory: Path
    result: NewRow


def find(config: Config) -> tuple[list[FinishedRun], list[Cell]]:
    """The finished runs in the order of the sweep, and the cells without one.

    Raises AgentsweepError where there is none at all, or where a sealed one is damaged. Files of
    other specs, and attempts that failed, were interrupted or are being written, are none.
    """
    cells = config.cells()
    found = [run for cell in cells if (run := _of_cell(config, cell)) is not None]
    if not found:
        raise AgentsweepError(
            f"no cell of this sweep has a finished run in {config.paths.store} or "
            f"{config.paths.results}/runs: run the sweep first (`snakemake --cores 8 runs`)"
        )
    done = {run.cell for run in found}
    return found, [cell for cell in cells if cell not in done]


def missing_line(missing: list[Cell], cells: int) -> str:
    """One line that says how many cells have no finished run, with the first one's name."""
    more = ", ..." if len(missing) > 1 else ""
    return f"no finished run: {len(missing)} of {cells} cells ({missing[0].id}{more})"


def _of_cell(config: Config, cell: Cell) -> FinishedRun | None:
    choice = config.choice(cell)
    sealed = choice.attempt
    result = sealed.result() if sealed is not None else None
    if sealed is not None:
        verify(sealed, cell.id, needed=())
        if result is not None:
            return FinishedRun(cell, sealed.path, result)
    directory = Path(config.paths.results) / "runs" / cell.id
    try:
        found = untrusted.read_json(directory / "result.json")
    except (OSError, ValueError):
        return None
    if choice.before or not isinstance(found, dict) or not is_run_of(config.spec(cell), found):
        return None
    return FinishedRun(cell, directory, found)
