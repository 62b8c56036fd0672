"""Which test of a report a benchmark's row means: its lists hold what its parsers read from logs.

A parser takes what stands before the first blank of a line, and some take more away. So a row's
name may be a test's id, one of these other spellings, or the beginning of ids with parameters.
"""

import bisect
import re
from collections import defaultdict
from collections.abc import Sequence

from agentsweep.pytest_reports import Reported, reported_name

_MOUSE = (("MouseButton.LEFT", "1"), ("MouseButton.RIGHT", "3"))
_COLOUR = re.compile(r"\[\d+m")
_CONTROL = dict.fromkeys(range(1, 32))
_OPTION = re.compile(r"(.*?)\[(.*)\]")
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
    match = _OPTION.search(name)
    if not match:
        return name
    before, option = match.groups()
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
        for longer in self._sorted[first:]:
            if not longer.startswith(name):
                break
            found += self._exact[longer]
        return found
