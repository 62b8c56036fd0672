"""A real registry on loopback: what is locked is what is pulled, wherever the tag goes."""

import json
from pathlib import Path

import engine_in_use
import yaml

from conftest import ARCHIVE, DONE, Images, Lab, Registry, agentsweep


def pull(registry, locked: dict, out: Path, check: bool = True):
    return agentsweep(
        "image-pull", "--reference", registry.reference, "--digest", locked["digest"],
        "--config-digest", locked["config_digest"], "--out", out, check=check,
    )  # fmt: skip


def test_the_pull_gives_what_was_locked_and_not_what_the_tag_says_now(registry, two_images):
    first, second = two_images
    registry.push(first)
    lab = Lab(registry.folder, Images(registry.folder / "images.lock.yaml", Path("unused")))
    lab.lock.write_text("images: {}\n", encoding="utf-8")
    config = lab.config({"turns": [DONE]}, task={"image": registry.reference})
    agentsweep("lock", "--config", config)
    locked = yaml.safe_load(lab.lock.read_text(encoding="utf-8"))["images"][registry.reference]

    registry.push(second)
    pulled = registry.folder / "pulled.json"
    pull(registry, locked, pulled)
    record = json.loads(pulled.read_text(encoding="utf-8"))
    assert record["digest"] == locked["digest"]
    assert record["id"] == locked["config_digest"]
    assert record["pull_s"] > 0
    # Already on this node: the registry is not asked again.
    pull(registry, locked, pulled)
    assert json.loads(pulled.read_text(encoding="utf-8"))["pull_s"] == 0

    # A lock that is made anew follows the tag.
    agentsweep("lock", "--config", config)
    moved = yaml.safe_load(lab.lock.read_text(encoding="utf-8"))["images"][registry.reference]
    assert moved["digest"] != locked["digest"]
    # A digest and an image that do not belong together are refused.
    engine_in_use.ask("rmi", "--force", record["id"])
    refused = pull(registry, locked | {"digest": moved["digest"]}, pulled, check=False)
    assert refused.returncode == 1
    assert "is not the locked image" in refused.stderr
    # So is a digest that the registry does not have.
    missing = pull(registry, locked | {"digest": "sha256:" + "0" * 64}, pulled, check=False)
    assert missing.returncode == 1
    assert "Traceback" not in missing.stderr
    assert len(missing.stderr.splitlines()) == 1


def test_a_registry_that_is_gone_is_one_sentence(registry):
    digest = "sha256:" + "0" * 64
    away = Registry(1, registry.folder)
    done = pull(away, {"digest": digest, "config_digest": digest}, registry.folder / "p", False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "refused" in done.stderr


def test_an_archive_and_its_copy_in_a_registry_are_one_image(registry):
    """The image id is the same by whatever way it comes, so that runs made of it are too."""
    from agentsweep.containers import images

    registry.push(ARCHIVE)
    served = images.resolve(registry.reference)
    assert served["config_digest"] == images.resolve(f"oci-archive:{ARCHIVE}")["config_digest"]
