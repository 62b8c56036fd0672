"""How fast CPU and memory change between two samples, and what AgentCgroup calls a burst."""

import numpy as np

from agentsweep.analysis.cohort import Cohort, CohortRun
from agentsweep.analysis.run_metrics import PAPER, listed_memory_mb
from agentsweep.analysis.values import Value, Values, joined, of_completed, share_of
from agentsweep.tables.arrays import Floats

# The rates that AgentCgroup calls a burst: percent of a core, and megabytes, in a second.
RATE_BURST_CPU, RATE_BURST_MEMORY_MB = 20.0, 50.0
# Samples further apart than this say nothing about a change within a second.
LONGEST_STEP_S = 2.0


def change_rates(run: CohortRun, mode: str) -> tuple[Floats, Floats]:
    """How fast CPU (percent of a core per second) and memory (MB/s) change between samples.

    In `paper` mode CPU is the average since the start, whose changes are not those of the load.
    """
    if mode == PAPER:
        t_s, cpu, memory = (
            run.series.t_s, run.series.mean_cpu_percent, listed_memory_mb(run.series),
        )  # fmt: skip
        return _rates(t_s, cpu), _rates(t_s, memory)
    memory = _rates(run.series.live_t_s, run.series.live_memory_mb)
    if run.cpu is None:
        return np.empty(0), memory
    return _rates((run.cpu_t_s[1:] + run.cpu_t_s[:-1]) / 2, run.cpu.load_percent), memory


def burst_steps(run: CohortRun) -> int:
    """Steps that AgentCgroup calls a burst: more than 20 %/s of CPU or 50 MB/s of memory."""
    cpu, memory = change_rates(run, PAPER)
    return int(((cpu > RATE_BURST_CPU) | (memory > RATE_BURST_MEMORY_MB)).sum())


def known_steps(run: CohortRun) -> int:
    """Steps of which the change of CPU or of memory is known."""
    cpu, memory = change_rates(run, PAPER)
    return int((np.isfinite(cpu) | np.isfinite(memory)).sum())


def _rates(t_s: Floats, values: Floats) -> Floats:
    step = np.diff(t_s)
    usable = (step > 0) & (step < LONGEST_STEP_S)
    return np.abs(np.diff(values)[usable]) / step[usable]


@of_completed
def steps_over_threshold(cohort: Cohort, mode: str) -> Values:
    """How many changes within a second are what AgentCgroup calls a burst; of CPU and of memory."""
    cpu, memory = (all_rates(cohort, mode, place) for place in (0, 1))
    return {
        "cpu": _share_over(cpu, RATE_BURST_CPU, "% of a core"),
        "memory": _share_over(memory, RATE_BURST_MEMORY_MB, "MB"),
    }


@of_completed
def all_rates(cohort: Cohort, mode: str, place: int) -> Floats:
    """All known rates of change of CPU (0) or of memory (1)."""
    rates = joined(change_rates(run, mode)[place] for run in cohort.runs)
    return rates[np.isfinite(rates)]


def _share_over(rates: Floats, threshold: float, unit: str) -> Value:
    said = f"Steps with a change of more than {threshold:g} {unit} in a second; n counts steps."
    return share_of(float((rates > threshold).sum()), len(rates), len(rates), "%", said)
