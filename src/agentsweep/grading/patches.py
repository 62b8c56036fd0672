"""Which patches a sweep left: each once for its task, however many runs left it."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from agentsweep import untrusted
from agentsweep.errors import AgentsweepError
from agentsweep.files import write_durably
from agentsweep.hashes import file_sha256
from agentsweep.vocabulary import PatchStatus


def collect(runs: Iterable[tuple[str, Path]], out: Path) -> int:
    """Write the distinct patches of runs, given as task and folder, as JSON; returns how many.

    The file is a list of `task`, `patch_sha256` and `run`, the first folder that holds the patch,
    in the order of the runs. Empty patches are none. Raises AgentsweepError for a patch that is
    not the one that its run measured.
    """
    found: dict[tuple[str, str], Path] = {}
    for task, folder in runs:
        # A sealed result, which is ours.
        result: Any = untrusted.read_json(folder / "result.json")
        patch = result["patch"]
        if patch["status"] != PatchStatus.OK or (task, patch["sha256"]) in found:
            continue
        if file_sha256(folder / "patch.diff") != patch["sha256"]:
            raise AgentsweepError(
                f"{folder}/patch.diff is not the patch that the run left: remove {folder}, "
                "and the store gives it back"
            )
        found[task, patch["sha256"]] = folder
    rows = [
        {"task": task, "patch_sha256": sha256, "run": str(folder)}
        for (task, sha256), folder in found.items()
    ]
    write_durably(out, (json.dumps(rows, indent=1) + "\n").encode())
    return len(rows)


def read(path: Path) -> list[dict[str, str]]:
    """What `collect` wrote; AgentsweepError where somebody else did."""
    try:
        rows: Any = untrusted.read_json(path)
        whole = isinstance(rows, list) and all(map(_is_row, rows))
    except ValueError:
        whole = False
    if not whole:
        raise AgentsweepError(f"{path} is no list of patches: remove it and run again")
    listed: list[dict[str, str]] = rows
    return listed


def _is_row(row: object) -> bool:
    return (
        isinstance(row, dict)
        and row.keys() == {"task", "patch_sha256", "run"}
        and all(isinstance(text, str) for text in row.values())
    )


def find(path: Path, task: str, patch_sha256: str) -> Path:
    """A copy of a patch that `path` lists."""
    for patch in read(path):
        if (patch["task"], patch["patch_sha256"]) == (task, patch_sha256):
            return Path(patch["run"]) / "patch.diff"
    raise AgentsweepError(f"{path} lists no patch {patch_sha256} of {task}: name another target")


def grading_folder(path: Path, patch: dict[str, str]) -> Path:
    """Where the grading of a patch is, beside the list that names the patch."""
    return path.parent / patch["task"] / patch["patch_sha256"]
