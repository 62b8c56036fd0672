"""The page of files and their schemas, and that records of old versions are still valid."""

import importlib.util
import json
import tarfile
from pathlib import Path

import file_schemas
import jsonschema
import pytest

ROOT = Path(__file__).resolve().parents[2]


def tool():
    path = ROOT / "tools" / "describe_files.py"
    spec = importlib.util.spec_from_file_location("describe_files", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOOL = tool()
NAMES = [name for name, _ in TOOL.file_schemas()]


def test_the_page_is_made_of_the_schemas():
    text = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    assert text == TOOL.page(), "run `python tools/describe_files.py --write`"
    assert "## `result.json`" in text


@pytest.mark.parametrize("name", NAMES)
def test_each_field_says_what_it_means_and_its_unit(name):
    content = file_schemas.load(name)
    jsonschema.Draft202012Validator.check_schema(content)
    units = {"_bytes": "bytes", "_s": "s", "_ns": "ns", "_usec": "us"}
    for field, known in TOOL.fields(content):
        assert known.get("description", "").rstrip().endswith("."), field
        key = field.rstrip("?").rpartition(".")[2]
        unit = next((units[end] for end in units if key.endswith(end)), None)
        if unit is not None and known.get("type") != "object":
            assert known.get("x-unit") == unit, field


@pytest.fixture
def old_results(tmp_path) -> list[dict]:
    with tarfile.open(ROOT / "tests" / "old_store" / "store.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    paths = sorted(tmp_path.glob("*/attempt-1/result.json"))
    return [json.loads(path.read_text(encoding="utf-8")) for path in paths]


def test_records_of_version_0_1_0_are_valid(old_results):
    assert len(old_results) == 3
    for result in old_results:
        jsonschema.validate(result, file_schemas.load("result"))


def test_what_a_record_must_not_have_is_seen(old_results):
    known = file_schemas.load("result")
    for change in ({"schema": 2}, {"outcom": "x"}, {"wall_s": "1"}, {"patch": {"status": "odd"}}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(old_results[0] | change, known)
    for key in known["required"]:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({k: v for k, v in old_results[0].items() if k != key}, known)


def test_fields_of_lists_and_fields_that_may_lack_are_named():
    node = {
        "required": ["a"],
        "properties": {
            "a": {"items": {"properties": {"b": {"description": "B."}}}, "description": "A."},
            "c": {"description": "C."},
        },
    }
    assert [name for name, _ in TOOL.fields(node)] == ["a", "a[].b", "c?"]
