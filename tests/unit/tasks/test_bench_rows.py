"""The rows of the small benchmark agree with their patches, with the demo's sources and the sweep.

Needs no image: that the patches apply and do what the rows say is for `validate_tasks`.
"""

import json
import re
from pathlib import Path

import pytest
import yaml

from agentsweep.grading import patch_paths
from agentsweep.grading.grading_script import test_files as files_of_tests
from agentsweep.tasks.row_fields import row_of

ROOT = Path(__file__).resolve().parents[3]
ROWS = [json.loads(line) for line in (ROOT / "config/rows/bench.jsonl").open(encoding="utf-8")]
TASKS = {
    path.stem: yaml.safe_load(path.read_text(encoding="utf-8"))
    for path in (ROOT / "config/tasks").glob("*.yaml")
}

each_row = pytest.mark.parametrize("fields", ROWS, ids=lambda fields: fields["instance_id"])


def folder(fields: dict) -> str:
    """The task's folder below demo/, which is also the name of its image."""
    return re.fullmatch(r"oci-archive:images/([\w.-]+)\.tar", fields["image_name"])[1]


def added(patch: str) -> list[str]:
    return [line[1:] for line in patch.splitlines() if re.match(r"\+(?!\+\+ )", line)]


@each_row
def test_patch_and_test_patch_touch_other_files(fields):
    row = row_of(fields, "bench.jsonl")
    source, tests = patch_paths.touched(row.patch), patch_paths.touched(row.test_patch)
    assert source
    assert tests
    assert not set(source) & set(tests)
    assert all(path.startswith("tests/") for path in tests)


@each_row
def test_tests_of_the_row_are_in_files_of_the_test_patch(fields):
    row = row_of(fields, "bench.jsonl")
    known = set(files_of_tests(row))
    assert {test.split("::")[0] for test in (*row.fail_to_pass, *row.pass_to_pass)} == known
    assert not set(row.fail_to_pass) & set(row.pass_to_pass)
    assert row.pass_to_pass
    # As the benchmark's own parser gives them.
    assert not [test for test in (*row.fail_to_pass, *row.pass_to_pass) if " " in test]


@each_row
def test_what_must_pass_is_what_the_test_patch_brings(fields):
    new = re.findall(r"^def (test_\w+)", "\n".join(added(fields["test_patch"])), re.MULTILINE)
    names = {re.split(r"::|\[", test)[1] for test in fields["FAIL_TO_PASS"]}
    assert names <= set(new)


@each_row
def test_the_issue_does_not_say_the_fix(fields):
    lines = {line.strip() for line in added(fields["patch"])}
    said = fields["problem_statement"]
    assert not [line for line in lines if len(line) > 12 and line in said]
    assert not [name for name in fields["FAIL_TO_PASS"] if name.split("::")[1] in said]


@each_row
def test_source_is_locked_and_of_the_rows_version(fields):
    lock = (ROOT / "demo" / folder(fields) / "source.lock").read_text(encoding="utf-8")
    package = fields["repo"].split("/")[1]
    assert f"\n{package}=={fields['version']} --hash=sha256:" in lock
    assert lock.startswith(f"# {fields['license_name']}. ")
    assert (ROOT / "demo" / folder(fields) / "requirements.lock").exists()


@each_row
def test_a_task_of_the_sweep_plays_the_row(fields):
    task = TASKS[folder(fields)]
    assert task["row"] == {"file": "config/rows/bench.jsonl", "id": fields["instance_id"]}
    # The row says these; what would be said twice could differ.
    assert not {"image", "instance_id", "problem_statement"} & set(task)
    bench = yaml.safe_load((ROOT / "config/bench.yaml").read_text(encoding="utf-8"))
    assert folder(fields) in bench["sweep"]["tasks"]


@each_row
def test_scenario_edits_what_the_fix_edits(fields):
    scenario = yaml.safe_load(
        (ROOT / TASKS[folder(fields)]["scenario"]).read_text(encoding="utf-8")
    )
    edited = {
        arguments["file_path"].removeprefix("/testbed/")
        for turn in scenario["turns"]
        for tool in turn.get("tools", ())
        for name, arguments in tool.items()
        if name == "Edit"
    }
    assert set(patch_paths.touched(fields["patch"])) <= edited


def test_every_row_has_an_image_that_the_makefile_builds():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    named = re.search(r"^BENCH_TASKS := (.*)$", makefile, re.MULTILINE)[1].split()
    assert named == [folder(fields) for fields in ROWS]
