"""Which runs a data set counts, and what their series, intervals and CPU time are."""

import itertools

import agentcgroup_maker as maker
import cohort_maker
import numpy as np
import pytest
from cohort_maker import SECOND, call, ns, row, run, series

from agentsweep.analysis import cohort, run_metrics
from agentsweep.analysis.cohort import counts, covered_s, intervals_of, load
from agentsweep.analysis.run_metrics import within
from agentsweep.analysis.values import datasets, everything
from agentsweep.errors import AgentsweepError
from agentsweep.extraction.importer import import_runs
from agentsweep.tables import parquet


def write(directory, rows=(), calls=(), messages=(), samples=()):
    """A directory of tables."""
    directory.mkdir(parents=True)
    for name, made in (
        ("runs", rows),
        ("tool_calls", calls),
        ("messages", messages),
        ("samples", samples),
    ):
        parquet.write(name, list(made), directory / f"{name}.parquet")
    return directory


def sample(run_id, second, **values):
    return {"run_id": run_id, "t_ns": ns(second), "utc_ns": ns(second)} | values


def imported_row(run_id, **values):
    return row(run_id=run_id, **values)


# --- which runs count ---


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, True),
        ({"n_samples": 9}, False),
        ({"sampled_s": 59.9}, False),
        ({"sampled_s": None}, False),
        ({"selected": False}, False),
        # Success is not considered.
        ({"outcome": None, "trace_status": "missing"}, True),
        ({"source": "measured", "outcome": "oom_killed", "n_samples": 1}, True),
        ({"source": "measured", "outcome": "completed", "sampled_s": 1.0}, True),
        ({"source": "measured", "outcome": None}, False),
        ({"source": "measured", "outcome": "completed", "selected": False}, False),
    ],
)
def test_which_runs_count(values, expected):
    assert counts(row(**values)) is expected


def test_data_sets_their_union_and_their_common_tasks(tmp_path):
    h = write(
        tmp_path / "h",
        [
            imported_row("H/a", dataset="H", task="a"),
            imported_row("H/b", dataset="H", task="b"),
            imported_row("H/c", dataset="H", task="c", n_samples=2),
        ],
    )
    l_ = write(
        tmp_path / "l",
        [
            imported_row("L/b", dataset="L", task="b"),
            imported_row("L/c", dataset="L", task="c"),
            imported_row("L/d", dataset="L", task="d", selected=False),
        ],
    )
    found = load([h, l_])
    assert [(c.name, len(c.runs), c.attempts) for c in found] == [
        ("H", 2, 3),
        ("L", 2, 3),
        ("H+L", 4, 6),
    ]
    assert all(c.common_tasks == {"b"} for c in found)
    assert [[r.row["run_id"] for r in c.common] for c in found] == [
        ["H/b"],
        ["L/b"],
        ["H/b", "L/b"],
    ]


def test_one_data_set_has_no_union_and_all_its_tasks_are_common(tmp_path):
    (only,) = load([write(tmp_path / "x", [imported_row("D/a", task="a"), imported_row("D/b")])])
    assert (only.name, len(only.common)) == ("D", 2)


def test_a_data_set_without_a_run_that_counts_takes_no_task_from_the_others(tmp_path):
    h = write(tmp_path / "h", [imported_row(f"H/{t}", dataset="H", task=t) for t in "ab"])
    l_ = write(tmp_path / "l", [imported_row("L/a", dataset="L", task="a")])
    x = write(tmp_path / "x", [imported_row("X/b", dataset="X", task="b", n_samples=0)])
    found = load([h, l_, x])
    assert [(c.name, len(c.runs), len(c.common)) for c in found] == [
        ("H", 2, 1),
        ("L", 1, 1),
        ("X", 0, 0),
        ("H+L+X", 3, 2),
    ]


def test_without_a_common_task_all_runs_are_taken(tmp_path):
    h = write(tmp_path / "h", [imported_row("H/a", dataset="H", task="a")])
    x = write(tmp_path / "x", [imported_row("X/b", dataset="X", task="b")])
    assert [len(c.common) for c in load([h, x])] == [1, 1, 2]


def test_measured_and_imported_runs_are_not_mixed(tmp_path):
    own = write(
        tmp_path / "own",
        [imported_row("demo/z", dataset="demo", task="z", source="measured", outcome="completed")],
    )
    l_ = write(tmp_path / "l", [imported_row("L/a", dataset="L", task="a")])
    h = write(tmp_path / "h", [imported_row("H/a", dataset="H", task="a")])
    found = load([own, l_, h])
    assert [(c.name, c.union) for c in found] == [
        ("demo", False),
        ("L", False),
        ("H", False),
        ("H+L", True),
    ]
    assert [len(c.common) for c in found] == [1, 1, 1, 2]
    assert [c.name for c in datasets(found)] == ["demo", "L", "H"]
    # A panel that shows all runs shows those of both sources, with or without a union beside them.
    for several in (found, load([own, h])):
        whole = everything(several)
        assert len(whole.runs) == whole.attempts == len(datasets(several))
    assert everything(load([h])).name == "H"


