"""Predictions for SWE-bench: read as its harness reads them, they give the tree the agent left."""

import errno
import json
import os
import subprocess
from pathlib import Path

import export_maker
import pytest
import small_sweep
from work_trees import git, put_store_into, start
from work_trees import patch as take_patch

from agentsweep.cli import main
from agentsweep.errors import AgentsweepError
from agentsweep.exports import swebench

POINT = "agent~claude_mem~512MiB_cpus~0.5_rep~0"


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    return put_store_into(tmp_path, monkeypatch)


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    return export_maker.sweep_in(tmp_path / "sweep", monkeypatch)


@pytest.fixture
def load(sweep):
    return lambda overrides=None: export_maker.load(sweep, overrides)


def harness_predictions(path: Path) -> dict[str, dict]:
    """As swebench 5.0.2 reads them: `get_predictions_from_file`, then one for each instance."""
    with open(str(path), encoding="utf-8") as lines:  # noqa: PTH123 - as there, with the locale's encoding
        predictions = [json.loads(line) for line in lines]
    assert all(isinstance(p, dict) and "instance_id" in p for p in predictions)
    keyed = {p["instance_id"]: p for p in predictions}
    assert len(keyed) == len(predictions)
    return keyed


def export(loaded, out: Path) -> list[str]:
    said: list[str] = []
    swebench.export(loaded, out, said.append)
    return said


@pytest.mark.slow
def test_an_exported_patch_gives_the_tree_that_the_agent_left(load, tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "crlf.txt").write_bytes(b"one\r\ntwo\r\n")
    (tree / "gone.txt").write_text("gone\n", encoding="utf-8")
    (tree / "run.sh").write_text("true\n", encoding="utf-8")
    (tree / "open end").write_text("no line end", encoding="utf-8")
    git("init", "-q", cwd=tree)
    git("config", "core.autocrlf", "false", cwd=tree)
    git("add", "--all", cwd=tree)
    git("commit", "-qm", "start", cwd=tree)
    begin = start(tree)
    (tree / "crlf.txt").write_bytes(b"one\r\n2\r\rx\r\n\x0c\xe2\x80\xa8")
    (tree / "gone.txt").unlink()
    (tree / "run.sh").chmod(0o755)
    (tree / "open end").write_text("still none, \N{SNOWMAN} \N{GRINNING FACE}\t ", encoding="utf-8")
    (tree / "binary").write_bytes(bytes(range(256)) * 4)
    (tree / "ünder").mkdir()
    (tree / "ünder" / "link").symlink_to("../run.sh")
    unread, _ = take_patch(tree, begin, tmp_path)
    assert unread == []
    left = (tmp_path / "patch.diff").read_bytes()
    export_maker.seal(load(), patch=left)
    export(load(), tmp_path / "out")

    prediction = harness_predictions(tmp_path / "out" / f"{POINT}.jsonl")["fix"]
    # As the harness hands it to git.
    received = tmp_path / "received.diff"
    received.write_text(prediction["model_patch"] or "", encoding="utf-8")
    assert received.read_bytes() == left
    copy = tmp_path / "copy"
    git("clone", "-q", str(tree), str(copy), cwd=tmp_path)
    git("apply", "--verbose", str(received), cwd=copy)
    for folder in (tree, copy):
        git("add", "--all", cwd=folder)
    assert git("write-tree", cwd=copy) == git("write-tree", cwd=tree) != begin["start_tree"]


def test_each_point_is_a_file_and_a_name(load, tmp_path):
    loaded = load()
    for cell in loaded.cells():
        export_maker.seal(loaded, cell.id, patch=f"{cell.id}\n".encode())
    said = export(loaded, tmp_path / "out")
    files = sorted((tmp_path / "out").iterdir())
    assert len(files) == len(loaded.cells()) == 8
    assert not any("no finished run" in line for line in said)
    for path in files:
        (prediction,) = harness_predictions(path).values()
        assert set(prediction) == {"instance_id", "model_name_or_path", "model_patch"}
        assert prediction["model_name_or_path"] == path.stem
        assert "/" not in path.stem
        agent, rest = path.stem.split("_", 1)
        assert prediction["model_patch"] == f"task~fix/{agent}/{rest}\n"


