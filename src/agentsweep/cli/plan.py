"""`agentsweep plan`: the cells of a sweep, which are sealed, and what the others would cost.

Times come from sealed runs of the same task whose model turns came from where these will, and costs
from sealed live runs; both from completed runs alone, because one that was killed or failed took
less than the work takes. Where there is none they are unknown, and the plan says so instead of
guessing.
"""

import contextlib
import json
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from tabulate import tabulate

from agentsweep.config.agent_models import LIVE
from agentsweep.config.cells import Cell
from agentsweep.config.config import Config
from agentsweep.grading import grading_job, grading_plan
from agentsweep.host.capacity import Machine
from agentsweep.runs.recall import Choice
from agentsweep.units import parse_size

SEALED, RUN, MISFIT, MISSING = "sealed", "would run", "does not fit", "missing"
LEFT_OUT = "left out"
_COMPLETED = "completed"


@dataclass(frozen=True)
class Row:
    """One cell of a plan.

    state: sealed (recalled, costs nothing), would run, does not fit (this machine), missing
    (`agent.on_miss` is `fail`), or left out (its task is not valid). mode: scripted, live or
    replay. estimate_s: seconds of wall time, None where unknown; basis: what the estimate rests
    on, or why there is none. reason: why it does not fit, is left out, or would run again.
    paid: whether the run would cost money; max_usd: where its costs end, None without
    `agent.max_cost_usd`; estimate_usd, usd_basis: as with time.
    """

    cell: str
    state: str
    mode: str
    estimate_s: float | None = None
    basis: str | None = None
    reason: str | None = None
    paid: bool = False
    max_usd: float | None = None
    estimate_usd: float | None = None
    usd_basis: str | None = None


def make(config: Config, machine: Machine) -> list[Row]:
    """A row for every cell of the sweep, in its order."""
    archive = _Archive(config)
    invalid = {
        task: grading_job.invalidity(grading_plan.plan(config, task))
        for task in config.task_names()
        if grading_plan.gradable(config, task)
    }
    rows = []
    for cell in config.cells():
        mode, settings = config.mode(cell), config.agent_settings(cell.agent)
        misfit, choice = config.misfit(cell, machine), config.choice(cell)
        reason = invalid.get(cell.task)
        if reason is not None:
            rows.append(Row(cell.id, LEFT_OUT, mode, reason=reason))
        elif choice.attempt is not None:
            rows.append(Row(cell.id, SEALED, mode))
        elif misfit is not None:
            rows.append(Row(cell.id, MISFIT, mode, reason=misfit))
        elif settings.on_miss == "fail":
            rows.append(Row(cell.id, MISSING, mode))
        elif mode == LIVE:
            time, cost = archive.time(cell, mode), archive.cost(cell)
            said = _remark(config, cell, choice)
            rows.append(Row(cell.id, RUN, mode, *time, said, True, settings.max_cost_usd, *cost))
        else:
            said = _remark(config, cell, choice)
            rows.append(Row(cell.id, RUN, mode, *archive.time(cell, mode), said))
    return rows


def _remark(config: Config, cell: Cell, choice: Choice) -> str | None:
    """What is said of a cell that would run, beside time and money."""
    said = [_again(choice), _unlocked(config, cell)]
    return ", ".join(part for part in said if part) or None


def _unlocked(config: Config, cell: Cell) -> str | None:
    """That a run fails before it begins, for nobody has said which image is meant."""
    if config.image_of(cell.task).digest is not None:
        return None
    return "its image is not in the lock file: run `snakemake --cores 1 lock`"


def _again(choice: Choice) -> str | None:
    """What a cell is said to have that has runs already, none of which counts."""
    if not choice.before:
        return None
    return f"again: {choice.before} earlier run{'s' * (choice.before > 1)} set aside or repeated"


Estimate = tuple[float | None, str | None]
# What a completed run took, None for a run that did not complete.
Taken = list[float | None]


def _usd(result: dict[str, Any]) -> float:
    """By the gateway's count where there is one: the agent's own can be forged."""
    counted = (result.get("budget") or {}).get("cost_usd")
    return float(result["stream"]["result"]["total_cost_usd"] if counted is None else counted)


class _Archive:
    """What sealed runs took: wall time with everything around the agent, and money."""

    def __init__(self, config: Config):
        # By task, mode and limits; by task and mode; by task and agent.
        self._of_limits: dict[tuple[Any, ...], Taken] = defaultdict(list)
        self._of_task: dict[tuple[str, str], Taken] = defaultdict(list)
        self._usd: dict[tuple[str, str], Taken] = defaultdict(list)
        store = config.store()
        known = store.keys()
        for key in known:
            sealed = store.sealed(key)
            result = (sealed.result() if sealed else None) or {}
            # An archive of another making may lack what is asked; it only gives no estimate.
            with contextlib.suppress(KeyError, TypeError, ValueError):
                self._add_time(result)
            with contextlib.suppress(KeyError, TypeError, ValueError):
                self._add_cost(result)

    def _add_time(self, result: dict[str, Any]) -> None:
        task, mode = result["names"]["task"], result["spec"]["model"]["mode"]
        limits = result["spec"]["limits"]
        seconds = float(result["wall_s"]) if result["outcome"] == _COMPLETED else None
        self._of_limits[
            task, mode, limits["memory_bytes"], limits["cpus"], limits["cpu_mode"]
        ].append(seconds)
        self._of_task[task, mode].append(seconds)

    def _add_cost(self, result: dict[str, Any]) -> None:
        if result["spec"]["model"]["mode"] == LIVE:
            completed = result["outcome"] == _COMPLETED
            usd = _usd(result) if completed else None
            self._usd[result["names"]["task"], result["names"]["agent"]].append(usd)

    def time(self, cell: Cell, mode: str) -> Estimate:
        """Median seconds of completed runs and what it is the median of.

        Where none completed under these limits, those under other limits tell, and the basis says
        so: less memory may only be able to fail.
        """
        limits = (parse_size(cell.memory), cell.cpus, cell.cpu_mode)
        same = self._of_limits.get((cell.task, mode, *limits), [])
        alike = self._of_task.get((cell.task, mode), [])
        if not _completed(alike):
            return None, _none_completed(alike)
        which = "under these limits" if _completed(same) else "under other limits"
        runs = same if _completed(same) else alike
        basis = f"{_runs(runs, 'median')} of the task {which}"
        if same and not _completed(same):
            basis += f"; {_none_completed(same)} under these"
        return statistics.median(_completed(runs)), basis

    def cost(self, cell: Cell) -> Estimate:
        """Mean USD of completed runs, as the agent itself counted, and what it is the mean of."""
        known = self._usd.get((cell.task, cell.agent), [])
        if not _completed(known):
            return None, _none_completed(known)
        basis = f"{_runs(known, 'mean')} of the task by this agent"
        return statistics.mean(_completed(known)), basis


