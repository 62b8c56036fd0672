"""From what a grading left to resolved or not, and to the rows of tables."""

import hashlib
import json
import time

import grade_maker
import pytest

from agentsweep.errors import AgentsweepError
from agentsweep.grading import evidence, run_grades, verdict
from agentsweep.grading.grading import Grader
from agentsweep.grading.pytest_reports import Reported, parse_report, reported_name
from agentsweep.grading.verdict import TestCommandResult, judge
from agentsweep.vocabulary import GradeStatus

F2P, P2P = "tests/test_a.py::test_new", "tests/test_a.py::test_old"
RECORD = grade_maker.record([F2P], [P2P])


def sha256(content):
    return hashlib.sha256(content).hexdigest()


WORDS = {"passed": "PASSED", "failed": "FAILED", "error": "ERROR", "xfailed": "XFAIL"}


def reported(test_id, outcome, duration_s):
    return Reported(test_id, reported_name(test_id), outcome, duration_s)


def command(exit_code=0, said=None, **outcomes):
    """What pytest leaves when the tests `new`, `old` ... have these outcomes."""
    report = [reported(f"tests/test_a.py::test_{n}", o, 0.5) for n, o in outcomes.items()]
    lines = [f"{WORDS[t.outcome]} {t.test_id}" for t in report if t.outcome in WORDS]
    log = "\n".join(["=== short test summary info ===", *lines, "=== 2 passed in 0.1s ==="])
    return TestCommandResult(exit_code, report, log if said is None else said)


def status(*commands, **changes):
    found = judge(RECORD | changes, commands)
    return found.status, found.resolved


def test_all_tests_of_both_lists_passed():
    found = judge(RECORD, [command(new="passed", old="passed", other="passed")])
    assert (found.status, found.detail, found.resolved) == ("graded", None, True)
    assert found.tests == [
        {"test_id": F2P, "kind": "fail_to_pass", "outcome": "passed", "duration_s": 0.5},
        {"test_id": P2P, "kind": "pass_to_pass", "outcome": "passed", "duration_s": 0.5},
        {
            "test_id": "tests/test_a.py::test_other",
            "kind": None,
            "outcome": "passed",
            "duration_s": 0.5,
        },
    ]


@pytest.mark.parametrize(
    ("outcomes", "exit_code", "resolved"),
    [
        ({"new": "failed", "old": "passed"}, 1, False),
        ({"new": "passed", "old": "failed"}, 1, False),
        ({"new": "error", "old": "passed"}, 1, False),
        ({"new": "passed", "old": "skipped"}, 0, False),
        ({"new": "skipped", "old": "passed"}, 0, False),
        ({"new": "passed"}, 0, False),
        ({"old": "passed"}, 0, False),
        # Nobody knows whether it does with the row's own patch.
        ({"new": "passed", "old": "xfailed"}, 0, False),
        ({"new": "passed", "old": "passed", "other": "failed"}, 1, True),
    ],
)
def test_any_test_that_did_not_pass_leaves_a_task_unresolved(outcomes, exit_code, resolved):
    assert status(command(exit_code, **outcomes)) == ("graded", resolved)


PASSED = {"new": "passed", "old": "passed"}


@pytest.mark.parametrize(
    ("commands", "changes", "expected"),
    [
        ([command(**PASSED)], {"applied_by": None}, "patch_failed"),
        ([command(**PASSED)], {"tests_applied": False}, "tests_not_applied"),
        ([command(**PASSED)], {"timed_out": True}, "timed_out"),
        ([], {}, "no_report"),
        ([TestCommandResult(0, None, "PASSED tests/test_a.py::test_new")], {}, "no_report"),
        ([command()], {}, "no_report"),
        ([command(None, **PASSED)], {}, "inconsistent"),
        ([command(0, new="passed", old="failed")], {}, "inconsistent"),
        ([command(0, "nothing", **PASSED)], {}, "inconsistent"),
        ([command(**PASSED), command(None, other="passed")], {}, "inconsistent"),
    ],
)
def test_what_is_not_a_whole_and_consistent_grading_resolves_nothing(commands, changes, expected):
    assert status(*commands, **changes) == (expected, False)
    assert expected in [*GradeStatus]


