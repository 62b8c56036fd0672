"""How many live attempts an invocation has started: what `agent.max_live_runs` is counted by.

    store/live/<invocation>     one line (JSON) for each attempt, written before it begins

An invocation is one `snakemake` with all its jobs, on whatever machine. A line stays whatever
becomes of its attempt: each may have been paid.
"""

import fcntl
import json
import os
import re
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentsweep.errors import AgentsweepError, ConfigError
from agentsweep.files import disk_errors

# How the jobs of a workflow learn which invocation they belong to.
VARIABLE = "AGENTSWEEP_INVOCATION"


def new_invocation() -> str:
    """A name that no other invocation has, beginning with the time (UTC)."""
    return f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(4)}"


# Of a process that was started by itself.
_OWN = new_invocation()


class Ledger:
    """The count of one invocation in a store. Making one writes nothing.

    Raises ConfigError where the environment gives the invocation a name that cannot be one.
    """

    def __init__(self, store: Path, environ: Mapping[str, str] = os.environ):
        name = environ.get(VARIABLE) or _OWN
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", name):
            raise ConfigError(
                f"{VARIABLE}: {name!r} is no name; write letters, digits, `.`, `_` and `-` (100 at "
                "most), or unset it"
            )
        self.path = Path(store) / "live" / name

    def started(self) -> int:
        """How many live attempts this invocation has started so far."""
        try:
            return self.path.read_bytes().count(b"\n")
        except FileNotFoundError:
            return 0

    def start(self, limit: int | None, entry: dict[str, Any]) -> None:
        """Count one attempt more; AgentsweepError, and no count, where the limit is reached."""
        with disk_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab") as file:
                # Held until the file is closed; jobs of one invocation run side by side.
                fcntl.flock(file, fcntl.LOCK_EX)
                begun = self.started()
                if limit is not None and begun >= limit:
                    raise AgentsweepError(
                        f"{entry['cell']}: not started, because this invocation has started "
                        f"{begun} of {limit} live runs (agent.max_live_runs): raise it, or run "
                        "again for as many more"
                    )
                file.write(json.dumps(entry).encode() + b"\n")
                file.flush()
                os.fsync(file.fileno())
