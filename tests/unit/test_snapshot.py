"""Patches between two states of a work tree, with the real git and no container around it."""

import os
import subprocess

import pytest

from agentsweep import snapshot, snapshot_scripts
from agentsweep.engine import ExecFailed, last_line
from agentsweep.errors import InfraError


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    """In place of root's directory in an image."""
    path = tmp_path / "store of the start.git"
    monkeypatch.setattr(snapshot_scripts, "STORE", str(path))
    return path


class Local:
    """Runs on this machine what an engine would run in a container."""

    def exec(self, _, *argv, user=None, workdir=None, check=True, timeout_s=60):
        done = subprocess.run(
            argv,
            cwd=workdir,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            encoding="utf-8",
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    def exec_to_file(self, _, target, *argv, user=None, given=b"", env=None, timeout_s=60):
        done = subprocess.run(
            argv,
            input=given,
            capture_output=True,
            timeout=min(timeout_s, 60),
            check=False,
            env=os.environ | env,
        )
        target.write_bytes(done.stdout)
        if done.returncode != 0:
            raise ExecFailed(last_line(done.stderr.decode()), done.returncode)
        return done.stderr.decode()


def git(*arguments, cwd) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(
        ["git", *identity, *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
        encoding="utf-8",
    )
    return done.stdout


@pytest.fixture
def tree(tmp_path):
    tree = tmp_path / "work tree"
    tree.mkdir()
    (tree / "a.txt").write_text("one\n", encoding="utf-8")
    (tree / "b.txt").write_text("two\n", encoding="utf-8")
    (tree / ".gitignore").write_text("*.log\n", encoding="utf-8")
    (tree / "kept.log").write_text("in git although it is ignored\n", encoding="utf-8")
    git("init", "-q", cwd=tree)
    git("add", "--all", "--force", cwd=tree)
    git("commit", "-qm", "start", cwd=tree)
    return tree


def start(tree) -> dict:
    return snapshot.take_start(Local(), "c", "0:0", str(tree))


def patch(tree, begin, tmp_path) -> tuple[list[str] | None, str]:
    target = tmp_path / "patch.diff"
    unread = snapshot.write_patch(Local(), "c", "0:0", str(tree), begin, target)
    return unread, target.read_text(encoding="utf-8")


def names(text: str) -> set[str]:
    lines = (line for line in text.splitlines() if line.startswith("diff --git "))
    return {line.split()[2].removeprefix("a/") for line in lines}


def test_nothing_changed_is_an_empty_patch(tree, tmp_path):
    assert patch(tree, start(tree), tmp_path) == ([], "")


def test_new_changed_deleted_and_committed_files_are_in_it(tree, tmp_path):
    begin = start(tree)
    (tree / "a.txt").write_text("more\n", encoding="utf-8")
    git("commit", "-qam", "hidden in a commit", cwd=tree)
    (tree / "b.txt").unlink()
    (tree / "c.txt").write_text("new\n", encoding="utf-8")
    (tree / "staged.txt").write_text("new\n", encoding="utf-8")
    git("add", "staged.txt", cwd=tree)
    (tree / "ignored.log").write_text("x", encoding="utf-8")
    (tree / ".claude").mkdir()
    (tree / ".claude" / "settings.json").write_text("{}", encoding="utf-8")
    unread, text = patch(tree, begin, tmp_path)
    assert unread == []
    assert names(text) == {"a.txt", "b.txt", "c.txt", "staged.txt"}
    # The agent's own staging area is as it was.
    assert "A  staged.txt" in git("status", "--short", cwd=tree)


def test_the_patch_makes_the_end_out_of_the_start(tree, tmp_path):
    begin = start(tree)
    copy = tmp_path / "copy"
    git("clone", "-q", str(tree), str(copy), cwd=tmp_path)
    (tree / "a.txt").write_bytes(bytes(range(256)))
    (tree / "b.txt").rename(tree / "moved.txt")
    (tree / "moved.txt").chmod(0o755)
    target = tmp_path / "patch.diff"
    snapshot.write_patch(Local(), "c", "0:0", str(tree), begin, target)
    git("apply", str(target), cwd=copy)
    assert (copy / "a.txt").read_bytes() == bytes(range(256))
    assert (copy / "moved.txt").stat().st_mode & 0o100
    assert not (copy / "b.txt").exists()


@pytest.mark.parametrize("flag", ["--assume-unchanged", "--skip-worktree"])
def test_flags_of_the_index_hide_nothing(tree, tmp_path, flag):
    begin = start(tree)
    git("update-index", flag, "a.txt", cwd=tree)
    (tree / "a.txt").write_text("more\n", encoding="utf-8")
    _, text = patch(tree, begin, tmp_path)
    assert names(text) == {"a.txt"}


def test_configuration_does_not_change_the_patch(tree, tmp_path):
    begin = start(tree)
    (tree / "a.txt").write_text("more\n", encoding="utf-8")
    (tree / "z ü.txt").write_text("new\n", encoding="utf-8")
    _, before = patch(tree, begin, tmp_path)
    order = tmp_path / "order"
    order.write_text("z*\n", encoding="utf-8")
    for name, value in (
        ("diff.noprefix", "true"),
        ("diff.mnemonicPrefix", "true"),
        ("diff.orderFile", str(order)),
        ("core.quotePath", "false"),
        ("diff.context", "0"),
        ("diff.algorithm", "patience"),
        ("color.ui", "always"),
        ("diff.external", "false"),
        ("core.hooksPath", "/nonexistent"),
        ("core.fsmonitor", "false; exit 1"),
    ):
        git("config", name, value, cwd=tree)
    assert patch(tree, begin, tmp_path) == ([], before)


def test_an_empty_repository_inside_loses_only_itself(tree, tmp_path):
    begin = start(tree)
    git("init", "-q", "inner", cwd=tree)
    (tree / "a.txt").write_text("more\n", encoding="utf-8")
    unread, text = patch(tree, begin, tmp_path)
    assert names(text) == {"a.txt"}
    assert any("inner" in line for line in unread)


def test_a_repository_that_is_gone_says_nothing(tree, tmp_path):
    begin = start(tree)
    subprocess.run(["rm", "-rf", str(tree / ".git")], check=True)
    with pytest.raises(InfraError, match="not a git repository"):
        patch(tree, begin, tmp_path)


def test_a_directory_without_git_gets_one_outside(tmp_path, monkeypatch):
    monkeypatch.setattr(snapshot, "OUTSIDE_GIT_DIR", str(tmp_path / "start.git"))
    tree = tmp_path / "plain"
    tree.mkdir()
    (tree / "old.txt").write_text("old\n", encoding="utf-8")
    begin = start(tree)
    assert begin["git_dir"] == str(tmp_path / "start.git")
    assert begin["start_commit"] is None
    assert not (tree / ".git").exists()
    (tree / "new.txt").write_text("new\n", encoding="utf-8")
    assert names(patch(tree, begin, tmp_path)[1]) == {"new.txt"}


def test_without_git_nothing_is_said(tmp_path):
    none = {"git_dir": None, "start_commit": None, "start_tree": None}
    assert patch(tmp_path, none, tmp_path) == (None, "")
