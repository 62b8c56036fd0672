"""Tasks that are rows of a benchmark, single ones and sets, in a configuration."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import small_sweep
from row_maker import HINT, KEPT, MENDED, STATEMENT, changed, first, jsonl, many, second
from small_sweep import DIGEST

from agentsweep.cli import tasks_file
from agentsweep.config.load import load as load_config
from agentsweep.containers import image_lock
from agentsweep.errors import ConfigError
from agentsweep.tasks.row_fields import row_of
from agentsweep.tasks.task_sets import load_set

LIVE = {"model": "live", "model_id": "claude-haiku-4-5-20251001", "version": "2.1.330"}


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A small valid configuration, and a file of nine rows."""
    small_sweep.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text(jsonl(many(9)), encoding="utf-8")
    return tmp_path


def load(tasks: dict, names=None, **overrides):
    """The configuration with these tasks alone, and an agent that needs no scenario."""
    given = json.loads(json.dumps(overrides)) | {
        "sweep": {"tasks": names, "agents": None, "memory": ["1GiB"], "cpus": [1]},
        "tasks": tasks,
        "agents": {"claude": LIVE},
    }
    return load_config(given)


def refused(tasks: dict, names=None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(tasks, names)
    return caught.value.problems


def chosen(**keys) -> list[str]:
    """The names of the tasks of a set with these keys."""
    loaded = load({"mine": {"rows": {"file": "rows.jsonl"}, **keys}})
    assert [cell.task for cell in loaded.cells()] == loaded.task_sets()[0].names
    return loaded.task_sets()[0].names


def ids(*numbers) -> list[str]:
    return [f"shop__till-{number}" for number in numbers]


def one_row(row: dict, **keys):
    Path("one.jsonl").write_text(jsonl([row]), encoding="utf-8")
    loaded = load({"one": {"row": {"file": "one.jsonl", "id": row["instance_id"]}, **keys}})
    return loaded, loaded.task("one")


# One row


def test_a_task_takes_what_it_does_not_say_from_its_row(project):
    _, task = one_row(first())
    assert (task.name, task.kind, task.instance_id) == ("one", "swe", "shop__till-7")
    assert task.reference == "docker://docker.io/swerebench/sweb.eval.x86_64.shop_1776_till-7"
    assert task.workdir == "/testbed"
    assert task.environment == "source /opt/miniconda3/bin/activate testbed"
    assert task.python == "/opt/miniconda3/envs/testbed/bin/python"
    assert STATEMENT in task.prompt
    assert task.row == row_of(first(), "x")
    _, task = one_row(second())
    assert (task.workdir, task.environment, task.python) == ("/till", None, None)


def test_what_a_task_says_wins_over_its_row(project):
    said = {
        "instance_id": "other", "image": "oci-archive:images/fix.tar", "workdir": "/work",
        "environment": None, "python": None, "problem_statement": "Another issue.",
    }  # fmt: skip
    _, task = one_row(first(), **said)
    assert (task.instance_id, task.reference) == ("other", "oci-archive:images/fix.tar")
    assert (task.workdir, task.environment, task.python) == ("/work", None, None)
    assert "Another issue." in task.prompt
    assert task.row == row_of(first(), "x")


def test_the_agent_never_gets_patch_tests_or_hints(project):
    secrets = ["GOLD_LINE", "TEST_LINE", HINT, *MENDED, *KEPT]
    asks = "{problem_statement} {patch} {test_patch} {FAIL_TO_PASS} {hints_text} {row}"
    for keys in ({}, {"prompt": asks}):
        loaded, task = one_row(first(), **keys)
        cell = loaded.cells()[0]
        assert STATEMENT in task.prompt
        for text in (task.prompt, loaded.spec(cell), json.dumps(loaded.job(cell).to_json()),
                     json.dumps(loaded.for_cell(cell)),
                     json.dumps(tasks_file.document(loaded))):  # fmt: skip
            assert not [secret for secret in secrets if secret in text]
    assert "{patch}" in task.prompt


def test_the_spec_has_of_the_row_what_the_agent_gets(project):
    def said(row):
        loaded, _ = one_row(row)
        cell = loaded.cells()[0]
        # The job has no row at hand.
        assert load_config(loaded.for_cell(cell)).spec(cell) == loaded.spec(cell)
        return json.loads(loaded.spec(cell))

    before = said(first())
    assert before["task"]["base_commit"] == first()["base_commit"]
    assert row_of(first(), "x").sha256 not in json.dumps(before)
    assert said(first(test_patch=first()["test_patch"].replace("TEST_LINE", "False"))) == before
    assert said(first(FAIL_TO_PASS=["tests/test_other.py::test_other"])) == before
    assert said(first(problem_statement="Another issue.")) != before
    assert said(first(base_commit="1" * 40)) != before
    # A spec without a row is as it was, so that its runs keep their name.
    plain = load_config([Path("config.yaml")])
    task = json.loads(plain.spec(plain.cells()[0]))["task"]
    assert task["row_sha256"] is None and "base_commit" not in task


@pytest.mark.parametrize(
    ("task", "line"),
    [
        ({"row": {"file": "rows.jsonl", "id": "x"}}, "row.id: 'x' is not in rows.jsonl"),
        ({"row": {"file": "rows.jsonl"}},
         "row.id: missing; a text that is not empty must be there"),
        ({"row": {"id": "x"}},
         "row.file: missing; write a file with rows, or `hub`, `split` and `revision`"),
        ({"row": {"file": "rows.jsonl", "split": "test", "id": "x"}},
         "row.split: has a meaning beside `hub` only; leave it out"),
        ({"row": {"file": "rows.jsonl", "hub": "a/b", "id": "x"}},
         "row.hub: `file` is there too; leave one out"),
        ({"row": {"hub": "a/b", "revision": "a" * 40, "id": "x"}},
         "row.split: missing; a data set of the hub needs it"),
        ({"row": {"hub": "a/b", "split": "test", "revision": "main", "id": "x"}},
         "row.revision: 'main' is not allowed; write a commit of 40 hex digits (in quotes)"),
        ({"kind": "code", "row": {"file": "rows.jsonl", "id": "x"}},
         "kind: 'code' has no `row`; write swe"),
        ({"row": {"file": "none.jsonl", "id": "x"}}, None),
    ],
)  # fmt: skip
def test_a_wrong_row_is_refused_by_its_key(project, task, line):
    expected = f"--config: tasks.one.{line}" if line else (
        "none.jsonl: there is no such file; write a file with rows"
    )  # fmt: skip
    assert refused({"one": task}) == [expected]


# Sets


def test_a_set_is_a_task_for_each_row_by_its_name(project):
    loaded = load({"mine": {"rows": {"file": "rows.jsonl"}, "workdir": "/w"}})
    assert [cell.task for cell in loaded.cells()] == ids(*range(9))
    task = loaded.task("shop__till-3")
    assert (task.instance_id, task.workdir) == ("shop__till-3", "/w")
    assert task.environment == "source /opt/miniconda3/bin/activate testbed"
    Path("mine.yaml").write_text("rows: {file: rows.jsonl}\nworkdir: /w\n", encoding="utf-8")
    in_a_file = load({"mine": "mine.yaml"})
    assert [in_a_file.spec(cell) for cell in in_a_file.cells()] == [
        loaded.spec(cell) for cell in loaded.cells()
    ]


def test_a_sweep_names_a_set_or_tasks_of_it(project):
    tasks = {"mine": {"rows": {"file": "rows.jsonl"}}, "fix": "fix.yaml"}

    def swept(*names):
        return [cell.task for cell in load(tasks, list(names)).cells()]

    assert swept("fix", "mine") == ["fix", *ids(*range(9))]
    assert swept(*ids(5, 2)) == ids(5, 2)
    assert swept("fix") == ["fix"]
    where = "--config: sweep.tasks[1]: 'shop__till-5'"
    assert refused(tasks, ["mine", "shop__till-5"]) == [
        f"{where} is the same as 'shop__till-5' before it; leave one out"
    ]
    assert len(refused(tasks, ["mine", "mine"])) == 1
    Path("cells.csv").write_text(
        "task,agent,memory,cpus,replicate\nshop__till-4,claude,1g,1,0\n", encoding="utf-8"
    )
    loaded = load(tasks)
    given = {**loaded.for_cell(loaded.cells()[0]), "tasks": tasks}
    given["sweep"] = {"cells": "cells.csv"}
    assert [cell.task for cell in load_config(given).cells()] == ids(4)


def test_a_cell_of_a_set_stands_alone(project):
    Path("scenarios").mkdir()
    for name in ids(*range(9)):
        Path(f"scenarios/{name}.yaml").write_text(
            small_sweep.SCENARIO + f"# {name}\n", encoding="utf-8"
        )
    loaded = load({"mine": {"rows": {"file": "rows.jsonl"}, "prompt": "Mend {problem_statement}",
                            "scenario": "scenarios/{instance_id}.yaml"}})  # fmt: skip
    assert loaded.task("shop__till-3").scenario == Path("scenarios/shop__till-3.yaml")
    for_grading = load_config(json.loads(json.dumps(loaded.for_task("shop__till-3"))))
    assert for_grading.task_names() == ["shop__till-3"]
    assert for_grading.task("shop__till-3") == loaded.task("shop__till-3")
    # To find a row in a large file takes longer than to start a run.
    Path("rows.jsonl").unlink()
    for cell in loaded.cells():
        text = json.dumps(loaded.for_cell(cell))
        alone = load_config(json.loads(text))
        assert alone.spec(alone.cell(cell.id)) == loaded.spec(cell)
        assert alone.job(alone.cell(cell.id)) == loaded.job(cell)
        assert alone.task(cell.task) == replace(loaded.task(cell.task), row=None)
        assert len(text) < 4096


def test_a_task_has_a_row_or_its_hash(project):
    task = {"row": {"file": "rows.jsonl", "id": "shop__till-1"}, "row_sha256": "0" * 64}
    assert refused({"one": task}) == [
        "--config: tasks.one.row_sha256: `row` is there too; leave one out"
    ]
    assert load({"one": task | {"row_sha256": None}}).task("one").row_sha256 != "0" * 64


def test_a_filter_takes_the_rows_that_meet_all_of_it(project):
    assert chosen(filter={"ids": ids(4, 2)}) == ids(2, 4)
    assert chosen(filter={"repository": ["shop/scale"]}) == ids(1, 3, 5, 7)
    assert chosen(filter={"difficulty": [2]}) == ids(2, 5, 8)
    assert chosen(filter={"difficulty": ["0", 1], "repository": ["shop/till"]}) == ids(0, 4, 6)


def test_a_sample_is_the_same_everywhere_and_grows(project):
    assert chosen(sample={"size": 3}) == ids(*SAMPLE_OF_THREE)
    for size in range(1, 9):
        assert set(chosen(sample={"size": size})) < set(chosen(sample={"size": size + 1}))
    assert chosen(sample={"size": 3, "seed": 1}) != chosen(sample={"size": 3})
    odd = {"repository": ["shop/scale"]}
    assert set(chosen(filter=odd, sample={"size": 2})) < set(chosen(filter=odd))
    # The order of the file is nothing to it.
    Path("rows.jsonl").write_text(jsonl(many(9)[::-1]), encoding="utf-8")
    assert sorted(chosen(sample={"size": 3})) == ids(*SAMPLE_OF_THREE)


# The three smallest of `sha256sum` of `0:shop__till-0` to `0:shop__till-8`.
SAMPLE_OF_THREE = [4, 5, 6]


def test_images_that_are_too_large_leave_before_the_sample(project):
    path = Path("config/images.lock.yaml")
    names = [row["docker_image"] for row in many(9)]
    for number, name in enumerate(names[:6]):
        entry = {"digest": DIGEST, "config_digest": DIGEST, "platform": "linux/amd64"}
        if number:
            entry["size_bytes"] = number * 10**9
        image_lock.update(path, {f"docker://docker.io/{name}": entry})
    limit = {"max_image_size": "3GB"}
    # Those that nobody has looked up stay: 0 has no size, 6, 7 and 8 have no entry.
    assert chosen(filter=limit) == ids(0, 1, 2, 3, 6, 7, 8)
    loaded = load(
        {
            "mine": {
                "rows": {"file": "rows.jsonl"},
                "sample": {"size": 7},
                "filter": limit | {"repository": ["shop/till", "shop/scale"]},
            }
        }
    )
    assert len(loaded.image_references()) == 7
    assert loaded.references_to_lock()[:7] == loaded.image_references()
    assert sorted(loaded.references_to_lock()) == [f"docker://docker.io/{name}" for name in names]
    without = load({"mine": {"rows": {"file": "rows.jsonl"}, "sample": {"size": 2}}})
    assert without.references_to_lock() == without.image_references()


def test_the_size_of_an_image_is_kept_in_the_lock_file_and_changes_no_run(project):
    path, before = Path("config/images.lock.yaml"), load_config([Path("config.yaml")])
    entry = {"digest": DIGEST, "config_digest": DIGEST, "platform": "linux/amd64"}
    assert image_lock.update(path, {small_sweep.REFERENCE: entry | {"size_bytes": 7}}) == 1
    assert image_lock.read(path)[small_sweep.REFERENCE].size_bytes == 7
    after = load_config([Path("config.yaml")])
    assert after.spec(after.cells()[0]) == before.spec(before.cells()[0])
    path.write_text(
        path.read_text(encoding="utf-8").replace("size_bytes: 7", "size_bytes: large"),
        encoding="utf-8",
    )
    with pytest.raises(ConfigError, match=r"size_bytes: 'large' is not a size; write a whole"):
        image_lock.read(path)


MINE = {"file": "rows.jsonl"}


@pytest.mark.parametrize(
    ("tasks", "line"),
    [
        ({"mine": {"rows": MINE, "filter": {"ids": ["x", "shop__till-1"]}}},
         "mine.filter.ids[0]: 'x' is not in rows.jsonl"),
        ({"mine": {"rows": MINE, "filter": {"difficulty": ["hard"]}}},
         "mine.filter: none of the 9 rows of rows.jsonl meets it; write another"),
        ({"mine": {"rows": MINE, "filter": {"difficulty": [1]}, "sample": {"size": 4}}},
         "mine.sample.size: 4 is more than the 3 rows that there are; write that or less"),
        ({"mine": {"rows": MINE, "filter": {"max_image_size": "3"}}},
         "mine.filter.max_image_size: '3' is not a size; write a number and a unit, such as "
         "512MiB"),
        ({"mine": {"rows": MINE, "filter": {"id": ["x"]}}},
         "mine.filter.id: unknown key; did you mean ids?"),
        ({"mine": {"rows": MINE, "sample": {"seed": 3}}},
         "mine.sample.size: missing; a whole number, 1 or more must be there"),
        ({"mine": {"rows": MINE, "prompt": "Mend it."}},
         "mine.prompt: no {problem_statement} in it, so that the agent would not see the issue"),
        ({"mine": {"rows": {"file": "empty.jsonl"}}}, "mine.rows: empty.jsonl has no rows"),
        ({"mine": {"rows": {}}},
         "mine.rows.file: missing; write a file with rows, or `hub`, `split` and `revision`"),
        ({"mine": {"rows": MINE}, "shop__till-2": "fix.yaml"},
         "shop__till-2: 'shop__till-2' is a task of 'mine' too; leave one out"),
        ({"mine": {"rows": MINE}, "same": {"rows": MINE, "filter": {"ids": ["shop__till-2"]}}},
         "same: 'shop__till-2' is a task of 'mine' too; leave one out"),
    ],
)  # fmt: skip
def test_a_wrong_set_is_one_line(project, tasks, line):
    Path("empty.jsonl").write_text("", encoding="utf-8")
    assert refused(tasks, ["mine"]) == [f"--config: tasks.{line}"]
    assert refused(tasks) == [f"--config: tasks.{line}"]


def test_a_set_has_the_name_of_no_other_task(project):
    def named(name, task):
        return {name: {"rows": MINE, "filter": {"ids": [task]}}}

    alike = named("mine", "shop__till-8") | named("shop__till-8", "shop__till-1")
    assert refused(alike, ["mine"]) == [
        "--config: tasks.shop__till-8: a set has the name of the task 'shop__till-8'; give it "
        "another"
    ]
    assert len(load(named("shop__till-8", "shop__till-8")).cells()) == 1


def test_tasks_on_one_image_have_one_base_commit(project):
    rows = many(3)
    rows[1]["docker_image"] = rows[0]["docker_image"]
    Path("rows.jsonl").write_text(jsonl(rows), encoding="utf-8")
    assert len(load({"mine": {"rows": MINE}}).image_references()) == 2
    rows[1]["base_commit"] = "f" * 40
    Path("rows.jsonl").write_text(jsonl(rows), encoding="utf-8")
    image = f"docker://docker.io/{rows[0]['docker_image']}"
    line = (
        f"--config: tasks.shop__till-1: has the image of 'shop__till-0' ({image}) and another "
        "base_commit (ffffffffffff, there 0123456789ab); write the image that was made for it"
    )
    assert refused({"mine": {"rows": MINE}}) == [line]
    assert load({"mine": {"rows": MINE}}, ids(1, 2)).cells()


def test_only_the_rows_that_are_taken_must_be_whole(project):
    rows = many(40)
    for row in rows[9:]:
        row["problem_statement"] = ""
    Path("rows.jsonl").write_text(jsonl(rows), encoding="utf-8")
    assert chosen(filter={"ids": ids(3)}) == ids(3)
    said = refused({"mine": {"rows": MINE}}, ids(3, 99))
    assert len(said) == 21
    assert said[0] == (
        "rows.jsonl: row 10: problem_statement: '' is empty; the agent must get the issue's text"
    )
    assert said[-1] == "… and 11 more like these"


def test_the_hash_of_a_set_is_that_of_its_rows_in_any_order(project):
    def sha256(rows):
        Path("rows.jsonl").write_text(jsonl(rows), encoding="utf-8")
        return load_set("mine", {"rows": MINE}, "here", {}).sha256

    rows = many(3)
    hashes = sorted(row_of(row, "x").sha256 for row in rows)
    assert sha256(rows) == hashlib.sha256("\n".join(hashes).encode()).hexdigest()
    assert sha256(rows[::-1]) == sha256(rows) != sha256(rows[:2])
    other = changed(rows[0], "install_config", "test_cmd", "pytest -rA -x")
    assert sha256([other, *rows[1:]]) != sha256(rows)


def test_results_say_which_tasks_a_sweep_had(project):
    tasks = {
        "mine": {"rows": MINE, "filter": {"difficulty": [1]}, "sample": {"size": 2, "seed": 4}},
        "fix": "fix.yaml",
    }
    loaded = load(tasks)
    said = json.loads(json.dumps(tasks_file.document(loaded)))
    found = said["sets"]["mine"]
    assert found["source"] == {
        "file": "rows.jsonl", "sha256": hashlib.sha256(Path("rows.jsonl").read_bytes()).hexdigest(),
    }  # fmt: skip
    assert found["sample"] == {"size": 2, "seed": 4}
    assert found["filter"]["difficulty"] == [1]
    assert (found["sha256"], found["tasks"]) == (loaded.task_sets()[0].sha256, 2)
    *of_set, fix = said["tasks"]
    assert [task["name"] for task in of_set] == loaded.task_sets()[0].names
    first_task = loaded.task(of_set[0]["name"])
    assert of_set[0] == {
        "name": first_task.name, "instance_id": first_task.name, "repo": first_task.row.repo,
        "base_commit": first_task.row.base_commit, "image": first_task.reference,
        "image_digest": None, "row_sha256": first_task.row.sha256, "set": "mine",
    }  # fmt: skip
    assert (fix["name"], fix["row_sha256"], fix["set"]) == ("fix", None, None)
    digest = tasks_file.digest(loaded)
    assert tasks_file.digest(load(tasks)) == digest
    tasks["mine"]["sample"]["seed"] = 5
    assert tasks_file.digest(load(tasks)) != digest


@pytest.mark.slow
def test_a_configuration_without_the_hub_loads_neither_its_client_nor_arrow(project):
    Path("with.yaml").write_text("tasks: {mine: {rows: {file: rows.jsonl}}}\n"
                                 "sweep: {tasks: [fix]}\n", encoding="utf-8")  # fmt: skip
    code = (
        "import sys; from agentsweep.cli import main; from agentsweep.config.load import load;"
        "from agentsweep.workflow import sweep; from pathlib import Path;"
        "load([Path('config.yaml'), Path('with.yaml')]);"
        "print([m for m in ('pyarrow', 'huggingface_hub', 'pandas') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
