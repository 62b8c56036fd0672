"""Everything that has to be right on a host, checked at once, each with how to mend it."""

import contextlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from agentsweep.agents.claude_code import invocation
from agentsweep.config import model_settings
from agentsweep.containers import engine, engines, images, slurm_scope
from agentsweep.containers.image_names import is_loopback
from agentsweep.cpu_modes import CPUSET, QUOTA
from agentsweep.errors import AgentsweepError, ConfigError, InfraError
from agentsweep.host import limits, machine_facts, scratch
from agentsweep.host.cgroup import reader_for_pid
from agentsweep.host.oom_log import OomLog
from agentsweep.host.processes import owner_tag
from agentsweep.runs.run_cell import MIN_FREE_BYTES
from agentsweep.runs.spec import ImageRef

_PROBE_MEMORY_BYTES = 64 * 2**20
_PROBE_CPUS = "0.2"
_LOW_DISK_BYTES = 10 * 2**30
_START_TIMEOUT_S = 60
_CERTIFICATES = (
    Path("/etc/ssl/certs/ca-certificates.crt"),
    Path("/etc/pki/tls/certs/ca-bundle.crt"),
    Path("/etc/ssl/ca-bundle.pem"),
    Path("/etc/ssl/cert.pem"),
)
# What the kernel, the loader and a runtime say when a program's libraries are not there.
_LIBRARY_WORDS = (
    *("error while loading shared libraries", "GLIBC_", "not found (required by"),
    *("Error relocating", "Error loading shared library", "symbol not found", "ld-linux"),
)


@dataclass(frozen=True)
class Check:
    """One finding: `state` is ok, note, warn or fail; `cure` is empty where none is needed."""

    name: str
    state: str
    detail: str
    cure: str = ""


def examine(config) -> list[Check]:
    """All checks for this host under a configuration, in the order in which they matter."""
    found, checks = _engine_checks(config)
    checks += [_swap(machine_facts.facts()["swap_total_bytes"]), _kernel_log(OomLog("/").victims())]
    checks += _all("agent", _agent_checks(config))
    checks += _all("credential", _credential_checks(config))
    checks += _all("mode", _mode_checks(config))
    checks += _all("images", _image_checks(config, found))
    checks += _all("disk", _disk_checks(config, found))
    checks += _all("stall limit", _limit_settings(config))
    return [*checks, *_platform(os.uname().machine)]


def check_limits(config) -> None:
    """InfraError, with the cure, where this host has no engine or a run's limits would not hold.

    It starts one small container and reads its limits back from the kernel, in about a second:
    for the start of a sweep, before anything is pulled or spent.
    """
    settings = config["container"]
    found = engines.find_engine(settings["engine"], settings["runtime"], scratch.engine_dir())
    limits.check_host(found.info(), settings["uid"])
    job = slurm_scope.ClusterJob.here() if settings["cgroup_parent"] == "job" else None
    wanted = _probe_spec(slurm_scope.parent_for(job, found) if job else None, "start")
    with found.bare(wanted) as spec:
        try:
            container = found.start(found.create(spec), spec.name)
            effective = reader_for_pid(container.pid).effective_limits()
        finally:
            found.remove(spec.name)
    asked = {
        "memory_bytes": _PROBE_MEMORY_BYTES,
        "cpus": _PROBE_CPUS,
        "cpu_mode": QUOTA,
        "cpuset": None,
    }
    differences = limits.limit_differences(asked, effective)
    if differences:
        raise InfraError(
            f"this host does not enforce limits, so that nothing would be measured: "
            f"{'; '.join(differences)}: run `agentsweep doctor`"
        )


def _probe_spec(cgroup_parent: str | None, what: str) -> engine.ContainerSpec:
    """A small container of the host's own userland, to try limits with."""
    name = f"agentsweep-doctor-{what}-{os.getpid()}"
    return engine.ContainerSpec(
        name=name,
        image="",
        labels={engine.LABEL: name, engine.OWNER_LABEL: owner_tag()},
        memory_bytes=_PROBE_MEMORY_BYTES,
        cpus=_PROBE_CPUS,
        pids=64,
        mounts=engine.host_userland(),
        cgroup_parent=cgroup_parent,
    )


