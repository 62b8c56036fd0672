"""What the grading's plugin saw decides beside report and summary: each way to contradict it."""

import json

import grade_maker
import pytest

from agentsweep.grading import verdict
from agentsweep.grading.pytest_reports import Reported, reported_name
from agentsweep.grading.verdict import EVIDENCE, OLD_EVIDENCE, Gold, TestCommandResult, judge
from agentsweep.grading.witness import Origin, Witness

FILE, OTHER = "tests/test_a.py", "tests/test_b.py"
NEW, OLD, ELSEWHERE = f"{FILE}::test_new", f"{FILE}::TestOld::test_old", f"{OTHER}::test_else"
NEW_NAME, OLD_NAME, ELSE_NAME = (reported_name(test_id) for test_id in (NEW, OLD, ELSEWHERE))
PLACED_SHA256 = "5a" * 32
RECORD = grade_maker.record([NEW], [OLD, ELSEWHERE], version=2, placed={FILE: PLACED_SHA256})
WORDS = {"passed": "PASSED", "failed": "FAILED", "xfailed": "XFAIL"}
PASSED = {NEW: "passed", OLD: "passed", ELSEWHERE: "passed"}
DIRECT = {NEW_NAME: Origin(FILE, "direct", 3), OLD_NAME: Origin(FILE, "direct", 9)}
HIDDEN = Origin(FILE, "hidden", None, "lib/hide.py")


def saw(outcomes=None, before=(), files=None, **origins) -> Witness:
    """What the plugin saw, by the ids of tests; `origins` of `new` and `old`, None for none."""
    changed = {{"new": NEW_NAME, "old": OLD_NAME}[name]: one for name, one in origins.items()}
    found = {name: one for name, one in (DIRECT | changed).items() if one is not None}
    said = {reported_name(test_id): one for test_id, one in (PASSED | (outcomes or {})).items()}
    return Witness(
        before=set(before),
        files={FILE: PLACED_SHA256} if files is None else files,
        origins=found,
        outcomes={name: one for name, one in said.items() if one is not None},
    )


def command(witness, outcomes=None, exit_code=0) -> TestCommandResult:
    """A test command whose report and summary have these outcomes."""
    said = PASSED | (outcomes or {})
    report = [Reported(test_id, reported_name(test_id), one, 0.5) for test_id, one in said.items()]
    lines = [f"{WORDS[one]} {test_id}" for test_id, one in said.items()]
    log = "\n".join(["=== short test summary info ===", *lines, "=== 3 in 0.1s ==="])
    return TestCommandResult(exit_code, report, log, witness)


GOLD = Gold(origins=DIRECT, before=frozenset({"known"}), witnessed=True)
OLD_GOLD = Gold(before=frozenset({"known"}))
GOLDS = pytest.mark.parametrize("gold", [None, GOLD, OLD_GOLD])


@GOLDS
def test_a_plugin_that_saw_what_the_report_says_is_evidence(gold):
    found = judge(RECORD, [command(saw())], gold)
    assert (found.status, found.detail, found.resolved) == ("graded", None, True)
    assert found.evidence == EVIDENCE


@GOLDS
@pytest.mark.parametrize("placed", [None, [FILE]])
def test_a_record_from_before_the_plugin_is_judged_without_it(gold, placed):
    record = RECORD | {"placed": placed}
    for witness in (None, saw({NEW: "failed"}, files={})):
        found = judge(record, [command(witness)], gold)
        assert (found.status, found.resolved, found.evidence) == ("graded", True, OLD_EVIDENCE)


def test_a_plugin_that_saw_nothing_resolves_nothing_where_it_could():
    def said(gold):
        found = judge(RECORD, [command(None)], gold)
        assert found.resolved is (found.status == "graded")
        assert found.evidence == OLD_EVIDENCE
        return found.detail

    nothing = "the grading's plugin saw nothing of the tests"
    assert said(GOLD) == nothing
    assert said(None) == f"{nothing}, and whether it can is not known: validate the task"
    assert said(OLD_GOLD) is None


def test_each_command_that_reports_needs_the_plugin():
    both = [command(saw()), command(None)]
    assert judge(RECORD, both, GOLD).status == "inconsistent"
    found = judge(RECORD, both, OLD_GOLD)
    assert (found.resolved, found.evidence) == (True, OLD_EVIDENCE)
    # One that reports nothing has no test to see.
    silent = TestCommandResult(0, None, "", None)
    assert judge(RECORD, [silent, command(saw())], GOLD).evidence == EVIDENCE
    assert judge(RECORD, [silent], GOLD).evidence is None


