"""Did a patch resolve its task? From what a grading left behind, without a container."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from agentsweep.grading import pytest_reports
from agentsweep.grading.pytest_reports import Reported, reported_name
from agentsweep.grading.row_names import Names, from_start, is_pytest_id
from agentsweep.grading.witness import Origin, Witness
from agentsweep.vocabulary import GradeStatus

# A benchmark's two lists of tests.
KINDS = ("fail_to_pass", "pass_to_pass")


@dataclass(frozen=True)
class TestCommandResult:
    """One test command: exit status (None: it never ended), report (None: none) and output.

    witness: what the grading's own plugin saw of it; None where it saw nothing.
    """

    # It is no test of ours, whatever its name begins with.
    __test__: ClassVar[bool] = False

    exit_code: int | None
    report: Sequence[Reported] | None
    log: str
    witness: Witness | None = None


@dataclass(frozen=True)
class Gold:
    """What the row's own patch came to, against which those of others are judged.

    xfailed: the tests of the row that failed as expected each time; origins: where the row's tests
    came from; before: packages of the work tree that were imported before the grading's plugin;
    witnessed: whether the plugin saw each test command. Of gradings without the plugin the last
    three are empty and False.
    """

    xfailed: frozenset[str] = frozenset()
    origins: Mapping[str, Origin] = field(default_factory=dict)
    before: frozenset[str] = frozenset()
    witnessed: bool = False

    def content(self) -> dict[str, Any]:
        """As JSON has it: what `of_content` reads."""
        return {
            "xfailed": sorted(self.xfailed),
            "origins": {name: asdict(origin) for name, origin in sorted(self.origins.items())},
            "before": sorted(self.before),
            "witnessed": self.witnessed,
        }

    @classmethod
    def of_content(cls, content: Mapping[str, Any]) -> "Gold":
        """From `content`, which is this host's own."""
        return cls(
            frozenset(content["xfailed"]),
            {name: Origin(**origin) for name, origin in content["origins"].items()},
            frozenset(content["before"]),
            content["witnessed"],
        )


def gold_of(
    gradings: Iterable[tuple[Mapping[str, Any], Sequence[TestCommandResult]]],
) -> Gold | None:
    """From gradings of the row's own patch; None where no one of them is whole."""
    golds = [
        gold
        for record, commands in gradings
        if judge(record, commands, gold := _own(record, commands)).status == GradeStatus.GRADED
    ]
    if not golds:
        return None
    # One that was made before there was the plugin says less.
    first = next((gold for gold in golds if gold.witnessed), golds[0])
    xfailed = frozenset.intersection(*(gold.xfailed for gold in golds))
    return Gold(xfailed, first.origins, first.before, first.witnessed)


def _own(record: Mapping[str, Any], commands: Sequence[TestCommandResult]) -> Gold:
    """What a grading itself came to, as if it were that of the row's own patch."""
    found = [_Found(record, command) for command in commands]
    reported = [one for one in found if one.reported]
    origins = {name: origin for one in found for name, origin in one.origins.items()}
    return Gold(
        frozenset(
            name for one in found for name, outcome in one.outcomes.items() if outcome == "xfailed"
        ),
        {name: origins[name] for one in found for name in one.counted if name in origins},
        frozenset(name for one in reported if one.witness for name in one.witness.before),
        _has_witness(record) and all(one.witness for one in reported),
    )


def own_judge(record: Mapping[str, Any], commands: Sequence[TestCommandResult]) -> "Verdict":
    """The verdict on a grading of the row's own patch."""
    return judge(record, commands, _own(record, commands))


@dataclass(frozen=True)
class Verdict:
    """What a grading came to; `detail` says why; `tests` are the rows of `tests` so far.

    resolved: true if and only if each test of the row's two lists passed, by the report, the
    printed summary and the grading's plugin; None where the status says that nothing is known.
    evidence: which of them there were, `EVIDENCE` or `OLD_EVIDENCE`; None where no test ran.
    """

    status: GradeStatus
    detail: str | None
    resolved: bool | None
    tests: list[dict[str, Any]]
    evidence: str | None = None


# What a verdict is from: also the plugin, or, of gradings that were made before there was one and
# of commands that it cannot be loaded into, pytest's report and summary alone.
EVIDENCE, OLD_EVIDENCE = "report, summary, plugin", "report, summary"


def judge(
    record: Mapping[str, Any], commands: Sequence[TestCommandResult], gold: Gold | None = None
) -> Verdict:
    """The verdict on a grading: its `grade.json` and what its test commands left.

    A test that was skipped or is missing did not pass. One that failed as expected did, as the
    benchmark has it, but only where it did so with the row's own patch (`gold`): any code can call
    `pytest.xfail`. Without `gold`, nothing counts that must be compared with it.
    """
    if record.get("ungraded"):
        return Verdict(GradeStatus.UNGRADED, record["ungraded"], None, [])
    found = [_Found(record, command) for command in commands]
    tests = _expected(record, found) + _others(found)
    foreign = foreign_name(record)
    if foreign is not None:
        return Verdict(GradeStatus.UNGRADED, foreign, None, tests)
    status, detail = _status(record, found, gold)
    wanted = [test["outcome"] in pytest_reports.PASSING for test in tests if test["kind"]]
    resolved = status == GradeStatus.GRADED and bool(wanted) and all(wanted)
    if resolved and (doubt := _xfailed(found, gold)):
        resolved, detail = False, doubt
    reported = [one for one in found if one.reported]
    seen = _has_witness(record) and all(one.witness for one in reported)
    evidence = (EVIDENCE if seen else OLD_EVIDENCE) if reported else None
    return Verdict(status, detail, resolved, tests, evidence)


