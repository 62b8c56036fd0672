"""Readers and writers of the tables: strict in, the same bytes out, bounded memory.

A table is written by its schema alone: missing columns become null, an unknown column or a value
of another type is an error that names the column. The same rows give the same bytes, however they
are cut into batches. Nothing here imports pandas, which would cost more than the writing.
"""

import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from agentsweep.errors import AgentsweepError
from agentsweep.tables.schemas import SCHEMAS, VERSION

__all__ = [
    "SCHEMAS",
    "VERSION",
    "TableError",
    "Writer",
    "column",
    "concat",
    "read",
    "row_groups",
    "schema_of",
    "write",
]

# Rows of a row group: some 15 MB of samples, or some MB of rows with texts.
_ROW_GROUP_ROWS = {"samples": 65_536}
_ROW_GROUP_ROWS_OTHER = 4_096

Rows = Sequence[Mapping[str, Any]]


class TableError(AgentsweepError):
    """A table or its content is not what the schema says."""


def write(table: str, rows: Rows | pa.Table | pa.RecordBatch, path: Path | str) -> None:
    """Write rows (mappings or an Arrow table) as one Parquet file, whole or not at all."""
    with Writer(table, path) as writer:
        writer.write(rows)


class Writer:
    """Writes one table piece by piece; holds no more than one row group.

    A context manager: the file appears under its name when the block ends well, and not at all
    when it raises.
    """

    def __init__(self, table: str, path: Path | str):
        self.schema = schema_of(table)
        self.rows = 0
        self._table = table
        self._path = Path(path)
        self._partial = self._path.with_name(f".{self._path.name}.{os.getpid()}.partial")
        self._limit = _ROW_GROUP_ROWS.get(table, _ROW_GROUP_ROWS_OTHER)
        self._waiting: list[pa.Table] = []
        self._waiting_rows = 0

    def __enter__(self) -> "Writer":
        texts = [f.name for f in self.schema if f.type == pa.string()]
        whole = [f.name for f in self.schema if f.type == pa.int64()]
        self._file = pq.ParquetWriter(
            self._partial,
            self.schema,
            compression="zstd",
            use_dictionary=texts,
            # Counters and times rise by steps much smaller than themselves.
            column_encoding=dict.fromkeys(whole, "DELTA_BINARY_PACKED"),
        )
        return self

    def write(self, rows: Rows | pa.Table | pa.RecordBatch) -> None:
        """Append rows; TableError names the column that is unknown or has another type."""
        if isinstance(rows, pa.RecordBatch):
            rows = pa.Table.from_batches([rows])
        piece = self._conform(rows) if isinstance(rows, pa.Table) else self._build(rows)
        self._waiting.append(piece)
        self._waiting_rows += piece.num_rows
        self.rows += piece.num_rows
        while self._waiting_rows >= self._limit:
            self._flush(self._limit)

    def __exit__(self, kind: Any, *_: Any) -> None:
        try:
            if kind is None and self._waiting_rows:
                self._flush(self._waiting_rows)
        finally:
            self._file.close()
            if kind is not None:
                self._partial.unlink(missing_ok=True)
        if kind is None:
            self._partial.replace(self._path)

    def _flush(self, rows: int) -> None:
        """One row group; in one piece, because the bytes must not tell how the rows came."""
        waiting = pa.concat_tables(self._waiting)
        group = waiting.slice(0, rows).combine_chunks()
        self._file.write_table(group, row_group_size=rows)
        rest = waiting.slice(rows)
        self._waiting = [rest] if rest.num_rows else []
        self._waiting_rows = rest.num_rows

    def _conform(self, given: pa.Table) -> pa.Table:
        self._refuse_unknown(given.schema.names)
        columns = []
        for field in self.schema:
            if field.name not in given.schema.names:
                column = pa.nulls(given.num_rows, field.type)
            else:
                column = given.column(field.name)
                if column.type != field.type:
                    raise TableError(
                        f"table {self._table}, column {field.name}: is {column.type}, "
                        f"must be {field.type}"
                    )
            self._refuse_nulls(field, column.null_count)
            columns.append(column)
        return pa.Table.from_arrays(columns, schema=self.schema)

    def _build(self, rows: Rows) -> pa.Table:
        known = set(self.schema.names)
        for row in rows:
            if not known.issuperset(row):
                self._refuse_unknown(row)
        columns = []
        for field in self.schema:
            values = [row.get(field.name) for row in rows]
            try:
                made = column(values, field.type)
            except (TypeError, ValueError, OverflowError) as error:
                raise TableError(f"table {self._table}, column {field.name}: {error}") from None
            self._refuse_nulls(field, made.null_count)
            columns.append(made)
        return pa.Table.from_arrays(columns, schema=self.schema)

    def _refuse_unknown(self, names: Iterable[str]) -> None:
        unknown = sorted(set(names) - set(self.schema.names))
        if unknown:
            raise TableError(
                f"table {self._table} has no column {', '.join(unknown)}; "
                "the columns are in agentsweep.tables.schemas"
            )

    def _refuse_nulls(self, field: pa.Field, nulls: int) -> None:
        if nulls and not field.nullable:
            raise TableError(f"table {self._table}, column {field.name}: {nulls} rows lack it")


def read(
    table: str,
    path: Path | str,
    columns: Sequence[str] | None = None,
    run_ids: Iterable[str] | None = None,
) -> pa.Table:
    """The whole table, or some of its columns or runs; TableError if it is not that table.

    With `run_ids`, row groups without these runs are not read (by their statistics).
    """
    wanted = None if run_ids is None else set(run_ids)
    names = _names(table, columns)
    pieces = []
    for group in row_groups(table, path, names if wanted is None else ["run_id", *names], wanted):
        if wanted is not None:
            group = _only(group, wanted).select(names)
        pieces.append(group)
    schema = pa.schema([SCHEMAS[table].field(name) for name in names])
    return pa.concat_tables(pieces) if pieces else schema.empty_table()