def test_a_run_that_is_there_twice_is_refused(tmp_path):
    for name in ("one", "two"):
        write(tmp_path / name, [imported_row("H/a", dataset="H", task="a")])
    with pytest.raises(AgentsweepError, match=r"H/a is in .*one and in .*two: name"):
        load([tmp_path / "one", tmp_path / "two"])


def test_one_directory_may_hold_several_data_sets_and_one_data_set_several(tmp_path):
    first = write(
        tmp_path / "x", [imported_row("A/1", dataset="A"), imported_row("B/1", dataset="B")]
    )
    second = write(
        tmp_path / "y", [imported_row("A/2", dataset="A"), imported_row("n", dataset=None)]
    )
    assert [(c.name, len(c.runs)) for c in load([first, second])] == [
        ("A", 2),
        ("B", 1),
        ("y", 1),
        ("A+B+y", 4),
    ]


def test_calls_messages_and_samples_go_to_their_runs(tmp_path):
    directory = write(
        tmp_path / "x",
        [imported_row("D/a"), imported_row("D/b", selected=False), imported_row("D/c")],
        [{"run_id": r, "tool_call_id": f"{r}{i}"} for r in ("D/a", "D/b", "D/c") for i in (1, 2)],
        [{"run_id": r, "message_id": "m", "role": "user"} for r in ("D/b", "D/c")],
        [
            sample(r, i, stats_memory_bytes=i)
            for r, n in (("D/a", 3), ("D/b", 2), ("D/c", 1))
            for i in range(n)
        ],
    )
    a, c = load([directory])[0].runs
    assert [x["tool_call_id"] for x in a.calls] == ["D/a1", "D/a2"]
    assert [x["tool_call_id"] for x in c.calls] == ["D/c1", "D/c2"]
    assert (len(a.messages), len(c.messages)) == (0, 1)
    assert a.series.memory_bytes.tolist() == [0, 1, 2]
    assert c.series.memory_bytes.tolist() == [0]


def test_without_a_run_that_counts_one_sentence_names_the_directories(tmp_path):
    directory = write(tmp_path / "x", [imported_row("D/a", n_samples=3)])
    for directories in ([directory], (path for path in [directory])):
        with pytest.raises(AgentsweepError, match="no run counts") as raised:
            load(directories)
        assert str(directory) in str(raised.value)


# --- series ---


def measured(tmp_path, times, name="x", start=0.0, end=100.0, **columns):
    """The series of a measured run with samples at these times, loaded."""
    values = {
        "source": "measured",
        "outcome": "completed",
        "cpu_source": "counter",
        "agent_start_utc_ns": ns(start),
        "agent_end_utc_ns": ns(end),
    }
    rows = [
        sample("D/a", t, **{key: made(t) for key, made in columns.items()}) for t in times
    ]  # fmt: skip
    directory = write(tmp_path / name, [imported_row("D/a", **values)], samples=rows)
    return load([directory])[0].runs[0]


def test_fast_samples_are_thinned_to_one_a_second(tmp_path):
    run_ = measured(tmp_path, np.arange(50) * 0.1, memory_current_bytes=lambda t: round(t * 10) + 1)
    assert run_.series.memory_bytes.tolist() == [1, 11, 21, 31, 41]
    assert run_.series.t_s.tolist() == [0, 1, 2, 3, 4]


def test_one_sample_a_second_is_never_thinned(tmp_path):
    times = [0.0, 0.9, 1.95, 2.9, 4.05, 4.95]
    run_ = measured(tmp_path, times, memory_current_bytes=lambda t: 1)
    assert len(run_.series.utc_ns) == 6
    # A recorder at 2 Hz is thinned, one at one sample in 0.7 s is not.
    for step, kept in ((0.5, 10), (0.7, 20)):
        made = measured(
            tmp_path, np.arange(20) * step, name=f"y{step}", memory_current_bytes=lambda t: 1
        )
        assert len(made.series.utc_ns) == kept


def test_of_a_measured_run_only_the_agents_phase_counts(tmp_path):
    run_ = measured(
        tmp_path,
        range(10),
        start=3.0,
        end=7.0,
        memory_current_bytes=lambda t: int(t) + 1,
        cpu_usage_usec=lambda t: 2_000_000 + round(t * 500_000),
    )
    assert run_.series.memory_bytes.tolist() == [4, 5, 6, 7, 8]
    assert run_.series.used_s.tolist() == [0, 0.5, 1.0, 1.5, 2.0]
    # What an engine would have printed: nothing at the start itself.
    assert np.isnan(run_.series.mean_cpu_percent[0])
    assert run_.series.mean_cpu_percent[1:].tolist() == [50, 50, 50, 50]
    assert run_.cpu.load_percent.tolist() == [50, 50, 50, 50]
    assert not run_.cpu.load_error_percent.any()


