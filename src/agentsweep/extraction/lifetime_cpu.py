"""CPU time out of averages since the container's start, which is what `podman stats` prints.

`podman stats --no-stream` has no earlier reading to compare with, so its CPU column is
c = 100 * u / (t - s): CPU time u used so far over the time since the container's start s. Then
u = c * (t - s) / 100 is cumulative, and its differences are the load. s is not recorded. It follows
from steps in which little CPU is used: u never falls, so for c1 > c2

    s >= (c1 * t1 - c2 * t2) / (c1 - c2),

with equality where nothing is used between t1 and t2. The best of these bounds is the estimate, and
the first sample is the latest that s can be.
"""

from dataclasses import dataclass

import numpy as np

from agentsweep.tables.arrays import Floats

# The column has two decimals; the recorder's clock is read some time after the counters are.
ROUNDING_PERCENT = 0.005
CLOCK_ERROR_S = 0.02
# The recorder takes a sample a second: what is assumed where a single one tells nothing.
_STEP_S = 1.0


@dataclass(frozen=True)
class CpuSeries:
    """Cumulative CPU time at each sample, and how far it may be off.

    `used_s` never falls. `error_s` is the half-width of its uncertainty. `load_percent` is the load
    in percent of one core in each step between samples (one fewer), `load_error_percent` its
    half-width: much less than what two errors of `used_s` add up to, because an error of the start
    moves both ends of a step alike. `start_s` is the container's start, `start_error_s` how much
    later it may be.
    """

    used_s: Floats
    error_s: Floats
    load_percent: Floats
    load_error_percent: Floats
    start_s: float
    start_error_s: float


def reconstruct(t_s: Floats, percent: Floats) -> CpuSeries:
    """The CPU series behind averages since the start.

    `t_s`: times of the samples in seconds, rising; `percent`: the averages, in percent of one
    core. Samples of a container that has ended (`0B / 0.00%`) must be left out. Raises ValueError
    for fewer than one sample or times that do not rise.
    """
    if not len(t_s) or (np.diff(t_s) <= 0).any():
        raise ValueError("the times of samples must rise, and there must be at least one")
    tau = t_s - t_s[0]
    start, earliest = _start(tau, percent)
    # Between the earliest that the start can be and the first sample.
    start_error = max(start - earliest, CLOCK_ERROR_S - start)
    elapsed = tau - start
    raw = percent * elapsed / 100
    used = np.maximum.accumulate(raw)
    rounding = ROUNDING_PERCENT * (elapsed + start_error + CLOCK_ERROR_S) / 100
    clock = CLOCK_ERROR_S * percent / 100
    error = rounding + clock + start_error * percent / 100
    step_s = np.diff(tau)
    load = np.maximum(np.diff(raw), 0.0) / step_s * 100
    ends = rounding[1:] + rounding[:-1] + clock[1:] + clock[:-1]
    moved = start_error * np.abs(np.diff(percent)) / 100
    # The step itself may be longer or shorter by the errors of both its ends (a recorder's steps
    # are much longer than these).
    stretched = 2 * CLOCK_ERROR_S * load / 100
    shortest = np.maximum(step_s - 2 * CLOCK_ERROR_S, CLOCK_ERROR_S)
    return CpuSeries(
        used,
        # Where an earlier sample had the higher value, by as much more.
        error + (used - raw),
        load,
        (ends + moved + stretched) / shortest * 100,
        float(t_s[0] + start),
        float(start_error),
    )


def _start(tau: Floats, percent: Floats) -> tuple[float, float]:
    """The container's start and the earliest that it can be, in seconds after the first sample."""
    before, after, fall = percent[:-1], percent[1:], percent[:-1] - percent[1:]
    # What rounding alone can make is no fall.
    least = fall - 2 * ROUNDING_PERCENT
    falling = least > 1e-6
    if not falling.any():
        # Never idle: no more is known than that the recorder looked about once in a step.
        step = float(np.median(np.diff(tau))) if len(tau) > 1 else _STEP_S
        return -step / 2, -step
    before, after, fall, least = before[falling], after[falling], fall[falling], least[falling]
    t_before, t_after = tau[:-1][falling], tau[1:][falling]
    bound = np.minimum((before * t_before - after * t_after) / fall, 0.0)
    # The errors of the rounding are those at the true start, hence over the least of the fall.
    error = (
        ROUNDING_PERCENT * (t_before + t_after + 2 * CLOCK_ERROR_S - 2 * bound)
        + CLOCK_ERROR_S * (before + after)
    ) / least
    best = int(np.argmax(bound - error))
    return float(bound[best]), float(bound[best] - error[best])
