"""Tables: strict in, the same bytes out, bounded memory."""

import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from agentsweep.host.counters import COLUMNS
from agentsweep.tables import parquet
from agentsweep.tables.data_dictionary import data_dictionary
from agentsweep.tables.parquet import SCHEMAS, TableError

ROOT = Path(__file__).parents[3]

# Columns that others rely on, with exactly these names.
RELIED_ON = {
    "runs": "run_id dataset source task agent agent_version model mem_limit_bytes "
    "mem_effective_bytes cpu_limit cpu_effective cpu_mode replicate outcome exit_code "
    "tool_oom_count oom_kill_count mem_peak_bytes mem_peak_source cpu_usage_usec "
    "cpu_throttled_usec wall_s agent_s image_digest spec_sha256 patch_sha256 resolved trace_status",
    "tool_calls": "run_id tool_call_id name category start_ns end_ns time_source is_error "
    "exit_code parent_id mem_before_bytes mem_peak_bytes mem_after_bytes mem_peak_source cpu_usec "
    "command",
    "samples": "run_id t_ns utc_ns",
}
UNITS = {"_bytes": "bytes", "_ns": "ns", "_usec": "us", "_s": "s", "_usd": "USD", "_hz": "Hz"}


def rows(count, **more):
    return [{"run_id": "r", "t_ns": n, "utc_ns": 10**18 + n, **more} for n in range(count)]


@pytest.mark.parametrize("table", RELIED_ON)
def test_columns_that_others_rely_on_exist(table):
    assert set(RELIED_ON[table].split()) <= set(SCHEMAS[table].names)


def test_samples_are_the_counters_in_their_order():
    of_other_recorders = ["cpu_usage_error_usec", "stats_memory_bytes", "stats_cpu_percent"]
    assert SCHEMAS["samples"].names == ["run_id", "t_ns", "utc_ns", *COLUMNS, *of_other_recorders]


@pytest.mark.parametrize("table", SCHEMAS)
def test_every_column_says_what_it_is_and_its_unit_agrees_with_its_name(table):
    for field in SCHEMAS[table]:
        assert field.metadata[b"description"], field.name
        unit = field.metadata.get(b"unit", b"").decode()
        for suffix, expected in UNITS.items():
            if field.name.endswith(suffix):
                assert unit == expected, field.name


def test_data_dictionary_is_up_to_date():
    written = (ROOT / "docs" / "data_dictionary.md").read_text(encoding="utf-8")
    assert written == data_dictionary(), (
        "run `python -m agentsweep.tables.parquet > docs/data_dictionary.md`"
    )


def test_what_is_written_comes_back(tmp_path):
    path = tmp_path / "runs.parquet"
    given = [
        {"run_id": "a", "wall_s": 3, "rootless": True, "task": "é\x00", "exit_code": -9},
        {"run_id": "b", "wall_s": 0.5, "rootless": False, "task": None, "started_utc_ns": 2**62},
    ]
    parquet.write("runs", given, path)
    read = parquet.read("runs", path).to_pylist()
    assert [row["wall_s"] for row in read] == [3.0, 0.5]
    assert [row["rootless"] for row in read] == [True, False]
    assert [row["task"] for row in read] == ["é\x00", None]
    assert [row["exit_code"] for row in read] == [-9, None]
    assert [row["started_utc_ns"] for row in read] == [None, 2**62]
    assert all(row["outcome"] is None for row in read)
    assert parquet.read("runs", path).schema.equals(SCHEMAS["runs"])


def test_empty_table_keeps_its_schema(tmp_path):
    parquet.write("tests", [], tmp_path / "t.parquet")
    assert parquet.read("tests", tmp_path / "t.parquet").schema.equals(SCHEMAS["tests"])


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("exit_code", 1.0),
        ("exit_code", True),
        ("exit_code", "1"),
        ("exit_code", 2**63),
        ("wall_s", "1"),
        ("wall_s", True),
        ("rootless", 1),
        ("task", 1),
        ("task", b"x"),
        ("task", "\ud800"),
    ],
)
def test_another_type_is_an_error_that_names_the_column(tmp_path, column, value):
    with pytest.raises(TableError, match=f"table runs, column {column}: ") as error:
        parquet.write("runs", [{"run_id": "a", column: value}], tmp_path / "r.parquet")
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_unknown_column_is_an_error(tmp_path):
    with pytest.raises(TableError, match="table runs has no column wal_s"):
        parquet.write("runs", [{"run_id": "a", "wal_s": 1.0}], tmp_path / "r.parquet")
    with pytest.raises(TableError, match="table runs has no column wal_s"):
        parquet.write("runs", pa.table({"run_id": ["a"], "wal_s": [1.0]}), tmp_path / "r.parquet")


