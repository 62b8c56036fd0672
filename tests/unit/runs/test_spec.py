"""The canonical text of a spec and the names of images: equal where nothing differs, else not."""

import hashlib
import json
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentsweep.hashes import text_sha256
from agentsweep.runs import spec

# What a configuration may hold: whole numbers may come as 1 or 1.0.
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def shuffled(value, floats: bool):
    """The same value with its keys the other way round, and whole numbers as floats."""
    if isinstance(value, dict):
        return {key: shuffled(inner, floats) for key, inner in reversed(value.items())}
    if isinstance(value, list):
        return tuple(shuffled(inner, floats) for inner in value)
    if floats and type(value) is int:
        return float(value)
    return value


@pytest.mark.slow
@given(value=st.dictionaries(st.text(), VALUES, max_size=5), floats=st.booleans())
def test_how_a_spec_is_written_makes_no_difference(value, floats):
    text = spec.canonical(value)
    assert spec.canonical(shuffled(value, floats)) == text
    # It says what it was made of, and nothing is lost or joined.
    assert json.loads(text) == json.loads(json.dumps(value))
    assert spec.canonical(json.loads(text)) == text


def test_the_text_of_a_spec_is_this():
    given = {"b": 1.0, "a": [0.5, True, None, 2], "ü": {"z": "é\n", "y": (3.0, -0.0)}}
    assert spec.canonical(given) == '{"a":[0.5,true,null,2],"b":1,"ü":{"y":[3,0],"z":"é\\n"}}'


@given(text=st.text())
def test_a_hash_is_that_of_the_text_in_utf8(text):
    assert text_sha256(text) == hashlib.sha256(text.encode("utf-8")).hexdigest()


def test_no_text_has_no_hash():
    assert text_sha256(None) is None
    assert text_sha256("") == hashlib.sha256(b"").hexdigest()


ROW, COMMIT = {"row_sha256": "aa"}, {"base_commit": "bb"}


@pytest.mark.parametrize("row", [ROW, COMMIT, ROW | COMMIT, COMMIT | {"row_sha256": None}])
def test_the_agents_part_of_a_spec_is_all_but_the_row(row):
    """Stores keep these hashes: another text would find no run of before."""
    task = {"prompt": "mend it"}
    found = spec.agent_part({"task": row | task, "agent": "x", "cpus": 1.0})
    text = '{"agent":"x","cpus":1,"task":{"prompt":"mend it"}}'
    assert found == hashlib.sha256(text.encode("utf-8")).hexdigest()


@pytest.mark.parametrize(
    "task", [None, "row_sha256", ["base_commit"], {}, {"prompt": "x"}, {"row_sha256": None}]
)
def test_a_task_without_a_row_has_no_such_part(task):
    assert spec.agent_part({"task": task, "agent": "x"}) is None
    assert spec.agent_part({"agent": "x"} | ROW | COMMIT) is None


@given(hundredths=st.integers(1, 409_600))
def test_a_part_of_a_core_needs_a_whole_one(hundredths):
    cpus = Decimal(hundredths) / 100
    needed = spec.cores(str(cpus))
    assert type(needed) is int and needed - 1 < cpus <= needed


IMAGE = ("docker://r.io/team/tool:v1", "sha256:a", "sha256:b", "/testbed", 1000, 1001)


def test_a_locked_images_name_is_what_it_was():
    """Fixed images that are there are found again by it: another would fix them all anew."""
    image = spec.ImageRef(*IMAGE)
    assert (image.name, image.key) == ("tool", "846545844329")
    assert image.directory == "tool~846545844329"
    assert image.tag == "localhost/agentsweep/tool:846545844329"


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("oci-archive:/a/B_c.tar", "b-c"),
        ("docker://r.io/a/tar.b:1", "tar-b"),
        ("docker://r.io:5000/_", "image"),
        ("docker://r.io/--X--", "x"),
        ("docker://r.io/x@sha256:00", "x"),
    ],
)
def test_a_reference_gives_a_readable_name(reference, name):
    assert spec.ImageRef(reference, *IMAGE[1:]).name == name
