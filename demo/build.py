"""Build the demo's task images on the spot and save them as OCI archives.

`python demo/build.py` builds the demo's two, `python demo/build.py NAME ...` others of NAMES. It
writes images/<name>.tar, and beside it images/<name>.json: the hash of the recipe that it was
built from and the digest of its manifest. Nothing is done for an image whose recipe has not
changed. The base of all images is made once: from a registry where one answers, else with
debootstrap; it is kept under build/.
"""

import argparse
import fcntl
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agentsweep.containers.client import engine_environment, last_line
from agentsweep.containers.engine import Engine, ulimits
from agentsweep.containers.engines import find_engine
from agentsweep.errors import AgentsweepError, InfraError

DEMO = Path(__file__).resolve().parent
ROOT = DEMO.parent
DEMO_NAMES = ("starlette-1147", "logstats")
# The others are of the small benchmark (config/bench.yaml).
NAMES = (*DEMO_NAMES, "click-2072", "python-dotenv-287", "sqlparse-562")
SUITE = "bookworm"
PACKAGES = ("ca-certificates", "git", "patch", "procps", "python3", "python3-venv")
REGISTRY_BASE = f"docker.io/library/debian:{SUITE}-slim"
REGISTRY_TIMEOUT_S = 8
PYTHON_VERSION = "3.11"
# What bookworm's glibc 2.36 can load, in the names that wheels use.
WHEEL_PLATFORMS = (
    *("manylinux_2_34_x86_64", "manylinux_2_28_x86_64", "manylinux_2_17_x86_64"),
    *("manylinux2014_x86_64", "manylinux_2_5_x86_64"),
)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", choices=[*NAMES, []], help="default: the demo's")
    parser.add_argument("--images", type=Path, default=ROOT / "images")
    parser.add_argument("--cache", type=Path, default=ROOT / "build" / "demo")
    parser.add_argument(
        "--base",
        default="auto",
        help="image that a registry has, or `debootstrap`; auto (default): "
        f"{REGISTRY_BASE} where its registry answers, else debootstrap",
    )
    options = parser.parse_args(arguments)
    try:
        build_all(options.names or DEMO_NAMES, options.images, options.cache, options.base)
    except AgentsweepError as error:
        print(f"demo images: {error}", file=sys.stderr)
        return 1
    return 0


def build_all(names: list[str], images: Path, cache: Path, base: str) -> None:
    """Build what is missing or was built from another recipe."""
    stale = [name for name in names if not is_current(name, images)]
    if not stale:
        return
    if platform.machine() != "x86_64":
        raise InfraError(f"the demo's images are for x86_64, and this machine is {os.uname()[4]}")
    cache.mkdir(parents=True, exist_ok=True)
    images.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        stale = [name for name in stale if not is_current(name, images)]
        if not stale:
            return
        engine = find_engine("podman", "auto", cache / "engine")
        with base_image(engine, cache, base) as base_tag:
            for name in stale:
                say(f"building images/{name}.tar")
                build(engine, name, base_tag, images, cache)


def is_current(name: str, images: Path) -> bool:
    """Whether the archive is there and was built from this recipe."""
    try:
        record = json.loads((images / f"{name}.json").read_text(encoding="utf-8"))
        return record["recipe"] == recipe(*folders(name)) and (images / f"{name}.tar").is_file()
    except (OSError, ValueError, KeyError):
        return False


def folders(name: str) -> tuple[str, ...]:
    """Whose files make an image, in this order: those of a source release share their recipe."""
    return ("swe", name) if (DEMO / name / "source.lock").exists() else (name,)