def test_a_cut_id_stands_for_all_tests_that_share_it():
    record = RECORD | {"fail_to_pass": ["tests/test_a.py::test_p[a"], "pass_to_pass": []}

    def both(second):
        names = ("tests/test_a.py::test_p[a b]", "tests/test_a.py::test_p[a c]")
        report = [reported(names[0], "passed", 1.0), reported(names[1], second, None)]
        worst = f"{WORDS[second]} {names[1]}\nPASSED {names[0]}"
        code = 0 if second == "passed" else 1
        return judge(
            record, [TestCommandResult(code, report, f"=== short test summary info ===\n{worst}")]
        )

    assert both("passed").resolved
    assert not both("failed").resolved
    assert both("failed").tests == [
        {
            "test_id": "tests/test_a.py::test_p[a",
            "kind": "fail_to_pass",
            "outcome": "failed",
            "duration_s": 1.0,
        }
    ]


def test_an_inherited_test_is_the_one_that_the_row_names():
    """The report has the file that defines it, which is another than the one of its id."""
    wanted = "tests/test_a.py::TestA::test_new"
    report = parse_report(
        b'<t><testcase classname="tests.test_a.TestA" name="test_new" file="tests/base.py"/></t>'
    )
    log = f"=== short test summary info ===\nPASSED {wanted}"
    record = RECORD | {"fail_to_pass": [wanted], "pass_to_pass": []}
    found = judge(record, [TestCommandResult(0, report, log)])
    assert (found.status, found.resolved) == ("graded", True), found.detail
    assert [test["test_id"] for test in found.tests] == [wanted]


def test_thousands_of_tests_are_judged_at_once():
    """Each run of a task may have left a patch of its own."""
    outcomes = {f"p[{number} b]": "passed" for number in range(5000)}
    ids = [f"tests/test_a.py::test_{name}" for name in outcomes]
    begin = time.process_time()
    judge(RECORD | {"fail_to_pass": ids, "pass_to_pass": []}, [command(**outcomes)])
    assert time.process_time() - begin < 2


def test_no_expected_test_at_all_resolves_nothing():
    found = judge(RECORD | {"fail_to_pass": [], "pass_to_pass": []}, [command(new="passed")])
    assert (found.status, found.resolved) == ("graded", False)


@pytest.fixture
def graded(tmp_path, monkeypatch):
    """Grades with one grading, of the patch aa of the task t, whose evidence is made up."""
    listed = tmp_path / "patches.json"
    listed.write_text(
        json.dumps([{"task": "t", "patch_sha256": "aa", "run": "unused"}]), encoding="utf-8"
    )
    record = RECORD | {"patch_sha256": "aa", "row_sha256": "dd"}
    found = {tmp_path / "t" / "aa": (record, [command(**PASSED)])}
    monkeypatch.setattr(run_grades.evidence, "read", lambda folder: found[folder.with_name("aa")])
    return run_grades.Grades(listed)


def test_the_grading_of_another_patch_is_refused(graded, tmp_path):
    listed = tmp_path / "patches.json"
    listed.write_text(
        json.dumps([{"task": "t", "patch_sha256": "bb", "run": "unused"}]), encoding="utf-8"
    )
    with pytest.raises(AgentsweepError, match="t/bb is that of another patch: remove"):
        run_grades.Grades(listed)


def run_row(**changes):
    row = {"run_id": "r", "task": "t", "row_sha256": "cc", "patch_status": "ok"}
    return row | {"patch_sha256": "aa"} | changes


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("graded", None, True)),
        (
            {"patch_status": "empty", "patch_sha256": "e3"},
            ("no_patch", "the agent changed nothing", False),
        ),
        (
            {"patch_status": "unavailable", "patch_sha256": None},
            ("ungraded", "the run's patch is unavailable", None),
        ),
        (
            {"task": "other"},
            ("ungraded", "the task's tests are not pytest's, or no grading was asked for", None),
        ),
    ],
)
def test_what_a_run_says_of_its_grading(graded, changes, expected):
    row = run_row(**changes)
    found = graded.of(row)
    assert (found["grade_status"], found["grade_detail"], found["resolved"]) == expected
    assert bool(graded.tests(row)) == (expected[0] == "graded")


NOT_VALID = run_grades.Judged(invalid="its task is not valid: gold patch, time 1: not resolved")


@pytest.mark.parametrize(
    ("judged", "changes", "expected"),
    [
        (NOT_VALID, {}, ("invalid_task", NOT_VALID.invalid, None)),
        (NOT_VALID, {"patch_status": "empty"}, ("invalid_task", NOT_VALID.invalid, None)),
        (run_grades.Judged(ungradable="by bin/test"), {}, ("ungraded", "by bin/test", None)),
        (
            run_grades.Judged(ungradable="by bin/test"),
            {"patch_status": "empty"},
            ("ungraded", "by bin/test", None),
        ),
        (run_grades.Judged(), {}, ("graded", None, True)),
    ],
)
def test_what_is_known_of_a_task_comes_before_its_gradings(graded, judged, changes, expected):
    graded._judged = {"t": judged}
    found = graded.of(run_row(**changes))
    assert (found["grade_status"], found["grade_detail"], found["resolved"]) == expected
    assert expected[0] in [*GradeStatus]


