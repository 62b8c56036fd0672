"""One measured run, from preflight to its record: the table of contents of docs/measurement.md.

Each step is a function of a module of its own, which takes what the steps before it came to.
"""

import contextlib
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from agentsweep import __version__, codehash, seal
from agentsweep.extraction import gateway_facts
from agentsweep.host import disk, machine_facts
from agentsweep.runs import (
    agent_output,
    agent_process,
    collect,
    container,
    disk_use,
    judgement,
    limits_in_force,
    preflight,
    record,
    services,
)
from agentsweep.runs.agent_process import AgentRun
from agentsweep.runs.attempt_run import AttemptRun
from agentsweep.runs.collect import Collected
from agentsweep.runs.container import Started
from agentsweep.runs.job import Job
from agentsweep.runs.limits_in_force import Verified
from agentsweep.runs.phases import Say
from agentsweep.runs.preflight import Prepared
from agentsweep.runs.record import Record
from agentsweep.runs.services import Stopped
from agentsweep.runs.store import Attempt


@dataclass(frozen=True)
class Clocks:
    """When the run began, and how busy the machine was then."""

    begin_ns: int
    begin_utc_ns: int
    noise: dict[str, Any]

    @classmethod
    def now(cls) -> "Clocks":
        """As of now."""
        return cls(time.monotonic_ns(), time.time_ns(), machine_facts.noise())


@dataclass(frozen=True)
class Finished:
    """What all steps of a run came to."""

    prepared: Prepared
    started: Started
    verified: Verified
    disk_watch: disk.Watch
    agent_run: AgentRun
    collected: Collected
    stopped: Stopped


def measure(
    attempt: Attempt,
    job: Job,
    spec: str,
    image: dict[str, Any],
    say: Say,
    agent_ended: Callable[[], None] = lambda: None,
) -> Record:
    """Make one run in a partial attempt's directory; returns its record, which is not written yet.

    image: the record of the fixed image. agent_ended is called when all that the agent cost is
    spent. Whatever happens, container, processes and sockets are gone afterwards. Raises InfraError
    where nothing was measured.
    """
    run = AttemptRun.begin(attempt, job, spec, say)
    clocks = Clocks.now()
    with contextlib.ExitStack() as last:
        finished = _steps(run, image, agent_ended, last)
        disk_use.release(run)
        disk_use.refuse_full(run)
        # Before anything is judged by these files.
        seal.compare(run.path, finished.stopped.written | finished.collected.written)
        return _recorded(run, clocks, finished)


def _steps(
    run: AttemptRun,
    image: dict[str, Any],
    agent_ended: Callable[[], None],
    last: contextlib.ExitStack,
) -> Finished:
    """The steps in their order. `last` is left when all that they started has gone."""
    with contextlib.ExitStack() as stack:
        with run.phases.timed("preflight"):
            prepared = preflight.prepare(run, image, stack)
        beside = services.start(run, stack)
        started = container.start(run, prepared, beside, stack)
        with run.phases.timed("verify"):
            verified = limits_in_force.verify(run, started)
        services.open_sampler(run, beside.sampler, started.container, prepared.scratch)
        preflight.await_cleaning(run, prepared)
        disk_watch = disk_use.watch(
            run, prepared.scratch, started.container, verified.reader, stack
        )
        last.enter_context(disk_use.freed_on_failure(run, prepared.scratch, disk_watch))
        agent_run = agent_process.run_agent(
            run, prepared, beside, started, verified, disk_watch, stack
        )
        agent_ended()
        with run.phases.timed("collect"):
            collected = collect.collect(run, prepared, started, agent_run, disk_watch)
        removal = stack.enter_context(ThreadPoolExecutor(1)).submit(
            container.tear_down, run, prepared, started
        )
        with run.phases.timed("services"):
            stopped = services.stop(run, beside, prepared.scratch)
        removal.result()
    return Finished(prepared, started, verified, disk_watch, agent_run, collected, stopped)


