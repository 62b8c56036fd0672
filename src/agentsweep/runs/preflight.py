"""Preflight: everything that can be known to be missing, before anything is spent."""

import contextlib
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentsweep.agents.claude_code import invocation
from agentsweep.containers import cleanup, engines, image_check, image_distribution
from agentsweep.containers.engine import Engine
from agentsweep.host import limits, scratch
from agentsweep.runs import gateway_settings
from agentsweep.runs.attempt_run import AttemptRun


@dataclass(frozen=True)
class Prepared:
    """What is there once the preflight is over.

    engine_info: what the engine says of itself. image: the record of the fixed image that this
    node has. scratch: the run's own directory, which goes at its end. gateway: the gateway's
    settings, which may hold a secret. cleaning: what dead runs left, being removed meanwhile.
    """

    engine: Engine
    engine_info: dict[str, Any]
    image: dict[str, Any]
    scratch: Path
    gateway: dict[str, Any] = field(repr=False)
    cleaning: "Future[cleanup.Cleaned]"


def prepare(run: AttemptRun, image: dict[str, Any], stack: contextlib.ExitStack) -> Prepared:
    """Check credential, engine, host, agent and image, and make the scratch directory."""
    job = run.job
    container = job.container
    gateway = gateway_settings.gateway_settings(job)
    engine = engines.find_engine(container.engine, container.runtime, scratch.engine_dir())
    engine_info = engine.info()
    run.say(engines.chosen(engine, container.engine))
    limits.check_host(engine_info, container.uid)
    cleaning = stack.enter_context(ThreadPoolExecutor(1)).submit(cleanup.clean_up, engine)
    invocation.check_binary(job.agent.binary, job.agent.binary_sha256)
    # Its pages are then charged to nobody, in the first run on a machine as in later ones.
    invocation.warm(job.agent.binary)
    images = job.images
    place = image_distribution.place_of(
        images.distribute, images.archive_directory, images.registry, job.paths.results
    )
    image = image_distribution.ensure(engine, image, place)
    image_check.refuse_shell(image, container.userland)
    folder = scratch.create(run.name)
    stack.callback(scratch.remove, folder)
    return Prepared(engine, engine_info, image, folder, gateway, cleaning)


def await_cleaning(run: AttemptRun, prepared: Prepared) -> None:
    """What dead runs left is gone before this one's agent starts; what stays is said."""
    for sentence in prepared.cleaning.result().said:
        run.say(sentence)