def _all(title: str, checks: Iterator[Check]) -> list[Check]:
    """What the checks say; one that breaks off is a failure too, and hides no other."""
    done = []
    try:
        done.extend(checks)
    except (AgentsweepError, OSError) as error:
        done.append(Check(title, "fail", str(error), "mend what the message names"))
    return done


def _engine_checks(config) -> tuple[engine.Engine | None, list[Check]]:
    """The engine, where one works, and what was found out about it."""
    settings = config["container"]
    try:
        found = engines.find_engine(settings["engine"], settings["runtime"], scratch.engine_dir())
        info = found.info()
    except AgentsweepError as error:
        message = str(error).removesuffix(": run `agentsweep doctor`")
        cure = "mend what it says, or run `make system`, which installs Podman"
        return None, [Check("engine", "fail", message, cure)]
    checks = [
        Check("engine", "ok", engines.chosen(found, settings["engine"])),
        Check("runtime", "ok", f"{info['runtime']} starts containers"),
    ]
    pinned = any(cell.cpu_mode == CPUSET for cell in config.cells())
    checks += _host_checks(info, settings["uid"], pinned)
    if all(check.state != "fail" for check in checks):
        checks += _probe_limits(found, info, settings["cgroup_parent"] == "job")
    return found, checks


def report(checks: list[Check], out: Callable[[str], object] = print) -> None:
    """Print the checks for a person, a line each, with the cure below where there is one."""
    rows = []
    for check in checks:
        rows.append((check.state, check.name, check.detail))
        if check.cure:
            rows.append(("", "", f"mend: {check.cure}"))
    out(tabulate(rows, tablefmt="plain", disable_numparse=True))
    failed = sum(check.state == "fail" for check in checks)
    warned = sum(check.state == "warn" for check in checks)
    out(f"{len(checks)} checks: {failed} failed, {warned} to look at")


def _host_checks(info: dict, uid: int, pinned: bool) -> Iterator[Check]:
    mode = "rootless" if info["rootless"] else "as root"
    detail = f"cgroup v{info['cgroup_version']}, {info['name']} {mode}"
    try:
        limits.check_host(info, uid)
    except InfraError as error:
        message, _, cure = str(error).rpartition(": ")
        yield Check("cgroup", "fail", message, cure)
        return
    yield Check("cgroup", "ok", f"{detail}, manager {info['cgroup_manager']}")
    if info["cgroup_version"] == 2 and info["rootless"]:
        yield _delegation(_user_controllers(), pinned)
    if info["storage_driver"] == "vfs":
        yield Check(
            "storage",
            "warn",
            "the vfs driver makes every container a full copy of its image",
            'install fuse-overlayfs and set driver = "overlay" in storage.conf',
        )
    else:
        yield Check("storage", "ok", f"{info['storage_driver']} in {info['storage_root']}")


def _user_controllers() -> Path:
    uid = os.getuid()
    return Path(f"/sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service/cgroup.controllers")


def _delegation(path: Path, pinned: bool) -> Check:
    """Which controllers systemd hands to this user's own tree; pinned runs need one more."""
    try:
        controllers = path.read_text(encoding="utf-8").split()
    except OSError:
        return Check(
            "delegation", "warn", f"{path} cannot be read", "log in through systemd (not `su`)"
        )
    needed = {"cpu", "memory", "pids", *(["cpuset"] if pinned else [])}
    missing = needed - set(controllers)
    if missing:
        return Check(
            "delegation",
            "fail",
            f"not delegated to you: {', '.join(sorted(missing))}",
            f"put `Delegate={' '.join(sorted(needed))}` under [Service] into "
            "/etc/systemd/system/user@.service.d/delegate.conf and log in again",
        )
    return Check("delegation", "ok", f"{' '.join(controllers)} are delegated")