def test_the_tasks_of_a_point_are_lines_of_one_file(load, tmp_path):
    second = {"kind": "swe", "instance_id": "o__r-2", "problem_statement": "x",
              "image": small_sweep.REFERENCE, "scenario": "scenario.yaml"}  # fmt: skip
    loaded = load({"tasks": {"other": second}, "sweep": {"tasks": ["fix", "other"]}})
    export_maker.seal(loaded, patch=b"1")
    export_maker.seal(loaded, export_maker.CELL.replace("fix", "other"), patch=b"2")
    export(loaded, tmp_path / "out")
    found = harness_predictions(tmp_path / "out" / f"{POINT}.jsonl")
    assert {name: p["model_patch"] for name, p in found.items()} == {"fix": "1", "o__r-2": "2"}


def test_two_tasks_that_are_one_instance_are_refused(load, tmp_path):
    second = {"kind": "swe", "instance_id": "fix", "problem_statement": "y",
              "image": small_sweep.REFERENCE, "scenario": "scenario.yaml"}  # fmt: skip
    loaded = load({"tasks": {"other": second}, "sweep": {"tasks": ["fix", "other"]}})
    export_maker.seal(loaded, patch=b"1")
    export_maker.seal(loaded, export_maker.CELL.replace("fix", "other"), patch=b"2")
    with pytest.raises(AgentsweepError, match="its instance fix is that of task fix too"):
        export(loaded, tmp_path / "out")


def test_runs_that_say_nothing_are_left_out_and_said(load, tmp_path):
    code = {"kind": "code", "prompt": "x", "image": small_sweep.REFERENCE,
            "scenario": "scenario.yaml"}  # fmt: skip
    loaded = load({"tasks": {"new": code}, "sweep": {"tasks": ["fix", "new"]}})
    cells = {cell.id: cell for cell in loaded.cells()}
    export_maker.seal(loaded, export_maker.CELL.replace("fix", "new"), patch=b"n")
    invalid = export_maker.CELL.replace("rep~0", "rep~1")
    export_maker.seal(loaded, invalid, patch=b"i", outcome="infra_error")
    kept = export_maker.CELL.replace("512MiB", "1GiB")
    export_maker.seal(loaded, kept, outcome="oom_container")
    said = export(loaded, tmp_path / "out")
    (path,) = (tmp_path / "out").iterdir()
    assert harness_predictions(path)["fix"]["model_patch"] == ""
    assert "left out: 1 runs of task new, which is of kind code" in said
    assert f"left out: {invalid}: its outcome 'infra_error' says nothing about the agent" in said
    assert f"{path}: 1 predictions, 1 of them empty" in said
    assert any(f"no finished run: 13 of {len(cells)} cells" in line for line in said)


def test_runs_that_say_nothing_about_the_limit_have_no_prediction(load, tmp_path):
    export_maker.seal(load(), patch=b"x")
    ended = [
        export_maker.CELL.replace("512MiB", "1GiB"),
        export_maker.CELL.replace("rep~0", "rep~1"),
    ]
    export_maker.seal(load(), ended[0], outcome="api_error")
    export_maker.seal(load(), ended[1], outcome="over_budget")
    said = export(load(), tmp_path / "out")
    assert len(list((tmp_path / "out").iterdir())) == 1
    for cell, outcome in zip(ended, ("api_error", "over_budget"), strict=True):
        assert (
            f"left out: 1 of 3 runs with the outcome {outcome}, which says nothing about the limit "
            f"({cell})" in said
        )


def test_a_patch_that_could_not_be_taken_is_empty_and_said(load, tmp_path):
    lost = {"status": "unavailable", "sha256": None, "bytes": 0, "reason": "the image has no git"}
    export_maker.seal(load(), outcome="oom_agent", patch_said=lost)
    said = export(load(), tmp_path / "out")
    assert harness_predictions(tmp_path / "out" / f"{POINT}.jsonl")["fix"]["model_patch"] == ""
    assert any("no patch could be taken (the image has no git)" in line for line in said)


