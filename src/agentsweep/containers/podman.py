"""Podman, as root or rootless: what it has in its own way.

The runtime is found by starting a container without an image, once per boot, engine binary and
configuration; so is what `podman info` says, which takes a tenth of a second.
"""

import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentsweep.containers import seccomp, strays
from agentsweep.containers.client import engine_environment, last_line
from agentsweep.containers.engine import (
    BARE_FOLDERS,
    IMAGE_TIMEOUT_S,
    LABEL,
    OWNER_LABEL,
    ContainerSpec,
    Engine,
    Mount,
    bind_option,
    host_userland,
    ulimits,
)
from agentsweep.errors import InfraError

# Else the host's proxies, and with some configurations all its variables, are in each container.
_NOTHING_OF_THE_HOST = ("--http-proxy=false", "--env-host=false")
# The first version that can leave out what containers.conf names.
_UNSETENV = (4, 1)
# Variables that name other configuration files than the usual ones.
_CONFIGURATION = ("CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF")


class Podman(Engine):
    """Podman with one OCI runtime."""

    name = "podman"
    install_hint = "install it with `make system`"
    cgroupfs_hint = "set cgroup_manager to cgroupfs in containers.conf"
    # Its monitor (conmon) was killed and has not written the exit status down.
    lost_command = re.compile(
        r"Error: timed out waiting for file .*/exit/.*: internal libpod error"
    )

    def command(self, *arguments: str) -> list[str]:
        runtime = ["--runtime", self.runtime] if self.runtime else []
        return [self.name, *runtime, *arguments]

    def problem(self) -> str | None:
        return _runtime_problem(self.runtime, self.workdir)

    def info(self) -> dict[str, Any]:
        stamp = self.workdir / f"facts-{self.name}-{self.runtime}-{_state_of_engine(self.name)}"
        with contextlib.suppress(OSError, ValueError):
            known: dict[str, Any] = json.loads(stamp.read_text(encoding="utf-8"))
            return known
        found = self._ask_info()
        part = stamp.with_name(f"{stamp.name}.{os.getpid()}")
        part.write_text(json.dumps(found), encoding="utf-8")
        part.rename(stamp)
        return found

    def _ask_info(self) -> dict[str, Any]:
        done = self.call("info", "--format", "json", timeout_s=60)
        with self.understood("info"):
            raw = json.loads(done.stdout)
            host, store = raw["host"], raw["store"]
            return {
                "name": self.name,
                "version": raw["version"]["Version"],
                "runtime": self.runtime or host["ociRuntime"]["name"],
                "storage_driver": store["graphDriverName"],
                "rootless": host["security"]["rootless"],
                "cgroup_version": int(host["cgroupVersion"].lstrip("v")),
                "cgroup_manager": host["cgroupManager"],
                "storage_root": store["graphRoot"],
                "seccomp_profile": host["security"].get("seccompProfilePath") or None,
            }

    @property
    def maps_users(self) -> bool:
        return bool(self.info()["rootless"])

    @contextlib.contextmanager
    def bare(self, spec: ContainerSpec) -> Iterator[ContainerSpec]:
        with _empty_root(self.workdir) as root:
            yield replace(spec, rootfs=root)

    def owned(self) -> list[dict[str, str]]:
        done = self.call(
            *("ps", "--all", "--no-trunc", "--filter", f"label={LABEL}", "--format", "json")
        )
        with self.understood("ps"):
            known = [
                {
                    "id": str(row["Id"]),
                    "attempt": row["Labels"].get(LABEL, ""),
                    "owner": row["Labels"].get(OWNER_LABEL, ""),
                }
                for row in json.loads(done.stdout or "[]") or []
            ]
        ids = {container["id"] for container in known}
        # Podman has forgotten these, and the runtime or the kernel may not have.
        return known + [
            {"id": note.container_id, "attempt": note.name, "owner": note.owner}
            for note in strays.noted(self.workdir)
            if note.container_id not in ids
        ]

    def create(self, spec: ContainerSpec) -> str:
        made = super().create(spec)
        owner = spec.labels.get(OWNER_LABEL)
        if owner:
            strays.note(self.workdir, strays.Note(made, spec.name, owner))
        return made

    def remove(self, name: str) -> None:
        notes = strays.noted(self.workdir)
        ids = [note.container_id for note in notes if name in (note.container_id, note.name)]
        try:
            super().remove(name)
        except InfraError:
            for container_id in ids or [self.inspect(name)["Id"]]:
                self._unblock(container_id)
            super().remove(name)
        if not strays.remove(name, engine_environment()):
            raise InfraError(f"container {name} is removed, but its monitor still runs: kill it")
        for container_id in ids:
            if not strays.purge(container_id, engine_environment()):
                raise InfraError(
                    f"container {name} is removed, but {self.runtime or 'its runtime'} or a cgroup "
                    f"still has {container_id[:12]}: see what its processes wait for with `ps`"
                )
            strays.forget(self.workdir, container_id)

    def _unblock(self, container_id: str) -> None:
        """Take away what keeps Podman from removing a container, as far as it is known."""
        paused = self.inspect(container_id)["State"].get("Paused")
        if paused and strays.freeze_again(container_id):
            return
        # Its monitor may be dead, so that Podman waits for an end that was never written down.
        strays.purge(container_id, engine_environment())

    def _remove_arguments(self, name: str) -> list[str]:
        # Without this it waits for the init's own end first.
        return ["rm", "--force", "--volumes", "--time", "0", name]

    def pull(self, reference: str, platform: str, plain_http: bool) -> str:
        options = ["--platform", platform, "--quiet", *_tls(plain_http)]
        self.call("pull", *options, reference, timeout_s=IMAGE_TIMEOUT_S)
        return self.image_id(reference) or ""

    def load_archive(self, transport: str, path: Path) -> str:
        said = self.call("pull", "--quiet", f"{transport}:{path}", timeout_s=IMAGE_TIMEOUT_S)
        return self.image_id(said.stdout.split()[-1]) or ""

    def save(self, image: str, target: Path) -> None:
        # Each manifest's own format: in the other one the configuration, and so the id, differs.
        said = self.call("image", "inspect", "--format", "{{.ManifestType}}", image).stdout
        kind = "docker-archive" if "docker" in said else "oci-archive"
        options = ["--format", kind, "--output", str(target)]
        self.call("save", *options, image, timeout_s=IMAGE_TIMEOUT_S)

    def push(self, image: str, target: str, plain_http: bool) -> str:
        note = self.workdir / f"{target.rpartition(':')[2]}.{os.getpid()}.digest"
        options = ["--quiet", *_tls(plain_http), "--digestfile", str(note)]
        try:
            self.call("push", *options, image, f"docker://{target}", timeout_s=IMAGE_TIMEOUT_S)
            return note.read_text(encoding="utf-8").strip()
        finally:
            note.unlink(missing_ok=True)

    def _no_defaults(self) -> list[str]:
        info = self.info()
        # Earlier versions add the names of containers.conf, which `start` then refuses.
        options = ["--unsetenv-all"] if _version(info["version"]) >= _UNSETENV else []
        # None where the kernel or this Podman was built without seccomp.
        if info["seccomp_profile"] is not None:
            made = seccomp.derived(Path(info["seccomp_profile"]), self.workdir)
            options += ["--security-opt", f"seccomp={made}"]
        return options

    def _own_options(self, spec: ContainerSpec) -> list[str]:
        options = [*_NOTHING_OF_THE_HOST]
        for key, value in (spec.env or {}).items():
            options += ["--env", f"{key}={value}"]
        if spec.map_user:
            options += ["--userns", "keep-id"]
        if spec.mask_cgroups:
            options += ["--security-opt", "mask=/sys/fs/cgroup"]
        return [*options, *_volumes(spec.mounts)]


