"""The schemas of the files of a run, as they are in the package."""

from typing import Any

import yaml

from agentsweep.codehash import SOURCE


def load(name: str) -> dict[str, Any]:
    """The JSON Schema of a file: `result`, `api`, `marks`, `evidence`."""
    path = SOURCE / "schemas" / f"{name}.schema.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))
