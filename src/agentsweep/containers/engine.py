"""Container engine commands, as far as Podman and Docker have the same ones.

What differs is in `podman` and `docker`; which of them works here is for `engines` to find out. How
any command is called is in `client`.
"""

import contextlib
import csv
import io
import json
import re
import resource
import subprocess
import time
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from agentsweep import bounded
from agentsweep.containers.client import (
    EngineClient,
    EngineTimeout,
    engine_environment,
    last_line,
)
from agentsweep.errors import InfraError, LastingError

P = ParamSpec("P")
R = TypeVar("R")

LABEL = "agentsweep.attempt"
OWNER_LABEL = "agentsweep.owner"
# What a file may have that a command in a container makes.
FILE_BYTES = 256 * 2**20
# What moves whole images may take: they have gigabytes, and registries are slow.
IMAGE_TIMEOUT_S = 3600
# What a container's root must have before the host's userland is mounted over it.
BARE_FOLDERS = ("proc", "sys", "dev", "etc", "tmp", "run", "var")

# What a container has whatever its image says. The engines add these names themselves, with
# values that tell nothing of the host.
_PLAIN = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
_ENGINES_OWN = frozenset(("PATH", "TERM", "HOME", "HOSTNAME", "container"))


class ExecFailed(InfraError):
    """A command in a container that did not end with 0; `status` is what the engine's client says.

    125 and above, and below 0, may be the engine's own end and not the command's.
    """

    def __init__(self, message: str, status: int):
        super().__init__(message)
        self.status = status


class OutputTooLarge(InfraError):
    """A command in a container wrote more than its output may have."""


@dataclass(frozen=True)
class Mount:
    """A bind mount: host path, container path, read-only or not."""

    source: Path
    target: str
    read_only: bool = True


def bind_option(mount: Mount) -> str:
    """The value of `--mount`: a line of CSV, which holds any path; it makes no directory."""
    fields = ["type=bind", f"source={mount.source.absolute()}", f"target={mount.target}"]
    line = io.StringIO()
    csv.writer(line).writerow([*fields, *(["readonly"] if mount.read_only else [])])
    return line.getvalue().strip()


@dataclass(frozen=True)
class ContainerSpec:
    """What `Engine.create` needs to know; sizes in bytes, `cpus` as a decimal string.

    memory_bytes and cpus None mean no limit (image fixing). Swap is always closed. `cpuset` pins
    to CPUs, as the kernel lists them. With `rootfs` a directory takes the image's place (what
    `Podman.bare` makes of a spec). `map_user`: the user of this process is the same one in the
    container, where the engine maps users. `mask_cgroups`: nothing of them is seen there.
    `env`: all variables of its environment; None means those of the image's configuration.
    """

    name: str
    image: str
    labels: dict[str, str] = field(default_factory=dict)
    memory_bytes: int | None = None
    cpus: str | None = None
    cpuset: str | None = None
    pids: int | None = None
    network: str = "none"
    mounts: tuple[Mount, ...] = ()
    user: str | None = None
    map_user: bool = False
    drop_capabilities: bool = True
    kept_capabilities: tuple[str, ...] = ()
    mask_cgroups: bool = False
    cgroup_parent: str | None = None
    rootfs: Path | None = None
    env: Mapping[str, str] | None = None


@dataclass(frozen=True)
class Container:
    """A running container: engine id, name, and the host pid of its init.

    layer: the directory of this host that has what was written in it, where the engine has one.
    """

    id: str
    name: str
    pid: int
    layer: Path | None = None


