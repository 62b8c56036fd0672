"""Which OOM kills there were in a phase, whom they hit, and in which order.

Two sources. The kernel's counter says how many, and its log says whom, one after another. Either
may know less: the counter goes with its container, the log may be unreadable or overwritten.
"""

from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import Any

# What `comm` of the agent's process is, in records that do not have its pid.
_AGENT_COMM = "claude"


@dataclass(frozen=True)
class Survived:
    """Kills that somebody lived through: their number, and a number that is surely not exceeded.

    count: None where the order of the kills is not known; at_most is then the bound.
    """

    count: int | None
    at_most: int | None


@dataclass(frozen=True)
class Kills:
    """The OOM kills of one phase.

    count: how many. pids: the victims' host pids in the order of the kernel's log; None where the
    log cannot be read or its pids are not this process's.
    """

    count: int
    pids: tuple[int, ...] | None

    @property
    def all_named(self) -> bool:
        """Whether the victim of each kill is known."""
        return self.pids is not None and len(self.pids) == self.count

    def hit(self, wanted: Container[int]) -> bool | None:
        """Whether one of these processes was a victim; None where that is not known."""
        if self.pids is not None and any(pid in wanted for pid in self.pids):
            return True
        return False if self.all_named else None

    def before(self, wanted: Container[int]) -> Survived:
        """The kills before that of one of these processes, which surely was a victim."""
        if self.count <= 1:
            return Survived(0, 0)
        pids = self.pids or ()
        place = next((n for n, pid in enumerate(pids) if pid in wanted), None)
        if place is None:
            return Survived(None, self.count - 1)
        at_most = self.count - (len(pids) - place)
        return Survived(place if self.all_named else None, at_most)


def in_phase(
    begin: dict[str, Any], end: dict[str, Any], comparable: bool
) -> tuple[Kills, list[dict[str, Any]] | None]:
    """The kills between two answers of the sampler, and the log's records of them.

    Each answer has `oom_kill`, the counter since the container's start, and `victims`, the log's
    records since the sampler's start or None. The larger of the two numbers counts: the log has
    the last kills of a container that took its counter with it. comparable: whether the log's pids
    are those that this process sees.
    """
    counted = end["oom_kill"] - begin["oom_kill"]
    if begin["victims"] is None or end["victims"] is None:
        return Kills(counted, None), None
    victims = end["victims"][len(begin["victims"]) :]
    pids = tuple(victim["pid"] for victim in victims)
    return Kills(max(counted, len(victims)), pids if comparable else None), victims


def before_agent(count: int, victims: Iterable[object]) -> Survived:
    """The kills before the agent's own, which surely is among them, by the victims' names.

    For results that do not have the agent's pid. A process chooses its own name, so that one that
    occurs twice, or not at all, says nothing.
    """
    names = [victim.get("comm") if isinstance(victim, dict) else None for victim in victims]
    if count <= 1:
        return Survived(0, 0)
    if len(names) == count and names.count(_AGENT_COMM) == 1:
        place = names.index(_AGENT_COMM)
        return Survived(place, place)
    return Survived(None, count - 1)
