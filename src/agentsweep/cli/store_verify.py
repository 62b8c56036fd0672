"""`agentsweep store verify`: compare what a store holds with what was sealed.

Runs and gradings alike, those that were set aside too. Nothing is changed.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from agentsweep import seal
from agentsweep.grading import evidence, grading
from agentsweep.runs.store import PUBLISHED, SEALED, SUPERSEDED, Attempt, Store


def verify(store: Store, names: Iterable[str], say: Callable[[str], object]) -> int:
    """Compare the sealed attempts that are named, all without a name; how many are damaged.

    Says a line for each damaged attempt, and how many there were of each kind. Raises
    AgentsweepError for a name that is none.
    """
    names = list(names)
    states: Counter[str] = Counter()
    for attempt in _named(store, names) if names else _all(store):
        found = seal.check(attempt.path, _needed(attempt.path))
        states[found.state] += 1
        if found.state == seal.DAMAGED:
            for name, why in found.wrong.items():
                say(f"{attempt.id}: {attempt.path}/{name} {why}")
    say(
        f"{states.total()} sealed: {states[seal.WHOLE]} as they were sealed, "
        f"{states[seal.DAMAGED]} damaged, {states[seal.NO_HASHES]} without hashes (sealed by an "
        "earlier version)"
    )
    return states[seal.DAMAGED]


def _named(store: Store, names: list[str]) -> list[Attempt]:
    named = {a.path: a for name in names for a in store.resolve(name)}
    return [a for a in named.values() if a.state in (SEALED, SUPERSEDED)]


def _all(store: Store) -> Iterable[Attempt]:
    for part in (store, Store(store.root / grading.FOLDER)):
        keys = part.keys()
        for key in keys:
            yield from (a for a in part.attempts(key) if a.state in (SEALED, SUPERSEDED))


def _needed(folder: Path) -> tuple[str, ...]:
    graded = (folder / evidence.RECORD).exists() or folder.parent.parent.name == grading.FOLDER
    return (evidence.RECORD, evidence.ARCHIVE) if graded else PUBLISHED
