"""Parts of a measured run for tests without a container: jobs, attempts, and fakes.

The fakes stand in for what a test cannot have: `FakeReader` for a container's cgroup, `FakeEngine`
for Podman, `FakeService` for sampler and gateway. The agent that `FakeEngine` starts is a real
process of this host: a shell script.
"""

import copy
import json
import os
import shlex
import subprocess
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from agentsweep.agents.claude_code.invocation import AgentSettings
from agentsweep.containers import cleanup
from agentsweep.containers.engine import Container
from agentsweep.errors import InfraError
from agentsweep.host.cgroup_reader import CgroupGone
from agentsweep.runs import record
from agentsweep.runs.agent_process import AgentRun
from agentsweep.runs.attempt_run import AttemptRun
from agentsweep.runs.collect import Patch
from agentsweep.runs.container import Control, Started
from agentsweep.runs.job import Job
from agentsweep.runs.judgement import Oom
from agentsweep.runs.limits_in_force import Verified
from agentsweep.runs.phases import Phases
from agentsweep.runs.preflight import Prepared
from agentsweep.runs.record import Record
from agentsweep.runs.services import Services
from agentsweep.runs.store import Attempt
from agentsweep.runs.watch import GatewayStatus

CELL = "task~t/agent~a/mem~512MiB_cpus~1_rep~0"
LEVEL = "/x"
EFFECTIVE = {
    "memory_bytes": 2**29,
    "swap_bytes": 0,
    "cpus": 1.0,
    "cpuset": "0-1",
    "pids": 4096,
    "memory_level": LEVEL,
    "cpu_level": LEVEL,
}
BUDGET = {"refused": None, "turns": 1, "cost_usd": None}
IMAGE = {
    "id": "sha256:" + "1" * 64,
    "reference": "oci-archive:x.tar",
    "digest": "sha256:" + "2" * 64,
    "size_bytes": 1,
    "pull_s": 1.5,
    "fix_s": None,
    "git_dir": "/.agentsweep/start.git",
    "git_path": "/usr/bin/git",
    "start_tree": "3" * 40,
    "env": {"FROM_IMAGE": "1"},
}


def job_content(folder: Path, **changes: Any) -> dict[str, Any]:
    """A job as plain values; its store and results are below `folder`."""
    content = {
        "cell": CELL,
        "names": {
            **{"dataset": "d", "task": "t", "agent": "a", "instance_id": "t", "kind": "plain"},
            "row_sha256": None,
        },
        "prompt": "Mend it.",
        "task": {"workdir": "/testbed", "environment": None, "python": None},
        "agent": {
            "settings": {
                **{"version": "2.1.330", "model_id": "m", "bash_timeout_s": 600},
                **{"max_retries": 10, "system_search": True},
            },
            "binary": str(folder / "claude"),
            "binary_sha256": "4" * 64,
        },
        "model": {"mode": "scripted", "scenario": "scenario.yaml", "latency_scale": 1},
        "budget": {},
        "rules": None,
        "max_live_runs": None,
        **{"timeout_s": 60, "stall_s": 60, "grace_s": 1},
        **{"on_miss": "run", "repeat": [], "repeat_times": 0},
        "limits": {"memory_bytes": 2**29, "cpus": "1", "cpu_mode": "quota", "pids": 4096},
        "disk_bytes": 2**33,
        "needs": {"memory_bytes": 2**20, "cores": 1},
        "machine": {"ledger": str(folder / "ledger")},
        "container": {
            **{"engine": "auto", "runtime": "auto", "userland": "image", "network": "gateway"},
            **{"host_mounts": [], "uid": 1000, "gid": 1000, "cgroup_parent": "engine"},
        },
        "image": {
            **{"reference": IMAGE["reference"], "digest": IMAGE["digest"]},
            **{"config_digest": None, "workdir": "/testbed", "uid": 1000, "gid": 1000},
        },
        "images": {"distribute": "local", "archive_directory": None, "registry": None},
        "rate_hz": 50,
        "paths": {"store": str(folder / "store"), "results": str(folder / "results")},
    }
    return copy.deepcopy(content | changes)


def live(**changes: Any) -> dict[str, Any]:
    """The model of a job that asks a real endpoint."""
    endpoint = {"base_url": "http://127.0.0.1:9", "credential": None, "credential_header": "auto"}
    return {"mode": "live", **endpoint, **changes}


