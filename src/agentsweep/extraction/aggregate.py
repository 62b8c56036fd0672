"""The tables of all runs, put together to one data set, in bounded memory."""

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from agentsweep.errors import AgentsweepError
from agentsweep.tables import dataset, parquet
from agentsweep.tables.rows import NewRow, Row

EXTRACTED = ("runs", "tool_calls", "api_calls", "messages", "samples")


class Gradings(Protocol):
    """What is known of the runs' patches: `grades.Grades`."""

    def of(self, run: Row) -> NewRow:
        """The columns of `runs` that grading fills."""

    def tests(self, run: Row) -> list[NewRow]:
        """The rows of `tests` for a run."""


def aggregate(
    folders: Iterable[Path | str],
    out: Path | str,
    gradings: Gradings,
    cells: int | None = None,
) -> dict[str, int]:
    """Put the tables of extracted runs together below `out`; returns the rows of each table.

    The order of the folders does not matter. `hosts` is summed up from `runs`; `gradings` says
    what `runs` and `tests` have on each run's patch. `cells`, the number of runs that were wanted,
    is kept beside the tables (`dataset.cells_of`). Raises AgentsweepError when there is no folder,
    a table is missing, or two folders hold one run.
    """
    ordered = sorted(map(Path, folders))
    if not ordered:
        raise AgentsweepError(
            "there is no extracted run to aggregate: run the sweep first (`snakemake runs`)"
        )
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    _refuse_repeated(ordered)
    rows = {
        name: parquet.concat(name, (folder / f"{name}.parquet" for folder in ordered), target)
        for name, target in ((name, out / f"{name}.parquet") for name in EXTRACTED)
        if name != "runs"
    }
    rows |= _runs(ordered, out, gradings)
    hosts = _hosts(out / "runs.parquet")
    parquet.write("hosts", hosts, out / "hosts.parquet")
    dataset.note_cells(out, cells, rows["runs"])
    return rows | {"hosts": len(hosts)}


def _runs(folders: Sequence[Path], out: Path, gradings: Gradings) -> dict[str, int]:
    """`runs` with what grading said about each run's patch, and `tests`."""
    with (
        parquet.Writer("runs", out / "runs.parquet") as runs,
        parquet.Writer("tests", out / "tests.parquet") as tests,
    ):
        for folder in folders:
            for run in parquet.read("runs", folder / "runs.parquet").to_pylist():
                runs.write([run | gradings.of(run)])
                tests.write(gradings.tests(run))
    return {"runs": runs.rows, "tests": tests.rows}


def _refuse_repeated(folders: Sequence[Path]) -> None:
    """One run in two folders would count twice in every number."""
    owner: dict[str, Path] = {}
    for folder in folders:
        for run_id in parquet.read("runs", folder / "runs.parquet", ["run_id"])[
            "run_id"
        ].to_pylist():
            if run_id in owner:
                raise AgentsweepError(
                    f"{owner[run_id]} and {folder} both hold the run {run_id}: remove one"
                )
            owner[run_id] = folder


def _hosts(runs: Path) -> list[NewRow]:
    columns = [name for name in parquet.schema_of("hosts").names if name != "n_runs"]
    counts: Counter[tuple[Any, ...]] = Counter()
    for group in parquet.row_groups("runs", runs, columns):
        counts.update(zip(*(group[name].to_pylist() for name in columns), strict=True))
    ordered = sorted(counts, key=lambda host: tuple(map(repr, host)))
    return [dict(zip(columns, host, strict=True)) | {"n_runs": counts[host]} for host in ordered]
