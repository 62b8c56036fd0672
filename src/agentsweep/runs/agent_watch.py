"""Watching the agent: until it ends by itself, or is ended at a limit."""

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterable
from dataclasses import dataclass

from agentsweep import bounded
from agentsweep.errors import InfraError, LastingError
from agentsweep.host import disk
from agentsweep.host.cgroup_reader import CgroupReader
from agentsweep.runs import limits_in_force, watch
from agentsweep.runs.attempt_run import AttemptRun
from agentsweep.runs.container import Started
from agentsweep.runs.limits_in_force import Verified
from agentsweep.runs.services import Services

_LOOK_S = 0.25
# Seconds between two looks at the limits in force.
_LIMITS_EVERY_S = 1.0


@dataclass(frozen=True)
class Watched:
    """When the agent ended, on the monotonic clock, and why the runner ended it, None where it did
    not. client_first: the engine's client ended and the agent went on."""

    end_ns: int
    stopped_by: str | None
    client_first: bool = False


def to_the_end(
    run: AttemptRun,
    services: Services,
    started: Started,
    verified: Verified,
    disk_watch: disk.Watch,
    client: "subprocess.Popen[bytes]",
    outputs: Iterable[bounded.Drain],
    pid: int | None,
) -> Watched:
    """Wait for the agent's end; end it at the wall limit or when nothing happens any more.

    InfraError where something outside paused the container, changed its limits or filled the disk.
    """
    written = tuple(run.path / name for name in ("stream.jsonl", "stderr.txt", "api.jsonl"))
    activity = watch.Activity(written, services.sampler, services.gateway_status)
    freezer = watch.Freezer(verified.reader, started.container.pid)
    begin = looked = time.monotonic()
    with watch.exit_watch(pid) as exits:
        while True:
            if exits.wait(_LOOK_S):
                return Watched(time.monotonic_ns(), None)
            if client.poll() is not None:
                end_ns = time.monotonic_ns()
                return Watched(end_ns, None, pid is not None and not exits.wait(0.5))
            if freezer.frozen():
                raise InfraError(
                    f"container {started.container.name} was paused from outside during the run: "
                    "its times would say nothing"
                )
            now = time.monotonic()
            if now - looked > _LIMITS_EVERY_S:
                # Not at the end alone: it may be set back, or be what kills the container.
                looked = now
                limits_in_force.check(run, verified)
            if disk_watch.host is not None:
                raise LastingError(f"{disk_watch.host}: free some space and run again")
            if disk_watch.over is not None or any(output.cut for output in outputs):
                run.say(f"{run.job.cell}: disk_full; ending the agent")
                watch.kill_all_but_init(verified.reader, started.container.pid)
                return Watched(time.monotonic_ns(), "disk_full")
            reason = limit_reached(run, services.gateway_status, activity, begin, now)
            if reason is not None:
                run.say(f"{run.job.cell}: {reason}; ending the agent")
                end_agent(verified.reader, started.container.pid, pid, exits, run.job.grace_s)
                return Watched(time.monotonic_ns(), reason)
            if activity.gone:
                return Watched(time.monotonic_ns(), None)


def limit_reached(
    run: AttemptRun,
    gateway: watch.GatewayStatus,
    activity: watch.Activity,
    begin: float,
    now: float,
) -> str | None:
    """Why the agent has to end now: `timed_out`, `stalled` or `gateway_lost`; None where not."""
    if now - begin > run.job.timeout_s:
        return "timed_out"
    if activity.quiet_s(now) > run.job.stall_s:
        return "stalled"
    return "gateway_lost" if gateway.lost is not None else None


def end_agent(
    reader: CgroupReader, init_pid: int, pid: int | None, exits: watch.Exit, grace_s: float
) -> None:
    """TERM for the agent, and KILL for all but the container's init where that is not enough."""
    if pid is not None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
        if exits.wait(grace_s):
            return
    watch.kill_all_but_init(reader, init_pid)
