"""Rows of benchmarks: every variant of their fields, and what is refused and how that is said."""

import json

import pyarrow
import pytest
from pyarrow import parquet
from row_maker import (
    COMMIT,
    KEPT,
    MENDED,
    PATCH,
    STATEMENT,
    TEST_PATCH,
    changed,
    classic,
    first,
    jsonl,
    second,
    verified,
)

from agentsweep.errors import ConfigError
from agentsweep.tasks import row_files
from agentsweep.tasks.row_fields import ROW_COLUMNS, light_fields, row_of

DERIVED = "docker://docker.io/{}/sweb.eval.x86_64.shop_1776_till-7"


def test_a_row_of_swe_bench_needs_no_image_and_no_command():
    row = row_of(classic(), "x")
    assert (row.instance_id, row.repo, row.base_commit) == ("shop__till-7", "shop/till", COMMIT)
    assert (row.problem_statement, row.patch, row.test_patch) == (STATEMENT, PATCH, TEST_PATCH)
    assert (row.fail_to_pass, row.pass_to_pass) == (tuple(MENDED), tuple(KEPT))
    assert (row.image, row.layout) == (DERIVED.format("swebench"), "testbed")
    assert (row.language, row.difficulty, row.install) == ("python", None, ())
    assert (row.test_commands, row.log_parser) == (("pytest -rA",), "parse_log_pytest")
    assert (row.eval_script, row.environment_variables) == (None, ())


def test_a_row_of_the_fifth_version_brings_image_script_and_parser():
    row = row_of(verified(), "x")
    assert row.image == DERIVED.format("swebench") + ":latest"
    assert row.eval_script.startswith("#!/bin/bash")
    assert (row.test_commands, row.log_parser) == ((), "parse_log_pytest_v2")
    assert (row.layout, row.difficulty) == ("testbed", "<15 min fix")


def test_a_row_of_swe_rebench_has_its_configuration():
    row = row_of(first(), "x")
    assert (row.image, row.layout) == (DERIVED.format("swerebench"), "testbed")
    assert row.install == ("pip install -e .[dev]",)
    assert row.test_commands == ("pytest --no-header -rA",)
    assert row.environment_variables == (("LEVEL", "3"), ("TZ", "UTC"))
    assert (row.difficulty, row.language) == ("1", "python")


def test_a_row_of_the_second_swe_rebench_lies_in_its_repository():
    row = row_of(second(), "x")
    assert row.image == "docker://docker.io/swerebenchv2/shop-till:7-0123456"
    assert (row.layout, row.language, row.difficulty) == ("repository", "go", "easy")
    assert row.install == ("go mod download", "go build ./...")
    assert row.test_commands == ("go test -v ./...", "true")
    assert row.log_parser == "parse_log_gotest"
    other = changed(second(), "install_config", "log_parser", None)
    other["install_config"]["log_parsers"] = ["parse_log_gotest"]
    assert row_of(other, "x") == row


@pytest.mark.parametrize("make", [classic, verified, first, second])
def test_one_row_has_one_hash_in_every_spelling(make):
    row = row_of(make(), "x")
    given = make()
    spellings = [
        {key: json.dumps(value) if isinstance(value, list | dict) else value
         for key, value in given.items()},
        given | {key: json.loads(given[key]) if isinstance(given[key], str) else given[key]
                 for key in ("FAIL_TO_PASS", "PASS_TO_PASS")},
        given | {"unknown": 3, "layout": None, "log_parsers": float("nan")},
    ]  # fmt: skip
    if "install_config" in given:
        config = given["install_config"]
        commands = {
            key: [config[key]] if isinstance(config[key], str) else config[key]
            for key in ("install", "test_cmd")
        }
        pairs = list((config.get("env_vars") or {}).items())
        spellings.append(given | {"install_config": config | commands | {"env_vars": pairs}})
    for spelling in spellings:
        assert row_of(spelling, "x").sha256 == row.sha256
    assert row_of(given | {"problem_statement": "Another."}, "x").sha256 != row.sha256


