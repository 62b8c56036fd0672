"""Layers of a configuration: their order, and that the demo holds for nobody else."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from agentsweep.config import layers
from agentsweep.config import load as loading

ROOT = Path(__file__).resolve().parents[3]

KEYS = st.sampled_from(["sweep", "agent", "tasks", "a", "b"])
SCALARS = st.one_of(st.integers(0, 3), st.booleans(), st.lists(st.integers(0, 2), max_size=2))
# At one place there is always a mapping, or never: what a schema asks for.
TREES = st.fixed_dictionaries(
    {},
    optional={
        "x": SCALARS,
        "agent": st.dictionaries(KEYS, SCALARS, max_size=3),
        "deep": st.fixed_dictionaries({}, optional={"er": st.dictionaries(KEYS, SCALARS)}),
    },
)


@pytest.mark.slow
@given(TREES, TREES, TREES)
def test_merging_is_associative_and_the_later_one_wins(first, second, third):
    assert layers.merge(layers.merge(first, second), third) == layers.merge(
        first, layers.merge(second, third)
    )
    assert layers.merge(first, {}) == first == layers.merge({}, first)
    assert layers.merge(first, second) | second.get("agent", {}) == layers.merge(
        first, second
    ) | second.get("agent", {})
    for key, value in second.get("agent", {}).items():
        assert layers.merge(first, second)["agent"][key] == value


@pytest.fixture
def project(tmp_path, monkeypatch):
    (tmp_path / "config").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(path: str, content: dict) -> Path:
    Path(path).write_text(yaml.safe_dump(content), encoding="utf-8")
    return Path(path)


@pytest.mark.parametrize("where", ["base", "named", "second", None])
def test_the_demo_is_below_where_nothing_says_what_to_sweep(project, where):
    sweep = {"sweep": {"memory": ["1GiB"]}}
    write("config/demo.yaml", {"agent": {"timeout_s": 1}, **sweep})
    write("config/config.yaml", {"dataset": "base"} | (sweep if where == "base" else {}))
    first = write("a.yaml", sweep if where == "named" else {})
    second = write("b.yaml", sweep if where == "second" else {})
    found = layers.files([first, second])
    assert found[-3:] == [layers.BASE, first, second]
    assert found[:-3] == ([layers.DEMO] if where is None else [])
    merged: dict = {}
    for path in found:
        merged = layers.merge(merged, yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    assert ("agent" in merged) == (where is None)
    # Snakemake, which merges by itself, gets the same.
    by_snakemake = {k: v for k, v in merged.items() if where is not None or k == "dataset"}
    assert layers.of_workflow(by_snakemake, [first, second], {})[0] == merged


def test_without_a_base_file_what_is_named_stands_alone(project):
    write("config/demo.yaml", {"sweep": {}})
    assert layers.files([write("a.yaml", {"dataset": "a"})]) == [Path("a.yaml")]


def test_a_sweep_that_names_no_tasks_has_those_of_its_own_files():
    """Not what the base file defines for everybody, which may cost money."""
    named = {"tasks": {"mine": {}}, "sweep": {"memory": ["1GiB"]}}
    merged = layers.merge({"tasks": {"theirs": {}}, "agents": {"claude": {}}}, named)
    assert layers.own_names(merged, [named])["sweep"] == {"memory": ["1GiB"], "tasks": ["mine"]}
    assert layers.own_names(merged, [])["sweep"] == {"memory": ["1GiB"]}
    explicit = layers.merge(merged, {"sweep": {"tasks": ["theirs"]}})
    assert layers.own_names(explicit, [named]) == explicit
    table = layers.merge(merged, {"sweep": {"cells": "cells.csv"}})
    assert layers.own_names(table, [named]) == table


def test_base_and_demo_have_no_key_in_common():
    """So it does not matter which lies above, nor whether the base file is named once more."""

    def leaves(content, path=()):
        if not isinstance(content, dict):
            return {path}
        return {leaf for key in content for leaf in leaves(content[key], (*path, key))}

    base, demo = (
        leaves(yaml.safe_load((ROOT / path).read_text(encoding="utf-8")))
        for path in (layers.BASE, layers.DEMO)
    )
    assert not base & demo
    assert not [path for path in base if path[0] in ("sweep", "dataset", "grading")]
    assert ("agent", "timeout_s") in demo and ("sweep", "skip_unfit") in demo


@pytest.mark.parametrize("name", ["bench", "replay", "agentcgroup", "config", "demo"])
def test_naming_the_base_file_changes_nothing(name, monkeypatch):
    monkeypatch.chdir(ROOT)
    named = [Path(f"config/{name}.yaml")]
    alone, both = layers.files(named), layers.files([layers.BASE, *named])
    assert loading._merged(alone)[0] == loading._merged(both)[0]


def test_texts_of_the_command_line_become_what_the_schema_wants():
    """A text stays where one is allowed; so does what another file says."""
    said = {"agent": {"max_turns": "3", "system_search": "false"}, "dataset": "3"}
    rest = {"grading": {"timeout_s": "60"}, "sweep": {}, "tasks": {"a": "a.yaml"}, "agents": {}}
    found = layers.typed(rest | said, said)
    assert found["agent"] == {"max_turns": 3, "system_search": False}
    assert (found["dataset"], found["grading"]) == ("3", {"timeout_s": "60"})
    assert said["agent"]["max_turns"] == "3"
