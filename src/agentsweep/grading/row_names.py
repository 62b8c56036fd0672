"""Which test of a report a benchmark's row means: its lists hold what its parsers read from logs.

A parser takes what stands before the first blank of a line, and some take more away. So a row's
name may be a test's id, one of these other spellings, or the beginning of ids with parameters.
"""

import bisect
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

from agentsweep.grading.pytest_reports import Reported, reported_name

_MOUSE = (("MouseButton.LEFT", "1"), ("MouseButton.RIGHT", "3"))
_COLOUR = re.compile(r"\[\d+m")
_CONTROL = dict.fromkeys(range(1, 32))
# Of a row's names, looked for at the ends of all names of a report, which may be many.
_TRIED = 10
_FILE = re.compile(r"[^\s()]*(/[^\s()]*|\.(py|pyx|rst|txt|md|ipynb|yml|yaml))")


def is_pytest_id(name: str) -> bool:
    """Whether pytest could have printed this name of a test, if perhaps not all of it.

    Not so those of unittest (`test_a (module.Class)`, or the first line of its docstring) and
    those that are a function's name alone.
    """
    return "::" in name or _FILE.fullmatch(name) is not None


def spellings(name: str) -> set[str]:
    """What the benchmark's parsers of pytest make of a test's name, beside the name itself."""
    words = name
    for button, number in _MOUSE:
        words = words.replace(button, number)
    found = {name, words, _COLOUR.sub("", name).translate(_CONTROL)}
    found |= {(one.split() or [""])[0] for one in found}
    return found | {_without_folders(one) for one in found}


def _without_folders(name: str) -> str:
    """`parse_log_pytest_options`: of a parameter that is a path, the last part alone."""
    begin, end = name.find("["), name.rfind("]")
    if not 0 <= begin < end:
        return name
    before, option = name[:begin], name[begin + 1 : end]
    if option.startswith("/") and not option.startswith("//") and "*" not in option:
        option = "/" + option.split("/")[-1]
    return f"{before}[{option}]"


class Names:
    """The tests of a report by all names that a row may have for them."""

    def __init__(self, reported: Sequence[Reported]):
        self._exact: dict[str, list[Reported]] = defaultdict(list)
        self._spelt: dict[str, list[Reported]] = defaultdict(list)
        for test in reported:
            self._exact[test.name].append(test)
            for name in spellings(test.name) - {test.name}:
                self._spelt[name].append(test)
        self._sorted = sorted(self._exact)

    def find(self, test_id: str) -> list[Reported]:
        """The tests that a row's name stands for: all of them must pass."""
        name = reported_name(test_id)
        for known in (self._exact, self._spelt):
            if name in known:
                return known[name]
        # Cut somewhere in its parameters.
        if "[" not in name or name.endswith("]"):
            return []
        first = bisect.bisect_left(self._sorted, name)
        found: list[Reported] = []
        for index in range(first, len(self._sorted)):
            longer = self._sorted[index]
            if not longer.startswith(name):
                break
            found += self._exact[longer]
        return found


def from_start(reported: Sequence[Reported], wanted: Sequence[str]) -> Sequence[Reported]:
    """The tests, named from where pytest was started, as a row and a log name them.

    A report names them from pytest's root directory, which is another where a settings file above
    or below is found. Where none of the wanted tests is in the report, and one would be with some
    directories before its name, or without, these are put before all, or taken away. That it was
    so is for the printed summary to say, whose names must be those of the row.
    """
    names = {test.name for test in reported}
    sought = [reported_name(test_id) for test_id in wanted]
    if not names or any(name in names for name in sought):
        return reported
    for name in sought:
        parts = name.partition("[")[0].split(".")
        for count in range(1, len(parts)):
            before = ".".join(parts[:count]) + "."
            if name[len(before) :] in names:
                return [replace(test, name=before + test.name) for test in reported]
    ordered = sorted(names)
    for name in sought[:_TRIED]:
        for longer in ordered:
            if longer.endswith(f".{name}"):
                before = longer[: -len(name)]
                return [
                    replace(test, name=test.name.removeprefix(before))
                    for test in reported
                    if test.name.startswith(before)
                ]
    return reported
