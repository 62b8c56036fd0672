"""The image lock file: each image reference with the digest that it means, in git.

A digest is a source of the sweep, not something found out while it runs: a new one is a new image
path and new runs, and nothing but `snakemake lock` writes it.
"""

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from agentsweep.errors import ConfigError, show
from agentsweep.schema import read_mapping

UNLOCKED = "unlocked"

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_KEYS = ("digest", "config_digest", "platform", "size_bytes")
_HEADER = """\
# Image references and the digests that they mean. Written by `snakemake --cores 1 lock`, which
# looks every reference of the sweep up again; nothing else writes this file. Commit it.
"""


@dataclass(frozen=True)
class Locked:
    """What a reference means: the manifest's digest and that of the platform's configuration.

    size_bytes: that of its layers as the registry or the archive has them, which for a registry
    is compressed; None where nobody asked.
    """

    digest: str
    config_digest: str
    platform: str
    size_bytes: int | None = None


def read(path: Path) -> dict[str, Locked]:
    """The lock file by reference; a missing file locks nothing.

    Raises ConfigError with a line for each thing that is wrong.
    """
    if not path.exists():
        return {}
    content = read_mapping(path)
    wrong = [f"{path}: {key}: unknown key; allowed is images" for key in content if key != "images"]
    images = content.get("images", {})
    if not isinstance(images, Mapping):
        wrong.append(f"{path}: images: {show(images)} is not allowed; write a mapping")
        images = {}
    locked = {}
    for reference, entry in images.items():
        where = f"{path}: images[{reference!r}]"
        found = list(_entry_problems(entry))
        wrong += [f"{where}{problem}" for problem in found]
        if not found:
            locked[reference] = Locked(**entry)
    if wrong:
        raise ConfigError(wrong)
    return locked


def _entry_problems(entry: object) -> Iterator[str]:
    if not isinstance(entry, Mapping):
        yield f": {show(entry)} is not allowed; write a mapping with {', '.join(_KEYS)}"
        return
    for key in entry:
        if key not in _KEYS:
            yield f".{key}: unknown key; allowed are {', '.join(_KEYS)}"
    for key in ("digest", "config_digest"):
        value = entry.get(key)
        if not isinstance(value, str) or not _DIGEST.fullmatch(value):
            yield f".{key}: {show(value)} is not a digest; write sha256: and 64 hex digits"
    platform = entry.get("platform")
    if not isinstance(platform, str) or not re.fullmatch(r"[a-z0-9]+/[a-z0-9_/]+", platform):
        yield f".platform: {show(platform)} is not a platform; write linux/amd64"
    size = entry.get("size_bytes", 0)
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        yield f".size_bytes: {show(size)} is not a size; write a whole number of bytes"


def update(path: Path, found: Mapping[str, Mapping[str, str | int]]) -> int:
    """Write what was looked up into the lock file; returns how many entries changed.

    References of other configurations that share the file keep their entries. The file is
    replaced in one step, and not at all when nothing changed.
    """
    before = {
        reference: {key: value for key, value in vars(entry).items() if value is not None}
        for reference, entry in read(path).items()
    }
    after = before | {reference: dict(entry) for reference, entry in found.items()}
    changed = sum(before.get(reference) != entry for reference, entry in after.items())
    if changed or not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        temporary.write_text(
            _HEADER + yaml.safe_dump({"images": after}, width=1000), encoding="utf-8"
        )
        temporary.rename(path)
    return changed
