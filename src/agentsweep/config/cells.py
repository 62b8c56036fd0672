"""The cells of a sweep: the points of its grid, or the lines of a table."""

import contextlib
import csv
import io
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentsweep.config.models import Configuration
from agentsweep.cpu_modes import CPU_MODES, CPUSET, QUOTA
from agentsweep.errors import show
from agentsweep.schema import KeyPath
from agentsweep.units import format_size, parse_cpus, parse_size

MIN_MEMORY_BYTES = 16 * 2**20
# As in the schema.
MOST_REPLICATES = 10_000
MOST_CELLS = 1_000_000
# Of names in a message.
_MOST_NAMES = 20
CELL_COLUMNS = ("task", "agent", "memory", "cpus", "replicate")
# A column that a table of cells may have besides.
MODE_COLUMN = "cpu_mode"

Place = Callable[[KeyPath], str]
Check = Callable[[Any], str]
# By columns; more values than columns are a list, under None.
Line = dict[str | None, Any]


@dataclass(frozen=True, order=True)
class Cell:
    """One point of the sweep; memory and cpus in canonical spelling (`512MiB`, `0.5`).

    cpu_mode: `quota` is a share of all CPUs, `cpuset` whole ones that the run is pinned to.
    """

    task: str
    agent: str
    memory: str
    cpus: str
    replicate: int
    cpu_mode: str = QUOTA

    @property
    def cpu_limit(self) -> str:
        """CPUs and mode as a path has them: `2`, `2-cpuset`.

        A quota is not spelled out, and the name does not depend on what else is in the sweep: a
        second mode leaves the paths of the first one's cells as they are, and makes nothing again.
        """
        return self.cpus if self.cpu_mode == QUOTA else f"{self.cpus}-{self.cpu_mode}"

    @property
    def id(self) -> str:
        """The cell's name everywhere: path below results/runs, and run_id in the tables."""
        return (
            f"task~{self.task}/agent~{self.agent}/"
            f"mem~{self.memory}_cpus~{self.cpu_limit}_rep~{self.replicate}"
        )


def cells_of(
    settings: Configuration,
    place: Place,
    wrong: list[str],
    task_sets: Mapping[str, list[str] | None] | None = None,
) -> list[Cell]:
    """Every cell of the sweep, from its grid or from its table, in their order.

    `place` says where a value stands, for messages; what is wrong is added to `wrong`. A name in
    `task_sets` means all of the tasks there; None is a set that could not be read, so that any
    name may be that of a task.
    """
    sweep, sets = settings.sweep, task_sets or {}
    tasks = _known(settings.tasks, complete=None not in sets.values())
    if sweep.cells is not None:
        return _cells_of_table(Path(sweep.cells), settings, place, wrong, tasks)
    axes: list[list[str]] = []
    axis: tuple[str, Sequence[Any] | None, Check]
    for axis in (
        ("tasks", list(settings.tasks) if sweep.tasks is None else sweep.tasks, tasks),
        (
            "agents",
            list(settings.agents) if sweep.agents is None else sweep.agents,
            _known(settings.agents),
        ),
        ("memory", sweep.memory, _memory),
        ("cpus", sweep.cpus, parse_cpus),
    ):
        key, values, one = axis
        # Without a task nothing is measured, and no limit is needed.
        if values is None and sweep.tasks != []:
            wrong.append(
                f"{place(('sweep', key))}: missing; write a list, or name a table in sweep.cells"
            )
        of_key = sets if key == "tasks" else {}
        axes.append(_axis(("sweep", key), values or (), one, place, wrong, of_key))
    modes = sweep.cpu_modes or [settings.container.cpu_mode]
    for index, cpus in enumerate(sweep.cpus or ()):
        with contextlib.suppress(ValueError):
            _ungranted(cpus, modes, place(("sweep", "cpus", index)), wrong)
    replicates = range(sweep.replicates)
    count = math.prod(map(len, axes)) * len(modes) * len(replicates)
    if count > MOST_CELLS:
        wrong.append(
            f"{place(('sweep',))}: {count} cells are more than {MOST_CELLS}, the most that a plan "
            "holds; write fewer values or replicates"
        )
        return []
    return [
        Cell(task, agent, memory, cpus, replicate, mode)
        for task, agent, memory, cpus, mode in itertools.product(*axes, modes)
        for replicate in replicates
    ]


def _ungranted(cpus: float | str, modes: Iterable[str], where: str, wrong: list[str]) -> None:
    """A part of a core cannot be pinned; ValueError where it is no number of CPUs at all."""
    if CPUSET in modes and "." in parse_cpus(cpus):
        wrong.append(
            f"{where}: {show(cpus)} is a part of a core, and cpu_mode cpuset pins whole "
            "ones; leave it out, or list single cells in sweep.cells"
        )


