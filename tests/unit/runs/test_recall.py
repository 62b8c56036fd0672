"""Which sealed run a cell gets, when it is run again, and that plan and workflow agree on it."""

import contextlib
import json
from pathlib import Path

import pytest
import small_sweep
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsweep.cli import plan
from agentsweep.cli.main import main
from agentsweep.config import config
from agentsweep.config.load import load as load_config
from agentsweep.host.capacity import Machine
from agentsweep.runs import recall, run_cell
from agentsweep.runs.spec import agent_part, canonical
from agentsweep.runs.store import Store, spec_sha256
from agentsweep.workflow import sweep

LARGE = Machine(2**40, 64)


@pytest.fixture
def load(tmp_path, monkeypatch):
    """Loads the small sweep, with overrides."""
    small_sweep.write(tmp_path)
    monkeypatch.chdir(tmp_path)

    def loaded(**overrides):
        return load_config([tmp_path / "config.yaml"], overrides)

    return loaded


def seal(loaded, cell, outcome="completed", state="sealed", publish=True):
    """An attempt of a cell, and its files among the results."""
    spec = loaded.spec(cell)
    store = loaded.store()
    with store.locked(spec_sha256(spec), spec):
        attempt = store.begin(spec_sha256(spec))
        for name in run_cell.PUBLISHED:
            (attempt.path / name).touch()
        result = {
            "names": {"task": cell.task, "agent": cell.agent},
            "outcome": outcome,
            "spec": json.loads(spec),
            "spec_sha256": spec_sha256(spec),
            "attempt_id": attempt.id,
            "wall_s": 1.0,
        }
        (attempt.path / "result.json").write_text(json.dumps(result), encoding="utf-8")
        attempt = store.finish(attempt, state)
    if publish:
        run_cell.publish(attempt, Path("results/runs") / cell.id, run_cell.PUBLISHED)
    return attempt


def again(*outcomes, times=2):
    return recall.Repeat(frozenset(outcomes), times)


OUTCOMES = st.sampled_from(["completed", "api_error", "oom_agent", "stalled"])
STATES = st.sampled_from(["sealed", "superseded", "failed", "interrupted"])


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    attempts=st.lists(st.tuples(STATES, OUTCOMES), max_size=6),
    listed=st.frozensets(st.sampled_from(["api_error", "stalled"])),
    times=st.integers(1, 3),
)
def test_the_newest_run_that_counts_is_the_cells(tmp_path_factory, attempts, listed, times):
    store, spec = Store(tmp_path_factory.mktemp("store")), '{"protocol":1}'
    key = spec_sha256(spec)
    with store.locked(key, spec):
        for state, outcome in attempts:
            attempt = store.begin(key)
            (attempt.path / "result.json").write_text(f'{{"outcome": "{outcome}"}}', "utf-8")
            store.finish(attempt, state)
    choice = recall.Recall(store).choose(spec, recall.Repeat(listed, times))
    sealed = [(n, o) for n, (state, o) in enumerate(attempts, 1) if state == "sealed"]
    counting = [n for n, outcome in sealed if outcome not in listed]
    made = [n for n, (state, _) in enumerate(attempts, 1) if state in ("sealed", "superseded")]
    if counting:
        assert choice.attempt.number == counting[-1]
    elif len(sealed) > times:
        assert choice.attempt.number == sealed[-1][0]
    else:
        assert choice.attempt is None
    older = len(made) if choice.attempt is None else made.index(choice.attempt.number)
    assert choice.before == older


@pytest.mark.slow
@given(outcomes=st.lists(OUTCOMES, min_size=1, max_size=8), times=st.integers(1, 3))
@settings(max_examples=40, deadline=None)
def test_repeating_ends_and_leaves_nothing_to_do(tmp_path_factory, outcomes, times):
    """Each start makes one run at most; then Snakemake's parameter is what it was beforehand."""
    store, spec = Store(tmp_path_factory.mktemp("store")), '{"protocol":1}'
    key, repeat, made = spec_sha256(spec), again("api_error", "stalled", times=times), 0
    while (choice := recall.Recall(store).choose(spec, repeat)).attempt is None:
        outcome = outcomes[made % len(outcomes)]
        with store.locked(key, spec):
            attempt = store.begin(key)
            (attempt.path / "result.json").write_text(f'{{"outcome": "{outcome}"}}', "utf-8")
            store.finish(attempt, "sealed")
        made += 1
        after = recall.Recall(store).choose(spec, repeat)
        assert (after.before == choice.before) == (after.attempt is not None)
    assert 1 <= made <= 1 + times
    if made <= times:
        assert json.loads((choice.attempt.path / "result.json").read_text("utf-8"))[
            "outcome"
        ] not in ("api_error", "stalled")


TEXT = st.text(max_size=5)
VALUE = st.one_of(st.none(), st.booleans(), st.integers(), TEXT, st.lists(TEXT, max_size=2))


@pytest.mark.slow
@given(
    rest=st.dictionaries(TEXT.filter(lambda key: key != "task"), VALUE, max_size=4),
    task=st.dictionaries(st.sampled_from(["workdir", "python", "environment_sha256"]), VALUE),
    rows=st.tuples(*[st.text("0123456789abcdef", min_size=64, max_size=64)] * 2),
    commit=TEXT,
)
def test_a_row_is_all_that_two_specs_may_differ_in(rest, task, rows, commit):
    old = [rest | {"task": task | {"row_sha256": row}} for row in rows]
    new = rest | {"task": task | {"base_commit": commit}}
    assert agent_part(old[0]) == agent_part(old[1]) == agent_part(new) is not None
    assert agent_part(rest | {"task": task | {"row_sha256": None}}) is None
    assert agent_part(json.loads(canonical(new))) == agent_part(new)
    other = new | {"task": new["task"] | {"workdir": "another place"}}
    assert agent_part(other) != agent_part(new)


