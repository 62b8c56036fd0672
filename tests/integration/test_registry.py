"""A real registry on loopback: what is locked is what is pulled, wherever the tag goes."""

import json
import os
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from conftest import ARCHIVE, DONE, Images, Lab, agentsweep, podman


@dataclass
class Registry:
    """A registry of one repository with one tag."""

    port: int
    folder: Path

    @property
    def name(self) -> str:
        return f"127.0.0.1:{self.port}/agentsweep-test/image"

    @property
    def reference(self) -> str:
        return f"docker://{self.name}:latest"

    def push(self, archive: Path) -> None:
        copy = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false"]
        subprocess.run([*copy, f"oci-archive:{archive}", self.reference], check=True, timeout=120)


@pytest.fixture
def registry(tmp_path):
    program = shutil.which("docker-registry")
    if program is None:
        missing = "NOT RUN: needs docker-registry: run `make test`"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = tmp_path / "registry.yml"
    config.write_text(
        yaml.safe_dump(
            {
                "version": 0.1,
                "log": {"level": "error"},
                "storage": {"filesystem": {"rootdirectory": str(tmp_path / "registry")}},
                "http": {"addr": f"127.0.0.1:{port}"},
            }
        )
    )
    with (tmp_path / "registry.log").open("wb") as log:
        server = subprocess.Popen(
            [program, "serve", str(config)], stdout=log, stderr=log, cwd=tmp_path
        )
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "registry.log").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.05)
        yield Registry(port, tmp_path)
    finally:
        server.terminate()
        server.wait(10)


@pytest.fixture
def two_images(tmp_path):
    """Two small images of one repository: one file differs."""
    made, ids = [], []
    for word in ("first", "second"):
        root = tmp_path / word
        root.mkdir()
        (root / "said").write_text(word)
        archive = tmp_path / f"{word}.tar"
        tar = subprocess.run(["tar", "-c", "-C", str(root), "."], capture_output=True, check=True)
        done = subprocess.run(
            ["podman", "import", "--quiet", "-"], input=tar.stdout, capture_output=True, check=True
        )
        ids.append(done.stdout.decode().strip())
        subprocess.run(
            ["podman", "save", "--quiet", "--format", "oci-archive", "-o", str(archive), ids[-1]],
            check=True,
        )
        podman("rmi", "--force", ids[-1])
        made.append(archive)
    yield made
    for image in ids:
        podman("rmi", "--force", image)


def pull(registry, locked: dict, out: Path, check: bool = True):
    return agentsweep(
        "image-pull", "--reference", registry.reference, "--digest", locked["digest"],
        "--config-digest", locked["config_digest"], "--out", out, check=check,
    )  # fmt: skip


def test_the_pull_gives_what_was_locked_and_not_what_the_tag_says_now(registry, two_images):
    first, second = two_images
    registry.push(first)
    lab = Lab(registry.folder, Images(registry.folder / "images.lock.yaml", Path("unused")))
    lab.lock.write_text("images: {}\n")
    config = lab.config({"turns": [DONE]}, task={"image": registry.reference})
    agentsweep("lock", "--config", config)
    locked = yaml.safe_load(lab.lock.read_text())["images"][registry.reference]

    registry.push(second)
    pulled = registry.folder / "pulled.json"
    pull(registry, locked, pulled)
    record = json.loads(pulled.read_text())
    assert record["digest"] == locked["digest"]
    assert record["id"] == locked["config_digest"]
    assert record["pull_s"] > 0
    # Already on this node: the registry is not asked again.
    pull(registry, locked, pulled)
    assert json.loads(pulled.read_text())["pull_s"] == 0

    # A lock that is made anew follows the tag.
    agentsweep("lock", "--config", config)
    moved = yaml.safe_load(lab.lock.read_text())["images"][registry.reference]
    assert moved["digest"] != locked["digest"]
    # A digest and an image that do not belong together are refused.
    podman("rmi", "--force", record["id"])
    refused = pull(registry, locked | {"digest": moved["digest"]}, pulled, check=False)
    assert refused.returncode == 1
    assert "is not the locked image" in refused.stderr
    # So is a digest that the registry does not have.
    missing = pull(registry, locked | {"digest": "sha256:" + "0" * 64}, pulled, check=False)
    assert missing.returncode == 1
    assert "Traceback" not in missing.stderr
    assert len(missing.stderr.splitlines()) == 1


def test_a_registry_that_is_gone_is_one_sentence(registry, two_images):
    digest = "sha256:" + "0" * 64
    away = Registry(1, registry.folder)
    done = pull(away, {"digest": digest, "config_digest": digest}, registry.folder / "p", False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "refused" in done.stderr


def test_an_archive_and_its_copy_in_a_registry_are_one_image(registry):
    """The image id is the same by whatever way it comes, so that runs made of it are too."""
    from agentsweep import images

    registry.push(ARCHIVE)
    served = images.resolve(registry.reference)
    assert served["config_digest"] == images.resolve(f"oci-archive:{ARCHIVE}")["config_digest"]