def test_what_was_imported_before_the_plugin_is_compared_with_the_rows_own_patch():
    def said(gold, *before):
        return judge(RECORD, [command(saw(before=before))], gold).detail

    assert said(GOLD, "known") is None
    more = said(GOLD, "known", "evil", "bad")
    assert more == "bad of the work tree was imported before the grading's plugin"
    for gold in (None, OLD_GOLD):
        assert said(gold, "evil") is None


@GOLDS
@pytest.mark.parametrize(
    ("test_id", "seen", "word"),
    [
        *((test_id, "failed", "failed") for test_id in (NEW, OLD, ELSEWHERE)),
        # Collected, and never run; of other files' tests the plugin says nothing before they ran.
        (NEW, None, "missing"),
        (OLD, None, "missing"),
        (ELSEWHERE, None, "not seen"),
    ],
)
def test_a_pass_that_the_plugin_did_not_see_contradicts(gold, test_id, seen, word):
    found = judge(RECORD, [command(saw({test_id: seen}))], gold)
    assert (found.status, found.resolved) == ("inconsistent", False)
    assert found.detail == f"{test_id} is passed in the report and {word} for the plugin"


@pytest.mark.parametrize(
    ("seen", "expected"), [("passed", "graded"), ("xfailed", "graded"), ("skipped", "inconsistent")]
)
def test_an_expected_failure_may_be_a_pass_for_the_plugin(seen, expected):
    found = judge(RECORD, [command(saw({OLD: seen}), {OLD: "xfailed"})], GOLD)
    assert found.status == expected


def test_only_a_pass_has_to_be_seen_and_each_one_has():
    """A failure by the report alone costs nobody a false pass; what comes after it is looked at."""
    first = judge(RECORD, [command(saw({NEW: None}, new=None), {NEW: "failed"}, 1)], GOLD)
    assert (first.status, first.resolved) == ("graded", False)
    both = saw({NEW: None, OLD: "failed"})
    found = judge(RECORD, [command(both, {NEW: "failed"}, 1)], GOLD)
    assert found.detail == f"{OLD} is passed in the report and failed for the plugin"


def test_each_of_the_tests_that_a_cut_name_stands_for_has_to_be_seen():
    cut, first, second = (f"{FILE}::test_p[{rest}" for rest in ("a", "a b]", "a c]"))
    record = RECORD | {"fail_to_pass": [cut]}
    seen = saw({first: None, second: "failed"})
    found = judge(record, [command(seen, {first: "failed", second: "passed"}, 1)], GOLD)
    assert found.detail == f"{second} is passed in the report and failed for the plugin"


@GOLDS
@pytest.mark.parametrize("files", [{}, {FILE: None}, {FILE: "a7" * 32}])
def test_a_test_file_that_is_not_the_one_that_was_put_there_contradicts(gold, files):
    found = judge(RECORD, [command(saw(files=files))], gold)
    assert (found.status, found.resolved) == ("inconsistent", False)
    assert found.detail == f"{FILE} was not what the grading put there when the tests were run"


# What the plugin says of where test_old came from, and of which gold patch: why it does not count.
ORIGINS = {
    "nowhere": (None, None, f"{OLD} was collected, and not from {FILE}"),
    "nowhere, and known": (None, GOLD, f"{OLD} was collected, and not from {FILE}"),
    "another file": (Origin(OTHER, "direct", 9), None, f"{OLD} was not from {FILE}"),
    "another file, with the gold patch as well": (
        Origin(OTHER, "direct", 9),
        Gold(origins=DIRECT | {OLD_NAME: Origin(OTHER, "direct", 9)}, witnessed=True),
        None,
    ),
    "code of another file": (
        Origin(FILE, "other", 9, "lib/fake.py"),
        None,
        f"{OLD} was not from {FILE} but from lib/fake.py",
    ),
    "code of another file, and known": (
        Origin(FILE, "other", 9, "lib/fake.py"),
        GOLD,
        f"{OLD} was not from {FILE} but from lib/fake.py",
    ),
    "another function": (
        Origin(FILE, "direct", 3),
        GOLD,
        f"{OLD} was not the function of {FILE} that it is with the row's patch",
    ),
    "another function, unknown": (Origin(FILE, "direct", 3), None, None),
    "another function, known by one without the plugin": (
        Origin(FILE, "direct", 3),
        Gold(origins=DIRECT),
        None,
    ),
    "hidden, unknown": (
        HIDDEN,
        None,
        f"{OLD} was not seen to be the function of {FILE} but from lib/hide.py: validate the task "
        "(grading.validations)",
    ),
    "hidden, and the gold patch is from before the plugin": (HIDDEN, OLD_GOLD, None),
    "hidden, with the gold patch as well": (
        HIDDEN,
        Gold(origins=DIRECT | {OLD_NAME: HIDDEN}, witnessed=True),
        None,
    ),
    "hidden, and not with the gold patch": (
        HIDDEN,
        GOLD,
        f"{OLD} was not the function of {FILE} that it is with the row's patch",
    ),
}


