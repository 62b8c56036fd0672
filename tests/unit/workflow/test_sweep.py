"""What the rules look up: which cells are taken on, refused or left out, and why."""

import io
import json
import re
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import small_sweep
import yaml

from agentsweep.errors import ConfigError, InfraError
from agentsweep.gateway import credentials
from agentsweep.host.capacity import Machine
from agentsweep.runs.live_run_count import VARIABLE, Ledger
from agentsweep.workflow.sweep import SECRETS, UNMATCHABLE, Sweep, shell_prefix

SMALL = Machine(memory_bytes=10**9, cpus=1)


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """Makes the small sweep (512MiB and 1GiB, 0.5 and 2 CPUs, 2 replicates), with overrides."""
    small_sweep.write(tmp_path)
    monkeypatch.chdir(tmp_path)

    def made(machine=SMALL, announce=True, **overrides):
        merged = yaml.safe_load(small_sweep.CONFIG)
        for section, values in overrides.items():
            both = isinstance(values, dict)
            merged[section] = merged.get(section, {}) | values if both else values
        stream = io.StringIO()
        result = Sweep(merged, ["config.yaml"], announce, machine, stream)
        result.said = stream.getvalue()
        return result

    return made


LIVE = {"claude": {"model": "live", "model_id": "claude-haiku-4-5-20251001",
                   "version": "2.1.330", "credential": "env:SWEEP_KEY"}}  # fmt: skip


def seal(made, cell):
    (made.config.store().root / made.config.spec_sha256(cell) / "attempt-1").mkdir(parents=True)


def publish(cell, content: str):
    folder = Path("results/runs") / cell.id
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(content, encoding="utf-8")


def test_misfits_are_left_out_with_a_line_each(sweep):
    made = sweep(sweep={"skip_unfit": True})
    assert {(cell.memory, cell.cpus) for cell in made.cells} == {("512MiB", "0.5")}
    lines = made.said.splitlines()
    assert len(lines) == 6
    assert all(line.startswith("agentsweep: left out: task~fix/") for line in lines)
    assert sum("needs 2 cores, and this machine has 1" in line for line in lines) == 2
    assert sum("needs 1GiB + 256MiB = 1343 MB" in line for line in lines) == 4


def test_misfits_stay_unless_they_are_to_be_skipped(sweep):
    made = sweep()
    assert len(made.cells) == 8
    assert made.said == ""


def test_process_of_a_job_leaves_nothing_out_and_says_nothing(sweep):
    made = sweep(sweep={"skip_unfit": True}, announce=False)
    assert len(made.cells) == 8
    assert made.said == ""


def test_on_other_machines_than_this_one_nothing_is_left_out(sweep):
    made = sweep(sweep={"skip_unfit": True}, machine=None)
    assert len(made.cells) == 8
    assert made.said == ""


def test_misfits_that_have_their_run_stay(sweep):
    """An archive of large runs gives its figures on a small machine."""
    first = sweep()
    large = [cell for cell in first.cells if cell.memory == "1GiB"]
    seal(first, large[0])
    publish(large[1], json.dumps({"spec_sha256": first.config.spec_sha256(large[1])}))
    made = sweep(sweep={"skip_unfit": True})
    assert [cell for cell in made.cells if cell.memory == "1GiB"] == large[:2]
    assert made.refusal(large[0], cores=1, mem_mb=100) is None
    assert made.refusal(large[1], cores=1, mem_mb=100) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"spec_sha256": "other"}', "{"])
def test_result_of_another_spec_or_a_damaged_one_is_no_run(sweep, content):
    made = sweep()
    publish(made.cells[0], content)
    assert not made.has_run(made.cells[0])


