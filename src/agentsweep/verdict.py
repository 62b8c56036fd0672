"""Did a patch resolve its task? From what a grading left behind, without a container."""

import functools
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from agentsweep import pytest_reports
from agentsweep.pytest_reports import Reported

# What a grading came to. Only `graded` ones can have resolved anything; no other is an error of
# the sweep. `ungraded`: nothing was graded (no run, no row, no parser for the row's tests).
STATUSES = (
    *("graded", "no_patch", "patch_failed", "tests_not_applied"),
    *("timed_out", "no_report", "inconsistent", "ungraded"),
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

    resolved: true if and only if each test of the row's two lists passed in a grading whose
    report, output and exit status agree.
    """

    status: str
    detail: str | None
    resolved: bool
    tests: list[dict]


def judge(record: Mapping, commands: Sequence[Command]) -> Verdict:
    """The verdict on a grading: its `grade.json` and what its test commands left.

    A test that was skipped or is missing did not pass; one that failed as expected did, as the
    benchmark has it.
    """
    reported = [test for command in commands for test in command.report or ()]
    tests = _expected(record, reported) + _others(record, reported)
    status, detail = _status(record, commands)
    wanted = [test["outcome"] in pytest_reports.PASSING for test in tests if test["kind"]]
    resolved = status == "graded" and bool(wanted) and all(wanted)
    return Verdict(status, detail, resolved, tests)


def _status(record: Mapping, commands: Sequence[Command]) -> tuple[str, str | None]:
    if record["applied_by"] is None:
        return "patch_failed", "no way of applying the patch works"
    if not record["tests_applied"]:
        return "tests_not_applied", "the test patch does not apply on top of the patch"
    if record["timed_out"]:
        return "timed_out", f"the tests did not end within {record['grader']['timeout_s']:g} s"
    if not any(command.report for command in commands):
        memory = ": the container ran out of memory" if record["oom_kill_count"] else ""
        return "no_report", f"pytest left no report of any test{memory}"
    for command in commands:
        problem = _inconsistency(command)
        if problem:
            return "inconsistent", problem
    return "graded", None


def _inconsistency(command: Command) -> str | None:
    """Why the parts of what one command left do not fit together."""
    if not command.report:
        return None
    bad = sum(test.outcome in ("failed", "error") for test in command.report)
    if command.exit_code is None:
        return "a test command wrote a report, and its exit status is not known"
    if bad and command.exit_code == 0:
        return f"pytest ended with status 0 and {bad} of its tests failed"
    if not bad and command.exit_code != 0:
        return f"pytest ended with status {command.exit_code} and none of its tests failed"
    return pytest_reports.disagreement(command.report, command.log)


def _expected(record: Mapping, reported: Sequence[Reported]) -> list[dict]:
    # The benchmark may have cut an id at a blank: it then stands for all tests that begin so.
    known: dict[str, list[Reported]] = defaultdict(list)
    for test in reported:
        for name in {test.name, pytest_reports.short_id(test.name)}:
            known[name].append(test)
    rows = []
    for kind in KINDS:
        for test_id in record[kind]:
            found = known.get(pytest_reports.reported_name(test_id), ())
            outcome = functools.reduce(pytest_reports.worse, (test.outcome for test in found), None)
            seconds = [test.duration_s for test in found if test.duration_s is not None]
            rows.append(_test_row(test_id, kind, outcome, sum(seconds) if seconds else None))
    return rows


def _others(record: Mapping, reported: Sequence[Reported]) -> list[dict]:
    wanted = {pytest_reports.reported_name(test_id) for kind in KINDS for test_id in record[kind]}
    return [
        _test_row(test.test_id, None, test.outcome, test.duration_s)
        for test in reported
        if test.name not in wanted and pytest_reports.short_id(test.name) not in wanted
    ]


def _test_row(test_id: str, kind: str | None, outcome: str | None, seconds: float | None) -> dict:
    return {
        "test_id": test_id,
        "kind": kind,
        "outcome": outcome or "missing",
        "duration_s": seconds,
    }
