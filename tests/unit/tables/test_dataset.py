"""The data set: all runs in one file for each table, and how it is read."""

import random
import tracemalloc

import numpy as np
import pyarrow as pa
import pytest
import synthetic

from agentsweep.analysis import captions
from agentsweep.errors import AgentsweepError
from agentsweep.extraction import aggregate
from agentsweep.grading import run_grades
from agentsweep.tables import dataset, parquet
from agentsweep.tables.dataset import Dataset, sample_arrays

UNGRADED = run_grades.Grades(None)


@pytest.fixture(scope="module")
def runs():
    return synthetic.sweep(cpus=[0.5, 2.0])


@pytest.fixture(scope="module")
def folders(runs, tmp_path_factory):
    return synthetic.write_extracted(runs, tmp_path_factory.mktemp("extracted"))


@pytest.mark.slow
def test_every_row_of_every_run_arrives(runs, folders, tmp_path):
    counts = aggregate.aggregate(folders, tmp_path, UNGRADED)
    assert counts["runs"] == len(runs)
    for name in ("tool_calls", "api_calls", "messages", "samples"):
        assert counts[name] == sum(len(getattr(run, name)) for run in runs)
        assert parquet.read(name, tmp_path / f"{name}.parquet").num_rows == counts[name]


@pytest.mark.slow
def test_order_of_the_folders_changes_no_byte(folders, tmp_path):
    shuffled = random.Random(3).sample(folders, len(folders))
    assert shuffled != folders
    aggregate.aggregate(folders, tmp_path / "a", UNGRADED)
    aggregate.aggregate(shuffled, tmp_path / "b", UNGRADED)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert files == sorted(f"{name}.parquet" for name in (*aggregate.EXTRACTED, "tests", "hosts"))
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_hosts_are_the_distinct_machines(tmp_path):
    runs = synthetic.sweep(tasks=["logstats"], cpus=[1.0])
    runs[1].row["kernel"] = "6.12.0"
    runs[2].row["kernel"] = None
    aggregate.aggregate(synthetic.write_extracted(runs, tmp_path / "e"), tmp_path / "d", UNGRADED)
    hosts = parquet.read("hosts", tmp_path / "d" / "hosts.parquet").to_pylist()
    assert {(host["kernel"], host["n_runs"]) for host in hosts} == {
        ("6.1.0", 1),
        ("6.12.0", 1),
        (None, 1),
    }


@pytest.mark.slow
def test_how_many_cells_were_wanted_is_kept_until_nobody_says_so(folders, runs, tmp_path):
    aggregate.aggregate(folders, tmp_path, UNGRADED, cells=40)
    assert dataset.cells_of(tmp_path) == (len(runs), 40)
    aggregate.aggregate(folders, tmp_path, UNGRADED)
    assert dataset.cells_of(tmp_path) is None


@pytest.mark.slow
def test_runs_of_a_task_that_is_not_valid_are_in_no_figure(tmp_path):
    """They are in the tables, with the reason, and captions say how many and why."""
    runs = synthetic.sweep(cpus=[0.5])
    for run in runs:
        run.row["row_sha256"] = "cc" if run.row["task"] == "logstats" else None
    reason = "its task is not valid: gold patch, time 1: not resolved"
    judged = {"logstats": run_grades.Judged(invalid=reason)}
    folders = synthetic.write_extracted(runs, tmp_path / "e")
    aggregate.aggregate(folders, tmp_path / "d", run_grades.Grades(None, judged))
    rows = parquet.read("runs", tmp_path / "d" / "runs.parquet").to_pylist()
    assert len(rows) == len(runs)
    assert {row["grade_status"] for row in rows if row["task"] == "logstats"} == {"invalid_task"}
    shown = Dataset(tmp_path / "d")
    out = {run["run_id"] for run in shown.left_out}
    assert out == {row["run_id"] for row in rows if row["task"] == "logstats"}
    assert out.isdisjoint(run["run_id"] for run in shown.runs)
    calls = shown.rows("tool_calls", ["name"])
    assert calls
    assert set(calls[0]) == {"name"}
    every = parquet.read("tool_calls", tmp_path / "d" / "tool_calls.parquet").to_pylist()
    assert len(calls) == sum(call["run_id"] not in out for call in every) < len(every)
    assert out.isdisjoint(run_id for run_id, _ in shown.samples(["t_ns"]))
    said = captions.with_left_out(captions.Caption(["A."]), shown.left_out)
    assert said.sentences[1] == f"Left out: {len(out)} runs of logstats: {reason}."
    assert captions.with_left_out(captions.Caption(["A."]), []).sentences == ["A."]
    with pytest.raises(AgentsweepError, match=r"no run of a valid task .*keep_invalid: true"):
        only = [run for run in runs if run.row["task"] == "logstats"]
        folders = synthetic.write_extracted(only, tmp_path / "f")
        aggregate.aggregate(folders, tmp_path / "g", run_grades.Grades(None, judged))
        Dataset(tmp_path / "g")


