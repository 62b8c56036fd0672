"""CPU time out of averages since the start comes back, within what the module says of itself."""

from dataclasses import dataclass

import numpy as np
import pytest

from agentsweep.extraction.lifetime_cpu import CLOCK_ERROR_S, ROUNDING_PERCENT, reconstruct


@dataclass
class Truth:
    """A container's load and what a recorder printed of it."""

    t_s: np.ndarray  # when the counters were read, since the first sample
    recorded_s: np.ndarray  # when the recorder says so
    start_s: float
    used_s: np.ndarray
    percent: np.ndarray

    @property
    def load_percent(self) -> np.ndarray:
        return np.diff(self.used_s) / np.diff(self.t_s) * 100


def printed(t_s, used_s, start_s, jitter_s=0.0, seed=0) -> Truth:
    """What `podman stats` prints: two decimals of the average since the start."""
    t_s, used_s = np.asarray(t_s, float), np.asarray(used_s, float)
    noise = np.random.default_rng(seed).uniform(-jitter_s, jitter_s, len(t_s))
    percent = np.round(100 * used_s / (t_s - start_s), 2)
    return Truth(t_s, t_s + noise, start_s, used_s, percent)


AMPLITUDES = (5.0, 50.0, 100.0, 400.0, 2400.0)
DUTIES = (0.02, 0.1, 0.3, 0.6, 0.9)


def square_wave(seed: int, jitter_s: float, busy_first: bool | None = None) -> Truth:
    """A load of one height for a part of every period and none in the rest."""
    chance = np.random.default_rng(seed)
    period_s, duty = chance.uniform(2, 60), chance.choice(DUTIES)
    height = chance.choice(AMPLITUDES)
    start_s = -chance.choice((0.05, 0.3, 0.9, 5.0, 40.0))
    # Where in its period the wave is at the container's start.
    phase_s = chance.uniform(0, period_s)
    if busy_first is not None:
        # The first sample comes just after the middle of its part.
        middle = duty / 2 if busy_first else (1 + duty) / 2
        phase_s = (middle * period_s + start_s) % period_s
    count = int(chance.integers(12, 400))
    t_s = np.arange(count) * 1.08 + chance.uniform(0, 0.2, count)
    t_s -= t_s[0]

    def used(since_start_s):
        place = since_start_s + phase_s
        periods = np.floor(place / period_s)
        rest = np.minimum(place - periods * period_s, duty * period_s)
        return height / 100 * (periods * duty * period_s + rest)

    return printed(t_s, used(t_s - start_s) - used(0.0), start_s, jitter_s, seed)


def fell(truth: Truth) -> bool:
    """Whether the averages fall by more than rounding does, without which nothing tells s."""
    return bool((-np.diff(truth.percent) > 2 * ROUNDING_PERCENT + 1e-6).any())


def excess(truth: Truth) -> dict[str, float]:
    """By how much each result lies beyond its stated bounds (negative: within)."""
    series = reconstruct(truth.recorded_s, truth.percent)
    return {
        "used": float((np.abs(series.used_s - truth.used_s) - series.error_s).max()),
        "load": float(
            (np.abs(series.load_percent - truth.load_percent) - series.load_error_percent).max()
        ),
        "start": abs(series.start_s - truth.start_s) - series.start_error_s,
    }


JITTERS = pytest.mark.parametrize("jitter_s", [0.0, CLOCK_ERROR_S / 4, CLOCK_ERROR_S])


@JITTERS
@pytest.mark.parametrize("busy_first", [None, True, False])
def test_a_square_wave_comes_back_within_the_stated_bounds(jitter_s, busy_first):
    checked = 0
    for seed in range(500):
        truth = square_wave(seed, jitter_s, busy_first)
        if not fell(truth) and truth.start_s < -1:
            continue  # then all that is said is that the recorder looked within a step
        beyond = excess(truth)
        assert max(beyond.values()) < 1e-9, (seed, beyond)
        checked += 1
    assert checked > 450


def test_the_series_has_the_shape_that_it_says():
    truth = square_wave(3, CLOCK_ERROR_S)
    series = reconstruct(truth.recorded_s, truth.percent)
    count = len(truth.t_s)
    assert len(series.used_s) == len(series.error_s) == count
    assert len(series.load_percent) == len(series.load_error_percent) == count - 1
    assert (np.diff(series.used_s) >= 0).all()
    assert (series.load_percent >= 0).all()
    for errors in (series.error_s, series.load_error_percent):
        assert (errors > 0).all() and np.isfinite(errors).all()


def test_the_bounds_are_not_vacuous():
    """For runs as the recorder makes them: begun within a second of the start, busy and idle."""
    starts, used, load = [], [], []
    for seed in range(400):
        truth = square_wave(seed, CLOCK_ERROR_S)
        if not fell(truth) or truth.start_s < -1 or truth.percent.max() < 1:
            continue
        series = reconstruct(truth.recorded_s, truth.percent)
        starts.append(series.start_error_s)
        used.append(np.median(series.error_s) / truth.used_s[-1])
        height = truth.load_percent.max()
        load.append(np.median(series.load_error_percent) / height)
    assert len(starts) > 150
    assert np.median(starts) < 1.5
    assert np.median(used) < 0.02
    assert np.median(load) < 0.08


