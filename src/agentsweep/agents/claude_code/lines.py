"""JSON lines as they are found on disk: torn, spliced, NUL-filled or whole.

A session file is written by a process that may be killed at any byte, and sometimes by two
processes at once. Every line is therefore decoded by itself. A line that does not decode is
searched for the records in it, and what is lost is counted with its line number and the reason.
"""

import json
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from agentsweep import untrusted

_DECODE = json.JSONDecoder().raw_decode
_BOM = b"\xef\xbb\xbf"
# The keys that a record is known to begin with, or could; nested objects begin with `type` too,
# which is why a candidate must also be accepted by the caller's `is_record`.
_RECORD_START = re.compile(
    r'\{\s*"(?:parentUuid|type|uuid|sessionId|isSidechain|timestamp|cwd|messageId|agentId|message)"'
    r"\s*:"
)
# A broken line may offer very many false starts; each costs one attempt to decode.
_MAX_FAILED_STARTS = 200
# Each may read the line to its end, so those of a long line may read this much of it in all.
_FAILED_LINES, _FAILED_CHARS = 4, 2**24
_MAX_PROBLEMS = 20


@dataclass(slots=True)
class Problem:
    """One place where a file is damaged. `lost` is false when every record there was saved."""

    file: str
    line: int
    reason: str
    lost: bool


@dataclass(slots=True)
class LineReport:
    """How many lines were read, and how many could not be used.

    `unusable` counts lines, and pieces of spliced lines, whose content is lost. `recovered`
    counts damaged lines out of which at least one whole record was saved. `problems` lists the
    first few of both.
    """

    total: int = 0
    blank: int = 0
    unusable: int = 0
    recovered: int = 0
    problems: list[Problem] = field(default_factory=list)

    @property
    def damaged(self) -> bool:
        return self.unusable > 0 or self.recovered > 0

    def note(self, file: str, line: int, reason: str, lost: bool) -> None:
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(Problem(file, line, reason, lost))


def read_records(
    lines: Iterable[bytes],
    name: str,
    report: LineReport,
    is_record: Callable[[dict[str, Any]], bool],
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number, object) for each JSON object with a `type`, whatever the damage.

    `lines` are raw lines (a binary file will do), `name` is how problems name the file, and
    `is_record` says whether an object found in the middle of a broken line is a whole record and
    not a part of one. Never raises for the content of a line.
    """
    reader = _Reader(name, report, is_record)
    for number, raw in enumerate(lines, 1):
        report.total += 1
        try:
            text = raw.decode()
            untrusted.check(text)
            found, end = _DECODE(text)
            if type(found) is dict and type(found.get("type")) is str and not text[end:].strip():
                reader.fragment = None
                yield number, found
                continue
        except (ValueError, RecursionError):
            pass
        for found in reader.mend(number, raw):
            yield number, found


class _Reader:
    """The slow path: lines that are not exactly one record."""

    def __init__(self, name: str, report: LineReport, is_record: Callable[[dict[str, Any]], bool]):
        self.name = name
        self.report = report
        self.is_record = is_record
        self.fragment: str | None = None  # the start of a record that the line before broke off

    def mend(self, number: int, raw: bytes) -> list[dict[str, Any]]:
        report = self.report
        if number == 1 and raw.startswith(_BOM):
            raw = raw[len(_BOM) :]
        if not raw.strip():
            report.blank += 1
            return []
        reasons = []
        if b"\0" in raw:
            reasons.append("NUL bytes")
            raw = raw.replace(b"\0", b"")
            if not raw.strip():
                return self._lose(number, "NUL bytes only")
        try:
            text = raw.decode()
        except UnicodeDecodeError:
            reasons.append("invalid UTF-8")
            text = raw.decode(errors="replace")
        text = text.rstrip("\r\n")
        try:
            untrusted.check(text)
            whole, end = _DECODE(text.strip())
        except (ValueError, RecursionError) as error:
            whole, end = None, 0
            torn = getattr(error, "pos", 0) >= len(text) - 1 or text.startswith("{")
            reasons.append("broken off" if torn else "not JSON")
        if end == len(text.strip()):
            if type(whole) is not dict:
                return self._lose(number, "not a JSON object")
            if type(whole.get("type")) is not str:
                return self._lose(number, "an object without a type")
            self.fragment = None
            if reasons:
                report.recovered += 1
                report.note(self.name, number, ", ".join(reasons), False)
            return [whole]
        return self._search(number, text, reasons)

    def _lose(self, number: int, reason: str) -> list[dict[str, Any]]:
        self.fragment = None
        self.report.unusable += 1
        self.report.note(self.name, number, reason, True)
        return []

    def _search(self, number: int, text: str, reasons: list[str]) -> list[dict[str, Any]]:
        """Find the whole records in a line that is more, or less, than one record."""
        found: list[dict[str, Any]] = []
        pieces: list[str] = []  # what lies between the records
        kept = failed = 0
        left = _FAILED_LINES * len(text) + _FAILED_CHARS
        many = sum(map(text.count, "[{,")) > untrusted.MAX_VALUES
        start = _RECORD_START.search(text)
        while start and failed < _MAX_FAILED_STARTS and left > 0:
            try:
                if many:
                    # Before they take memory.
                    left -= len(text) - start.start()
                    untrusted.check(text[start.start() :])
                value, end = _DECODE(text, start.start())
                untrusted.check(text[start.start() : end])
            except (ValueError, RecursionError) as error:
                failed += 1
                left -= _read_chars(error, text, start.start())
                start = _RECORD_START.search(text, start.start() + 1)
                continue
            rest = text[end : end + 200].lstrip()
            # An object that is followed by a comma or a bracket is part of a broken record.
            if self.is_record(value) and (not rest or rest.startswith('{"')):
                pieces.append(text[kept : start.start()])
                found.append(value)
                kept = end
            start = _RECORD_START.search(text, end)
        pieces.append(text[kept:])
        lost = [piece for piece in pieces if piece.strip()]

        before, self.fragment = self.fragment, None
        if before is not None and lost and not found:
            joined = self._join(before, text)
            if joined is not None:
                # The piece was counted as lost when its line was read.
                self.report.unusable -= 1
                self.report.recovered += 1
                self.report.note(self.name, number, "the rest of the record before", False)
                return [joined]
        if len(lost) == 1 and lost[0].lstrip().startswith("{"):
            self.fragment = lost[0]
        if found:
            self.report.recovered += 1
            reasons = [reason for reason in reasons if reason != "broken off"]
            reasons.append("several records on one line" if not lost else "spliced records")
        self.report.unusable += len(lost)
        self.report.note(self.name, number, ", ".join(reasons), bool(lost))
        return found

    def _join(self, before: str, rest: str) -> dict[str, Any] | None:
        """The record whose first part was cut off by another writer's line, if it is one."""
        try:
            value = untrusted.loads(before + rest)
        except ValueError:
            return None
        return value if isinstance(value, dict) and self.is_record(value) else None


def _read_chars(error: Exception, text: str, start: int) -> int:
    """How much of a line was read before it was found to be no JSON."""
    if isinstance(error, json.JSONDecodeError) and not error.msg.startswith("Unterminated"):
        return max(0, error.pos - start)
    return len(text) - start
