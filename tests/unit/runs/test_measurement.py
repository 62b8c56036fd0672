"""All steps of a run in their order, with an engine, a cgroup and services that are fakes, and an
agent that is a shell script of this host."""

import json
import subprocess
import time

import pytest
from run_parts import (
    EFFECTIVE,
    IMAGE,
    FakeEngine,
    FakeReader,
    agent_script,
    gateway,
    job_content,
    reading,
    sampler,
    sleeping,
    stream_line,
)

from agentsweep import typed_json
from agentsweep.containers.cleanup import Cleaned
from agentsweep.containers.engine import Container
from agentsweep.errors import InfraError
from agentsweep.runs import (
    agent_process,
    collect,
    container,
    limits_in_force,
    measurement,
    preflight,
    record,
    services,
)
from agentsweep.runs.job import Job
from agentsweep.runs.store import Store, spec_sha256

SPEC = json.dumps({"model": {"mode": "scripted"}, "protocol": 1})
RESULT = stream_line(type="result", is_error=False, terminal_reason="completed")
ANSWER = {
    "path": "/v1/messages", "kind": "main", "status": 200, "message_id": "m", "error": None,
    "stop_reason": "end_turn", "stream": False,
    "events": [[1, json.dumps({"content": [{"type": "text", "text": "done"}]})]],
}  # fmt: skip


