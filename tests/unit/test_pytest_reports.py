"""What pytest reported: its JUnit file, and the summary that has to agree with it."""

import pytest

from agentsweep import pytest_reports
from agentsweep.pytest_reports import Reported

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
    assert reported == [
        Reported("tests/test_a.py::test_one", "passed", 0.5),
        Reported("tests/test_a.py::TestB::test_two[a b]", "failed", 0.1),
        Reported("tests/test_a.py::test_skip", "skipped", 0.0),
        Reported("tests/test_a.py::test_xfail", "xfailed", 0.0),
        Reported("tests/test_a.py::test_twice", "error", 0.0),
        Reported("tests.test_broken", "error", 0.0),
    ]


@pytest.mark.parametrize("content", [None, b"", b"<testsuites>", b"\x00", REPORT[:400]])
def test_a_report_that_is_not_whole_is_none(content):
    assert pytest_reports.parse_report(content) is None


def test_only_the_last_summary_of_a_log_counts():
    assert pytest_reports.printed_outcomes(LOG) == {
        "tests/test_a.py::test_one": "passed",
        "tests/test_a.py::test_twice": "error",
        "tests/test_a.py::test_xfail": "xfailed",
        "tests/test_broken.py": "error",
        "tests/test_a.py::TestB::test_two[a": "failed",
    }
    assert pytest_reports.printed_outcomes("PASSED tests/test_a.py::test_one\n") == {}


def test_a_report_and_its_log_agree(reported):
    assert pytest_reports.disagreement(reported, LOG) is None


@pytest.mark.parametrize(
    ("before", "after", "problem"),
    [
        (
            "FAILED tests/test_a.py::TestB",
            "PASSED tests/test_a.py::TestB",
            "tests/test_a.py::TestB::test_two[a is failed in the report and passed in the summary",
        ),
        (
            "XFAIL tests/test_a.py::test_xfail - known\n",
            "",
            "tests/test_a.py::test_xfail is xfailed in the report and not in the summary",
        ),
        (
            "SKIPPED [1]",
            "PASSED tests/test_a.py::test_new\nSKIPPED [1]",
            "tests/test_a.py::test_new is passed in the summary and not in the report",
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