def test_a_step_is_known_better_than_its_two_ends():
    """An error of the start moves both ends alike."""
    t_s = np.arange(200.0)
    truth = printed(t_s, 0.8 * np.minimum(t_s + 0.9, 60), -0.9)
    series = reconstruct(truth.recorded_s, truth.percent)
    ends = (series.error_s[1:] + series.error_s[:-1]) * 100
    assert (series.load_error_percent[70:] < ends[70:] / 3).all()


def test_an_idle_step_tells_the_start():
    """The better, the more was used before and the longer the step is idle."""
    t_s = np.arange(30.0)
    for start_s in (-0.2, -1.0, -20.0):
        truth = printed(t_s, 20.0 * np.minimum(t_s - start_s, 3 - start_s), start_s)
        series = reconstruct(truth.recorded_s, truth.percent)
        assert series.start_s == pytest.approx(start_s, abs=0.02 * abs(start_s - 3))
        assert max(excess(truth).values()) < 1e-9


def test_a_dead_beginning_then_work():
    """Nothing is used before the work, whatever the start."""
    t_s = np.arange(60.0)
    truth = printed(t_s, np.maximum(t_s - 30, 0), -3.0)
    series = reconstruct(truth.recorded_s, truth.percent)
    assert (series.used_s[:31] == 0).all()
    assert series.load_percent[:30] == pytest.approx(0.0)


def test_a_load_that_is_never_idle_has_a_start_within_one_step():
    for step_s in (1.0, 5.0):
        for part in (0.02, 0.5, 0.98):
            start_s = -part * step_s
            t_s = np.arange(50) * step_s
            rising = printed(t_s, (t_s - start_s) ** 2 / 100, start_s)
            assert (np.diff(rising.percent) > 0).all()
            series = reconstruct(rising.recorded_s, rising.percent)
            assert series.start_s == pytest.approx(-step_s / 2)
            assert max(excess(rising).values()) < 1e-9


@JITTERS
def test_a_constant_load_comes_back_as_constant(jitter_s):
    for percent in (0.0, 0.01, 3.337, 100.0, 2400.0):
        t_s = np.arange(120.0)
        truth = printed(t_s, percent / 100 * (t_s + 0.4), -0.4, jitter_s)
        series = reconstruct(truth.recorded_s, truth.percent)
        assert max(excess(truth).values()) < 1e-9
        assert np.median(series.load_percent) == pytest.approx(percent, rel=0.01, abs=0.02)
        # Not thousands of seconds, which a fall of one digit of rounding would give.
        assert -1 <= series.start_s <= 0


def test_what_rounding_alone_makes_is_no_fall():
    t_s = np.arange(100.0)
    percent = np.where(np.arange(100) % 7 == 3, 49.99, 50.0)
    series = reconstruct(t_s, percent)
    assert (series.start_s, series.start_error_s) == (-0.5, 0.52)
    assert series.used_s[-1] == pytest.approx(49.75, rel=0.001)


def test_one_sample_has_a_value_with_an_honest_error():
    series = reconstruct(np.array([7.0]), np.array([80.0]))
    assert len(series.load_percent) == len(series.load_error_percent) == 0
    # Begun within the second before: something between nothing and 0.8 s.
    assert series.start_s == 6.5
    assert series.used_s[0] == pytest.approx(0.4)
    assert 0.4 <= series.error_s[0] < 0.45


@pytest.mark.parametrize("percents", [(50.0, 80.0), (80.0, 50.0), (30.0, 30.0), (0.0, 0.0)])
def test_two_samples(percents):
    series = reconstruct(np.array([3.0, 4.0]), np.array(percents))
    assert len(series.load_percent) == 1
    assert np.isfinite([*series.used_s, *series.error_s, *series.load_error_percent]).all()
    assert series.start_s <= 3.0
    truth = printed([0.0, 1.0], [0.4, 0.4], -0.5)
    assert max(excess(truth).values()) < 1e-9


def test_nothing_is_used_where_nothing_is_printed():
    series = reconstruct(np.arange(20.0), np.zeros(20))
    assert (series.used_s == 0).all() and (series.load_percent == 0).all()
    assert series.error_s.max() < 0.01


@pytest.mark.parametrize("times", [[], [0.0, 0.0], [0.0, 2.0, 1.0], [1.0, 0.0]])
def test_times_that_do_not_rise_are_refused(times):
    with pytest.raises(ValueError, match="must rise"):
        reconstruct(np.array(times), np.zeros(len(times)))


def test_a_broken_estimate_would_be_seen():
    """The check itself: an error of the start that nothing covers lies beyond the bounds."""
    truth = square_wave(11, 0.0)
    assert fell(truth)
    truth.start_s -= 500
    truth.used_s = truth.used_s * 1.5
    beyond = excess(truth)
    assert beyond["used"] > 0 and beyond["load"] > 0 and beyond["start"] > 0
