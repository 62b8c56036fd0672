"""A plugin of pytest that says what was collected and what came of it, beside pytest's own report.

It is loaded by `-p` from a folder that is mounted read-only, under a name that nobody knew when the
patch was written, before any conftest. It imports nothing of the work tree. It runs under any
pytest since 3.6 and any Python since 3.6, so it uses no newer syntax. It never makes a test fail:
what goes wrong in it is a line, too.

The file beside it with the suffix `.json` says where to write (`out`), the work tree (`tree`) and
the paths of the tests that the grading put in place, from there (`files`). Each line of `out` is a
JSON object, `kind` says what it is:

start   `before`: packages of the work tree that were imported before this plugin
file    a test file as it was when pytest started: `path`, `sha256` (null: not readable)
test    a test that was collected from such a file: `id`, `path`; `code` says what its function is:
        `direct`, code of that name in the file; `wrapped`, something around such code; `hidden`,
        the file has that test, and its code was not found; `foreign`, other code, as of an
        inherited or made test; `other`, it is not from that file; `none`, there is no function.
        `line`: where its code begins in the file. `where`: the file of its code, where it is not
        known to be code of that name.
report  what pytest says of a phase of a test: `id`, `when`, `outcome`, `xfail`
end     pytest ended by itself, with the status `exit`
error   what went wrong here
"""

import hashlib
import json
import os
import sys
import types

import pytest

# As they are before any code of the work tree runs.
_dumps, _write, _sha256, _compile, _realpath = (
    json.dumps,
    os.write,
    hashlib.sha256,
    compile,
    os.path.realpath,
)
_MOST_NODES = 300

# For type checkers alone: nothing more than pytest has is imported where tests run.
MYPY = False
if MYPY:
    from collections.abc import Callable
    from typing import Any


def _settings() -> "Any":
    path = os.path.splitext(os.path.abspath(__file__))[0] + ".json"  # noqa: PTH100, PTH122
    with open(path, encoding="utf-8") as file:  # noqa: PTH123
        return json.load(file)


def _code_sha256(code: types.CodeType) -> str:
    """A hash of what a code object does: of all but the name of its file."""
    summary = _sha256()

    def add(value: object) -> None:
        if isinstance(value, types.CodeType):
            summary.update(b"(")
            for part in (
                value.co_name,
                value.co_argcount,
                value.co_kwonlyargcount,
                value.co_firstlineno,
                value.co_flags,
                value.co_names,
                value.co_varnames,
                value.co_freevars,
                value.co_cellvars,
                value.co_code,
            ):
                summary.update(repr(part).encode("utf-8", "backslashreplace") + b"\0")
            for constant in value.co_consts:
                add(constant)
            summary.update(b")")
        elif isinstance(value, tuple):
            summary.update(b"[")
            for part in value:
                add(part)
            summary.update(b"]")
        elif isinstance(value, frozenset):
            parts = sorted(repr(part) for part in value)
            summary.update(repr(parts).encode("utf-8", "backslashreplace"))
        else:
            summary.update(repr(value).encode("utf-8", "backslashreplace") + b"\0")

    add(code)
    return summary.hexdigest()


def _codes(code: types.CodeType) -> "list[types.CodeType]":
    """All code objects in one."""
    found, ahead = [], [code]
    while ahead:
        one = ahead.pop()
        found.append(one)
        ahead.extend(part for part in one.co_consts if isinstance(part, types.CodeType))
    return found


class _File(object):  # noqa: UP004
    """A test file as it was when pytest started: hash, and hashes and names of its functions."""

    def __init__(self, path: str, where: str) -> None:
        self.path, self.where = path, where
        self.known = set()  # type: set[str]
        self.names = set()  # type: set[str]
        self._source = None  # type: bytes | None
        try:
            with open(where, "rb") as file:  # noqa: PTH123
                self._source = file.read()
        except OSError:
            pass
        source = self._source
        self.sha256 = None if source is None else _sha256(source).hexdigest()
        if source is not None:
            self._add(lambda: _compile(source, where, "exec", dont_inherit=True))

    def rewritten(self, config: "Any") -> None:
        """Add what pytest's own rewriting of assertions makes of it."""
        if self._source is None:
            return
        try:
            import pathlib

            from _pytest.assertion.rewrite import _rewrite_test as rewrite
        except ImportError:
            return
        path = pathlib.Path(self.where)
        # pytest 5 and later, and those before, which take a text.
        if not self._add(lambda: rewrite(path, config)[1]):
            self._add(lambda: rewrite(self.where, config)[1]) or self._add(  # type: ignore[arg-type]
                lambda: rewrite(config, __import__("py").path.local(self.where))[1]
            )

    def _add(self, make: "Callable[[], object]") -> bool:
        try:
            code = make()
        except Exception:
            return False
        if not isinstance(code, types.CodeType):
            return False
        for one in _codes(code):
            self.known.add(_code_sha256(one))
            self.names.add(one.co_name)
        return True

    def seen(self, item: object) -> "tuple[str, int | None, str | None]":
        """What a test's function is: `code`, `line` and `where` of this module's docstring."""
        module = getattr(item, "module", None)
        function = getattr(item, "function", None) or getattr(item, "obj", None)
        if module is None or function is None:
            return "none", None, None
        spec = getattr(module, "__spec__", None)
        origins = [getattr(module, "__file__", None)]
        if spec is not None:
            origins.append(getattr(spec, "origin", None))
        elif getattr(module, "__loader__", None) is None:
            return "other", None, None
        for origin in origins:
            if not isinstance(origin, str) or _realpath(origin) != self.where:
                return "other", None, origin if isinstance(origin, str) else None
        function = getattr(function, "__func__", function)
        code = getattr(function, "__code__", None)  # type: Any
        name = getattr(item, "originalname", None) or str(getattr(item, "name", "")).split("[")[0]
        known = isinstance(code, types.CodeType) and _code_sha256(code) in self.known
        if known and code.co_name == name:
            return "direct", code.co_firstlineno, None
        for one in _reached(function):
            if one is not code and one.co_name == name and _code_sha256(one) in self.known:
                return "wrapped", one.co_firstlineno, None
        where = _realpath(code.co_filename) if isinstance(code, types.CodeType) else None
        if where == self.where and not known:
            return "other", None, where
        line = code.co_firstlineno if known else None
        return "hidden" if name in self.names else "foreign", line, where


