"""Stores of earlier versions: every run and grading in them is recalled, and nothing is made."""

import json
import shutil
import tarfile
from pathlib import Path

import pytest

from agentsweep.cli import plan, store_view
from agentsweep.cli.main import main
from agentsweep.config.load import load as load_config
from agentsweep.exports import finished_runs
from agentsweep.grading import grading_job, grading_plan
from agentsweep.host.capacity import Machine
from agentsweep.runs import recall, run_cell, spec, store
from agentsweep.workflow import sweep

OLD = Path(__file__).resolve().parents[1] / "old_store"
LARGE = Machine(2**40, 64)
STARLETTE = "task~starlette-1147/agent~claude/mem~512MiB_cpus~2_rep~0"


@pytest.fixture
def old(tmp_path, monkeypatch):
    """The store of version 0.1.0 with its configuration, in the current directory."""
    shutil.copytree(OLD / "config", tmp_path / "config")
    with tarfile.open(OLD / "store.tar.xz") as archive:
        archive.extractall(tmp_path / "store", filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(**changes):
    return load_config([Path("config/config.yaml")], changes)


def correct_row(**fields):
    """Another row for the same issue."""
    path = Path("config/rows.jsonl")
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | fields) + "\n", "utf-8")


def contents(folder: Path) -> dict[str, bytes]:
    names = [path for path in folder.iterdir() if path.name in run_cell.PUBLISHED]
    return {path.name: path.read_bytes() for path in names}


def made_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.glob("**/attempt-*")}


def test_every_run_of_version_0_1_0_is_recalled(old):
    loaded, before, recalled = load(), made_in(old / "store"), set()
    assert len(loaded.cells()) == 3
    for cell in loaded.cells():
        attempt = loaded.choice(cell).attempt
        assert attempt is not None, cell.id
        sealed = contents(attempt.path)
        result = run_cell.run_cell(loaded.job(cell), loaded.spec(cell), {}, old / "out" / cell.id)
        assert contents(old / "out" / cell.id) == sealed
        assert sealed.keys() == set(run_cell.PUBLISHED)
        assert (result["names"]["task"], result["limits"]["requested"]["memory_bytes"]) == (
            cell.task,
            loaded.limits(cell)["memory_bytes"],
        )
        recalled.add(attempt.spec_sha256)
    assert recalled == {path.parent.name for path in (old / "store").glob("*/attempt-1")}
    assert made_in(old / "store") == before


def test_its_grading_is_recalled_without_an_engine(old):
    loaded = load()
    run = next(run for run in finished_runs.find(loaded)[0] if run.cell.id == STARLETTE)
    patch = (run.directory / "patch.diff").read_bytes()
    found = grading_job.grade(
        grading_plan.plan(loaded, "starlette-1147"), patch, old / "out", engine=None
    )
    assert (found.status, found.resolved) == ("graded", True)
    grade = next(old.glob("store/gradings/*/attempt-1/grade.json"))
    assert (old / "out" / "grade.json").read_bytes() == grade.read_bytes()


def test_a_spec_without_a_row_is_what_it_was(old):
    loaded = load()
    for cell in loaded.cells():
        kept = (old / "store" / loaded.spec_sha256(cell) / "spec.json").exists()
        assert kept == (cell.task == "logstats")


CORRECTED = {
    "FAIL_TO_PASS": ["tests/test_sessions.py::test_another_name"],
    "PASS_TO_PASS": [],
    "patch": "diff --git a/a b/a\n--- a/a\n+++ b/a\n@@ -1 +1 @@\n-a\n+b\n",
}


def test_a_corrected_row_recalls_the_runs_of_the_row_before_it(old, capsys):
    before = made_in(old / "store")
    correct_row(**CORRECTED)
    loaded = load()
    assert [row.state for row in plan.make(loaded, LARGE)] == [plan.SEALED] * 3
    assert len(finished_runs.find(loaded)[0]) == 3
    seen = sweep.Sweep({**load()._data, "partial": True}, announce=False)
    assert len(seen.wanted()) == 3
    assert main(["run", STARLETTE, "--config", "config/config.yaml"]) == 0
    assert "recalled sealed attempt 28f13615d9ba-1" in capsys.readouterr().out
    assert made_in(old / "store") == before
    # The results alone, without the store, are still those of the cell.
    shutil.rmtree("store")
    assert sweep.Sweep(loaded._data, announce=False).has_run(loaded.cell(STARLETTE))
    assert [run.cell.id for run in finished_runs.find(loaded)[0]] == [STARLETTE]


