"""The command line: right, wrong and missing arguments, and what a person gets to read."""

import fcntl
import importlib
import io
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import run_maker
import small_sweep
import yaml

from agentsweep.cli import configuration, images, main, progress
from agentsweep.config.load import load as load_config
from agentsweep.errors import InfraError
from agentsweep.runs import run_cell, store
from agentsweep.units import parse_size

CELL = "task~fix/agent~claude/mem~512MiB_cpus~0.5_rep~0"
NO_FILE = "there is no such file"


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    """The small sweep as the project's directory."""
    small_sweep.write(tmp_path)
    (tmp_path / "config.yaml").rename(tmp_path / "config" / "config.yaml")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(capsys):
    """Calls the command: exit code, standard output, standard error."""

    def call(*arguments) -> tuple[int, str, str]:
        try:
            code = main.main([str(argument) for argument in arguments])
        except SystemExit as stop:
            code = stop.code
        said = capsys.readouterr()
        return code, said.out, said.err

    return call


@pytest.fixture
def refused(run):
    """Asserts that a call is refused in one sentence; returns it."""

    def call(*arguments, code: int = 1) -> str:
        got, _, error = run(*arguments)
        assert got == code
        assert error.startswith("agentsweep") and error.count("\n") == 1, error
        assert "Traceback" not in error
        return error

    return call


def put(root: Path, cell_id: str = CELL, state: str = "sealed", result="made"):
    """An attempt in the store; `result` is the text of its result.json, None for none."""
    loaded = load_config([Path("config/config.yaml")])
    cell = loaded.cell(cell_id)
    spec = loaded.spec(cell)
    key, where = store.spec_sha256(spec), store.Store(root)
    if result == "made":
        made = run_maker.result() | {"spec": json.loads(spec), "outcome": "completed"}
        result = json.dumps(made | {"names": {"task": cell.task, "agent": cell.agent}})
    with where.locked(key, spec):
        attempt = where.begin(key)
        for name in run_cell.PUBLISHED:
            (attempt.path / name).write_bytes(b"x" * 2048)
        (attempt.path / "result.json").unlink()
        if result is not None:
            (attempt.path / "result.json").write_text(result, encoding="utf-8")
        return attempt if state == "partial" else where.finish(attempt, state)


def image_record(**more) -> dict:
    numbers = {"size_bytes": 1, "uid": 1000, "gid": 1000, "pull_s": 0, "fix_s": 0}
    names = {"reference": "r", "config_digest": "c", "tag": "t", "id": "i", "workdir": "/testbed"}
    return {**numbers, **names, "digest": small_sweep.DIGEST, "history": None, **more}


# Arguments


@pytest.mark.parametrize(
    "words",
    [
        *((), ("nonsense",), ("run",), ("trace",), ("extract", "x"), ("store",)),
        *(("store", "show"), ("store", "remove"), ("dataset",), ("image-fix",)),
        ("plan", "--nonsense"),
    ],
)
def test_missing_and_unknown_arguments_show_the_usage(run, words):
    code, _, error = run(*words)
    assert code == 2
    assert error.startswith("usage: agentsweep") and "Traceback" not in error


def test_every_command_has_help(run):
    code, out, _ = run("--help")
    assert code == 0
    listed = re.findall(r"^    ([a-z-]+)(?: |$)", out, re.MULTILINE)
    assert listed == [command.name for command in main.COMMANDS]
    for command in main.COMMANDS:
        code, own, _ = run(command.name, "--help")
        assert code == 0 and own.startswith(f"usage: agentsweep {command.name} [-h]")


def test_the_table_of_commands_and_their_modules_agree():
    found = {}
    for command in main.COMMANDS:
        module = importlib.import_module(f"agentsweep.cli.{command.module}")
        found.setdefault(command.module, set()).add(command.name)
        assert found[command.module] <= module.ADD.keys()
        # What is named gets arguments and a handler of its own.
        parser = main.parser_for([command.name])
        assert "--help" in parser.format_help() and command.help.split()[0] in parser.format_help()
    for name, commands in found.items():
        assert importlib.import_module(f"agentsweep.cli.{name}").ADD.keys() == commands


