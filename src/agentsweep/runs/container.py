"""The container of a run: what it sees of the host, its creation, its start and its removal."""

import contextlib
import os
import select
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentsweep.agents.claude_code import invocation
from agentsweep.containers import engine, slurm_scope
from agentsweep.cpu_modes import CPUSET
from agentsweep.errors import InfraError
from agentsweep.host import scratch
from agentsweep.host.processes import LineService, owner_tag
from agentsweep.runs.attempt_run import AttemptRun
from agentsweep.runs.preflight import Prepared
from agentsweep.runs.services import Services
from agentsweep.sampler import marks


@dataclass(frozen=True)
class Control:
    """What the container sees under /run/agentsweep: the directory, and the agent in it.

    argv: the agent's command line. settings: the job's, with the tools that a recording needs.
    """

    directory: Path
    settings: invocation.AgentSettings
    argv: list[str]


@dataclass(frozen=True)
class Started:
    """A container that idles; `init` is a descriptor that is readable once its init has ended."""

    container: engine.Container
    init: int
    control: Control

    def is_alive(self, within_s: float = 0) -> bool:
        """Whether the container's init lives, and goes on to for `within_s`. Asks no engine."""
        return not select.select([self.init], [], [], within_s)[0]


def start(
    run: AttemptRun, prepared: Prepared, services: Services, stack: contextlib.ExitStack
) -> Started:
    """Create and start the container, which the stack removes at the latest."""
    control = prepare_control(run, prepared, services.gateway)
    spec = container_spec(run, prepared, control)
    stack.callback(remove, run, prepared.engine, spec.name)
    with run.phases.timed("create"):
        container_id = prepared.engine.create(spec)
    with run.phases.timed("start"):
        container = prepared.engine.start(container_id, spec.name)
    init = os.pidfd_open(container.pid)
    stack.callback(os.close, init)
    return Started(container, init, control)


def container_spec(run: AttemptRun, prepared: Prepared, control: Control) -> engine.ContainerSpec:
    """What the engine is asked for: the cell's limits, and mounts of what is ours."""
    wants, limits = run.job.container, run.job.limits
    classic = wants.userland == "host"
    mounts = [
        *(engine.host_userland(wants.host_mounts) if classic else ()),
        engine.Mount(control.directory, invocation.CONTROL),
        engine.Mount(run.job.agent.binary.resolve(), invocation.CONTAINER_BINARY),
        engine.Mount(run.path / "session", invocation.CONFIG_DIR, read_only=False),
        engine.Mount(prepared.scratch / "marks", invocation.MARKS_DIR, read_only=False),
        engine.Mount(prepared.scratch / "home", invocation.HOME, read_only=False),
    ]
    return engine.ContainerSpec(
        name=f"agentsweep-{run.name}",
        # Its name may mean a later fix of the same image by now.
        image=prepared.image["id"],
        labels={engine.LABEL: run.attempt.id, engine.OWNER_LABEL: owner_tag()},
        memory_bytes=limits.memory_bytes,
        cpus=None if limits.cpu_mode == CPUSET else limits.cpus,
        cpuset=limits.cpuset,
        pids=limits.pids,
        network="none" if wants.network == "gateway" else "host",
        mounts=tuple(mounts),
        # Its init is not the agent's to kill: `pkill sleep` must not end the container.
        user="0:0",
        map_user=prepared.engine.maps_users,
        mask_cgroups=wants.network == "host",
        # An image that was fixed by an earlier version has none in its record.
        env=prepared.image.get("env"),
        cgroup_parent=slurm_scope.parent_for(run.cluster_job, prepared.engine)
        if wants.cgroup_parent == "job"
        else None,
    )


def prepare_control(run: AttemptRun, prepared: Prepared, gateway: LineService) -> Control:
    """What the container sees read-only under /run/agentsweep, and its writable parts.

    The gateway listens from here on.
    """
    control = prepared.scratch / "control"
    for name in ("session", "marks", "home"):
        (control / name).mkdir(parents=True)
    marks.install_wrapper(control / Path(invocation.WRAPPER).name)
    marks.make_marks_directory(prepared.scratch / "marks")
    ready = _open_gateway(run, prepared, gateway, control)
    settings = run.job.agent.settings
    if "replay" in ready:
        settings = invocation.with_recorded_tools(settings, ready["replay"]["tools"])
    base_url = "unix:" if ready["address"].startswith("unix:") else ready["address"]
    argv = invocation.arguments(settings, run.session)
    env = invocation.environment(settings, base_url, run.token, marks=True)
    task = run.job.task
    files = {
        invocation.TASK_ENVIRONMENT: invocation.task_environment(task.environment),
        invocation.ENV_FILE: invocation.env_file(settings.system_search),
    }
    for path, text in files.items():
        (control / Path(path).name).write_text(text, encoding="utf-8")
    start_file = control / "start"
    # What the image sets holds as it does in a grading; what we set comes after it.
    whole = prepared.image.get("env", {}) | env
    start_file.write_text(invocation.start_script(argv, whole, task.python), encoding="utf-8")
    start_file.chmod(0o755)
    scratch.open_to_all(control)
    for folder in (run.path / "session", prepared.scratch / "home"):
        folder.mkdir()
        folder.chmod(0o755)
        if os.getuid() == 0:
            os.chown(folder, run.job.container.uid, run.job.container.gid)
    return Control(control, settings, argv)


def _open_gateway(
    run: AttemptRun, prepared: Prepared, gateway: LineService, control: Path
) -> dict[str, Any]:
    """Let the gateway listen where the container reaches it; returns where, and what it plays."""
    is_open = run.job.container.network == "host"
    return gateway.ask(
        {
            **prepared.gateway,
            "listen": "tcp:127.0.0.1:0" if is_open else f"unix:{control / 'api.sock'}",
            "log": str(run.path / "api.jsonl"),
            "token": run.token,
        }
    )


def tear_down(run: AttemptRun, prepared: Prepared, started: Started) -> None:
    """Remove the container, when all that it held has been taken out."""
    with run.phases.timed("teardown"):
        remove(run, prepared.engine, started.container.id)


def remove(run: AttemptRun, of_engine: engine.Engine, container: str) -> None:
    """A container that cannot be removed is no reason to lose the run that was made in it."""
    try:
        of_engine.remove(container)
    except InfraError as error:
        run.say(f"{error}; the next start tries again")