def recipe(*names: str) -> str:
    """SHA-256 over what decides an image: the base's packages and files, and those of folders."""
    digest = hashlib.sha256(repr((SUITE, PACKAGES, PYTHON_VERSION)).encode())
    inputs = [path for folder in ("base", *names) for path in (DEMO / folder).rglob("*")]
    for path in sorted(inputs):
        if path.is_file() and "__pycache__" not in path.parts:
            executable = "x" if path.stat().st_mode & 0o100 else "-"
            digest.update(f"{path.relative_to(DEMO)} {executable}\0".encode())
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def build(engine: Engine, name: str, base_tag: str, images: Path, cache: Path) -> None:
    """One image: its context, `podman build` without a network, and the archive."""
    made_from = recipe(*folders(name))
    tag = f"localhost/agentsweep-demo/{name}:{made_from[:12]}"
    with tempfile.TemporaryDirectory(dir=cache, prefix=f"{name}-") as context:
        for folder in folders(name):
            ignored = shutil.ignore_patterns("__pycache__")
            shutil.copytree(DEMO / folder, context, dirs_exist_ok=True, ignore=ignored)
        if (DEMO / name / "source.lock").exists():
            download(Path(context))
        try:
            podman_build(engine, Path(context), cache / f"{name}.log", tag, "none", BASE=base_tag)
            save(engine, tag, images / f"{name}.tar")
        finally:
            engine.call("rmi", tag, check=False)
    record = {"recipe": made_from, "digest": manifest_digest(images / f"{name}.tar")}
    replace(images / f"{name}.json", json.dumps(record, indent=2).encode() + b"\n")
    size = (images / f"{name}.tar").stat().st_size
    say(f"images/{name}.tar: {size / 1e6:.0f} MB")


def download(context: Path) -> None:
    """The environment's wheels and the project's source release, for a build without a network."""
    target = ["--python-version", PYTHON_VERSION, "--implementation", "cp", "--abi", "cp311"]
    target += ["--abi", "abi3", "--abi", "none", "--only-binary", ":all:"]
    for name in WHEEL_PLATFORMS:
        target += ["--platform", name]
    wheels, source = str(context / "wheels"), str(context / "source")
    pip_download("--dest", wheels, "--requirement", context / "requirements.lock", *target)
    # pip looks into a source release; with the environment's own setuptools it needs no other.
    pip_download(
        *("--dest", source, "--requirement", context / "source.lock"),
        *("--no-binary", ":all:", "--no-build-isolation"),
    )


def pip_download(*arguments: str | Path) -> None:
    """`pip download` with the machine's own settings; everything has a locked hash.

    The lock names all there is. If pip looked for more, a release that came after the lock would
    stop it where a package asks for another with an extra.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--no-deps"]
    command += arguments
    done = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8")
    if done.returncode != 0:
        errors = [
            line for line in done.stderr.splitlines() if line.lstrip().lower()[:6] == "error:"
        ]
        said = errors[0].strip() if errors else last_line(done.stderr)
        raise InfraError(f"pip cannot download the demo's packages: {said}")


@contextmanager
def base_image(engine: Engine, cache: Path, base: str) -> Iterator[str]:
    """The tag of the base image in the engine's storage, for as long as it is needed."""
    made_from = recipe()
    tag = f"localhost/agentsweep-demo/base:{made_from[:12]}"
    archive = cache / f"base-{made_from[:12]}.tar"
    try:
        if archive.exists():
            loaded = engine.call("pull", "--quiet", f"oci-archive:{archive}").stdout.split()[-1]
            engine.call("tag", loaded, tag)
        else:
            make_base(engine, cache, base, tag)
            save(engine, tag, archive)
        yield tag
    finally:
        engine.call("rmi", tag, check=False)
    for old in set(cache.glob("base-*.tar")) - {archive}:
        old.unlink()


def make_base(engine: Engine, cache: Path, base: str, tag: str) -> None:
    """Debian with git and Python, from a registry or without one."""
    if base == "auto":
        base = REGISTRY_BASE if registry_has(REGISTRY_BASE) else "debootstrap"
    if base != "debootstrap":
        say(f"making the base image from {base}")
        packages = " ".join(PACKAGES)
        podman_build(
            engine, DEMO / "base", cache / "base.log", tag, "host", BASE=base, PACKAGES=packages
        )
        return
    say("making the base image with debootstrap (no registry answers; about a minute)")
    archive = cache / "rootfs.tar"
    debootstrap(archive)
    try:
        engine.call("import", "--quiet", str(archive), tag)
    finally:
        archive.unlink()