def test_help_loads_no_command():
    code = (
        "import sys; from agentsweep.cli.main import parser_for; parser_for([]).format_help();"
        "print(sorted(m for m in sys.modules if m.startswith('agentsweep.')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    names = {"cli", "cli.main", "cli.progress", "errors", "utf8"}
    assert done.stdout == f"{sorted(f'agentsweep.{name}' for name in names)}\n"


# Configuration


def test_a_missing_configuration_says_where_to_start(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in ("plan", "doctor", "lock"):
        assert "start agentsweep in the project's directory" in refused(command)
    assert NO_FILE in refused("plan", "--config", "nope.yaml")


def test_a_configuration_that_is_too_long_for_an_argument_comes_on_standard_input(
    run, refused, sweep, monkeypatch
):
    config = yaml.safe_load(small_sweep.CONFIG)
    config["agent"] = config.get("agent", {}) | {"extra_args": ["x" * 2**17]}
    monkeypatch.setattr("sys.stdin", io.StringIO(json.dumps(config)))
    code, out, error = run("plan", "--config", "-")
    assert (code, error) == (0, "")
    assert "8 cells" in out
    monkeypatch.setattr("sys.stdin", io.StringIO("a: b"))
    assert "--config: not JSON" in refused("plan", "--config", "-")
    monkeypatch.setattr("sys.stdin", io.StringIO("[1]"))
    assert "--config: not a mapping" in refused("plan", "--config", "-")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--config", "{broken"), "--config: not JSON"),
        (("--config", "config/config.yaml", "--config", '{"partial": true}'), "JSON stands alone"),
        (("--config", "/"), "cannot be read"),
        (("--config", "bad.yaml"), "not YAML"),
        (("--config", "uid0.yaml"), "container.uid: 0 is not allowed"),
    ],
)
def test_a_broken_configuration_is_one_sentence(refused, sweep, arguments, said):
    (sweep / "bad.yaml").write_text("a: [\n", encoding="utf-8")
    (sweep / "uid0.yaml").write_text(small_sweep.CONFIG + "container: {uid: 0}\n", encoding="utf-8")
    assert said in refused("plan", *arguments)


def test_the_plan_lists_the_cells(run, sweep):
    code, out, _ = run("plan")
    assert code == 0
    assert out.splitlines()[0] == f"{CELL}  would run, time unknown (no sealed run of the task)"
    rows = json.loads(run("plan", "--json")[1])
    assert len(rows) == 8 and rows[0]["cell"] == CELL


# run


def test_run_needs_a_cell_of_the_sweep(refused, sweep):
    assert "`agentsweep plan` lists them" in refused("run", "nonsense")
    assert "start the workflow again" in refused("run", CELL, "--spec", "{}")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "is missing: run `snakemake --cores 1 images`"),
        ("{", "is damaged (not JSON)"),
        ("[]", "no complete record"),
        ("{}", "no complete record"),
        (json.dumps(image_record(digest="sha256:other")), "the record of sha256:other"),
    ],
)
def test_run_refuses_an_image_record_that_is_none(refused, sweep, text, said):
    if text is not None:
        (sweep / "image.json").write_text(text, encoding="utf-8")
    error = refused("run", CELL, "--image", "image.json")
    assert said in error and "image.json" in error and "snakemake --cores 1 images" in error
    assert not (sweep / "store").exists()


def test_run_refuses_an_image_that_is_not_locked(refused, sweep):
    (sweep / "config" / "images.lock.yaml").write_text("images: {}\n", encoding="utf-8")
    error = refused("run", CELL)
    assert "config/images.lock.yaml: oci-archive:images/fix.tar is not in it" in error
    assert "`snakemake --cores 1 lock`" in error


def test_run_finds_the_image_and_the_place_of_its_files_by_itself(run, sweep, monkeypatch):
    loaded = load_config([Path("config/config.yaml")])
    folder = sweep / "results" / "images" / loaded.image_of("fix").directory
    folder.mkdir(parents=True)
    (folder / "image.json").write_text(json.dumps(image_record()), encoding="utf-8")
    seen = {}

    def measure(job, spec, image, out, say):
        say("step one")
        seen.update(job=job, spec=spec, image=image, out=out)

    monkeypatch.setattr(run_cell, "run_cell", measure)
    code, out, _ = run("run", CELL)
    assert (code, out) == (0, f"step one\nits files are in results/runs/{CELL}\n")
    assert seen["spec"] == loaded.spec(loaded.cell(CELL))
    assert seen["image"] == image_record() and seen["out"] == Path(f"results/runs/{CELL}")


def test_a_sealed_cell_is_recalled_without_engine_agent_or_image(run, sweep, monkeypatch):
    put(sweep / "store")
    monkeypatch.setenv("PATH", "")
    code, out, _ = run("run", CELL)
    assert code == 0 and "recalled sealed attempt" in out
    assert (sweep / "results" / "runs" / CELL / "result.json").exists()


def test_an_archive_without_the_cell_is_said_before_an_image_is_asked_for(refused, sweep):
    with (sweep / "config" / "config.yaml").open("a", encoding="utf-8") as handle:
        handle.write("agent: {on_miss: fail}\n")
    assert "no sealed run" in refused("run", CELL)


def test_a_damaged_result_in_the_store_is_not_taken_for_data(refused, sweep):
    put(sweep / "store", result="{")
    assert "result.json is damaged" in refused("run", CELL)