def candidates(runtime: str, workdir: Path) -> list[Podman]:
    """Podman with each runtime that the configuration allows, the better one first."""
    if runtime != "auto":
        return [Podman(runtime, workdir)]
    hybrid = Path("/sys/fs/cgroup/memory").is_dir()
    # crun refuses hybrid cgroup hosts and is the better one on cgroup v2.
    order = ["runc", "crun"] if hybrid else ["crun", "runc"]
    found = [name for name in order if shutil.which(name)] or ["runc"]
    return [Podman(name, workdir) for name in found]


def _version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]{1,9}", text)[:2])


def _tls(plain_http: bool) -> list[str]:
    return ["--tls-verify=false"] if plain_http else []


def _volumes(mounts: tuple[Mount, ...]) -> list[str]:
    arguments = []
    for mount in mounts:
        source = str(mount.source.absolute())
        if ":" in source + mount.target:
            # `--volume` splits at colons; `--mount` is a line of CSV.
            arguments += ["--mount", bind_option(mount)]
            continue
        mode = "ro" if mount.read_only else "rw"
        arguments += ["--volume", f"{source}:{mount.target}:{mode}"]
    return arguments


@functools.cache
def _runtime_problem(runtime: str, workdir: Path) -> str | None:
    """Why a container of this runtime cannot be started here, or None when one did."""
    if shutil.which(runtime) is None:
        return f"{runtime} is not installed"
    stamp = workdir / f"runtime-{runtime}-{_state_of_engine('podman', runtime)}"
    if stamp.exists():
        return None
    with _empty_root(workdir) as root:
        done = Podman(runtime, workdir).call(
            "run", "--rm", "--network", "none", *_NOTHING_OF_THE_HOST, *_volumes(host_userland()),
            *[word for limit in ulimits() for word in ("--ulimit", limit)],
            "--rootfs", str(root), "/bin/true",
            check=False, timeout_s=60,
        )  # fmt: skip
    if done.returncode != 0:
        return f"with {runtime}: {last_line(done.stderr)}"
    stamp.touch()
    return None


def _state_of_engine(*binaries: str) -> str:
    """A hash that changes with the boot, the engine's binaries and its configuration."""
    home = Path(os.environ.get("XDG_CONFIG_HOME", Path.home() / ".config"))
    folders = (Path("/etc/containers"), home / "containers")
    paths = [Path(shutil.which(name) or name) for name in binaries]
    paths += [folder / f"{name}.conf" for folder in folders for name in ("storage", "containers")]
    paths += [Path(os.environ[name]) for name in _CONFIGURATION if os.environ.get(name)]
    state = [Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8")]
    for path in paths:
        state.append(f"{path} {path.stat().st_mtime_ns if path.exists() else None}")
    return hashlib.sha256(repr(state).encode()).hexdigest()[:16]


@contextlib.contextmanager
def _empty_root(parent: Path) -> Iterator[Path]:
    """A directory that is a container's root once the host's userland is mounted over it."""
    root = parent / f"rootfs-{os.getpid()}"
    for name in BARE_FOLDERS:
        (root / name).mkdir(parents=True, exist_ok=True)
    try:
        yield root
    finally:
        shutil.rmtree(root, ignore_errors=True)
