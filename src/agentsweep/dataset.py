"""The data set: the tables of all runs, one file for each table, in bounded memory."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from agentsweep import grades, tables
from agentsweep.errors import AgentsweepError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

# How many cells were wanted and how many have a run: an archive may be incomplete.
CELLS = "cells.json"
EXTRACTED = ("runs", "tool_calls", "api_calls", "messages", "samples")


def aggregate(
    folders: Iterable[Path | str],
    out: Path | str,
    patch_list: Path | None = None,
    cells: int | None = None,
    judged: Mapping[str, grades.Judged] | None = None,
) -> dict[str, int]:
    """Put the tables of extracted runs together below `out`; returns the rows of each table.

    The order of the folders does not matter. `hosts` is summed up from `runs`; the gradings
    of the patches that `patch_list` names, and what is known of tasks (`judged`, by name), say what
    `runs` has on them, and `tests`. `cells`, the number of runs that were wanted, is kept beside
    the tables (`cells_of`). Raises AgentsweepError when there is no folder, a table is missing, or
    two folders hold one run.
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
        name: tables.concat(name, (folder / f"{name}.parquet" for folder in ordered), target)
        for name, target in ((name, out / f"{name}.parquet") for name in EXTRACTED)
        if name != "runs"
    }
    rows |= _runs(ordered, out, grades.Grades(patch_list, judged))
    hosts = _hosts(out / "runs.parquet")
    tables.write("hosts", hosts, out / "hosts.parquet")
    if cells is None:
        # What an earlier data set wanted says nothing of this one.
        (out / CELLS).unlink(missing_ok=True)
    else:
        content = json.dumps({"wanted": cells, "with_run": rows["runs"]})
        (out / CELLS).write_text(f"{content}\n", encoding="utf-8")
    return rows | {"hosts": len(hosts)}


