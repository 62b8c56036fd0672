"""Dataclasses as JSON and back: what is not known is refused in one sentence."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from agentsweep.errors import ConfigError
from agentsweep.typed_json import OMIT_NONE, from_json, to_json


@dataclass(frozen=True)
class Quick:
    pace: float
    mode: Literal["quick"] = "quick"


@dataclass(frozen=True)
class Slow:
    mode: Literal["slow"] = "slow"


@dataclass(frozen=True)
class Whole:
    name: str
    path: Path
    kind: Quick | Slow
    parts: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    inner: Slow | None = None
    flag: bool = False
    other: Any = None
    omitted: int | None = field(default=None, metadata=OMIT_NONE)


CONTENT = {"name": "n", "path": "/p", "kind": {"mode": "quick", "pace": 1}}


def test_what_is_written_is_read():
    whole = Whole("n", Path("/p"), Quick(0.5), ("a", "b"), {"x": 1}, Slow(), True, [1], 7)
    text = json.dumps(to_json(whole))
    assert from_json(Whole, json.loads(text), "thing") == whole
    assert json.loads(text)["kind"] == {"mode": "quick", "pace": 0.5}


def test_a_default_need_not_be_there_and_none_may_be_left_out():
    whole = from_json(Whole, CONTENT, "thing")
    assert (whole.kind, whole.parts, whole.omitted) == (Quick(1), (), None)
    assert "omitted" not in to_json(whole)
    assert to_json(whole)["inner"] is None


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"nam_": 1}, "thing.nam_: unknown key; this version of agentsweep knows name, path, kind"),
        ({"kind": {"mode": "quick", "pace": 1, "x": 1}}, "thing.kind.x: unknown key"),
        ({"kind": {"mode": []}}, r"thing.kind.mode: \[\] is not allowed; write one of quick, s"),
        ({"kind": {"mode": "odd"}}, "thing.kind.mode: 'odd' is not allowed; write one of quick, s"),
        ({"kind": 5}, "thing.kind: 5 is not allowed; write a mapping"),
        ({"kind": {"mode": "quick"}}, "thing.kind.pace: missing"),
        ({"name": None}, "thing.name: null is not allowed; write a text"),
        ({"parts": "ab"}, "thing.parts: 'ab' is not allowed; write a list"),
        ({"parts": ["a", 1]}, r"thing.parts\[1\]: 1 is not allowed; write a text"),
        ({"counts": {"x": True}}, "thing.counts.x: true is not allowed; write a whole number"),
        ({"counts": {"x": 1.5}}, "thing.counts.x: 1.5 is not allowed"),
        ({"flag": 1}, "thing.flag: 1 is not allowed; write true or false"),
        ({"path": 1}, "thing.path: 1 is not allowed; write a path"),
    ],
)
def test_what_is_not_known_is_refused_in_one_sentence(change, says):
    with pytest.raises(ConfigError, match=f"^{says}") as error:
        from_json(Whole, CONTENT | change, "thing")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [None, [], "x", 1])
def test_what_is_no_mapping_is_refused(content):
    with pytest.raises(ConfigError, match=r"^thing: .* is not allowed; write a mapping"):
        from_json(Whole, content, "thing")
