"""Small rows in the formats of the benchmarks, written for the tests."""

import copy
import json

COMMIT = "0123456789abcdef0123456789abcdef01234567"
STATEMENT = "The price is wrong {when} it is zero."
PATCH = """\
diff --git a/shop/price.py b/shop/price.py
--- a/shop/price.py
+++ b/shop/price.py
@@ -1,3 +1,3 @@
 def price(item):
--- the old one, which looks like a header
+    return GOLD_LINE
     # end
"""
TEST_PATCH = """\
diff --git a/tests/test_price.py b/tests/test_price.py
new file mode 100644
--- /dev/null
+++ b/tests/test_price.py
@@ -0,0 +1,2 @@
+def test_zero():
+    assert TEST_LINE
"""
MENDED, KEPT = ["tests/test_price.py::test_zero"], ["tests/test_price.py::test_one"]
HINT = "HINT_LINE: look at the price"


def classic(**changes) -> dict:
    """A row as SWE-bench's data sets have it: lists of tests as JSON texts, no image."""
    return {
        "repo": "shop/till",
        "instance_id": "shop__till-7",
        "base_commit": COMMIT,
        "patch": PATCH,
        "test_patch": TEST_PATCH,
        "problem_statement": STATEMENT,
        "hints_text": HINT,
        "created_at": "2024-01-02T03:04:05Z",
        "version": "1.0",
        "FAIL_TO_PASS": json.dumps(MENDED),
        "PASS_TO_PASS": json.dumps(KEPT),
        "environment_setup_commit": COMMIT,
    } | changes


def verified(**changes) -> dict:
    """A row of SWE-bench for version 5 of its harness, with image and script."""
    return (
        classic(
            image="swebench/sweb.eval.x86_64.shop_1776_till-7:latest",
            eval_script="#!/bin/bash\npytest -rA tests/test_price.py\n",
            log_parser="parse_log_pytest_v2",
            eval_type="pass_and_fail",
            difficulty="<15 min fix",
        )
        | changes
    )


def first(**changes) -> dict:
    """A row of SWE-rebench."""
    return (
        classic(
            FAIL_TO_PASS=list(MENDED),
            PASS_TO_PASS=list(KEPT),
            FAIL_TO_FAIL=[],
            PASS_TO_FAIL=[],
            docker_image="swerebench/sweb.eval.x86_64.shop_1776_till-7",
            requirements="pytest==8.0\n",
            meta={"is_lite": True, "llm_score": {"difficulty_score": 1, "issue_text_score": 0}},
            install_config={
                "env_vars": {"TZ": "UTC", "LEVEL": 3},
                "install": "pip install -e .[dev]",
                "log_parser": "parse_log_pytest",
                "packages": "requirements.txt",
                "pre_install": None,
                "python": "3.9",
                "test_cmd": "pytest --no-header -rA",
            },
        )
        | changes
    )


def second(**changes) -> dict:
    """A row of SWE-rebench V2."""
    return {
        "instance_id": "shop__till-7",
        "repo": "shop/till",
        "base_commit": COMMIT,
        "patch": PATCH,
        "test_patch": TEST_PATCH,
        "problem_statement": STATEMENT,
        "pr_description": HINT,
        "interface": "none",
        "language": "go",
        "created_at": 1700000000000,
        "FAIL_TO_PASS": ["TestZero"],
        "PASS_TO_PASS": ["TestOne"],
        "image_name": "docker.io/swerebenchv2/shop-till:7-0123456",
        "meta": {"llm_metadata": {"difficulty": "easy", "B1": False}, "num_modified_files": 1},
        "install_config": {
            "base_image_name": "go_1.20",
            "install": ["go mod download", "go build ./..."],
            "log_parser": "parse_log_gotest",
            "test_cmd": ["go test -v ./...", "true"],
        },
    } | changes


def changed(row: dict, key: str, inner: str, value) -> dict:
    """A row with one key of a mapping in it changed."""
    row = copy.deepcopy(row)
    row[key][inner] = value
    return row


def many(count: int) -> list[dict]:
    """Rows of several repositories and difficulties, with names of their own."""
    return [
        first(
            instance_id=f"shop__till-{number}",
            repo=("shop/till", "shop/scale")[number % 2],
            docker_image=f"swerebench/sweb.eval.x86_64.shop_1776_till-{number}",
            meta={"llm_score": {"difficulty_score": number % 3}},
        )
        for number in range(count)
    ]


def jsonl(rows: list[dict]) -> str:
    """The text of a JSONL file."""
    return "".join(f"{json.dumps(row)}\n" for row in rows)
