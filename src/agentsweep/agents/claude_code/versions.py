"""Versions of the Claude Code CLI, as numbers that can be compared."""

import re

_VERSION = re.compile(r"^\s*v?([0-9]{1,9})\.([0-9]{1,9})\.([0-9]{1,9})(?![0-9])")


def version_tuple(version: str | None) -> tuple[int, int, int] | None:
    """`2.1.330 (Claude Code)` as (2, 1, 330); None for what is no version."""
    match = _VERSION.match(version) if version else None
    return (int(match[1]), int(match[2]), int(match[3])) if match else None
