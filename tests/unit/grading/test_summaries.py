"""Report and printed summary together: whole messages, plugins' lines, subtests, forgeries."""

import string
import subprocess
import sys

import grade_maker
import pytest
from hypothesis import given
from hypothesis import strategies as st
from timing import LIMIT, growth

from agentsweep.grading.pytest_reports import Reported, parse_report, reported_name, settle
from agentsweep.grading.verdict import TestCommandResult, own_judge

HEADER = "=========================== short test summary info ============================"
MINE = ("tests/test_a.py::test_new", "tests/test_a.py::test_p[a b - c]")
BAD = "tests/test_b.py::test_bad"
WORDS = {"passed": "PASSED", "failed": "FAILED", "error": "ERROR", "xfailed": "XFAIL"}
RECORD = grade_maker.record([MINE[0]], [MINE[1]])

# What messages of failed tests are made of: anything, and what looks like parts of a summary.
LINES = st.one_of(
    st.text(string.printable + "é世\x0c\x1c\u2028", max_size=40),
    st.sampled_from(
        [HEADER, "FAILED (failures=1)", "===== 1 failed in 0.01s =====", "3 passed in 0.1s"]
    ),
    st.builds(
        "{} {}{}".format,
        st.sampled_from(sorted(WORDS.values())),
        st.sampled_from([*MINE, BAD, "inner.py::test_x"]),
        st.sampled_from(["", " - assert 0"]),
    ),
)
MESSAGES = st.lists(LINES, min_size=1, max_size=8).map("\n".join)


def reported(**outcomes):
    return [Reported(test_id, reported_name(test_id), o, 0.1) for test_id, o in outcomes.items()]


def printed(outcomes, messages=None, stats="=== 1 failed, 2 passed in 0.12s ==="):
    """pytest's output with the short summary of `-rA`: those that passed first, failed last."""
    lines = ["============ test session starts ============", HEADER]
    for kind in ("passed", "xfailed", "error", "failed"):
        for test_id, outcome in outcomes.items():
            if outcome == kind:
                message = (messages or {}).get(test_id)
                lines.append(
                    f"{WORDS[kind]} {test_id}" + (f" - {message}" if message is not None else "")
                )
    return "\n".join([*lines, stats, ""])


def verdict_on(outcomes, log, exit_code=1):
    return own_judge(RECORD, [TestCommandResult(exit_code, reported(**outcomes), log)])


@pytest.mark.slow
@given(MESSAGES, st.sampled_from(["failed", "error", "xfailed"]))
def test_no_message_of_another_test_takes_a_right_patch_its_verdict(message, outcome):
    outcomes = dict.fromkeys(MINE, "passed") | {BAD: outcome}
    found = verdict_on(outcomes, printed(outcomes, {BAD: message}))
    assert (found.status, found.resolved) == ("graded", True), found.detail


@given(MESSAGES, st.sampled_from(MINE))
def test_no_message_makes_a_test_pass_that_did_not(message, mine):
    outcomes = dict.fromkeys(MINE, "passed") | {mine: "failed", BAD: "failed"}
    found = verdict_on(outcomes, printed(outcomes, {BAD: message, mine: message}))
    assert found.resolved is False


def test_a_forged_report_alone_resolves_nothing():
    """The summary is that of the tests as they were."""
    outcomes = dict.fromkeys(MINE, "failed")
    log = printed(outcomes)
    forged = dict.fromkeys(MINE, "passed")
    found = verdict_on(forged, log, 0)
    assert (found.status, found.resolved) == ("inconsistent", False)


@pytest.mark.parametrize("exit_code", [0, 1, 2, 5, 7, 139])
def test_no_exit_status_takes_a_right_patch_its_verdict(exit_code):
    """A coverage gate, a plugin, a pipe, a crash after the last test."""
    outcomes = dict.fromkeys(MINE, "passed") | {BAD: "failed"}
    for these in (outcomes, dict.fromkeys(MINE, "passed")):
        found = verdict_on(these, printed(these), exit_code)
        assert (found.status, found.resolved) == ("graded", True), found.detail


TABLE = {
    # What report and summary say of a test of the row, who else failed, and what comes of it.
    "both passed": ("passed", ["PASSED"], False, ("graded", True)),
    "an error in the summary alone": (
        "passed",
        ["PASSED", "ERROR"],
        False,
        ("inconsistent", False),
    ),
    "that, in another's message": ("passed", ["PASSED", "ERROR"], True, ("graded", True)),
    "a failure in the summary alone": ("passed", ["FAILED"], False, ("inconsistent", False)),
    "the same beside others": ("passed", ["FAILED"], True, ("inconsistent", False)),
    "a failure in the report alone": ("failed", ["PASSED"], False, ("inconsistent", False)),
    "in neither": ("passed", [], True, ("inconsistent", False)),
    "both failed": ("failed", ["FAILED"], False, ("graded", False)),
    "an error at its end": ("error", ["PASSED", "ERROR"], False, ("graded", False)),
    "both xfailed": ("xfailed", ["XFAIL"], False, ("graded", True)),
    "xpassed": ("passed", ["XPASS"], False, ("graded", True)),
    "skipped": ("skipped", [], False, ("graded", False)),
    "skipped and printed as passed": ("skipped", ["PASSED"], False, ("inconsistent", False)),
}


