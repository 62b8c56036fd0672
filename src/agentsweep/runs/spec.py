"""What decides a run's outcome, as one canonical JSON text, and what names an image.

The spec is the identity of a run: equal specs share one sealed run, whatever the cells are called
and wherever the files lie. Nothing goes in that does not change the run, above all no path.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from agentsweep.hashes import text_sha256

# Raise it when a change of the runner makes older runs incomparable: every cell is run again.
PROTOCOL = 1
# Raise it when the steps that make an image ready for the agent change.
FIX_RECIPE = 2
# Raise it when a recording would be replayed otherwise than before.
REPLAY_RULES = 1


def canonical(spec: dict[str, Any]) -> str:
    """The one text of a spec: sorted keys, no spaces, whole numbers without a decimal point."""
    return json.dumps(_plain(spec), sort_keys=True, separators=(",", ":"), ensure_ascii=False)


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def agent_part(spec: dict[str, Any]) -> str | None:
    """Hash of what a spec says but for its task's row; None for a task without one.

    The row is there as its hash in specs of up to version 0.1.0, and as its base commit since.
    """
    task = spec.get("task")
    if not isinstance(task, dict):
        return None
    if task.get("row_sha256") is None and "base_commit" not in task:
        return None
    rest = {key: task[key] for key in task if key not in ("row_sha256", "base_commit")}
    return text_sha256(canonical(spec | {"task": rest}))


def cores(cpus: str) -> int:
    """The whole cores that a CPU limit needs."""
    return int(Decimal(cpus).to_integral_value(rounding="ROUND_CEILING"))


@dataclass(frozen=True)
class ImageRef:
    """A task's image: its reference, what the lock file says of it, and where its records go.

    digest and config_digest are None for an image that is not locked. `key` changes with whatever
    changes the fixed image.
    """

    reference: str
    digest: str | None
    config_digest: str | None
    workdir: str
    uid: int
    gid: int

    @property
    def name(self) -> str:
        """A readable name, fit for a path and for an engine's image name."""
        last = self.reference.rsplit("/", 1)[-1].rsplit(":", 1)
        stem = last[1] if last[0] in ("oci-archive", "docker-archive") else last[0]
        stem = re.sub(r"\.(tar|oci)\b", "", stem.split("@")[0].lower())
        return re.sub(r"[^a-z0-9]+", "-", stem).strip("-") or "image"

    @property
    def key(self) -> str:
        """12 hex digits that stand for digest, user, work tree and recipe."""
        parts = [self.reference, self.digest, self.uid, self.gid, self.workdir, FIX_RECIPE]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:12]

    @property
    def directory(self) -> str:
        """`<image>~<key>`, below results/images."""
        return f"{self.name}~{self.key}"

    @property
    def tag(self) -> str:
        """How the fixed image is called in an engine's storage."""
        return f"localhost/agentsweep/{self.name}:{self.key}"