def test_a_patch_that_is_no_utf8_is_an_error_and_the_others_are_written(load, capsys):
    loaded = load()
    export_maker.seal(loaded, patch=b"-caf\xe9\n")
    other = export_maker.CELL.replace("rep~0", "rep~1")
    export_maker.seal(loaded, other, patch=b"fine\n")
    code = main.main(["export", "swebench", "--config", "config.yaml", "--output", "out"])
    error = capsys.readouterr().err
    assert code == 1 and error.count("\n") == 1
    assert f"{export_maker.CELL}: left out: its patch is no UTF-8 (byte 4 of " in error
    assert [path.name for path in Path("out").iterdir()] == [f"{POINT[:-1]}1.jsonl"]


@pytest.mark.parametrize("lost", [True, False])
def test_a_patch_that_is_not_the_sealed_one_is_an_error(load, tmp_path, lost):
    folder = export_maker.seal(load(), patch=b"sealed\n")
    if lost:
        (folder / "patch.diff").unlink()
    else:
        (folder / "patch.diff").write_bytes(b"changed\n")
    with pytest.raises(AgentsweepError, match=r"bring it back from your archive"):
        export(load(), tmp_path / "out")


def test_results_without_their_store_count_where_they_are_of_the_same_spec(load, tmp_path, sweep):
    loaded = load()
    sealed = export_maker.seal(loaded, patch=b"p")
    run = sweep / "results" / "runs" / export_maker.CELL
    run.parent.mkdir(parents=True)
    sealed.rename(run)
    export(load(), tmp_path / "out")
    assert harness_predictions(tmp_path / "out" / f"{POINT}.jsonl")["fix"]["model_patch"] == "p"
    content = json.loads((run / "result.json").read_text(encoding="utf-8"))
    (run / "result.json").write_text(
        json.dumps(content | {"spec_sha256": "0" * 64}), encoding="utf-8"
    )
    with pytest.raises(AgentsweepError, match="no cell of this sweep has a finished run"):
        export(load(), tmp_path / "out")


@pytest.mark.parametrize("state", ["failed", "interrupted", "partial"])
def test_an_attempt_that_is_not_sealed_is_not_read(load, tmp_path, state):
    sealed = export_maker.seal(load(), patch=b"p")
    sealed.rename(sealed.with_name(f"{sealed.name}.{state}"))
    with pytest.raises(AgentsweepError, match="no cell of this sweep has a finished run"):
        export(load(), tmp_path / "out")


def test_a_directory_that_cannot_be_written_is_one_line(load, tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(errno.EACCES, "Permission denied")

    export_maker.seal(load(), patch=b"p")
    monkeypatch.setattr(swebench, "write_durably", refuse)
    with pytest.raises(AgentsweepError, match="mend its permissions, or name another directory"):
        export(load(), tmp_path / "out")


def test_the_same_runs_give_the_same_bytes_and_nothing_else_lies_there(load, tmp_path):
    export_maker.seal(load(), patch="\N{SNOWMAN}\n".encode())
    export(load(), tmp_path / "a")
    export(load(), tmp_path / "b")
    (first,), (second,) = (list((tmp_path / name).iterdir()) for name in "ab")
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes().isascii()


def test_it_is_read_in_any_locale(load, tmp_path):
    """The harness opens the file with the encoding of its locale."""
    export_maker.seal(load(), patch="\N{SNOWMAN}\n".encode())
    export(load(), tmp_path / "out")
    path = tmp_path / "out" / f"{POINT}.jsonl"
    script = f"import json; print(ascii([json.loads(l) for l in open({str(path)!r})]))"
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(
        ["python", "-c", script],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    assert "\\u2603" in done.stdout


def test_without_a_finished_run_it_says_what_to_do(sweep, capsys):
    assert main.main(["export", "swebench", "--config", "config.yaml", "--output", "out"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "run the sweep first" in error
    assert not Path("out").exists()


def test_the_format_and_the_directory_must_be_named(capsys):
    for words in ((), ("csv",), ("swebench",), ("atif", "--config", "config.yaml")):
        with pytest.raises(SystemExit) as stop:
            main.main(["export", *words])
        assert stop.value.code == 2
    assert "Traceback" not in capsys.readouterr().err
