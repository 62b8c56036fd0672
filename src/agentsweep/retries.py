"""Trying again what failed for a moment, once and in one place; and what failed for good.

A job tries again by itself, in a new process, so that Snakemake prints one failure and not three.
What will fail again until somebody changes something (`LastingError`, a refusal by name) is not
tried again. A job that is killed is started again by its shell (`data/job.sh`). Snakemake's own
retries remain for what never reaches a job, such as a node that goes away; a job that has failed by
itself leaves a note, by which such a retry ends at once.
"""

import hashlib
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from agentsweep.errors import AgentsweepError, InfraError, LastingError

# How often a job may try again: Snakemake's `--retries`, which jobs do not get otherwise.
RETRIES = "AGENTSWEEP_RETRIES"
# Where the jobs of one `snakemake` note that they have failed for good.
NOTES = "AGENTSWEEP_NOTES"
_FIRST_WAIT_S = 5
_LONGEST_WAIT_S = 60
# What engines and registries say of what stays.
_LASTING = (
    *("no space left on device", "disk quota exceeded", "unauthorized", "authentication required"),
    *("manifest unknown", "permission denied"),
)


def run(command: Callable[[], int], words: list[str], say: Callable[[str], object]) -> int:
    """Call a job's command; on a failure that may pass, start this process again.

    words: the command line, which names the job. Raises what the command raises in the end.
    """
    note = _note(words)
    if note is not None and note.exists():
        raise AgentsweepError(note.read_text(encoding="utf-8"))
    try:
        return command()
    except AgentsweepError as error:
        left = _left()
        if left > 0 and may_pass(error) and _rewind():
            wait_s = _wait_s(left)
            say(f"failed: {error}; trying again in {wait_s} s ({left} left)")
            time.sleep(wait_s)
            _again(left - 1)
        # After a signal nothing is known.
        if note is not None and not hasattr(error, "exit_code"):
            note.parent.mkdir(parents=True, exist_ok=True)
            note.write_text(str(error), encoding="utf-8")
        raise


def may_pass(error: Exception) -> bool:
    """Whether the same thing may go well in a moment."""
    if not isinstance(error, InfraError) or isinstance(error, LastingError):
        return False
    return not any(words in str(error).lower() for words in _LASTING)


def _left() -> int:
    text = os.environ.get(RETRIES, "0")
    return int(text) if text.isdecimal() else 0


def _wait_s(left: int) -> int:
    tried = max(0, int(os.environ.get(f"{RETRIES}_TRIED", "0")))
    os.environ[f"{RETRIES}_TRIED"] = str(tried + 1)
    wait_s: int = _FIRST_WAIT_S * 2**tried
    return min(wait_s, _LONGEST_WAIT_S)


def _rewind() -> bool:
    """Whether stdin, where a job's configuration is, can be read once more; it then is."""
    try:
        os.lseek(0, 0, os.SEEK_SET)
    except OSError:
        return os.isatty(0)
    return True


def _again(left: int) -> None:
    """Go on as a new process, with nothing that this one remembers of engine or host."""
    os.environ[RETRIES] = str(left)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _note(words: list[str]) -> Path | None:
    folder = os.environ.get(NOTES)
    if not folder:
        return None
    return Path(folder) / hashlib.sha256("\0".join(words).encode()).hexdigest()[:24]
