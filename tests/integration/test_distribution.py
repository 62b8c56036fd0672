"""Images on several nodes: each node is a storage and a scratch directory of its own."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import engine_in_use
import pytest
import yaml
from docker_daemon import Daemon

from conftest import ARCHIVE, DONE, Images, Lab, agentsweep

TAG = "localhost/agentsweep/distributed:0123456789ab"


class Node:
    """A node: an environment in which the engine has a storage that nobody shares."""

    def __init__(self, folder: Path):
        (folder / "tmp").mkdir(parents=True)
        self.folder = folder
        self.environment = os.environ | {"TMPDIR": str(folder / "tmp")} | self.storage()

    def storage(self) -> dict[str, str]:
        """What gives the engine its storage."""
        raise NotImplementedError

    def engine(self, *arguments: str) -> str:
        return subprocess.run(
            [engine_in_use.NAME, *arguments], env=self.environment, cwd=self.folder,
            capture_output=True, text=True, check=True, encoding="utf-8",
        ).stdout  # fmt: skip

    def images(self) -> list[str]:
        """Their ids, once each: Docker lists an image by tag and by digest."""
        return sorted(set(self.engine("images", "--quiet", "--no-trunc").split()))


class PodmanNode(Node):
    def storage(self) -> dict[str, str]:
        folder = self.folder
        storage = folder / "storage.conf"
        storage.write_text(
            f'[storage]\ndriver = "overlay"\ngraphroot = "{folder}/graph"\n'
            f'runroot = "{folder}/run"\n',
            encoding="utf-8",
        )
        return {"CONTAINERS_STORAGE_CONF": str(storage)}

    def end(self) -> None:
        self.engine("rmi", "--all", "--force")
        # Podman mounts its storage over itself.
        subprocess.run(["umount", str(self.folder / "graph" / "overlay")], check=False,
                       stderr=subprocess.DEVNULL)  # fmt: skip


class DockerNode(Node):
    def storage(self) -> dict[str, str]:
        self.daemon = Daemon(self.folder / "docker")
        return self.daemon.environment

    def end(self) -> None:
        self.daemon.stop()


@pytest.fixture
def nodes():
    kind = {"podman": PodmanNode, "docker": DockerNode}[engine_in_use.NAME]
    # Short, because the path of a socket is below it.
    with tempfile.TemporaryDirectory(prefix="nodes-") as folder:
        made = [kind(Path(folder) / name) for name in ("1", "2", "3")]
        yield made
        for node in made:
            node.end()


def lock(lab: Lab, reference: str) -> dict:
    """Lock an image alone; returns its entry."""
    lab.lock.write_text("images: {}\n", encoding="utf-8")
    agentsweep("lock", "--config", lab.config({"turns": [DONE]}, task={"image": reference}))
    return yaml.safe_load(lab.lock.read_text(encoding="utf-8"))["images"][reference]


def pull(node: Node, reference: str, locked: dict, keep: list, out: Path, check: bool = True):
    return agentsweep(
        "image-pull", "--reference", reference, "--digest", locked["digest"],
        "--config-digest", locked["config_digest"], *keep, "--out", out,
        env=node.environment, check=check,
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["oci", "v2s2"])
def test_a_pulled_image_comes_from_the_archive_with_its_id(
    kind, registry, two_images, nodes, tmp_path
):
    """Its registry is asked once, by whichever node is first; both formats keep the id."""
    copy = ["skopeo", "copy", "--quiet", "--format", kind, "--dest-tls-verify=false"]
    subprocess.run([*copy, f"oci-archive:{two_images[0]}", registry.reference], check=True)
    lab = Lab(tmp_path, Images(tmp_path / "images.lock.yaml", Path("unused")))
    locked = lock(lab, registry.reference)
    keep = ["--keep-in", tmp_path / "kept"]
    pull(nodes[0], registry.reference, locked, keep, tmp_path / "pulled.json")
    shutil.rmtree(tmp_path / "registry")
    pull(nodes[1], registry.reference, locked, keep, tmp_path / "pulled.json")
    assert (
        json.loads((tmp_path / "pulled.json").read_text(encoding="utf-8"))["id"]
        == locked["config_digest"]
    )
    assert nodes[1].images() == [locked["config_digest"]]


@pytest.mark.parametrize("how", ["archive", "registry"])
def test_a_run_loads_the_fixed_image_once_and_only_if_it_is_the_one(how, request, nodes, tmp_path):
    kept = tmp_path / "kept"
    images = {"distribute": how, "archive_directory": str(kept)}
    keep = ["--keep-in", kept]
    if how == "registry":
        repository = request.getfixturevalue("registry").name
        images["registry"] = f"docker://{repository}"
        keep += ["--registry", repository]
    record = tmp_path / "image.json"
    lab = Lab(tmp_path, Images(tmp_path / "images.lock.yaml", record))
    reference = f"oci-archive:{ARCHIVE}"
    locked = lock(lab, reference)
    pull(nodes[0], reference, locked, keep, tmp_path / "pulled.json")
    agentsweep(
        "image-fix", "--pulled", tmp_path / "pulled.json", "--workdir", "/testbed",
        *("--uid", "1000", "--gid", "1000", "--tag", TAG), *keep, "--out", record,
        env=nodes[0].environment,
    )  # fmt: skip
    fixed = json.loads(record.read_text(encoding="utf-8"))

    def run(node: Node, turn: str, check: bool = True):
        config = lab.config({"turns": [{"text": turn}]})
        written = yaml.safe_load(config.read_text(encoding="utf-8"))
        written["images"] |= images
        config.write_text(yaml.safe_dump(written), encoding="utf-8")
        return agentsweep(*lab.arguments(config), env=node.environment, check=check)

    run(nodes[1], "first")
    assert lab.result()["image"]["id"] == fixed["id"]
    # The fixed image alone, and not what it was made of: nothing was pulled or fixed again.
    assert nodes[1].images() == [fixed["id"]]
    run(nodes[1], "second")
    assert lab.result()["outcome"] == "completed"

    path = kept / f"{TAG.rpartition(':')[2]}.json"
    named = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(named | {"id": "sha256:" + "0" * 64}), encoding="utf-8")
    refused = run(nodes[2], "third", check=False)
    assert refused.returncode == 1
    assert "is not the image sha256:000000000000 that its record names" in refused.stderr
    assert "Traceback" not in refused.stderr
    # Without a record the node makes the image itself and keeps it for the others.
    path.unlink()
    run(nodes[2], "third")
    assert json.loads(path.read_text(encoding="utf-8"))["id"] == lab.result()["image"]["id"]
