"""The plan: what is sealed, what would run, and where its times come from."""

import json
from pathlib import Path

import pytest
import small_sweep

from agentsweep.cli import plan
from agentsweep.config.load import load as load_config
from agentsweep.host.capacity import Machine
from agentsweep.runs.store import Store, spec_sha256

LARGE = Machine(memory_bytes=2**40, cpus=64)


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Loads the small sweep, with overrides."""
    small_sweep.write(tmp_path)
    monkeypatch.chdir(tmp_path)

    def loaded(**overrides):
        return load_config([tmp_path / "config.yaml"], overrides)

    return loaded


def seal(loaded, cell, wall_s, usd=None, outcome="completed") -> None:
    spec = loaded.spec(cell)
    key = spec_sha256(spec)
    store = Store(loaded.store().root)
    with store.locked(key, spec):
        attempt = store.begin(key)
        names = {"task": cell.task, "agent": cell.agent}
        result = {"names": names, "spec": json.loads(spec), "wall_s": wall_s, "outcome": outcome}
        result["stream"] = {"result": {"total_cost_usd": usd} if usd is not None else None}
        (attempt.path / "result.json").write_text(json.dumps(result), encoding="utf-8")
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
    next(loaded.store().root.rglob("result.json")).write_text("{}", encoding="utf-8")
    rows = plan.make(loaded, LARGE)
    assert rows[0].state == plan.SEALED
    assert rows[1].estimate_s is None


# What would be paid

PRICE = {"input": 1, "output": 5, "cache_read": 0.1, "cache_write": 1.25}
LIMITED = {"max_cost_usd": 0.25, "price": PRICE}


def out(capsys) -> str:
    return capsys.readouterr().out


def test_runs_of_scripted_agents_cost_nothing(load):
    rows = plan.make(load(), LARGE)
    assert not any(row.paid for row in rows)
    assert {row.mode for row in rows} == {"scripted"}
    text = plan.render(rows)
    assert "None would be paid: no run needs a live model." in text
    assert "USD" not in text


def test_costs_are_unknown_without_a_limit_and_without_a_sealed_live_run(load):
    scripted, loaded = load(), load(agents={"claude": {"model": "live"}})
    # Its time and costs are no live run's.
    seal(scripted, scripted.cells()[0], 100.0, usd=3.0)
    rows = plan.make(loaded, LARGE)
    assert all(row.paid for row in rows)
    assert {(row.max_usd, row.estimate_usd, row.estimate_s) for row in rows} == {(None, None, None)}
    text = plan.render(rows)
    assert text.splitlines()[0].endswith("(no sealed run of the task), paid: cost unknown")
    assert "8 would be paid (live): unknown (no agent.max_cost_usd, and no sealed live" in text


def test_costs_are_the_mean_of_sealed_live_runs_of_the_task_by_the_agent(load):
    other = {"model": "live", "model_id": "claude-sonnet-4-5-20250929", "version": "2.1.330"}
    loaded = load(
        agents={"claude": {"model": "live"}, "other": other}, sweep={"agents": ["claude", "other"]}
    )
    own = [cell for cell in loaded.cells() if cell.agent == "claude"]
    for cell, usd in zip(own[:3], (0.1, 0.3, None), strict=True):
        seal(loaded, cell, 100.0, usd)
    rows = {row.cell: row for row in plan.make(loaded, LARGE)}
    assert not rows[own[0].id].paid
    estimated = rows[own[3].id]
    assert estimated.estimate_usd == pytest.approx(0.2)
    assert estimated.usd_basis == "mean of 2 runs of the task by this agent"
    text = plan.render(rows.values())
    assert "16 cells: 3 sealed (recalled, no new run), 13 would run" in text
    assert "13 would be paid (live): about 1.00 USD, and 8 more of unknown cost." in text
    assert "paid: about 0.20 USD (mean of 2 runs of the task by this agent)" in text


def test_costs_are_bounded_where_every_paid_run_has_a_limit(load):
    free = {"model": "scripted", "model_id": "claude-haiku-4-5-20251001", "version": "2.1.330"}
    agents = {"claude": {"model": "live", **LIMITED}, "free": free}
    sweep = {"agents": ["claude", "free"]}
    loaded = load(agents=agents, sweep=sweep)
    seal(loaded, loaded.cells()[0], 100.0, usd=0.01)
    rows = plan.make(loaded, LARGE)
    assert sum(row.paid for row in rows) == 7
    text = plan.render(rows)
    assert "7 would be paid (live): at most 1.75 USD by agent.max_cost_usd (" in text
    assert text.splitlines()[-1].endswith(" 8 cost nothing (scripted or replay).")
    assert text.splitlines()[1].endswith("paid: at most 0.25 USD")
    # One without a limit leaves the sum without a bound.
    agents["free"] = free | {"model": "live"}
    text = plan.render(plan.make(load(agents=agents, sweep=sweep), LARGE))
    assert "15 would be paid (live): about 0.07 USD, and 8 more of unknown cost." in text


def test_what_cannot_or_must_not_run_is_not_paid(load):
    live = {"claude": {"model": "live"}}
    small = Machine(memory_bytes=2**30, cpus=2)
    rows = plan.make(load(agents=live), small)
    assert {row.state for row in rows if not row.paid} == {plan.MISFIT}
    assert not any(
        row.paid for row in plan.make(load(agents=live, agent={"on_miss": "fail"}), LARGE)
    )


@pytest.mark.parametrize(
    ("usd", "text"), [(12.5, "12.50 USD"), (0.1, "0.10 USD"), (0.00423, "0.0042 USD")]
)
def test_money_is_readable(usd, text):
    assert plan.dollars(usd) == text


def test_main_prints_json_for_programs(load, capsys):
    plan.main(load(), as_json=True)
    rows = json.loads(out(capsys))
    assert len(rows) == 8
    assert rows[0].keys() == {
        *("cell", "state", "mode", "estimate_s", "basis", "reason"),
        *("paid", "max_usd", "estimate_usd", "usd_basis"),
    }
    assert (rows[0]["mode"], rows[0]["paid"]) == ("scripted", False)
    plan.main(load(agents={"claude": {"model": "live", **LIMITED}}), as_json=True)
    (paid,) = {(row["mode"], row["paid"], row["max_usd"]) for row in json.loads(out(capsys))}
    assert paid == ("live", True, 0.25)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (99, "99 s"), (100, "2 min"), (12000, "3 h 20 min")]
)
def test_duration_is_readable(seconds, text):
    assert plan.duration(seconds) == text


def test_runs_that_did_not_complete_are_in_no_estimate(load):
    loaded = load()
    cells = {(c.memory, c.cpus, c.replicate): c for c in loaded.cells()}
    here, other = cells["512MiB", "0.5", 1], cells["512MiB", "2", 0]
    seal(loaded, cells["512MiB", "0.5", 0], 10.0, outcome="oom_agent")
    rows = {row.cell: row for row in plan.make(loaded, LARGE)}
    assert rows[here.id].estimate_s is None
    assert rows[here.id].basis == "0 of 1 run completed"
    assert "time unknown (0 of 1 run completed)" in plan.render(rows.values())
    seal(loaded, other, 100.0)
    rows = {row.cell: row for row in plan.make(loaded, LARGE)}
    assert rows[here.id].estimate_s == 100.0
    assert rows[here.id].basis == (
        "median of 1 completed of 2 runs of the task under other limits; 0 of 1 run completed "
        "under these"
    )


def test_what_a_failed_live_run_cost_is_in_no_estimate(load):
    agents = {"claude": {"model_id": "claude-haiku-4-5-20251001", "version": "2.1.330"}}
    taken = plan._Archive.__new__(plan._Archive)
    taken._usd = {("fix", "claude"): [1.0, None]}
    cell = next(iter(load(agents=agents).cells()))
    assert taken.cost(cell) == (1.0, "mean of 1 completed of 2 runs of the task by this agent")


def test_a_run_whose_image_nobody_has_locked_says_so(load):
    """Its job would fail at once, after others have begun."""
    said = "its image is not in the lock file: run `snakemake --cores 1 lock`"
    assert said not in plan.render(plan.make(load(), LARGE))
    Path("config/images.lock.yaml").write_text("images: {}\n", encoding="utf-8")
    rows = plan.make(load(), LARGE)
    assert {row.reason for row in rows} == {said}
    assert plan.render(rows).count(f", {said}") == len(rows)