class Lab:
    """A host on which nothing is real but the agent's process and the container's init."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.steps = folder, []
        self.init = sleeping()
        self.reader = FakeReader(folder)
        self.engine = FakeEngine(folder)
        self.does = f"echo {RESULT}; exec sleep 0.1"
        self.store = Store(folder / "store")
        self.said: list[str] = []
        self.log = [ANSWER]
        scratch, lab, popen = folder / "scratch", self, subprocess.Popen
        scratch.mkdir()

        def start(container_id, name):
            self.steps.append("start")
            return Container(container_id, name, self.init.pid)

        def client(*arguments, **options):
            made = popen(*arguments, **options)
            if arguments[0][:2] == ["bash", "-c"]:
                self.steps.append("agent")
                self.reader.processes = {made.pid, self.init.pid}
            return made

        def service(name, log, more=None):
            lab.steps.append(name)
            log.touch()
            if name == "agentsweep.gateway":
                made = gateway()
                text = "".join(json.dumps(line) + "\n" for line in self.log)
                (log.parent / "api.jsonl").write_text(text, encoding="utf-8")
                made.last_said = {"written": {"api.jsonl": {"bytes": len(text)}}}
                return made
            for kept in ("samples.arrow", "marks.jsonl"):
                (log.parent / kept).touch()
            written = {name: {"bytes": 0} for name in ("samples.arrow", "marks.jsonl")}
            summary = json.dumps({"written": written, "samples": 3})
            (scratch / "sampler.json").write_text(summary, encoding="utf-8")
            return sampler(
                begin=lambda: self.steps.append("begin") or reading(time.monotonic_ns()),
                end=lambda: self.steps.append("end") or reading(time.monotonic_ns()),
            )

        def verify(run, made):
            self.steps.append("verify")
            return verify_limits(run, made)

        def write_patch(engine, name, user, workdir, start, target):
            self.steps.append("patch")
            target.write_bytes(b"")
            return []

        verify_limits = limits_in_force.verify
        self.engine.start = start
        monkeypatch.setattr(preflight.engines, "find_engine", lambda *_: self.engine)
        monkeypatch.setattr(preflight.engines, "chosen", lambda *_: "podman")
        monkeypatch.setattr(preflight.limits, "check_host", lambda *_: None)
        monkeypatch.setattr(preflight.cleanup, "clean_up", self.cleaned)
        monkeypatch.setattr(preflight.invocation, "check_binary", lambda *_: None)
        monkeypatch.setattr(preflight.invocation, "warm", lambda *_: self.steps.append("warm"))
        monkeypatch.setattr(preflight.image_distribution, "ensure", lambda _, image, __: image)
        monkeypatch.setattr(preflight.image_check, "refuse_shell", lambda *_: None)
        monkeypatch.setattr(preflight.scratch, "create", lambda _: scratch)
        monkeypatch.setattr(services, "LineService", service)
        monkeypatch.setattr(measurement.limits_in_force, "verify", verify)
        monkeypatch.setattr(limits_in_force, "reader_for_pid", lambda _: self.reader)
        monkeypatch.setattr(agent_process.subprocess, "Popen", client)
        monkeypatch.setattr(collect.git_snapshot, "write_patch", write_patch)
        monkeypatch.setattr(container, "remove", lambda *_: self.steps.append("remove"))
        self.scratch = scratch

    def cleaned(self, _):
        return Cleaned(("container x",))

    def measure(self, **changes):
        note = self.scratch / "marks" / "agent.pid"
        self.engine.script = agent_script(note, self.does)
        job = Job.from_json(job_content(self.folder, **changes))
        key = spec_sha256(SPEC)
        with self.store.locked(key, SPEC):
            self.attempt = self.store.begin(key)
            return measurement.measure(
                self.attempt, job, SPEC, dict(IMAGE), self.said.append,
                lambda: self.steps.append("agent ended"),
            )  # fmt: skip


@pytest.fixture
def lab(tmp_path, monkeypatch):
    made = Lab(tmp_path, monkeypatch)
    yield made
    made.init.kill()
    made.init.wait()


def test_the_steps_are_those_of_the_page_and_in_its_order(lab):
    lab.measure()
    assert lab.steps == [
        "warm", "agentsweep.gateway", "agentsweep.sampler", "start", "verify", "begin", "agent",
        "end", "agent ended", "patch", "remove", "remove",
    ]  # fmt: skip
    assert not lab.scratch.exists()
    assert "removed container x, left behind by a run that was killed" in lab.said


def test_what_a_run_came_to_is_in_its_record(lab):
    made = lab.measure()
    assert (made.outcome, made.exit_code) == ("completed", 0)
    assert made.attempt_id == lab.attempt.id and made.spec == json.loads(SPEC)
    assert made.limits["effective"].items() >= EFFECTIVE.items()
    assert made.limits["requested"]["memory_bytes"] == 2**29
    assert (made.memory.peak_bytes, made.memory.peak_source) == (2**20, "watermark")
    assert made.counters.start["cpu_usage_usec"] < made.counters.end["cpu_usage_usec"]
    assert made.phases.keys() == {
        "pull_s", "fix_s", "preflight_s", "create_s", "start_s", "verify_s", "exec_s", "agent_s",
        "collect_s", "services_s", "teardown_s",
    }  # fmt: skip
    assert made.phases["pull_s"] == 1.5
    assert made.phases["agent_s"] == round((made.agent_end_ns - made.agent_start_ns) / 1e9, 4)
    assert made.wall_s >= made.phases["agent_s"]
    assert made.started_utc_ns < made.ended_utc_ns
    assert made.patch.status == "empty"
    assert made.sampler == {"samples": 3}
    assert made.written.keys() == {
        "samples.arrow", "marks.jsonl", "api.jsonl", "stream.jsonl", "stderr.txt", "trace.jsonl",
        "session.tar", "patch.diff",
    }  # fmt: skip
    assert made.stream.result["terminal_reason"] == "completed" and made.stream.differs == {}
    assert (made.gateway["answers"], made.budget["turns"]) == (1, 1)
    assert (made.disk.limit_bytes, made.disk.full) == (2**33, None)
    assert made.host["load1_start"] is not None and made.host["load1_end"] is not None
    record.write(made, lab.attempt.path)
    written = json.loads((lab.attempt.path / "result.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(typed_json.to_json(made)))


def test_limits_that_are_not_in_force_start_no_agent(lab):
    lab.reader = FakeReader(lab.folder, EFFECTIVE | {"memory_bytes": None})
    with pytest.raises(InfraError, match="does not enforce the limits"):
        lab.measure()
    assert lab.steps[-2:] == ["verify", "remove"]
    assert not lab.scratch.exists()


def test_a_file_that_is_not_what_its_writer_says_is_no_data(lab, monkeypatch):
    lab.does = f"echo {RESULT}"
    end = measurement.disk_use.release

    def tamper(run):
        (run.path / "api.jsonl").write_text("", encoding="utf-8")
        end(run)

    monkeypatch.setattr(measurement.disk_use, "release", tamper)
    with pytest.raises(InfraError, match=r"api\.jsonl"):
        lab.measure()


def test_a_disk_that_filled_up_at_the_end_is_no_data(lab, monkeypatch):
    free = iter([2**40])
    monkeypatch.setattr(measurement.disk_use.machine_facts, "free_bytes", lambda _: next(free, 0))
    with pytest.raises(InfraError, match="filled up during the run"):
        lab.measure()


def test_an_interrupted_run_leaves_nothing_behind(lab, monkeypatch):
    class Stop(BaseException):
        pass

    def stop(*_):
        raise Stop

    monkeypatch.setattr(agent_process.agent_watch, "to_the_end", stop)
    lab.does = "sleep 60"
    with pytest.raises(Stop):
        lab.measure()
    assert "agent ended" not in lab.steps and lab.steps[-1] == "remove"
    assert not lab.scratch.exists()


def test_a_claim_that_the_facts_deny_is_kept_apart(lab):
    forged = stream_line(type="result", is_error=False, terminal_reason="completed", num_turns=99)
    lab.does = f"echo {forged}"
    made = lab.measure()
    assert made.stream.differs["num_turns"] == "said 99, seen at most 2"
    assert made.stream.result is None