@pytest.mark.parametrize("name", TABLE)
def test_what_report_and_summary_come_to(name):
    outcome, words, others, expected = TABLE[name]
    outcomes = {MINE[0]: outcome, MINE[1]: "passed"} | ({BAD: "failed"} if others else {})
    lines = [f"{word} {MINE[0]}" for word in words] + [f"PASSED {MINE[1]}"]
    lines += [f"FAILED {BAD} - no"] if others else []
    log = "\n".join([HEADER, *lines, "=== 1 failed in 0.1s ==="])
    found = verdict_on(outcomes, log, 1)
    assert (found.status, found.resolved) == expected, found.detail


@pytest.mark.parametrize("kind", ["fail_to_pass", "pass_to_pass"])
def test_a_row_with_names_of_another_program_is_not_judged(kind):
    record = RECORD | {kind: ["test_add (basic.tests.AddTests)"]}
    outcomes = dict.fromkeys(MINE, "passed")
    found = own_judge(record, [TestCommandResult(0, reported(**outcomes), printed(outcomes))])
    assert (found.status, found.resolved) == ("ungraded", None)
    assert "is no name that pytest has for a test" in found.detail


def test_a_grading_that_could_not_be_made_says_why():
    found = own_judge({"ungraded": "too large"}, ())
    assert (found.status, found.detail, found.resolved) == ("ungraded", "too large", None)


SUBTESTS = """\
import pytest, unittest
def test_new(subtests):
    for i in range(3):
        with subtests.test("m", i=i):
            if i == 1: pytest.skip("not here")
class TestU(unittest.TestCase):
    def test_u(self):
        with self.subTest(i=1): self.skipTest("x")
        with self.subTest(i=2): pass
def test_bad(subtests):
    with subtests.test("[x] - y"): assert 0, "FAILED a"
def test_skipped(): pytest.skip("all of it")
"""


@pytest.mark.slow
@pytest.mark.parametrize("verbose", ["", "-v", "-vv"])
def test_a_test_with_a_skipped_subtest_passed(tmp_path, verbose):
    """As pytest 9 itself says, whose report has one element for test and subtest."""
    pytest.importorskip("_pytest.subtests")
    (tmp_path / "test_s.py").write_text(SUBTESTS, encoding="utf-8")
    command = [sys.executable, "-m", "pytest", "-rA", "--color=no", "-p", "no:cacheprovider"]
    command += ["-p", "no:hypothesispytest", "-o", "junit_family=xunit1", "--junitxml=r.xml"]
    command += ["--rootdir=.", "test_s.py", *([verbose] if verbose else [])]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, encoding="utf-8", check=False)
    report = parse_report((tmp_path / "r.xml").read_bytes())
    outcomes, problem = settle(report, done.stdout)
    assert problem is None
    assert outcomes == {
        "test_s.test_new": "passed",
        "test_s.TestU.test_u": "passed",
        "test_s.test_bad": "failed",
        "test_s.test_skipped": "skipped",
    }
    # Printed alone it is a forgery where the report counts no pass beyond the tests'.
    alone = parse_report(
        b'<t><testsuite tests="1" skipped="1"><testcase classname="test_s" name="test_skipped">'
        b"<skipped/></testcase></testsuite></t>"
    )
    forged = f"{HEADER}\nPASSED test_s.py::test_skipped\n"
    assert settle(alone, forged)[1] is not None


@pytest.mark.slow
@pytest.mark.parametrize(("root", "start"), [("python", "."), (".", "python")])
def test_a_root_of_pytest_that_is_not_where_it_was_started(tmp_path, root, start):
    """Ids are printed from where it was started, and reported from its root."""
    tests = tmp_path / "python" / "tests"
    tests.mkdir(parents=True)
    (tmp_path / root / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    (tests / "test_a.py").write_text("def test_new(): pass\n", encoding="utf-8")
    given = "python/tests/test_a.py" if start == "." else "tests/test_a.py"
    command = [sys.executable, "-m", "pytest", "-rA", "--color=no", "-p", "no:cacheprovider"]
    command += ["-o", "junit_family=xunit1", f"--junitxml={tmp_path}/r.xml", given]
    done = subprocess.run(
        command, cwd=tmp_path / start, capture_output=True, encoding="utf-8", check=False
    )
    report = parse_report((tmp_path / "r.xml").read_bytes())
    record = RECORD | {"fail_to_pass": [f"{given}::test_new"], "pass_to_pass": []}
    found = own_judge(record, [TestCommandResult(0, report, done.stdout)])
    assert (found.status, found.resolved) == ("graded", True), found.detail
    # Not what a test elsewhere, which was printed by its own id, came to.
    elsewhere = done.stdout.replace(f"PASSED {given}", "PASSED other/tests/test_a.py")
    assert own_judge(record, [TestCommandResult(0, report, elsewhere)]).resolved is False


@pytest.mark.slow
def test_a_summary_is_read_in_linear_time():
    """Whoever writes a patch writes what is printed."""

    def reading(size):
        outcomes = dict.fromkeys(MINE, "passed") | {BAD: "failed"}
        message = "\n".join([HEADER, f"FAILED {' - a' * 20}", f"PASSED {MINE[0]}"] * size)
        log = printed(outcomes, {BAD: message})
        return lambda: verdict_on(outcomes, log)

    assert growth(reading, 16_000) < LIMIT
