"""Hashes of code: what an analysis is made of, and nothing else."""

import ast
from pathlib import Path

import pytest

from agentsweep import codehash

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A small package: a imports b inside a function, b imports c; d and e import each other.

    The packages in it: f.g imports h below it, i is a program.
    """
    sources = {
        "__init__": "__version__ = '1'\n",
        "a": "import json\n\ndef run():\n    from agentsweep import b\n    return b\n",
        "b": "from .c import thing\n",
        "c": "thing = 1\n",
        "d": "import agentsweep.e\n",
        "e": "from . import d\n",
        "f/__init__": "",
        "f/g": "from agentsweep.f import h\nfrom ..c import thing\n",
        "f/h": "from agentsweep import __version__\n",
        "i/__init__": "",
        "i/__main__": "from agentsweep.f.h import x\n",
    }
    for name, text in sources.items():
        path = tmp_path / f"{name}.py"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    monkeypatch.setattr(codehash, "SOURCE", tmp_path)
    forget()
    yield tmp_path
    forget()


def forget():
    codehash._imports.cache_clear()
    codehash._content_sha256.cache_clear()


def digest(*entries):
    forget()
    return codehash.digest(*entries)


def test_closure_follows_every_form_of_import(package):
    assert codehash.closure({"agentsweep.a"}) == {"agentsweep.a", "agentsweep.b", "agentsweep.c"}
    assert codehash.closure({"agentsweep.d"}) == {"agentsweep.d", "agentsweep.e"}
    assert codehash.closure({"agentsweep.f.g"}) == {
        "agentsweep.f.g",
        "agentsweep.f.h",
        "agentsweep.c",
    }
    assert codehash.closure({"agentsweep.i"}) == {"agentsweep.i", "agentsweep.f.h"}


@pytest.mark.parametrize(
    "source",
    [
        "from agentsweep import absent",
        "from agentsweep.f import absent",
        "import agentsweep.absent",
    ],
)
def test_a_name_that_cannot_be_found_is_an_error(package, source):
    """Else a module that moved would go out of the hash, and nobody would see it."""
    (package / "a.py").write_text(source, encoding="utf-8")
    with pytest.raises(LookupError, match=r"no module agentsweep\.(f\.)?absent below"):
        digest("agentsweep.a")
    with pytest.raises(LookupError, match="mend the name"):
        digest("agentsweep.gone")


@pytest.mark.parametrize("edited", ["a.py", "f/h.py", "i/__main__.py", "data/x", "schemas/y.yaml"])
def test_the_hash_of_all_code_changes_with_each_file_of_it(package, edited):
    for name in ("data/x", "schemas/y.yaml"):
        (package / name).parent.mkdir(exist_ok=True)
        (package / name).write_text("1\n", encoding="utf-8")
    before = codehash.package_sha256()
    (package / "f" / "__pycache__").mkdir()
    (package / "f" / "__pycache__" / "h.py").write_text("# no source\n", encoding="utf-8")
    assert codehash.package_sha256() == before
    with (package / edited).open("a", encoding="utf-8") as file:
        file.write("# edited\n")
    assert codehash.package_sha256() != before


@pytest.mark.parametrize(
    "around",
    [
        "if x:\n  IT",
        "if x: pass\nelif y: pass\nelse:\n  IT",
        "try:\n  IT\nexcept OSError: pass",
        "try: pass\nexcept OSError:\n  IT",
        "try: pass\nexcept OSError: pass\nelse:\n  IT",
        "try: pass\nfinally:\n  IT",
        "with x:\n  IT",
        "for x in y: pass\nelse:\n  IT",
        "match x:\n  case 1:\n    IT",
        "class X:\n  async def x(self):\n    while x:\n      IT",
    ],
)
def test_an_import_is_found_wherever_a_statement_may_stand(package, around):
    source = around.replace("IT", "from agentsweep import c")
    (package / "a.py").write_text(source, encoding="utf-8")
    assert codehash.closure({"agentsweep.a"}) == {"agentsweep.a", "agentsweep.c"}


@pytest.mark.parametrize(
    ("edited", "changed"),
    [("a", True), ("b", True), ("c", True), ("d", False), ("__init__", False)],
)
def test_digest_changes_with_what_is_imported_and_with_nothing_else(package, edited, changed):
    before = digest("agentsweep.a")
    source = package / f"{edited}.py"
    source.write_text(source.read_text(encoding="utf-8") + "# edited\n", encoding="utf-8")
    assert (digest("agentsweep.a") != before) == changed


def test_digest_is_of_contents_not_of_times_or_places(package, tmp_path_factory, monkeypatch):
    script = package / "figure.py"
    script.write_text("from agentsweep import c\n", encoding="utf-8")
    before = digest(script)
    for path in package.rglob("*"):
        path.touch()
    assert digest(script) == before
    moved = tmp_path_factory.mktemp("moved")
    for path in package.iterdir():
        path.rename(moved / path.name)
    monkeypatch.setattr(codehash, "SOURCE", moved)
    assert digest(moved / "figure.py") == before
    (moved / "c.py").write_text("thing = 2\n", encoding="utf-8")
    assert digest(moved / "figure.py") != before


# The project's own modules

PARSER = "agentsweep.agents.claude_code.trace"
# What runs agents, and what says which: none of it may make an analysis stale.
UPPER = {"cli", "config", "containers", "gateway", "sampler", "tasks", "workflow"}


def package_of(module: str) -> str:
    return module.split(".")[1]


def test_the_packages_that_no_analysis_may_depend_on_exist():
    assert {path.parent.name for path in codehash.SOURCE.rglob("__init__.py")} >= UPPER


def test_packages_themselves_run_nothing():
    """They are left out of every hash, so that a new version number makes nothing stale."""
    tree = ast.parse((codehash.SOURCE / "__init__.py").read_text(encoding="utf-8"))
    assert [type(node) for node in tree.body] == [ast.Expr, ast.Assign]
    for path in codehash.SOURCE.glob("*/**/__init__.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert [type(node) for node in tree.body] == [ast.Expr], path


def test_extraction_depends_on_the_parser_and_not_on_what_makes_runs():
    used = codehash.closure({"agentsweep.extraction.extract"})
    assert {PARSER, "agentsweep.extraction.extract", "agentsweep.tables.parquet"} <= used
    assert not UPPER & set(map(package_of, used))


def test_data_set_and_figures_do_not_depend_on_the_parser():
    assert PARSER not in codehash.closure({"agentsweep.extraction.aggregate"})
    for script in (ROOT / "workflow" / "scripts" / "figures").glob("*.py"):
        used = codehash.closure(codehash._imports(script))
        assert "agentsweep.analysis.figure_style" in used, script.name
        assert not UPPER & set(map(package_of, used)), script.name
        assert PARSER not in used, script.name


@pytest.mark.parametrize(
    ("command", "modules"),
    [
        ("_extract", {"extract"}),
        ("_dataset", {"aggregate", "run_grades"}),
        ("_judged", {"run_grades"}),
    ],
)
def test_command_runs_no_other_modules_than_those_that_are_hashed(command, modules):
    """The rules hash the module, not the command line, which imports everything."""
    tree = ast.parse((codehash.SOURCE / "cli" / "tables.py").read_text(encoding="utf-8"))
    function = next(
        node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == command
    )
    imported = {
        alias.name
        for node in ast.walk(function)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == modules
