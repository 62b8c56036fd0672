"""An agent from its start to what it came to. It is a shell script of this host, in place of an
agent in a container; the container's cgroup, its engine and both services are fakes."""

import contextlib
import os
import subprocess
import time

import pytest
from run_parts import (
    FakeEngine,
    FakeReader,
    FakeService,
    agent_script,
    attempt_run,
    disk_watch,
    gateway,
    prepared,
    reading,
    sampler,
    services,
    sleeping,
    started,
    stream_line,
    verified,
)

from agentsweep.errors import InfraError
from agentsweep.host.processes import ServiceLost
from agentsweep.runs import agent_process, watch
from agentsweep.runs.agent_process import FoundAgent

RESULT = stream_line(type="result", is_error=False, terminal_reason="completed")


class Lab:
    """A run whose container is a process that sleeps; `run` starts an agent that does something."""

    def __init__(self, folder, stack, monkeypatch):
        self.folder, self.stack = folder, stack
        self.said: list[str] = []
        self.init = sleeping()
        self.reader = FakeReader(folder)
        self.reader.processes.add(self.init.pid)
        self.disk_watch = disk_watch()
        self.sampler = sampler(begin=self.begin, end=lambda: reading(time.monotonic_ns()))
        self.gateway = gateway()
        self.job: dict = {}
        self.begin_ns = 0
        popen = subprocess.Popen

        def noted(*arguments, **options):
            client = popen(*arguments, **options)
            self.reader.processes.add(client.pid)
            return client

        monkeypatch.setattr(agent_process.subprocess, "Popen", noted)

    def begin(self) -> dict:
        self.begin_ns = time.monotonic_ns()
        return reading(self.begin_ns) | {"utc_ns": time.time_ns()}

    def run(self, does: str, notes: bool = True):
        self.engine = FakeEngine(self.folder, "")
        ready = prepared(self.engine, self.folder / "scratch")
        note = ready.scratch / "marks" / "agent.pid"
        self.engine.script = agent_script(note, does) if notes else does
        run = attempt_run(self.folder, self.said, **self.job)
        (run.path / "api.jsonl").touch()
        self.started = started(self.init.pid)
        return agent_process.run_agent(
            run, ready, services(self.sampler, self.gateway), self.started,
            verified(self.reader), self.disk_watch, self.stack,
        )  # fmt: skip


@pytest.fixture
def lab(tmp_path, monkeypatch):
    with contextlib.ExitStack() as stack:
        made = Lab(tmp_path, stack, monkeypatch)
        yield made
    made.init.kill()
    made.init.wait()


def test_what_an_agent_came_to(lab):
    agent_run = lab.run(f"cat > got; echo {RESULT}; echo odd >&2; exec sleep 0.4")
    assert (lab.folder / "got").read_text(encoding="utf-8") == "Mend it."
    assert (agent_run.exit_code, agent_run.stopped_by, agent_run.alive) == (0, None, True)
    assert agent_run.claims["result"]["terminal_reason"] == "completed"
    assert (lab.folder / "stderr.txt").read_text(encoding="utf-8") == "odd\n"
    assert agent_run.container_pids == {lab.init.pid}
    assert agent_run.pid in lab.reader.processes and agent_run.leftovers == 0
    assert agent_run.gateway["exchanges"] == 1
    # From the note of its process id to its end, on both clocks.
    assert 0.3e9 < agent_run.end_ns - agent_run.start_ns < 10e9
    assert agent_run.start_ns >= lab.begin_ns == agent_run.begin["t_ns"]
    offset_ns = agent_run.begin["utc_ns"] - agent_run.begin["t_ns"]
    assert agent_run.start_utc_ns - agent_run.start_ns == offset_ns
    assert agent_run.end_utc_ns - agent_run.end_ns == offset_ns


def test_the_engine_is_asked_as_the_agents_user_in_the_work_tree(lab):
    lab.run("true")
    assert lab.engine.calls[0] == (
        "exec",
        "the-id",
        "/run/agentsweep/start",
        "1000:1000",
        "/testbed",
    )


def test_counters_are_read_before_the_agent_and_after_all_of_it_is_dead(lab):
    other, alive = sleeping(), []
    lab.reader.processes.add(other.pid)

    def end() -> dict:
        alive.extend(lab.reader.pids())
        return reading(time.monotonic_ns())

    lab.sampler._answers["end"] = end
    agent_run = lab.run("true")
    asked = [message["cmd"] for message in lab.sampler.asked]
    assert (asked[0], asked[-1]) == ("begin", "end")
    assert (agent_run.leftovers, other.wait(5)) == (1, -9)
    # A zombie of this test is still in the table of processes, and runs no program.
    assert alive == [lab.init.pid]
    assert lab.init.poll() is None


