"""What stays when a container's monitor is killed, or when something outside pauses it."""

import contextlib
import os
import signal
import time
from pathlib import Path

import engine_in_use
import pytest

from agentsweep.containers import cleanup, strays
from agentsweep.containers.engine import LABEL, OWNER_LABEL, ContainerSpec
from agentsweep.host.processes import owner_tag
from conftest import DONE, PATIENCE, bash

pytestmark = pytest.mark.podman("Docker has no monitor of a container's own")


def left_of(container_id: str) -> list[Path]:
    return [*strays.states(container_id), *strays.cgroups_of(container_id)]


def monitor_of(container_id: str) -> int:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            if Path(words[0]).name == "conmon" and container_id in words:
                return int(path.parent.name)
    raise AssertionError(f"no monitor of {container_id}")


@pytest.mark.parametrize("killed", [("conmon",), ("conmon", "init"), ("init", "conmon")])
def test_nothing_is_left_of_a_container_whose_monitor_was_killed(images, killed):
    engine = engine_in_use.find()
    name = f"agentsweep-test-monitor-{os.getpid()}"
    labels = {LABEL: name, OWNER_LABEL: owner_tag()}
    try:
        container = engine.start(engine.create(ContainerSpec(name, images.tag, labels)), name)
        pids = {"conmon": monitor_of(container.id), "init": container.pid}
        for what in killed:
            os.kill(pids[what], signal.SIGKILL)
        assert left_of(container.id)
    finally:
        engine.remove(name)
    assert left_of(container.id) == []
    assert not engine.exists(name)
    assert container.id not in {note.container_id for note in strays.noted(engine.workdir)}


def test_what_only_the_runtime_still_knows_is_removed_by_the_next_start(images):
    engine = engine_in_use.find()
    name = f"agentsweep-test-forgotten-{os.getpid()}"
    container = engine.start(
        engine.create(ContainerSpec(name, images.tag, {LABEL: name, OWNER_LABEL: owner_tag()})),
        name,
    )
    os.kill(monitor_of(container.id), signal.SIGKILL)
    # As where the runner is killed between the two.
    engine_in_use.ask("rm", "--force", "--time", "0", name)
    assert left_of(container.id)
    # Of a process that has ended, and only now: the clean-up may be that of another test's run.
    dead = owner_tag().rpartition("/")[0] + "/1"
    strays.note(engine.workdir, strays.Note(container.id, name, dead))
    cleanup.clean_up(engine)
    deadline = time.monotonic() + 30 * PATIENCE
    while left_of(container.id) and time.monotonic() < deadline:
        # Another test's run may be the one that removes it.
        time.sleep(0.2)
    assert left_of(container.id) == []


def test_a_container_that_was_paused_blocks_no_later_run(lab):
    limits = {"timeout_s": 20 * PATIENCE, "grace_s": 1}
    process = lab.start({"turns": [bash("sleep 120"), DONE]}, agent=limits)
    lab.wait_for_tool()
    (name,) = lab.leftovers()["containers"]
    engine_in_use.ask("pause", name)
    assert process.wait(120 * PATIENCE) != 0
    assert lab.attempts() == ["attempt-1.failed"]
    assert lab.nothing_left()


def test_a_paused_container_that_somebody_thawed_can_be_removed(images):
    engine = engine_in_use.find()
    name = f"agentsweep-test-thawed-{os.getpid()}"
    labels = {LABEL: name, OWNER_LABEL: owner_tag()}
    try:
        container = engine.start(engine.create(ContainerSpec(name, images.tag, labels)), name)
        engine_in_use.ask("pause", name)
        for path in strays.cgroups_of(container.id):
            with contextlib.suppress(OSError):
                (path / "freezer.state").write_text("THAWED", encoding="utf-8")
    finally:
        engine.remove(name)
    assert not engine.exists(name)
    assert left_of(container.id) == []
