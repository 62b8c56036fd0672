"""Output of programs that others decide over: read to its end, and kept up to a limit."""

import contextlib
import os
import select
import selectors
import subprocess
import threading
import time
from pathlib import Path
from typing import IO, BinaryIO, cast

_CHUNK_BYTES = 2**18
# Of an error output, this much of the beginning and of the end are kept.
_SIDE_BYTES = 2**16


class TooMuch(Exception):
    """A program wrote more on its standard output than may be kept."""


class Ends:
    """The beginning and the end of what was written, whatever lies between."""

    def __init__(self, side_bytes: int = _SIDE_BYTES):
        self._side_bytes = side_bytes
        self._first, self._last = bytearray(), bytearray()

    def write(self, data: bytes) -> None:
        room = self._side_bytes - len(self._first)
        self._first += data[:room]
        self._last += data[room:] if room > 0 else data
        del self._last[: -self._side_bytes]

    def bytes(self) -> bytes:
        """What was kept."""
        return bytes(self._first + self._last)


class Talk:
    """Gives a process its input and takes its two outputs, as `communicate` does.

    Its standard output goes to `target`, or is in `said`; more of it than `limit_bytes` raises
    TooMuch. Of its error output `errors` has the two ends. All three must be pipes.
    """

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        limit_bytes: int,
        given: bytes = b"",
        target: BinaryIO | None = None,
    ):
        assert process.stdout is not None and process.stderr is not None
        self._process, self._limit_bytes, self._target = process, limit_bytes, target
        self._given = memoryview(given)
        self._n_bytes = 0
        self.said, self.errors = bytearray(), Ends()
        self._open = selectors.DefaultSelector()
        for pipe in (process.stdout, process.stderr):
            self._open.register(pipe, selectors.EVENT_READ)
        if process.stdin is not None:
            os.set_blocking(process.stdin.fileno(), False)
            self._open.register(process.stdin, selectors.EVENT_WRITE)

    def run(self, timeout_s: float) -> int:
        """To the end of both outputs and of the process: its exit code.

        TimeoutExpired where that takes longer; it can then be called again.
        """
        deadline = time.monotonic() + timeout_s
        while self._open.get_map():
            for key, _ in self._open.select(self._left_s(deadline, timeout_s)):
                if key.fileobj is self._process.stdin:
                    self._give()
                else:
                    self._take(cast("IO[bytes]", key.fileobj))
        self._open.close()
        return self._process.wait(self._left_s(deadline, timeout_s))

    def _left_s(self, deadline: float, timeout_s: float) -> float:
        left = deadline - time.monotonic()
        if left <= 0:
            raise subprocess.TimeoutExpired(self._process.args, timeout_s)
        return left

    def _give(self) -> None:
        pipe = self._process.stdin
        assert pipe is not None
        try:
            self._given = self._given[os.write(pipe.fileno(), self._given[:_CHUNK_BYTES]) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._given = memoryview(b"")
        if not self._given:
            self._open.unregister(pipe)
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def _take(self, pipe: IO[bytes]) -> None:
        data = os.read(pipe.fileno(), _CHUNK_BYTES)
        if not data:
            self._open.unregister(pipe)
        elif pipe is self._process.stderr:
            self.errors.write(data)
        else:
            self._n_bytes += len(data)
            if self._n_bytes > self._limit_bytes:
                raise TooMuch
            if self._target is None:
                self.said += data
            else:
                self._target.write(data)


class Drain(threading.Thread):
    """Moves one output of a process to a file, up to a limit; what comes after it is lost.

    The process never waits for a file that is full. `cut` says that something was lost.
    """

    def __init__(self, pipe: BinaryIO, path: Path, limit_bytes: int):
        super().__init__(daemon=True)
        self._pipe, self._left_bytes = pipe, limit_bytes
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        self._ended = threading.Event()
        self.cut = False
        self.start()

    def run(self) -> None:
        """Until its end, or until `finish`."""
        ready = select.poll()
        ready.register(self._pipe.fileno(), select.POLLIN | select.POLLHUP)
        while True:
            over = self._ended.is_set()
            if ready.poll(0 if over else 1000):
                data = os.read(self._pipe.fileno(), _CHUNK_BYTES)
                if not data:
                    return
                self._keep(data)
            elif over:
                # The process has ended; another one that has its output says nothing for it.
                return

    def finish(self) -> None:
        """The process has ended: take what it still left in its pipe."""
        if self._file >= 0:
            self._ended.set()
            self.join()
            os.close(self._file)
            self._file = -1
            self._pipe.close()

    def _keep(self, data: bytes) -> None:
        kept = data[: self._left_bytes]
        self.cut = self.cut or len(kept) < len(data)
        while kept:
            try:
                n_bytes = os.write(self._file, kept)
            except OSError:
                self.cut, self._left_bytes = True, 0
                return
            kept = kept[n_bytes:]
            self._left_bytes -= n_bytes
