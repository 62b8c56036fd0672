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
# What is no module: files that go into containers, and schemas.
_DATA = ("data", "schemas")


def digest(*entries: str | Path) -> str:
    """16 hex digits over the sources of `entries` and all that they import of this package.

    An entry is a module's name (`agentsweep.extraction.extract`) or the path of a script. The
    `__init__.py` of a package does not count: it holds a docstring, or the version number, and
    nothing that runs. Raises LookupError for a module that there is not.
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


def package_sha256() -> str:
    """A hash over this whole package, its data and schemas: which code made a run."""
    summary = hashlib.sha256()
    data = [path for name in _DATA for path in (SOURCE / name).rglob("*") if path.is_file()]
    paths = {*SOURCE.rglob("*.py"), *data}
    for path in sorted(path for path in paths if "__pycache__" not in path.parts):
        name = path.relative_to(SOURCE).as_posix()
        summary.update(name.encode() + b"\0" + path.read_bytes() + b"\0")
    return summary.hexdigest()


def _path(module: str) -> Path:
    """Where a module or package of ours would lie, without its ending."""
    return SOURCE.joinpath(*module.split(".")[1:])


def _file(module: str) -> Path:
    """The source file of a module; that of a package is its `__main__.py`, if it can be run."""
    path = _path(module)
    for file in (path.with_suffix(".py"), path / "__main__.py"):
        if file.is_file():
            return file
    raise LookupError(f"there is no module {module} below {SOURCE}: mend the name")


@functools.cache
def _content_sha256(path: Path) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()


@functools.cache
def _imports(path: Path) -> set[str]:
    """The modules of this package that a source file imports itself.

    Raises LookupError for one that there is not.
    """
    return {name for name in _imported_names(path) if _file(name)}


def _imported_names(path: Path) -> Iterator[str]:
    for node in _statements(ast.parse(path.read_bytes(), filename=str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith(f"{PACKAGE}."))
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                module = ".".join([*_package_of(path, node.level), *filter(None, [module])])
            if module == PACKAGE or module.startswith(f"{PACKAGE}."):
                yield from _from(module, [alias.name for alias in node.names])


def _package_of(path: Path, level: int) -> list[str]:
    """The package that dots before an import's name stand for."""
    below = path.relative_to(SOURCE).parts
    return [PACKAGE, *below[: len(below) - level]]


def _from(module: str, names: list[str]) -> Iterator[str]:
    """The modules behind `from MODULE import NAMES`: of a package, its modules; else itself."""
    if _path(module).is_dir():
        # Names that begin with two underscores, such as the version, are the package's own.
        yield from (f"{module}.{name}" for name in names if not name.startswith("__"))
    else:
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
