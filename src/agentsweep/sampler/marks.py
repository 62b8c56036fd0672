"""The mark protocol: what the Bash wrapper in a container tells the sampler on the host.

The wrapper (`data/bash-mark`) writes `B <pid>` and `E <pid> <status>` into the FIFO `req` and
waits for a line in its own FIFO `ack.<pid>` after each; the command is in `call.<pid>`. All of it
comes from the container and is untrusted: every read is bounded, nothing is opened that could
block, no symbolic link is followed, and garbage costs the sampler a bounded amount of time.
"""

import contextlib
import os
import re
import shutil
import stat
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path

from agentsweep import untrusted

REQUESTS = "req"
_LINE = re.compile(rb"([BE]) ([0-9]{1,10})(?: ([0-9]{1,3}))?")
# A FIFO gives what is there, so that this bounds the work done for one wake-up.
_READ_BYTES = 4096
_LINE_BYTES = 64
# The kernel's MAX_ARG_STRLEN: no command can be longer.
_COMMAND_BYTES = 131072


def make_marks_directory(directory: Path) -> None:
    """Create the directory that is mounted at /run/agentsweep/marks, with its request FIFO.

    The agent's user in the container may be nobody on the host, so both are open to all; keep
    the directory inside one that is not.
    """
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o777)
    fifo = directory / REQUESTS
    with contextlib.suppress(FileExistsError):
        os.mkfifo(fifo)
    fifo.chmod(0o666)


def install_wrapper(target: Path) -> None:
    """Write the executable wrapper, to be mounted beside the marks directory."""
    with (files("agentsweep") / "data" / "bash-mark").open("rb") as source, target.open("wb") as to:
        shutil.copyfileobj(source, to)
    target.chmod(0o755)


class Requests:
    """The sampler's end of the request FIFO; `descriptor` is for polling."""

    def __init__(self, directory: Path):
        self._directory = os.open(directory, os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        # Reading and writing, so that there is always a writer and never an end of file.
        found = _open_untrusted(self._directory, REQUESTS, stat.S_ISFIFO, os.O_RDWR)
        if found is None:
            os.close(self._directory)
            raise FileNotFoundError(f"{directory / REQUESTS} is not a FIFO")
        self.descriptor = found
        self._rest = b""

    def read(self) -> tuple[list[tuple[str, int, int | None]], int]:
        """What came: (`B` or `E`, wrapper pid, exit status) each, and the number of bad lines."""
        try:
            data = os.read(self.descriptor, _READ_BYTES)
        except BlockingIOError:
            return [], 0
        *lines, rest = (self._rest + data).split(b"\n")
        bad = 0
        if len(rest) > _LINE_BYTES:
            # Kept short, still no valid beginning of a line.
            rest = b"?"
            bad += 1
        self._rest = rest
        found: list[tuple[str, int, int | None]] = []
        for line in lines:
            if not line:
                continue
            match = _LINE.fullmatch(line)
            if not match or (match[1] == b"E") != (match[3] is not None):
                bad += 1
                continue
            status = None if match[3] is None else int(match[3])
            found.append((match[1].decode(), int(match[2]), status))
        return found, bad

    def open_call(self, wrapper_pid: int) -> tuple[int, str] | None:
        """The write end of a wrapper's answer FIFO, and its command; None when there is none.

        Both names are unlinked: nobody else needs them, and nothing is left behind by a wrapper
        that is killed.
        """
        answer = _open_untrusted(
            self._directory, f"ack.{wrapper_pid}", stat.S_ISFIFO, os.O_WRONLY | os.O_NONBLOCK
        )
        if answer is None:
            return None
        command = b""
        call = _open_untrusted(
            self._directory, f"call.{wrapper_pid}", stat.S_ISREG, os.O_RDONLY | os.O_NONBLOCK
        )
        if call is not None:
            with contextlib.suppress(OSError):
                command = os.read(call, _COMMAND_BYTES)
            os.close(call)
        for name in (f"ack.{wrapper_pid}", f"call.{wrapper_pid}"):
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._directory)
        return answer, command.decode(errors="replace")

    def close(self) -> None:
        """Close the FIFO and the directory."""
        os.close(self.descriptor)
        os.close(self._directory)


def answer(descriptor: int) -> bool:
    """Let the waiting wrapper go on; False when it is not there any more."""
    try:
        os.write(descriptor, b"ok\n")
    except OSError:
        return False
    return True


def _open_untrusted(
    directory: int, name: str, kind: Callable[[int], bool], flags: int
) -> int | None:
    try:
        return untrusted.open_untrusted(name, kind, flags, directory)
    except OSError:
        return None
