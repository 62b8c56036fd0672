"""Published numbers: each from rows whose result can be worked out by hand."""

import pytest
import synthetic

from agentsweep.analysis import figure_style, sweep_metrics


def run(**values):
    """A row of `runs` that completed, with nothing else but what is given."""
    names = (
        "task agent cpu_mode mem_limit_bytes mem_effective_bytes cpu_limit outcome tool_oom_count "
        "oom_kill_count mem_peak_bytes mem_peak_source cpu_usage_usec cpu_nr_periods "
        "cpu_nr_throttled cpu_throttled_usec agent_s startup_s model_s tool_s overlap_s other_s "
        "agent_start_ns agent_start_utc_ns run_id model_mode fidelity n_recorded_calls "
        "diverged_reason patch_sha256 replay_source_sha256 source exit_code"
    )
    return dict.fromkeys(names.split()) | {"outcome": "completed"} | values


def call(**values):
    names = "category duration_s time_source is_error start_ns end_ns start_utc_ns end_utc_ns"
    return dict.fromkeys(names.split()) | values


def test_limits_are_ordered_and_none_is_last():
    runs = [run(mem_limit_bytes=m, cpu_limit=c) for m, c in ((4, 2.0), (None, 0.5), (1, None))]
    assert sweep_metrics.memory_limits(runs) == [1, 4, None]
    assert sweep_metrics.cpu_limits(runs) == [0.5, 2.0, None]


def test_subjects_name_the_agent_only_where_there_are_several():
    one = [run(task="b", agent="x"), run(task="a", agent="x")]
    assert list(sweep_metrics.by_subject(one)) == ["a", "b"]
    two = [*one, run(task="a", agent="y"), run(task=None, agent="y")]
    assert list(sweep_metrics.by_subject(two)) == ["a (x)", "a (y)", "b (x)", "unknown (y)"]


def test_runs_of_different_cpu_modes_are_not_pooled():
    runs = [run(task="a", cpu_mode=mode, cpu_limit=2.0) for mode in ("quota", "cpuset")]
    assert list(sweep_metrics.by_subject(runs)) == ["a (cpuset)", "a (quota)"]
    assert figure_style.by_cpu_limit(runs) == {"2 (cpuset)": runs[1:], "2 (quota)": runs[:1]}
    assert figure_style.by_cpu_limit(runs[1:]) == {"2": runs[1:]}
    both = [run(task="a", cpu_mode="cpuset", agent="x"), run(task="a", cpu_mode="quota")]
    assert list(sweep_metrics.by_subject(both)) == ["a (unknown, quota)", "a (x, cpuset)"]


def test_outcomes_are_counted_in_the_order_of_the_closed_set():
    runs = [run(outcome=o) for o in ("stalled", "completed", None, "completed", "new", "no_work")]
    assert list(sweep_metrics.outcome_counts(runs).items()) == [
        ("completed", 2),
        ("no_work", 1),
        ("stalled", 1),
        ("new", 1),
        ("unknown", 1),
    ]


def test_tool_kills_that_are_not_known_have_a_bound():
    assert sweep_metrics.tool_kills([run(), run()]) is None
    runs = [
        run(tool_oom_count=0),
        run(tool_oom_count=3, outcome="completed"),
        run(tool_oom_count=1, outcome="stalled"),
        # Nobody knows whether the agent or a tool was killed first.
        run(oom_kill_count=4, tool_oom_count_max=3),
        run(oom_kill_count=2),
        # Nothing was killed, so no tool was.
        run(oom_kill_count=0),
    ]
    assert sweep_metrics.tool_kills(runs) == sweep_metrics.ToolKills(
        least=4, most=9, runs_known=2, runs_completed=1, runs_unknown=2
    )
    assert sweep_metrics.tool_kills([*runs, run()]).most is None
    assert sweep_metrics.tool_kills([run(tool_oom_count=0)]) == sweep_metrics.ToolKills(
        0, 0, 0, 0, 0
    )


def test_runs_that_did_not_complete_are_in_no_summary():
    rest = {"startup_s": 1.0, "model_s": 2.0, "tool_s": 3.0, "overlap_s": 0.0, "other_s": 0.0}
    runs = [
        run(outcome=outcome, agent_s=seconds, **rest)
        for outcome, seconds in (
            ("completed", 6.0), ("oom_agent", 1.0), ("timed_out", 99.0), ("api_error", 0.1),
            ("completed", 8.0), (None, 0.2),
        )
    ]  # fmt: skip
    assert sweep_metrics.estimate(runs, sweep_metrics.agent_wall_s) == sweep_metrics.Estimate(
        7.0, 2
    )
    assert sweep_metrics.mean_time_split(runs)[1] == 2
    assert sweep_metrics.time_share(runs, "tools").n == 2
    assert sweep_metrics.left_out_counts(runs) == {"api_error": 1}
    assert sweep_metrics.completed_share(runs) == 2 / 5
    assert sweep_metrics.completed_share([run(outcome="api_error")]) is None


