"""Which sealed run a cell gets from the store, and when it is run again.

A run is found by what its agent got (`spec`). Up to version 0.1.0 a spec of a task with a
benchmark row held the hash of that row too, although the row's tests never reach an agent. Such
runs are found by all that their specs say apart from that hash.
"""

import contextlib
import functools
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass

from agentsweep import seal
from agentsweep.errors import LastingError
from agentsweep.runs.spec import agent_part
from agentsweep.runs.store import PUBLISHED, SEALED, SUPERSEDED, Attempt, Store, spec_sha256

# In the store's directory: what each spec there says apart from its row, so that it is read once.
INDEX = ".specs-by-agent.json"
# Fewer specs than these are read faster than a file of them is kept.
_WORTH_KEEPING = 200


@dataclass(frozen=True)
class Repeat:
    """The outcomes that do not count as a cell's run, and how many more runs a cell gets for them.

    A cell has at most `1 + times` sealed runs on that account, whatever their outcomes.
    """

    outcomes: frozenset[str] = frozenset()
    times: int = 0

    @classmethod
    def of(cls, on_miss: str, outcomes: Iterable[str], times: int) -> "Repeat":
        """What an agent's settings say; none where nothing may be run."""
        return cls() if on_miss == "fail" else cls(frozenset(outcomes), times)


@dataclass(frozen=True)
class Choice:
    """attempt: the sealed run that a cell gets, None where one has to be made.

    before: how many runs of the cell are older than that one, made or to be made. It changes when
    a cell is to be run again, and not when its run is made.
    """

    attempt: Attempt | None
    before: int


class Recall:
    """The runs of a store by what their agents got."""

    def __init__(self, store: Store):
        self._store = store
        self._by_agent: dict[str, list[str]] | None = None

    def made(self, spec: str) -> list[Attempt]:
        """The sealed and the superseded runs of a spec, the oldest first."""
        own = self._finished(spec_sha256(spec))
        return [*self._of_old_form(spec), *own]

    def choose(self, spec: str, repeat: Repeat = Repeat()) -> Choice:
        """The newest sealed run whose outcome counts, else the newest; none where one is due."""
        made = self.made(spec)
        sealed = [attempt for attempt in made if attempt.state == SEALED]
        if not sealed:
            return Choice(None, len(made))
        chosen = sealed[-1]
        if repeat.outcomes:
            counting = [a for a in sealed if _outcome(a) not in repeat.outcomes]
            if not counting and len(sealed) <= repeat.times:
                return Choice(None, len(made))
            chosen = (counting or sealed)[-1]
        return Choice(chosen, made.index(chosen))

    def _finished(self, key: str) -> list[Attempt]:
        return [a for a in self._store.attempts(key) if a.state in (SEALED, SUPERSEDED)]

    def _of_old_form(self, spec: str) -> list[Attempt]:
        part = _part(spec)
        if part is None:
            return []
        if self._by_agent is None:
            self._by_agent = {}
            for key, named in _old_specs(self._store).items():
                self._by_agent.setdefault(named, []).append(key)
        found = [a for key in self._by_agent.get(part, ()) for a in self._finished(key)]
        # The row that a run was paid for last is mostly the one whose results are in use.
        return sorted(found, key=_start) if len(found) > 1 else found


def verify(sealed: Attempt, cell: str, needed: tuple[str, ...] = PUBLISHED) -> str:
    """Compare the files of a sealed run with its seal, before they are taken for data.

    needed: files that it must have, whatever its seal says.
    Returns what is known of them: `seal.WHOLE` or `seal.NO_HASHES`. Raises LastingError where one
    is damaged. Such a run is neither deleted nor made again by itself, for it may have cost money.
    """
    found = seal.check(sealed.path, needed, PUBLISHED)
    if found.state == seal.DAMAGED:
        raise LastingError(
            f"{cell}: sealed run {sealed.id} is damaged: {sealed.path}/{found.sentence}: bring it "
            f"back from your archive, or `agentsweep rerun {cell}` and run again for a new run"
        )
    return found.state


@functools.cache
def _part(spec: str) -> str | None:
    """The agent's part of a canonical spec; a cell's is asked for again and again."""
    return agent_part(json.loads(spec))


def is_run_of(spec: str, result: object) -> bool:
    """Whether a `result.json` is that of a run of this spec, in the form of today or before."""
    if not isinstance(result, dict):
        return False
    if result.get("spec_sha256") == spec_sha256(spec):
        return True
    made = result.get("spec")
    return isinstance(made, dict) and _is_old(made) and agent_part(made) == _part(spec)


def _is_old(spec: object) -> bool:
    """Whether a spec names a row by its hash."""
    task = spec.get("task") if isinstance(spec, dict) else None
    return isinstance(task, dict) and task.get("row_sha256") is not None


def _old_specs(store: Store) -> dict[str, str]:
    """The agent's part of every spec of the old form, by key; read once and kept in the store."""
    kept = _kept(store)
    keys = store.keys()
    unread = [key for key in keys if key not in kept]
    for key in unread:
        spec = store.spec(key)
        # One that is being written, or is damaged, may be whole the next time.
        if spec is not None:
            kept[key] = (agent_part(spec) or "") if _is_old(spec) else ""
    if len(unread) >= _WORTH_KEEPING:
        _keep(store, kept)
    return {key: kept[key] for key in keys if kept.get(key)}


def _kept(store: Store) -> dict[str, str]:
    try:
        found = json.loads((store.root / INDEX).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    if not isinstance(found, dict):
        return {}
    return {k: v for k, v in found.items() if isinstance(v, str)}


def _keep(store: Store, parts: dict[str, str]) -> None:
    """Best effort: an archive may be read-only, and all of it can be read again."""
    temporary = store.root / f"{INDEX}.{os.getpid()}"
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps(parts), encoding="utf-8")
        temporary.rename(store.root / INDEX)


def _outcome(attempt: Attempt) -> str | None:
    found = (attempt.result() or {}).get("outcome")
    return found if isinstance(found, str) else None


def _start(attempt: Attempt) -> tuple[int, str]:
    started = (attempt.result() or {}).get("started_utc_ns")
    return (started if isinstance(started, int) else 0, attempt.id)
