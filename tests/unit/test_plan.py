"""The plan: what is sealed, what would run, and where its times come from."""

import json

import pytest
import small_sweep

from agentsweep import config, plan
from agentsweep.config import Machine
from agentsweep.store import Store, spec_sha256

LARGE = Machine(memory_bytes=2**40, cpus=64)


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Loads the small sweep, with overrides."""
    small_sweep.write(tmp_path)
    monkeypatch.chdir(tmp_path)

    def loaded(**overrides):
        return config.load([tmp_path / "config.yaml"], overrides)

    return loaded


def seal(loaded, cell, wall_s) -> None:
    spec = loaded.spec(cell)
    key = spec_sha256(spec)
    store = Store(loaded.store().root)
    with store.locked(key, spec):
        attempt = store.begin(key)
        result = {"names": {"task": cell.task}, "spec": json.loads(spec), "wall_s": wall_s}
        (attempt.path / "result.json").write_text(json.dumps(result))
        store.finish(attempt, "sealed")


def test_without_runs_every_time_is_unknown(load):
    rows = plan.make(load(), LARGE)
    assert {row.state for row in rows} == {plan.RUN}
    assert {row.estimate_s for row in rows} == {None}
    text = plan.render(rows)
    assert "8 cells: 0 sealed (recalled, no new run), 8 would run" in text
    assert "Their time, one after another: unknown." in text


def test_times_come_from_runs_of_the_same_limits_first_then_of_the_same_task(load):
    loaded = load()
    cells = {(c.memory, c.cpus, c.replicate): c for c in loaded.cells()}
    seal(loaded, cells["512MiB", "0.5", 0], 100.0)
    seal(loaded, cells["1GiB", "2", 0], 20.0)
    rows = {row.cell: row for row in plan.make(loaded, LARGE)}
    assert rows[cells["512MiB", "0.5", 0].id].state == plan.SEALED
    same = rows[cells["512MiB", "0.5", 1].id]
    assert (same.estimate_s, same.basis) == (100.0, "1 run of the task under these limits")
    other = rows[cells["512MiB", "2", 0].id]
    assert (other.estimate_s, other.basis) == (
        60.0,
        "median of 2 runs of the task under other limits",
    )
    text = plan.render(rows.values())
    assert "8 cells: 2 sealed (recalled, no new run), 6 would run" in text
    assert "Their time, one after another: 6 min." in text


def test_cells_that_do_not_fit_are_told_with_the_reason(load):
    rows = plan.make(load(), Machine(memory_bytes=2**30, cpus=2))
    misfits = [row for row in rows if row.state == plan.MISFIT]
    assert {row.cell.split("mem~")[1].split("_")[0] for row in misfits} == {"1GiB"}
    assert "needs 1GiB + 256MiB" in misfits[0].reason
    assert "4 do not fit this machine." in plan.render(rows)


def test_on_miss_fail_promises_no_run(load):
    rows = plan.make(load(agent={"on_miss": "fail"}), LARGE)
    assert {row.state for row in rows} == {plan.MISSING}
    assert "0 would run" in plan.render(rows)
    assert "8 are missing from the store, and agent.on_miss is fail." in plan.render(rows)


def test_a_damaged_result_gives_no_time_and_no_error(load):
    loaded = load()
    cell = loaded.cells()[0]
    seal(loaded, cell, 100.0)
    next(loaded.store().root.rglob("result.json")).write_text("{}")
    rows = plan.make(loaded, LARGE)
    assert rows[0].state == plan.SEALED
    assert rows[1].estimate_s is None


def test_main_prints_json_for_programs(load, capsys):
    plan.main(load(), as_json=True)
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 8
    assert rows[0].keys() == {"cell", "state", "estimate_s", "basis", "reason"}


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (12000, "3 h 20 min")]
)
def test_duration_is_readable(seconds, text):
    assert plan.duration(seconds) == text