def test_an_imported_run_has_no_outcome_but_an_exit_code():
    assert sweep_metrics.is_completed(run(source="imported", outcome=None, exit_code=0))
    assert sweep_metrics.is_completed(run(source="imported", outcome=None, exit_code=None))
    assert not sweep_metrics.is_completed(run(source="imported", outcome=None, exit_code=137))
    assert not sweep_metrics.is_completed(run(source="measured", outcome=None, exit_code=0))


def test_parts_of_a_time_that_is_not_known_are_not_zero():
    known = {"startup_s": 1.0, "model_s": 2.0, "tool_s": 3.0, "overlap_s": 0.5, "other_s": 0.5}
    assert sweep_metrics.time_split(run(agent_s=6.0, **known)) is not None
    for name in ("startup_s", "overlap_s"):
        assert sweep_metrics.time_split(run(agent_s=6.0, **known | {name: None})) is None
    use = sweep_metrics.category_use([call(category="test"), call(category="test", is_error=True)])
    assert (use["test"].seconds, use["test"].unknown, use["test"].errors) == (None, 1, 1)


def test_had_oom():
    assert sweep_metrics.had_oom(run(oom_kill_count=1, tool_oom_count=0))
    assert sweep_metrics.had_oom(run(tool_oom_count=1))
    assert not sweep_metrics.had_oom(run(oom_kill_count=0))
    assert not sweep_metrics.had_oom(run())


def test_estimate_leaves_out_unknown_values_and_says_so():
    runs = [run(agent_s=s) for s in (1.0, None, 5.0, 2.0)]
    assert sweep_metrics.estimate(runs, sweep_metrics.agent_wall_s) == sweep_metrics.Estimate(
        2.0, 3
    )
    assert sweep_metrics.estimate([run()], sweep_metrics.agent_wall_s) == sweep_metrics.Estimate(
        None, 0
    )


def test_peak_share_is_of_the_limit_in_force():
    assert sweep_metrics.peak_share_of_limit(
        run(mem_peak_bytes=50, mem_limit_bytes=400, mem_effective_bytes=200)
    ) == pytest.approx(0.25)
    assert sweep_metrics.peak_share_of_limit(run(mem_peak_bytes=50, mem_limit_bytes=100)) == 0.5
    assert sweep_metrics.peak_share_of_limit(run(mem_peak_bytes=50)) is None
    assert sweep_metrics.peak_share_of_limit(run(mem_limit_bytes=50)) is None


def test_throttling():
    row = run(cpu_nr_periods=200, cpu_nr_throttled=50, cpu_throttled_usec=6_000_000, agent_s=4.0)
    assert sweep_metrics.throttled_period_share(row) == 0.25
    assert sweep_metrics.throttled_s_per_s(row) == 1.5
    assert sweep_metrics.throttled_period_share(run(cpu_nr_periods=0, cpu_nr_throttled=0)) is None
    assert sweep_metrics.throttled_s_per_s(run(agent_s=4.0)) is None
    assert sweep_metrics.throttled_s_per_s(run(cpu_throttled_usec=0, agent_s=4.0)) == 0


def test_time_split_counts_the_overlap_once():
    row = run(agent_s=10.0, startup_s=1.0, model_s=4.0, tool_s=5.0, overlap_s=1.5, other_s=1.5)
    split = sweep_metrics.time_split(row)
    assert split == {"startup": 1.0, "model": 2.5, "both": 1.5, "tools": 3.5, "other": 1.5}
    assert sum(split.values()) == row["agent_s"]
    assert tuple(split) == sweep_metrics.TIME_PARTS


def test_time_split_of_a_run_that_lacks_a_part():
    assert sweep_metrics.time_split(run(agent_s=10.0, tool_s=5.0)) is None
    known = {"startup_s": 0.0, "model_s": 2.0, "tool_s": 5.0, "overlap_s": 0.0}
    assert sweep_metrics.time_split(run(agent_s=10.0, **known))["other"] == 3.0


def test_mean_time_split_says_how_many_runs():
    rows = [
        run(agent_s=a, model_s=a / 2, tool_s=a / 4, startup_s=0.0, overlap_s=0.0)
        for a in (4.0, 8.0)
    ]
    split, n = sweep_metrics.mean_time_split([*rows, run(agent_s=100.0)])
    assert n == 2
    assert split["model"] == 3.0
    assert split["other"] == 1.5
    assert sweep_metrics.mean_time_split([run()]) == ({}, 0)
    assert sweep_metrics.time_share([*rows, run()], "model") == sweep_metrics.Estimate(0.5, 2)


