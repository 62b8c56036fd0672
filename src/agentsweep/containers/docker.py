"""Docker, with its daemon on this machine and as root: what it has in its own way.

Its command line is a client: what it says of a container, the host pid of its init included, is
true on the daemon's machine. Whether that is this one is looked at with every container.
"""

import contextlib
import functools
import hashlib
import json
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from agentsweep.containers import skopeo
from agentsweep.containers.client import PROXIES, last_line
from agentsweep.containers.engine import (
    BARE_FOLDERS,
    IMAGE_TIMEOUT_S,
    LABEL,
    OWNER_LABEL,
    Container,
    ContainerSpec,
    Engine,
    bind_option,
    host_userland,
)
from agentsweep.errors import InfraError, LastingError
from agentsweep.host.processes import owner_tag
from agentsweep.utf8 import kernel_text

_ELSEWHERE = (
    "run agentsweep on the daemon's own machine, outside of any container (Docker Desktop has a "
    "virtual machine of its own)"
)


class Docker(Engine):
    """Docker with the daemon that its client reaches; `runtime` is one that the daemon knows."""

    name = "docker"
    install_hint = "install it (Debian: the package docker.io)"
    cgroupfs_hint = 'set "exec-opts": ["native.cgroupdriver=cgroupfs"] in /etc/docker/daemon.json'

    def command(self, *arguments: str) -> list[str]:
        return [self.name, *arguments]

    def complaint(self, said: str) -> str:
        # Advice may come behind it, and the client's own summary.
        found = re.search(r"Error response from daemon: (.*)", said)
        return found[1][:400] if found else last_line(said)

    def problem(self) -> str | None:
        try:
            raw = self._raw
        except InfraError as error:
            return str(error)
        try:
            with self.understood("info"):
                unfit = _unfit(raw)
        except InfraError as error:
            return str(error)
        return unfit or self._start_problem(raw)

    @functools.cached_property
    def _raw(self) -> dict[str, Any]:
        """What `docker info` says, which takes some hundredths of a second."""
        done = self.call("info", "--format", "{{json .}}", check=False, timeout_s=60)
        try:
            raw = dict(json.loads(done.stdout))
        except (ValueError, TypeError, RecursionError):
            raw = {}
        if raw.get("ServerVersion"):
            return raw
        if "host" in raw:
            raise LastingError("`docker` is a name of Podman here: use `container.engine: podman`")
        # Older clients end with 0 and say it in the answer.
        with self.understood("info"):
            said = str((raw.get("ServerErrors") or [last_line(done.stderr)])[0])
        raise InfraError(_no_answer(said))

    def info(self) -> dict[str, Any]:
        raw = self._raw
        with self.understood("info"):
            return {
                "name": self.name,
                "version": raw["ServerVersion"],
                "runtime": self.runtime or raw["DefaultRuntime"],
                "storage_driver": raw["Driver"],
                "rootless": _has(raw, "rootless"),
                "cgroup_version": int(raw["CgroupVersion"]),
                "cgroup_manager": raw["CgroupDriver"],
                "storage_root": raw["DockerRootDir"],
            }

    def _start_problem(self, raw: dict[str, Any]) -> str | None:
        """Why a container cannot be started and seen here; found out once per boot and daemon."""
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8")
        state = repr((boot, raw.get("ID"), raw["ServerVersion"], self.runtime))
        stamp = self.workdir / f"docker-{hashlib.sha256(state.encode()).hexdigest()[:16]}"
        if stamp.exists():
            return None
        name = f"agentsweep-probe-{os.getpid()}"
        labels = {LABEL: name, OWNER_LABEL: owner_tag()}
        try:
            with self.bare(ContainerSpec(name, "", labels, mounts=host_userland())) as spec:
                try:
                    self.start(self.create(spec), name)
                finally:
                    self.remove(name)
        except InfraError as error:
            return str(error)
        stamp.touch()
        return None

    def start(self, container_id: str, name: str) -> Container:
        container = super().start(container_id, name)
        try:
            members = kernel_text(Path(f"/proc/{container.pid}/cgroup"))
        except OSError:
            members = ""
        if container.id not in members:
            raise LastingError(
                f"Docker's daemon says that container {name} is process {container.pid}, and here "
                f"that is another one or none, so that its counters cannot be read: {_ELSEWHERE}"
            )
        return container

    @property
    def maps_users(self) -> bool:
        # `problem` refuses daemons that do.
        return False

    @contextlib.contextmanager
    def bare(self, spec: ContainerSpec) -> Iterator[ContainerSpec]:
        archive = self.workdir / f"empty-{os.getpid()}.tar"
        try:
            with tarfile.open(archive, "w") as tar:
                for name in BARE_FOLDERS:
                    folder = tarfile.TarInfo(name)
                    folder.type, folder.mode = tarfile.DIRTYPE, 0o755
                    tar.addfile(folder)
            image = self.call("import", str(archive)).stdout.strip()
        finally:
            archive.unlink(missing_ok=True)
        try:
            yield replace(spec, image=image)
        finally:
            self.call("rmi", image, check=False)

    def owned(self) -> list[dict[str, str]]:
        # Not as JSON, where labels are one text, parted by commas that their values may have too.
        columns = "\t".join(["{{.ID}}", *(f'{{{{.Label "{name}"}}}}' for name in _LABELS)])
        done = self.call(
            *("ps", "--all", "--no-trunc", "--filter", f"label={LABEL}", "--format", columns)
        )
        rows = (line.split("\t") for line in done.stdout.splitlines())
        with self.understood("ps"):
            return [{"id": id, "attempt": attempt, "owner": owner} for id, attempt, owner in rows]

    def pull(self, reference: str, platform: str, plain_http: bool) -> str:
        # The daemon itself takes registries of its own machine for plain ones.
        options = ["--platform", platform, "--quiet"]
        self.call("pull", *options, reference, timeout_s=IMAGE_TIMEOUT_S)
        return self.image_id(reference) or ""

    def load_archive(self, transport: str, path: Path) -> str:
        if transport == "docker-archive":
            return self.image_id(self.load(path)) or ""
        # Before version 25 Docker cannot read these; the image's id stays what it is.
        whole = self.workdir / f"{path.stem}-{os.getpid()}.tar"
        try:
            source = f"{transport}:{path}"
            skopeo.run("copy", "--quiet", source, f"docker-archive:{whole}", image=source)
            return self.image_id(self.load(whole)) or ""
        finally:
            whole.unlink(missing_ok=True)

    def save(self, image: str, target: Path) -> None:
        self.call("save", "--output", str(target), image, timeout_s=IMAGE_TIMEOUT_S)

    def push(self, image: str, target: str, plain_http: bool) -> str:
        self.call("tag", image, target)
        try:
            said = self.call("push", target, timeout_s=IMAGE_TIMEOUT_S).stdout
        finally:
            self.call("rmi", "--no-prune", target, check=False)
        digest = re.search(r"digest: (sha256:[0-9a-f]{64})", said)
        if digest is None:
            raise InfraError(f"docker does not say what it pushed to {target}: push it by hand")
        return digest[1]

    def _idle(self, spec: ContainerSpec) -> tuple[list[str], list[str]]:
        if all(mount.target != "/sbin" for mount in spec.mounts):
            return super()._idle(spec)
        # `--init` puts its program into /sbin, where the host's would hide it.
        program = shutil.which("docker-init")
        if program is None:
            raise LastingError(
                "`userland: host` needs docker-init on PATH: install it with dockerd"
            )
        return [], [program, "--", "sleep", "infinity"]

    def _own_options(self, spec: ContainerSpec) -> list[str]:
        # A daemon may be set to show the host's cgroups, and on cgroup v1 does so by default.
        options = ["--cgroupns", "private"]
        # What the client's config.json says of proxies gives way to what is named, even as empty.
        for name in PROXIES if _adds_proxies() else ():
            if name not in (spec.env or {}):
                options += ["--env", f"{name}="]
        for key, value in (spec.env or {}).items():
            options += ["--env", f"{key}={value}"]
        if self.runtime:
            options += ["--runtime", self.runtime]
        if spec.mask_cgroups:
            options += ["--tmpfs", "/sys/fs/cgroup:ro"]
        return options + [word for mount in spec.mounts for word in ("--mount", bind_option(mount))]


