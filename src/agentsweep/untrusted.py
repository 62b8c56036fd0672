"""Reading what an agent, an image or anybody else may have written: of bounded size and depth.

A file is opened only if it is of the kind that is expected: a FIFO would make the reader wait for
ever, and /dev/zero has no end. JSON is decoded only if it is neither deep nor of very many values:
a few bytes of it may take gigabytes of memory, and code that walks over it calls itself.
"""

import contextlib
import errno
import itertools
import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

# Far more than any record of agentsweep or of the CLI has; what is deeper ends recursive code.
MAX_DEPTH = 700
MAX_VALUES = 1_000_000
LINE_BYTES = 64 * 2**20
FILE_BYTES = 64 * 2**20
# What is left of a line that is longer than allowed, so that a reader counts a bad line.
_CLIPPED_BYTES = 200

_BRACKETS = b"[]{}"
_STEP = [0] * 256
for _character, _step in zip(_BRACKETS, (1, -1, 1, -1), strict=True):
    _STEP[_character] = _step
_ALL_BUT_BRACKETS = bytes(set(range(256)) - set(_BRACKETS))


class WrongKind(OSError):
    """There is something of that name, and it is not of the kind that is expected."""


def open_untrusted(
    path: str | os.PathLike[str],
    kind: Callable[[int], bool] = stat.S_ISREG,
    flags: int = os.O_RDONLY,
    directory: int | None = None,
    follow: bool = False,
) -> int:
    """A descriptor of a file that somebody else may have put there, if it is of the right kind.

    Opening never waits. No link is followed at the end of the path unless `follow` (for what a
    user names). O_PATH looks without opening, because opening some devices already does something.
    Raises WrongKind for another kind of file, another OSError as open(2) does.
    """
    no_link = 0 if follow else os.O_NOFOLLOW
    look = os.open(path, os.O_PATH | os.O_CLOEXEC | no_link, dir_fd=directory)
    try:
        if not kind(os.fstat(look).st_mode):
            raise WrongKind(errno.EINVAL, "not a file of the expected kind", os.fspath(path))
        return os.open(f"/proc/self/fd/{look}", flags | os.O_NONBLOCK | os.O_CLOEXEC)
    finally:
        os.close(look)


def read(path: str | os.PathLike[str], at_most_bytes: int, follow: bool = False) -> bytes:
    """A regular file's content. Raises WrongKind, and OSError (EFBIG) where there is more."""
    with os.fdopen(open_untrusted(path, follow=follow), "rb") as file:
        content = file.read(at_most_bytes + 1)
    if len(content) > at_most_bytes:
        raise OSError(errno.EFBIG, f"more than {at_most_bytes} bytes", os.fspath(path))
    return content


def read_json(path: str | os.PathLike[str], at_most_bytes: int = FILE_BYTES) -> object:
    """The value in a JSON file, which may be a link. Raises OSError, ValueError."""
    return loads(read(path, at_most_bytes, follow=True))


def loads(text: str | bytes) -> object:
    """`json.loads`, but ValueError for what is too deep or has too many values."""
    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    check(text)
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("the JSON is nested too deep") from None


def check(text: str | bytes) -> None:
    """ValueError where JSON text is deeper than MAX_DEPTH or has more values than MAX_VALUES.

    Linear, and fast for what is small. Text that is not JSON may pass.
    """
    said = text if isinstance(text, str) else text.decode(errors="replace")
    opened = said.count("[") + said.count("{")
    if opened <= MAX_DEPTH and opened + said.count(",") <= MAX_VALUES:
        return
    # In text, brackets and commas say nothing.
    data = said.encode("utf-8", "surrogatepass").replace(b"\\\\", b"").replace(b'\\"', b"")
    bare = b"".join(data.split(b'"')[::2])
    if sum(map(bare.count, (b"[", b"{", b","))) > MAX_VALUES:
        raise ValueError(f"the JSON has more than {MAX_VALUES} values")
    brackets = bare.translate(None, _ALL_BUT_BRACKETS)
    depths = itertools.accumulate(map(_STEP.__getitem__, brackets))
    if max(depths, default=0) > MAX_DEPTH:
        raise ValueError(f"the JSON is nested deeper than {MAX_DEPTH}")


class HasLines(Protocol):
    """A binary file, as far as `lines` reads it."""

    def readline(self, size: int, /) -> bytes: ...


def lines(file: HasLines, at_most_bytes: int = LINE_BYTES) -> Iterator[bytes]:
    """The lines of a binary file; of a longer line only a beginning that is no JSON."""
    while line := file.readline(at_most_bytes):
        if len(line) == at_most_bytes and not line.endswith(b"\n"):
            while rest := file.readline(at_most_bytes):
                if rest.endswith(b"\n"):
                    break
            line = line[:_CLIPPED_BYTES] + b" [cut off\n"
        yield line


def objects(path: Path, at_most_bytes: int = LINE_BYTES) -> Iterator[dict[str, Any]]:
    """The JSON objects among the lines of a file; lines that are none are passed over."""
    with os.fdopen(open_untrusted(path), "rb") as file:
        for line in lines(file, at_most_bytes):
            with contextlib.suppress(ValueError):
                value = loads(line)
                if isinstance(value, dict):
                    yield value