def attempt_run(folder: Path, said: list[str] | None = None, **changes: Any) -> AttemptRun:
    """An attempt that is being made in `folder`; `changes` are of its job."""
    say = ([] if said is None else said).append
    folder.mkdir(parents=True, exist_ok=True)
    return AttemptRun(
        Attempt("5" * 64, 1, "partial", folder),
        Job.from_json(job_content(folder, **changes)),
        '{"model":{"mode":"scripted"}}',
        say,
        Phases(say),
        name="555555555555-1-9",
        session="the-session",
        token="the-token",
        cluster_job=None,
    )


class FakeReader:
    """A container's cgroup that has these limits, and others from the second look on.

    pids: of its processes, None once it has gone.
    """

    level = LEVEL
    version = 1

    def __init__(self, folder: Path, first: dict | None = None, later: dict | None = None):
        self.paths = {"memory": folder}
        first = EFFECTIVE if first is None else first
        self._answers = [first, first if later is None else later]
        self.processes: set[int] | None = set()
        self.looks = 0

    def effective_limits(self) -> dict:
        self.looks += 1
        answer = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        if answer == {}:
            raise CgroupGone("it has gone")
        return answer

    def pids(self) -> list[int]:
        if self.processes is None:
            raise CgroupGone("it has gone")
        return sorted(pid for pid in self.processes if Path(f"/proc/{pid}/exe").exists())


class FakeService:
    """Answers questions as `answers` says: by their `cmd`, with a value or by a function."""

    def __init__(self, name: str = "agentsweep.fake", code: int = 0, **answers: Any):
        self.name, self._code, self._answers = name, code, answers
        self.asked: list[dict] = []
        self.last_said: dict | None = {"written": {"api.jsonl": {"bytes": 0}}}

    def ask(self, message: dict) -> dict:
        self.asked.append(message)
        answer = self._answers[message.get("cmd", "open")]
        if isinstance(answer, Exception):
            raise answer
        return answer() if callable(answer) else answer

    def stop(self) -> int:
        return self._code


