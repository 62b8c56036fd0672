"""What pytest said about each test: its own report, checked against what it printed.

A log alone can be forged by any code that prints, so the names and outcomes of tests are taken
from the JUnit report (family `xunit1`, which has the file of each test) and the printed summary
must say the same.
"""

import math
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Mapping
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
# Elements within each other; pytest's have five.
_DEEPEST = 20
_PIECE_BYTES = 2**20

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_SUMMARY = re.compile(r"=+ short test summary info =+")
_RULE = re.compile(r"=+ .* =+|[0-9]+ [a-z]+(, [0-9]+ [a-z]+)* in [0-9]")


@dataclass(frozen=True)
class Reported:
    """One test of a report: its id as pytest prints it, an outcome of OUTCOMES, its seconds.

    name: what the report calls it (`reported_name` of its id). Tests are matched by it: the id has
    the path of a file, and the report has that of the file that defines the test, which for an
    inherited one is another.
    """

    test_id: str
    name: str
    outcome: str
    duration_s: float | None


def parse_report(content: bytes | None) -> list[Reported] | None:
    """The tests of a JUnit report, each once; None where there is no whole report."""
    parser, content = ElementTree.XMLParser(target=_Cases()), content or b""
    try:
        # What a piece is refused for is only said at its end.
        for start in range(0, len(content), _PIECE_BYTES):
            parser.feed(content[start : start + _PIECE_BYTES])
        cases = parser.close()
    except (ElementTree.ParseError, ValueError, LookupError):
        return None
    files = {reported_name(file): file for file in (case.get("file") for case, _ in cases) if file}
    found: dict[str, Reported] = {}
    for case, outcome in cases:
        name = ".".join(filter(None, (case.get("classname"), case.get("name"))))
        test = Reported(_test_id(case, files), name, outcome, _seconds(case.get("time")))
        other = found.get(name)
        if other is None or worse(outcome, other.outcome) != other.outcome:
            found[name] = test
    return list(found.values())


class _Cases:
    """Collects attributes and outcome of each test case from a parser.

    There is no tree of elements, and no deep one: that of a forged report may need a hundred times
    its size.
    """

    def __init__(self):
        self._cases: list[tuple[dict[str, str], str]] = []
        self._depth = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError("no report of pytest is so deep")
        if tag == "testcase":
            self._cases.append((attributes, "passed"))
        elif self._cases and (outcome := _outcome(tag, attributes)):
            case, other = self._cases[-1]
            self._cases[-1] = case, worse(outcome, other)

    def end(self, tag: str) -> None:
        self._depth -= 1

    def close(self) -> list[tuple[dict[str, str], str]]:
        return self._cases


def reported_name(test_id: str) -> str:
    """What a report calls a test: pytest's `junitxml.mangle_test_address`, its parts joined."""
    address, bracket, parameters = test_id.partition("[")
    file, *names = address.split("::")
    parts = [file.removesuffix(".py").replace("/", "."), *names]
    return ".".join(part for part in parts if part != "()") + bracket + parameters


def worse(one: str | None, other: str) -> str:
    """The worse of two outcomes; `one` may be none yet."""
    return other if one is None else max(one, other, key=OUTCOMES.index)


def _test_id(case: Mapping[str, str], files: Mapping[str, str]) -> str:
    """A test's id, as far as a report says it: `files` has its files by their modules."""
    classname, name = case.get("classname") or "", case.get("name") or ""
    if not classname:
        # A file that could not be collected, or was skipped as a whole.
        return files.get(name, name)
    module, classes = classname, []
    while module and module not in files:
        module, _, last = module.rpartition(".")
        classes.insert(0, last)
    return "::".join((files[module], *classes, name) if module else (classname, name))


def _outcome(tag: str, attributes: Mapping[str, str]) -> str | None:
    """What an element below a test case says of it; None where it says nothing."""
    if tag == "skipped":
        return "xfailed" if attributes.get("type") == "pytest.xfail" else "skipped"
    return {"failure": "failed", "error": "error"}.get(tag)


def _seconds(text: str | None) -> float | None:
    try:
        seconds = float(text or "")
    except ValueError:
        return None
    return seconds if math.isfinite(seconds) else None


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


def disagreement(tests: Iterable[Reported], log: str) -> str | None:
    """Where the printed summary says something else than the report; None where nowhere.

    The summary does not name skipped tests, and need not name files that could not be collected.
    """
    printed: dict[str, tuple[str, str]] = {}
    for test_id, outcome in printed_outcomes(log).items():
        printed[reported_name(test_id)] = test_id, outcome
    for name, (test_id, outcome) in _by_short_name(tests).items():
        _, said = printed.pop(name, (None, None))
        if said != outcome and not (said is None and _is_file(test_id, outcome)):
            return f"{test_id} is {outcome} in the report and {said or 'not'} in the summary"
    for test_id, outcome in printed.values():
        if not _is_file(test_id, outcome):
            return f"{test_id} is {outcome} in the summary and not in the report"
    return None


def _by_short_name(tests: Iterable[Reported]) -> dict[str, tuple[str, str]]:
    """A cut id and the worst outcome of all tests that share it, without the skipped ones."""
    found: dict[str, tuple[str, str]] = {}
    for test in tests:
        if test.outcome != "skipped":
            name = short_id(test.name)
            _, other = found.get(name, (None, "passed"))
            found[name] = short_id(test.test_id), worse(other, test.outcome)
    return found


def _is_file(test_id: str, outcome: str) -> bool:
    return outcome == "error" and "::" not in test_id
