"""Find text that is read or written in the locale's encoding: what ruff's PLW1514 cannot see.

usage: check_encodings.py [FILE or FOLDER ...]   (default: all of this project's own Python)
Prints a line for each finding and exits with 1. PLW1514 knows `Path(...)` where it is spelled out;
here every `.read_text()` counts, whatever it is called on, and so do children that are read as
text, streams and CSV.
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("src", "workflow/scripts", "tests", "tools", "demo/build.py", "benchmarks")

# `x.open()` of something that is not a file.
_NOT_FILES = {"reader", "upstream", "source", "often", "seldom", "opener", "cgroup", "sampler"}
# Modules whose `open` gives bytes unless its mode says text.
_BYTES_BY_DEFAULT = {"gzip", "bz2", "lzma"}
_NO_TEXT = {"os", "tarfile", "zipfile", "mmap", "webbrowser", "ipc", "dbm", "Image"}
_LOCALE_ONLY = {"getoutput", "getstatusoutput", "popen"}
_TEMPORARY = {"NamedTemporaryFile", "TemporaryFile", "SpooledTemporaryFile"}
# Streams as numbers or bytes, and what has its encoding set.
_STREAM_PARTS = {"fileno", "buffer", "isatty", "reconfigure", "close", "flush"}
# They set the encoding of their streams first.
_SETS_STREAMS = {"src/agentsweep/cli/configuration.py", "src/agentsweep/utf8.py"}


def findings(source: str, name: str = "") -> Iterator[tuple[int, str]]:
    """Line and sentence of each place in a module where the locale decides about text."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            said = _call_problem(node)
            if said:
                yield node.lineno, said
    if name not in _SETS_STREAMS:
        yield from _stream_problems(tree)


def _call_problem(call: ast.Call) -> str | None:
    module, function = _names(call.func)
    given = {keyword.arg for keyword in call.keywords}
    if function == "read_text" and isinstance(call.func, ast.Attribute):
        return _missing(given, function, call.args[:1])
    if function == "write_text" and isinstance(call.func, ast.Attribute):
        return _missing(given, function, call.args[1:2])
    if function == "open":
        return _open_problem(call, module, given)
    if function in ("fdopen", *_TEMPORARY):
        default = "r" if function == "fdopen" else "w+b"
        place = {"fdopen": 1, "SpooledTemporaryFile": 1}.get(function, 0)
        return _missing(given, function, ()) if _is_text(call, place, default) else None
    if function == "TextIOWrapper":
        return _missing(given, function, call.args[1:2])
    if function == "FileHandler":
        return _missing(given, function, call.args[2:3])
    if function in _LOCALE_ONLY and module in ("subprocess", "os"):
        return f"{function} reads in the locale's encoding: use subprocess.run with encoding"
    if module == "csv" and any(_names(a.func)[1] == "splitlines" for a in _calls(call.args)):
        return "splitlines breaks quoted fields: give csv an io.StringIO with newline=''"
    for keyword in call.keywords:
        constant = isinstance(keyword.value, ast.Constant) and keyword.value.value is True
        if keyword.arg in ("text", "universal_newlines") and constant:
            return _missing(given, f"{keyword.arg}=True", ())
    return None


def _open_problem(call: ast.Call, module: str | None, given: set[str | None]) -> str | None:
    if module in _NO_TEXT or (module or "").strip("_") in _NOT_FILES:
        return None
    if isinstance(call.func, ast.Name) or module in ("io", "codecs", "builtins"):
        text = _is_text(call, 1, "r")
    elif module in _BYTES_BY_DEFAULT:
        text = _is_text(call, 1, "rb") and "t" in (_mode(call, 1) or "")
    else:
        # A first argument that is no mode is that of something else than a file.
        text = set(_mode(call, 0) or "") <= set("rwxabt+") and _is_text(call, 0, "r")
    return _missing(given, "open", ()) if text else None


def _is_text(call: ast.Call, place: int, default: str) -> bool:
    return "b" not in (_mode(call, place) or default)


def _mode(call: ast.Call, place: int) -> str | None:
    given = [k.value for k in call.keywords if k.arg == "mode"] or call.args[place : place + 1]
    for value in given:
        # One that is computed is taken for bytes: nothing can be said of it.
        return value.value if isinstance(value, ast.Constant) else "b"
    return None


def _missing(given: set[str | None], what: str, positional) -> str | None:
    # Whoever passes **more can still forget it, so that it has to be written out.
    return None if "encoding" in given or positional else f"{what} without encoding"


def _stream_problems(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Uses of sys.stdin as text; what is printed is held by `utf8.set_streams`."""
    inner = {id(n.value) for n in ast.walk(tree) if _is_part_of_stream(n)}
    for node in ast.walk(tree):
        if _is_stdin(node) and id(node) not in inner:
            yield node.lineno, "sys.stdin is read in the locale's encoding: read sys.stdin.buffer"


def _is_part_of_stream(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and _is_stdin(node.value) and node.attr in _STREAM_PARTS


def _is_stdin(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and _names(node) == ("sys", "stdin")


def _calls(nodes) -> Iterator[ast.Call]:
    return (node for node in nodes if isinstance(node, ast.Call))


def _names(function: ast.expr) -> tuple[str | None, str | None]:
    """`a.b.c` as ("b", "c"), `c` as (None, "c")."""
    if isinstance(function, ast.Name):
        return None, function.id
    if not isinstance(function, ast.Attribute):
        return None, None
    inner = function.value
    module = inner.id if isinstance(inner, ast.Name) else getattr(inner, "attr", None)
    return module, function.attr


def files(places: list[Path]) -> Iterator[Path]:
    """The Python files among and below some places."""
    for place in places:
        yield from sorted(place.rglob("*.py")) if place.is_dir() else [place]


def main(arguments: list[str]) -> int:
    """Check the files; 1 where one has a finding."""
    places = [Path(word) for word in arguments] or [ROOT / folder for folder in FOLDERS]
    found = 0
    for path in files(places):
        name = path.resolve()
        name = str(name.relative_to(ROOT)) if name.is_relative_to(ROOT) else str(path)
        for line, said in sorted(findings(path.read_text(encoding="utf-8"), name)):
            print(f"{name}:{line}: {said}")
            found += 1
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
