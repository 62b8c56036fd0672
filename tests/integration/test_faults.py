"""Things that go wrong around a run: nothing sealed is lost, nothing of ours is left."""

import os
import signal
import subprocess
import time
from pathlib import Path

import engine_in_use
import pytest

from agentsweep.containers import strays
from agentsweep.containers.engine import ContainerSpec
from conftest import DONE, PATIENCE, SLEEP, bash, stop

QUICK = {"turns": [bash("sleep 2"), DONE]}


def test_a_killed_runner_is_cleaned_up_after_by_the_next(lab):
    runner = lab.start(QUICK)
    lab.wait_for_tool()
    stop(runner, signal.SIGKILL)
    assert lab.leftovers()["containers"]
    lab.run(QUICK)
    assert lab.attempts() == ["attempt-1.interrupted", "attempt-2"]
    # What the killed run had written down is still there.
    assert list(lab.store.glob("*/attempt-1.interrupted/session/projects/*/*.jsonl"))
    assert list(lab.store.glob("*/attempt-1.interrupted/samples.arrow"))
    assert lab.nothing_left(), lab.leftovers()


@pytest.mark.podman("it has a monitor for each container, which outlives the start")
def test_a_start_that_is_killed_half_way_leaves_no_container(images):
    """The engine then believes that it never started, and would forget it."""
    engine = engine_in_use.find()
    name = f"agentsweep-half-{os.getpid()}"
    created = engine.create(ContainerSpec(name, images.tag, user="0:0"))
    try:
        client = subprocess.Popen(engine.command("start", created), cwd=engine.workdir)
        while not any(monitor.name == name for monitor in strays.monitors()):
            assert client.poll() is None
        stop(client)
    finally:
        engine.remove(name)
    time.sleep(0.5)
    assert not engine.exists(name)
    assert not any(monitor.name == name for monitor in strays.monitors())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_runner_leaves_nothing(lab, number):
    runner = lab.start(SLEEP)
    lab.wait_for_tool()
    assert stop(runner, number) == 128 + number
    assert lab.nothing_left(), lab.leftovers()
    assert lab.attempts() == ["attempt-1.interrupted"]
    assert not lab.out.exists()
    assert f"interrupted by {number.name}" in (lab.folder / "log").read_text(encoding="utf-8")


def test_a_container_removed_from_outside_is_no_data(lab):
    runner = lab.start(SLEEP)
    lab.wait_for_tool()
    (name,) = lab.leftovers()["containers"]
    engine_in_use.ask("rm", "--force", name)
    assert runner.wait(30 * PATIENCE) == 1
    log = (lab.folder / "log").read_text(encoding="utf-8")
    assert "went away" in log
    assert "Traceback" not in log
    assert lab.attempts() == ["attempt-1.failed"]
    lab.run(QUICK)
    assert lab.nothing_left(), lab.leftovers()


def test_two_runs_of_one_cell_at_once_make_one_run(lab):
    first, second = lab.start(QUICK), lab.start(QUICK)
    assert (first.wait(60 * PATIENCE), second.wait(60 * PATIENCE)) == (0, 0)
    assert lab.attempts() == ["attempt-1"]
    assert (lab.folder / "log").read_text(encoding="utf-8").count("recalled sealed attempt") == 1
    assert lab.nothing_left(), lab.leftovers()


def test_a_second_request_recalls(lab):
    first = lab.run(QUICK)
    lab.out.rename(lab.folder / "gone")
    begin = time.monotonic()
    assert lab.run(QUICK) == first
    assert time.monotonic() - begin < 9 * PATIENCE
    assert lab.attempts() == ["attempt-1"]


def test_on_miss_fail_never_runs(lab):
    done = lab.run(QUICK, agent={"on_miss": "fail"}, check=False)
    assert done.returncode == 1
    assert "agent.on_miss is `fail`" in done.stderr
    assert lab.attempts() == []
    lab.run(QUICK)
    assert lab.run(QUICK, agent={"on_miss": "fail"})["outcome"] == "completed"


@pytest.fixture
def small_disk(lab):
    """A file system of 100 MB for the store."""
    lab.store.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=100m", "none", str(lab.store)]
    if os.getuid() != 0 or subprocess.run(mount, check=False).returncode != 0:
        if os.environ.get("CI"):
            pytest.fail("CI must be able to mount a small file system")
        pytest.skip("NOT RUN: mounting a small file system needs root")
    yield lab.store
    subprocess.run(["umount", str(lab.store)], check=True)


def test_a_disk_that_fills_up_loses_nothing_sealed(lab, small_disk):
    sealed = lab.run(QUICK)
    other = {"turns": [bash("sleep 3"), DONE]}
    runner = lab.start(other)
    lab.wait_for_tool()
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space"), filler.open("wb") as out:
        while True:
            out.write(b"\0" * 2**20)
    assert runner.wait(60 * PATIENCE) == 1
    log = (lab.folder / "log").read_text(encoding="utf-8")
    assert "disk" in log
    assert "Traceback" not in log
    done = lab.run({"turns": [bash("sleep 4"), DONE]}, check=False)
    assert "free at least" in done.stderr or "is full" in done.stderr
    filler.unlink()
    assert lab.nothing_left(), lab.leftovers()
    lab.run(other)
    assert lab.run(QUICK) == sealed


def test_the_engine_leaves_no_oom_file_in_the_working_directory(lab):
    lab.run({"turns": [bash("head -c 900000000 /dev/zero | tail >/dev/null"), DONE]})
    root = Path(__file__).parents[2]
    assert not (root / "oom").exists()
    assert not (lab.folder / "oom").exists()