@pytest.mark.parametrize(
    "change",
    [
        {"problem_statement": "Another issue."},
        {"environment": "true"},
        {"python": "/other/python"},
        {"workdir": "/elsewhere"},
        {"prompt": "Another prompt: {problem_statement}"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_what_the_agent_gets_is_not_recalled_when_it_changes(old, change):
    loaded = load(tasks={"starlette-1147": change})
    states = {row.cell: row.state for row in plan.make(loaded, LARGE)}
    assert states.pop(STARLETTE) == plan.MISSING
    assert set(states.values()) == {plan.SEALED}


def test_a_task_that_gets_a_row_is_another(old):
    """A run without a row is not taken for one with a row, whose image has no later history."""
    loaded = load()
    wanted = json.loads(loaded.spec(loaded.cell(STARLETTE)))
    plain = spec.canonical(wanted | {"task": wanted["task"] | {"row_sha256": None}})
    del wanted["task"]["base_commit"]
    made = spec.canonical(wanted | {"task": wanted["task"] | {"row_sha256": None}})
    assert recall.Recall(loaded.store()).made(made) == []
    assert not recall.is_run_of(loaded.spec(loaded.cell(STARLETTE)), {"spec": json.loads(made)})
    assert plain != made


def copies(root: Path, count: int) -> None:
    """More specs of the old form, each another timeout."""
    for path in list(root.glob("*/spec.json")):
        old_spec = json.loads(path.read_text(encoding="utf-8"))
        for number in range(count):
            text = spec.canonical(old_spec | {"timeout_s": 1000 + number})
            folder = root / store.spec_sha256(text)
            folder.mkdir()
            (folder / "spec.json").write_text(text, encoding="utf-8")


@pytest.mark.slow
def test_specs_of_a_large_store_are_read_once(old, monkeypatch):
    copies(old / "store", recall._WORTH_KEEPING)
    cell = load().cell(STARLETTE)
    assert load().choice(cell).attempt is not None
    assert (old / "store" / recall.INDEX).is_file()
    read = []
    monkeypatch.setattr(store.Store, "spec", lambda self, key: read.append(key))
    assert load().choice(cell).attempt.id == "28f13615d9ba-1"
    assert read == []
    # What is in the index and not in the store (any more) is not there.
    shutil.rmtree(old / "store" / load().choice(cell).attempt.spec_sha256)
    assert load().choice(cell).attempt is None


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["", "[]", '{"a": 1}', "\x00"])
def test_a_damaged_index_is_made_again(old, damage):
    copies(old / "store", recall._WORTH_KEEPING)
    (old / "store" / recall.INDEX).write_text(damage, encoding="utf-8")
    assert load().choice(load().cell(STARLETTE)).attempt is not None
    assert len(json.loads((old / "store" / recall.INDEX).read_text(encoding="utf-8"))) > 3


def test_of_runs_under_several_rows_the_newest_is_recalled(old):
    loaded = load()
    first = loaded.choice(loaded.cell(STARLETTE)).attempt
    made = json.loads((first.path.parent / "spec.json").read_text(encoding="utf-8"))
    for digit, start in (("a", 2**62), ("b", 1)):
        made["task"]["row_sha256"] = digit * 64
        folder = old / "store" / store.spec_sha256(spec.canonical(made))
        shutil.copytree(first.path.parent, folder)
        (folder / "spec.json").write_text(spec.canonical(made), encoding="utf-8")
        path = folder / "attempt-1" / "result.json"
        result = json.loads(path.read_text(encoding="utf-8")) | {"started_utc_ns": start}
        path.write_text(json.dumps(result), encoding="utf-8")
    made["task"]["row_sha256"] = "a" * 64
    chosen = load().choice(loaded.cell(STARLETTE))
    assert chosen.attempt.spec_sha256 == store.spec_sha256(spec.canonical(made))
    assert chosen.before == 2


def test_the_store_is_listed_as_ever(old):
    found = list(store_view.rows(load().store()))
    assert [(row["state"], row["outcome"]) for row in found] == [("sealed", "completed")] * 3
    attempt = load().store().resolve("28f13615d9ba-1")[0]
    assert "starlette-1147" in store_view.describe(attempt)
