"""The schema of a grading's record: what is written now, and what was written before, fits it."""

import json
import tarfile
from pathlib import Path
from types import SimpleNamespace

import file_schemas
import jsonschema
import pytest
import row_maker

from agentsweep.grading import evidence, grading
from agentsweep.grading.grading import Grader, Ground
from agentsweep.tasks.row_fields import row_of

OLD = Path(__file__).resolve().parents[2] / "old_store" / "store.tar.xz"
GRADER = Grader(memory_bytes=2**30, cpus="2", timeout_s=60.0, network=False, install=False)


@pytest.fixture
def known():
    return file_schemas.load("evidence")


def misfits(record, known) -> list[str]:
    return [error.message for error in jsonschema.Draft202012Validator(known).iter_errors(record)]


@pytest.fixture
def old_record():
    with tarfile.open(OLD) as archive:
        (member,) = (one for one in archive if one.name.endswith("/grade.json"))
        return json.load(archive.extractfile(member))


def made(tmp_path, monkeypatch) -> dict:
    """The record that a grading writes, without a container."""
    row = row_of(row_maker.first(), "row")
    ground = Ground(row, "image", "sha256:" + "a" * 64, "sha256:" + "b" * 64, "/testbed", None)

    class Nothing:
        def __enter__(self):
            return SimpleNamespace(pid=1, id="c", layer=None)

        def __exit__(self, *_):
            return None

    applied = {"applied_by": ["git apply"], "tests_applied": ["yes"], "placed": ["c" * 64]}
    applied |= {"restored": [], "settings": []}
    collected = tmp_path / evidence.ARCHIVE
    for name, value in {
        "_container": lambda *_: Nothing(),
        "_give": lambda *_: None,
        "_counters": lambda _: SimpleNamespace(close=lambda: None),
        "_apply": lambda *_: applied,
        "_on_budget": lambda *_: Nothing(),
        "_timed_out": lambda *_: False,
        "_counted": lambda _: (0, None),
        "_collect": lambda *_: collected.write_bytes(b""),
    }.items():
        monkeypatch.setattr(grading, name, value)
    attempt = SimpleNamespace(id="a", path=tmp_path)
    return grading._in_container(None, attempt, ground, GRADER, b"patch", "image", ())


def test_what_is_written_now_fits(known, tmp_path, monkeypatch):
    record = json.loads(json.dumps(made(tmp_path, monkeypatch)))
    assert misfits(record, known) == []
    # Sealing adds these two.
    undescribed = known["properties"].keys() - record.keys()
    assert undescribed == {"ungraded", "spec_sha256", "written"}
    ungraded = evidence.ungraded(tmp_path / "none", b"patch", GRADER, "no room")
    assert misfits(ungraded, known) == []
    assert evidence.read(tmp_path / "none") == (ungraded, [])


def test_what_earlier_versions_wrote_fits(known, old_record):
    assert misfits(old_record, known) == []
    # Before there were a plugin, root's capabilities and a list of what was written.
    older = {key: old_record[key] for key in old_record.keys() - {"placed", "capabilities"}}
    older.pop("written", None)
    assert misfits(older, known) == []


@pytest.mark.parametrize(
    "change", [{"schema": 2}, {"more": 1}, {"timed_out": "no"}, {"fail_to_pass": None}]
)
def test_another_record_does_not_fit(known, old_record, change):
    assert misfits(old_record | change, known)


@pytest.mark.parametrize("key", ["row_sha256", "applied_by", "evidence_sha256", "grader"])
def test_a_record_that_lacks_something_does_not_fit(known, old_record, key):
    assert misfits({k: v for k, v in old_record.items() if k != key}, known)


def fields(node, name):
    for key, field in node.get("properties", {}).items():
        yield f"{name}.{key}", field
        yield from fields(field, f"{name}.{key}")


def test_every_field_says_what_it_is_and_each_quantity_its_unit(known):
    for name, field in fields(known, ""):
        assert field.get("description"), name
        kinds = field.get("type", ())
        kinds = {kinds} if isinstance(kinds, str) else set(kinds)
        if kinds & {"integer", "number"} and name != ".grader.version":
            assert field.get("x-unit"), name
