"""What pytest said about each test: its own report, checked against what it printed.

A log alone can be forged by any code that prints, so the names and outcomes of tests are taken
from the JUnit report (family `xunit1`, which has the file of each test) and the printed summary
must say the same.
"""

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable
from dataclasses import dataclass

# From best to worst: a test that is reported twice has the worse outcome.
OUTCOMES = ("passed", "xfailed", "skipped", "failed", "error")
PASSING = ("passed", "xfailed")

# The words of pytest's short summary (`-rA`). A test that was expected to fail and did not is
# a plain pass in the report; SKIPPED lines name no test.
_WORDS = {
    "PASSED": "passed",
    "XPASS": "passed",
    "XFAIL": "xfailed",
    "FAILED": "failed",
    "ERROR": "error",
}
_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_SUMMARY = re.compile(r"=+ short test summary info =+")
_RULE = re.compile(r"=+ .* =+|[0-9]+ [a-z]+(, [0-9]+ [a-z]+)* in [0-9]")


@dataclass(frozen=True)
class Reported:
    """One test of a report: its id as pytest prints it, an outcome of OUTCOMES, its seconds."""

    test_id: str
    outcome: str
    duration_s: float | None


def parse_report(content: bytes | None) -> list[Reported] | None:
    """The tests of a JUnit report, each once; None where there is no whole report."""
    try:
        root = ElementTree.fromstring(content or b"")
    except (ElementTree.ParseError, ValueError, LookupError):
        return None
    found: dict[str, Reported] = {}
    for case in root.iter("testcase"):
        test = Reported(_test_id(case), _outcome(case), _seconds(case.get("time")))
        other = found.get(test.test_id)
        if other is None or worse(test.outcome, other.outcome) != other.outcome:
            found[test.test_id] = test
    return list(found.values())


def worse(one: str | None, other: str) -> str:
    """The worse of two outcomes; `one` may be none yet."""
    return other if one is None else max(one, other, key=OUTCOMES.index)


def _test_id(case: ElementTree.Element) -> str:
    file, classname, name = (case.get(key) or "" for key in ("file", "classname", "name"))
    if not file:
        # A file that could not be collected: its module is all that is said.
        return "::".join(filter(None, (classname, name)))
    module = file.removesuffix(".py").replace("/", ".")
    classes = classname.removeprefix(module).strip(".")
    return "::".join(filter(None, (file, *classes.split("."), name)))


def _outcome(case: ElementTree.Element) -> str:
    outcome = "passed"
    for child in case:
        if child.tag in ("failure", "error"):
            outcome = worse(outcome, "failed" if child.tag == "failure" else "error")
        elif child.tag == "skipped":
            expected = child.get("type") == "pytest.xfail"
            outcome = worse(outcome, "xfailed" if expected else "skipped")
    return outcome


def _seconds(text: str | None) -> float | None:
    try:
        return float(text or "")
    except ValueError:
        return None


def printed_outcomes(log: str) -> dict[str, str]:
    """Outcome by test id, cut at its first blank, from the last short summary of a log.

    Ids are cut because a blank may be part of a parametrised id as well as stand before the
    reason of a failure; the benchmark's own parsers cut them there, too.
    """
    lines = _ANSI.sub("", log).splitlines()
    starts = [index for index, line in enumerate(lines) if _SUMMARY.fullmatch(line.strip())]
    found: dict[str, str] = {}
    for line in lines[starts[-1] + 1 :] if starts else ():
        if _RULE.match(line):
            break
        word, _, rest = line.partition(" ")
        if word in _WORDS and rest.strip():
            test_id = short_id(rest.strip())
            found[test_id] = worse(found.get(test_id, "passed"), _WORDS[word])
    return found


def short_id(test_id: str) -> str:
    """A test id up to its first blank."""
    return test_id.split(" ", 1)[0]


def by_short_id(tests: Iterable[Reported]) -> dict[str, str]:
    """The worst outcome of all tests that share a cut id."""
    found: dict[str, str] = {}
    for test in tests:
        key = short_id(test.test_id)
        found[key] = worse(found.get(key, "passed"), test.outcome)
    return found


def disagreement(tests: Iterable[Reported], log: str) -> str | None:
    """Where the printed summary says something else than the report; None where nowhere.

    Skipped tests are left out: the summary does not name them. So are files that could not be
    collected: the report names their modules and the summary their paths.
    """
    printed = {
        test_id: outcome for test_id, outcome in printed_outcomes(log).items() if "::" in test_id
    }
    for test_id, outcome in by_short_id(tests).items():
        if outcome == "error" and "::" not in test_id:
            continue
        said = printed.pop(test_id, None)
        if said != outcome and not (said is None and outcome == "skipped"):
            return f"{test_id} is {outcome} in the report and {said or 'not'} in the summary"
    if printed:
        test_id, outcome = next(iter(printed.items()))
        return f"{test_id} is {outcome} in the summary and not in the report"
    return None