def test_without_an_engine_run_says_how_to_get_one(refused, sweep, monkeypatch):
    (sweep / "image.json").write_text(json.dumps(image_record()), encoding="utf-8")
    monkeypatch.setenv("PATH", "")
    error = refused("run", CELL, "--image", "image.json")
    assert "podman or docker is not on PATH" in error and "`make system`" in error


def test_a_store_that_cannot_be_written_is_one_sentence(refused, sweep):
    (sweep / "image.json").write_text(json.dumps(image_record()), encoding="utf-8")
    (sweep / "store").write_text("a file where the store should be\n", encoding="utf-8")
    for command in (("run", CELL, "--image", "image.json"), ("plan",)):
        assert "store" in refused(*command)


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_the_last_step_shows_its_seconds(monkeypatch):
    monkeypatch.setattr(main.sys, "stdout", screen := Terminal())
    monkeypatch.setattr(progress, "_TICK_S", 0.01)
    with progress.progress() as say:
        say("creating the container")
        deadline = time.monotonic() + 10
        while "  0 s" not in screen.getvalue() and time.monotonic() < deadline:
            time.sleep(0.005)
    shown = screen.getvalue()
    assert "creating the container\n" in shown and "  0 s" in shown
    assert shown.endswith("\r\033[K")


def test_a_log_gets_plain_lines(capsys):
    with progress.progress() as say:
        say("creating the container")
    assert capsys.readouterr().out == "creating the container\n"


# trace, extract, dataset


def test_trace_sums_up_a_damaged_file_and_refuses_what_is_none(run, refused, tmp_path):
    folder = run_maker.make_run(tmp_path / "run")
    whole = (folder / "trace.jsonl").read_bytes()
    torn = tmp_path / "torn.jsonl"
    torn.write_bytes(whole[:-40])
    code, out, error = run("trace", torn)
    assert (code, error) == (0, "")
    assert json.loads(out)["lines"]["unusable"] == 1
    for other in ("result.json", "nope.jsonl", "."):
        refused("trace", folder / other, code=2)
    (tmp_path / "empty.jsonl").touch()
    assert "empty" in refused("trace", tmp_path / "empty.jsonl", code=2)


def test_extract_and_dataset_say_what_they_wrote(run, refused, tmp_path):
    folder, out = run_maker.make_run(tmp_path / "run"), tmp_path / "tables"
    code, said, _ = run("extract", folder, "--run-id", "r", "--out", out)
    assert code == 0 and said.startswith(f"{out}: ") and "1 runs" in said
    (tmp_path / "list").write_text(f"{out}\n", encoding="utf-8")
    code, said, _ = run("dataset", "--list", tmp_path / "list", "--out", tmp_path / "dataset")
    assert code == 0 and "1 runs" in said
    nowhere = ("--run-id", "r", "--out", tmp_path / "t2")
    assert "no directory" in refused("extract", tmp_path / "nope", *nowhere)
    assert not (tmp_path / "t2").exists()
    taken = refused("extract", folder, "--run-id", "r", "--out", tmp_path / "list")
    assert str(tmp_path / "list") in taken
    assert NO_FILE in refused("dataset", "--list", tmp_path / "none", "--out", tmp_path / "d")


# images


def test_image_commands_refuse_what_is_no_record(refused, tmp_path):
    fix = ("--workdir", "/w", "--uid", 1000, "--gid", 1000, "--tag", "t", "--out", tmp_path / "o")
    assert "is missing" in refused("image-fix", "--pulled", tmp_path / "none", *fix)
    (tmp_path / "pulled.json").write_text("{}", encoding="utf-8")
    said = refused("image-fix", "--pulled", tmp_path / "pulled.json", *fix)
    assert "no complete record" in said


def test_image_pull_of_an_unlocked_image_names_the_cure(refused, tmp_path, monkeypatch):
    monkeypatch.setattr(images, "_find_engine", lambda _: None)
    digests = ("--digest", "unlocked", "--config-digest", "unlocked")
    said = refused("image-pull", "--reference", "docker://x/y", *digests, "--out", tmp_path / "o")
    assert "`snakemake --cores 1 lock`" in said


# store


def test_the_store_is_a_table_for_people_and_tabs_for_programs(run, sweep, monkeypatch):
    attempt = put(sweep / "store")
    put(sweep / "store", CELL.replace("rep~0", "rep~1"), state="failed", result=None)
    code, out, _ = run("store", "list")
    head, *lines = [line.split("\t") for line in out.splitlines()]
    rows = {line[0]: dict(zip(head, line, strict=True)) for line in lines}
    row = rows[attempt.id]
    assert code == 0 and len(rows) == 2
    assert (row["state"], row["outcome"], row["task"]) == ("sealed", "completed", "fix")
    assert parse_size(row["memory"]) == 512 * 2**20 and row["cpus"] == "0.5"
    assert int(row["size_bytes"]) > 6 * 2048
    assert {line["state"] for line in rows.values()} == {"sealed", "failed"}

    screen = Terminal()
    with monkeypatch.context() as patch:
        patch.setattr(main.sys, "stdout", screen)
        main.main(["store", "list"])
    shown = screen.getvalue().splitlines()
    assert len({line.index("512MiB") for line in shown if "512MiB" in line}) == 1
    assert shown[-1].startswith("2 attempts, ") and shown[-1].endswith("KiB")


