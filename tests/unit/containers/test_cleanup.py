"""Scratch directories: whose they are, and that a dead runner's go whatever is in them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agentsweep.containers import cleanup
from agentsweep.errors import InfraError
from agentsweep.host import scratch
from agentsweep.host.processes import owner_tag


class Engine:
    """Knows the containers that it is told of."""

    def __init__(self, workdir: Path, *containers: dict):
        self.workdir, self.containers = workdir, list(containers)

    def owned(self) -> list[dict]:
        return list(self.containers)

    def remove(self, name: str) -> None:
        self.containers = [c for c in self.containers if c["id"] != name]


@pytest.fixture
def node(tmp_path, monkeypatch):
    monkeypatch.setattr(scratch.tempfile, "gettempdir", lambda: str(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def dead_tag():
    code = "from agentsweep.host.processes import owner_tag; print(owner_tag())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, encoding="utf-8"
    )
    return done.stdout.strip()


def nest(folder: Path, depth: int) -> None:
    code = f"import os\nfor _ in range({depth}): os.mkdir('d'); os.chdir('d')"
    subprocess.run([sys.executable, "-c", code], cwd=folder, check=True)


def test_the_scratch_directory_is_ours_alone(node):
    assert scratch.root().stat().st_mode & 0o777 == 0o700
    assert scratch.root() == node / f"agentsweep-{os.getuid()}"


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_what_a_container_sees_is_open_whatever_the_umask(tmp_path, umask):
    folder = tmp_path / "control"
    (folder / "session").mkdir(parents=True)
    before = os.umask(umask)
    try:
        (folder / "deep" / "er").mkdir(parents=True)
        (folder / "file").write_text("text", encoding="utf-8")
        (folder / "deep" / "start").write_text("#!/bin/sh\n", encoding="utf-8")
        (folder / "deep" / "start").chmod(0o700)
        (folder / "link").symlink_to("/etc/shadow")
        scratch.open_to_all(folder)
    finally:
        os.umask(before)
    modes = {str(p.relative_to(folder)): p.lstat().st_mode & 0o777 for p in folder.rglob("*")}
    del modes["link"]
    assert modes == {
        **dict.fromkeys(("deep", "deep/er", "deep/start", "session"), 0o755), "file": 0o644,
    }  # fmt: skip
    assert folder.stat().st_mode & 0o777 == 0o755


def test_somebody_elses_is_refused(node):
    elsewhere = node / "elsewhere"
    elsewhere.mkdir()
    (node / f"agentsweep-{os.getuid()}").symlink_to(elsewhere)
    with pytest.raises(InfraError, match="belongs to somebody else"):
        scratch.root()


@pytest.mark.slow
def test_only_what_the_dead_own_is_removed(node, dead_tag):
    living, dead = scratch.create("living-1"), scratch.create("dead-1")
    (dead / "owner").write_text(dead_tag, encoding="utf-8")
    (dead / "home").mkdir()
    nest(dead / "home", 1200)
    torn = scratch.create("torn-1")
    (torn / "owner").write_text("", encoding="utf-8")
    engine = Engine(
        scratch.engine_dir(),
        {"id": "a", "attempt": "dead-1", "owner": dead_tag},
        {"id": "b", "attempt": "living-1", "owner": owner_tag()},
        {"id": "c", "attempt": "elsewhere-1", "owner": "another/host/0-1/1/1"},
    )
    cleaned = cleanup.clean_up(engine)
    assert cleaned == cleanup.Cleaned(("container dead-1", "scratch directory dead-1"))
    assert cleaned.said[0] == "removed container dead-1, left behind by a run that was killed"
    assert [c["id"] for c in engine.containers] == ["b", "c"]
    assert living.is_dir()
    assert torn.is_dir()
    assert not dead.exists()
    assert cleanup.clean_up(engine) == cleanup.Cleaned()


class Stubborn(Engine):
    """Cannot remove one of its containers."""

    tried = 0

    def remove(self, name: str) -> None:
        if name == "stuck":
            self.tried += 1
            raise InfraError("container stuck cannot be removed: resume failed")
        super().remove(name)


def test_what_cannot_be_removed_is_said_and_the_rest_is_removed(node, dead_tag, monkeypatch):
    dead = scratch.create("dead-1")
    (dead / "owner").write_text(dead_tag, encoding="utf-8")
    made = ({"id": id, "attempt": id, "owner": dead_tag} for id in ("stuck", "other"))
    engine = Stubborn(scratch.engine_dir(), *made)
    cleaned = cleanup.clean_up(engine)
    assert cleaned.removed == ("container other", "scratch directory dead-1")
    (said,) = cleaned.left
    assert "container stuck cannot be removed: resume failed" in said
    assert said in cleaned.said
    # The engine may need minutes to say so: the next runs do not wait for it.
    assert cleanup.clean_up(engine) == cleanup.Cleaned(left=(said,))
    assert engine.tried == 1
    monkeypatch.setattr(cleanup, "_AGAIN_S", 0)
    assert cleanup.clean_up(engine).left == (said,)
    assert engine.tried == 2


def test_a_removal_that_was_killed_is_finished_by_the_next_start(node, dead_tag, monkeypatch):
    folder = scratch.create("dead-1")
    (folder / "owner").write_text(dead_tag, encoding="utf-8")
    (folder / "home").mkdir()
    calls = []
    monkeypatch.setattr(scratch, "remove_trees", lambda *paths: calls.append(paths))
    scratch.remove(folder)
    assert calls == [(folder / "home",), (folder,)]
    monkeypatch.undo()
    monkeypatch.setattr(scratch.tempfile, "gettempdir", lambda: str(node))
    cleaned = cleanup.clean_up(Engine(scratch.engine_dir()))
    assert cleaned.removed == ("scratch directory dead-1",)


def test_a_name_used_before_starts_empty(node):
    (scratch.create("a-1") / "rest").write_text("x", encoding="utf-8")
    assert [p.name for p in scratch.create("a-1").iterdir()] == ["owner"]


def test_odd_names_are_names(tmp_path):
    odd = tmp_path / "-rf"
    odd.mkdir()
    keep = tmp_path / "keep"
    keep.mkdir()
    scratch.remove_trees(odd)
    scratch.remove_trees()
    assert [p.name for p in tmp_path.iterdir()] == ["keep"]


def test_two_that_clean_up_do_so_one_after_the_other(node):
    engine = Engine(scratch.engine_dir())
    with scratch.node_lock(engine.workdir, "clean-up"):
        code = (
            "import sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
            "from agentsweep.containers import cleanup\n"
            "from agentsweep.host import scratch\n"
            "class Engine:\n"
            "    workdir = scratch.engine_dir()\n"
            "    def owned(self): return []\n"
            "print(cleanup.clean_up(Engine()).said)"
        )
        other = subprocess.Popen([sys.executable, "-c", code, str(node)], stdout=subprocess.PIPE)
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(0.5)
    assert other.communicate(timeout=20)[0] == b"[]\n"
