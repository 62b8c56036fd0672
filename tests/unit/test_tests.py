"""The tests themselves: each asserts something, and uses what it asks for.

A test without an assertion passes whatever the code does; a fixture that nobody uses is what is
left of a test that was to be.
"""

import ast
import functools
import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SLOW = "pytest.mark.slow"


# Read when they are first asked for: whoever runs a single test collects this file too.


@functools.cache
def trees() -> dict[Path, ast.Module]:
    return {
        path: ast.parse(path.read_text(encoding="utf-8"))
        for path in sorted(ROOT.rglob("*.py"))
        if "data" not in path.relative_to(ROOT).parts
    }


@functools.cache
def functions() -> dict[Path, dict[str, ast.FunctionDef]]:
    return {
        path: {
            node.name: node
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        for path, tree in trees().items()
    }


@functools.cache
def all_tests() -> list[tuple[Path, ast.FunctionDef]]:
    return [
        (path, node)
        for path, tree in trees().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


# They do nothing by themselves, so that a test which only asks for one forgot it.
PASSIVE = {"tmp_path", "tmp_path_factory", "monkeypatch", "capsys", "caplog", "request"}
CHECKS = {"pytest.raises", "pytest.fail", "pytest.warns"}


@functools.cache
def helpers(path: Path) -> dict[str, ast.FunctionDef]:
    """The functions that a file of tests may call: its own, and those of files that are none."""
    shared = [made for other, made in functions().items() if not other.name.startswith("test_")]
    return {name: node for made in shared for name, node in made.items()} | functions().get(
        path, {}
    )


@functools.cache
def called(node: ast.AST) -> set[str]:
    """The names of all that is called within, without what they belong to."""
    calls = [n.func for n in ast.walk(node) if isinstance(n, ast.Call)]
    return {f.attr if isinstance(f, ast.Attribute) else getattr(f, "id", "") for f in calls}


@functools.cache
def checks_itself(node: ast.AST) -> bool:
    """Whether the code of a function can fail a test, without what it calls."""
    for inner in ast.walk(node):
        # A constant is true whatever the code does.
        if isinstance(inner, ast.Assert) and not isinstance(inner.test, ast.Constant):
            return True
        if isinstance(inner, ast.Call) and (
            ast.unparse(inner.func) in CHECKS
            # A program that asserts by itself.
            or any(
                word.arg == "check" and ast.unparse(word.value) == "True" for word in inner.keywords
            )
        ):
            return True
    return False


def checks(
    node: ast.AST, known: dict[str, ast.FunctionDef], seen: frozenset[str] = frozenset()
) -> bool:
    """Whether a function can fail a test: by itself, or by a helper of the tests that it calls."""
    if checks_itself(node):
        return True
    more = (called(node) & known.keys()) - seen
    return any(checks(known[name], known, seen | more) for name in more)


def decorators(node: ast.FunctionDef) -> str:
    return " ".join(map(ast.unparse, node.decorator_list))


def is_passive(name: str, known: dict[str, ast.FunctionDef]) -> bool:
    """A fixture that only hands something over: unused, it has no effect."""
    fixture = known.get(name)
    if fixture is None or "fixture" not in decorators(fixture):
        return True
    acts = any(isinstance(n, ast.Yield | ast.With) for n in ast.walk(fixture)) or any(
        isinstance(n, ast.Expr) and isinstance(n.value, ast.Call) for n in fixture.body
    )
    asked = [argument.arg for argument in fixture.args.args]
    acts = acts or "monkeypatch" in asked
    return not acts and all(is_passive(name, known) for name in asked)


def unused(node: ast.FunctionDef, known: dict[str, ast.FunctionDef]) -> list[str]:
    """Arguments that the body does not name, but for those that act, or begin with `_`."""
    used = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    asked = [argument.arg for argument in node.args.args]
    unnamed = [name for name in asked if name not in used and not name.startswith("_")]
    return [name for name in unnamed if name in PASSIVE or is_passive(name, known)]


def test_every_test_can_fail():
    assert len(all_tests()) > 500
    found = [
        f"{path}:{node.lineno}: {node.name}"
        for path, node in all_tests()
        if not checks(node, helpers(path))
    ]
    assert found == []


def test_every_test_uses_what_it_asks_for():
    left = {
        f"{path}:{node.lineno}: {node.name}": unused(node, helpers(path))
        for path, node in all_tests()
    }
    assert {place: names for place, names in left.items() if names} == {}


@pytest.mark.parametrize(
    ("body", "can_fail"),
    [
        ("assert x", True),
        ("assert True", False),
        ("nobodys_helper()", False),
        ("with pytest.raises(E): run()", True),
        ("def inner():\n        assert x\n    inner()", True),
    ],
)
def test_the_check_sees_what_cannot_fail(body, can_fail):
    (node,) = ast.parse(f"def test_it():\n    {body}\n").body
    assert checks(node, {}) is can_fail


def test_the_check_sees_what_is_not_used():
    (node,) = ast.parse("def test_it(tmp_path, capsys, _n):\n    assert capsys\n").body
    assert unused(node, {}) == ["tmp_path"]


def test_slow_tests_are_those_of_the_units_and_left_out_of_one_target_alone():
    """Elsewhere all are slow; what another target left out, nobody would run."""
    marked = {
        path.relative_to(ROOT).parts[0]
        for path, tree in trees().items()
        if any(isinstance(n, ast.Attribute) and ast.unparse(n) == SLOW for n in ast.walk(tree))
    }
    assert marked == {"unit"}
    makefile = (ROOT.parent / "Makefile").read_text(encoding="utf-8")
    recipes = dict(re.findall(r"^([a-z-]+):.*\n((?:\t.*\n)*)", makefile, re.MULTILINE))
    # What all targets share lies in no recipe.
    assert makefile.count("slow") == recipes["test-unit"].count("not slow") == 1
    settings = tomllib.loads((ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"))
    settings = settings["tool"]["pytest"]["ini_options"]
    assert [line.split(":")[0] for line in settings["markers"]] == ["slow"]
    assert "slow" not in settings["addopts"]


NAMED = re.compile(r"`((?:hostile|integration|unit)/[\w/]+\.py)?(?:::)?(test_\w+)?`")


def test_every_file_of_tests_is_in_a_part_of_make_test():
    """But for the accounting of a cluster, which needs a database server (`make test-cluster`)."""
    makefile = (ROOT.parent / "Makefile").read_text(encoding="utf-8")
    alone = re.search(r"^MEASURED := \$\(addprefix (\S+?),(.*)\)$", makefile, re.MULTILINE)
    assert "\n\tpytest $(MEASURED)\n" in makefile.split("\ntest: ")[1].split("\n\n")[0]
    measured = {alone[1] + name for name in alone[2].split()}
    made = set(measured)
    for part in makefile.split("define PARTS\n")[1].split("endef")[0].splitlines():
        words = part.replace(
            "$(MEASURED:%=--ignore=%)", " ".join(f"--ignore={m}" for m in measured)
        )
        folders = [ROOT.parent / word for word in words.split() if word.startswith("tests/")]
        ignored = [ROOT.parent / word[9:] for word in words.split() if word.startswith("--ignore=")]
        made |= {
            str(path.relative_to(ROOT.parent))
            for path in ROOT.rglob("test_*.py")
            if any(map(path.is_relative_to, folders)) and not any(map(path.is_relative_to, ignored))
        }
    every = {str(path.relative_to(ROOT.parent)) for path in ROOT.rglob("test_*.py")}
    assert every - made == {"tests/cluster/test_accounting.py"}


def test_the_tests_that_the_page_on_security_names_are_there():
    """A name without a file is that of a test in the file before it."""
    path, named = None, 0
    text = (ROOT.parent / "docs/security.md").read_text(encoding="utf-8")
    for file, test in NAMED.findall(text):
        path = ROOT / file if file else path
        if file or test:
            assert path in functions(), path
            assert not test or test in functions()[path], f"{path}::{test}"
            named += 1
    assert named > 50