def test_cell_that_gets_less_than_it_needs_is_refused_by_name(sweep):
    made = sweep()
    cell = next(cell for cell in made.cells if (cell.memory, cell.cpus) == ("1GiB", "2"))
    assert made.refusal(cell, cores=2, mem_mb=1343) is None
    assert made.refusal(cell, cores=1, mem_mb=1343) == (
        f"{cell.id} needs 2 cores and Snakemake gives 1 (--cores): give more, or leave it out "
        "with sweep.skip_unfit: true"
    )
    both = made.refusal(cell, cores=1, mem_mb=1342)
    assert "needs 2 cores and" in both
    assert "needs 1343 MB and Snakemake gives 1342" in both
    assert made.refusal(cell, cores=2, mem_mb=None) is None


def test_partial_wants_the_cells_that_have_their_run(sweep):
    made = sweep(partial=True)
    assert made.wanted() == []
    seal(made, made.cells[3])
    assert made.wanted() == [made.cells[3]]
    assert sweep().wanted() == made.cells


def test_what_would_be_paid_is_said_in_one_line(sweep):
    made = sweep(agents=LIVE)
    assert made.said == "agentsweep: 8 live runs would be paid, 0 are in the store\n"
    for cell in made.cells[:7]:
        seal(made, cell)
    assert sweep(agents=LIVE).said == ("agentsweep: 1 live run would be paid, 7 are in the store\n")
    assert sweep(agents=LIVE, agent={"on_miss": "fail"}).said == (
        "agentsweep: 0 live runs would be paid, 7 are in the store\n"
    )
    assert sweep(agents=LIVE, announce=False).said == ""
    assert sweep().said == ""
    assert sweep(agents=LIVE, sweep={"tasks": []}).said == ""


def test_what_will_be_refused_is_said_in_the_same_line(sweep, monkeypatch):
    monkeypatch.setenv(VARIABLE, "this-one")
    said = sweep(agents=LIVE, agent={"max_live_runs": 3}).said
    assert said == (
        "agentsweep: 8 live runs would be paid, 0 are in the store; agent.max_live_runs leaves 3, "
        "and the other 5 will be refused\n"
    )
    assert "refused" not in sweep(agents=LIVE, agent={"max_live_runs": 8}).said
    # An invocation that several share may have used some up.
    Ledger(Path("store")).start(None, {"cell": "a"})
    assert "leaves 7, and the other 1 will" in sweep(agents=LIVE, agent={"max_live_runs": 8}).said
    assert "leaves 0, and the other 8 will" in sweep(agents=LIVE, agent={"max_live_runs": 0}).said


def test_a_key_is_asked_for_where_a_run_would_be_paid(sweep, monkeypatch):
    monkeypatch.delenv("SWEEP_KEY", raising=False)
    other = LIVE["claude"] | {"credential": "file:nowhere"}
    agents = LIVE | {"other": other}
    made = sweep(agents=agents, sweep={"agents": ["claude", "other"]})
    with pytest.raises(ConfigError) as refused:
        made.check_credentials(made.cells)
    first, second = refused.value.problems
    assert first.startswith("agents.claude: ") and "SWEEP_KEY is not set" in first
    assert second.startswith("agents.other: ") and f"{Path.cwd()}/nowhere cannot be read" in second
    made.check_credentials([])
    own = [cell for cell in made.cells if cell.agent == "claude"]
    monkeypatch.setenv("SWEEP_KEY", "canary")
    made.check_credentials(own)
    monkeypatch.delenv("SWEEP_KEY")
    for cell in own:
        seal(made, cell)
    made.check_credentials(own)
    scripted = sweep()
    scripted.check_credentials(scripted.cells)


def test_an_image_has_the_base_commit_that_its_tasks_name(sweep, monkeypatch):
    made = sweep()
    (image,) = made.images.values()
    assert made.base_commit(image) is None
    rows = {"a": SimpleNamespace(base_commit="1"), "b": SimpleNamespace(base_commit="1"), "c": None}
    monkeypatch.setattr(made.config, "image_of", lambda task: image if task in rows else None)
    monkeypatch.setattr(made.config, "task", lambda task: SimpleNamespace(row=rows[task]))
    for tasks, commit in ((["a", "b", "d"], "1"), (["c", "a"], "1"), (["c"], None)):
        monkeypatch.setattr(made.config, "task_names", lambda tasks=tasks: tasks)
        assert made.base_commit(image) == commit