def test_an_exit_code_is_the_agents_own(lab):
    agent_run = lab.run("exit 3")
    assert (agent_run.exit_code, agent_run.claims["result"]) == (3, None)


def test_a_container_that_goes_takes_the_exit_code_with_it(lab):
    lab.sampler._answers["status"] = {"active_calls": 0, "gone": True}

    def die():
        lab.init.kill()
        lab.init.wait()
        return reading(time.monotonic_ns())

    lab.sampler._answers["end"] = die
    agent_run = lab.run("exit 137")
    assert (agent_run.exit_code, agent_run.alive) == (None, False)


def test_a_gateway_that_was_lost_is_what_the_agent_failed_of(lab):
    lost = ServiceLost("it gave no answer", by_host=False)
    lab.gateway._answers["status"] = lost
    agent_run = lab.run("exit 1")
    assert agent_run.gateway["lost"] == "it gave no answer"
    lab.gateway._answers["status"] = ServiceLost("it was stopped", by_host=True)
    with pytest.raises(InfraError, match="it was stopped"):
        lab.run("exit 1")


def test_an_agent_that_never_started_is_no_data(lab):
    with pytest.raises(InfraError, match=r"the agent did not start \(exit code 9\): no such"):
        lab.run("echo no such file >&2; exit 9", notes=False)


def test_a_run_that_filled_its_disk_is_cut(lab):
    lab.disk_watch.over = "it wrote too much"
    agent_run = lab.run("sleep 60")
    assert agent_run.stopped_by == "disk_full"
    assert lab.disk_watch.stopped
    assert not (lab.folder / "scratch" / "home").exists()


def test_an_output_that_is_too_long_ends_the_run_as_disk_full(lab, monkeypatch):
    monkeypatch.setattr(agent_process, "_STDOUT_BYTES", 100)
    agent_run = lab.run("yes | head -c 100000; sleep 60")
    assert agent_run.stopped_by == "disk_full"
    assert lab.disk_watch.over == "the agent's output is longer than what is kept of it"
    assert (lab.folder / "stream.jsonl").stat().st_size == 100


def test_when_it_started():
    begin = {"t_ns": 1000, "utc_ns": 5000}
    assert agent_process.start_of(FoundAgent(1, 5500, 2000), begin) == (1500, 4000)
    # Not before the counters were read, nor after it was seen, whatever a coarse clock says.
    assert agent_process.start_of(FoundAgent(1, 4000, 2000), begin) == (1000, 4000)
    assert agent_process.start_of(FoundAgent(1, 9000, 2000), begin) == (2000, 4000)
    assert agent_process.start_of(FoundAgent(None, None, 2000), begin) == (1000, 4000)


def test_a_note_gives_the_pid_on_the_host_and_the_start(tmp_path):
    note, run, reader = tmp_path / "agent.pid", attempt_run(tmp_path), FakeReader(tmp_path)
    note.write_text(f"{os.getpid()}\n", encoding="utf-8")
    reader.processes = {os.getpid()}
    agent = agent_process.read_note(run, reader, note)
    assert (agent.pid, agent.start_utc_ns) == (os.getpid(), note.stat().st_mtime_ns)
    assert agent.seen_ns <= time.monotonic_ns()
    # It has ended, or its container has.
    for gone in (set(), None):
        reader.processes = gone
        agent = agent_process.read_note(run, reader, note)
        assert agent.pid is None and agent.start_utc_ns is not None


def test_an_engine_that_hangs_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(agent_process, "_START_TIMEOUT_S", 0.05)
    client, run = sleeping(), attempt_run(tmp_path)
    try:
        with pytest.raises(InfraError, match=r"did not start within 0\.05 s"):
            agent_process.find_agent(run, FakeReader(tmp_path), tmp_path / "none", client)
    finally:
        agent_process.end_client(client)
    assert client.returncode == -9
    found = agent_process.find_agent(run, FakeReader(tmp_path), tmp_path / "none", client)
    assert (found.pid, found.start_utc_ns) == (None, None)


def test_a_client_that_does_not_end_says_nothing():
    client = sleeping()
    assert agent_process.exit_code(client, timeout_s=0.05) is None
    assert client.returncode == -9
    assert agent_process.exit_code(client) == -9


def test_answers_under_way_are_waited_for(monkeypatch):
    left = [2, 1, 0]

    def status() -> dict:
        return {"active": left.pop(0) if len(left) > 1 else left[0]}

    of_gateway = FakeService(status=status)
    assert agent_process.last_status(watch.GatewayStatus(of_gateway)) == {"active": 0}
    assert len(of_gateway.asked) == 3
    monkeypatch.setattr(agent_process, "_LAST_ANSWER_S", 0.05)
    hanging = FakeService(status={"active": 1})
    assert agent_process.last_status(watch.GatewayStatus(hanging)) == {"active": 1}
