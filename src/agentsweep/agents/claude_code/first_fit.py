"""Tool calls in the order in which they must end, found by time in logarithmic time; and the first
of a list that is still there.

A tree of minima over the times at which the calls were asked for. To look at each call for each
mark would take minutes where an agent makes tens of thousands of one command.
"""

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence

from agentsweep.agents.claude_code.records import ToolCall

_GONE = math.inf
# The end of a call and when it was asked for, in ns, then its place.
Order = tuple[float, float, int]


class FirstFit:
    """Calls with their places in a list, by which ties are settled. Times are UTC nanoseconds."""

    def __init__(self, calls: Sequence[tuple[int, ToolCall]]):
        """`calls`: each call with its place."""
        keyed = sorted(((*_key(call), place, call) for place, call in calls), key=lambda k: k[:3])
        self._calls = keyed
        self._ends = [key[0] for key in keyed]
        self._leaves = 1 << max(0, len(keyed) - 1).bit_length()
        requested = (_asked(call) for *_, call in keyed)
        self._least = [_GONE] * self._leaves + [*requested]
        self._least += [_GONE] * (2 * self._leaves - len(self._least))
        for node in range(self._leaves - 1, 0, -1):
            self._least[node] = min(self._least[2 * node], self._least[2 * node + 1])
        self.left = len(keyed)

    def first(self, end_ns: int, requested_ns: int, start: int = 0) -> tuple[Order, int] | None:
        """The first call that ends at `end_ns` or later and was asked for at `requested_ns` or
        before: its order, to be compared with those of others, and its index. `start`: the least
        index that is looked at."""
        low, least, leaves = max(start, bisect_left(self._ends, end_ns)), self._least, self._leaves
        if low >= len(self._ends):
            return None
        node = low + leaves
        while least[node] > requested_ns:
            # The next subtree on the right: up while this is a right child.
            while node & 1:
                node >>= 1
            if node == 0:
                return None
            node += 1
        while node < leaves:
            node *= 2
            if least[node] > requested_ns:
                node += 1
        return self._calls[node - leaves][:3], node - leaves

    def call(self, index: int) -> ToolCall:
        """The call at an index."""
        return self._calls[index][3]

    def remove(self, index: int) -> ToolCall:
        """Take a call away, and give it."""
        node, least = index + self._leaves, self._least
        least[node] = _GONE
        while node := node >> 1:
            least[node] = min(least[2 * node], least[2 * node + 1])
        self.left -= 1
        return self._calls[index][3]


def skip(leads_to: list[int], place: int, step: int, passed: Callable[[int], bool]) -> int:
    """The first place from here on that is not passed; `leads_to` remembers how far that was.

    It begins as `range(n)`. What is passed once stays so. step: 1 or -1.
    """
    path = []
    while leads_to[place] != place or passed(place):
        path.append(place)
        if leads_to[place] == place:
            leads_to[place] = place + step
        place = leads_to[place]
    for one in path:
        leads_to[one] = place
    return place


def _key(call: ToolCall) -> tuple[float, float]:
    """The order: the one that must end first, and of those the one that was asked for first."""
    end_ns = math.inf if call.end_utc_ns is None else call.end_utc_ns
    return end_ns, call.requested_utc_ns or 0


def _asked(call: ToolCall) -> float:
    return -math.inf if call.requested_utc_ns is None else call.requested_utc_ns
