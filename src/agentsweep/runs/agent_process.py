"""The agent's process: started in the container, watched to its end, and what it came to."""

import contextlib
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from agentsweep import bounded, untrusted
from agentsweep.agents.claude_code import invocation
from agentsweep.containers.client import engine_environment
from agentsweep.errors import InfraError, LastingError
from agentsweep.host import disk
from agentsweep.host.cgroup_reader import CgroupGone, CgroupReader
from agentsweep.runs import agent_end, agent_output, agent_watch, disk_use, watch
from agentsweep.runs.attempt_run import AttemptRun
from agentsweep.runs.container import Started
from agentsweep.runs.limits_in_force import Verified
from agentsweep.runs.preflight import Prepared
from agentsweep.runs.services import Services

# What is kept of the agent's outputs.
_STDOUT_BYTES, _STDERR_BYTES = 256 * 2**20, 64 * 2**20
# A process id and a line end.
_NOTE_BYTES = 32
_START_TIMEOUT_S = 60.0
# How long the gateway may still be answering once the agent has ended.
_LAST_ANSWER_S = 1.0


@dataclass(frozen=True)
class Launched:
    """The engine's client that runs the agent, the two outputs, and the agent itself."""

    client: "subprocess.Popen[bytes]"
    outputs: tuple[bounded.Drain, ...]
    agent: "FoundAgent"


@dataclass(frozen=True)
class FoundAgent:
    """pid: on the host, None when it had ended before it was found. start_utc_ns: by the file
    system's clock, None when it never ran. seen_ns: when it was found, on the monotonic clock."""

    pid: int | None
    start_utc_ns: int | None
    seen_ns: int


@dataclass(frozen=True)
class AgentRun:
    """What the agent's process came to.

    pid: on the host, None where it was never found alive. container_pids: the container's init and
    what keeps it alive. Times: `_ns` on the monotonic clock, `_utc_ns` since 1970. exit_code: None
    where the container went with it. stopped_by: why the runner ended it, None where it did not.
    leftovers: processes that it left running. alive: whether the container's init outlived it.
    begin, end: the sampler's answers at both. gateway: the gateway's last status. claims: what the
    agent's own output says.
    """

    pid: int | None
    container_pids: frozenset[int]
    start_ns: int
    start_utc_ns: int
    end_ns: int
    end_utc_ns: int
    exit_code: int | None
    stopped_by: str | None
    leftovers: int
    alive: bool
    begin: dict[str, Any]
    end: dict[str, Any]
    gateway: dict[str, Any]
    claims: agent_output.Claims


def run_agent(
    run: AttemptRun,
    prepared: Prepared,
    services: Services,
    started: Started,
    verified: Verified,
    disk_watch: disk.Watch,
    stack: contextlib.ExitStack,
) -> AgentRun:
    """From the first reading of the counters to the last one. The order is the measurement's."""
    prompt = prepared.scratch / "prompt"
    prompt.write_bytes(run.job.prompt.encode())
    begin = services.sampler.ask({"cmd": "begin"})
    container_pids = frozenset(watch.init_and_pause(started.container.pid))
    with run.phases.timed("exec"):
        launched = launch(run, prepared, started, verified.reader, prompt, stack)
    agent = launched.agent
    watched = agent_watch.to_the_end(
        run, services, started, verified, disk_watch, launched.client, launched.outputs, agent.pid
    )
    leftovers = watch.kill_all_but_init(verified.reader, started.container.pid)
    end = services.sampler.ask({"cmd": "end"})
    # A gateway that died is what the agent failed of, whatever the agent made of it.
    status = last_status(services.gateway_status)
    code = exit_code(launched.client)
    for output in launched.outputs:
        output.finish()
    disk_use.settle(run, prepared.scratch, disk_watch, launched.outputs)
    claims = agent_output.read_stream(run.path / "stream.jsonl")
    # When a container goes, its agent goes first and its init some moments later.
    alive = started.is_alive(within_s=0 if code == 0 and claims["result"] else 0.5)
    if alive:
        exchanges = status.get("exchanges", 0)
        has_run = agent.start_utc_ns is not None
        agent_end.check(run, prepared.engine, verified, has_run, watched, code, exchanges)
    start_ns, offset_ns = start_of(agent, begin)
    return AgentRun(
        pid=agent.pid,
        container_pids=container_pids,
        start_ns=start_ns,
        start_utc_ns=start_ns + offset_ns,
        end_ns=watched.end_ns,
        end_utc_ns=watched.end_ns + offset_ns,
        exit_code=code if alive else None,
        stopped_by=watched.stopped_by,
        leftovers=leftovers,
        alive=alive,
        begin=begin,
        end=end,
        gateway=status,
        claims=claims,
    )