def _adds_proxies() -> bool:
    """Whether the client's configuration gives containers proxies, as far as it can be read."""
    folder = Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")
    try:
        return "proxies" in json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except (OSError, ValueError, TypeError):
        return True


_LABELS = (LABEL, OWNER_LABEL)


def _has(raw: dict[str, Any], word: str) -> bool:
    """Whether the daemon's security options name a feature."""
    return any(
        option.split(",")[0] == f"name={word}" for option in raw.get("SecurityOptions") or []
    )


def _unfit(raw: dict[str, Any]) -> str | None:
    """Why what a daemon is makes wrong numbers or none, from what `docker info` says."""
    if _has(raw, "rootless"):
        return (
            "rootless Docker gives the agent's files to a user that you are not: use Podman, or a "
            "daemon that runs as root (`docker context use default`)"
        )
    if _has(raw, "userns"):
        return (
            "the daemon's userns-remap gives the agent's files to another user: use Podman, or a "
            "daemon without it"
        )
    kernel = os.uname().release
    if raw.get("OperatingSystem") == "Docker Desktop" or raw["KernelVersion"] != kernel:
        return (
            f"Docker's daemon runs on another machine ({raw.get('Name')}, Linux "
            f"{raw['KernelVersion']}), whose counters cannot be read here: {_ELSEWHERE}"
        )
    if any("io.containerd.snapshotter" in str(pair) for pair in raw.get("DriverStatus") or []):
        return (
            "Docker keeps its images in containerd's store, where an image's id is not the digest "
            'that the lock file has: set "features": {"containerd-snapshotter": false} in '
            "/etc/docker/daemon.json and restart it"
        )
    return None


def _no_answer(said: str) -> str:
    """One sentence for what a client says that reaches no daemon."""
    place = re.search(r"\b\w+://[^\s;]+", said)
    where = place[0].rstrip(".:") if place else "its socket"
    if "permission denied" in said.lower():
        return (
            f"you may not use {where}: let root add you to its group (`usermod -aG docker "
            "$USER`) and log in again, or set DOCKER_HOST to a daemon of yours"
        )
    if "connect to the docker" in said.lower():
        return (
            f"no daemon answers at {where}: start it (`systemctl start docker`), or set "
            "DOCKER_HOST to where it listens"
        )
    return f"its daemon does not answer: {said}"
