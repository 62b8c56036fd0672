"""Break the code on purpose, one small change at a time, and list the changes that no test sees.

    python tools/mutants.py [MODULE...]

Each module of `TESTS` is mutated in a copy of the project (build/mutants) and tested by its own
unit tests alone. Prints the survivors and compares them with those that docs/testing.md explains;
exit status 1 where there are others. mutmut is installed beside the copy, pinned by hash, the first
time; after that no network is used.
"""

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BUILD = ROOT / "build" / "mutants"
LOCK = ROOT / "tools" / "mutants.lock"
EXPLAINED = ROOT / "docs" / "testing.md"
# Which unit tests each module must be held by.
TESTS = {
    "host/admission": ("host/test_admission",),
    "host/limits": ("host/test_limits",),
    "host/oom_kills": ("host/test_oom_kills", "runs/test_outcome"),
    "sampler/peaks": ("sampler/test_peaks", "sampler/test_sampler"),
    "runs/outcome": ("runs/test_outcome",),
    "runs/spec": ("runs/test_spec",),
    "grading/verdict": ("grading/test_verdict", "grading/test_verdict_witness"),
}
COPIED = ("src", "tests", "config", "docs", "demo", "workflow", "tools", "Makefile")
SETTINGS = """
[tool.mutmut]
source_paths = ["src"]
only_mutate = ["src/agentsweep/{module}.py"]
pytest_add_cli_args_test_selection = [{tests}]
pytest_add_cli_args = ["-p", "no:cacheprovider"]
also_copy = [{copied}]
use_git_change_detection = false
track_dependencies = false
"""


def installed() -> Path:
    """The folder that has mutmut, installed where it is not there yet."""
    stamp = hashlib.sha256(LOCK.read_bytes()).hexdigest()
    folder = BUILD / "tools"
    if not (folder / stamp).exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
             "--require-hashes", "--no-deps", "--only-binary", ":all:", "--target", str(folder),
             "--requirement", str(LOCK)],
            check=True,
        )  # fmt: skip
        (folder / stamp).touch()
    return folder


def mutate(module: str, tools: Path) -> dict[str, str]:
    """The mutants that survived: name to its change, as `- old` and `+ new`."""
    work = BUILD / module
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, work / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, work / name)
    tests = ", ".join(f'"tests/unit/{name}.py"' for name in TESTS[module])
    copied = ", ".join(f'"{name}"' for name in COPIED if name not in ("src", "tests"))
    settings = SETTINGS.format(module=module, tests=tests, copied=copied)
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (work / "pyproject.toml").write_text(project + settings, encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(tools), "HYPOTHESIS_PROFILE": "mutants"}

    def mutmut(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "mutmut", *words],
            cwd=work, env=environment, capture_output=True, text=True, encoding="utf-8",
            check=False,
        )  # fmt: skip
        if done.returncode:
            sys.exit(f"mutmut {' '.join(words)}: {(done.stdout + done.stderr)[-3000:]}")
        return done.stdout

    run = mutmut("run", "--max-children", str(len(os.sched_getaffinity(0))))
    counts = re.findall(r"(\d+)/(\d+)", run)
    names = [
        line.split(":")[0].strip()
        for line in mutmut("results").splitlines()
        if line.strip().endswith((": survived", ": no tests", ": suspicious"))
    ]
    made = {name: change(mutmut("show", name)) for name in names}
    wording = [name for name, changed in made.items() if is_wording(changed)]
    print(
        f"{module}: {counts[-1][1] if counts else '?'} mutants, {len(names)} survived, "
        f"of them {len(wording)} other words of a sentence",
        flush=True,
    )
    return {name: changed for name, changed in made.items() if name not in wording}


def is_wording(changed: str) -> bool:
    """Whether only the words of a text with a blank in it differ: a sentence and not a key."""
    old, _, new = changed.partition("\n+ ")
    old = old.removeprefix("- ")
    return " " in "".join(re.findall(r'"([^"]*)"', old)) and (
        new.replace("XX", "").casefold() == old.casefold()
    )


def change(diff: str) -> str:
    """The changed lines of a diff, without its head."""
    lines = [line for line in diff.splitlines() if re.match(r"[-+](?![-+])", line)]
    return "\n".join(f"{line[0]} {line[1:].strip()}" for line in lines)


def main(modules: list[str]) -> int:
    unknown = set(modules) - set(TESTS)
    if unknown:
        sys.exit(f"unknown: {', '.join(sorted(unknown))}; there are {', '.join(TESTS)}")
    tools, left = installed(), 0
    explained = EXPLAINED.read_text(encoding="utf-8").splitlines()
    for module in modules or TESTS:
        for name, changed in mutate(module, tools).items():
            # A name has a running number, which a change elsewhere in its function moves.
            new = [line for line in changed.splitlines() if line.startswith("+")]
            known = bool(new) and all(line in explained for line in new)
            left += not known
            print(f"{'explained' if known else 'SURVIVED'} {name}\n{changed}", flush=True)
    return 1 if left else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