def _probe_limits(found: engine.Engine, info: dict, in_job: bool) -> Iterator[Check]:
    """Start a small container, where runs have theirs, read its limits back, and see them act."""
    try:
        parent = slurm_scope.parent_for(slurm_scope.ClusterJob.here(), found) if in_job else None
    except InfraError as error:
        message, _, cure = str(error).rpartition("; or ")
        yield Check("limits", "fail", message, cure)
        return
    with found.bare(_probe_spec(parent, "limits")) as spec:
        try:
            container = found.start(found.create(spec), spec.name)
            reader = reader_for_pid(container.pid)
            reader.open()
            effective = reader.effective_limits()
            yield _memory_probe(found, info, container, reader, effective)
            yield _cpu_probe(found, info, container, reader, effective)
            resets = reader.can_reset_peak
            reader.close()
        except AgentsweepError as error:
            cure = f"see `{found.name} info` and the checks above"
            yield Check("limits", "fail", str(error), cure)
            return
        finally:
            found.remove(spec.name)
    yield Check(
        "watermark",
        "ok" if resets else "note",
        "the kernel resets the memory peak: tool calls get their true peak"
        if resets
        else "the kernel cannot reset the memory peak: peaks of tool calls are sampled",
        "" if resets else "Linux 6.12 or later on cgroup v2 can",
    )


def _limit_cure(info: dict, controller: str) -> str:
    """What makes a limit act that the kernel does not know of."""
    if info["rootless"] and info["cgroup_manager"] == "cgroupfs":
        return (
            "rootless Podman applies limits with the systemd cgroup manager only: log in through "
            "systemd (by ssh, not `su`), and let containers.conf set no other cgroup_manager; with "
            "container.cgroup_parent `job`, call doctor in a job"
        )
    return (
        f"enable the {controller} controller for your containers (cgroup v2 with delegation, or "
        "root)"
    )


def _memory_probe(found, info, container, reader, effective) -> Check:
    if effective["memory_bytes"] != _PROBE_MEMORY_BYTES:
        return Check(
            "memory limit",
            "fail",
            f"asked {_PROBE_MEMORY_BYTES} bytes, the kernel says {effective['memory_bytes']}",
            _limit_cure(info, "memory"),
        )
    grow = f"head -c {2 * _PROBE_MEMORY_BYTES} /dev/zero | tail > /dev/null"
    found.exec(container.id, "/bin/sh", "-c", grow, check=False, timeout_s=60)
    return _memory_verdict(reader.read().memory_oom_kill or 0)


def _memory_verdict(kills: int) -> Check:
    if kills < 1:
        return Check(
            "memory limit",
            "fail",
            f"a process grew to twice the limit of {_PROBE_MEMORY_BYTES // 2**20} MiB and lived",
            "look for swap: `swapon --show`",
        )
    return Check("memory limit", "ok", f"a process that grew past it was killed ({kills} kill)")


def _cpu_probe(found, info, container, reader, effective) -> Check:
    if effective["cpus"] is None or abs(effective["cpus"] - float(_PROBE_CPUS)) > 0.005:
        return Check(
            "cpu limit",
            "fail",
            f"asked {_PROBE_CPUS} CPUs, the kernel says {effective['cpus']}",
            _limit_cure(info, "cpu"),
        )
    before, begin = reader.read(), time.monotonic()
    found.exec(container.id, "/bin/sh", "-c", "timeout 1 sh -c 'while :; do :; done'", check=False)
    after, seconds = reader.read(), time.monotonic() - begin
    used = (after.cpu_usage_usec - before.cpu_usage_usec) / 1e6 / seconds
    return _cpu_verdict(used, (after.cpu_nr_throttled or 0) - (before.cpu_nr_throttled or 0))


def _cpu_verdict(used: float, throttled: int) -> Check:
    if throttled < 1 or used > 1.5 * float(_PROBE_CPUS):
        return Check(
            "cpu limit",
            "fail",
            f"a busy loop under {_PROBE_CPUS} CPUs used {used:.2f} and was throttled {throttled}x",
            "see whether the kernel has CONFIG_CFS_BANDWIDTH",
        )
    return Check("cpu limit", "ok", f"a busy loop got {used:.2f} CPUs, throttled {throttled} times")


def _swap(total_bytes: int) -> Check:
    if total_bytes:
        return Check(
            "swap",
            "note",
            f"the host has {total_bytes // 2**20} MiB of swap; it is closed for containers",
            "`swapoff -a` keeps the host's own swapping out of the times",
        )
    return Check("swap", "ok", "the host has none")


def _kernel_log(victims: list | None) -> Check:
    if victims is None:
        return Check(
            "kernel log",
            "note",
            "not readable: OOM victims are told apart by counters and exit states only",
            "as root: `sysctl kernel.dmesg_restrict=0`",
        )
    return Check("kernel log", "ok", "readable: OOM victims are known by name")