def _xfailed(found: Sequence["_Found"], gold: Gold | None) -> str | None:
    """Why tests that failed as expected do not count; None where all do."""
    known = gold.xfailed if gold else frozenset()
    names = [
        test.test_id
        for one in found
        for test in one.reported
        if one.outcomes.get(test.name) == "xfailed" and test.name not in known
    ]
    if not names:
        return None
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    if gold is None:
        return (
            f"{names[0]}{more} failed as expected (xfail), and whether it does so with the row's "
            "own patch is not known: validate the task (grading.validations)"
        )
    return (
        f"{names[0]}{more} failed as expected (xfail), and it does not do so with the row's own "
        "patch"
    )


def _has_witness(record: Mapping[str, Any]) -> bool:
    """Whether a grading was made with the plugin: its record says what tests were put in place."""
    return isinstance(record.get("placed"), dict)


def foreign_name(lists: Mapping[str, Any]) -> str | None:
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
    origins: what its plugin says of where tests came from, by the names that the report has.
    """

    def __init__(self, record: Mapping[str, Any], command: TestCommandResult):
        self.command, self.witness = command, command.witness
        wanted = [test_id for kind in KINDS for test_id in record[kind]]
        self.reported = from_start(command.report or (), wanted)
        names = Names(self.reported)
        self.tests = {test_id: names.find(test_id) for test_id in wanted}
        self.counted = {test.name for tests in self.tests.values() for test in tests}
        absent = {reported_name(name) for name, tests in self.tests.items() if not tests}
        self.outcomes: dict[str, str] = {}
        self.problem: str | None = None
        if self.reported:
            self.outcomes, self.problem = pytest_reports.settle(
                self.reported, command.log, self.counted, absent
            )

        self.origins: dict[str, Origin] = {}
        self._seen: dict[str, str] = {}
        if self.witness:
            for test in from_start(self.witness.named(), wanted):
                self._seen[test.name] = test.outcome
                if test.test_id in self.witness.origins:
                    self.origins[test.name] = self.witness.origins[test.test_id]

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

    def contradiction(self, record: Mapping[str, Any], gold: Gold | None) -> str | None:
        """Where the plugin saw something else than the report says, or another file's tests."""
        if not self.reported or not _has_witness(record):
            return None
        if self.witness is None:
            # It cannot be loaded into all commands, but then not with the row's own patch either.
            if gold is not None and not gold.witnessed:
                return None
            known = "" if gold else ", and whether it can is not known: validate the task"
            return f"the grading's plugin saw nothing of the tests{known}"
        if gold is not None and gold.witnessed:
            new = sorted(self.witness.before - gold.before)
            if new:
                return f"{new[0]} of the work tree was imported before the grading's plugin"
        placed = record["placed"]
        for test_id, tests in self.tests.items():
            for test in tests:
                outcome = self.outcomes[test.name]
                if outcome not in pytest_reports.PASSING:
                    continue
                seen = self._seen.get(test.name, "not seen")
                if seen not in ("passed", outcome):
                    return f"{test.test_id} is {outcome} in the report and {seen} for the plugin"
                path = test_id.partition("::")[0]
                if path in placed and (problem := self._moved(test, path, placed[path], gold)):
                    return problem
        return None

    def _moved(self, test: Reported, path: str, sha256: str, gold: Gold | None) -> str | None:
        """Why a test is not that of the file that the grading put in place."""
        if self.witness is None or self.witness.files.get(path) != sha256:
            return f"{path} was not what the grading put there when the tests were run"
        origin = self.origins.get(test.name)
        known = gold.origins.get(test.name) if gold is not None and gold.witnessed else None
        if origin is not None and origin == known:
            return None
        if origin is None:
            return f"{test.test_id} was collected, and not from {path}"
        there = f" but from {origin.where}" if origin.where else ""
        if origin.path != path or origin.code == "other":
            return f"{test.test_id} was not from {path}{there}"
        if known is not None:
            return f"{test.test_id} was not the function of {path} that it is with the row's patch"
        if origin.code == "hidden" and gold is None:
            return (
                f"{test.test_id} was not seen to be the function of {path}{there}: validate the "
                "task (grading.validations)"
            )
        return None


def _status(
    record: Mapping[str, Any], found: Sequence[_Found], gold: Gold | None
) -> tuple[GradeStatus, str | None]:
    if record["applied_by"] is None:
        return GradeStatus.PATCH_FAILED, "no way of applying the patch works"
    if not record["tests_applied"]:
        return GradeStatus.TESTS_NOT_APPLIED, "the test patch does not apply on top of the patch"
    if record["timed_out"]:
        return (
            GradeStatus.TIMED_OUT,
            f"the tests did not end within {record['grader']['timeout_s']:g} s",
        )
    if not any(one.reported for one in found):
        memory = ": the container ran out of memory" if record["oom_kill_count"] else ""
        return GradeStatus.NO_REPORT, f"pytest left no report of any test{memory}"
    for one in found:
        problem = one.inconsistency() or one.contradiction(record, gold)
        if problem:
            return GradeStatus.INCONSISTENT, problem
    return GradeStatus.GRADED, None


def _expected(record: Mapping[str, Any], found: Sequence[_Found]) -> list[dict[str, Any]]:
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


def _others(found: Sequence[_Found]) -> list[dict[str, Any]]:
    return [
        _test_row(test.test_id, None, test.outcome, test.duration_s)
        for one in found
        for test in one.reported
        if test.name not in one.counted
    ]


def _test_row(
    test_id: str, kind: str | None, outcome: str | None, seconds: float | None
) -> dict[str, Any]:
    return {
        "test_id": test_id,
        "kind": kind,
        "outcome": outcome or "missing",
        "duration_s": seconds,
    }