def test_no_folder_is_an_error(tmp_path):
    with pytest.raises(AgentsweepError, match="there is no extracted run"):
        aggregate.aggregate([], tmp_path, UNGRADED)


def test_one_run_in_two_folders_is_an_error(tmp_path):
    run = synthetic.make_run("logstats", synthetic.GIB, 1.0)
    folders = [synthetic.write_dataset([run], tmp_path / name) for name in ("x", "y")]
    with pytest.raises(AgentsweepError, match=r"both hold the run task~logstats"):
        aggregate.aggregate(folders, tmp_path / "out", UNGRADED)
    assert not (tmp_path / "out" / "runs.parquet").exists()


def test_missing_table_is_named(folders, tmp_path):
    with pytest.raises(AgentsweepError, match=r"nowhere/runs.parquet is missing"):
        aggregate.aggregate([*folders, tmp_path / "nowhere"], tmp_path / "out", UNGRADED)


def test_samples_come_run_by_run_across_row_groups(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(parquet._ROW_GROUP_ROWS, "samples", 50)
    synthetic.write_dataset(runs, tmp_path)
    found = dict(Dataset(tmp_path).samples(["cpu_usage_usec", "memory_slab_bytes"]))
    assert list(found) == sorted(run.run_id for run in runs)
    for run in runs:
        arrays = found[run.run_id]
        assert arrays["t_ns"].dtype == np.int64
        assert arrays["t_ns"].tolist() == [sample["t_ns"] for sample in run.samples]
        assert arrays["cpu_usage_usec"].tolist() == [s["cpu_usage_usec"] for s in run.samples]
        assert np.isnan(arrays["memory_slab_bytes"]).all()


@pytest.mark.slow
def test_samples_of_one_run_are_in_memory(tmp_path, monkeypatch, arrow_pool):
    """However many runs there are: those that a reader has done with are gone."""
    monkeypatch.setitem(parquet._ROW_GROUP_ROWS, "samples", 5_000)
    samples = 4_000
    columns = ["memory_current_bytes", "cpu_usage_usec"]
    peaks = {}
    for runs in (4, 40):
        folder = tmp_path / str(runs)
        folder.mkdir()
        with parquet.Writer("samples", folder / "samples.parquet") as writer:
            for run in range(runs):
                n = np.arange(samples, dtype=np.int64) * 977 % 1_000_003
                given = dict.fromkeys(("t_ns", "utc_ns", *columns), n)
                writer.write(pa.table({"run_id": [f"r{run:02d}"] * samples, **given}))
        tracemalloc.start()
        try:
            with arrow_pool() as pool:
                found = [len(arrays["t_ns"]) for _, arrays in sample_arrays(folder, columns)]
                # numpy's arrays are Python's to count, Arrow's columns are not.
                peaks[runs] = pool.max_memory() + tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert found == [samples] * runs
    assert peaks[40] < 1.5 * peaks[4]


def test_samples_of_some_runs(runs, tmp_path, monkeypatch):
    monkeypatch.setitem(parquet._ROW_GROUP_ROWS, "samples", 50)
    synthetic.write_dataset(runs, tmp_path)
    wanted = [runs[4].run_id, runs[1].run_id]
    found = dict(Dataset(tmp_path).samples(["pids_current"], wanted))
    assert {name: len(a["t_ns"]) for name, a in found.items()} == {
        run.run_id: len(run.samples) for run in (runs[1], runs[4])
    }


def test_data_set_without_runs_is_an_error(tmp_path):
    with pytest.raises(AgentsweepError, match="is missing"):
        Dataset(tmp_path)
    synthetic.write_dataset([], tmp_path)
    with pytest.raises(AgentsweepError, match="holds no run"):
        Dataset(tmp_path)