def reading(t_ns: int, kills: int = 0, victims: list | None = None, **more: Any) -> dict:
    """The sampler's answer to `begin` or `end`: UTC is a second ahead of the monotonic clock."""
    return {
        "t_ns": t_ns,
        "utc_ns": t_ns + 10**9,
        "counters": {"cpu_usage_usec": t_ns // 1000},
        "oom_kill": kills,
        "victims": [] if victims is None else victims,
        "peak_bytes": 2**20,
        "peak_source": "watermark",
        **more,
    }


def sampler(**answers: Any) -> FakeService:
    """A sampler that sees nothing happen."""
    idle = {"active_calls": 0, "gone": False}
    given = {"open": {"ready": True}, "status": idle, "begin": reading(10**9), "end": reading(3)}
    return FakeService("agentsweep.sampler", **(given | answers))


def gateway(**status: Any) -> FakeService:
    """A gateway that answered once and is idle."""
    idle = {"last_byte_ns": None, "active": 0, "exchanges": 1, "budget": BUDGET} | status
    opened = {"address": "unix:/run/agentsweep/api.sock"}
    return FakeService("agentsweep.gateway", open=opened, status=idle)


class FakeEngine:
    """An engine whose `exec` is a shell script of this host, and which keeps what it was told."""

    name = "podman"
    maps_users = False
    lost_command = None

    def __init__(self, folder: Path, script: str = "true"):
        self.workdir, self.script = folder, script
        self.calls: list[tuple[str, ...]] = []
        self.specs: list[Any] = []
        self.failures: dict[str, list[Exception | None]] = {}

    def info(self) -> dict:
        return {"name": "podman", "version": "4.3.1", "runtime": "runc", "rootless": False}

    def exec_arguments(self, name: str, *argv: str, user: str, workdir: str) -> list[str]:
        self.calls.append(("exec", name, *argv, user, workdir))
        return ["bash", "-c", self.script]

    def call(self, *arguments: str) -> None:
        self._note(*arguments)

    def create(self, spec: Any) -> str:
        self.specs.append(spec)
        self._note("create", spec.name)
        return "the-id"

    def start(self, container_id: str, name: str) -> Container:
        self._note("start", container_id)
        return Container(container_id, name, os.getpid())

    def inspect(self, name: str) -> dict:
        self._note("inspect", name)
        return {}

    def remove(self, name: str) -> None:
        self._note("remove", name)

    def _note(self, *call: str) -> None:
        self.calls.append(call)
        failures = self.failures.get(call[0])
        error = failures.pop(0) if failures else None
        if error is not None:
            raise error


def failing(*sentences: str | None) -> list[Exception | None]:
    """What calls of an engine raise, one after another."""
    return [None if sentence is None else InfraError(sentence) for sentence in sentences]


def prepared(engine: FakeEngine, folder: Path) -> Prepared:
    """What a preflight gives; its scratch directory is there."""
    (folder / "marks").mkdir(parents=True, exist_ok=True)
    (folder / "home").mkdir(exist_ok=True)
    cleaning: Future = Future()
    cleaning.set_result(cleanup.Cleaned())
    return Prepared(engine, engine.info(), dict(IMAGE), folder, {"mode": "scripted"}, cleaning)


def started(init_pid: int, container_id: str = "the-id") -> Started:
    """A container whose init is a process of this host."""
    container = Container(container_id, "agentsweep-x", init_pid)
    settings = AgentSettings("2.1.330", "m", 600, 10, True)
    control = Control(Path("/nowhere"), settings, ["/opt/agentsweep/claude", "--print"])
    return Started(container, os.pidfd_open(init_pid), control)


def services(of_sampler: FakeService | None = None, of_gateway: FakeService | None = None):
    """Both services, as fakes."""
    of_gateway = of_gateway or gateway()
    return Services(of_gateway, GatewayStatus(of_gateway), of_sampler or sampler())


def verified(reader: FakeReader) -> Verified:
    """A container whose limits were read back."""
    return Verified(reader, EFFECTIVE, 2, "none")


def disk_watch(**state: Any) -> SimpleNamespace:
    """A fake of `disk.Watch`: what the run wrote is as `state` says."""
    state = {"over": None, "host": None, "used_bytes": 0, "looks": 0, "stopped": False} | state
    watch = SimpleNamespace(**state)
    watch.stop = lambda: setattr(watch, "stopped", True)
    watch.look = lambda: setattr(watch, "looks", watch.looks + 1)
    return watch


def sleeping() -> "subprocess.Popen[bytes]":
    """A process that only waits, in a session of its own."""
    return subprocess.Popen(["sleep", "infinity"], start_new_session=True)


def agent_script(note: Path, does: str) -> str:
    """A shell script that notes its process id, as an agent does, and then does that."""
    return f"echo $$ > {shlex.quote(str(note))}; {does}"


def an_agent_run(**changes: Any) -> AgentRun:
    """An agent that did its work and ended."""
    given = {
        "pid": 500,
        "container_pids": frozenset({400}),
        **{"start_ns": 2 * 10**9, "start_utc_ns": 3 * 10**9},
        **{"end_ns": 9 * 10**9, "end_utc_ns": 10 * 10**9},
        "exit_code": 0,
        "stopped_by": None,
        "leftovers": 0,
        "alive": True,
        "begin": reading(10**9),
        "end": reading(10**10),
        "gateway": {"budget": BUDGET},
        "claims": {
            "result": {"is_error": False, "terminal_reason": "completed"},
            "result_events": 1,
            "assistant_messages": 1,
        },
    }
    return AgentRun(**given | changes)


def a_record(**changes: Any) -> Record:
    """The record of a run that went well."""
    run_job = Job.from_json(job_content(Path("/nowhere")))
    oom = Oom(0, 0, 0, 500, agent_victim=False, container_victim=False, victims=[])
    content = Record(
        spec={"protocol": 1},
        spec_sha256="5" * 64,
        attempt=1,
        attempt_id="555555555555-1",
        names=run_job.names,
        outcome="completed",
        outcome_detail="the agent completed its work",
        exit_code=0,
        limits={"requested": {}, "effective": {}},
        reservation=None,
        scope="none",
        cluster_job=None,
        memory=record.Memory(2**20, "watermark"),
        counters=record.CounterReadings({}, {}),
        oom=oom,
        phases={},
        wall_s=1.0,
        started_utc_ns=1,
        ended_utc_ns=2,
        agent_start_ns=1,
        agent_end_ns=2,
        agent_start_utc_ns=1,
        agent_end_utc_ns=2,
        leftover_processes=0,
        agent=record.AgentFacts("2.1.330", "4" * 64, [], "s", 1000),
        image=record.ImageFacts("r", "d", "i", 1),
        patch=Patch("empty", "0" * 64, 0),
        session={"files": 0, "bytes": 0, "skipped": 0},
        disk=record.DiskFacts(2**33, 0, None),
        engine={},
        host={},
        sampler={},
        written={},
        stream=record.StreamFacts(None, 0, {}),
        gateway={},
        budget=BUDGET,
        endpoint=None,
        runner=record.Runner("0", "6" * 64),
    )
    return replace(content, **changes)


def wait_until(is_so: Callable[[], object], timeout_s: float = 10) -> None:
    """Until something is so; an AssertionError where it does not come to be."""
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def stream_line(**fields: Any) -> str:
    """A line of the agent's output, quoted for a shell."""
    return shlex.quote(json.dumps(fields))