def _recorded(run: AttemptRun, clocks: Clocks, finished: Finished) -> Record:
    """Judge the run, and say all that is known of it."""
    job, agent_run, stopped = run.job, finished.agent_run, finished.stopped
    image, claims, disk_watch = finished.prepared.image, agent_run.claims, finished.disk_watch
    spec = json.loads(run.spec)
    facts = gateway_facts.read(run.path / "api.jsonl")
    judged, oom = judgement.judge(
        job, agent_run, stopped.summary, facts, disk_watch.over, stopped.gateway_cut
    )
    differs = agent_output.disagreements(
        claims["result"], claims["result_events"], agent_run.exit_code, facts
    )
    return Record(
        spec=spec,
        spec_sha256=run.attempt.spec_sha256,
        attempt=run.attempt.number,
        attempt_id=run.attempt.id,
        names=job.names,
        outcome=judged.outcome,
        outcome_detail=judged.detail,
        exit_code=agent_run.exit_code,
        limits=limits_in_force.recorded(job.limits, finished.verified),
        reservation=job.granted,
        scope=finished.verified.scope,
        cluster_job=None if run.cluster_job is None else run.cluster_job.id,
        memory=record.Memory(agent_run.end.get("peak_bytes"), agent_run.end.get("peak_source")),
        counters=record.CounterReadings(agent_run.begin["counters"], agent_run.end["counters"]),
        oom=oom,
        phases=_phases(run, image, agent_run),
        wall_s=round((time.monotonic_ns() - clocks.begin_ns) / 1e9, 4),
        started_utc_ns=clocks.begin_utc_ns,
        ended_utc_ns=time.time_ns(),
        agent_start_ns=agent_run.start_ns,
        agent_end_ns=agent_run.end_ns,
        agent_start_utc_ns=agent_run.start_utc_ns,
        agent_end_utc_ns=agent_run.end_utc_ns,
        leftover_processes=agent_run.leftovers,
        agent=_agent_facts(run, finished.started),
        image=record.ImageFacts(
            image["reference"], image["digest"], image["id"], image["size_bytes"]
        ),
        patch=finished.collected.patch,
        session=finished.collected.session,
        disk=record.DiskFacts(job.disk_bytes, disk_watch.used_bytes, disk_watch.over),
        engine=finished.prepared.engine_info,
        host=_host_facts(clocks.noise, machine_facts.noise()),
        sampler=stopped.summary,
        written=stopped.written | finished.collected.written,
        stream=record.StreamFacts(
            agent_output.believed(claims["result"], differs), claims["result_events"], differs
        ),
        gateway=facts.as_dict(),
        budget=agent_run.gateway["budget"],
        endpoint=agent_run.gateway.get("endpoint"),
        runner=record.Runner(__version__, codehash.package_sha256()),
        replay=record.replayed(spec, agent_run.gateway),
    )


def _phases(run: AttemptRun, image: dict[str, Any], agent_run: AgentRun) -> dict[str, float | None]:
    """Seconds of all phases, those that were paid once for the image among them."""
    return {
        "pull_s": image["pull_s"],
        "fix_s": image["fix_s"],
        **run.phases.seconds,
        "agent_s": round((agent_run.end_ns - agent_run.start_ns) / 1e9, 4),
    }


def _agent_facts(run: AttemptRun, started: Started) -> record.AgentFacts:
    control = started.control
    return record.AgentFacts(
        version=control.settings.version,
        binary_sha256=run.job.agent.binary_sha256,
        argv=control.argv,
        session_id=run.session,
        uid=run.job.container.uid,
    )


def _host_facts(begin: dict[str, Any], end: dict[str, Any]) -> dict[str, Any]:
    """What the machine is, and its noise at the run's begin and end."""
    return (
        machine_facts.facts()
        | {f"{name}_start": value for name, value in begin.items()}
        | {f"{name}_end": value for name, value in end.items()}
    )
