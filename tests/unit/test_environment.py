"""The places that state what to install agree with each other, and none names an address."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LOCKS = [
    ROOT / "requirements.lock",
    ROOT / "demo/starlette-1147/requirements.lock",
    ROOT / "demo/starlette-1147/source.lock",
    ROOT / "tools/mutants.lock",
]


def split(requirement: str) -> tuple[str, str]:
    """A requirement's name, without extras and in its normal form (PEP 503), and the rest."""
    name, _, bounds = re.match(r"([A-Za-z0-9._-]+)(\[[^]]*\])?\s*(.*)", requirement).groups()
    return re.sub(r"[-_.]+", "-", name).lower(), bounds.replace(" ", "")


@pytest.fixture(scope="module")
def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def declared(project) -> dict[str, str]:
    extras = project["project"]["optional-dependencies"].values()
    wanted = project["project"]["dependencies"] + [item for extra in extras for item in extra]
    return dict(map(split, wanted + project["build-system"]["requires"]))


@pytest.fixture(scope="module")
def locked() -> dict[str, str]:
    lines = LOCKS[0].read_text(encoding="utf-8").splitlines()
    return dict(split(line.rstrip(" \\")) for line in lines if re.match("[A-Za-z]", line))


def test_conda_environment_agrees_with_the_package(project, declared):
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))[
        "dependencies"
    ]
    conda = dict(split(item) for item in environment if isinstance(item, str))
    assert conda.pop("python") == project["project"]["requires-python"]
    assert conda.pop("pip") == ""
    assert conda == declared
    assert [item for item in environment if isinstance(item, dict)] == [
        {"pip": ["--no-deps --editable ."]}
    ]


def test_lock_holds_every_declared_dependency_within_its_bounds(declared, locked):
    from packaging.specifiers import SpecifierSet

    for name, bounds in declared.items():
        version = locked[name].removeprefix("==")
        assert SpecifierSet(bounds).contains(version), f"{name} {version} is not {bounds}"


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: str(path.relative_to(ROOT)))
def test_lock_holds_names_versions_and_hashes_only(lock):
    versions, hashes = 0, 0
    for line in lock.read_text(encoding="utf-8").splitlines():
        if line.strip().startswith("#"):
            continue
        for word in line.rstrip(" \\").split():
            if word.startswith("--hash="):
                assert re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", word)
                hashes += 1
            else:
                assert re.fullmatch(r"[a-z0-9.-]+==[0-9][A-Za-z0-9.+]*", word), word
                versions += 1
    assert hashes >= versions > 0


def test_every_dependency_is_justified(declared):
    text = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    named = {re.sub(r"[ (].*", "", cell) for cell in re.findall(r"^\| (\S.*?) \|", text, re.M)}
    assert set(declared) <= named


def test_every_system_package_is_justified():
    script = (ROOT / "tools/system.sh").read_text(encoding="utf-8")
    packages = set()
    for words in re.findall(r'packages="(?:\$packages )?([^"]+)"', script):
        packages |= set(words.split())
    system = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8").partition("## System")[2]
    for package in packages:
        assert re.search(rf"^\|.*\b{re.escape(package)}\b.*\|", system, re.M), package


@pytest.mark.slow
def test_committed_files_name_no_package_index():
    found = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=False, encoding="utf-8",
    )  # fmt: skip
    if found.returncode != 0:
        pytest.skip("NOT CHECKED: this is not a git clone")
    index = re.compile(rb"https?://[^\s\"']*/simple\b|(extra-)?index-url\s*[= ]\s*(https?|file):")
    names = [name for name in found.stdout.split("\0") if name and (ROOT / name).is_file()]
    assert len(names) > 20
    assert [name for name in names if index.search((ROOT / name).read_bytes())] == []


def test_agent_lock_holds_versions_and_hashes():
    versions = yaml.safe_load((ROOT / "config/agents.lock.yaml").read_text(encoding="utf-8"))[
        "claude"
    ]
    for version, entry in versions.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", version)
        assert re.fullmatch(r"[0-9a-f]{64}", entry["binary_sha256"])
        assert re.fullmatch(r"[0-9a-f]{64}", entry["package_sha256"])


@pytest.mark.parametrize(
    ("what", "engine", "cluster"),
    [(["env"], False, False), ([], True, False), (["test"], True, True)],
)
def test_only_what_needs_an_engine_installs_one(tmp_path, what, engine, cluster):
    """Stand-in: a system without any of the packages, and an apt that installs nothing."""
    stubs = {
        "dpkg-query": "exit 1",
        "apt-get": 'echo "$@" >> asked',
        # Root, so that nobody is asked.
        "id": "echo 0",
        "systemctl": "exit 0",
    }
    for name, text in stubs.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    subprocess.run(
        ["sh", ROOT / "tools/system.sh", *what],
        cwd=tmp_path, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, check=True, capture_output=True,
    )  # fmt: skip
    asked = (tmp_path / "asked").read_text(encoding="utf-8").split()
    assert {"git", "python3", "python3-venv"} <= set(asked)
    assert (("podman" in asked), ("slurm-wlm" in asked)) == (engine, cluster)


def test_make_env_installs_no_engine():
    done = subprocess.run(
        ["make", "--dry-run", "env"], cwd=ROOT, capture_output=True, text=True, check=True,
        encoding="utf-8",
    )  # fmt: skip
    assert re.findall(r"tools/system.sh.*", done.stdout) == ["tools/system.sh env"]
