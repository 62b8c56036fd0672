"""What pytest said about each test: its own report, checked against what it printed.

A log alone can be forged by any code that prints, so the names and outcomes of tests are taken
from the JUnit report (family `xunit1`, which has the file of each test) and the printed summary
must say the same of those that count.
"""

import math
import re
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
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
_BAD = {"failed", "error"}
# A test's id may have a few of these itself, before the one that its message comes after.
_DASH, _MOST_DASHES = " - ", 16
# What a report and a log may have, many times what those of the largest suites do. Elements within
# each other: pytest's have five. Parts of a module's name: directories and classes.
_DEEPEST = 20
_MOST_CASES, _MOST_ATTRIBUTES, _ATTRIBUTE_CHARS = 1_000_000, 64, 2**16
_MOST_PARTS = 64
_MOST_LINES, _LINE_CHARS = 2_000_000, 2**18
_PIECE_BYTES = 2**20

_ANSI = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
_SUMMARY = re.compile(r"=+ short test summary info =+")
_RULE = re.compile(r"=+ .* =+|[0-9]+ [a-z]+(, [0-9]+ [a-z]+)* in [0-9]")
_TELLING = re.compile(
    r"^(?:\x1b\[[0-9;]{0,32}[A-Za-z]|[^\S\n]){0,64}"
    rf"(?:=+|[0-9]+(?= [a-z])|{'|'.join(_WORDS)})(?=[ \x1b])",
    re.MULTILINE,
)


@dataclass(frozen=True)
class Reported:
    """One test of a report: its id as pytest prints it, an outcome of OUTCOMES, its seconds.

    name: what the report calls it (`reported_name` of its id). Tests are matched by it: the id has
    the path of a file, and the report has that of the file that defines the test, which for an
    inherited one is another.
    in_part: it may be a subtest of it alone that was skipped. The report has one element for both,
    and only its count of passes says that there are more than there are tests that passed.
    """

    test_id: str
    name: str
    outcome: str
    duration_s: float | None
    in_part: bool = False


def parse_report(content: bytes | None) -> list[Reported] | None:
    """The tests of a JUnit report, each once; None where there is no whole report.

    A report that is larger than any of pytest's (_DEEPEST, _MOST_CASES, ...) is none.
    """
    target = _Cases()
    parser, content = ElementTree.XMLParser(target=target), content or b""
    try:
        # What a piece is refused for is only said at its end.
        for start in range(0, len(content), _PIECE_BYTES):
            parser.feed(content[start : start + _PIECE_BYTES])
        # It gives what the `close` of its target does; the types know of elements alone.
        cases: list[tuple[dict[str, str], str]] = parser.close()  # type: ignore[assignment]
    except (ElementTree.ParseError, ValueError, LookupError):
        return None
    files = {reported_name(file): file for file in (case.get("file") for case, _ in cases) if file}
    found: dict[str, Reported] = {}
    of_parts = target.passes_of_parts() > 0
    for case, outcome in cases:
        name = ".".join(filter(None, (case.get("classname"), case.get("name"))))
        test = Reported(
            *(_test_id(case, files), name, outcome, _seconds(case.get("time"))),
            in_part=outcome == "skipped" and of_parts,
        )
        other = found.get(name)
        if other is None or worse(outcome, other.outcome) != other.outcome:
            found[name] = test
    return list(found.values())


# The attributes of a test case that are read.
_READ = ("classname", "name", "file", "time")


class _Cases:
    """Collects attributes and outcome of each test case from a parser.

    There is no tree of elements, and no deep one: that of a forged report may need a hundred times
    its size.
    """

    def __init__(self) -> None:
        self._cases: list[tuple[dict[str, str], str]] = []
        self._depth = 0
        self._passes = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise ValueError("no report of pytest is so deep")
        if len(attributes) > _MOST_ATTRIBUTES:
            raise ValueError("no report of pytest has so many attributes")
        if tag == "testsuite":
            self._passes += _count(attributes, "tests") - sum(
                _count(attributes, name) for name in ("failures", "errors", "skipped")
            )
        elif tag == "testcase":
            if len(self._cases) == _MOST_CASES:
                raise ValueError("no report of pytest has so many tests")
            case = {name: attributes[name] for name in _READ if name in attributes}
            if any(len(value) > _ATTRIBUTE_CHARS for value in case.values()):
                raise ValueError("no report of pytest has such names")
            self._cases.append((case, "passed"))
        elif self._cases and (outcome := _outcome(tag, attributes)):
            case, other = self._cases[-1]
            self._cases[-1] = case, worse(outcome, other)

    def end(self, tag: str) -> None:
        self._depth -= 1

    def passes_of_parts(self) -> int:
        """How many passes the report counts beyond its tests: those of subtests.

        An error of a teardown may stand for a test whose body passed.
        """
        return self._passes - sum(outcome in ("passed", "error") for _, outcome in self._cases)

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
    ends = [len(classname)]
    while len(ends) <= _MOST_PARTS and (end := classname.rfind(".", 0, ends[-1])) > 0:
        ends.append(end)
    for end in ends:
        module = classname[:end]
        if module in files:
            classes = classname[end + 1 :].split(".") if end < len(classname) else ()
            return "::".join((files[module], *classes, name))
    return f"{classname}::{name}"


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


def _count(attributes: Mapping[str, str], name: str) -> int:
    text = attributes.get(name, "")
    return int(text) if re.fullmatch(r"[0-9]{1,9}", text) else 0


