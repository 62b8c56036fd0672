"""What pytest reported: its JUnit file, and the summary that has to agree with it."""

import pytest

from agentsweep.grading import pytest_reports

REPORT = b"""<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest" errors="1" failures="1" skipped="2" tests="7">
<testcase classname="tests.test_a" name="test_one" file="tests/test_a.py" line="1" time="0.5"/>
<testcase classname="tests.test_a.TestB" name="test_two[a b]" file="tests/test_a.py" time="0.1">
  <failure message="x">y</failure></testcase>
<testcase classname="tests.test_a" name="test_skip" file="tests/test_a.py" time="0">
  <skipped type="pytest.skip" message="no"/></testcase>
<testcase classname="tests.test_a" name="test_xfail" file="tests/test_a.py" time="0">
  <skipped type="pytest.xfail" message="known"/></testcase>
<testcase classname="tests.test_a" name="test_twice" file="tests/test_a.py" time="0"/>
<testcase classname="tests.test_a" name="test_twice" file="tests/test_a.py" time="0">
  <error message="at teardown"/></testcase>
<testcase classname="" name="tests.test_broken" time="0"><error message="collection failure"/>
</testcase>
</testsuite></testsuites>"""

LOG = """\
tests/test_a.py .Fsx.E
PASSED tests/test_a.py::test_forged
=========================== short test summary info ============================
\x1b[32mPASSED\x1b[0m tests/test_a.py::test_one
PASSED tests/test_a.py::test_twice
SKIPPED [1] tests/test_a.py:3: no
XFAIL tests/test_a.py::test_xfail - known
ERROR tests/test_a.py::test_twice - at teardown
ERROR tests/test_broken.py - ImportError: PASSED
FAILED tests/test_a.py::TestB::test_two[a b] - x
=================== 1 failed, 2 passed, 2 errors in 0.12s ======================
PASSED tests/test_a.py::test_after
"""


@pytest.fixture
def reported():
    return pytest_reports.parse_report(REPORT)


def test_a_report_gives_each_test_its_worst_outcome(reported):
    found = [(test.test_id, test.outcome, test.duration_s) for test in reported]
    assert found == [
        ("tests/test_a.py::test_one", "passed", 0.5),
        ("tests/test_a.py::TestB::test_two[a b]", "failed", 0.1),
        ("tests/test_a.py::test_skip", "skipped", 0.0),
        ("tests/test_a.py::test_xfail", "xfailed", 0.0),
        ("tests/test_a.py::test_twice", "error", 0.0),
        ("tests.test_broken", "error", 0.0),
    ]


# What pytest 9.2 leaves of tests that are defined in another file than the one they belong to, of
# ids that differ behind a blank, and of files that it could not collect.
AWKWARD_REPORT = b"""<t>
<testcase classname="tests.test_x.TestX" name="test_inherited" file="tests/base.py" time="nan"/>
<testcase classname="tests.test_x" name="test_p[a b]" file="tests/test_x.py" time="0"/>
<testcase classname="tests.test_x" name="test_p[a c]" file="tests/test_x.py" time="0"><skipped/>
</testcase><testcase classname="tests.test_x" name="test_p[z/q.py::t]" file="tests/test_x.py"/>
<testcase classname="tests.test_y.TestY" name="test_inherited" file="tests/base.py"/>
<testcase classname="" name="tests.test_z" file="tests/test_z.py"><error/></testcase>
</t>"""
AWKWARD_LOG = """\
=========================== short test summary info ============================
PASSED tests/test_x.py::TestX::test_inherited
PASSED tests/test_x.py::test_p[a b]
PASSED tests/test_x.py::test_p[z/q.py::t]
PASSED tests/test_y.py::TestY::test_inherited
SKIPPED [1] tests/test_x.py:11: no
ERROR tests/test_z.py - ValueError
"""


def test_awkward_tests_have_their_own_ids_and_agree_with_the_summary():
    reported = pytest_reports.parse_report(AWKWARD_REPORT)
    assert [(test.test_id, test.duration_s) for test in reported] == [
        ("tests/test_x.py::TestX::test_inherited", None),
        ("tests/test_x.py::test_p[a b]", 0.0),
        ("tests/test_x.py::test_p[a c]", 0.0),
        ("tests/test_x.py::test_p[z/q.py::t]", None),
        # No file of the report says where the module ends.
        ("tests.test_y.TestY::test_inherited", None),
        ("tests/test_z.py", None),
    ]
    assert pytest_reports.disagreement(reported, AWKWARD_LOG) is None
    forged = AWKWARD_LOG.replace("SKIPPED [1]", "PASSED tests/test_x.py::test_new")
    # The row names it; of other tests, a line alone says nothing.
    _, problem = pytest_reports.settle(reported, forged, (), {"tests.test_x.test_new"})
    assert problem == "tests.test_x.test_new is passed in the summary and not in the report"
    assert pytest_reports.disagreement(reported, forged) is None


@pytest.mark.parametrize(
    ("test_id", "name"),
    [
        ("tests/test_x.py::TestX::test_a", "tests.test_x.TestX.test_a"),
        ("tests/test_x.py::TestX::()::test_a", "tests.test_x.TestX.test_a"),
        ("tests/test_x.py::test_a[b/c.py::d", "tests.test_x.test_a[b/c.py::d"),
        ("README.rst::README.rst", "README.rst.README.rst"),
        ("tests/test_z.py", "tests.test_z"),
    ],
)
def test_a_report_calls_a_test_by_its_module(test_id, name):
    assert pytest_reports.reported_name(test_id) == name


DEEP = b"<a>" * 30 + b"</a>" * 30


@pytest.mark.parametrize("content", [None, b"", b"<testsuites>", b"\x00", REPORT[:400], DEEP])
def test_a_report_that_is_not_whole_is_none(content):
    assert pytest_reports.parse_report(content) is None


def test_a_report_and_its_log_agree(reported):
    assert pytest_reports.disagreement(reported, LOG) is None


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        (
            "FAILED tests/test_a.py::TestB",
            "PASSED tests/test_a.py::TestB",
            "tests/test_a.py::TestB::test_two[a b] is failed in the report and passed in the "
            "summary",
        ),
        (
            "XFAIL tests/test_a.py::test_xfail - known\n",
            "",
            "tests/test_a.py::test_xfail is xfailed in the report and not in the summary",
        ),
        (
            "short test summary info",
            "captured stdout",
            "tests/test_a.py::test_one is passed in the report and not in the summary",
        ),
    ],
)
def test_what_is_printed_otherwise_is_found(reported, before, after, problem):
    assert before in LOG
    assert pytest_reports.disagreement(reported, LOG.replace(before, after, 1)) == problem