class Engine(EngineClient):
    """One engine with one runtime; every method is one engine command.

    `runtime` None means the engine's own choice. `maps_users`: users of a container are others on
    the host, unless a spec says `map_user`. Raises InfraError with one sentence when the engine
    refuses.
    """

    # What its client says, and ends with 255, where it does not learn how a command ended.
    lost_command: re.Pattern[str] | None = None
    # How to mend what only a cgroup manager that takes any path can do.
    cgroupfs_hint: str

    def __init__(self, runtime: str | None, workdir: Path):
        super().__init__(runtime, workdir)
        # Why engines that would have been taken before this one were not.
        self.passed_over: tuple[str, ...] = ()
        # Of containers that were created and not started yet: the names in their environment.
        self._named: dict[str, frozenset[str]] = {}

    @abstractmethod
    def problem(self) -> str | None:
        """Why no container can be started and measured here, or None when one was started."""

    @abstractmethod
    def info(self) -> dict[str, Any]:
        """Engine name, version, runtime, storage driver, rootless or not, cgroup version."""

    @property
    @abstractmethod
    def maps_users(self) -> bool: ...

    @abstractmethod
    def bare(self, spec: ContainerSpec) -> contextlib.AbstractContextManager[ContainerSpec]:
        """`spec` with an empty root in place of its image, for the host's userland over it."""

    @abstractmethod
    def owned(self) -> list[dict[str, str]]:
        """Our containers on this host: id, attempt and owner (see `process.owner_tag`)."""

    @abstractmethod
    def pull(self, reference: str, platform: str, plain_http: bool) -> str:
        """Pull `registry/name@digest`; returns the image's id. plain_http: it has no TLS."""

    @abstractmethod
    def load_archive(self, transport: str, path: Path) -> str:
        """Load an `oci-archive` or `docker-archive`; returns the image's id."""

    def load(self, path: Path) -> str:
        """Load what `save` wrote; returns what the engine calls it."""
        said = self.call("load", "--quiet", "--input", str(path), timeout_s=IMAGE_TIMEOUT_S)
        return (said.stdout.split() or [""])[-1]

    @abstractmethod
    def save(self, image: str, target: Path) -> None:
        """Write an image, by id or name, to a file that `load` gives the same id."""

    @abstractmethod
    def push(self, image: str, target: str, plain_http: bool) -> str:
        """Push an image to `registry/name:tag`; returns the digest that it has there."""

    @abstractmethod
    def _own_options(self, spec: ContainerSpec) -> list[str]:
        """The options of `create` that this engine alone has, or has in its own way."""

    def create(self, spec: ContainerSpec) -> str:
        """Create a container whose PID 1 idles; returns its id.

        Its environment is what the spec or its image names, and nothing of this host.
        """
        environment = self._environment(spec)
        spec = replace(spec, env=environment)
        arguments = [*self._no_defaults(), *self.create_arguments(spec)]
        container_id = str(self.call("create", *arguments, finish=True).stdout).strip()
        self._named[container_id] = frozenset(environment)
        return container_id

    def _no_defaults(self) -> list[str]:
        """Options of `create` that leave out what the engine's configuration names."""
        return []

    def _environment(self, spec: ContainerSpec) -> dict[str, str]:
        if spec.env is not None:
            return _PLAIN | dict(spec.env)
        if spec.rootfs is not None:
            return dict(_PLAIN)
        pairs = (pair.partition("=") for pair in self.image_config(spec.image).get("Env") or ())
        return _PLAIN | {name: value for name, _, value in pairs}

    def create_arguments(self, spec: ContainerSpec) -> list[str]:
        """The options of `create` for a container that idles under limits."""
        init, idle = self._idle(spec)
        # A health check of the image would be measured with the agent.
        arguments = ["--name", spec.name, *init, "--entrypoint", "", "--no-healthcheck"]
        for key, value in spec.labels.items():
            arguments += ["--label", f"{key}={value}"]
        if spec.memory_bytes is not None:
            limit = str(spec.memory_bytes)
            # Without --memory-swap both engines allow as much swap again.
            arguments += ["--memory", limit, "--memory-swap", limit]
        if spec.cpus is not None:
            arguments += ["--cpus", spec.cpus]
        if spec.cpuset is not None:
            arguments += ["--cpuset-cpus", spec.cpuset]
        if spec.pids is not None:
            arguments += ["--pids-limit", str(spec.pids)]
        arguments += ["--network", spec.network]
        if spec.user:
            arguments += ["--user", spec.user]
        if spec.drop_capabilities:
            arguments += ["--cap-drop", "all", "--security-opt", "no-new-privileges"]
            for capability in spec.kept_capabilities:
                arguments += ["--cap-add", capability]
        arguments += ["--security-opt", "label=disable"]
        if spec.cgroup_parent is not None:
            arguments += ["--cgroup-parent", spec.cgroup_parent]
        for limit in ulimits():
            arguments += ["--ulimit", limit]
        arguments += self._own_options(spec)
        if spec.rootfs is not None:
            arguments += ["--rootfs", str(spec.rootfs)]
        else:
            arguments += ["--pull", "never", spec.image]
        return [*arguments, *idle]

    def _idle(self, spec: ContainerSpec) -> tuple[list[str], list[str]]:
        """Options and command of a container whose first process does nothing but reap others."""
        return ["--init"], ["sleep", "infinity"]

    def start(self, container_id: str, name: str) -> Container:
        """Start a created container and find its init on the host."""
        self.call("start", container_id, finish=True)
        record = self.inspect(container_id)
        self._refuse_foreign(record, name)
        with self.understood("inspect"):
            state = record["State"]
            pid = int(state.get("Pid") or 0) if state.get("Running") else 0
            layer = ((record.get("GraphDriver") or {}).get("Data") or {}).get("UpperDir")
            started = Container(str(record["Id"]), name, pid, Path(layer) if layer else None)
        if pid <= 0:
            raise InfraError(
                f"container {name} ended at once: its image needs `sleep`; "
                f"see `{self.name} logs {name}`"
            )
        return started

    def _refuse_foreign(self, record: dict[str, Any], name: str) -> None:
        """LastingError where the engine gave a container a variable that nobody named."""
        with self.understood("inspect"):
            named = self._named.pop(record["Id"], None)
            if named is None:
                return
            pairs = record["Config"].get("Env") or ()
            # An empty value tells nothing: it is how a proxy is kept out of a container.
            given = {name for name, _, value in (pair.partition("=") for pair in pairs) if value}
            image = record.get("Image")
        foreign = given - named - _ENGINES_OWN
        if foreign and image:
            config = self.image_config(image)
            with self.understood("image inspect"):
                foreign -= {pair.partition("=")[0] for pair in config.get("Env") or ()}
        if foreign:
            raise LastingError(
                f"{self.name} puts {', '.join(sorted(foreign))} of this host into the environment "
                f"of container {name}: remove that from the engine's configuration"
            )

    def inspect(self, name: str) -> dict[str, Any]:
        """The engine's record of a container."""
        done = self.call("inspect", "--type", "container", name)
        with self.understood("inspect"):
            return dict(json.loads(done.stdout)[0])

    def exec_arguments(
        self,
        name: str,
        *argv: str,
        user: str | None = None,
        workdir: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> list[str]:
        """The argument list that runs `argv` in a container with stdin attached.

        env: variables in place of the container's own.
        """
        options = ["--interactive"]
        options += ["--user", user] if user else []
        options += ["--workdir", workdir] if workdir else []
        for key, value in (env or {}).items():
            options += ["--env", f"{key}={value}"]
        return self.command("exec", *options, name, *argv)

    def exec(
        self,
        name: str,
        *argv: str,
        user: str | None = None,
        workdir: str | None = None,
        check: bool = True,
        timeout_s: float = 600,
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command in a container to its end."""
        arguments = self.exec_arguments(name, *argv, user=user, workdir=workdir)
        return self.call(*arguments[len(self.command()) :], check=check, timeout_s=timeout_s)

    def exec_to_file(
        self,
        name: str,
        target: Path,
        *argv: str,
        timeout_s: float = 600,
        given: bytes = b"",
        limit_bytes: int = FILE_BYTES,
        user: str | None = None,
        workdir: str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Run a command in a container and keep its output byte for byte; returns its stderr.

        given: its standard input. Raises ExecFailed where it does not end with 0, OutputTooLarge
        where it writes more than `limit_bytes`. Of a long stderr the two ends are returned.
        """
        command = self.exec_arguments(name, *argv, user=user, workdir=workdir, env=env)
        with target.open("wb") as output:
            process = subprocess.Popen(
                command,
                cwd=self.workdir,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=engine_environment(),
                start_new_session=True,
            )
            talk = bounded.Talk(process, limit_bytes, given, output)
            with process:
                try:
                    code = talk.run(timeout_s)
                except subprocess.TimeoutExpired:
                    raise EngineTimeout(
                        f"`{argv[0]}` did not end within {timeout_s:.0f} s in container {name}"
                    ) from None
                except bounded.TooMuch:
                    raise OutputTooLarge(
                        f"`{argv[0]}` in container {name} wrote more than "
                        f"{limit_bytes // 2**20} MiB"
                    ) from None
                finally:
                    process.kill()
        said = talk.errors.bytes().decode(errors="replace")
        if code != 0:
            raise ExecFailed(f"`{argv[0]}` failed in container {name}: {last_line(said)}", code)
        return said

    def remove(self, name: str) -> None:
        """Kill and remove a container with its volumes; silent where there is none."""
        done = self.call(*self._remove_arguments(name), check=False, timeout_s=120, finish=True)
        gone = "no such container" in done.stderr.lower() or "no container with" in done.stderr
        if done.returncode != 0 and not gone and self.exists(name):
            raise InfraError(f"container {name} cannot be removed: {self.complaint(done.stderr)}")

    def _remove_arguments(self, name: str) -> list[str]:
        return ["rm", "--force", "--volumes", name]

    def exists(self, name: str) -> bool:
        """Whether the engine knows a container of that name or id."""
        return self.call("inspect", "--type", "container", name, check=False).returncode == 0

    def image_id(self, reference: str) -> str | None:
        """`sha256:...` of an image in this node's storage, or None."""
        done = self.call("image", "inspect", "--format", "{{.Id}}", reference, check=False)
        if done.returncode != 0:
            return None
        found = done.stdout.strip()
        return found if found.startswith("sha256:") else f"sha256:{found}"

    def image_size_bytes(self, reference: str) -> int:
        """The size of an image's layers as the engine states it."""
        done = self.call("image", "inspect", "--format", "{{.Size}}", reference)
        with self.understood("image inspect"):
            return int(done.stdout.strip())

    def image_config(self, reference: str) -> dict[str, Any]:
        """What an image says of the containers made of it: `Env`, `Volumes`, `Cmd`, `User`..."""
        done = self.call("image", "inspect", "--format", "{{json .Config}}", reference)
        with self.understood("image inspect"):
            return dict(json.loads(done.stdout) or {})

    def commit(self, container: str, image: str, tag: str) -> None:
        """Commit a container as `tag`, with the configuration of the image it was made from."""
        config = self.image_config(image)
        changes = [f"CMD {json.dumps(config.get('Cmd') or [])}", f"USER {config.get('User') or 0}"]
        if config.get("Entrypoint"):
            changes.append(f"ENTRYPOINT {json.dumps(config['Entrypoint'])}")
        # Else a container that somebody makes of it later is ours, of a process that has ended.
        changes += [f"LABEL {name}=" for name in (LABEL, OWNER_LABEL)]
        options = [word for change in changes for word in ("--change", change)]
        self.call("commit", "--pause=false", *options, container, tag, timeout_s=IMAGE_TIMEOUT_S)


def ulimits() -> list[str]:
    """Open files and processes as far as this host's hard limits allow.

    The engines' own defaults are higher than the hard limit of some hosts, and the runtime then
    fails with "setrlimit: Operation not permitted". Podman lowers its own hard limit for
    processes to 32768 first, so more cannot be had there.
    """
    limits = []
    for name, kind, most in (
        ("nofile", resource.RLIMIT_NOFILE, 524288),
        ("nproc", resource.RLIMIT_NPROC, 32768),
    ):
        hard = resource.getrlimit(kind)[1]
        value = most if hard == resource.RLIM_INFINITY else min(hard, most)
        limits.append(f"{name}={value}:{value}")
    return limits


def host_userland(extra: tuple[str, ...] = ()) -> tuple[Mount, ...]:
    """The host's own system, read-only, over the image's: the classic configuration."""
    system = ("/usr", "/lib", "/lib64", "/etc", "/bin", "/sbin")
    mounts = [Mount(Path(path), path) for path in system if Path(path).exists()]
    mounts += [Mount(Path(path), path, read_only=False) for path in extra]
    return tuple(mounts)


def timed(function: Callable[P, R], *arguments: P.args, **options: P.kwargs) -> tuple[float, R]:
    """(seconds, result) of a call."""
    begin = time.monotonic()
    result = function(*arguments, **options)
    return time.monotonic() - begin, result