def test_cell_of_wildcards(sweep):
    made = sweep()
    for cell in made.cells:
        wildcards = SimpleNamespace(**{**vars(cell), "replicate": str(cell.replicate)})
        assert made.cell(wildcards) == cell


def test_pattern_matches_the_sweeps_values_and_no_other(sweep):
    made = sweep()
    pattern = re.sub(r"\{(\w+),([^{}]*)\}", r"(?P<\1>\2)", made.cell_pattern())
    assert all(re.fullmatch(pattern, cell.id) for cell in made.cells)
    one = made.cells[0].id
    assert "cpus~0.5" in one
    for wrong in ("cpus~0x5", "cpus~1", "cpus~0.50"):
        assert not re.fullmatch(pattern, one.replace("cpus~0.5", wrong))


def test_without_cells_the_pattern_matches_nothing(sweep):
    made = sweep(sweep={"skip_unfit": True}, machine=Machine(memory_bytes=1, cpus=1))
    assert made.cells == []
    assert UNMATCHABLE in made.cell_pattern()
    assert set(made.image_constraints().values()) == {UNMATCHABLE}


def test_a_failure_before_a_pipe_fails_the_command():
    prefix = shell_prefix(Path("/src"), Path("/env/bin/python"), False)
    assert subprocess.run(["bash", "-c", prefix + "false | cat"], check=False).returncode == 1


