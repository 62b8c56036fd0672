"""The package as it is installed elsewhere: whole, and without this clone beside it."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import small_sweep

from agentsweep import codehash

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    # setuptools writes beside the sources.
    subprocess.run(["git", "clone", "--quiet", ROOT, folder / "clone"], check=True)
    for path in subprocess.check_output(
        ["git", "ls-files", "--modified", "--others", "--exclude-standard", "src"],
        cwd=ROOT, text=True, encoding="utf-8",
    ).splitlines():  # fmt: skip
        if (ROOT / path).exists():
            (folder / "clone" / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / "clone" / path).write_bytes((ROOT / path).read_bytes())
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation",
         "--disable-pip-version-check", "--wheel-dir", str(folder), str(folder / "clone")],
        check=True,
    )  # fmt: skip
    (made,) = folder.glob("*.whl")
    return made


def test_a_wheel_has_every_file_of_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.startswith("agentsweep/")}
    files = {path for path in codehash.SOURCE.rglob("*") if path.is_file()}
    expected = {
        path.relative_to(codehash.SOURCE.parent).as_posix()
        for path in files
        if "__pycache__" not in path.parts
    }
    assert names == expected
    assert "agentsweep/schemas/config.schema.yaml" in names


def test_an_installed_package_plans_a_sweep(wheel, tmp_path):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "installed")
    sweep = tmp_path / "sweep"
    sweep.mkdir()
    small_sweep.write(sweep)
    (sweep / "config.yaml").write_text(small_sweep.CONFIG, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "agentsweep.cli", "plan", "--config", "config.yaml"],
        cwd=sweep,
        env=os.environ | {"PYTHONPATH": str(tmp_path / "installed")},
        capture_output=True, text=True, encoding="utf-8", check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "task~fix" in done.stdout