@pytest.mark.parametrize("text", ["{", "[]", '"x"', '{"names": null, "spec": 3}', "\x00"])
def test_a_damaged_result_is_listed_and_shown_as_such(run, sweep, text):
    attempt = put(sweep / "store", result=text)
    code, out, _ = run("store", "list")
    assert code == 0 and f"{attempt.id}\tsealed\t-\t-\t-\t512MiB" in out
    code, out, _ = run("store", "show", attempt.id)
    assert code == 0 and "result.json is damaged" in out


@pytest.mark.slow
def test_show_is_short_however_large_the_attempt(run, sweep):
    attempt = put(sweep / "store")
    result = json.loads((attempt.path / "result.json").read_text(encoding="utf-8"))
    result["outcome_detail"] = "much " * 10**6
    (attempt.path / "result.json").write_text(json.dumps(result), encoding="utf-8")
    (attempt.path / "session" / "projects").mkdir(parents=True)
    for number in range(300):
        (attempt.path / "session" / "projects" / f"{number}.jsonl").write_text(
            "x" * 100, encoding="utf-8"
        )
    _, out, _ = run("store", "show", attempt.id[:12])
    assert len(out) < 3000
    for what in (attempt.id, "completed", "watermark", "512.0 MiB", "session/ 29.3 KiB"):
        assert what in out
    _, whole, _ = run("store", "show", attempt.id, "--json")
    assert json.loads(whole) == result


def test_show_says_why_an_attempt_failed(run, sweep):
    attempt = put(sweep / "store", state="failed", result=None)
    (attempt.path / "error.txt").write_text("InfraError: the engine hangs\n", encoding="utf-8")
    _, out, _ = run("store", "show", attempt.id)
    assert "the engine hangs" in out and "none was written" in out
    assert run("store", "show", attempt.id, "--json")[0] == 1


def test_remove_deletes_what_is_named_and_nothing_else(run, refused, sweep):
    sealed = put(sweep / "store")
    failed = put(sweep / "store", state="failed", result=None)
    assert "add --yes" in refused("store", "remove", sealed.id)
    # One that may not go, and none goes.
    refused("store", "remove", failed.id, sealed.id)
    assert sealed.path.is_dir() and failed.path.is_dir()
    code, out, _ = run("store", "remove", failed.id, failed.id)
    assert (code, out) == (0, f"removed {failed.id} (failed)\n")
    assert sealed.path.is_dir() and not failed.path.exists()
    assert run("store", "remove", "--yes", sealed.id)[0] == 0 and not sealed.path.exists()


def test_remove_leaves_an_attempt_whose_run_is_alive(run, refused, sweep):
    attempt = put(sweep / "store", state="partial", result=None)
    holder = os.open(attempt.path.parent / "lock", os.O_RDWR)
    fcntl.flock(holder, fcntl.LOCK_EX)
    assert "is being written" in refused("store", "remove", "--yes", attempt.id)
    os.close(holder)
    assert run("store", "remove", attempt.id)[0] == 0 and not attempt.path.exists()


@pytest.mark.parametrize("name", ["abc", "ffffffffffff", "zz/../x", "ffffffffffff-1"])
def test_store_names_that_match_nothing(refused, sweep, name):
    put(sweep / "store")
    assert name in refused("store", "show", name)
    assert name in refused("store", "remove", "--yes", name)


def test_the_store_is_named_on_either_side_of_the_action(run, refused, sweep):
    put(sweep / "archive")
    before = run("store", "--store", "archive", "list")
    assert before[0] == 0 and before == run("store", "list", "--store", "archive")
    assert "no such directory" in refused("store", "list")
    (sweep / "store").write_text("no store\n", encoding="utf-8")
    assert "no such directory" in refused("store", "list")


# Whatever else


def test_an_interrupt_ends_without_a_traceback(run, sweep, monkeypatch):
    def stop(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(configuration, "load", stop)
    assert run("plan") == (130, "", "agentsweep: interrupted\n")


def test_errors_of_the_library_give_their_sentence(refused, sweep, monkeypatch):
    def fail(_):
        raise InfraError("the engine hangs: see `podman ps`")

    monkeypatch.setattr(configuration, "load", fail)
    assert refused("plan") == "agentsweep: the engine hangs: see `podman ps`\n"
