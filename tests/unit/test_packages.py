"""The packages: what each says of itself, and that none imports one above it."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "agentsweep"
PACKAGES = sorted(path.parent for path in SOURCE.glob("*/**/__init__.py"))


@pytest.mark.parametrize("package", PACKAGES, ids=lambda path: path.name)
def test_a_package_says_what_it_is_and_what_it_may_import(package):
    said = ast.get_docstring(ast.parse((package / "__init__.py").read_text(encoding="utf-8")))
    assert said.splitlines()[0].endswith(".")
    assert "May import: " in said


def lint(source: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=source.parent,
        env=os.environ | {"PYTHONPATH": str(source)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "line", "broken"),
    [
        ("host/limits.py", "", None),
        ("host/limits.py", "from agentsweep.runs import store", "agentsweep.host.limits"),
        ("errors.py", "def f():\n    from agentsweep import units", "agentsweep.errors"),
        ("grading/verdict.py", "from agentsweep.exports import swebench", "agentsweep.grading"),
    ],
)
def test_an_import_upwards_breaks_the_contract(tmp_path, file, line, broken):
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "src" / "agentsweep" / file).open("a", encoding="utf-8") as code:
        code.write(f"\n{line}\n")
    done = lint(tmp_path / "src")
    assert (done.returncode != 0) == (broken is not None), done.stdout
    assert broken is None or broken in done.stdout


@pytest.mark.slow
def test_a_new_package_needs_a_layer(tmp_path):
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    new = tmp_path / "src" / "agentsweep" / "novel"
    new.mkdir()
    (new / "__init__.py").write_text('"""New."""\n', encoding="utf-8")
    done = lint(tmp_path / "src")
    assert done.returncode != 0 and "novel" in done.stdout