def test_a_task_whose_gradings_cannot_be_made_has_no_graded_run(tmp_path):
    """Else the runs without a patch alone would be its share."""
    listed = tmp_path / "patches.json"
    listed.write_text(
        json.dumps([{"task": "t", "patch_sha256": sha256(b"p"), "run": "unused"}]), encoding="utf-8"
    )
    folder = tmp_path / "t" / sha256(b"p")
    evidence.ungraded(folder, b"p", Grader(1, "1", 1.0, False, False), "too large for this host")
    found = run_grades.Grades(listed)
    for changes in ({"patch_sha256": sha256(b"p")}, {"patch_status": "empty"}):
        row = run_row(**changes)
        said = found.of(row)
        assert (said["grade_status"], said["resolved"]) == ("ungraded", None)
        assert said["grade_detail"] == "too large for this host"
        assert found.tests(row) == []


def test_a_validation_that_could_not_be_made_leaves_its_task_in():
    record = {"valid": None, "problems": [], "unknown": "no engine"}
    assert run_grades.Judged.of(record, None) == run_grades.Judged()
    assert run_grades.Judged.of({"valid": False, "problems": ["gold patch: x"]}, None).invalid


GOLD = verdict.Gold(xfailed=frozenset(["tests.test_a.test_old"]))


def test_a_validation_says_what_the_rows_own_patch_comes_to():
    record = {"valid": False, "problems": ["gold patch: x"], "gold": GOLD.content()}
    assert run_grades.Judged.of(record, None).invalid
    # A task that is kept is judged by it, too.
    kept = run_grades.Judged.of(record, None, keep_invalid=True)
    assert kept == run_grades.Judged(gold=GOLD)
    assert run_grades.Judged.of(record | {"gold": None}, None).gold is None


@pytest.mark.parametrize(("gold", "resolved"), [(GOLD, True), (verdict.Gold(), False)])
def test_an_xfail_counts_where_the_rows_own_patch_has_it(tmp_path, monkeypatch, gold, resolved):
    found = [command(new="passed", old="xfailed")]
    assert judge(RECORD, found, gold).resolved is resolved
    listed = tmp_path / "patches.json"
    listed.write_text(
        json.dumps([{"task": "t", "patch_sha256": "aa", "run": "unused"}]), encoding="utf-8"
    )
    monkeypatch.setattr(
        run_grades.evidence, "read", lambda folder: (RECORD | {"patch_sha256": "aa"}, found)
    )
    said = run_grades.Grades(listed, {"t": run_grades.Judged(gold=gold)}).of(run_row())
    assert (said["resolved"], said["grade_evidence"]) == (resolved, verdict.OLD_EVIDENCE)
    assert ("xfail" in (said["grade_detail"] or "")) is not resolved


def test_of_several_gradings_of_the_rows_own_patch_an_xfail_is_in_all():
    both = [(RECORD, [command(new="passed", old=old)]) for old in ("xfailed", "xfailed")]
    assert verdict.gold_of(both) == GOLD
    both[1] = RECORD, [command(new="passed", old="passed")]
    assert verdict.gold_of(both) == verdict.Gold()
    assert verdict.gold_of([(RECORD | {"applied_by": None}, [])]) is None


def test_a_run_of_a_task_without_a_row_says_nothing(graded):
    row = run_row(row_sha256=None)
    assert graded.of(row) == {}
    assert graded.tests(row) == []


def test_the_tests_of_a_run_name_it_and_the_grader(graded):
    rows = graded.tests(run_row())
    assert [(row["run_id"], row["grader"], row["test_id"]) for row in rows] == [
        ("r", "1", F2P),
        ("r", "1", P2P),
    ]


def test_what_a_grading_came_to_and_why():
    found = judge(RECORD | {"applied_by": None}, [])
    assert found.detail == "no way of applying the patch works"
    # Nothing ran: a test of which nothing is known is missing, and took no time.
    assert [(test["outcome"], test["duration_s"]) for test in found.tests] == [
        ("missing", None)
    ] * 2
    said = judge(RECORD | {"tests_applied": False}, []).detail
    assert said == "the test patch does not apply on top of the patch"


@pytest.mark.parametrize(("kills", "says"), [(0, "test"), (1, "the container ran out of memory")])
def test_no_report_for_want_of_memory_is_said(kills, says):
    found = judge(RECORD | {"oom_kill_count": kills}, [TestCommandResult(137, None, "")])
    assert found.status == "no_report"
    assert found.detail.endswith(says)


