"""Fetch the locked agent binaries: `python tools/fetch_agent.py [VERSION ...]`.

Each version in config/agents.lock.yaml names a package that carries the binary. Both hashes are
checked; the binary lands in agents/claude-<version>/claude, whole or not at all.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import yaml

from agentsweep.agents.claude_code import invocation
from agentsweep.containers.client import last_line
from agentsweep.errors import AgentsweepError, InfraError

ROOT = Path(__file__).resolve().parent.parent


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("versions", nargs="*", help="default: all that are locked")
    parser.add_argument("--lock", type=Path, default=ROOT / "config" / "agents.lock.yaml")
    parser.add_argument("--agents", type=Path, default=ROOT / "agents")
    options = parser.parse_args(arguments)
    try:
        for version in (
            options.versions or yaml.safe_load(options.lock.read_text(encoding="utf-8"))["claude"]
        ):
            fetch(options.lock, options.agents, version)
    except AgentsweepError as error:
        print(f"agent: {error}", file=sys.stderr)
        return 1
    return 0


def fetch(lock: Path, agents: Path, version: str) -> None:
    """Bring one version's binary to its place unless the right one is there."""
    binary = invocation.locked_binary(lock, agents, version)
    expected = invocation.binary_sha256(lock, version)
    if binary.exists():
        invocation.check_binary(binary, expected)
        return
    source = yaml.safe_load(lock.read_text(encoding="utf-8"))["claude"][version]
    print(f"agent: fetching Claude Code {version}", flush=True)
    binary.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=binary.parent, prefix=".fetch-") as scratch:
        wheel = download(source, Path(scratch))
        unfinished = Path(scratch) / "claude"
        with zipfile.ZipFile(wheel) as archive, unfinished.open("wb") as target:
            shutil.copyfileobj(archive.open(source["member"]), target, 1 << 22)
        unfinished.chmod(0o755)
        invocation.check_binary(unfinished, expected)
        unfinished.replace(binary)
    print(f"agent: {binary}", flush=True)


def download(source: dict[str, str], scratch: Path, *options: str) -> Path:
    """The package's wheel, by `pip download` with the machine's own settings and `options`."""
    requirement = scratch / "requirement.txt"
    requirement.write_text(
        f"{source['package']}=={source['package_version']}"
        f" --hash=sha256:{source['package_sha256']}",
        encoding="utf-8",
    )
    done = subprocess.run(
        [
            sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-cache-dir",
            "--only-binary", ":all:", "--require-hashes",
            "--dest", str(scratch), "--requirement", str(requirement), *options,
        ],
        capture_output=True, text=True, check=False, encoding="utf-8",
    )  # fmt: skip
    wheels = list(scratch.glob("*.whl"))
    if done.returncode != 0 or not wheels:
        raise InfraError(
            f"pip cannot download {source['package']} {source['package_version']}: "
            f"{last_line(done.stderr)}"
        )
    return wheels[0]


if __name__ == "__main__":
    sys.exit(main())
