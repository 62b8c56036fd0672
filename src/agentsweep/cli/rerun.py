"""`agentsweep rerun`: make a cell's run again, although the store has one.

The sealed run is set aside (`superseded`) and kept, because it may have cost money; the cell's
files among the results go, so that Snakemake plans exactly this cell and what depends on it.
"""

from collections.abc import Callable
from pathlib import Path

from agentsweep import untrusted
from agentsweep.config.cells import Cell
from agentsweep.config.config import Config
from agentsweep.errors import AgentsweepError
from agentsweep.runs.store import PUBLISHED, SEALED, Attempt
from agentsweep.seal import SEAL

Say = Callable[[str], object]


def rerun(config: Config, cells: list[Cell], say: Say, remove: bool = False) -> None:
    """Set the runs of cells aside, or delete them with `remove`; their next run is a new one.

    Cells of equal specs share their runs, so that all of them are run again. Raises
    AgentsweepError, before anything is changed, where a cell has no sealed run, is being run,
    must not be run (`agent.on_miss`), or has results that are not in the store.
    """
    sharing: dict[str, list[Cell]] = {}
    for cell in config.cells():
        sharing.setdefault(config.spec(cell), []).append(cell)
    wanted = {config.spec(cell): cell for cell in cells}
    sealed = {spec: _sealed(config, spec, cell) for spec, cell in wanted.items()}
    for spec in wanted:
        known = {attempt.id for attempt in config.recall().made(spec)}
        for cell in sharing[spec]:
            _refuse_unknown_results(config, cell, known)
    store = config.store()
    for spec, attempts in sealed.items():
        for attempt in attempts:
            if remove:
                store.remove(attempt)
                say(f"removed {attempt.id}")
            else:
                store.supersede(attempt)
                say(
                    f"{attempt.id} is set aside; "
                    f"`agentsweep store --store {store.root} remove {attempt.id} --yes` deletes it"
                )
        for cell in sharing[spec]:
            for name in (*PUBLISHED, SEAL):
                (_results(config, cell) / name).unlink(missing_ok=True)
            say(f"{cell.id}: the next `snakemake` makes a new run")


def _sealed(config: Config, spec: str, cell: Cell) -> list[Attempt]:
    if config.agent_settings(cell.agent).on_miss == "fail":
        raise AgentsweepError(
            f"{cell.id}: agent.on_miss is `fail`, which forbids a new run: set it to `run`"
        )
    found = [a for a in config.recall().made(spec) if a.state == SEALED]
    if not found:
        raise AgentsweepError(
            f"{cell.id} has no sealed run in {config.store().root}: `snakemake` makes it"
        )
    if config.store().is_locked(config.spec_sha256(cell)):
        raise AgentsweepError(f"{cell.id} is being run: stop that run first, or wait for it")
    return found


def _refuse_unknown_results(config: Config, cell: Cell, known: set[str]) -> None:
    """Results may be all that is left of a run whose store is gone."""
    folder = _results(config, cell)
    try:
        result = untrusted.read_json(folder / "result.json")
    except (OSError, ValueError):
        return
    if not isinstance(result, dict) or "attempt_id" not in result:
        return
    if result["attempt_id"] not in known:
        raise AgentsweepError(
            f"{folder} holds a run that is not in {config.store().root}: move that directory away "
            "and try again"
        )


def _results(config: Config, cell: Cell) -> Path:
    return Path(config.paths.results) / "runs" / cell.id
