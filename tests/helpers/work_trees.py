"""Work trees on this machine, looked at as an engine would in a container."""

import os
import subprocess
from pathlib import Path

from agentsweep.containers import git_snapshot, git_snapshot_scripts
from agentsweep.containers.client import last_line
from agentsweep.containers.engine import ExecFailed


def put_store_into(folder: Path, monkeypatch) -> Path:
    """The store of starts, in place of root's directory in an image."""
    path = folder / "store of the start.git"
    monkeypatch.setattr(git_snapshot_scripts, "STORE", str(path))
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


def start(tree) -> dict:
    return git_snapshot.take_start(Local(), "c", "0:0", str(tree))


def patch(tree, begin, tmp_path) -> tuple[list[str] | None, str]:
    target = tmp_path / "patch.diff"
    unread = git_snapshot.write_patch(Local(), "c", "0:0", str(tree), begin, target)
    return unread, target.read_text(encoding="utf-8")
