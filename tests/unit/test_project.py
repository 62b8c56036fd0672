"""What the project says of itself: one version, one licence, and files that others look for."""

import tomllib
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

import agentsweep

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_one_version_everywhere():
    assert PROJECT["version"] == agentsweep.__version__ == CITATION["version"]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {agentsweep.__version__}\n" in changes


def test_one_licence_everywhere():
    assert PROJECT["license"] == CITATION["license"] == "MIT"
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").startswith("MIT License\n")


def test_the_citation_has_what_its_format_requires():
    """Citation File Format 1.2.0: required keys, and what an author may be."""
    assert {"cff-version", "message", "title", "authors"} <= CITATION.keys()
    assert CITATION["cff-version"] == "1.2.0"
    assert all(author.keys() == {"name"} for author in CITATION["authors"])


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/architecture.md", "SECURITY.md"])
def test_commands_and_files_that_a_page_names_are_there(name):
    text = (ROOT / name).read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    words = [word.strip("(),.") for word in text.replace("`", " ").split()]
    targets = {after for word, after in pairwise(words) if word == "make"}
    assert {target for target in targets if f"\n{target}:" not in makefile} == set()
    for link in text.split("](")[1:]:
        target = link.split(")")[0].split("#")[0]
        assert "://" in target or (ROOT / name).parent.joinpath(target).exists(), target


def test_every_module_that_the_page_on_architecture_names_is_there():
    text = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    named = {
        piece for piece in text.split("`")[1::2] if "/" in piece and piece.endswith((".py", "mark"))
    }
    places = (ROOT, ROOT / "src" / "agentsweep", ROOT / "src" / "agentsweep" / "host")
    missing = {n for n in named if not any((place / n).exists() for place in places)}
    assert missing == {"workflow/scripts/figures/NAME.py"}
    assert len(named) > 20
