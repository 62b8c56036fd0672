"""The record of a run: what is written, field by field, against its schema."""

import dataclasses
import json
import typing

import file_schemas
import jsonschema
import pytest
from run_parts import a_record

from agentsweep.runs import record
from agentsweep.runs.collect import Patch


def properties(*path: str) -> dict:
    node = file_schemas.load("result")["properties"]
    for key in path:
        node = node[key]["properties"]
    return node


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        (record.Record, ()),
        (record.Memory, ("memory",)),
        (record.CounterReadings, ("counters",)),
        (record.AgentFacts, ("agent",)),
        (record.ImageFacts, ("image",)),
        (record.DiskFacts, ("disk",)),
        (record.StreamFacts, ("stream",)),
        (record.Runner, ("runner",)),
        (record.Oom, ("oom",)),
        (record.Names, ("names",)),
        (record.Grant, ("reservation",)),
        (Patch, ("patch",)),
    ],
)
def test_each_field_is_described_and_each_description_is_of_a_field(kind, path):
    assert {one.name for one in dataclasses.fields(kind)} == properties(*path).keys()


def test_each_part_that_is_a_dataclass_was_compared():
    hints = typing.get_type_hints(record.Record)
    parts = {name for name, hint in hints.items() if dataclasses.is_dataclass(hint)}
    assert parts == {
        "names", "memory", "counters", "agent", "image", "disk", "stream", "runner", "oom", "patch",
    }  # fmt: skip


def test_what_is_written_is_as_the_schema_says(tmp_path):
    record.write(a_record(), tmp_path)
    text = (tmp_path / "result.json").read_text(encoding="utf-8")
    content = json.loads(text)
    jsonschema.validate(content, file_schemas.load("result"))
    assert content["schema"] == 1 and "replay" not in content
    assert content["patch"] == {"status": "empty", "sha256": "0" * 64, "bytes": 0}
    # Sorted, a line a field, so that two records can be compared.
    assert text == json.dumps(content, indent=1, sort_keys=True) + "\n"


def test_a_replay_says_what_was_replayed():
    spec = {"model": {"recording_sha256": "7" * 64}}
    assert record.replayed(spec, {}) is None
    progress = {"diverged": None, "unplayed": None}
    replayed = record.replayed(spec, {"replay": progress})
    assert replayed == progress | {"source_sha256": "7" * 64}
    unavailable = Patch("unavailable", None, 0, "the image has no git", "image")
    assert a_record(patch=unavailable).patch.cause == "image"