def _axis(
    path: KeyPath,
    values: Sequence[Any],
    one: Check,
    place: Place,
    wrong: list[str],
    sets: Mapping[str, list[str] | None],
) -> list[str]:
    """The values in canonical spelling, sets with all that is in them; no value comes twice."""
    seen: dict[str, object] = {}
    single = [
        (index, value)
        for index, named in enumerate(values)
        for value in ((sets[named] or []) if named in sets else [named])
    ]
    told: set[int] = set()
    for index, value in single:
        try:
            canonical_value = one(value)
        except ValueError as error:
            wrong.append(f"{place((*path, index))}: {error}")
            continue
        # Of a set that is there twice, its first task says it.
        if canonical_value in seen and index not in told:
            told.add(index)
            wrong.append(
                f"{place((*path, index))}: {show(value)} is the same as "
                f"{show(seen[canonical_value])} before it; leave one out"
            )
        seen.setdefault(canonical_value, value)
    return list(seen)


def _memory(text: str) -> str:
    size = parse_size(text)
    if size < MIN_MEMORY_BYTES:
        raise ValueError(
            f"{text!r} is less than {format_size(MIN_MEMORY_BYTES)}, which no container starts with"
        )
    return format_size(size)


def _known(names: Mapping[str, object], complete: bool = True) -> Check:
    def check(name: str) -> str:
        if name not in names and complete:
            shown = list(names)[:_MOST_NAMES]
            more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
            raise ValueError(f"{name!r} is not defined; defined are {', '.join(shown)}{more}")
        return name

    return check


def _cells_of_table(
    path: Path, settings: Configuration, place: Place, wrong: list[str], tasks: Check
) -> list[Cell]:
    """The cells that a CSV or TSV file lists, one a line."""
    lines = _lines(path, place, wrong)
    if lines is None:
        return []
    checks: dict[str, Check] = {
        "task": tasks, "agent": _known(settings.agents),
        "memory": _memory, "cpus": parse_cpus, "replicate": _replicate,
        MODE_COLUMN: lambda text: _mode(text, settings.container.cpu_mode),
    }  # fmt: skip
    cells: dict[Cell, int] = {}
    for number, row in lines:
        values = {}
        for column, check in checks.items():
            try:
                values[column] = check((row.get(column) or "").strip())
            except ValueError as error:
                wrong.append(f"{path}: line {number}: {column}: {error}")
        if None in row:
            wrong.append(f"{path}: line {number}: more values than columns")
        if len(values) == len(checks):
            replicate = int(values.pop("replicate"))
            cell = Cell(**values, replicate=replicate)
            _ungranted(cell.cpus, [cell.cpu_mode], f"{path}: line {number}: cpus", wrong)
            if cell in cells:
                wrong.append(
                    f"{path}: line {number}: the same cell as in line {cells[cell]}; leave one out"
                )
            cells.setdefault(cell, number)
    if not cells and not wrong:
        wrong.append(f"{path}: no cells in it; write one a line")
    return list(cells)


def _lines(path: Path, place: Place, wrong: list[str]) -> list[tuple[int, Line]] | None:
    """The lines of a table with their numbers, empty ones left out; None where it is none."""
    try:
        # Spreadsheets save `CSV UTF-8` with a byte order mark.
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        wrong.append(
            f"{place(('sweep', 'cells'))}: {str(path)!r} is not a readable CSV or TSV file"
        )
        return None
    delimiter = "\t" if "\t" in text.split("\n", 1)[0] else ","
    rows: csv.DictReader[Any] = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        columns, listed = tuple(rows.fieldnames or ()), [(rows.line_num, row) for row in rows]
    except csv.Error as error:
        wrong.append(f"{path}: line {rows.line_num}: it is no CSV or TSV: {error}")
        return None
    given = [column for column in columns if column != MODE_COLUMN]
    if sorted(given) != sorted(CELL_COLUMNS) or len(columns) > len(given) + 1:
        wrong.append(
            f"{path}: line 1: the columns are {', '.join(columns) or 'none'}; allowed are "
            f"{', '.join(CELL_COLUMNS)}, each once, and {MODE_COLUMN}"
        )
        return None
    # Spreadsheets save lines of nothing but commas below a table.
    return [(number, row) for number, row in listed if any(map(_written, row.values()))]


def _written(value: str | list[str] | None) -> bool:
    """Whether there is anything in a field, or in those that are more than columns."""
    return any(part.strip() for part in ([value] if isinstance(value, str) else value or ()))


def _mode(text: str, default: str) -> str:
    if text and text not in CPU_MODES:
        raise ValueError(f"{text!r} is not a mode; write {' or '.join(CPU_MODES)}")
    return text or default


def _replicate(text: str) -> str:
    if not text.isdecimal():
        raise ValueError(f"{text!r} is not a replicate; write 0, 1, 2 ...")
    if len(text) > 20 or int(text) >= MOST_REPLICATES:
        raise ValueError(f"{show(text)} is past the last replicate, {MOST_REPLICATES - 1}")
    return text