@pytest.mark.parametrize("case", ORIGINS)
def test_a_test_that_is_not_that_of_the_file_contradicts(case):
    origin, gold, says = ORIGINS[case]
    found = judge(RECORD, [command(saw(old=origin))], gold)
    assert found.detail == says
    assert found.resolved is (says is None)
    assert found.status == ("graded" if says is None else "inconsistent")


def test_the_plugin_names_tests_from_pytests_root_directory():
    """As the report does, which may be above or below the row's."""
    lower = saw()
    lower.outcomes = {f"sub.{name}": one for name, one in lower.outcomes.items()}
    lower.origins = {f"sub.{name}": one for name, one in lower.origins.items()}
    found = judge(RECORD, [command(lower)], GOLD)
    assert (found.status, found.detail, found.resolved) == ("graded", None, True)


def test_what_the_rows_own_patch_came_to():
    """Of the tests that the row names alone, and of commands that report."""
    extra = saw({OLD: "xfailed"}, before=["known"])
    extra.origins["tests.test_a.test_extra"] = Origin(FILE, "direct", 20)
    left = command(extra, {OLD: "xfailed"})
    silent = TestCommandResult(0, None, "", saw(before=["not counted"]))
    made = verdict.gold_of([(RECORD, [left, silent])])
    assert made == Gold(frozenset({OLD_NAME}), DIRECT, frozenset({"known"}), True)
    assert judge(RECORD, [left], made).resolved
    assert verdict.own_judge(RECORD, [left]).resolved
    # Without it an expected failure counts as one.
    assert not judge(RECORD, [left]).resolved


def test_the_rows_own_patch_is_witnessed_where_each_command_is():
    both = [command(saw()), command(None)]
    made = verdict.gold_of([(RECORD, both)])
    assert made == Gold(frozenset(), DIRECT, frozenset(), False)
    made = verdict.gold_of([(RECORD | {"placed": None}, [command(saw())])])
    assert made is not None and not made.witnessed


def test_of_several_gradings_the_first_one_with_the_plugin_says_where_tests_are_from():
    without = RECORD | {"placed": None}, [command(None, {OLD: "xfailed", NEW: "xfailed"})]
    ungraded = {"ungraded": "no engine"}, []
    failed = RECORD, [command(saw({NEW: "failed"}, before=["failed"]))]
    with_it = RECORD, [command(saw({OLD: "xfailed"}, before=["first"]), {OLD: "xfailed"})]
    later = RECORD, [command(saw({OLD: "xfailed"}, before=["later"]), {OLD: "xfailed"})]
    made = verdict.gold_of([ungraded, without, failed, with_it, later])
    assert made == Gold(frozenset({OLD_NAME}), DIRECT, frozenset({"first"}), True)
    alone = verdict.gold_of([without])
    assert alone == Gold(frozenset({OLD_NAME, NEW_NAME}))
    assert verdict.gold_of([ungraded, failed]) is None


def test_what_is_known_of_the_rows_own_patch_is_kept_whole():
    gold = Gold(
        frozenset({"b", "a"}), DIRECT | {OLD_NAME: HIDDEN}, frozenset({"z", "y"}), witnessed=True
    )
    content = gold.content()
    assert content == {
        "xfailed": ["a", "b"],
        "origins": {
            NEW_NAME: {"path": FILE, "code": "direct", "line": 3, "where": None},
            OLD_NAME: {"path": FILE, "code": "hidden", "line": None, "where": "lib/hide.py"},
        },
        "before": ["y", "z"],
        "witnessed": True,
    }
    assert Gold.of_content(json.loads(json.dumps(content))) == gold
    assert Gold.of_content(Gold().content()) == Gold()
