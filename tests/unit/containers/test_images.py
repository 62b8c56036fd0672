"""Pulling by digest, with an engine that is told what it has; real pulls: test_registry.py."""

import json
from types import SimpleNamespace

import pytest

from agentsweep.containers import image_names, images, skopeo
from agentsweep.containers.podman import Podman
from agentsweep.errors import ConfigError, InfraError

DIGEST, CONFIG, OTHER = (f"sha256:{letter * 64}" for letter in "abc")


class Engine(Podman):
    """An engine whose next pull brings the image `brings`."""

    def __init__(self, workdir=None, has=(), brings=CONFIG):
        super().__init__(None, workdir)
        self.has, self.brings = set(has), brings
        self.calls = []

    def image_id(self, reference):
        if reference in self.has:
            return reference
        return self.brings if self.calls else None

    def image_size_bytes(self, _):
        return 7

    def call(self, *arguments, **_):
        self.calls.append(arguments)
        return SimpleNamespace(stdout=f"{self.brings}\n")


def test_an_image_that_is_not_locked_is_refused_before_the_engine_is_asked():
    engine = Engine()
    for digest, config in (("unlocked", CONFIG), (DIGEST, "unlocked"), ("", "")):
        with pytest.raises(ConfigError, match="is not in the lock file"):
            images.pull(engine, "docker://example.org/a:1", digest, config)
    assert engine.calls == []


def test_a_registry_is_asked_for_the_digest_and_not_for_the_tag():
    engine = Engine()
    record = images.pull(engine, "docker://127.0.0.1:5000/a/b:latest", DIGEST, CONFIG)
    (call,) = engine.calls
    assert call[0] == "pull"
    assert call[-1] == f"127.0.0.1:5000/a/b@{DIGEST}"
    assert "--tls-verify=false" in call
    assert record["id"] == CONFIG
    images.pull(engine := Engine(), "docker://example.org/a:1", DIGEST, CONFIG)
    assert "--tls-verify=false" not in engine.calls[0]


def test_what_is_here_already_is_not_pulled():
    engine = Engine(has=[CONFIG])
    assert images.pull(engine, "docker://example.org/a:1", DIGEST, CONFIG)["pull_s"] == 0
    assert engine.calls == []


def test_another_image_than_the_locked_one_is_refused(tmp_path):
    archive = tmp_path / "a.tar"
    archive.touch()
    for reference in ("docker://example.org/a:1", f"oci-archive:{archive}"):
        with pytest.raises(InfraError, match="is not the locked image"):
            images.pull(Engine(brings=OTHER), reference, DIGEST, CONFIG)


def test_a_missing_archive_says_how_to_make_it(tmp_path):
    reference = f"oci-archive:{tmp_path}/none.tar"
    with pytest.raises(InfraError, match="is missing: build it"):
        images.pull(Engine(), reference, DIGEST, CONFIG)
    with pytest.raises(ConfigError, match="is missing: build it"):
        images.resolve(reference)


@pytest.mark.parametrize(
    ("reference", "loopback"),
    [
        ("docker://127.0.0.1:5000/a:1", True),
        ("docker://localhost/a", True),
        ("docker://localhost:5000/a", True),
        ("docker://[::1]:5000/a", True),
        ("docker://127.0.0.1.example.org/a", False),
        ("docker://localhost.example.org/a", False),
        ("docker://example.org/127.0.0.1/a", False),
        ("docker://docker.io/library/a", False),
        ("oci-archive:127.0.0.1", False),
    ],
)
def test_only_this_machine_may_serve_without_tls(reference, loopback):
    assert image_names.is_loopback(reference) is loopback


@pytest.mark.parametrize(
    ("name", "without"),
    [
        ("a", "a"),
        ("a:1", "a"),
        ("host:5000/a", "host:5000/a"),
        ("host:5000/a:1", "host:5000/a"),
        (f"host:5000/b/a:1@{DIGEST}", "host:5000/b/a"),
        (f"host/a@{DIGEST}", "host/a"),
    ],
)
def test_tags_are_taken_off_and_ports_are_not(name, without):
    assert images._without_tag(name) == without


def test_a_fixed_image_of_this_node_is_used_as_it_is(tmp_path):
    record = {"tag": "localhost/a:1", "id": "localhost/a:1"}
    engine = Engine(tmp_path, has=["localhost/a:1"])
    assert images.ensure(engine, record) is record
    assert engine.calls == []


def test_an_image_that_was_fixed_again_here_is_known(tmp_path):
    record = {"tag": "localhost/a:1", "id": OTHER}
    again = record | {"id": "localhost/a:1"}
    (tmp_path / "1.image.json").write_text(json.dumps(again), encoding="utf-8")
    engine = Engine(tmp_path, has=["localhost/a:1"])
    assert images.ensure(engine, record) == again
    assert engine.calls == []


def test_the_size_of_an_image_is_that_of_its_layers(monkeypatch):
    """With the answers of a registry made up: what is asked of one, and what is made of it."""
    reference, layers = "docker://r.example/a/b:1", [{"size": 5}, {"size": 7}]
    plain = {"config": {"size": 100}, "layers": layers}
    arm, ours = (
        {"digest": f"sha256:{letter * 64}", "platform": {"os": "linux", "architecture": name}}
        for letter, name in (("a", "arm64"), ("b", "amd64"))
    )
    answers = {}
    monkeypatch.setattr(
        skopeo, "run", lambda *_, image: json.dumps(answers.get(image, {})).encode()
    )
    for manifest, size in (
        (plain, 12),
        ({"manifests": [arm, ours]}, 12),
        ({"manifests": [arm]}, None),
        ({"schemaVersion": 1, "fsLayers": [{}]}, None),
    ):
        answers |= {reference: manifest, f"docker://r.example/a/b@{ours['digest']}": plain}
        assert images.resolve(reference).get("size_bytes") == size


def test_a_fix_runs_under_limits_and_with_the_capabilities_that_it_needs():
    made = {}

    class Engine:
        def __getattr__(self, name):
            return lambda *_, **__: None

        def image_id(self, _):
            return "sha256:" + "a" * 64

        def image_config(self, _):
            return {}

        def create(self, spec):
            made["spec"] = spec
            raise InfraError("as far as this test goes")

    pulled = {"id": "sha256:" + "a" * 64, "reference": "r"}
    with pytest.raises(InfraError, match="as far as"):
        images.fix(Engine(), pulled, "/testbed", 1000, 1000, "localhost/agentsweep/x:1")
    spec = made["spec"]
    assert spec.drop_capabilities and spec.network == "none"
    assert set(spec.kept_capabilities) == {"CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID"}
    assert 2**30 <= spec.memory_bytes <= 8 * 2**30
    assert spec.pids == 4096
