"""Recorded sessions and runs of others, for tests to read.

They are not part of the repository. They are looked for in the directory that AGENTSWEEP_SHARED
names, else in `shared` beside the repository.
"""

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("AGENTSWEEP_SHARED", REPOSITORY.parent / "shared"))
EXAMPLES = SHARED / "data" / "claude_code_examples"
RUNS = SHARED / "data" / "agentcgroup"

needs_examples = pytest.mark.skipif(
    not EXAMPLES.is_dir(),
    reason=f"NOT CHECKED against recorded sessions: {EXAMPLES} is absent (set AGENTSWEEP_SHARED)",
)
needs_runs = pytest.mark.skipif(
    not RUNS.is_dir(),
    reason=f"NOT CHECKED against recorded runs: {RUNS} is absent (set AGENTSWEEP_SHARED)",
)


def main_files() -> list[Path]:
    found = sorted(EXAMPLES.glob("*/*.jsonl"))
    return [p for p in found if not p.name.startswith(("agent-", "mock_requests"))]


def parameters():
    return [pytest.param(path, id=path.parent.name) for path in main_files()]