def _reached(function: object) -> "list[types.CodeType]":
    """The code of functions that a function holds: what a decorator wrapped is among it."""
    found, ahead = [], [function]
    seen = set()  # type: set[int]
    while ahead and len(seen) < _MOST_NODES:
        one = ahead.pop(0)
        if id(one) in seen:
            continue
        seen.add(id(one))
        code = getattr(one, "__code__", None)
        if isinstance(code, types.CodeType):
            found.append(code)
        held = [getattr(one, name, None) for name in ("__wrapped__", "__func__", "func")]
        for cell in getattr(one, "__closure__", None) or ():
            try:
                held.append(cell.cell_contents)
            except ValueError:
                continue
        attributes = getattr(one, "__dict__", None)
        if isinstance(attributes, dict):
            held.extend(list(attributes.values())[:20])
        for value in held:
            if callable(value) or type(value).__name__ == "HypothesisHandle":
                ahead.append(value)
    return found


class _Witness(object):  # noqa: UP004
    """What is seen, written as it happens."""

    def __init__(self) -> None:
        given = _settings()
        self._tree = _realpath(given["tree"])
        self._out = os.open(given["out"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        self._said = {}  # type: dict[str, tuple[str, int | None, str | None]]
        self.config = None  # type: Any
        self.say(
            "start",
            before=self._before(),
            python=sys.version.split()[0],
            pytest=pytest.__version__,
            pid=os.getpid(),
            worker=os.environ.get("PYTEST_XDIST_WORKER"),
        )
        self._files = {}  # type: dict[str, _File]
        for path in given["files"]:
            where = _realpath(os.path.join(self._tree, path))  # noqa: PTH118
            self._files[where] = file = _File(path, where)
            self.say("file", path=path, sha256=file.sha256)

    def say(self, kind: str, **fields: object) -> None:
        line = _dumps(dict(fields, kind=kind)) + "\n"
        _write(self._out, line.encode("ascii"))

    def _before(self) -> "list[str]":
        """Top packages of the work tree that were imported before."""
        found = set()
        for name, module in list(sys.modules.items()):
            path = getattr(module, "__file__", None)
            if name == "__main__" or not isinstance(path, str) or "site-packages" in path:
                continue
            if _realpath(path).startswith(self._tree + os.sep):
                found.add(name.split(".")[0])
        return sorted(found)

    def begin(self, config: "Any") -> None:
        """pytest's settings are read: see what its rewriting makes of the files."""
        if self.config is None:
            self.config = config
            for file in self._files.values():
                file.rewritten(config)

    def look(self, item: "Any") -> None:
        """Say what a test is, where that was not yet said."""
        path = getattr(item, "path", None) or getattr(item, "fspath", None)
        file = self._files.get(_realpath(str(path))) if path is not None else None
        if file is None:
            return
        found = file.seen(item)
        if self._said.get(item.nodeid) == found:
            return
        self._said[item.nodeid] = found
        code, line, where = found
        fields = {"id": item.nodeid, "path": file.path, "code": code, "line": line}
        if where is not None:
            inside = where.startswith(self._tree + os.sep)
            fields["where"] = where[len(self._tree) + 1 :] if inside else where
        self.say("test", **fields)

    def guarded(self, act: "Callable[..., object]", *given: object) -> None:
        try:
            act(*given)
        except Exception as error:
            try:
                self.say("error", error="%s: %s" % (type(error).__name__, error))  # noqa: UP031
            except Exception:
                return

    # Hooks, of the first pytest of this process alone: tests may run others.

    @pytest.hookimpl(tryfirst=True)
    def pytest_collection_finish(self, session: "Any") -> None:
        for item in session.items:
            self.guarded(self.look, item)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: "Any") -> None:
        self.guarded(self.look, item)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_call(self, item: "Any") -> None:
        # Again: what ran before it may have put another function there.
        self.guarded(self.look, item)

    # After others that may change what a report says, as those of pytest's own report are.
    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: "Any") -> None:
        if report.when != "call" and report.outcome == "passed":
            return
        self.guarded(
            lambda: self.say(
                "report",
                id=report.nodeid,
                when=report.when,
                outcome=report.outcome,
                xfail=hasattr(report, "wasxfail"),
            )
        )

    @pytest.hookimpl(trylast=True)
    def pytest_unconfigure(self, config: "Any") -> None:
        self.guarded(lambda: self.say("end"))


_witness = _Witness()


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(early_config: "Any") -> None:
    _witness.guarded(_witness.begin, early_config)


def _let_it_speak(config: "Any") -> None:
    # What a repository may silence: the summary is one of the readings that must agree.
    if getattr(config.option, "no_summary", False):
        config.option.no_summary = False
    if (getattr(config.option, "verbose", 0) or 0) < 0:
        config.option.verbose = 0


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: "Any") -> None:
    if _witness.config is None:
        # In a process of xdist, which reads no settings.
        _witness.guarded(_witness.begin, config)
    if config is _witness.config:
        _witness.guarded(_let_it_speak, config)
        config.pluginmanager.register(_witness, "grading-witness")
