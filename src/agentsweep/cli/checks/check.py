"""One finding of `agentsweep doctor`."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One finding: `state` is ok, note, warn or fail; `cure` is empty where none is needed."""

    name: str
    state: str
    detail: str
    cure: str = ""
