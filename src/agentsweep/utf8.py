"""One encoding for what this process reads, prints and names: UTF-8, whatever the locale.

Files are opened with their encoding one by one. What cannot be said there is said here: how Python
encodes paths and arguments, what the standard streams are, and what children are told.
"""

import locale
import os
import sys
from pathlib import Path

# What children get in place of the user's locale. No container gets it.
CHILD_LOCALE = {"LANG": "C.UTF-8"}
# And what those get that are Python: C.UTF-8 is not on every host.
PYTHON_LOCALE = CHILD_LOCALE | {"PYTHONUTF8": "1"}


def is_on() -> bool:
    """Whether paths and arguments are UTF-8 in this process."""
    return sys.getfilesystemencoding() == "utf-8"


def restart_in_utf8() -> None:
    """Start this program again in Python's UTF-8 mode, unless paths are UTF-8 already.

    Python decides at its start how it encodes paths, so that nothing less helps. The process, its
    arguments, streams and working directory stay the same. PEP 540.
    """
    if is_on():
        return
    os.environ["PYTHONUTF8"] = "1"
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])


def set_streams() -> None:
    """Standard streams that end in no UnicodeEncodeError.

    Files and pipes get UTF-8, a terminal its own encoding; what cannot be encoded is written as
    `\\u2192`. Standard input is UTF-8.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            encoding = locale.getencoding() if stream.isatty() else "utf-8"
            stream.reconfigure(encoding=encoding, errors="backslashreplace")
    if hasattr(sys.stdin, "reconfigure"):
        sys.stdin.reconfigure(encoding="utf-8", errors="strict")


def kernel_text(path: Path) -> str:
    """A file of /proc or /sys; names of processes and paths in it may be any bytes."""
    return path.read_bytes().decode("utf-8", "surrogateescape")


def kernel_lines(path: Path) -> list[str]:
    """Its lines. Not splitlines, which also splits at a form feed or U+0085 within a name."""
    return [line for line in kernel_text(path).split("\n") if line]


def is_text(value: str) -> bool:
    """Whether a string can be written as UTF-8: half a surrogate pair cannot."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
