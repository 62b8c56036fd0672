"""Files with rows of a benchmark: Parquet, JSONL, or a JSON list.

A file may be hundreds of megabytes of patches and issue texts. So it is looked through for what a
filter needs alone, and the rows that were chosen are read afterwards. pyarrow is loaded for
Parquet only.
"""

import functools
import json
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentsweep.errors import ConfigError, show
from agentsweep.tasks.row_fields import LIGHT_COLUMNS, ROW_COLUMNS, light_fields, row_of
from agentsweep.tasks.task_row import TaskRow

if TYPE_CHECKING:
    import pyarrow

SUFFIXES = (".parquet", ".jsonl", ".json")
_BATCH_ROWS = 1000

Names = Collection[str]
# Rows that are wanted; None for all.
Numbers = Collection[int] | None


@dataclass(frozen=True)
class Entry:
    """What a filter sees of a row, and where the row is: file and number, counted from 1."""

    path: Path
    number: int
    instance_id: str
    repo: str | None
    difficulty: str | None
    image: str


def entries(path: Path) -> tuple[Entry, ...]:
    """All rows of a file, in its order.

    Raises ConfigError for a file that cannot be read and for rows without a name of their own.
    """
    try:
        state = path.stat()
    except (OSError, ValueError):
        # A ValueError is a NUL in the path.
        said = str(path).replace("\0", "\\0")
        raise ConfigError(f"{said}: there is no such file; write a file with rows") from None
    # Each task of a file asks, and a file may change between two sweeps of one process.
    return _entries(path, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=16)
def _entries(path: Path, changed_ns: int, size_bytes: int) -> tuple[Entry, ...]:
    found: dict[str, Entry] = {}
    wrong = []
    for number, record in _records(path, LIGHT_COLUMNS):
        where = f"{path}: row {number}"
        try:
            entry = Entry(path, number, *light_fields(record, where))
        except ConfigError as error:
            wrong += error.problems
            continue
        other = found.setdefault(entry.instance_id, entry)
        if other is not entry:
            wrong.append(
                f"{where}: instance_id: {show(entry.instance_id)} is that of row {other.number} "
                "too; leave one out"
            )
    if wrong:
        raise ConfigError(wrong)
    return tuple(found.values())


def rows(chosen: Collection[Entry]) -> list[TaskRow]:
    """The chosen rows, whole, in the order given; ConfigError with all that is wrong in them."""
    found: dict[Entry, TaskRow] = {}
    wrong = []
    for path in dict.fromkeys(entry.path for entry in chosen):
        wanted = {entry.number: entry for entry in chosen if entry.path == path}
        for number, record in _records(path, ROW_COLUMNS, wanted.keys()):
            try:
                found[wanted[number]] = row_of(record, f"{path}: row {number}")
            except ConfigError as error:
                wrong += error.problems
    if wrong:
        raise ConfigError(wrong)
    return [found[entry] for entry in chosen]


def _records(
    path: Path, columns: Names, numbers: Numbers = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Rows with their numbers: all or some of them, of Parquet with these columns alone."""
    readers = {".parquet": _parquet, ".jsonl": _jsonl, ".json": _json_list}
    if path.suffix not in readers:
        raise ConfigError(f"{path}: not a file of rows; allowed are {', '.join(SUFFIXES)}")
    try:
        for number, record in readers[path.suffix](path, columns, numbers):
            if not isinstance(record, dict):
                raise ConfigError(f"{path}: row {number}: {show(record)} is not a row of fields")
            yield number, record
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise ConfigError(f"{path}: cannot be read: {said}") from None


def _jsonl(path: Path, _columns: Names, numbers: Numbers) -> Iterator[tuple[int, Any]]:
    # Not plain UTF-8: editors of Windows write a mark before the first row.
    with path.open(encoding="utf-8-sig", newline="\n") as lines:
        for number, line in enumerate(lines, 1):
            if (numbers is None or number in numbers) and line.strip():
                try:
                    yield number, json.loads(line)
                except (ValueError, RecursionError):
                    raise ConfigError(f"{path}: row {number}: it is not JSON") from None


def _json_list(path: Path, _columns: Names, numbers: Numbers) -> Iterator[tuple[int, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError):
        raise ConfigError(f"{path}: it is not JSON; a row a line belongs into a .jsonl") from None
    if not isinstance(content, list):
        raise ConfigError(f"{path}: {show(content)} is not a list of rows")
    for number, record in enumerate(content, 1):
        if numbers is None or number in numbers:
            yield number, record


def _parquet(path: Path, columns: Names, numbers: Numbers) -> Iterator[tuple[int, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            columns = [name for name in file.schema_arrow.names if name in columns]
            before = 0
            for group in range(file.num_row_groups):
                count = file.metadata.row_group(group).num_rows
                if numbers is None or any(before < number <= before + count for number in numbers):
                    batches = file.iter_batches(_BATCH_ROWS, row_groups=[group], columns=columns)
                    yield from _of_batches(batches, before, numbers)
                before += count
    # What cannot be decoded is an OSError there, without a number.
    except (pyarrow.ArrowException, OSError) as error:
        said = str(error).splitlines()[0]
        raise ConfigError(f"{path}: it is not a readable Parquet file: {said}") from None


def _of_batches(
    batches: Iterable["pyarrow.RecordBatch"], before: int, numbers: Numbers
) -> Iterator[tuple[int, Any]]:
    for batch in batches:
        if numbers is None:
            yield from enumerate(batch.to_pylist(), before + 1)
        else:
            # Not `take`, which does not know all types that a file may have.
            for index in range(batch.num_rows):
                if before + index + 1 in numbers:
                    yield before + index + 1, batch.slice(index, 1).to_pylist()[0]
        before += batch.num_rows
