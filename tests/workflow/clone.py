"""Clones of the project, with a small sweep of their own, for tests that run Snakemake in them."""

import compileall
import functools
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent

# What a clone of the repository holds that the workflow needs.
PARTS = ("Snakefile", "workflow", "profiles", "src", "config", "environment.yml")


class Clone:
    """A directory with the project in it, and Snakemake started there."""

    def __init__(self, path: Path):
        self.path = path

    @classmethod
    def make(cls, path: Path) -> "Clone":
        """Copy the project's sources, and the configuration as it is."""
        path.mkdir(parents=True)
        _compile()
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                ignored = shutil.ignore_patterns("*.egg-info")
                shutil.copytree(source, path / part, ignore=ignored)
            else:
                shutil.copy2(source, path / part)
        return cls(path)

    def copy(self, path: Path) -> "Clone":
        """All of it somewhere else: times and hard links stay."""
        subprocess.run(["cp", "-a", str(self.path), str(path)], check=True)
        return Clone(path)

    def file(self, name: str) -> Path:
        return self.path / name

    def replace(self, name: str, old: str, new: str) -> None:
        """Edit a file; the old text must be there."""
        text = self.file(name).read_text(encoding="utf-8")
        assert old in text, f"{old!r} is not in {name}"
        self.file(name).write_text(text.replace(old, new), encoding="utf-8")

    def snakemake(self, *arguments: str, check: bool = True, **kwargs):
        """Run Snakemake here, as a user does whose environment is active."""
        environment = {
            "PATH": f"{BIN}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin",
            "HOME": os.environ.get("HOME", "/"),
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
        } | kwargs.pop("env", {})
        done = subprocess.run(
            [str(BIN / "snakemake"), *arguments],
            cwd=self.path,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
            # Nine runs take minutes of two cores, and others may use these too.
            timeout=1200,
            check=False,
            **kwargs,
        )
        if check:
            assert done.returncode == 0, done.stdout[-6000:]
        return done

    def agentsweep(self, *arguments: str) -> str:
        """What `agentsweep` of this clone says on its configuration."""
        done = subprocess.run(
            [sys.executable, "-m", "agentsweep.cli", *arguments],
            cwd=self.path,
            env=os.environ | {"PYTHONPATH": str(self.path / "src")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            encoding="utf-8",
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def planned(self, *arguments: str) -> dict[str, int]:
        """How many jobs a dry run plans, by rule; figures are one kind, target rules none."""
        return planned(self.snakemake("-n", *arguments).stdout)

    def sealed(self) -> set[str]:
        """The sealed attempts in the store."""
        return self._sealed(self.path / "store")

    def superseded(self) -> set[str]:
        """Those that were sealed and then set aside, by the names that they had."""
        store = self.path / "store"
        found = store.glob("*/attempt-*.superseded")
        return {str(path.relative_to(store).with_suffix("")) for path in found}

    def gradings(self) -> set[str]:
        """The sealed gradings in the store."""
        return self._sealed(self.path / "store" / "gradings")

    @staticmethod
    def _sealed(store: Path) -> set[str]:
        return {
            str(path.relative_to(store))
            for path in store.glob("*/attempt-*")
            if re.fullmatch(r"attempt-\d+", path.name)
        }


@functools.cache
def _compile() -> None:
    """Compile the modules once; Python takes what is copied with them, as times are copied too.

    Snakemake and each of its jobs would do it again, which is a sixth of a dry run.
    """
    compileall.compile_dir(ROOT / "src", quiet=2)


def planned(output: str) -> dict[str, int]:
    """The table of jobs in Snakemake's output, by rule."""
    if "Nothing to be done" in output:
        return {}
    table = output.split("Job stats:\n")[1].split("\n\n")[0]
    counts: Counter = Counter()
    for line in table.splitlines()[2:]:
        rule, number = line.split()
        if rule not in ("all", "default", "images", "runs", "figures", "paper", "total"):
            counts["figure" if rule.startswith("figure_") else rule] += int(number)
    assert counts, output
    return dict(counts)
