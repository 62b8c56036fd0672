"""What the grading's own plugin of pytest saw (`data/grading_witness.py`), read without trust.

It is a second reading beside pytest's report: which test files there were, from which of them the
tests came, and what each test came to. The plugin says it line by line, while tests run, and a
later line never makes a test better.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from agentsweep.grading.pytest_reports import Reported, reported_name

# What a test's function is (the plugin's docstring), from best to worst.
CODES = ("direct", "wrapped", "none", "foreign", "hidden", "other")

_LINE_BYTES = 2**18
_MOST_LINES = 2_000_000
# What no XML can have, as pytest's report writes it.
_NO_XML = re.compile("[^\t\n\r -~\x80-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


@dataclass(frozen=True)
class Origin:
    """Where a test came from: a file that the grading put in place, and what its function is.

    code: one of CODES; line: where its code begins in the file; where: the file of its code, where
    it is another.
    """

    path: str
    code: str
    line: int | None = None
    where: str | None = None


@dataclass
class Witness:
    """What the plugin saw of one test command.

    before: packages of the work tree that were imported before it; files: path and SHA-256 of the
    test files (None: not readable); origins and outcomes: by the names of pytest's report.
    """

    before: set[str] = field(default_factory=set)
    files: dict[str, str | None] = field(default_factory=dict)
    origins: dict[str, Origin] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)

    def named(self) -> list[Reported]:
        """All tests that it names, as those of a report; `test_id` is the name, too."""
        names = dict.fromkeys([*self.outcomes, *self.origins])
        return [
            Reported(name, name, self.outcomes.get(name, "missing"), duration_s=None)
            for name in names
        ]


# From worst to best: what a test came to is the worst that was said, but for a pass beside a skip,
# which is that of a subtest.
_WORST = ("failed", "passed", "xfailed", "skipped")


def parse(content: bytes | None) -> Witness | None:
    """What the plugin wrote; None where it did not begin. Lines that are not its own are nothing.

    A file that contradicts itself (a hash, an origin) has the worse of both.
    """
    found, begun = Witness(), False
    for line in _lines(content or b""):
        kind = line.get("kind")
        if kind == "start":
            begun = True
            # A process of xdist loads plugins after the conftests, and what those import.
            before = _list(line.get("before")) if line.get("worker") is None else ()
            found.before |= {name for name in before if isinstance(name, str)}
        elif kind == "file" and isinstance(path := line.get("path"), str):
            sha256 = line.get("sha256")
            same = found.files.setdefault(path, sha256 if isinstance(sha256, str) else None)
            if same != sha256:
                found.files[path] = None
        elif kind in ("test", "report") and isinstance(line.get("id"), str):
            name = _NO_XML.sub(_escaped, reported_name(line["id"]))
            if kind == "test":
                _add_origin(found.origins, name, line)
            else:
                _add_outcome(found.outcomes, name, line)
    return found if begun else None


def _lines(content: bytes) -> Iterator[Mapping[str, Any]]:
    start = 0
    for _ in range(_MOST_LINES):
        end = content.find(b"\n", start)
        if end < 0:
            return
        if end - start <= _LINE_BYTES:
            try:
                line = json.loads(content[start:end])
            except (ValueError, RecursionError):
                line = None
            if isinstance(line, dict):
                yield line
        start = end + 1


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else ()


def _escaped(match: re.Match[str]) -> str:
    number = ord(match[0])
    return f"#x{number:02X}" if number <= 0xFF else f"#x{number:04X}"


def _add_origin(origins: dict[str, Origin], name: str, line: Mapping[str, Any]) -> None:
    path, code, number, where = (line.get(key) for key in ("path", "code", "line", "where"))
    if not isinstance(path, str) or code not in CODES:
        return
    origin = Origin(
        path,
        code,
        number if isinstance(number, int) else None,
        where if isinstance(where, str) else None,
    )
    other = origins.setdefault(name, origin)
    if other.path != path:
        origins[name] = Origin(path, CODES[-1])
    elif CODES.index(code) > CODES.index(other.code) or (code == other.code and other != origin):
        origins[name] = origin


def _add_outcome(outcomes: dict[str, str], name: str, line: Mapping[str, Any]) -> None:
    outcome = line.get("outcome")
    if outcome == "skipped" and line.get("xfail") is True:
        outcome = "xfailed"
    if outcome in _WORST:
        other = outcomes.setdefault(name, outcome)
        outcomes[name] = min(outcome, other, key=_WORST.index)
