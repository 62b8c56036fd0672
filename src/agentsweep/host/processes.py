"""Processes of ours: who owns what, and how children end with their parent."""

import contextlib
import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agentsweep import utf8
from agentsweep.errors import InfraError

# The exit code of a service of ours that says, in the last line on stderr, what it cannot do.
REFUSED = 2
# The exit code of one that its clients asked for more than it may have.
OVERWHELMED = 3
_PR_SET_PDEATHSIG = 1
# malloc.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LAST_BYTES = 2**16


def owner_tag() -> str:
    """`host/boot/view/pid/start`: names this process for ever, also after its pid is used again.

    `view` is the user and the pid namespace: what decides whose processes can be seen.
    """
    boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
    return f"{socket.gethostname()}/{boot}/{_view()}/{os.getpid()}/{_start_ticks(os.getpid())}"


def owner_is_dead(tag: str) -> bool:
    """Whether the process behind an owner tag is known to have ended.

    Processes of another host, user or pid namespace may be invisible from here without being
    dead, so their tags never are.
    """
    parts = tag.split("/")
    if len(parts) != 5 or not parts[3].isdecimal():
        return False
    host, boot, view, pid, start = parts
    if host != socket.gethostname() or view.split("-")[0] != str(os.getuid()):
        return False
    if boot != Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip():
        return True
    return view == _view() and str(_start_ticks(int(pid))) != start


def _view() -> str:
    return f"{os.getuid()}-{Path('/proc/self/ns/pid').stat().st_ino}"


def _start_ticks(pid: int) -> int | None:
    """Field 22 of /proc/<pid>/stat, counted after the name (which may hold spaces); proc(5)."""
    try:
        text = utf8.kernel_text(Path(f"/proc/{pid}/stat"))
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(text.rpartition(")")[2].split()[19])


class ServiceLost(InfraError):
    """A service of the run that is gone, or gives no answer.

    by_host: whether somebody or something other than its own clients is known to have done it: a
    signal that no code of its own sends, a stop, a disk that does not answer.
    """

    def __init__(self, sentence: str, by_host: bool):
        super().__init__(sentence)
        self.by_host = by_host


# How a process ends that fails by itself, be it for want of memory; all other signals are sent.
_OWN_SIGNALS = {signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL}


def end_with_parent(with_signal: int = signal.SIGTERM) -> None:
    """Ask the kernel to signal this process when its parent dies, even by SIGKILL; prctl(2)."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, with_signal, 0, 0, 0)


def keep_freed_memory(limit_bytes: int) -> None:
    """Have glibc keep so much of what was freed, instead of giving it back to the kernel, which
    makes each page of the next large allocation cost a fault. Does nothing with another libc."""
    with contextlib.suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_TRIM_THRESHOLD, limit_bytes)
        mallopt(_M_MMAP_THRESHOLD, limit_bytes)


class LineService:
    """A child process of ours that is spoken to in JSON lines: the sampler and the gateway.

    `name` is the module (`agentsweep.sampler`). The child gets a clean environment, and `more` of
    it where it needs more.
    """

    def __init__(self, name: str, log: Path, more: Mapping[str, str] | None = None):
        self.name = name
        # What it said last, once it has ended; None where that was no JSON object.
        self.last_said: dict[str, Any] | None = None
        self._log = log
        with log.open("ab") as errors:
            self._process = subprocess.Popen(
                [sys.executable, "-m", name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=service_environment() | dict(more or {}),
                start_new_session=True,
            )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def ask(self, message: dict[str, Any], timeout_s: float = 60) -> dict[str, Any]:
        """Send one line and wait for the one that answers it.

        ServiceLost when the child is gone, or says nothing in time: a run must not wait for ever
        for a process that was stopped. InfraError quotes a child that refused.
        """
        try:
            self._stdin.write(json.dumps(message).encode() + b"\n")
            self._stdin.flush()
            # Each question has one line as its answer, so none can be waiting in a buffer.
            if not select.select([self._stdout], [], [], timeout_s)[0]:
                said = f"{self.name} gave no answer within {timeout_s:g} s"
                raise ServiceLost(said, by_host=self._is_held_up())
            answer = self._stdout.readline()
            if answer:
                content: dict[str, Any] = json.loads(answer)
                return content
        except (OSError, ValueError):
            pass
        with contextlib.suppress(subprocess.TimeoutExpired):
            if self._process.wait(1) == REFUSED:
                raise InfraError(self._last_words())
        said = f"{self.name} ended unexpectedly: {self._last_words()}"
        raise ServiceLost(said, by_host=self._was_ended())

    def _is_held_up(self) -> bool:
        """Whether it was stopped, or waits for a disk; proc(5), field 3 of stat."""
        with contextlib.suppress(OSError, IndexError):
            text = utf8.kernel_text(Path(f"/proc/{self._process.pid}/stat"))
            return text.rpartition(")")[2].split()[0] in ("T", "t", "D")
        return False

    def _was_ended(self) -> bool:
        """Whether it was told to end: by a signal that it obeyed (exit code 0), or died of."""
        code = self._process.poll()
        return code == 0 or (code is not None and code < 0 and -code not in _OWN_SIGNALS)

    def stop(self, timeout_s: float = 10) -> int:
        """Close its stdin, which ends it; kill it where it does not. Returns the exit code, of one
        that we had to kill OVERWHELMED unless it was stopped."""
        with contextlib.suppress(OSError):
            self._stdin.close()
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            held_up = self._is_held_up()
            self._process.kill()
            code = self._process.wait()
            return code if held_up else OVERWHELMED
        finally:
            if not self._stdout.closed:
                said = self._stdout.read().splitlines()
                with contextlib.suppress(ValueError, LookupError):
                    found = json.loads(said[-1])
                    self.last_said = found if isinstance(found, dict) else None
                self._stdout.close()

    def _last_words(self) -> str:
        try:
            with self._log.open("rb") as log:
                # What an agent asks for may be in a traceback: as long as it likes.
                log.seek(max(0, log.seek(0, 2) - _LAST_BYTES))
                lines = log.read(_LAST_BYTES).decode(errors="replace").strip().splitlines()
        except OSError:
            lines = []
        return lines[-1] if lines else f"exit code {self._process.poll()}"


def service_environment() -> dict[str, str]:
    """What a service needs to start, and nothing else; its paths are UTF-8 as those here are."""
    keep = ("PATH", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "VIRTUAL_ENV")
    return {name: os.environ[name] for name in keep if name in os.environ} | utf8.PYTHON_LOCALE