def test_category_use():
    calls = [
        call(category="test", duration_s=3.0, is_error=True),
        call(category="test", duration_s=1.0, is_error=False),
        call(category="read", duration_s=0.5),
        call(category="agent", duration_s=100.0),
        call(category="edit"),
        call(),
    ]
    use = sweep_metrics.category_use(calls)
    assert list(use) == ["test", "read", "agent", "edit", "unknown"]
    assert use["test"] == sweep_metrics.CategoryUse(
        calls=2, errors=1, unknown=0, untimed=0, seconds=4.0
    )
    assert use["agent"].seconds is None
    assert use["edit"] == sweep_metrics.CategoryUse(
        calls=1, errors=0, unknown=1, untimed=1, seconds=None
    )


def test_exact_time_share_is_of_the_calls_with_a_time():
    calls = [
        call(duration_s=1.0, time_source="exact"),
        call(duration_s=1.0, time_source="trace"),
        call(time_source="trace"),
    ]
    assert sweep_metrics.exact_time_share(calls) == 0.5
    assert sweep_metrics.exact_time_share([]) is None


def test_peak_sources():
    runs = [run(mem_peak_source=s) for s in ("watermark", None, "counter", "watermark")]
    assert sweep_metrics.peak_sources(runs) == {"counter": 1, "watermark": 2}


def replay(run_id, **values):
    return run(run_id=run_id, model_mode="replay", **values)


def test_replays_are_told_by_the_model_mode():
    runs = [run(run_id="a"), replay("b"), run(run_id="c", model_mode="live")]
    assert [r["run_id"] for r in sweep_metrics.replayed(runs)] == ["b"]


def test_a_replay_has_diverged_by_its_outcome_or_by_what_it_says():
    assert sweep_metrics.has_diverged(replay("a", outcome="diverged"))
    assert sweep_metrics.has_diverged(replay("a", outcome="oom_agent", diverged_reason="gone"))
    assert not sweep_metrics.has_diverged(replay("a", outcome="completed"))


def test_fates_add_up_to_the_recorded_calls():
    runs = [replay("a", n_recorded_calls=5), replay("b", n_recorded_calls=1), replay("c")]
    statuses = [
        *(("a", s) for s in ("same", "killed", "unavailable", None)),
        # More calls than the recording has.
        *(("b", s) for s in ("same", "unrecorded", "timed_out")),
        ("another run", "same"),
    ]
    calls = [{"run_id": r, "replay_status": s} for r, s in statuses]
    counts = sweep_metrics.fates(runs, calls)
    assert list(counts.items()) == [
        ("same", 2),
        ("killed", 1),
        ("timed_out", 1),
        ("not_comparable", 2),
        ("not_reached", 2),
    ]
    assert sweep_metrics.fate_share(counts, "same") == 0.25
    assert sweep_metrics.fate_share(counts, "text_differs") == 0
    assert sweep_metrics.limited_share(counts) == 0.25
    assert sweep_metrics.limited_share({}) is None
    assert sweep_metrics.fates([], calls) == {}


def test_patches_are_compared_within_a_recording():
    def left(patch, recording="x"):
        return replay("r", patch_sha256=patch, replay_source_sha256=recording)

    assert sweep_metrics.distinct_patches(
        [left("a"), left("a"), left(None)]
    ) == sweep_metrics.Patches(distinct=1, runs=2, recordings=1, alike=True)
    assert sweep_metrics.distinct_patches(
        [left("a"), left("b"), left("a", "y")]
    ) == sweep_metrics.Patches(distinct=2, runs=3, recordings=2, alike=False)
    assert sweep_metrics.distinct_patches([left("a"), left("b", "y")]).alike
    assert sweep_metrics.distinct_patches([left(None)]).runs == 0


def test_a_synthetic_sweep_shows_what_limits_do():
    """The builder that the figures are tested with: kills below 700 MB, throttling below 2 CPUs."""
    runs = [made.row for made in synthetic.sweep(tasks=["logstats"])]
    cells = sweep_metrics.by_cell(runs)
    assert {m for (m, _), rows in cells.items() if sweep_metrics.tool_kills(rows).least} == {
        512 * synthetic.MIB
    }
    shares = {
        c: sweep_metrics.estimate(
            [r for r in runs if r["cpu_limit"] == c], sweep_metrics.throttled_period_share
        ).value
        for c in sweep_metrics.cpu_limits(runs)
    }
    assert shares[0.5] > shares[1.0] > shares[2.0] == 0
    assert all(sweep_metrics.peak_share_of_limit(row) <= 1 for row in runs)
    for row in runs:
        assert sum(sweep_metrics.time_split(row).values()) == pytest.approx(row["agent_s"])