def test_only_a_run_and_the_doctor_see_the_key(tmp_path):
    for name in ("agentsweep", "python"):
        (tmp_path / name).write_text("#!/bin/sh\necho ${KEY-}${OTHER-}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    prefix = shell_prefix(Path("/src"), tmp_path / "python", False)
    seen = {}
    for command in ("agentsweep run x", "agentsweep doctor", "agentsweep extract x", "python x"):
        done = subprocess.run(
            ["bash", "-c", prefix + command],
            env={"PATH": "/usr/bin:/bin", "KEY": "secret", "OTHER": "!", SECRETS: "KEY UNSET"},
            capture_output=True, text=True, check=True, encoding="utf-8",
        )  # fmt: skip
        seen[command] = done.stdout.strip()
    assert list(seen.values()) == ["secret!", "secret!", "!", "!"]


def test_the_variables_that_may_hold_a_key(sweep):
    made = sweep()
    assert made.secret_variables() == list(credentials.VARIABLES)
    live = {"claude": LIVE["claude"] | {"credential": "env:PAID_KEY"}}
    made = sweep(agents=live)
    assert made.secret_variables() == [*credentials.VARIABLES, "PAID_KEY"]
    references = ["env:MY_KEY", None, "none", "file:/key", "env:A B", "env:MY_KEY"]
    assert credentials.variables(references) == [*credentials.VARIABLES, "MY_KEY"]


def test_commands_find_this_clones_modules_before_any_other():
    prefix = shell_prefix(Path("/clone with space/src"), Path("/env/bin/python"), False)
    done = subprocess.run(
        ["bash", "-c", prefix + "echo $PYTHONPATH; echo $PATH"],
        env={"PATH": "/usr/bin:/bin", "PYTHONPATH": "/other"},
        capture_output=True, text=True, check=True, encoding="utf-8",
    )  # fmt: skip
    assert done.stdout.splitlines() == ["/clone with space/src:/other", "/env/bin:/usr/bin:/bin"]
    # Without one of its own, and none of the working directory is added.
    done = subprocess.run(
        ["bash", "-c", prefix + "echo $PYTHONPATH"],
        env={"PATH": "/usr/bin:/bin"},
        capture_output=True, text=True, check=True, encoding="utf-8",
    )  # fmt: skip
    assert done.stdout == "/clone with space/src\n"
    behind = shell_prefix(Path("/src"), Path("/env/bin/python"), prefer_path=True)
    assert "PATH=$PATH:/env/bin; " in behind


# The host, before anything is pulled


@pytest.fixture
def asked(monkeypatch):
    """The configurations whose limits were tried on this host."""
    from agentsweep.cli.checks import limits

    seen = []
    monkeypatch.setattr(limits, "check_limits", seen.append)
    return seen


def test_the_host_is_asked_where_anything_is_to_be_run_and_else_not(sweep, asked):
    made = sweep()
    made.check_host([])
    seal(made, made.cells[0])
    made.check_host(made.cells[:1])
    archive = sweep(agent={"on_miss": "fail"})
    archive.check_host(archive.cells)
    assert asked == []
    made.check_host(made.cells)
    assert asked == [made.config]


def test_a_host_without_limits_is_refused(sweep, monkeypatch):
    """Stand-in: an engine that says of itself that it would ignore them; others drop them."""
    from agentsweep.cli.checks import limits

    info = {"rootless": True, "cgroup_version": 1, "name": "podman"}
    engine = SimpleNamespace(info=lambda: info)
    monkeypatch.setattr(limits.engines, "find_engine", lambda *_: engine)
    made = sweep()
    with pytest.raises(InfraError, match="silently ignores --memory"):
        made.check_host(made.cells)


@pytest.mark.parametrize(
    "effective",
    [
        {"memory_bytes": None, "swap_bytes": 0, "cpus": 0.2},
        {"memory_bytes": 2 * 64 * 2**20, "swap_bytes": 0, "cpus": 0.2},
        {"memory_bytes": 64 * 2**20, "swap_bytes": 0, "cpus": None},
        {"memory_bytes": 64 * 2**20, "swap_bytes": 2**20, "cpus": 0.2},
    ],
)
def test_an_engine_that_drops_a_limit_is_refused_beforehand(sweep, monkeypatch, effective):
    import contextlib

    from agentsweep.cli.checks import limits

    removed = []
    engine = SimpleNamespace(
        info=lambda: {"rootless": False, "cgroup_version": 2, "name": "podman"},
        bare=contextlib.nullcontext,
        create=lambda spec: "c1",
        start=lambda container, name: SimpleNamespace(pid=1),
        remove=removed.append,
    )
    monkeypatch.setattr(limits.engines, "find_engine", lambda *_: engine)
    reader = SimpleNamespace(effective_limits=lambda: effective)
    monkeypatch.setattr(limits, "reader_for_pid", lambda _: reader)
    made = sweep()
    with pytest.raises(InfraError, match="does not enforce limits"):
        made.check_host(made.cells)
    assert len(removed) == 1
    effective.update(memory_bytes=64 * 2**20, swap_bytes=0, cpus=0.2)
    made.check_host(made.cells)


def test_gradings_that_do_not_fit_are_said_beforehand_with_the_cure(sweep, asked):
    made = sweep(grading={"memory": "900GiB"})
    said = io.StringIO()
    made.check_host(made.cells, said)
    # No task of this sweep has a row, so that nothing is graded.
    assert said.getvalue() == ""
    made.gradable = ["fix"]
    made.check_host(made.cells, said)
    (line,) = said.getvalue().splitlines()
    assert "the patches of 8 of 8 runs cannot be graded here: a grading needs 966368 MB" in line
    assert "set grading.memory or grading.cpus lower" in line
    fits = sweep(grading={"memory": "16MiB", "cpus": 1})
    fits.gradable = ["fix"]
    fits.check_host(fits.cells, said)
    assert len(said.getvalue().splitlines()) == 1


def test_an_unfinished_sweep_says_how_much_of_it_there_is(sweep):
    made = sweep(partial=True)
    for cell in made.cells[:7]:
        seal(made, cell)
    assert made.coverage() == "7 of 8 cells have a run"
    seal(made, made.cells[7])
    assert made.coverage() is None
    assert sweep(partial=False).coverage() is None
