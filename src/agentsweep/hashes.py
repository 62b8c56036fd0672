"""The hash by which files are known."""

import hashlib
from pathlib import Path


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file of any size, in hexadecimal."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def text_sha256(text: str | None) -> str | None:
    """Hash of a text, None for None."""
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()