def test_parquet_and_jsonl_give_the_same_hashes(tmp_path):
    import pandas
    import pyarrow
    from pyarrow import parquet

    # Together in one table, so that each has nulls where only the others have a field.
    rows = [
        first(instance_id="a__a-1"),
        second(instance_id="b__b-2"),
        first(instance_id="c__c-3", meta=None, install_config=None, docker_image=None),
        changed(first(instance_id="d__d-4"), "install_config", "env_vars", {"ONLY": "here"}),
    ]
    for row in rows:
        del row["created_at"]
        config = row["install_config"]
        if config:
            # A column of Parquet has one type.
            for key in ("install", "test_cmd"):
                config[key] = [config[key]] if isinstance(config[key], str) else config[key]
            config["env_vars"] = {k: str(v) for k, v in (config.get("env_vars") or {}).items()}
            config["env_vars"] = config["env_vars"] or None
    (tmp_path / "rows.jsonl").write_text(jsonl(rows), encoding="utf-8")
    (tmp_path / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    names = dict.fromkeys(key for row in rows for key in row)
    table = pyarrow.table({key: [row.get(key) for row in rows] for key in names})
    parquet.write_table(table, tmp_path / "rows.parquet", row_group_size=2)
    frame = pandas.DataFrame(rows)
    frame["difficulty"] = [1.0, float("nan"), float("nan"), float("nan")]
    frame.to_parquet(tmp_path / "pandas.parquet")
    expected = [row_of(row, "x") for row in rows]
    assert expected[2].difficulty is None
    for name in ("rows.jsonl", "rows.json", "rows.parquet", "pandas.parquet"):
        found = row_files.entries(tmp_path / name)
        read = row_files.rows(found)
        assert [row.sha256 for row in read] == [row.sha256 for row in expected], name
        assert [entry.image for entry in found] == [row.image for row in expected]
        assert [entry.difficulty for entry in found] == [row.difficulty for row in expected]
        assert row_files.rows(found[2:3]) == [expected[2]]


@pytest.mark.parametrize(
    ("given", "image"),
    [
        ({"image": "a/b:1", "image_name": "c/d", "docker_image": "e/f"}, "docker.io/a/b:1"),
        ({"image": None, "image_name": "c/d", "docker_image": "e/f"}, "docker.io/c/d"),
        ({"image": "", "docker_image": "debian:12"}, "docker.io/library/debian:12"),
        ({"image": "ghcr.io/epoch/a__b"}, "ghcr.io/epoch/a__b"),
        ({"image": "localhost:5000/a"}, "localhost:5000/a"),
        ({"image": "docker://quay.io/a/b"}, "quay.io/a/b"),
    ],
)
def test_the_first_image_that_is_named_is_the_image(given, image):
    assert row_of(classic(**given), "x").image == f"docker://{image}"
    assert light_fields(classic(**given), "x").image == f"docker://{image}"


@pytest.mark.parametrize("image", ["oci-archive:images/a.tar", "docker-archive:/images/a.tar"])
def test_an_image_with_a_transport_stays(image):
    assert row_of(first(image_name=image), "x").image == image


def test_a_row_may_name_its_layout():
    assert row_of(first(layout="repository"), "x").layout == "repository"
    assert row_of(first(language="Python", docker_image=None), "x").layout == "testbed"


TWICE = "tests/test_price.py::test_zero"
# (row, the only line that is said of it)
BROKEN = [
    (classic(instance_id=None), "instance_id: missing; write the task's name in its benchmark"),
    (classic(instance_id="shop/till"),
     "instance_id: 'shop/till' cannot be a task's name; allowed are 200 letters, digits, `.`, `_` "
     "and `-`, beginning with a letter or digit"),
    (classic(repo="till"), "repo: 'till' is not a repository; write it as owner/name"),
    (second(repo="shop/.."), "repo: 'shop/..' is not a repository; write it as owner/name"),
    (classic(base_commit="0123456"),
     "base_commit: '0123456' is not a whole commit; write 40 hex digits"),
    (classic(base_commit=float("nan")), "base_commit: missing; write 40 hex digits"),
    (classic(problem_statement="  \n"),
     "problem_statement: '  \\n' is empty; the agent must get the issue's text"),
    (classic(problem_statement=None),
     "problem_statement: missing; the agent must get the issue's text"),
    (classic(problem_statement=3.0), "problem_statement: 3.0 is not a text; write one"),
    (classic(problem_statement="half \ud800"),
     "problem_statement: it has a NUL or half a character in it; write text that is valid UTF-8"),
    (classic(patch=""), "patch: '' is empty; write the gold patch, which validates the task"),
    (classic(patch="Set it to zero."),
     "patch: it is not a unified diff with git's headers; write what `git diff` prints"),
    (classic(patch=PATCH.replace("shop/price.py", "../price.py")),
     "patch: '../price.py' is outside of the repository; write paths below its root"),
    (classic(patch=PATCH.replace("b/shop/price.py", "/etc/passwd")),
     "patch: '/etc/passwd' is outside of the repository; write paths below its root"),
    (classic(test_patch=None), "test_patch: missing; without it there are no tests to grade by"),
    (classic(test_patch=TEST_PATCH.replace("@@", "")[:30]),
     "test_patch: it is not a unified diff with git's headers; write what `git diff` prints"),
    (classic(FAIL_TO_PASS="[]"), "FAIL_TO_PASS: it is empty; a task needs a test that the patch "
     "mends"),
    (classic(FAIL_TO_PASS="test_zero"),
     "FAIL_TO_PASS: 'test_zero' is neither a list nor one written as JSON"),
    (first(FAIL_TO_PASS=[7]), "FAIL_TO_PASS: 7 is not the name of a test; leave it out"),
    (first(PASS_TO_PASS=None), "PASS_TO_PASS: missing; write a list of tests ([] for none)"),
    (first(PASS_TO_PASS=[TWICE]),
     f"PASS_TO_PASS: '{TWICE}' is in FAIL_TO_PASS too; leave it out of one"),
    (first(docker_image="a b"), "docker_image: 'docker://docker.io/library/a b' is not an image "
     "reference"),
    (first(install_config="{"), "install_config: '{' is neither a mapping nor one written as JSON"),
    (changed(first(), "install_config", "test_cmd", 3),
     "install_config.test_cmd: 3 is neither a command nor a list of commands"),
    (changed(first(), "install_config", "install", {"a": 1}),
     'install_config.install: {"a": 1} is neither a command nor a list of commands'),
    (changed(first(), "install_config", "env_vars", {"A B": "1"}),
     "install_config.env_vars: 'A B' is not the name of a variable"),
    (changed(second(), "install_config", "test_cmd", []),
     "install_config.test_cmd: missing; write what runs the tests"),
    (changed(second(), "install_config", "log_parser", None),
     "install_config.log_parser: missing; rows in go must name theirs"),
    (first(layout="flat"), "layout: 'flat' is not one; write testbed or repository"),
    (verified(eval_type="all_fail"),
     "eval_type: 'all_fail' is unknown; allowed are pass_and_fail and fail_only"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "line"), BROKEN, ids=[line[:50] for _, line in BROKEN])
def test_a_broken_row_is_refused_with_one_line(tmp_path, row, line):
    good = classic(instance_id="shop__till-1")
    path = tmp_path / "rows.jsonl"
    path.write_text(jsonl([good, row]), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        row_files.rows(row_files.entries(path))
    assert caught.value.problems == [f"{path}: row 2: {line}"]


def test_there_are_enough_broken_rows():
    assert len(BROKEN) >= 20


def test_everything_that_is_wrong_with_a_row_is_said_at_once():
    with pytest.raises(ConfigError) as caught:
        row_of({"instance_id": "a"}, "here")
    assert [line.split(": ")[1] for line in caught.value.problems] == [
        "repo", "base_commit", "problem_statement", "patch", "test_patch", "FAIL_TO_PASS",
        "PASS_TO_PASS",
    ]  # fmt: skip


def test_a_patch_of_a_move_or_of_a_binary_file_is_one():
    moved = "diff --git a/a b/b\nsimilarity index 100%\nrename from a\nrename to b\n"
    binary = (
        "diff --git a/x.png b/x.png\nindex 1..2 100644\nBinary files a/x.png and b/x.png differ\n"
    )
    for patch in (moved, binary, PATCH + moved, PATCH.replace("@@ -1,3 +1,3", "@@ -1,9 +1,9")):
        assert row_of(classic(patch=patch), "x").patch == patch


def test_the_columns_that_are_read_are_those_that_rows_are_made_of():
    asked = set()

    class Asked(dict):
        def get(self, key, default=None):
            asked.add(key)
            return super().get(key, default)

    for row in (classic(), verified(), first(), second()):
        row_of(Asked(row), "x")
    assert asked == set(ROW_COLUMNS)


def test_columns_that_no_row_is_made_of_may_hold_anything(tmp_path):
    table = pyarrow.Table.from_pylist([first()])
    # A year that Python does not have.
    made = pyarrow.array([10**18], pyarrow.timestamp("us"))
    names = pyarrow.array([first()["instance_id"]], pyarrow.string_view())
    for index, column in ((0, made), (1, names)):
        name = ("created_at", "instance_id")[index]
        table = table.set_column(table.column_names.index(name), name, column)
    parquet.write_table(table, tmp_path / "rows.parquet")
    entries = row_files.entries(tmp_path / "rows.parquet")
    assert row_files.rows(entries) == [row_of(first(), "x")]


def test_a_parquet_file_that_is_damaged_inside_is_called_so(tmp_path):
    path = tmp_path / "rows.parquet"
    parquet.write_table(pyarrow.Table.from_pylist([first()]), path)
    content = bytearray(path.read_bytes())
    content[4:400] = b"\xff" * 396
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="it is not a readable Parquet file: "):
        row_files.rows(row_files.entries(path))


@pytest.mark.parametrize(("name", "text"), [("a.jsonl", jsonl), ("a.json", json.dumps)])
def test_a_byte_order_mark_and_other_line_ends_are_no_part_of_a_row(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(b"\xef\xbb\xbf" + text([first()]).replace("\n", "\r\n").encode())
    assert row_files.rows(row_files.entries(path)) == [row_of(first(), "x")]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.csv", "x", "{}: not a file of rows; allowed are .parquet, .jsonl, .json"),
        ("a.jsonl", '{"instance_id": "a"}\n{', "{}: row 2: it is not JSON"),
        ("a.jsonl", "[1]\n", "{}: row 1: [1] is not a row of fields"),
        ("a.jsonl", '{"instance_id": "a"}\n\n{"instance_id": "a"}\n',
         "{}: row 3: instance_id: 'a' is that of row 1 too; leave one out"),
        ("a.json", "{}", "{}: {{}} is not a list of rows"),
        ("a.json", "{}\n{}", "{}: it is not JSON; a row a line belongs into a .jsonl"),
        ("a.parquet", "PAR1", "{}: it is not a readable Parquet file: "),
    ],
)  # fmt: skip
def test_a_file_that_is_none_of_rows_is_one_line(tmp_path, name, text, said):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        row_files.entries(path)
    found, expected = caught.value.problems[0], said.format(path)
    assert found.startswith(expected) if said.endswith(": ") else found == expected
    assert len(caught.value.problems) == 1
