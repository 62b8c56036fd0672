"""Container engine commands: Podman (and Docker, whose command line is the same for these).

Every call runs in a scratch directory of ours, because conmon drops a file named `oom` into the
working directory of the call when a container meets its memory limit.
"""

import contextlib
import functools
import hashlib
import json
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agentsweep import strays
from agentsweep.errors import InfraError

LABEL = "agentsweep.attempt"
OWNER_LABEL = "agentsweep.owner"
# How long a command that changes a container may take after its caller was interrupted.
_FINISH_S = 30
INSTALL_HINT = "install it with `make system`"

_ENVIRONMENT = (
    *("PATH", "HOME", "USER", "LOGNAME", "LANG", "TMPDIR"),
    *("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "DBUS_SESSION_BUS_ADDRESS"),
    *("DOCKER_HOST", "DOCKER_CONFIG", "CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF"),
    *("CONTAINERS_REGISTRIES_CONF", "REGISTRY_AUTH_FILE", "SSL_CERT_FILE", "SSL_CERT_DIR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"),
)


class EngineTimeout(InfraError):
    """An engine call that did not end within its time."""


@dataclass(frozen=True)
class Mount:
    """A bind mount: host path, container path, read-only or not."""

    source: Path
    target: str
    read_only: bool = True

    def argument(self) -> str:
        return f"{self.source.absolute()}:{self.target}:{'ro' if self.read_only else 'rw'}"


@dataclass(frozen=True)
class ContainerSpec:
    """What `Engine.create` needs to know; sizes in bytes, `cpus` as a decimal string.

    memory_bytes and cpus None mean no limit (image fixing). Swap is always closed. `cpuset` pins
    to CPUs, as the kernel lists them. With `rootfs` a directory takes the image's place (Podman
    only), which needs no image at all.
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
    keep_id: bool = False
    drop_capabilities: bool = True
    mask_cgroups: bool = False
    cgroup_parent: str | None = None
    rootfs: Path | None = None


@dataclass(frozen=True)
class Container:
    """A running container: engine id, name, and the host pid of its init."""

    id: str
    name: str
    pid: int


class Engine:
    """One engine with one runtime; every method is one engine command.

    Raises InfraError with one sentence when the engine refuses.
    """

    def __init__(self, name: str, runtime: str | None, workdir: Path):
        self.name = name
        self.runtime = runtime
        self.workdir = workdir

    def command(self, *arguments: str) -> list[str]:
        """The argument list of one engine call."""
        runtime = ["--runtime", self.runtime] if self.name == "podman" and self.runtime else []
        return [self.name, *runtime, *arguments]

    def call(
        self, *arguments: str, timeout_s: float = 600, check: bool = True, finish: bool = False
    ) -> subprocess.CompletedProcess:
        """Run an engine command to its end and capture its output as text.

        finish: when the caller is interrupted, let the command end all the same. One that is
        killed while it changes a container leaves something that the engine no longer knows.
        """
        try:
            done = self._run(self.command(*arguments), timeout_s, finish)
        except FileNotFoundError:
            raise InfraError(f"{self.name} is not installed: {INSTALL_HINT}") from None
        except subprocess.TimeoutExpired:
            raise EngineTimeout(
                f"`{self.name} {arguments[0]}` gave no answer within {timeout_s:.0f} s: "
                f"see whether `{self.name} ps` hangs too"
            ) from None
        if check and done.returncode != 0:
            raise InfraError(
                f"`{self.name} {' '.join(arguments[:2])}` failed: {last_line(done.stderr)}"
            )
        return done

    def _run(
        self, command: list[str], timeout_s: float, finish: bool
    ) -> subprocess.CompletedProcess:
        process = subprocess.Popen(
            command,
            cwd=self.workdir,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=engine_environment(),
            # Ctrl-C in a terminal is for the runner, which then cleans up with the engine.
            start_new_session=True,
        )
        with process:
            try:
                said = process.communicate(timeout=timeout_s)
            except BaseException as error:
                try:
                    if finish and not isinstance(error, subprocess.TimeoutExpired):
                        with contextlib.suppress(subprocess.TimeoutExpired):
                            process.communicate(timeout=_FINISH_S)
                finally:
                    process.kill()
                raise
        return subprocess.CompletedProcess(command, process.returncode, *said)

    def info(self) -> dict:
        """Engine name, version, runtime, storage driver, rootless or not, cgroup version.

        Asked once per boot, engine binary and configuration, because the engine takes a tenth of a
        second to answer.
        """
        stamp = self.workdir / f"info-{self.name}-{self.runtime}-{_state_of_engine(self.name)}"
        with contextlib.suppress(OSError, ValueError):
            return json.loads(stamp.read_text())
        found = self._ask_info()
        part = stamp.with_name(f"{stamp.name}.{os.getpid()}")
        part.write_text(json.dumps(found))
        part.rename(stamp)
        return found

    def _ask_info(self) -> dict:
        raw = json.loads(self.call("info", "--format", "json", timeout_s=60).stdout)
        if self.name == "docker":
            return {
                "name": "docker",
                "version": raw["ServerVersion"],
                "runtime": raw["DefaultRuntime"],
                "storage_driver": raw["Driver"],
                "rootless": any("rootless" in o for o in raw.get("SecurityOptions") or []),
                "cgroup_version": int(raw["CgroupVersion"]),
                "cgroup_manager": raw["CgroupDriver"],
                "storage_root": raw["DockerRootDir"],
            }
        host, store = raw["host"], raw["store"]
        return {
            "name": "podman",
            "version": raw["version"]["Version"],
            "runtime": self.runtime or host["ociRuntime"]["name"],
            "storage_driver": store["graphDriverName"],
            "rootless": host["security"]["rootless"],
            "cgroup_version": int(host["cgroupVersion"].lstrip("v")),
            "cgroup_manager": host["cgroupManager"],
            "storage_root": store["graphRoot"],
        }

    def create(self, spec: ContainerSpec) -> str:
        """Create a container whose PID 1 idles; returns its id."""
        arguments = create_arguments(self.name, spec)
        return self.call("create", *arguments, finish=True).stdout.strip()

    def start(self, container_id: str, name: str) -> Container:
        """Start a created container and find its init on the host."""
        self.call("start", container_id, finish=True)
        state = self.inspect(container_id)["State"]
        if not state.get("Running") or not state.get("Pid"):
            raise InfraError(
                f"container {name} ended at once: its image needs `sleep`; "
                f"see `{self.name} logs {name}`"
            )
        return Container(container_id, name, int(state["Pid"]))

    def inspect(self, name: str) -> dict:
        """The engine's record of a container."""
        return json.loads(self.call("inspect", "--type", "container", name).stdout)[0]

    def exec_arguments(
        self, name: str, *argv: str, user: str | None = None, workdir: str | None = None
    ) -> list[str]:
        """The argument list that runs `argv` in a container with stdin attached."""
        options = ["--interactive"]
        options += ["--user", user] if user else []
        options += ["--workdir", workdir] if workdir else []
        return self.command("exec", *options, name, *argv)

    def exec(
        self,
        name: str,
        *argv: str,
        user: str | None = None,
        workdir: str | None = None,
        check: bool = True,
        timeout_s: float = 600,
    ) -> subprocess.CompletedProcess:
        """Run a command in a container to its end."""
        arguments = self.exec_arguments(name, *argv, user=user, workdir=workdir)
        return self.call(*arguments[len(self.command()) :], check=check, timeout_s=timeout_s)

    def exec_to_file(
        self, name: str, target: Path, *argv: str, timeout_s: float = 600, **where
    ) -> str:
        """Run a command in a container and keep its output byte for byte; returns its stderr."""
        arguments = self.exec_arguments(name, *argv, **where)
        with target.open("wb") as output:
            try:
                done = subprocess.run(
                    arguments,
                    cwd=self.workdir,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.PIPE,
                    timeout=timeout_s,
                    check=False,
                    env=engine_environment(),
                    start_new_session=True,
                )
            except subprocess.TimeoutExpired:
                raise InfraError(
                    f"`{argv[0]}` did not end within {timeout_s:.0f} s in container {name}"
                ) from None
        said = done.stderr.decode(errors="replace")
        if done.returncode != 0:
            raise InfraError(f"`{argv[0]}` failed in container {name}: {last_line(said)}")
        return said

    def remove(self, name: str) -> None:
        """Kill and remove a container with its volumes; silent where there is none."""
        kill_now = ["--time", "0"] if self.name == "podman" else []
        done = self.call(
            *("rm", "--force", "--volumes", *kill_now, name),
            check=False,
            timeout_s=120,
            finish=True,
        )
        clean = self.name != "podman" or strays.remove(name, engine_environment())
        gone = "no such container" in done.stderr.lower() or "no container with" in done.stderr
        if done.returncode != 0 and not gone and self.exists(name):
            raise InfraError(f"container {name} cannot be removed: {last_line(done.stderr)}")
        if not clean:
            raise InfraError(f"container {name} is removed, but its monitor still runs: kill it")

    def exists(self, name: str) -> bool:
        """Whether the engine knows a container of that name or id."""
        return self.call("inspect", "--type", "container", name, check=False).returncode == 0

    def owned(self) -> list[dict[str, str]]:
        """Our containers on this host: id, attempt and owner (see `process.owner_tag`)."""
        done = self.call(
            "ps", "--all", "--no-trunc", "--filter", f"label={LABEL}", "--format", "json"
        )
        if self.name == "docker":
            rows = [json.loads(line) for line in done.stdout.splitlines()]
            for row in rows:
                row["Labels"] = dict(p.split("=", 1) for p in row["Labels"].split(",") if "=" in p)
                row["Id"] = row["ID"]
        else:
            rows = json.loads(done.stdout or "[]") or []
        return [
            {
                "id": row["Id"],
                "attempt": row["Labels"].get(LABEL, ""),
                "owner": row["Labels"].get(OWNER_LABEL, ""),
            }
            for row in rows
        ]

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
        return int(done.stdout.strip())


def create_arguments(engine: str, spec: ContainerSpec) -> list[str]:
    """The options of `create` for a container that idles under limits."""
    arguments = ["--name", spec.name, "--init", "--entrypoint", "sleep"]
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
    if spec.keep_id:
        arguments += ["--userns", "keep-id"]
    if spec.user:
        arguments += ["--user", spec.user]
    if spec.drop_capabilities:
        arguments += ["--cap-drop", "all", "--security-opt", "no-new-privileges"]
    arguments += ["--security-opt", "label=disable"]
    if spec.mask_cgroups and engine == "podman":
        arguments += ["--security-opt", "mask=/sys/fs/cgroup"]
    if spec.cgroup_parent is not None:
        arguments += ["--cgroup-parent", spec.cgroup_parent]
    for limit in ulimits():
        arguments += ["--ulimit", limit]
    for mount in spec.mounts:
        arguments += ["--volume", mount.argument()]
    if spec.rootfs is not None:
        return [*arguments, "--rootfs", str(spec.rootfs), "infinity"]
    return [*arguments, "--pull", "never", spec.image, "infinity"]


@contextlib.contextmanager
def empty_rootfs(parent: Path) -> Iterator[Path]:
    """A directory that is a container's root once the host's userland is mounted over it."""
    rootfs = parent / f"rootfs-{os.getpid()}"
    for name in ("proc", "sys", "dev", "etc", "tmp", "run", "var"):
        (rootfs / name).mkdir(parents=True, exist_ok=True)
    try:
        yield rootfs
    finally:
        shutil.rmtree(rootfs, ignore_errors=True)


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


def find_engine(name: str, runtime: str, workdir: Path) -> Engine:
    """The engine and runtime that the configuration asks for, `auto` meaning: one that works here.

    Podman goes before Docker. The runtime is found by starting a container without an image, once
    per boot and engine version; the answer is remembered beside `workdir`.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    names = ["podman", "docker"] if name == "auto" else [name]
    present = [candidate for candidate in names if shutil.which(candidate)]
    if not present:
        raise InfraError(
            f"no container engine: {' or '.join(names)} is not on PATH; {INSTALL_HINT}"
        )
    reasons = []
    for candidate in present:
        if candidate == "docker":
            engine = Engine("docker", None if runtime == "auto" else runtime, workdir)
            done = engine.call("version", "--format", "{{.Server.Version}}", check=False)
            if done.returncode == 0:
                return engine
            reasons.append(f"docker: {last_line(done.stderr)}")
            continue
        for found in _runtimes(runtime):
            problem = _runtime_problem(found, workdir)
            if problem is None:
                return Engine("podman", found, workdir)
            reasons.append(f"podman with {found}: {problem}")
    raise InfraError(
        f"no container can be started here ({'; '.join(reasons)}): run `agentsweep doctor`"
    )


def _runtimes(wanted: str) -> list[str]:
    if wanted != "auto":
        return [wanted]
    hybrid = Path("/sys/fs/cgroup/memory").is_dir()
    # crun refuses hybrid cgroup hosts and is the better one on cgroup v2.
    order = ["runc", "crun"] if hybrid else ["crun", "runc"]
    return [name for name in order if shutil.which(name)] or ["runc"]


@functools.cache
def _runtime_problem(runtime: str, workdir: Path) -> str | None:
    """Why a container of this runtime cannot be started here, or None when one did."""
    if shutil.which(runtime) is None:
        return "it is not installed"
    stamp = workdir / f"runtime-{runtime}-{_state_of_engine('podman', runtime)}"
    if stamp.exists():
        return None
    engine = Engine("podman", runtime, workdir)
    with empty_rootfs(workdir) as rootfs:
        done = engine.call(
            "run", "--rm", "--network", "none", *_host_userland_arguments(),
            *[word for limit in ulimits() for word in ("--ulimit", limit)],
            "--rootfs", str(rootfs), "/bin/true",
            check=False, timeout_s=60,
        )  # fmt: skip
    if done.returncode != 0:
        return last_line(done.stderr)
    stamp.touch()
    return None


def _state_of_engine(*binaries: str) -> str:
    """A hash that changes with the boot, the engine's binaries and its configuration files."""
    home = Path(os.environ.get("XDG_CONFIG_HOME", Path.home() / ".config"))
    folders = (Path("/etc/containers"), home / "containers")
    paths = [Path(shutil.which(name) or name) for name in binaries]
    paths += [folder / f"{name}.conf" for folder in folders for name in ("storage", "containers")]
    named = ("CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF")
    paths += [Path(os.environ[name]) for name in named if os.environ.get(name)]
    state = [Path("/proc/sys/kernel/random/boot_id").read_text(), os.environ.get("DOCKER_HOST")]
    for path in paths:
        state.append(f"{path} {path.stat().st_mtime_ns if path.exists() else None}")
    return hashlib.sha256(repr(state).encode()).hexdigest()[:16]


def _host_userland_arguments() -> list[str]:
    return [word for mount in host_userland() for word in ("--volume", mount.argument())]


def host_userland(extra: tuple[str, ...] = ()) -> tuple[Mount, ...]:
    """The host's own system, read-only, over the image's: the classic configuration."""
    system = ("/usr", "/lib", "/lib64", "/etc", "/bin", "/sbin")
    mounts = [Mount(Path(path), path) for path in system if Path(path).exists()]
    mounts += [Mount(Path(path), path, read_only=False) for path in extra]
    return tuple(mounts)


def engine_environment() -> dict[str, str]:
    """The environment of engine calls: no credential can reach an engine that never saw one."""
    return {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}


def last_line(text: str) -> str:
    """The last line of an engine's complaint that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:400] if lines else "no message"


def timed(function, *arguments, **kwargs):
    """(seconds, result) of a call."""
    begin = time.monotonic()
    result = function(*arguments, **kwargs)
    return time.monotonic() - begin, result