def render(rows: Iterable[Row]) -> str:
    """The plan as text: a line for each cell, then the sums."""
    rows = list(rows)
    cells = [(row.cell, _said(row)) for row in rows]
    lines = [tabulate(cells, tablefmt="plain", disable_numparse=True)]
    counts = Counter(row.state for row in rows)
    lines += ["", f"{len(rows)} cells: {counts[SEALED]} sealed (recalled, no new run), "
              f"{counts[RUN]} would run"]  # fmt: skip
    known = [row.estimate_s for row in rows if row.state == RUN and row.estimate_s is not None]
    unknown = counts[RUN] - len(known)
    if counts[RUN]:
        time = duration(sum(known)) if known else "unknown"
        rest = f", and {unknown} more of unknown time" if known and unknown else ""
        lines.append(f"Their time, one after another: {time}{rest}.")
        lines.append(_costs([row for row in rows if row.paid], counts[RUN]))
    if counts[MISSING]:
        lines.append(f"{counts[MISSING]} are missing from the store, and agent.on_miss is fail.")
    if counts[LEFT_OUT]:
        lines.append(f"{counts[LEFT_OUT]} are left out: their tasks are not valid.")
    if counts[MISFIT]:
        lines.append(f"{counts[MISFIT]} do not fit this machine.")
    return "\n".join(lines)


def _costs(paid: list[Row], running: int) -> str:
    """The sum of what would be paid: with a bound where every run has one, else an estimate."""
    if not paid:
        return "None would be paid: no run needs a live model."
    free = (
        f" {running - len(paid)} cost nothing (scripted or replay)." if running > len(paid) else ""
    )
    estimates = [row.estimate_usd for row in paid if row.estimate_usd is not None]
    unknown = len(paid) - len(estimates)
    bounds = [row.max_usd for row in paid if row.max_usd is not None]
    if len(bounds) == len(paid):
        total = sum(bounds)
        cost = (
            f"at most {dollars(total)} by agent.max_cost_usd (a run's last answer and repeated "
            "attempts come on top)"
        )
    elif estimates:
        cost = f"about {dollars(sum(estimates))}"
        cost += f", and {unknown} more of unknown cost" if unknown else ""
    else:
        cost = "unknown (no agent.max_cost_usd, and no sealed live run to go by)"
    return f"{len(paid)} would be paid (live): {cost}.{free}"


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def dollars(usd: float) -> str:
    """`12.50 USD`, `0.0042 USD`."""
    return f"{usd:.2f} USD" if usd >= 0.1 else f"{usd:.2g} USD"


def main(config: Config, as_json: bool = False) -> None:
    """Print the plan for this machine."""
    rows = make(config, Machine.here())
    print(json.dumps([asdict(row) for row in rows], indent=1) if as_json else render(rows))


def _said(row: Row) -> str:
    if row.state != RUN:
        return f"{row.state}: {row.reason}" if row.reason else row.state
    paid = f", paid: {_price(row)}" if row.paid else ""
    paid += f", {row.reason}" if row.reason else ""
    if row.estimate_s is None:
        why = row.basis or "no sealed run of the task"
        return f"{row.state}, time unknown ({why}){paid}"
    return f"{row.state}, about {duration(row.estimate_s)} ({row.basis}){paid}"


def _price(row: Row) -> str:
    if row.max_usd is not None:
        return f"at most {dollars(row.max_usd)}"
    if row.estimate_usd is not None:
        return f"about {dollars(row.estimate_usd)} ({row.usd_basis})"
    return f"cost unknown ({row.usd_basis})" if row.usd_basis else "cost unknown"


def _completed(taken: Taken) -> list[float]:
    return [value for value in taken if value is not None]


def _none_completed(taken: Taken) -> str | None:
    """`0 of 3 runs completed`; None without runs."""
    return f"0 of {len(taken)} run{'s' * (len(taken) > 1)} completed" if taken else None


def _runs(taken: Taken, what: str) -> str:
    """`1 run`, `median of 3 runs`, `median of 3 completed of 5 runs`."""
    done = len(_completed(taken))
    if done < len(taken):
        return f"{what} of {done} completed of {len(taken)} runs"
    return "1 run" if done == 1 else f"{what} of {done} runs"