def _agent_checks(config) -> Iterator[Check]:
    for name in sorted({cell.agent for cell in config.cells()}):
        job = config.job(next(cell for cell in config.cells() if cell.agent == name))
        binary = Path(job["agent"]["binary"])
        try:
            invocation.check_binary(binary, job["agent"]["binary_sha256"])
        except AgentsweepError as error:
            message, _, cure = str(error).rpartition(": ")
            yield Check(f"agent {name}", "fail", message, cure)
            continue
        yield _version_check(name, binary, job["agent"]["settings"]["version"])


def _version_check(name: str, binary: Path, wanted: str) -> Check:
    """Whether the binary starts on this host and is the version that it should be."""
    title = f"agent {name}"
    with tempfile.TemporaryDirectory() as home:
        try:
            done = subprocess.run(
                [binary, "--version"],
                env={"HOME": home, "PATH": "/usr/bin:/bin", "CLAUDE_CONFIG_DIR": home},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_START_TIMEOUT_S,
                check=False,
                encoding="utf-8",
            )
        except subprocess.TimeoutExpired:
            return Check(title, "fail", *_silent(f"`{binary} --version`"))
        except FileNotFoundError:
            # The file is there, so it is the loader that it names that is not.
            return Check(title, "fail", *_start_problem("its loader (ld-linux) is missing"))
        except OSError as error:
            return Check(title, "fail", f"{binary}: {error.strerror}", "delete it, `make agent`")
    if done.returncode != 0:
        said = engine.last_line(done.stderr or done.stdout)
        return Check(title, "fail", *_start_problem(f"exit code {done.returncode}: {said}"))
    if done.stdout.split()[:1] != [wanted]:
        said = engine.last_line(done.stdout)
        return Check(title, "fail", f"{binary} says {said!r}, not {wanted}", "run `make agent`")
    return Check(title, "ok", f"Claude Code {wanted}, hash as locked")


def _start_problem(said: str) -> tuple[str, str]:
    """Why an agent did not start, from what was said, and the cure."""
    if any(word in said for word in _LIBRARY_WORDS):
        return (
            f"a library of the agent is missing: {said}",
            "use a system with glibc 2.26 or later: another image, or `userland: host`",
        )
    if "root/sudo" in said:
        return f"the agent refuses to run as root: {said}", "set container.uid to 1000"
    return f"the agent does not start: {said}", "run it by hand, with --version"


def _silent(what: str) -> tuple[str, str]:
    return (
        f"no output and no end: {what} said nothing in {_START_TIMEOUT_S} s",
        "see whether the machine swaps, or its disk hangs (`dmesg`); then delete the binary and "
        "run `make agent`",
    )


def _credential_checks(config) -> Iterator[Check]:
    """Whether the key of each live agent can be read; it is never shown."""
    for name in sorted({cell.agent for cell in config.cells()}):
        settings, title = config.agent_settings(name), f"credential {name}"
        if model_settings.mode(settings) != model_settings.LIVE:
            continue
        try:
            header = model_settings.key_header(settings)
        except ConfigError as error:
            message, cured, cure = str(error).rpartition("; ")
            if not cured:
                message, _, cure = cure.partition(": ")
            yield Check(title, "fail", message, cure)
            continue
        detail = f"its key is readable, and goes in {header}" if header else "it sends no key"
        yield Check(title, "ok", detail)


def _mode_checks(config) -> Iterator[Check]:
    settings = config["container"]
    yield _user(settings["uid"])
    references = [image.reference for image in _images(config).values()]
    registry = any(r.startswith("docker://") and not is_loopback(r) for r in references)
    yield _certificates(_CERTIFICATES, registry or settings["network"] == "host")
    yield _configuration_directory(Path(config["paths"]["store"]), settings["uid"], settings["gid"])


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


def _images(config) -> dict[str, ImageRef]:
    """The image of each task of the sweep."""
    return {task: config.image_of(task) for task in sorted({c.task for c in config.cells()})}


