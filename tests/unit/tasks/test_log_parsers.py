"""Rows of repositories with a program of their own for their tests, and names of parsers."""

import pytest
import row_maker

from agentsweep.tasks.log_parsers import PYTEST_PARSERS
from agentsweep.tasks.row_fields import row_of


def classic(**changes):
    """A row as SWE-bench publishes it: without commands and without a parser."""
    return row_maker.first(install_config=None, log_parser=None, **changes)


@pytest.mark.parametrize("repo", ["django/django", "sympy/sympy", "Django/Django"])
def test_a_repository_with_a_program_of_its_own_gets_no_default_of_pytest(repo):
    row = row_of(classic(repo=repo), "row")
    assert (row.test_commands, row.log_parser) == ((), None)


def test_another_repository_does():
    row = row_of(classic(repo="pallets/flask"), "row")
    assert (row.test_commands, row.log_parser) == (("pytest -rA",), "parse_log_pytest")


def test_what_such_a_row_names_itself_holds():
    config = {"test_cmd": "pytest -rA tests", "log_parser": "parse_log_pytest"}
    row = row_of(row_maker.first(repo="django/django", install_config=config), "row")
    assert (row.test_commands, row.log_parser) == (("pytest -rA tests",), "parse_log_pytest")


def test_its_hash_is_that_of_stores_made_before():
    """It had pytest's defaults then; the runs of it are found by this hash."""
    defaults = {"test_cmd": "pytest -rA", "log_parser": "parse_log_pytest"}
    image = "docker://registry.example.org/a:1"
    own = row_of(classic(repo="django/django", image=image), "row")
    before = row_of(
        row_maker.first(repo="django/django", image=image, install_config=defaults), "row"
    )
    assert own.sha256 == before.sha256


@pytest.mark.parametrize("name", ["requests", "astropy", "flask", "scikit", "seaborn"])
def test_the_names_of_parsers_by_repository_are_those_of_pytest(name):
    assert f"parse_log_{name}" in PYTEST_PARSERS


@pytest.mark.parametrize("name", ["django", "sympy", "jest", "gotest"])
def test_other_parsers_are_not(name):
    assert f"parse_log_{name}" not in PYTEST_PARSERS