def test_a_graded_run_has_the_row_that_it_was_graded_by(graded):
    """The row may have been corrected since the run was made."""
    assert graded.of(run_row(row_sha256="cc"))["row_sha256"] == "dd"
    # One whose patch was not graded keeps what it says of itself.
    assert "row_sha256" not in graded.of(run_row(task="other"))


OLD_NAME = "tests.test_a.test_old"


def test_why_expected_failures_do_not_count():
    def said(gold, **outcomes):
        return judge(RECORD, [command(**outcomes)], gold).detail

    one, both = {"new": "passed", "old": "xfailed"}, {"new": "xfailed", "old": "xfailed"}
    known = "(xfail), and it does not do so with the row's own patch"
    unknown = (
        "(xfail), and whether it does so with the row's own patch is not known: validate the task "
        "(grading.validations)"
    )
    assert said(verdict.Gold(), **one) == f"{P2P} failed as expected {known}"
    assert said(None, **one) == f"{P2P} failed as expected {unknown}"
    assert said(verdict.Gold(), **both) == f"{F2P} and 1 more failed as expected {known}"
    # What is known of one says nothing of another, and no other test of the program counts.
    assert said(GOLD, **both) == f"{F2P} failed as expected {known}"
    assert said(GOLD, **one, other="xfailed") is None
    # A test that failed is reason enough.
    failed = judge(RECORD, [command(1, new="failed", old="xfailed")])
    assert (failed.detail, failed.resolved) == (None, False)


def test_an_ungraded_record_says_why_and_no_more():
    found = judge(RECORD | {"ungraded": "too large"}, [command(**PASSED)])
    assert (found.status, found.detail, found.resolved) == ("ungraded", "too large", None)
    assert (found.tests, found.evidence) == ([], None)
    assert verdict.own_judge(RECORD | {"ungraded": "x"}, []).status == "ungraded"


@pytest.mark.parametrize("kind", verdict.KINDS)
def test_names_of_another_program_are_ungraded(kind):
    record = RECORD | {kind: [F2P, "test_a (module.Class)"]}
    found = judge(record, [command(**PASSED)])
    assert (found.status, found.resolved) == ("ungraded", None)
    assert found.detail == verdict.foreign_name(record)
    assert found.detail == (
        f"{kind.upper()} names 'test_a (module.Class)', which is no name that pytest has for a "
        "test: the row's tests are those of another program"
    )
    assert [test["outcome"] for test in found.tests if test["kind"] == kind] == [
        "passed",
        "missing",
    ]
    assert verdict.foreign_name(RECORD) is None


@pytest.mark.parametrize(
    ("commands", "changes", "says"),
    [
        ([], {"timed_out": True}, "the tests did not end within 60 s"),
        ([], {}, "pytest left no report of any test"),
        (
            [command(None, **PASSED)],
            {},
            "a test command wrote a report, and its exit status is not known",
        ),
        (
            [command(0, new="failed", old="error")],
            {},
            "pytest ended with status 0 and 2 of the row's tests failed",
        ),
        (
            [command(0, "nothing", **PASSED)],
            {},
            f"{F2P} is passed in the report and not in the summary",
        ),
        # Printed as passed, and not in the report.
        (
            [
                command(
                    0, f"=== short test summary info ===\nPASSED {F2P}\nPASSED {P2P}", new="passed"
                )
            ],
            {},
            f"{OLD_NAME} is passed in the summary and not in the report",
        ),
        # A coverage gate may make that status of it.
        ([command(1, **PASSED)], {}, None),
        # A test that is none of the row's may fail.
        ([command(0, other="failed", **PASSED)], {}, None),
    ],
)
def test_why_a_grading_is_none(commands, changes, says):
    assert judge(RECORD | changes, commands).detail == says


def test_a_test_of_two_commands_has_the_worse_outcome_and_the_time_of_both():
    first, second = command(**PASSED), command(1, new="failed", old="passed")
    for commands in ([first, second], [second, first]):
        found = judge(RECORD, commands)
        assert (found.status, found.resolved) == ("graded", False)
        assert [(test["outcome"], test["duration_s"]) for test in found.tests] == [
            ("failed", 1.0),
            ("passed", 1.0),
        ]


def test_what_a_verdict_is_from():
    assert judge(RECORD, [command(**PASSED)]).evidence == verdict.OLD_EVIDENCE
    assert judge(RECORD, []).evidence is None
    assert judge(RECORD, [TestCommandResult(0, None, "")]).evidence is None
