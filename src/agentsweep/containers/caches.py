"""Files that tools write while they work and that are nobody's change: never part of a patch.

Twelve equal fixes would be twelve patches with them, because bytecode holds times. A file that
the task's repository tracks is always part of the patch, whatever its name.
"""

import re

# Directories, and what lies below them, by the tool that writes them.
_DIRECTORIES = (
    *("__pycache__", ".pytest_cache", ".hypothesis", ".tox", ".nox", ".eggs"),
    *(".mypy_cache", ".ruff_cache", ".pytype", ".pyre", ".ipynb_checkpoints"),
    *(".nyc_output", ".parcel-cache", ".gradle"),
    *("node_modules/.cache", "node_modules/.vite"),
)
# Names of files or directories; * stands for any characters.
_NAMES = ("*.pyc", "*.pyo", "*.egg-info", ".coverage", ".coverage.*", ".DS_Store")

PATTERNS = (*(f"{name}/" for name in _DIRECTORIES), *_NAMES)


def _expression() -> re.Pattern[bytes]:
    folders = "|".join(re.escape(name) for name in _DIRECTORIES)
    names = "|".join(re.escape(name).replace(r"\*", "[^/]*") for name in _NAMES)
    return re.compile(rf"(?:^|/)(?:(?:{folders})/|(?:{names})(?:/|\Z))".encode(), re.DOTALL)


_CACHE = _expression()


def is_cache(path: bytes) -> bool:
    """Whether a file's path, relative to the work tree, is that of a cache (PATTERNS)."""
    return _CACHE.search(path) is not None
