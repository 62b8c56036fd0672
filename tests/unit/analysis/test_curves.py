"""Curves over a run's time: each from samples or calls whose curve can be worked out by hand."""

import numpy as np
import pytest

from agentsweep.analysis import curves

SECOND = 1_000_000_000
START = 7 * SECOND


def call(**values):
    names = "category start_ns end_ns start_utc_ns end_utc_ns"
    return dict.fromkeys(names.split()) | values


def times(count, rate_hz=10):
    return START + np.arange(count, dtype=np.int64) * (SECOND // rate_hz)


def test_working_set_is_charged_memory_less_inactive_page_cache():
    samples = {
        "memory_current_bytes": np.array([10.0, 10.0, np.nan]),
        "memory_inactive_file_bytes": np.array([4.0, np.nan, 1.0]),
    }
    found = curves.working_set_bytes(samples)
    assert found[0] == 6
    assert np.isnan(found[1:]).all()


def test_thinning_keeps_the_peak_wherever_it_is():
    t_ns = times(20_000, rate_hz=50)
    for place in (0, 1, 777, 19_999):
        values = np.zeros(len(t_ns))
        values[place] = 5.0
        curve = curves.peak_curve(t_ns, values, START, int(t_ns[-1]))
        assert len(curve.t_s) <= 402
        assert np.nanmax(curve.value) == 5.0
        at = curve.t_s[np.nanargmax(curve.value)]
        assert abs(at - (t_ns[place] - START) / 1e9) <= 400 / 400


def test_line_breaks_at_a_gap_and_at_nothing_else():
    t_ns = times(100)
    whole = curves.peak_curve(t_ns, np.ones(100), START, int(t_ns[-1]))
    assert not np.isnan(whole.value).any()
    kept = np.r_[0:40, 60:100]
    broken = curves.peak_curve(t_ns[kept], np.ones(80), START, int(t_ns[-1]))
    (gap,) = np.flatnonzero(np.isnan(broken.value))
    assert broken.t_s[gap - 1] <= 3.9
    assert broken.t_s[gap + 1] >= 6.0
    values = np.ones(100)
    values[40:60] = np.nan
    assert np.isnan(curves.peak_curve(t_ns, values, START, int(t_ns[-1])).value).sum() == 1


def test_single_lost_sample_is_no_gap():
    t_ns = np.delete(times(100), 50)
    assert not np.isnan(curves.peak_curve(t_ns, np.ones(99), START, int(t_ns[-1])).value).any()
    rate = curves.rate_curve(t_ns, (t_ns - START) / 1000, START, int(t_ns[-1]))
    assert rate.value == pytest.approx(1.0)


def test_rate_of_a_square_wave():
    t_ns = times(3000, rate_hz=50)
    load = np.where((t_ns - START) // (10 * SECOND) % 2 == 0, 2.0, 0.5)
    usec = np.r_[0, np.cumsum(load[:-1] * np.diff(t_ns) / 1000)]
    curve = curves.rate_curve(t_ns, usec, START, int(t_ns[-1]))
    inside = (curve.t_s % 10 > 0.6) & (curve.t_s % 10 < 9.4)
    expected = np.where(curve.t_s // 10 % 2 == 0, 2.0, 0.5)
    assert curve.value[inside] == pytest.approx(expected[inside], rel=1e-6)
    assert curve.value.max() <= 2.0 + 1e-9
    assert np.diff(curve.t_s).min() > 0.4


def test_rate_is_never_drawn_over_a_gap_a_null_or_a_counter_that_went_back():
    t_ns = times(100)
    usec = (t_ns - START) / 1000.0
    # The counter rises by 100 CPU-seconds while nobody looks.
    gap = np.r_[0:40, 60:100]
    jumped = usec + np.where(t_ns > START + 5 * SECOND, 1e8, 0)
    curve = curves.rate_curve(t_ns[gap], jumped[gap], START, int(t_ns[-1]))
    assert np.nanmax(curve.value) == pytest.approx(1.0)
    assert np.isnan(curve.value).sum() == 1

    nulls = usec.copy()
    nulls[50] = np.nan
    curve = curves.rate_curve(t_ns, nulls, START, int(t_ns[-1]))
    assert np.isnan(curve.value).sum() == 1
    assert curve.value[np.isfinite(curve.value)] == pytest.approx(1.0)

    back = usec.copy()
    back[50:] -= back[50]
    curve = curves.rate_curve(t_ns, back, START, int(t_ns[-1]))
    assert np.nanmin(curve.value) == pytest.approx(1.0)


def test_a_moment_at_the_end_is_not_drawn_as_a_rate():
    """A burst in the last samples, which fill a small part of their bin."""
    t_ns = times(204, rate_hz=100)
    load = np.where(t_ns < START + 2 * SECOND, 0.5, 8.0)
    usec = np.r_[0, np.cumsum(load[:-1] * np.diff(t_ns) / 1000)]
    curve = curves.rate_curve(t_ns, usec, START, int(t_ns[-1]))
    assert curve.value == pytest.approx(0.5)


def test_curves_without_values_are_empty():
    t_ns = times(10)
    nothing = np.full(10, np.nan)
    assert curves.peak_curve(t_ns, nothing, START, int(t_ns[-1])).empty
    assert curves.rate_curve(t_ns, nothing, START, int(t_ns[-1])).empty
    assert curves.rate_curve(t_ns[:1], np.ones(1), START, START + 1).empty
    assert curves.peak_curve(t_ns[:0], nothing[:0], START, START + 1).empty
    assert not curves.peak_curve(t_ns[:1], np.ones(1), START, START).empty


def test_only_the_agents_phase_is_drawn():
    t_ns = times(100)
    values = np.arange(100.0)
    curve = curves.peak_curve(t_ns, values, START + 2 * SECOND, START + 3 * SECOND)
    assert curve.value.max() == 30
    assert curve.t_s.min() >= 0
    assert curve.t_s.max() <= 1


def test_kills_are_where_the_count_rises():
    t_ns = times(6)
    kills = np.array([2, 2, np.nan, 3, 3, 6.0])
    assert curves.kill_times(t_ns, kills, START) == [(0.3, 1), (0.5, 3)]
    assert curves.kill_times(t_ns, np.full(6, np.nan), START) == []


def test_tool_bands():
    row = {"agent_start_ns": START, "agent_start_utc_ns": START + 10**18}
    calls = [
        call(category="test", start_ns=START + SECOND, end_ns=START + 3 * SECOND),
        call(category="read", start_utc_ns=START + 10**18, end_utc_ns=START + 10**18 + SECOND),
        call(category="agent", start_ns=START, end_ns=START + SECOND),
        call(category=None, start_ns=START + 4 * SECOND),
        call(category="edit"),
    ]
    assert curves.tool_bands(calls, row, START, START + 9 * SECOND) == [
        (0.0, 1.0, "read"),
        (1.0, 3.0, "test"),
        (4.0, 9.0, "unknown"),
    ]
    clockless = dict.fromkeys(("agent_start_ns", "agent_start_utc_ns"))
    assert len(curves.tool_bands(calls, clockless, START, START + 9 * SECOND)) == 2