def registry_has(reference: str) -> bool:
    """Whether a registry answers in good time that it has an image."""
    try:
        done = subprocess.run(
            [
                *("skopeo", f"--command-timeout={REGISTRY_TIMEOUT_S}s", "inspect", "--raw"),
                f"docker://{reference}",
            ],
            stdin=subprocess.DEVNULL, capture_output=True, env=engine_environment(), check=False,
        )  # fmt: skip
    except FileNotFoundError:
        return False
    return done.returncode == 0


def debootstrap(archive: Path) -> None:
    """A root file system as a tar archive, made as root."""
    if not shutil.which("debootstrap", path=f"{os.environ['PATH']}:/usr/sbin:/sbin"):
        raise InfraError("no registry answers and debootstrap is not installed: run `make system`")
    as_root = [] if os.geteuid() == 0 else ["sudo", "--non-interactive"]
    if as_root and subprocess.run([*as_root, "true"], capture_output=True, check=False).returncode:
        raise InfraError(
            "no registry answers and debootstrap needs root: run `sudo -v; make images`"
        )
    proxy = apt("config", "shell", "proxy", "Acquire::http::Proxy").partition("'")[2].rstrip("'")
    environment = os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    environment |= {"http_proxy": proxy} if proxy.startswith("http") else {}
    log = archive.with_name("debootstrap.log")
    with log.open("w", encoding="utf-8") as output:
        done = subprocess.run(
            [
                *as_root, *(["--preserve-env=PATH,http_proxy"] if as_root else []),
                "sh", str(DEMO / "base" / "debootstrap.sh"),
                str(archive), SUITE, ",".join(PACKAGES), mirror(),
            ],
            stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT,
            env=environment, check=False,
        )  # fmt: skip
    if done.returncode != 0:
        raise InfraError(
            f"debootstrap failed ({log}): {last_line(log.read_text(encoding='utf-8'))}"
        )


def mirror() -> str:
    """The Debian mirror that this machine's apt uses; empty for debootstrap's default."""
    targets = apt("get", "indextargets", "--format", "$(CODENAME) $(COMPONENT) $(REPO_URI)")
    for line in targets.splitlines():
        suite, component, address = [*line.split(" ", 2), "", ""][:3]
        if (suite, component) == (SUITE, "main") and address.startswith(("http", "file:")):
            return address
    return ""


def apt(tool: str, *arguments: str) -> str:
    try:
        done = subprocess.run(
            [f"apt-{tool}", *arguments],
            capture_output=True,
            text=True,
            check=False,
            encoding="utf-8",
        )
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def podman_build(engine: Engine, context: Path, log: Path, tag: str, network: str, **values: str):
    """`podman build` into one new layer; `values` are the Containerfile's arguments."""
    arguments = [word for limit in ulimits() for word in ("--ulimit", limit)]
    arguments += [word for item in values.items() for word in ("--build-arg", "=".join(item))]
    done = engine.call(
        "build", "--layers=false", "--network", network, "--tag", tag, *arguments, str(context),
        check=False, timeout_s=1800,
    )  # fmt: skip
    log.write_text(done.stdout + done.stderr, encoding="utf-8")
    if done.returncode != 0:
        raise InfraError(f"`podman build` of {tag} failed ({log}): {last_line(done.stderr)}")


def save(engine: Engine, tag: str, archive: Path) -> None:
    """Write an image as an OCI archive, whole or not at all."""
    unfinished = archive.with_suffix(".partial")
    unfinished.unlink(missing_ok=True)
    try:
        engine.call("save", "--quiet", "--format", "oci-archive", "--output", str(unfinished), tag)
        unfinished.replace(archive)
    finally:
        unfinished.unlink(missing_ok=True)


def manifest_digest(archive: Path) -> str:
    """The digest under which an OCI archive's only image is known."""
    with tarfile.open(archive) as tar:
        return json.load(tar.extractfile("index.json"))["manifests"][0]["digest"]


def replace(path: Path, content: bytes) -> None:
    unfinished = path.with_suffix(".partial")
    unfinished.write_bytes(content)
    unfinished.replace(path)


def say(text: str) -> None:
    print(f"demo images: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
