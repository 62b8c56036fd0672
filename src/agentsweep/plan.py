"""`agentsweep plan`: the cells of a sweep, which are sealed, and what the others would cost.

Times come from sealed runs of the same task. Where there is none the time is unknown, and the plan
says so instead of guessing.
"""

import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass

from agentsweep.config import Cell, Config, Machine
from agentsweep.units import parse_size

SEALED, RUN, MISFIT, MISSING = "sealed", "would run", "does not fit", "missing"


@dataclass(frozen=True)
class Row:
    """One cell of a plan.

    state: sealed (recalled, costs nothing), would run, does not fit (this machine), or missing
    (`agent.on_miss` is `fail`). estimate_s: seconds of wall time, None where unknown; basis: what
    the estimate rests on. reason: why it does not fit.
    """

    cell: str
    state: str
    estimate_s: float | None = None
    basis: str | None = None
    reason: str | None = None


def make(config: Config, machine: Machine) -> list[Row]:
    """A row for every cell of the sweep, in its order."""
    times = _Times(config)
    rows = []
    for cell in config.cells():
        misfit = config.misfit(cell, machine)
        if config.is_sealed(cell):
            rows.append(Row(cell.id, SEALED))
        elif misfit is not None:
            rows.append(Row(cell.id, MISFIT, reason=misfit))
        elif config.agent_settings(cell.agent)["on_miss"] == "fail":
            rows.append(Row(cell.id, MISSING))
        else:
            rows.append(Row(cell.id, RUN, *times.estimate(cell)))
    return rows


class _Times:
    """How long sealed runs of each task took, wall time with everything around the agent."""

    def __init__(self, config: Config):
        self._config = config
        self._of_limits: dict[tuple, list[float]] = defaultdict(list)
        self._of_task: dict[str, list[float]] = defaultdict(list)
        store = config.store()
        known = store.keys()
        for key in known:
            sealed = store.sealed(key)
            result = sealed.result() if sealed else None
            try:
                task = result["names"]["task"]
                limits = result["spec"]["limits"]
                seconds = float(result["wall_s"])
                self._of_limits[task, limits["memory_bytes"], limits["cpus"]].append(seconds)
                self._of_task[task].append(seconds)
            except (KeyError, TypeError, ValueError):
                # An archive of another making may lack the times; it only gives no estimate.
                continue

    def estimate(self, cell: Cell) -> tuple[float | None, str | None]:
        """Median seconds and what it is the median of."""
        same = self._of_limits.get((cell.task, parse_size(cell.memory), cell.cpus))
        if same:
            return statistics.median(same), f"{_runs(len(same))} of the task under these limits"
        alike = self._of_task.get(cell.task)
        if alike:
            return statistics.median(alike), f"{_runs(len(alike))} of the task under other limits"
        return None, None


def render(rows: Iterable[Row]) -> str:
    """The plan as text: a line for each cell, then the sums."""
    rows = list(rows)
    width = max((len(row.cell) for row in rows), default=0)
    lines = [f"{row.cell:<{width}}  {_said(row)}" for row in rows]
    counts = Counter(row.state for row in rows)
    lines += ["", f"{len(rows)} cells: {counts[SEALED]} sealed (recalled, no new run), "
              f"{counts[RUN]} would run"]  # fmt: skip
    known = [row.estimate_s for row in rows if row.state == RUN and row.estimate_s is not None]
    unknown = counts[RUN] - len(known)
    if counts[RUN]:
        time = duration(sum(known)) if known else "unknown"
        rest = f", and {unknown} more of unknown time" if known and unknown else ""
        lines.append(f"Their time, one after another: {time}{rest}.")
    if counts[MISSING]:
        lines.append(f"{counts[MISSING]} are missing from the store, and agent.on_miss is fail.")
    if counts[MISFIT]:
        lines.append(f"{counts[MISFIT]} do not fit this machine.")
    return "\n".join(lines)


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def main(config: Config, as_json: bool = False) -> None:
    """Print the plan for this machine."""
    rows = make(config, Machine.here())
    print(json.dumps([asdict(row) for row in rows], indent=1) if as_json else render(rows))


def _said(row: Row) -> str:
    if row.state == RUN and row.estimate_s is not None:
        return f"{row.state}, about {duration(row.estimate_s)} ({row.basis})"
    if row.state == RUN:
        return f"{row.state}, time unknown (no sealed run of the task)"
    return f"{row.state}: {row.reason}" if row.reason else row.state


def _runs(number: int) -> str:
    return "1 run" if number == 1 else f"median of {number} runs"