def test_required_column_is_required(tmp_path):
    with pytest.raises(TableError, match="column run_id: 1 rows lack it"):
        parquet.write("runs", [{"run_id": "a"}, {"task": "x"}], tmp_path / "r.parquet")


def test_arrow_tables_are_not_cast(tmp_path):
    wrong = pa.table({"run_id": ["a"], "exit_code": pa.array([1], pa.int32())})
    with pytest.raises(TableError, match="column exit_code: is int32, must be int64"):
        parquet.write("runs", wrong, tmp_path / "r.parquet")
    parquet.write("runs", pa.table({"exit_code": [1], "run_id": ["a"]}), tmp_path / "r.parquet")
    assert parquet.read("runs", tmp_path / "r.parquet", ["exit_code"]).to_pylist() == [
        {"exit_code": 1}
    ]


def test_unknown_table_is_an_error(tmp_path):
    with pytest.raises(TableError, match="there is no table 'run'"):
        parquet.write("run", [], tmp_path / "r.parquet")


@pytest.mark.parametrize("pieces", [1, 7, 100])
def test_bytes_do_not_tell_how_the_rows_came(tmp_path, monkeypatch, pieces):
    monkeypatch.setitem(parquet._ROW_GROUP_ROWS, "samples", 64)
    given = [r | {"memory_current_bytes": r["t_ns"] % 7 or None} for r in rows(300)]
    whole, split, arrow = (tmp_path / f"{name}.parquet" for name in ("whole", "split", "arrow"))
    parquet.write("samples", given, whole)
    with parquet.Writer("samples", split) as writer:
        for start in range(0, len(given), -(-len(given) // pieces)):
            writer.write(given[start : start + -(-len(given) // pieces)])
    assert writer.rows == 300
    parquet.write("samples", parquet.read("samples", whole), arrow)
    assert whole.read_bytes() == split.read_bytes() == arrow.read_bytes()
    assert pq.ParquetFile(whole).metadata.num_row_groups == 5


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "r.parquet"
    parquet.write("samples", rows(3), path)
    before = path.read_bytes()
    with pytest.raises(ZeroDivisionError), parquet.Writer("samples", path) as writer:
        writer.write(rows(10))
        _ = 1 / 0
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def replace_metadata(path, **changes):
    file = pq.read_table(path)
    names = {name.encode(): value.encode() for name, value in changes.items()}
    pq.write_table(file.replace_schema_metadata({**file.schema.metadata, **names}), path)


def test_other_version_is_refused_with_one_sentence(tmp_path):
    path = tmp_path / "samples.parquet"
    parquet.write("samples", rows(2), path)
    replace_metadata(path, agentsweep_schema="0")
    with pytest.raises(TableError) as error:
        parquet.read("samples", path)
    assert str(error.value) == (
        f"{path} has schema version 0, this program reads version {parquet.VERSION}: "
        "extract the runs again"
    )
    with pytest.raises(TableError, match="schema version 0"):
        parquet.concat("samples", [path], tmp_path / "all.parquet")
    assert not (tmp_path / "all.parquet").exists()


def test_other_files_are_refused(tmp_path):
    path = tmp_path / "x.parquet"
    parquet.write("samples", rows(2), path)
    with pytest.raises(TableError, match="holds the table samples, not runs"):
        parquet.read("runs", path)
    pq.write_table(pa.table({"run_id": ["a"]}), path)
    with pytest.raises(TableError, match="holds the table of another program, not runs"):
        parquet.read("runs", path)
    path.write_bytes(b"run_id,task\n")
    with pytest.raises(TableError, match="is no Parquet file"):
        parquet.read("runs", path)
    with pytest.raises(TableError, match="is missing"):
        parquet.read("runs", tmp_path / "none.parquet")


def test_table_without_a_new_column_is_refused(tmp_path):
    path = tmp_path / "samples.parquet"
    parquet.write("samples", rows(2), path)
    pq.write_table(pq.read_table(path).drop_columns(["pids_current"]), path)
    with pytest.raises(TableError, match="lacks columns of schema"):
        parquet.read("samples", path)


def test_reading_some_runs_skips_other_row_groups(tmp_path, monkeypatch):
    monkeypatch.setitem(parquet._ROW_GROUP_ROWS, "samples", 10)
    path = tmp_path / "samples.parquet"
    parquet.write("samples", [r | {"run_id": f"r{n // 25}"} for n, r in enumerate(rows(100))], path)
    read = parquet.read("samples", path, ["t_ns"], ["r2"])
    assert read.column_names == ["t_ns"]
    assert read["t_ns"].to_pylist() == list(range(50, 75))
    groups = list(parquet.row_groups("samples", path, ["run_id"], {"r2"}))
    assert len(groups) == 3
    assert parquet.read("samples", path, None, ["none"]).num_rows == 0


def test_concatenation_keeps_order_and_bytes(tmp_path):
    parts = []
    for number in range(5):
        parts.append(tmp_path / f"{number}.parquet")
        parquet.write("samples", rows(number, pids_current=number), parts[-1])
    assert parquet.concat("samples", parts, tmp_path / "all.parquet") == 10
    parquet.write(
        "samples",
        [row for number in range(5) for row in rows(number, pids_current=number)],
        tmp_path / "direct.parquet",
    )
    assert (tmp_path / "all.parquet").read_bytes() == (tmp_path / "direct.parquet").read_bytes()


@pytest.mark.slow
def test_concatenation_in_bounded_memory(tmp_path):
    """The peak of Arrow's memory must not grow with the number of runs (160 MB of samples here)."""
    code = """
import sys
from pathlib import Path
import numpy as np, pyarrow as pa
from agentsweep.tables import parquet
folder, times = Path(sys.argv[1]), int(sys.argv[2])
n = 18_000
part = folder / "part.parquet"
whole = [f.name for f in parquet.SCHEMAS["samples"] if f.type == pa.int64()]
columns = {name: np.arange(n) * 977 % 1_000_003 for name in whole}
parquet.write("samples", pa.table({"run_id": ["r"] * n, **columns}), part)
before = pa.default_memory_pool().max_memory()
assert parquet.concat("samples", [part] * times, folder / "all.parquet") == n * times
print(pa.default_memory_pool().max_memory() / 2**20)
"""

    def peak_mib(times):
        return float(
            subprocess.run(
                [sys.executable, "-c", code, str(tmp_path), str(times)],
                check=True, capture_output=True, text=True, encoding="utf-8",
            ).stdout
        )  # fmt: skip

    few, many = peak_mib(6), peak_mib(40)
    assert many < few * 1.2
    assert many < 100


def test_a_row_group_at_a_time_is_in_memory(tmp_path, monkeypatch, arrow_pool):
    """Reading a table group by group takes what one group takes, however many there are."""
    monkeypatch.setitem(parquet._ROW_GROUP_ROWS, "samples", 5_000)
    columns = ["run_id", "t_ns", "memory_current_bytes"]
    peaks = {}
    for groups in (4, 40):
        path = tmp_path / f"{groups}.parquet"
        with parquet.Writer("samples", path) as writer:
            for start in range(groups):
                writer.write(wide(5_000, start))
        with arrow_pool() as pool:
            found = sum(g.num_rows for g in parquet.row_groups("samples", path, columns))
            peaks[groups] = pool.max_memory()
        assert found == 5_000 * groups
    assert peaks[40] < 1.5 * peaks[4]
    # Times and one counter of a group are 120 kB; ten groups would be more than a megabyte.
    assert peaks[40] < 2**20


def wide(count: int, start: int) -> pa.Table:
    whole = [f.name for f in SCHEMAS["samples"] if f.type == pa.int64()]
    values = pa.array([(n + start) * 7919 % 1_000_003 for n in range(count)], pa.int64())
    return pa.table({"run_id": ["r"] * count, **dict.fromkeys(whole, values)})


@pytest.mark.slow
def test_writing_imports_no_pandas(tmp_path):
    code = (
        "import sys; from agentsweep.tables import parquet; p = sys.argv[1]\n"
        "parquet.write('runs', [{'run_id': 'a', 'wall_s': 1.5, 'rootless': True}], p)\n"
        "parquet.read('runs', p, None, ['a']); parquet.concat('runs', [p], p + '2')\n"
        "assert 'pandas' not in sys.modules, 'pandas was imported'"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "r.parquet")], check=True)
