"""Watching an agent to its end. Its process is a real one of this host; services, cgroup and disk
are fakes."""

import os
import signal
import subprocess
import threading
import time
from types import SimpleNamespace

import pytest
from run_parts import (
    CELL,
    EFFECTIVE,
    FakeReader,
    attempt_run,
    disk_watch,
    gateway,
    sampler,
    services,
    sleeping,
    started,
    verified,
)

from agentsweep.errors import InfraError, LastingError
from agentsweep.runs import agent_watch, watch
from agentsweep.runs.watch import GatewayStatus


@pytest.fixture
def scene(tmp_path):
    """An agent that sleeps in a container that sleeps; `see` watches it under a job's timers."""

    class Scene:
        def __init__(self):
            self.said: list[str] = []
            self.agent, self.client, self.init = sleeping(), sleeping(), sleeping()
            self.disk, self.output = disk_watch(), SimpleNamespace(cut=False)
            self.sampler, self.gateway = sampler(), gateway()
            self.reader = FakeReader(tmp_path)
            self.reader.processes = {self.agent.pid, self.init.pid}

        def see(self, pid=-1, **job):
            (tmp_path / "api.jsonl").touch()
            run = attempt_run(tmp_path, self.said, **job)
            begin_ns = time.monotonic_ns()
            watched = agent_watch.to_the_end(
                run, services(self.sampler, self.gateway), started(self.init.pid),
                verified(self.reader), self.disk, self.client, (self.output,),
                self.agent.pid if pid == -1 else pid,
            )  # fmt: skip
            assert begin_ns < watched.end_ns <= time.monotonic_ns()
            return watched

    made = Scene()
    yield made
    for process in (made.agent, made.client, made.init):
        process.kill()
        process.wait()


def after(seconds: float, process: "subprocess.Popen[bytes]") -> None:
    """Kill a process a little later."""
    threading.Timer(seconds, process.kill).start()


def test_an_agent_that_ends_by_itself(scene):
    after(0.1, scene.agent)
    watched = scene.see()
    assert (watched.stopped_by, watched.client_first) == (None, False)


def test_a_client_that_ends_before_its_agent_is_told(scene):
    after(0.1, scene.client)
    assert scene.see().client_first
    # One whose agent was never seen says nothing of the order.
    assert not scene.see(pid=None).client_first


def test_the_wall_limit_ends_it_softly(scene):
    watched = scene.see(timeout_s=0.3)
    assert watched.stopped_by == "timed_out"
    assert scene.agent.wait(5) == -signal.SIGTERM
    assert scene.said == [f"{CELL}: timed_out; ending the agent"]


def test_one_that_ignores_term_is_killed_after_its_grace(scene):
    script = "trap '' TERM; echo; while :; do sleep 0.1; done"
    scene.agent.kill()
    scene.agent.wait()
    scene.agent = subprocess.Popen(
        ["bash", "-c", script], stdout=subprocess.PIPE, start_new_session=True
    )
    scene.agent.stdout.readline()
    scene.reader.processes = {scene.agent.pid, scene.init.pid}
    begin = time.monotonic()
    assert scene.see(timeout_s=0.2, grace_s=0.6).stopped_by == "timed_out"
    assert 0.8 <= time.monotonic() - begin < 10
    assert scene.agent.wait(5) == -signal.SIGKILL
    assert scene.init.poll() is None


def test_an_agent_that_was_not_found_is_killed_with_its_container(scene):
    assert scene.see(pid=None, timeout_s=0.2).stopped_by == "timed_out"
    assert scene.agent.wait(5) == -signal.SIGKILL


def test_nothing_happens_for_too_long(scene):
    begin = time.monotonic()
    assert scene.see(stall_s=1.2, grace_s=0.5).stopped_by == "stalled"
    assert 1.2 < time.monotonic() - begin < 10


def test_a_tool_at_work_is_no_stall(scene):
    scene.sampler._answers["status"] = {"active_calls": 1, "gone": False}
    assert scene.see(stall_s=1.1, timeout_s=2.5).stopped_by == "timed_out"


def test_a_gateway_that_is_lost_ends_it(scene):
    lost = GatewayStatus(scene.gateway)
    lost.lost = "it gave no answer"
    run = attempt_run(scene.reader.paths["memory"], timeout_s=5)
    quiet = SimpleNamespace(quiet_s=lambda now: 0)
    assert agent_watch.limit_reached(run, lost, quiet, 0, 1) == "gateway_lost"
    assert agent_watch.limit_reached(run, GatewayStatus(scene.gateway), quiet, 0, 1) is None
    # The wall limit goes before, and stalls before it.
    assert agent_watch.limit_reached(run, lost, quiet, 0, 6) == "timed_out"
    still = SimpleNamespace(quiet_s=lambda now: 61)
    assert agent_watch.limit_reached(run, lost, still, 0, 1) == "stalled"


def test_a_container_that_has_gone_ends_the_watch(scene):
    scene.sampler._answers["status"] = {"active_calls": 0, "gone": True}
    watched = scene.see()
    assert (watched.stopped_by, watched.client_first) == (None, False)
    assert scene.agent.poll() is None


def test_a_limit_that_changes_is_seen_while_the_agent_runs(scene):
    scene.reader = FakeReader(scene.reader.paths["memory"], EFFECTIVE, EFFECTIVE | {"pids": 1})
    begin = time.monotonic()
    with pytest.raises(InfraError, match="pids was 4096 and became 1 during the run"):
        scene.see()
    # Looked at each second.
    assert time.monotonic() - begin < 4
    assert scene.reader.looks == 2


def test_a_pause_from_outside_is_no_data(scene, monkeypatch):
    monkeypatch.setattr(watch.Freezer, "frozen", lambda _: True)
    with pytest.raises(InfraError, match="was paused from outside during the run"):
        scene.see()


def test_a_disk_that_others_fill_is_no_data(scene):
    scene.disk.host = "the disk that holds /x is full"
    scene.disk.over = "the run filled it"
    with pytest.raises(LastingError, match="is full: free some space and run again"):
        scene.see()


@pytest.mark.parametrize("by", ["budget", "output"])
def test_a_run_that_writes_too_much_is_killed_at_once(scene, by):
    scene.disk.over = "it wrote too much" if by == "budget" else None
    scene.output.cut = by == "output"
    assert scene.see().stopped_by == "disk_full"
    assert scene.agent.wait(5) == -signal.SIGKILL
    assert scene.init.poll() is None
    assert scene.said[0].endswith("disk_full; ending the agent")


def test_a_process_that_has_gone_needs_no_signal(scene):
    scene.agent.kill()
    scene.agent.wait()
    with watch.exit_watch(os.getpid()) as exits:
        agent_watch.end_agent(scene.reader, scene.init.pid, scene.agent.pid, exits, 0.01)
    assert scene.init.poll() is None