def settle(
    reported: Sequence[Reported],
    log: str,
    counted: Collection[str] | None = None,
    absent: Collection[str] = (),
) -> tuple[dict[str, str], str | None]:
    """What report and printed summary together say of tests, and where they contradict each other.

    Only the tests with the names `counted` are compared (None: all), and the names `absent`, which
    the report does not have: what the others come to decides nothing. The outcomes are by name.

    With `-vv`, or where CI is set, the summary has whole messages of tests that did not pass. They
    may be of any number of lines, and lines of them may look like parts of a summary. So a line
    that says otherwise of a test is passed over where another test may have said it, and so is the
    beginning of a summary that lacks a test. Never passed over is that a test passed which the
    report has as failed, skipped or missing.
    """
    by_name = {test.name: test for test in reported}
    counted = by_name.keys() if counted is None else counted
    names = _LineNames([*by_name, *absent])
    speakers = {test.name for test in reported if test.outcome != "passed"}
    outcomes = {name: by_name[name].outcome for name in counted}
    waiting = {name for name in counted if outcomes[name] != "skipped"}
    for number, lines in enumerate(_parts(log)):
        touched = set()
        for line in lines:
            name, outcome = names.read(line)
            if name is not None and outcome is not None:
                names.said[name].add(outcome)
                touched.add(name)
        for name in sorted(touched):
            if name in outcomes:
                others = len(speakers) > (name in speakers)
                here = _compare(by_name[name], names.said[name], others)
                if here == _DIFFERS and (number == 0 or name in waiting):
                    return outcomes, _said_of(by_name[name], names.said[name])
                if here == _AGREES:
                    waiting.discard(name)
                    if outcomes[name] == "skipped":
                        outcomes[name] = "passed"
            elif name in absent and number == 0 and not names.said[name] & _BAD:
                return outcomes, f"{name} is passed in the summary and not in the report"
        if not waiting or not speakers:
            break
    for test in reported:
        # A file that could not be collected need not be named.
        if test.name in waiting and not _is_file(test.test_id, test.outcome):
            return outcomes, _said_of(test, names.said[test.name])
    return outcomes, None


_AGREES, _DIFFERS, _OPEN = "agrees", "differs", "open"


def _compare(test: Reported, said: set[str], others: bool) -> str:
    """How the lines of a summary fit to a test; `others`: another test may have said them."""
    good, bad = said - _BAD, said & _BAD
    if test.outcome in _BAD:
        return _AGREES if bad else _DIFFERS
    if test.outcome == "skipped":
        if not good:
            return _OPEN
        return _AGREES if test.in_part and not bad else _DIFFERS
    if good and (not bad or others):
        return _AGREES
    return _OPEN if others else _DIFFERS


def _said_of(test: Reported, said: set[str]) -> str:
    shown = " and ".join(sorted(said, key=OUTCOMES.index)) or "not"
    return f"{test.test_id} is {test.outcome} in the report and {shown} in the summary"


def _parts(log: str) -> Iterable[list[str]]:
    """The lines after each beginning of a short summary, the last one's first.

    What comes after the last line that ends a run of pytest is no part of its summary. Only lines
    about tests are kept, and there are no parts where a log has more lines than any suite's.
    """
    if log.count("\n") > _MOST_LINES:
        return
    lines, starts, end = [], [], None
    for line in _telling_lines(log):
        if line.startswith(tuple(_WORDS)):
            lines.append(line)
        elif _SUMMARY.fullmatch(line.strip()):
            starts.append(len(lines))
            end = None
        elif _RULE.match(line):
            end = len(lines)
    end = len(lines) if end is None else end
    for start in reversed(starts):
        yield lines[start:end]
        end = start


def _telling_lines(log: str) -> Iterable[str]:
    """The lines of a log that begin as those of a summary do, without colours."""
    for match in _TELLING.finditer(log):
        # Not splitlines, which also splits at form feeds and the like inside of a line.
        end = log.find("\n", match.end())
        end = len(log) if end < 0 else end
        if end - match.start() <= _LINE_CHARS:
            yield _ANSI.sub("", log[match.start() : end]).rstrip("\r")


class _LineNames:
    """Reads which of some tests a line of a summary is about; `said`: what lines said, by name."""

    def __init__(self, names: Iterable[str]):
        self._names = set(names)
        self.said: dict[str, set[str]] = defaultdict(set)
        self._by_short: dict[str, list[str]] = defaultdict(list)
        for name in self._names:
            self._by_short[short_id(name)].append(name)

    def read(self, line: str) -> tuple[str | None, str | None]:
        word, _, rest = line.partition(" ")
        if word not in _WORDS or not rest.strip():
            return None, None
        cuts, at = [len(rest)], -1
        for _ in range(_MOST_DASHES):
            at = rest.find(_DASH, at + 1)
            if at < 0:
                break
            cuts.append(at)
        for cut in cuts:
            name = reported_name(rest[:cut].strip())
            if name in self._names:
                return name, _WORDS[word]
        # Old versions of pytest put a blank alone before the reason of an XPASS.
        found = self._by_short.get(reported_name(short_id(rest.strip())), ())
        return (found[0], _WORDS[word]) if len(found) == 1 else (None, None)


def short_id(test_id: str) -> str:
    """A test id up to its first blank."""
    return test_id.split(" ", 1)[0]


def disagreement(tests: Sequence[Reported], log: str) -> str | None:
    """Where the printed summary says something else than the report; None where nowhere."""
    return settle(tests, log)[1]


def _is_file(test_id: str, outcome: str) -> bool:
    return outcome == "error" and "::" not in test_id