def test_a_listed_outcome_is_run_again_everywhere(load):
    loaded = load()
    bad, good = loaded.cells()[:2]
    seal(loaded, bad, "api_error")
    seal(loaded, good)
    assert [row.state for row in plan.make(load(), LARGE)][:2] == [plan.SEALED] * 2
    repeating = load(agent={"repeat": ["api_error"]})
    rows = plan.make(repeating, LARGE)
    assert [row.state for row in rows][:2] == [plan.RUN, plan.SEALED]
    assert "again: 1 earlier run" in plan.render(rows)
    seen = sweep.Sweep(repeating._data | {"partial": True}, announce=False)
    assert not seen.has_run(bad) and seen.has_run(good)
    assert (repeating.choice(bad).before, repeating.choice(good).before) == (1, 0)
    # An archive gives what it has, and no agent may repeat what another may.
    archive = load(agent={"repeat": ["api_error"], "on_miss": "fail"})
    assert plan.make(archive, LARGE)[0].state == plan.SEALED
    own = load(agents={"claude": {"repeat": ["stalled"]}}, agent={"repeat": ["api_error"]})
    assert plan.make(own, LARGE)[0].state == plan.SEALED
    seal(loaded, bad, "api_error")
    seal(loaded, bad, "api_error")
    assert plan.make(repeating, LARGE)[0].state == plan.SEALED
    assert repeating.choice(bad).attempt.number == 3


def test_repeat_changes_no_spec_and_knows_the_outcomes(load):
    cell = load().cells()[0]
    assert load(agent={"repeat": ["api_error"], "repeat_times": 5}).spec(cell) == load().spec(cell)
    for wrong in ("completed", "no_such"):
        with pytest.raises(config.ConfigError, match=r"agent\.repeat"):
            load(agent={"repeat": [wrong]})


def test_the_runner_makes_what_the_plan_says(load, monkeypatch):
    loaded = load(agent={"repeat": ["api_error"]})
    cell = loaded.cells()[0]
    seal(loaded, cell, "api_error")

    def attempt(store, key, spec, job, image, say):
        return seal(loaded, cell, "completed", publish=False)

    monkeypatch.setattr(run_cell, "_attempt", attempt)
    # `seal` takes the lock that the runner has.
    monkeypatch.setattr(Store, "locked", lambda *_: contextlib.nullcontext())
    job = loaded.job(cell)
    result = run_cell.run_cell(job, loaded.spec(cell), {}, Path("out"))
    assert (result["outcome"], result["attempt_id"][-2:]) == ("completed", "-2")
    result = run_cell.run_cell(job, loaded.spec(cell), {}, Path("out"))
    assert result["attempt_id"].endswith("-2")


def cli(*arguments):
    return main([*arguments, "--config", "config.yaml"])


def test_rerun_sets_one_run_aside(load, capsys):
    loaded = load()
    first, second = loaded.cells()[:2]
    attempt = seal(loaded, first)
    seal(loaded, second)
    assert cli("rerun", first.id) == 0
    said = capsys.readouterr().out
    assert attempt.id in said and "makes a new run" in said
    assert [row.state for row in plan.make(load(), LARGE)][:2] == [plan.RUN, plan.SEALED]
    assert not (Path("results/runs") / first.id / "result.json").exists()
    assert (Path("results/runs") / second.id / "result.json").exists()
    assert load().choice(first) == recall.Choice(None, 1)
    kept = load().store().attempts(attempt.spec_sha256)
    assert [(a.state, (a.path / "result.json").exists()) for a in kept] == [("superseded", True)]
    # A superseded run may have cost money, too.
    assert main(["store", "remove", attempt.id]) == 1
    assert "superseded and may have cost money" in capsys.readouterr().err
    new = seal(loaded, first)
    assert load().choice(first).attempt.number == new.number == 2
    assert load().choice(first).before == 1
    assert main(["store", "remove", attempt.id, "--yes"]) == 0


def test_rerun_refuses_what_it_cannot_do(load, capsys):
    loaded = load()
    cell = loaded.cells()[0]
    assert cli("rerun", cell.id) == 1
    assert "has no sealed run in store" in capsys.readouterr().err
    attempt = seal(loaded, cell)
    assert cli("rerun", cell.id, "--remove") == 1
    assert "add --yes" in capsys.readouterr().err
    with loaded.store().locked(attempt.spec_sha256, ""):
        assert cli("rerun", cell.id) == 1
        assert "is being run" in capsys.readouterr().err
    path = Path("results/runs") / cell.id / "result.json"
    found = json.loads(path.read_text(encoding="utf-8"))
    path.unlink()
    path.write_text(json.dumps(found | {"attempt_id": "0123456789ab-7"}), encoding="utf-8")
    assert cli("rerun", cell.id) == 1
    assert "is not in store" in capsys.readouterr().err
    path.unlink()
    Path("fail.yaml").write_text("agent: {on_miss: fail}\n", encoding="utf-8")
    configs = ("--config", "config.yaml", "--config", "fail.yaml")
    assert main(["rerun", cell.id, *configs]) == 1
    assert "agent.on_miss is `fail`" in capsys.readouterr().err
    assert attempt.path.exists()


def test_rerun_may_delete_with_yes(load):
    loaded = load()
    cell = loaded.cells()[0]
    attempt = seal(loaded, cell)
    assert cli("rerun", cell.id, "--remove", "--yes") == 0
    assert not attempt.path.exists()
    assert load().choice(cell) == recall.Choice(None, 0)
