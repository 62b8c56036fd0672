"""What is taken out of a container whose agent has ended. Engine and git's answer are fakes."""

import tarfile

import pytest
from run_parts import (
    IMAGE,
    FakeEngine,
    an_agent_run,
    attempt_run,
    disk_watch,
    failing,
    prepared,
    sleeping,
    started,
)

from agentsweep.containers.git_snapshot import Unreadable
from agentsweep.errors import InfraError
from agentsweep.hashes import file_sha256
from agentsweep.runs import collect

PATCH = b"diff --git a/x b/x\n"


@pytest.fixture
def scene(tmp_path, monkeypatch):
    """A run that has ended; `git` is what git answers with: a patch and what it could not read."""

    class Scene:
        def __init__(self):
            self.engine, self.init = FakeEngine(tmp_path), sleeping()
            self.started, self.disk = started(self.init.pid), disk_watch()
            self.run = attempt_run(tmp_path / "attempt")
            self.git: object = (PATCH, [])
            self.asked: list[tuple] = []

        def write_patch(self, engine, container, user, workdir, start, target):
            self.asked.append((container, user, workdir, start))
            if isinstance(self.git, Exception):
                raise self.git
            target.write_bytes(self.git[0])
            return self.git[1]

        def patch(self, alive=True):
            ready = prepared(self.engine, tmp_path / "scratch")
            return collect.take_patch(self.run, ready, self.started, alive, self.disk)

        def collect(self, **changes):
            ready = prepared(self.engine, tmp_path / "scratch")
            ended = an_agent_run(**changes)
            return collect.collect(self.run, ready, self.started, ended, self.disk)

        def vanish(self):
            self.init.kill()
            self.init.wait()

    made = Scene()
    monkeypatch.setattr(collect.git_snapshot, "write_patch", made.write_patch)
    yield made
    made.vanish()


def test_a_patch_has_its_size_and_hash(scene):
    patch, path = scene.patch(), scene.run.path / "patch.diff"
    assert (patch.status, patch.bytes, patch.sha256) == ("ok", len(PATCH), file_sha256(path))
    assert (patch.reason, patch.cause) == (None, None)
    assert scene.asked == [("the-id", "1000:1000", "/testbed", IMAGE)]
    assert scene.engine.calls == []


def test_nothing_changed_and_something_could_not_be_read(scene):
    scene.git = (b"", ["a is too large", "b is odd"])
    patch = scene.patch()
    assert (patch.status, patch.bytes) == ("empty", 0)
    assert patch.reason == "a is too large; b is odd"


def test_an_image_without_git_is_the_images_fault(scene):
    scene.git = (b"half", None)
    patch = scene.patch()
    assert (patch.status, patch.sha256, patch.bytes) == ("unavailable", None, 0)
    assert (patch.reason, patch.cause) == ("the image has no git", "image")
    assert (scene.run.path / "patch.diff").read_bytes() == b""


def test_what_git_cannot_make_of_it_is_the_runs_fault(scene):
    scene.git = Unreadable("git had too little memory")
    patch = scene.patch()
    assert (patch.status, patch.cause, patch.reason) == (
        "unavailable", "run", "git had too little memory",
    )  # fmt: skip


def test_an_engine_that_fails_is_no_data_unless_the_disk_is_full(scene):
    scene.git = InfraError("podman hangs")
    with pytest.raises(InfraError, match="podman hangs"):
        scene.patch()
    scene.disk.over = "it wrote too much"
    assert scene.patch().cause == "run"


def test_a_container_that_goes_meanwhile_is_no_data(scene):
    scene.git = Unreadable("no such container")
    scene.vanish()
    with pytest.raises(InfraError, match="agentsweep-x went away before the patch was taken"):
        scene.patch()


def test_a_container_that_the_kernel_ended_is_started_again_for_its_patch(scene):
    scene.vanish()
    scene.engine.failures["start"] = failing("once", "twice", None)
    assert scene.patch(alive=False).status == "ok"
    assert scene.engine.calls == [("start", "the-id")] * 3


def test_one_that_does_not_start_any_more_has_no_patch(scene):
    scene.vanish()
    scene.engine.failures["start"] = failing("a", "b", "its limit is too small")
    patch = scene.patch(alive=False)
    assert (patch.cause, patch.reason) == ("run", "its limit is too small")
    # One that the engine does not know any more was removed by somebody.
    scene.engine.failures = {"start": failing("a", "b", "c"), "inspect": failing("no such")}
    with pytest.raises(InfraError, match="went away before the patch was taken"):
        scene.patch(alive=False)


def test_session_trace_and_patch_are_in_the_attempt(scene):
    folder = scene.run.path / "session" / "projects" / "x"
    folder.mkdir(parents=True)
    (folder / "the-session.jsonl").write_text("{}\n", encoding="utf-8")
    for name in ("stream.jsonl", "stderr.txt"):
        (scene.run.path / name).write_text("abc", encoding="utf-8")
    collected = scene.collect()
    assert collected.session == {"files": 1, "bytes": 3, "skipped": 0}
    assert (scene.run.path / "trace.jsonl").read_text(encoding="utf-8") == "{}\n"
    with tarfile.open(scene.run.path / "session.tar") as archive:
        assert archive.getnames() == ["projects/x/the-session.jsonl"]
    assert not (scene.run.path / "session").exists()
    assert collected.written["stream.jsonl"] == {"bytes": 3}
    assert collected.written["trace.jsonl"] == {"bytes": 3}
    size = (scene.run.path / "session.tar").stat().st_size
    assert collected.written["session.tar"] == {"bytes": size}
    assert collected.written["patch.diff"] == {
        "bytes": len(PATCH), "sha256": collected.patch.sha256,
    }  # fmt: skip
    assert collected.written.keys() >= {"stderr.txt"}


def test_a_session_directory_that_is_gone_is_no_data(scene):
    with pytest.raises(InfraError, match="session is gone: something outside removed it"):
        scene.collect()


def test_whether_the_container_lived_decides_how_the_patch_is_taken(scene):
    (scene.run.path / "session").mkdir()
    for name in ("stream.jsonl", "stderr.txt"):
        (scene.run.path / name).touch()
    scene.vanish()
    assert scene.collect(alive=False).patch.status == "ok"
    assert scene.engine.calls == [("start", "the-id")]
