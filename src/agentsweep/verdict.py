"""Did a patch resolve its task? From what a grading left behind, without a container."""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentsweep import pytest_reports
from agentsweep.pytest_reports import Reported, reported_name
from agentsweep.row_names import Names, from_start, is_pytest_id

# What a grading came to. Only `graded` ones can have resolved anything; no other is an error of
# the sweep. `ungraded`: nothing is known (no patch to be had, tests that are not pytest's, a
# grading that could not be made); `invalid_task`: the task's own fix does not resolve it.
STATUSES = (
    *("graded", "no_patch", "patch_failed", "tests_not_applied"),
    *("timed_out", "no_report", "inconsistent", "ungraded", "invalid_task"),
)

# A benchmark's two lists of tests.
KINDS = ("fail_to_pass", "pass_to_pass")


@dataclass(frozen=True)
class Command:
    """One test command: exit status (None: it never ended), report (None: none) and output."""

    exit_code: int | None
    report: Sequence[Reported] | None
    log: str


@dataclass(frozen=True)
class Verdict:
    """`status` is one of STATUSES, `detail` why; `tests` are the rows of `tests` so far.

    resolved: true if and only if each test of the row's two lists passed, by the report and by
    the printed summary; None where the status says that nothing is known.
    """

    status: str
    detail: str | None
    resolved: bool | None
    tests: list[dict]


def judge(record: Mapping, commands: Sequence[Command]) -> Verdict:
    """The verdict on a grading: its `grade.json` and what its test commands left.

    A test that was skipped or is missing did not pass; one that failed as expected did, as the
    benchmark has it.
    """
    if record.get("ungraded"):
        return Verdict("ungraded", record["ungraded"], None, [])
    found = [_Found(record, command) for command in commands]
    tests = _expected(record, found) + _others(found)
    foreign = foreign_name(record)
    if foreign is not None:
        return Verdict("ungraded", foreign, None, tests)
    status, detail = _status(record, found)
    wanted = [counts(test) for test in tests if test["kind"]]
    resolved = status == "graded" and bool(wanted) and all(wanted)
    return Verdict(status, detail, resolved, tests)


def counts(test: Mapping) -> bool:
    """Whether a row of `tests` counts as passed."""
    return test["outcome"] in pytest_reports.PASSING


def foreign_name(lists: Mapping) -> str | None:
    """Why the names in a row's two lists are not those of pytest; None where they are."""
    for kind in KINDS:
        for name in lists[kind]:
            if not is_pytest_id(name):
                return (
                    f"{kind.upper()} names {name!r}, which is no name that pytest has for a test: "
                    "the row's tests are those of another program"
                )
    return None


class _Found:
    """What one command left of the tests that a row names: `tests` and `outcomes` by these names.

    problem: where its report and its printed summary contradict each other on one of them.
    """

    def __init__(self, record: Mapping, command: Command):
        self.command = command
        wanted = [test_id for kind in KINDS for test_id in record[kind]]
        self.reported = from_start(command.report or (), wanted)
        names = Names(self.reported)
        self.tests = {test_id: names.find(test_id) for test_id in wanted}
        self.counted = {test.name for tests in self.tests.values() for test in tests}
        absent = {reported_name(name) for name, tests in self.tests.items() if not tests}
        self.outcomes, self.problem = {}, None
        if self.reported:
            self.outcomes, self.problem = pytest_reports.settle(
                self.reported, command.log, self.counted, absent
            )

    def inconsistency(self) -> str | None:
        """Why the parts of what the command left do not fit together.

        The exit status says as much of other things as of tests (a coverage gate, a plugin, a pipe
        that swallows it), so that it contradicts nothing but a failure of a test that counts.
        """
        if not self.reported:
            return None
        if self.command.exit_code is None:
            return "a test command wrote a report, and its exit status is not known"
        bad = sum(outcome in ("failed", "error") for outcome in self.outcomes.values())
        if bad and self.command.exit_code == 0:
            return f"pytest ended with status 0 and {bad} of the row's tests failed"
        return self.problem


def _status(record: Mapping, found: Sequence[_Found]) -> tuple[str, str | None]:
    if record["applied_by"] is None:
        return "patch_failed", "no way of applying the patch works"
    if not record["tests_applied"]:
        return "tests_not_applied", "the test patch does not apply on top of the patch"
    if record["timed_out"]:
        return "timed_out", f"the tests did not end within {record['grader']['timeout_s']:g} s"
    if not any(one.reported for one in found):
        memory = ": the container ran out of memory" if record["oom_kill_count"] else ""
        return "no_report", f"pytest left no report of any test{memory}"
    for one in found:
        problem = one.inconsistency()
        if problem:
            return "inconsistent", problem
    return "graded", None


def _expected(record: Mapping, found: Sequence[_Found]) -> list[dict]:
    rows = []
    for kind in KINDS:
        for test_id in record[kind]:
            tests = [
                (one.outcomes[test.name], test) for one in found for test in one.tests[test_id]
            ]
            outcome = functools.reduce(pytest_reports.worse, (said for said, _ in tests), None)
            seconds = [test.duration_s for _, test in tests if test.duration_s is not None]
            rows.append(_test_row(test_id, kind, outcome, sum(seconds) if seconds else None))
    return rows


def _others(found: Sequence[_Found]) -> list[dict]:
    return [
        _test_row(test.test_id, None, test.outcome, test.duration_s)
        for one in found
        for test in one.reported
        if test.name not in one.counted
    ]


def _test_row(test_id: str, kind: str | None, outcome: str | None, seconds: float | None) -> dict:
    return {
        "test_id": test_id,
        "kind": kind,
        "outcome": outcome or "missing",
        "duration_s": seconds,
    }