def test_a_first_sample_without_a_counter_does_not_lose_the_others(tmp_path):
    run_ = measured(
        tmp_path,
        range(5),
        memory_current_bytes=lambda t: 5,
        cpu_usage_usec=lambda t: None if t == 0 else round(t * 1e6),
    )
    assert run_.series.used_s[1:].tolist() == [0, 1, 2, 3]
    assert run_.cpu.load_percent.tolist() == [100, 100, 100]
    assert run_.cpu_t_s.tolist() == [1, 2, 3, 4]


def test_an_imported_run_keeps_every_sample_and_what_was_printed(tmp_path):
    rows = [
        sample("D/a", 0.5 * i, stats_memory_bytes=7, memory_current_bytes=9, stats_cpu_percent=3.0)
        for i in range(12)
    ]
    directory = write(tmp_path / "x", [imported_row("D/a")], samples=rows)
    made = load([directory])[0].runs[0].series
    assert len(made.utc_ns) == 12
    assert set(made.memory_bytes) == {7.0}
    assert set(made.mean_cpu_percent) == {3.0}


def test_a_run_without_samples_has_an_empty_series():
    made = run()
    assert len(made.series.t_s) == len(made.series.live_t_s) == len(made.series.live_memory_mb) == 0
    assert made.cpu is None
    assert len(made.cpu_t_s) == len(made.cpu_memory_mb) == 0


def test_live_samples_are_those_of_a_container_that_is_there():
    made = series([100, np.nan, 120, 0, 0])
    assert made.live.tolist() == [True, False, True, False, False]
    assert made.live_memory_mb.tolist() == [100, 120]
    assert made.live_t_s.tolist() == [0, 2]


def test_reconstructed_cpu_time_leaves_out_dead_samples_and_repeated_times():
    """One core for 5 s, then nothing, with the container's start a second before the samples."""
    at = [0, 1, 2, 3, 4, 4, 5, 6, 7, 8]
    used = [min(t + 1, 5) for t in at]
    mean = [round(100 * u / (t + 1), 2) for u, t in zip(used, at, strict=True)]
    mean[-1] = 0.0
    mb = [100] * 9 + [0]
    made = run(samples=series(mb, mean, [*used[:-1], np.nan], at), cpu_source="reconstructed")
    assert made.cpu_t_s.tolist() == [0, 1, 2, 3, 4, 5, 6, 7]
    error = made.cpu.load_error_percent
    assert (np.abs(made.cpu.load_percent - [100, 100, 100, 100, 0, 0, 0]) <= error).all()
    assert len(made.cpu_memory_mb) == 8
    assert made.ns_of(made.cpu_t_s)[-1] == ns(7)


def test_cpu_takes_two_samples():
    assert run(samples=series([5], used=[1.0])).cpu is None
    assert run(samples=series([5, 5])).cpu is None
    assert run(samples=series([5, 5], used=[1.0, 1.5])).cpu.load_percent.tolist() == [50]


def test_cpu_is_known_where_memory_is_not_but_not_after_the_container():
    unknown = run(samples=series([np.nan, np.nan, 0], used=[1.0, 1.5, 1.5]))
    assert unknown.cpu.load_percent.tolist() == [50]
    assert np.isnan(unknown.cpu_memory_mb).all()
    assert run_metrics.load_correlation(unknown) is None


# --- intervals ---


def test_active_time_takes_two_time_stamps():
    assert run(trace_first_utc_ns=ns(1), trace_last_utc_ns=ns(5)).active_s == 4.0
    assert run(trace_first_utc_ns=ns(1), trace_last_utc_ns=ns(1)).active_s is None
    assert run(trace_first_utc_ns=None, trace_last_utc_ns=ns(1)).active_s is None


def test_tool_time_is_the_union_of_leaf_calls():
    calls = [
        call("Task", 0, 100, tool_call_id="task"),
        call("Bash", 1, 4, parent_id="task"),
        call("Read", 3, 6, parent_id="task"),
        call("Bash", 10, 11),
        call("Bash", 20, None),
        call("Bash"),
    ]
    made = run(calls)
    assert made.tool_time == [(ns(1), ns(6)), (ns(10), ns(11))]
    assert len(made.leaf_calls) == 5


def test_a_call_that_started_a_subagent_is_no_leaf_whatever_its_name():
    calls = [call("mcp__agent", 0, 9, tool_call_id="x"), call("Bash", 1, 2, parent_id="x")]
    assert run(calls).tool_time == [(ns(1), ns(2))]


