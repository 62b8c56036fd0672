"""Files that go, and engine clients that die, while an attempt is made: nothing of it is lost."""

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from agentsweep import seal
from agentsweep.runs import store

pytestmark = pytest.mark.containers

WAIT = {
    "turns": [
        {"tools": [{"Bash": {"command": "echo a > made.txt; sleep 4", "description": "Wait"}}]},
        {"text": "Finished."},
    ]
}


def gone(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()


def emptied(path: Path) -> None:
    os.truncate(path, 0)


@pytest.mark.parametrize(
    ("name", "lose"),
    [
        ("samples.arrow", gone),
        ("api.jsonl", emptied),
        ("marks.jsonl", gone),
        ("session", gone),
    ],
)
def test_an_attempt_that_loses_a_file_is_no_data(lab, name, lose):
    runner = lab.start(WAIT)
    lab.wait_for_tool()
    (path,) = lab.store.glob(f"*/attempt-1.partial/{name}")
    lose(path)
    assert runner.wait(120) == 1
    assert lab.attempts() == ["attempt-1.failed"]
    said = (lab.folder / "log").read_text(encoding="utf-8").splitlines()[-1]
    assert f"{name} " in said and "something outside" in said
    assert lab.run(WAIT)["outcome"] == "completed"
    (sealed,) = lab.store.glob("*/attempt-2")
    assert seal.check(sealed, store.PUBLISHED).state == seal.WHOLE


def clients(runner: int, words: str) -> list[int]:
    """The runner's engine clients whose arguments have these words."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            stat = (path / "stat").read_bytes().rpartition(b")")[2].split()
            if int(stat[1]) == runner and words.encode() in (path / "cmdline").read_bytes():
                found.append(int(path.name))
    return found


@pytest.mark.parametrize("script", ["git hash-object --no-filters", "git write-tree"])
def test_a_client_that_is_killed_while_the_patch_is_made_loses_nothing(lab, script):
    """The first script looks at the work tree, the second makes the patch."""
    runner, struck = lab.start(WAIT), []
    while runner.poll() is None:
        for pid in clients(runner.pid, script):
            if not struck:
                os.kill(pid, signal.SIGKILL)
                struck.append(pid)
        time.sleep(0.002)
    assert struck
    assert runner.returncode == 0
    assert lab.result()["patch"]["status"] == "ok"
    assert "+a" in (lab.out / "patch.diff").read_text(encoding="utf-8")
    assert lab.attempts() == ["attempt-1"]


def test_a_sealed_run_that_was_changed_is_neither_recalled_nor_touched(lab):
    lab.run(WAIT)
    shutil.rmtree(lab.out)
    (attempt,) = lab.store.glob("*/attempt-1")
    for name in ("patch.diff", "api.jsonl", "marks.jsonl", "samples.arrow"):
        content = (attempt / name).read_bytes()
        (attempt / name).write_bytes(content[: len(content) // 2])
        done = lab.run(WAIT, check=False)
        assert done.returncode == 1 and f"{attempt}/{name} has" in done.stderr
        assert "`agentsweep rerun task~task/" in done.stderr
        assert lab.attempts() == ["attempt-1"] and not lab.out.exists()
        (attempt / name).write_bytes(content)
    assert lab.run(WAIT)["outcome"] == "completed"
