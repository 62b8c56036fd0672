"""A data set on disk: the tables of all runs, read in bounded memory."""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentsweep.errors import AgentsweepError
from agentsweep.tables import parquet
from agentsweep.tables.rows import NewRow
from agentsweep.vocabulary import GradeStatus

if TYPE_CHECKING:
    import pyarrow as pa

    from agentsweep.tables.arrays import Bools, Numbers

# How many cells were wanted and how many have a run: an archive may be incomplete.
CELLS = "cells.json"


def note_cells(directory: Path, wanted: int | None, with_run: int) -> None:
    """Keep beside the tables how many runs were wanted; None: nobody knows."""
    if wanted is None:
        # What an earlier data set wanted says nothing of this one.
        (directory / CELLS).unlink(missing_ok=True)
    else:
        content = json.dumps({"wanted": wanted, "with_run": with_run})
        (directory / CELLS).write_text(f"{content}\n", encoding="utf-8")


def cells_of(directory: Path | str) -> tuple[int, int] | None:
    """The runs of a data set and the cells that were wanted; None where nobody noted them."""
    try:
        noted = json.loads((Path(directory) / CELLS).read_text(encoding="utf-8"))
        return int(noted["with_run"]), int(noted["wanted"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


class Dataset:
    """A data set on disk, read as far as is asked for; `runs` holds at least one row.

    left_out: runs of tasks that are not valid. They are on disk, and here in no other table.
    Raises AgentsweepError when the directory has no other runs.
    """

    def __init__(self, directory: Path | str):
        self.directory = Path(directory)
        self.left_out: list[NewRow] = []
        found = self.rows("runs")
        self.left_out = [run for run in found if run["grade_status"] == GradeStatus.INVALID_TASK]
        self.runs = [run for run in found if run["grade_status"] != GradeStatus.INVALID_TASK]
        if not found:
            raise AgentsweepError(
                f"{self.directory} holds no run: run the sweep first (`snakemake runs`)"
            )
        if not self.runs:
            raise AgentsweepError(
                f"{self.directory} holds no run of a valid task ({found[0]['task']}: "
                f"{found[0]['grade_detail']}): set grading.keep_invalid: true to keep them"
            )

    def rows(self, table: str, columns: Sequence[str] | None = None) -> list[NewRow]:
        """A table's rows as dictionaries; not for `samples`, which may not fit in memory."""
        path = self.directory / f"{table}.parquet"
        if not self.left_out:
            whole: list[NewRow] = parquet.read(table, path, columns).to_pylist()
            return whole
        out = {run["run_id"] for run in self.left_out}
        wanted = None if columns is None else list(dict.fromkeys([*columns, "run_id"]))
        kept = (
            row for row in parquet.read(table, path, wanted).to_pylist() if row["run_id"] not in out
        )
        if columns is None:
            return list(kept)
        return [{name: row[name] for name in columns} for row in kept]

    def samples(
        self, columns: Sequence[str], run_ids: Iterable[str] | None = None
    ) -> Iterator[tuple[str, dict[str, "Numbers"]]]:
        """Each run's samples in turn, as `sample_arrays` has them."""
        if run_ids is None and self.left_out:
            run_ids = [run["run_id"] for run in self.runs]
        return sample_arrays(self.directory, columns, run_ids)


def sample_arrays(
    directory: Path, columns: Sequence[str], run_ids: Iterable[str] | None = None
) -> Iterator[tuple[str, dict[str, "Numbers"]]]:
    """Each run's samples in turn: times as integers, other columns as floats, null as NaN.

    Holds one row group and one run at a time. `run_ids` leaves out the other runs.
    """
    wanted = None if run_ids is None else set(run_ids)
    path = directory / "samples.parquet"
    names = list(dict.fromkeys(["t_ns", *columns]))
    waiting: list[Any] = []
    current = ""
    for group in parquet.row_groups("samples", path, ["run_id", *names], wanted):
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


def _arrays(pieces: list[Any], columns: Sequence[str]) -> dict[str, "Numbers"]:
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


def _values(column: "pa.Array") -> "Numbers":
    """The numbers of a column, anything where it is null; `to_numpy` would import pandas."""
    import numpy as np

    kind = np.dtype(column.type.to_pandas_dtype())
    found = np.frombuffer(column.buffers()[1], kind, column.offset + len(column))
    return found[column.offset :]


def _known(column: "pa.Array") -> "Bools":
    """Which rows are not null."""
    import numpy as np

    bits = np.frombuffer(column.buffers()[0], np.uint8)
    return np.unpackbits(bits, bitorder="little")[column.offset :][: len(column)].astype(bool)