def _image_checks(config, found: engine.Engine | None) -> Iterator[Check]:
    if shutil.which("skopeo") is None:
        yield Check("skopeo", "fail", "not installed; `lock` needs it", "run `make system`")
    for task, image in _images(config).items():
        title = f"image {task}"
        if image.digest is None:
            cure = "run `snakemake --cores 1 lock`"
            yield Check(title, "fail", f"{image.reference} is not locked", cure)
        elif found is None or found.image_id(image.tag) is None:
            cure = "`snakemake` does it before the first run, or `snakemake --cores 1 images`"
            yield Check(title, "note", "locked; not yet fixed on this node", cure)
        else:
            yield _image_probe(config, found, image, task)


def _image_probe(config, found, image, task: str) -> Check:
    """Start the image as a run does, and see whether the agent can work in it."""
    title, container = f"image {task}", config["container"]
    cell = next(cell for cell in config.cells() if cell.task == task)
    binary = Path(config.job(cell)["agent"]["binary"]).resolve()
    if not binary.is_file():
        return Check(title, "note", "locked and fixed; nothing more is known without the agent")
    name = f"agentsweep-doctor-image-{os.getpid()}"
    classic = container["userland"] == "host"
    with tempfile.TemporaryDirectory(prefix="agentsweep-doctor-") as folder:
        session, control = Path(folder) / "session", Path(folder) / "control"
        session.mkdir()
        (control / Path(invocation.CONFIG_DIR).name).mkdir(parents=True)
        start = control / _START
        start.write_text("#!/bin/sh\necho open\n", encoding="utf-8")
        start.chmod(0o700)
        scratch.open_to_all(control)
        if os.getuid() == 0:
            os.chown(session, container["uid"], container["gid"])
        spec = engine.ContainerSpec(
            name=name,
            image=image.tag,
            labels={engine.LABEL: name, engine.OWNER_LABEL: owner_tag()},
            user=f"{container['uid']}:{container['gid']}",
            map_user=found.maps_users,
            mounts=(
                *(engine.host_userland(tuple(container["host_mounts"])) if classic else ()),
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
                timeout_s=_START_TIMEOUT_S,
            )
            seen = found.exec(started.id, "sh", "-c", _LOOK, check=False)
        except InfraError as error:
            if "gave no answer" in str(error):
                return Check(title, "fail", *_silent("the agent in it"))
            cure = f"see the message; `{found.name} rmi` the image to have it made again"
            return Check(title, "fail", str(error), cure)
        finally:
            found.remove(name)
    return _image_verdict(title, done, seen.stdout)


# What a run mounts, and its start script, which the agent's user must be able to run.
_START = "start"
_LOOK = (
    'id -u; (: > "$0/written") 2>/dev/null && echo writable || echo read-only; '
    "command -v bash >/dev/null && command -v mkfifo >/dev/null && echo marks || echo unmarked; "
    f"{invocation.CONTROL}/{_START} 2>/dev/null || echo closed"
).replace("$0", invocation.CONFIG_DIR)


def _image_verdict(title: str, done, seen: str) -> Check:
    """`done`: the agent's `--version` in the container; `seen`: what `_LOOK` printed there."""
    uid, writable, marks, started = [*seen.split(), "", "", "", ""][:4]
    if done.returncode != 0:
        detail, cure = _start_problem(engine.last_line(done.stderr or done.stdout))
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


def _disk_checks(config, found: engine.Engine | None) -> Iterator[Check]:
    places = {"store": Path(config["paths"]["store"]), "results": Path(config["paths"]["results"])}
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


def _limit_settings(config) -> Iterator[Check]:
    """No output and no end: both limits must be there, and the stall limit the shorter one."""
    for name in sorted({cell.agent for cell in config.cells()}):
        job = config.job(next(cell for cell in config.cells() if cell.agent == name))
        if job["stall_s"] >= job["timeout_s"]:
            yield Check(
                f"stall limit {name}",
                "warn",
                f"stall_s {job['stall_s']} is not below timeout_s {job['timeout_s']}: an agent "
                "that hangs without output is noticed at the wall limit only",
                "set agent.stall_s lower",
            )
        else:
            yield Check(
                f"stall limit {name}",
                "ok",
                f"without output, traffic or a tool at work for {job['stall_s']} s a run ends",
            )


def _platform(machine: str) -> Iterator[Check]:
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)
    if f"linux/{architecture}" != images.PLATFORM:
        yield Check(
            "platform",
            "fail",
            f"this machine is {architecture}, task images are {images.PLATFORM}",
            "use an x86-64 machine",
        )
