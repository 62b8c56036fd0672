"""Locales for children: the one without characters, and one whose encoding is not UTF-8."""

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

NAMES = ("C", "ISO-8859-1")
# What no variable of the caller's may decide.
_DECIDE = ("LANG", "LANGUAGE", "PYTHONUTF8", "PYTHONIOENCODING", "PYTHONCOERCECLOCALE")


@functools.cache
def _compiled() -> Path:
    """A directory with the locale en_US.ISO-8859-1, which few machines have."""
    folder = Path(tempfile.mkdtemp(prefix="locales-"))
    localedef = shutil.which("localedef") or "localedef"
    try:
        subprocess.run(
            [localedef, "-i", "en_US", "-f", "ISO-8859-1", str(folder / "en_US")],
            check=True,
            capture_output=True,
        )
    except (OSError, subprocess.CalledProcessError):
        if os.environ.get("CI"):
            raise
        pytest.skip("NOT RUN, a locale needs localedef and the package `locales`: run `make test`")
    return folder


def variables(name: str) -> dict[str, str]:
    """What sets a locale."""
    if name == "C":
        return {"LC_ALL": "C"}
    return {"LC_ALL": "en_US", "LOCPATH": str(_compiled())}


def environment(name: str) -> dict[str, str]:
    """The environment of this process in another locale."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if key not in _DECIDE and not key.startswith("LC_")
    }
    return kept | variables(name)
