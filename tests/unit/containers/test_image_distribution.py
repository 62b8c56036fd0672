"""Which images are kept for other nodes and which are loaded, with an engine that only counts."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from agentsweep.containers import image_distribution, images
from agentsweep.containers.image_distribution import Place
from agentsweep.containers.podman import Podman
from agentsweep.errors import InfraError

DIGEST, CONFIG, FIXED, OTHER = (f"sha256:{letter * 64}" for letter in "abcd")
REFERENCE = "docker://example.org/a:1"
RECORD = {
    "reference": REFERENCE, "digest": DIGEST, "config_digest": CONFIG, "id": FIXED,
    "tag": "localhost/agentsweep/a:0123", "workdir": "/w", "uid": 1, "gid": 1, "history": None,
}  # fmt: skip


class Engine(Podman):
    """A node's engine: it has what it saved, loaded or pulled; a load brings `brings`."""

    def __init__(self, workdir: Path, has=(), brings=FIXED):
        super().__init__(None, workdir)
        self.has, self.brings = set(has), brings
        self.calls = []

    def image_id(self, reference):
        return reference if reference in self.has else None

    def image_size_bytes(self, _):
        return 7

    def info(self):
        return {"rootless": False}

    def call(self, *arguments, **_):
        # Looking changes nothing.
        if arguments[0] != "image":
            self.calls.append(arguments[0])
        if arguments[0] == "save":
            Path(arguments[arguments.index("--output") + 1]).write_text(
                "an image", encoding="utf-8"
            )
        if arguments[0] == "push":
            Path(arguments[arguments.index("--digestfile") + 1]).write_text(
                DIGEST, encoding="utf-8"
            )
        if arguments[0] in ("load", "pull"):
            self.has.add(self.brings)
        return SimpleNamespace(stdout="application/vnd.oci.image.manifest.v1+json")


@pytest.fixture(params=["archive", "registry"])
def place(request, tmp_path):
    return Place(tmp_path / "kept", None if request.param == "archive" else "r.example/me")


@pytest.fixture
def node(tmp_path):
    made = iter(range(9))

    def engine(**more):
        workdir = tmp_path / f"node{next(made)}"
        workdir.mkdir()
        return Engine(workdir, **more)

    return engine


def test_what_one_node_keeps_the_others_load_once(place, node):
    image_distribution.publish(node(has=[FIXED]), RECORD, place)
    other = node()
    for _ in range(2):
        assert image_distribution.ensure(other, RECORD, place) == RECORD
    assert other.calls == ["load" if place.registry is None else "pull", "tag"]


def test_an_image_that_is_not_the_one_is_refused(place, node):
    image_distribution.publish(node(has=[FIXED]), RECORD, place)
    with pytest.raises(InfraError, match="is not the image sha256:cccccccccccc that its record"):
        image_distribution.ensure(node(brings=OTHER), RECORD, place)


def test_what_is_kept_counts_where_it_was_fixed_at_another_time(place, node):
    image_distribution.publish(node(has=[OTHER]), RECORD | {"id": OTHER}, place)
    assert image_distribution.ensure(node(brings=OTHER), RECORD, place)["id"] == OTHER


def test_the_first_node_makes_what_nobody_kept(place, node, monkeypatch):
    made = RECORD | {"id": OTHER}
    monkeypatch.setattr(images, "ensure", lambda engine, record: made)
    first = node(has=[CONFIG])
    assert image_distribution.ensure(first, RECORD, place) == made
    assert first.calls[-1] == ("save" if place.registry is None else "push")
    # One with another recipe, below the same name, counts for nothing.
    path = place.directory / "0123.json"
    path.write_text(
        json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"uid": 2}), encoding="utf-8"
    )
    assert image_distribution.ensure(node(has=[CONFIG]), RECORD, place) == made


def test_a_pulled_image_is_asked_of_its_registry_once(place, node, monkeypatch):
    pulled = []
    monkeypatch.setattr(images, "pull", lambda *wanted: pulled.append(wanted) or {"pull_s": 1})
    wanted = (REFERENCE, DIGEST, CONFIG)
    image_distribution.pull(node(), *wanted, place)
    other = node(brings=CONFIG)
    assert image_distribution.pull(other, *wanted, place)["pull_s"] < 1
    assert other.calls == ["load" if place.registry is None else "pull"]
    # An archive is its own file, and what is not locked is refused by `images.pull`.
    for reference, digest in (("oci-archive:a.tar", DIGEST), (REFERENCE, "unlocked")):
        before = node()
        image_distribution.pull(before, reference, digest, CONFIG, place)
        assert before.calls == []


def test_a_new_archive_takes_the_place_of_the_old_one(node, tmp_path):
    place = Place(tmp_path / "kept")
    for found in (FIXED, OTHER):
        image_distribution.publish(node(has=[found]), RECORD | {"id": found}, place)
    names = sorted(path.name for path in place.directory.glob("*.tar*"))
    assert names == [f"{OTHER.removeprefix('sha256:')}.tar"]


def test_the_place_that_a_configuration_names(tmp_path):
    registry, kept = "docker://r/me", str(tmp_path / "k")
    place_of = image_distribution.place_of
    assert place_of("local", None, registry, tmp_path) is None
    assert place_of("archive", None, registry, tmp_path) == Place(tmp_path / "image-archives")
    assert place_of("registry", kept, registry, "results") == Place(tmp_path / "k", "r/me")
