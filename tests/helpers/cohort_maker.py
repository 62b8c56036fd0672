"""Makes small cohorts for tests: runs of which nothing is known but what a test says."""

import numpy as np

from agentsweep.analysis import cohort
from agentsweep.analysis.cohort import Cohort, CohortRun, Series

SECOND = 10**9
# A round moment in 2026; all times of the examples are seconds after it.
BEGIN_NS = 1_770_000_000 * SECOND


def ns(second: float | None) -> int | None:
    return None if second is None else BEGIN_NS + round(second * 1e9)


def row(**values) -> dict:
    """A row of `runs`: an imported run that counts, with nothing but what is given."""
    known = {
        "run_id": "D/t/attempt_1",
        "dataset": "D",
        "source": "imported",
        "selected": True,
        "task": "t",
        "n_samples": 10,
        "sampled_s": 60.0,
        "trace_status": "missing",
    }
    return dict.fromkeys(cohort._RUN_COLUMNS) | known | values


def call(name="Bash", start=None, end=None, command=None, **values) -> dict:
    """A row of `tool_calls` from `start` to `end` in seconds; as the trace has it."""
    known = {
        "run_id": "D/t/attempt_1",
        "tool_call_id": f"{name}-{start}-{end}-{command}",
        "name": name,
        "category": "agent" if name == "Task" else None,
        "command": command,
        "requested_utc_ns": ns(start),
        "start_utc_ns": ns(start),
        "end_utc_ns": ns(end),
        "duration_s": None if None in (start, end) else float(end - start),
        "time_source": "trace",
    }
    return dict.fromkeys(cohort._CALL_COLUMNS) | known | values


def message(role="assistant", kind="text", n_records=1, output=None, record_output=None) -> dict:
    known = {
        "role": role,
        "kind": kind,
        "n_records": n_records,
        "output_tokens": output,
        "record_output_tokens": record_output,
    }
    return dict.fromkeys(cohort._MESSAGE_COLUMNS) | known


def series(mb=(), mean=None, used=None, at=None) -> Series:
    """Samples at the seconds `at` (0, 1, 2, ...): memory in MB, printed averages, CPU seconds."""
    count = len(mb)
    nothing = np.full(count, np.nan)

    def floats(values):
        return nothing if values is None else np.array(values, float)

    at = np.arange(count) if at is None else at
    return Series(
        np.array([ns(float(second)) for second in at], dtype=np.int64),
        np.array(mb, float) * 1e6,
        floats(mean),
        floats(used),
    )


def run(calls=(), messages=(), samples=None, **values) -> CohortRun:
    """A run of which only this is known."""
    made = CohortRun(row(**values), list(calls), list(messages))
    if samples is not None:
        made.series = samples
    return made


def group(*runs: CohortRun, common=None) -> Cohort:
    """A cohort of these runs, whose tasks (or `common`) all data sets have."""
    tasks = {made.row["task"] for made in runs} if common is None else common
    return Cohort("D", list(runs), frozenset(tasks), len(runs))
