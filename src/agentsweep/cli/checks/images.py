"""The images of the sweep: locked, fixed, and the agent can work in them."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from agentsweep.agents.claude_code import invocation
from agentsweep.cli.checks.agents import START_TIMEOUT_S, silent, start_problem
from agentsweep.cli.checks.check import Check
from agentsweep.config.config import Config
from agentsweep.containers import client, engine
from agentsweep.errors import InfraError
from agentsweep.host import scratch
from agentsweep.host.processes import owner_tag
from agentsweep.runs.spec import ImageRef

# What a run mounts, and its start script, which the agent's user must be able to run.
_START = "start"
_LOOK = (
    'id -u; (: > "$0/written") 2>/dev/null && echo writable || echo read-only; '
    "command -v bash >/dev/null && command -v mkfifo >/dev/null && echo marks || echo unmarked; "
    f"{invocation.CONTROL}/{_START} 2>/dev/null || echo closed"
).replace("$0", invocation.CONFIG_DIR)


def images_of(config: Config) -> dict[str, ImageRef]:
    """The image of each task of the sweep."""
    return {task: config.image_of(task) for task in sorted({c.task for c in config.cells()})}


def image_checks(config: Config, found: engine.Engine | None) -> Iterator[Check]:
    if shutil.which("skopeo") is None:
        yield Check("skopeo", "fail", "not installed; `lock` needs it", "run `make system`")
    for task, image in images_of(config).items():
        title = f"image {task}"
        if image.digest is None:
            cure = "run `snakemake --cores 1 lock`"
            yield Check(title, "fail", f"{image.reference} is not locked", cure)
        elif found is None or found.image_id(image.tag) is None:
            cure = "`snakemake` does it before the first run, or `snakemake --cores 1 images`"
            yield Check(title, "note", "locked; not yet fixed on this node", cure)
        else:
            yield _image_probe(config, found, image, task)


def _image_probe(config: Config, found: engine.Engine, image: ImageRef, task: str) -> Check:
    """Start the image as a run does, and see whether the agent can work in it."""
    title, container = f"image {task}", config.container
    cell = next(cell for cell in config.cells() if cell.task == task)
    binary = config.job(cell).agent.binary.resolve()
    if not binary.is_file():
        return Check(title, "note", "locked and fixed; nothing more is known without the agent")
    name = f"agentsweep-doctor-image-{os.getpid()}"
    classic = container.userland == "host"
    with tempfile.TemporaryDirectory(prefix="agentsweep-doctor-") as folder:
        session, control = Path(folder) / "session", Path(folder) / "control"
        session.mkdir()
        (control / Path(invocation.CONFIG_DIR).name).mkdir(parents=True)
        start = control / _START
        start.write_text("#!/bin/sh\necho open\n", encoding="utf-8")
        start.chmod(0o700)
        scratch.open_to_all(control)
        if os.getuid() == 0:
            os.chown(session, container.uid, container.gid)
        spec = engine.ContainerSpec(
            name=name,
            image=image.tag,
            labels={engine.LABEL: name, engine.OWNER_LABEL: owner_tag()},
            user=f"{container.uid}:{container.gid}",
            map_user=found.maps_users,
            mounts=(
                *(engine.host_userland(tuple(container.host_mounts)) if classic else ()),
                engine.Mount(binary, invocation.CONTAINER_BINARY),
                engine.Mount(control, invocation.CONTROL),
                engine.Mount(session, invocation.CONFIG_DIR, read_only=False),
            ),
        )
        try:
            started = found.start(found.create(spec), name)
            done = found.exec(
                started.id,
                *(invocation.CONTAINER_BINARY, "--version"),
                check=False,
                timeout_s=START_TIMEOUT_S,
            )
            seen = found.exec(started.id, "sh", "-c", _LOOK, check=False)
        except InfraError as error:
            if "gave no answer" in str(error):
                return Check(title, "fail", *silent("the agent in it"))
            cure = f"see the message; `{found.name} rmi` the image to have it made again"
            return Check(title, "fail", str(error), cure)
        finally:
            found.remove(name)
    return _image_verdict(title, done, seen.stdout)


def _image_verdict(title: str, done: subprocess.CompletedProcess[str], seen: str) -> Check:
    """`done`: the agent's `--version` in the container; `seen`: what `_LOOK` printed there."""
    uid, writable, marks, started = [*seen.split(), "", "", "", ""][:4]
    if done.returncode != 0:
        detail, cure = start_problem(client.last_line(done.stderr or done.stdout))
        return Check(title, "fail", detail, cure)
    if uid == "0":
        return Check(
            title, "fail", "the agent would be root in it, which it refuses", "set container.uid"
        )
    if writable != "writable":
        return Check(
            title,
            "fail",
            "the agent's configuration directory is not writable in it",
            "see the id mapping (`podman unshare cat /proc/self/uid_map`) and set container.uid to "
            "your own id",
        )
    if started != "open":
        return Check(
            title,
            "fail",
            "the agent's user cannot run what is mounted from this host",
            f"let TMPDIR name a directory on a file system without noexec (it is in "
            f"{tempfile.gettempdir()})",
        )
    if marks != "marks":
        return Check(
            title,
            "warn",
            "it has no bash or no mkfifo: tool calls get no exact peaks",
            "install bash and coreutils in the image",
        )
    return Check(title, "ok", "locked, fixed, and the agent starts in it")
