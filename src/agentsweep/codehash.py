"""Content hashes of code: what makes an analysis stale when a module that it imports changes.

Snakemake does not track imports. A rule therefore carries the hash of the module (or script) that
it runs and of every module of ours below it, found by reading the sources. Contents count, not
times: a checkout, a touch or a moved clone changes nothing.
"""

import ast
import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path

PACKAGE = "agentsweep"
SOURCE = Path(__file__).resolve().parent


def digest(*entries: str | Path) -> str:
    """16 hex digits over the sources of `entries` and all that they import of this package.

    An entry is a module's name (`agentsweep.extract`) or the path of a script. The package's own
    `__init__.py` does not count: it holds the version number and nothing that runs.
    """
    scripts = [entry for entry in entries if isinstance(entry, Path)]
    modules = {entry for entry in entries if isinstance(entry, str)}
    for script in scripts:
        modules |= _imports(script)
    summary = hashlib.sha256()
    for script in sorted(scripts):
        summary.update(f"{script.name}\0".encode() + _content_sha256(script))
    for module in sorted(closure(modules)):
        summary.update(f"{module}\0".encode() + _content_sha256(_file(module)))
    return summary.hexdigest()[:16]


def closure(modules: set[str]) -> set[str]:
    """The modules and all that they import, directly or not, also inside functions."""
    found: set[str] = set()
    ahead = set(modules)
    while ahead:
        module = ahead.pop()
        found.add(module)
        ahead |= _imports(_file(module)) - found
    return found


def _file(module: str) -> Path:
    return SOURCE / f"{module.removeprefix(f'{PACKAGE}.')}.py"


@functools.cache
def _content_sha256(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


@functools.cache
def _imports(path: Path) -> set[str]:
    """The modules of this package that a source file imports itself."""
    return {name for name in _imported_names(path) if _file(name).is_file()}


def _imported_names(path: Path) -> Iterator[str]:
    for node in _statements(ast.parse(path.read_bytes(), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith(f"{PACKAGE}."))
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                module = f"{PACKAGE}.{module}".rstrip(".")
            if module == PACKAGE:
                yield from (f"{PACKAGE}.{alias.name}" for alias in node.names)
            elif module.startswith(f"{PACKAGE}."):
                yield module


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    """All statements, however deep. Expressions, which are most of a tree, hold none."""
    ahead: list[ast.AST] = [tree]
    while ahead:
        node = ahead.pop()
        for name in ("body", "orelse", "finalbody", "handlers", "cases"):
            ahead += getattr(node, name, ())
        if isinstance(node, ast.stmt):
            yield node