def row_groups(
    table: str,
    path: Path | str,
    columns: Sequence[str] | None = None,
    run_ids: set[str] | None = None,
) -> Iterator[pa.Table]:
    """The table, one row group at a time; with `run_ids`, those that may hold one of them."""
    names = list(dict.fromkeys(_names(table, columns)))
    with _open(table, path) as file:
        place = file.schema_arrow.get_field_index("run_id")
        for number in range(file.metadata.num_row_groups):
            if run_ids is not None:
                bounds = file.metadata.row_group(number).column(place).statistics
                if bounds is not None and not any(bounds.min <= r <= bounds.max for r in run_ids):
                    continue
            try:
                group = file.read_row_group(number, columns=names, use_threads=False)
            # What cannot be decoded is an OSError there, without a number.
            except (pa.ArrowException, OSError) as error:
                raise TableError(_unreadable(path, error)) from None
            yield group.select(names)


def concat(table: str, paths: Iterable[Path | str], out: Path | str) -> int:
    """Put tables together in the given order, a row group at a time; returns the rows written."""
    with Writer(table, out) as writer:
        for path in paths:
            for group in row_groups(table, path):
                writer.write(group)
    return writer.rows


def schema_of(table: str) -> pa.Schema:
    """The schema of a table; TableError for a name that is none."""
    try:
        return SCHEMAS[table]
    except KeyError:
        raise TableError(
            f"there is no table {table!r}; the tables are {', '.join(SCHEMAS)}"
        ) from None


def _names(table: str, columns: Sequence[str] | None) -> list[str]:
    schema = schema_of(table)
    unknown = sorted(set(columns or ()) - set(schema.names))
    if unknown:
        raise TableError(f"table {table} has no column {', '.join(unknown)}")
    return list(schema.names if columns is None else columns)


def _unreadable(path: Path | str, error: Exception) -> str:
    said = str(error).splitlines() or [type(error).__name__]
    return f"{path} is no Parquet file: {said[0]}"


def _open(table: str, path: Path | str) -> pq.ParquetFile:
    """The file, if it is this table in this version."""
    schema = schema_of(table)
    try:
        file = pq.ParquetFile(path, read_dictionary=[])
    except FileNotFoundError:
        raise TableError(f"{path} is missing: make it with `snakemake --cores 1 dataset`") from None
    except (pa.ArrowException, OSError) as error:
        raise TableError(_unreadable(path, error)) from None
    metadata = file.schema_arrow.metadata or {}
    found = metadata.get(b"agentsweep_table", b"").decode(errors="replace")
    version = metadata.get(b"agentsweep_schema", b"").decode(errors="replace")
    if found == table and version == str(VERSION) and file.schema_arrow.equals(schema):
        return file
    file.close()
    if found != table:
        raise TableError(f"{path} holds the table {found or 'of another program'}, not {table}")
    if version == str(VERSION):
        # Columns were added since: what was extracted before is made anew, not patched up.
        raise TableError(f"{path} lacks columns of schema {version}: extract the runs again")
    raise TableError(
        f"{path} has schema version {version}, this program reads version {VERSION}: "
        "extract the runs again"
    )


def _only(group: pa.Table, wanted: set[str]) -> pa.Table:
    import pyarrow.compute as pc

    values = column(sorted(wanted), pa.string())
    return group.filter(pc.is_in(group.column("run_id"), value_set=values))


def column(values: list[Any], kind: pa.DataType) -> pa.Array:
    """An Arrow array of exactly this type, made from buffers: `pa.array` would import pandas."""
    absent = values.count(None)
    validity = None
    if absent:
        validity = _bits([value is not None for value in values])
    if kind == pa.string():
        buffers = _text_buffers(values)
    elif kind == pa.bool_():
        buffers = [_bits([_exactly(value, bool, False) for value in values])]
    elif kind == pa.float64():
        buffers = [pa.py_buffer(array("d", [_number(value) for value in values]))]
    else:
        buffers = [pa.py_buffer(array("q", [_exactly(value, int, 0) for value in values]))]
    return pa.Array.from_buffers(kind, len(values), [validity, *buffers], absent)


def _bits(flags: list[bool]) -> pa.Buffer:
    # Least significant bit first; reading base 2 takes linear time, adding powers would not.
    bits = int("".join("1" if flag else "0" for flag in reversed(flags)) or "0", 2)
    return pa.py_buffer(bits.to_bytes((len(flags) + 7) // 8, "little"))


def _text_buffers(values: list[Any]) -> list[pa.Buffer]:
    encoded = [_exactly(value, str, "").encode() for value in values]
    ends = array("i", [0])
    for text in encoded:
        ends.append(ends[-1] + len(text))
    return [pa.py_buffer(ends), pa.py_buffer(b"".join(encoded))]


def _exactly(value: Any, kind: type, absent: Any) -> Any:
    """The value if it is of this very type (True is no integer)."""
    if value is None:
        return absent
    # A word of agentsweep.vocabulary is a text.
    if type(value) is not kind and not (kind is str and isinstance(value, StrEnum)):
        raise TypeError(f"{value!r:.80} is {type(value).__name__}, must be {kind.__name__}")
    return value


def _number(value: Any) -> float:
    if value is None:
        return 0.0
    if type(value) not in (int, float):
        raise TypeError(f"{value!r:.80} is {type(value).__name__}, must be a number")
    return float(value)