@pytest.mark.parametrize(
    ("version", "bash_is_certain"),
    [("2.0.0", False), ("2.1.50", False), (None, False), ("2.1.51", True), ("2.1.330", True)],
)
def test_the_least_tool_time_leaves_out_what_may_be_the_clis_own_model(version, bash_is_certain):
    calls = [call("Bash", 0, 10, duration_lower_s=4.0), call("Read", 20, 21)]
    least = run(calls, agent_version=version).least_tool_time
    assert least == [(ns(6), ns(10))] * bash_is_certain + [(ns(20), ns(21))]


def test_an_exact_call_is_certain_in_every_version():
    calls = [call("Bash", 0, 10, time_source="exact", duration_lower_s=10.0)]
    assert run(calls, agent_version="2.0.0").least_tool_time == [(ns(0), ns(10))]


def test_intervals_of_nothing():
    assert intervals_of([]) == []
    assert intervals_of([call(), call(start=1), call(end=1), call(start=2, end=2)]) == []


def at(*seconds):
    return np.array([ns(s) for s in seconds], dtype=np.int64)


def test_covered_seconds_at_the_boundaries():
    intervals = [(ns(10), ns(20)), (ns(30), ns(31))]
    for start, end, expected in (
        (0, 5, 0),
        (0, 10, 0),
        (0, 11, 1),
        (10, 20, 10),
        (12, 15, 3),
        (15, 25, 5),
        (20, 30, 0),
        (19, 30.5, 1.5),
        (5, 40, 11),
        (31, 50, 0),
        (12, 12, 0),
    ):
        assert covered_s(intervals, at(start), at(end)).tolist() == [expected], (start, end)
    assert covered_s([], at(0, 1), at(1, 2)).tolist() == [0, 0]
    assert covered_s(intervals, at(), at()).tolist() == []


def test_covered_seconds_against_a_count_of_milliseconds():
    chance = np.random.default_rng(5)
    for _ in range(50):
        bounds = np.sort(chance.choice(1000, 10, replace=False)).tolist()
        intervals = [
            (ns(a / 1000), ns(b / 1000)) for a, b in zip(bounds[::2], bounds[1::2], strict=True)
        ]
        inside = np.zeros(1000)
        for a, b in zip(bounds[::2], bounds[1::2], strict=True):
            inside[a:b] = 1
        edges = np.sort(chance.choice(1001, 20, replace=False))
        found = covered_s(intervals, at(*edges[:-1] / 1000), at(*edges[1:] / 1000))
        expected = [inside[a:b].sum() / 1000 for a, b in itertools.pairwise(edges)]
        assert found == pytest.approx(expected, abs=1e-6)


def test_within_includes_both_ends():
    intervals = [(ns(10), ns(20)), (ns(30), ns(31))]
    times = np.array(
        [ns(9), ns(10) - 1, ns(10), ns(15), ns(20), ns(20) + 1, ns(30), ns(31), ns(99)]
    )
    assert within(times, intervals).tolist() == [0, 0, 1, 1, 1, 0, 1, 1, 0]
    assert within(times, []).tolist() == [0] * 9
    assert within(times[:0], intervals).tolist() == []


def test_whether_the_calls_of_a_run_are_known():
    assert run([call(start=1, end=2)]).calls_known
    assert not run([call(start=1), call()]).calls_known
    assert run([call(start=1)], trace_status="ok").calls_known
    assert run(trace_status="ok").calls_known
    for status in ("missing", "empty", "damaged", None):
        assert not run(trace_status=status).calls_known


# --- imported and read again ---


def test_what_the_importer_writes_is_what_a_cohort_reads(tmp_path):
    listed = maker.samples(70)
    maker.attempt(tmp_path / "data" / "a__b-1" / "attempt_1", listed=listed)
    maker.attempt(tmp_path / "data" / "a__b-1" / "attempt_2", listed=listed)
    maker.attempt(tmp_path / "data" / "c__d-2" / "attempt_1")
    import_runs(tmp_path / "data", "H", "last", tmp_path / "tables")
    (only,) = load([tmp_path / "tables"])
    (made,) = only.runs
    assert (only.name, only.attempts, made.row["task"]) == ("H", 3, "a__b-1")
    assert made.row["run_id"] == "H/a__b-1/attempt_2"
    assert len(made.series.utc_ns) == 70
    assert made.active_s == 8.0
    assert [c["name"] for c in made.calls] == ["Bash", "Bash", "Read"]
    assert made.cpu.load_percent == pytest.approx(10, abs=0.8)


def test_the_makers_rows_have_every_column_that_is_read():
    assert set(row()) == set(cohort._RUN_COLUMNS)
    assert set(call()) == set(cohort._CALL_COLUMNS)
    assert set(cohort_maker.message()) == set(cohort._MESSAGE_COLUMNS)
    assert ns(1) - ns(0) == SECOND
