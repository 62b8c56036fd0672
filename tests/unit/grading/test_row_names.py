"""The names that a row may have for a test: whole, as a benchmark's parser cut them, or foreign."""

import string

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from agentsweep.grading.pytest_reports import Reported, reported_name
from agentsweep.grading.row_names import Names, is_pytest_id, spellings

CHARACTERS = string.ascii_letters + string.digits + " -_.:/\\'\"()=,#é世"
PARAMETERS = st.text(CHARACTERS, min_size=1, max_size=30)


def reported(*test_ids):
    return [Reported(test_id, reported_name(test_id), "passed", None) for test_id in test_ids]


def found(names, test_id):
    return [test.test_id for test in names.find(test_id)]


@pytest.mark.parametrize(
    ("test_id", "named"),
    [
        ("tests/test_a.py::test_p[a b]", "tests/test_a.py::test_p[a"),
        ("tests/test_a.py::test_p[a\u00a0b]", "tests/test_a.py::test_p[a"),
        ("tests/test_a.py::test_p[a - b]", "tests/test_a.py::test_p[a"),
        ("tests/test_a.py::test_p[/home/x/bar.txt]", "tests/test_a.py::test_p[/bar.txt]"),
        ("tests/test_a.py::test_p[32m-x]", "tests/test_a.py::test_p-x]"),
        ("tests/test_a.py::test_p[MouseButton.LEFT-x]", "tests/test_a.py::test_p[1-x]"),
        ("tests/test_a.py::test_p[a-long-one]", "tests/test_a.py::test_p[a-lo"),
        ("tests/test_a.py::TestB::()::test_p", "tests/test_a.py::TestB::test_p"),
    ],
)
def test_a_name_that_a_benchmark_cut_stands_for_its_test(test_id, named):
    other = "tests/test_a.py::test_other"
    assert found(Names(reported(test_id, other)), named) == [test_id]
    assert found(Names(reported(other)), named) == []


def test_a_whole_name_is_no_cut_one():
    names = Names(reported("a.py::test_p[x]", "a.py::test_p[x] y]", "a.py::test_p[x y]"))
    assert found(names, "a.py::test_p[x]") == ["a.py::test_p[x]"]
    assert found(names, "a.py::test_p") == []


@given(st.lists(PARAMETERS, min_size=1, max_size=6, unique=True), st.integers(0, 40))
def test_any_beginning_of_an_id_with_parameters_stands_for_all_that_begin_so(parameters, length):
    ids = [f"tests/test_a.py::test_p[{text}]" for text in parameters]
    cut = ids[0][: len("tests/test_a.py::test_p[") + length]
    # It may also be the first word of a whole name, such as `test_p[` is of `test_p[ ]`.
    assume(not any(cut in spellings(test_id) for test_id in ids[1:]))
    here = found(Names(reported(*ids)), cut)
    assert ids[0] in here
    if cut != ids[0] and not cut.endswith("]"):
        assert {test_id for test_id in ids if test_id.startswith(cut)} <= set(here)
    whole = found(Names(reported(*ids)), ids[0])
    assert whole == [ids[0]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tests/test_a.py::test_x", True),
        ("test_a.py", True),
        ("tests/my", True),
        ("README.rst", True),
        ("test_add (basic.tests.AddTests)", False),
        ("test_add", False),
        ("The admin/site works. (see #12)", False),
        ("--version is equivalent to version", False),
    ],
)
def test_names_of_other_programs_are_known_by_their_form(name, expected):
    assert is_pytest_id(name) is expected