def launch(
    run: AttemptRun,
    prepared: Prepared,
    started: Started,
    reader: CgroupReader,
    prompt: Path,
    stack: contextlib.ExitStack,
) -> Launched:
    """Start the agent with the prompt as its input, and find its process."""
    command = prepared.engine.exec_arguments(
        started.container.id,
        f"{invocation.CONTROL}/start",
        user=run.job.container.user,
        workdir=run.job.task.workdir,
    )
    with prompt.open("rb") as given:
        client = subprocess.Popen(
            command,
            cwd=prepared.engine.workdir,
            stdin=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=engine_environment(),
            start_new_session=True,
        )
        outputs = (
            bounded.Drain(
                cast("BinaryIO", client.stdout), run.path / "stream.jsonl", _STDOUT_BYTES
            ),
            bounded.Drain(cast("BinaryIO", client.stderr), run.path / "stderr.txt", _STDERR_BYTES),
        )
        for output in outputs:
            stack.callback(output.finish)
        stack.callback(end_client, client)
        agent = find_agent(run, reader, prepared.scratch / "marks" / "agent.pid", client)
    return Launched(client, outputs, agent)


def find_agent(
    run: AttemptRun, reader: CgroupReader, note: Path, client: "subprocess.Popen[bytes]"
) -> FoundAgent:
    """The agent's process on the host and when it started, as far as it did.

    note: the file into which it writes its process id, in the container, before all else.
    """
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError):
            return read_note(run, reader, note)
        if client.poll() is not None:
            # It may have started and ended since the note was looked for.
            with contextlib.suppress(OSError, ValueError):
                return read_note(run, reader, note)
            return FoundAgent(None, None, time.monotonic_ns())
        time.sleep(0.002)
    raise InfraError(
        f"the agent did not start within {_START_TIMEOUT_S:g} s: see whether the engine hangs"
    )


def read_note(run: AttemptRun, reader: CgroupReader, note: Path) -> FoundAgent:
    """What the note of the agent's process id says; OSError or ValueError: nothing yet."""
    try:
        with os.fdopen(untrusted.open_untrusted(note), "rb") as file:
            inside = int(file.read(_NOTE_BYTES))
            start_utc_ns = os.fstat(file.fileno()).st_mtime_ns
    except untrusted.WrongKind as error:
        raise LastingError(
            f"the environment of task {run.job.names.task} put something else than a "
            f"file at {invocation.AGENT_PID}: mend `environment` in the task file, or the image"
        ) from error
    pid = None
    with contextlib.suppress(CgroupGone):
        pid = watch.host_pid(reader, inside)
    return FoundAgent(pid, start_utc_ns, time.monotonic_ns())


def start_of(agent: FoundAgent, begin: dict[str, Any]) -> tuple[int, int]:
    """When the agent started on the monotonic clock, and what UTC was ahead of that, both in ns.

    begin: the sampler's first answer, with both clocks.
    """
    offset_ns: int = begin["utc_ns"] - begin["t_ns"]
    start_ns: int = begin["t_ns"]
    if agent.start_utc_ns is not None:
        # The file system's clock is coarse, and UTC may have been set meanwhile.
        start_ns = min(max(agent.start_utc_ns - offset_ns, start_ns), agent.seen_ns)
    return start_ns, offset_ns


def last_status(gateway: watch.GatewayStatus) -> dict[str, Any]:
    """What the gateway says once no answer is under way any more."""
    deadline = time.monotonic() + _LAST_ANSWER_S
    while (status := gateway.ask({"cmd": "status"}))["active"]:
        if time.monotonic() > deadline:
            break
        time.sleep(0.01)
    return status


def end_client(client: "subprocess.Popen[bytes]") -> None:
    """Kill the engine's client where it still runs."""
    if client.poll() is None:
        client.kill()
        client.wait()


def exit_code(client: "subprocess.Popen[bytes]", timeout_s: float = 30) -> int | None:
    """The agent's exit code as the engine passes it on; None when the engine says nothing."""
    try:
        return client.wait(timeout_s)
    except subprocess.TimeoutExpired:
        end_client(client)
        return None
