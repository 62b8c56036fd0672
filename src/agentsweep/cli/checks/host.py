"""This machine: swap, the kernel's log, users, certificates, room on its disks."""

import contextlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from agentsweep.cli.checks.check import Check
from agentsweep.cli.checks.images import images_of
from agentsweep.config.config import Config
from agentsweep.containers import engine, images
from agentsweep.containers.image_names import is_loopback
from agentsweep.host import machine_facts
from agentsweep.host.oom_log import Victim
from agentsweep.runs.run_cell import MIN_FREE_BYTES

_LOW_DISK_BYTES = 10 * 2**30
_CERTIFICATES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),
    Path("/etc/pki/tls/certs/ca-bundle.crt"),
    Path("/etc/ssl/ca-bundle.pem"),
    Path("/etc/ssl/cert.pem"),
)


def swap(total_bytes: int) -> Check:
    if total_bytes:
        return Check(
            "swap",
            "note",
            f"the host has {total_bytes // 2**20} MiB of swap; it is closed for containers",
            "`swapoff -a` keeps the host's own swapping out of the times",
        )
    return Check("swap", "ok", "the host has none")


def kernel_log(victims: list[Victim] | None) -> Check:
    if victims is None:
        return Check(
            "kernel log",
            "note",
            "not readable: OOM victims are told apart by counters and exit states only",
            "as root: `sysctl kernel.dmesg_restrict=0`",
        )
    return Check("kernel log", "ok", "readable: OOM victims are known by name")


def mode_checks(config: Config) -> Iterator[Check]:
    settings = config.container
    yield _user(settings.uid)
    references = [image.reference for image in images_of(config).values()]
    registry = any(r.startswith("docker://") and not is_loopback(r) for r in references)
    yield _certificates(_CERTIFICATES, registry or settings.network == "host")
    yield _configuration_directory(Path(config.paths.store), settings.uid, settings.gid)


def _user(uid: int) -> Check:
    if uid == 0:
        return Check(
            "agent user",
            "fail",
            "the agent would run as root, which Claude Code refuses",
            "set container.uid to 1000",
        )
    return Check("agent user", "ok", f"runs as uid {uid}, without capabilities")


def _certificates(places: tuple[Path, ...], needed: bool) -> Check:
    """Certificates of this host: for registries, and for whatever a networked agent reaches."""
    for path in places:
        with contextlib.suppress(OSError):
            if path.stat().st_size:
                return Check("certificates", "ok", str(path))
    missing = f"no certificates of authorities (looked for {', '.join(map(str, places))})"
    cure = "install ca-certificates"
    if needed:
        return Check("certificates", "fail", f"{missing}: TLS to registries fails", cure)
    return Check("certificates", "note", f"{missing}; this sweep needs none", cure)


def _configuration_directory(store: Path, uid: int, gid: int) -> Check:
    """Whether the agent's configuration directory can be made, and given to the agent's user."""
    title, place = "configuration directory", store
    while not place.exists():
        place = place.absolute().parent
    try:
        with tempfile.TemporaryDirectory(dir=place, prefix=".doctor-") as folder:
            if os.getuid() == 0:
                os.chown(folder, uid, gid)
    except OSError as error:
        return Check(
            title,
            "fail",
            f"the agent's configuration directory cannot be made in {store}: {error.strerror}",
            "mend the permissions of the directory, or set paths.store to another one",
        )
    return Check(title, "ok", f"{store} takes the agent's files")


def disk_checks(config: Config, found: engine.Engine | None) -> Iterator[Check]:
    places = {"store": Path(config.paths.store), "results": Path(config.paths.results)}
    if found is not None:
        places["images"] = Path(found.info()["storage_root"])
    for name, path in places.items():
        free = machine_facts.free_bytes(path.absolute())
        detail = f"{free / 2**30:.1f} GiB free in {path}"
        if free < MIN_FREE_BYTES:
            yield Check(f"disk {name}", "fail", detail, "free some space")
        elif free < _LOW_DISK_BYTES:
            yield Check(f"disk {name}", "warn", detail, "a task image takes some 5 GiB")
        else:
            yield Check(f"disk {name}", "ok", detail)


def platform(machine: str) -> Iterator[Check]:
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
    if f"linux/{architecture}" != images.PLATFORM:
        yield Check(
            "platform",
            "fail",
            f"this machine is {architecture}, task images are {images.PLATFORM}",
            "use an x86-64 machine",
        )
