"""The two processes beside a run's container: the gateway, which is the agent's endpoint, and the
sampler, which reads the kernel's counters."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentsweep import seal
from agentsweep.containers.engine import Container
from agentsweep.errors import InfraError
from agentsweep.host.processes import OVERWHELMED, LineService
from agentsweep.runs import agent_output, gateway_settings
from agentsweep.runs.attempt_run import AttemptRun
from agentsweep.runs.watch import GatewayStatus


@dataclass(frozen=True)
class Services:
    """Both of them; gateway_status: what the gateway says of itself, and whether it still does."""

    gateway: LineService
    gateway_status: GatewayStatus
    sampler: LineService


@dataclass(frozen=True)
class Stopped:
    """What is left of them: the sampler's summary, and what the two say of the files they wrote.

    gateway_cut: how the gateway was lost at its stop to the agent's own load, None where it was
    not.
    """

    summary: dict[str, Any]
    written: dict[str, seal.FileFacts]
    gateway_cut: str | None


def start(run: AttemptRun, stack: contextlib.ExitStack) -> Services:
    """Start them now: they load while the engine creates the container."""
    log = run.path / "services.log"
    ways_out = gateway_settings.gateway_environment(run.job)
    gateway = LineService("agentsweep.gateway", log, ways_out)
    stack.callback(gateway.stop)
    sampler = LineService("agentsweep.sampler", log)
    stack.callback(sampler.stop)
    return Services(gateway, GatewayStatus(gateway), sampler)


def open_sampler(run: AttemptRun, sampler: LineService, container: Container, folder: Path) -> None:
    """Let the sampler read the container's counters; `folder` is the run's scratch directory."""
    ready = sampler.ask(
        {
            "pid": container.pid,
            "samples": str(run.path / "samples.arrow"),
            "marks": str(run.path / "marks.jsonl"),
            "marks_dir": str(folder / "marks"),
            "rate_hz": run.job.rate_hz,
            "summary": str(folder / "sampler.json"),
        }
    )
    if not ready.get("ready"):
        raise InfraError(f"the sampler cannot start: {ready.get('error', ready)}")


def stop(run: AttemptRun, services: Services, folder: Path) -> Stopped:
    """Stop both; InfraError where one failed, or does not say what it wrote."""
    gateway_cut = None
    for service in (services.gateway, services.sampler):
        code = service.stop()
        is_gateway = service is services.gateway
        if is_gateway and (code == OVERWHELMED or services.gateway_status.lost):
            # The agent's doing, which is data (`Evidence.gateway_lost`, `.gateway_cut`). What is
            # missing of the record are its last lines.
            gateway_cut = f"{service.name} could not be stopped in time"
            run.say(f"{service.name} was overwhelmed by what the agent sent")
        elif code != 0:
            last_words = agent_output.last_words(run.path / "services.log")
            raise InfraError(f"{service.name} failed: {last_words}")
    summary = json.loads((folder / "sampler.json").read_text(encoding="utf-8"))
    if summary.get("write_error"):
        raise InfraError(f"the sampler could not write: {summary['write_error']}")
    written = (services.gateway.last_said or {}).get("written")
    if written is None and gateway_cut is not None:
        # Nobody knows what a gateway wrote that was lost: the file is taken as it is.
        written = {"api.jsonl": {"bytes": (run.path / "api.jsonl").stat().st_size}}
    if written is None:
        raise InfraError(f"{services.gateway.name} ended without saying what it has written")
    return Stopped(summary, written | summary.pop("written"), gateway_cut)