def cells_of(directory: Path | str) -> tuple[int, int] | None:
    """The runs of a data set and the cells that were wanted; None where nobody noted them."""
    try:
        noted = json.loads((Path(directory) / CELLS).read_text(encoding="utf-8"))
        return int(noted["with_run"]), int(noted["wanted"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _runs(folders: Sequence[Path], out: Path, known: grades.Grades) -> dict[str, int]:
    """`runs` with what grading said about each run's patch, and `tests`."""
    with (
        tables.Writer("runs", out / "runs.parquet") as runs,
        tables.Writer("tests", out / "tests.parquet") as tests,
    ):
        for folder in folders:
            for run in tables.read("runs", folder / "runs.parquet").to_pylist():
                runs.write([run | known.of(run)])
                tests.write(known.tests(run))
    return {"runs": runs.rows, "tests": tests.rows}


def _refuse_repeated(folders: Sequence[Path]) -> None:
    """One run in two folders would count twice in every number."""
    owner: dict[str, Path] = {}
    for folder in folders:
        for run_id in tables.read("runs", folder / "runs.parquet", ["run_id"])[
            "run_id"
        ].to_pylist():
            if run_id in owner:
                raise AgentsweepError(
                    f"{owner[run_id]} and {folder} both hold the run {run_id}: remove one"
                )
            owner[run_id] = folder


def _hosts(runs: Path) -> list[dict]:
    columns = [name for name in tables.schema_of("hosts").names if name != "n_runs"]
    counts: Counter[tuple] = Counter()
    for group in tables.row_groups("runs", runs, columns):
        counts.update(zip(*(group[name].to_pylist() for name in columns), strict=True))
    ordered = sorted(counts, key=lambda host: tuple(map(repr, host)))
    return [dict(zip(columns, host, strict=True)) | {"n_runs": counts[host]} for host in ordered]


class Dataset:
    """A data set on disk, read as far as is asked for; `runs` holds at least one row.

    left_out: runs of tasks that are not valid. They are on disk, and here in no other table.
    Raises AgentsweepError when the directory has no other runs.
    """

    def __init__(self, directory: Path | str):
        self.directory = Path(directory)
        self.left_out: list[dict] = []
        found = self.rows("runs")
        self.left_out = [run for run in found if run["grade_status"] == "invalid_task"]
        self.runs = [run for run in found if run["grade_status"] != "invalid_task"]
        if not found:
            raise AgentsweepError(
                f"{self.directory} holds no run: run the sweep first (`snakemake runs`)"
            )
        if not self.runs:
            raise AgentsweepError(
                f"{self.directory} holds no run of a valid task ({found[0]['task']}: "
                f"{found[0]['grade_detail']}): set grading.keep_invalid: true to keep them"
            )

    def rows(self, table: str, columns: Sequence[str] | None = None) -> list[dict]:
        """A table's rows as dictionaries; not for `samples`, which may not fit in memory."""
        path = self.directory / f"{table}.parquet"
        if not self.left_out:
            return tables.read(table, path, columns).to_pylist()
        out = {run["run_id"] for run in self.left_out}
        wanted = None if columns is None else list(dict.fromkeys([*columns, "run_id"]))
        kept = (
            row for row in tables.read(table, path, wanted).to_pylist() if row["run_id"] not in out
        )
        if columns is None:
            return list(kept)
        return [{name: row[name] for name in columns} for row in kept]

    def samples(
        self, columns: Sequence[str], run_ids: Iterable[str] | None = None
    ) -> Iterator[tuple[str, dict[str, "np.ndarray"]]]:
        """Each run's samples in turn, as `sample_arrays` has them."""
        if run_ids is None and self.left_out:
            run_ids = [run["run_id"] for run in self.runs]
        return sample_arrays(self.directory, columns, run_ids)


def sample_arrays(
    directory: Path, columns: Sequence[str], run_ids: Iterable[str] | None = None
) -> Iterator[tuple[str, dict[str, "np.ndarray"]]]:
    """Each run's samples in turn: times as integers, other columns as floats, null as NaN.

    Holds one row group and one run at a time. `run_ids` leaves out the other runs.
    """
    wanted = None if run_ids is None else set(run_ids)
    path = directory / "samples.parquet"
    names = list(dict.fromkeys(["t_ns", *columns]))
    waiting: list = []
    current = None
    for group in tables.row_groups("samples", path, ["run_id", *names], wanted):
        for run_id, piece in _by_run(group):
            if run_id != current and waiting:
                yield current, _arrays(waiting, names)
                waiting = []
            current = run_id
            if wanted is None or run_id in wanted:
                waiting.append(piece)
    if waiting:
        yield current, _arrays(waiting, names)


def _by_run(group: "pa.Table") -> Iterator[tuple[str, "pa.Table"]]:
    """Cut a row group where the run changes: a run's samples stand together."""
    # `dictionary_encode` would be quicker, but brings in modules of 17 MB.
    run_ids = group["run_id"].to_pylist()
    changes = [i for i, (a, b) in enumerate(pairwise(run_ids), 1) if a != b]
    for start, end in pairwise([0, *changes, len(run_ids)]):
        yield run_ids[start], group.slice(start, end - start)


def _arrays(pieces: list, columns: Sequence[str]) -> dict[str, "np.ndarray"]:
    import numpy as np
    import pyarrow as pa

    joined = pa.concat_tables(pieces)
    arrays = {}
    for name in columns:
        column = _whole(joined[name])
        values = _values(column)
        if name not in ("t_ns", "utc_ns"):
            values = values.astype(np.float64)
            if column.null_count:
                values[~_known(column)] = np.nan
        arrays[name] = values
    return arrays


def _whole(column: "pa.ChunkedArray") -> "pa.Array":
    joined = column.combine_chunks()
    return joined.combine_chunks() if hasattr(joined, "chunks") else joined


def _values(column: "pa.Array") -> "np.ndarray":
    """The numbers of a column, anything where it is null; `to_numpy` would import pandas."""
    import numpy as np

    kind = np.dtype(column.type.to_pandas_dtype())
    found = np.frombuffer(column.buffers()[1], kind, column.offset + len(column))
    return found[column.offset :]


def _known(column: "pa.Array") -> "np.ndarray":
    """Which rows are not null."""
    import numpy as np

    bits = np.frombuffer(column.buffers()[0], np.uint8)
    return np.unpackbits(bits, bitorder="little")[column.offset :][: len(column)].astype(bool)
