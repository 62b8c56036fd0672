"""Files that one command writes and another reads: records as JSON, and lists of paths."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentsweep.errors import ConfigError


def read(path: Path, keys: tuple[str, ...], cure: str) -> dict[str, Any]:
    """A record of ours, with all its keys; one sentence where it is not one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} is missing: {cure}") from None
    except ValueError:
        raise ConfigError(f"{path} is damaged (not JSON): delete it and {cure}") from None
    if not isinstance(content, dict) or any(key not in content for key in keys):
        raise ConfigError(f"{path} is no complete record: delete it and {cure}")
    return content


def write(path: Path, record: Mapping[str, Any]) -> None:
    """Write a record, whole or not at all, and the directories above it."""
    from agentsweep.files import disk_errors, write_durably

    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_durably(path, json.dumps(record, indent=1, sort_keys=True).encode() + b"\n")


def lines(path: Path) -> list[str]:
    """The lines of a list of paths, which may have any character in them but a line feed."""
    return [line for line in os.fsdecode(path.read_bytes()).split("\n") if line]
