"""Everything that has to be right on a host, checked at once, each with how to mend it."""

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from agentsweep import agent, engine, host, images, limits, workspace
from agentsweep.cgroup import CgroupReader
from agentsweep.errors import AgentsweepError, InfraError
from agentsweep.kmsg import OomLog
from agentsweep.process import owner_tag
from agentsweep.runner import MIN_FREE_BYTES

_PROBE_MEMORY_BYTES = 64 * 2**20
_PROBE_CPUS = "0.2"
_LOW_DISK_BYTES = 10 * 2**30
_CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


@dataclass(frozen=True)
class Check:
    """One finding: `state` is ok, note, warn or fail; `cure` is empty where none is needed."""

    name: str
    state: str
    detail: str
    cure: str = ""


def examine(config) -> list[Check]:
    """All checks for this host under a configuration, in the order in which they matter."""
    checks: list[Check] = []
    found = None
    try:
        settings = config["container"]
        found = engine.find_engine(settings["engine"], settings["runtime"], workspace.engine_dir())
        info = found.info()
    except AgentsweepError as error:
        checks.append(Check("engine", "fail", str(error), "install Podman: `make system`"))
    else:
        checks.append(Check("engine", "ok", f"{info['name']} {info['version']}"))
        checks.append(Check("runtime", "ok", f"{info['runtime']} starts containers"))
        checks += _host_checks(found, info, settings["uid"])
    checks += _swap()
    checks += _kernel_log()
    checks += list(_agent_checks(config))
    checks += list(_mode_checks(config))
    checks += list(_image_checks(config, found))
    checks += list(_disk_checks(config, found))
    checks += list(_limit_settings(config))
    return checks


def report(checks: list[Check], out: Callable[[str], object] = print) -> None:
    """Print the checks for a person, worst last."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        out(f"{check.state:<5}{check.name:<{width + 2}}{check.detail}")
        if check.cure:
            out(f"{'':<5}{'':<{width + 2}}mend: {check.cure}")
    failed = sum(check.state == "fail" for check in checks)
    warned = sum(check.state == "warn" for check in checks)
    out(f"{len(checks)} checks: {failed} failed, {warned} to look at")


def _host_checks(found: engine.Engine, info: dict, uid: int) -> Iterator[Check]:
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
        yield _delegation()
    if info["storage_driver"] == "vfs":
        yield Check(
            "storage",
            "warn",
            "the vfs driver makes every container a full copy of its image",
            'install fuse-overlayfs and set driver = "overlay" in storage.conf',
        )
    else:
        yield Check("storage", "ok", f"{info['storage_driver']} in {info['storage_root']}")
    if info["name"] == "podman":
        yield from _probe_limits(found, info)


def _delegation() -> Check:
    """Which controllers systemd hands to this user's own tree."""
    uid = os.getuid()
    path = Path(f"/sys/fs/cgroup/user.slice/user-{uid}.slice/user@{uid}.service/cgroup.controllers")
    try:
        controllers = path.read_text().split()
    except OSError:
        return Check(
            "delegation", "warn", f"{path} cannot be read", "log in through systemd (not `su`)"
        )
    missing = {"cpu", "memory", "pids"} - set(controllers)
    if missing:
        return Check(
            "delegation",
            "fail",
            f"not delegated to you: {', '.join(sorted(missing))}",
            "put `Delegate=cpu memory pids` under [Service] into "
            "/etc/systemd/system/user@.service.d/delegate.conf and log in again",
        )
    return Check("delegation", "ok", f"{' '.join(controllers)} are delegated")


def _probe_limits(found: engine.Engine, info: dict) -> Iterator[Check]:
    """Start a small container, read its limits back, and see them act."""
    name = f"agentsweep-doctor-{os.getpid()}"
    with engine.empty_rootfs(found.workdir) as rootfs:
        spec = engine.ContainerSpec(
            name=name,
            image="",
            rootfs=rootfs,
            labels={engine.LABEL: name, engine.OWNER_LABEL: owner_tag()},
            memory_bytes=_PROBE_MEMORY_BYTES,
            cpus=_PROBE_CPUS,
            pids=64,
            mounts=engine.host_userland(),
        )
        try:
            container = found.start(found.create(spec), name)
            reader = CgroupReader.for_pid(container.pid)
            reader.open()
            effective = reader.effective_limits()
            yield _memory_probe(found, container, reader, effective)
            yield _cpu_probe(found, container, reader, effective)
            resets = reader.can_reset_peak
            reader.close()
        except AgentsweepError as error:
            yield Check("limits", "fail", str(error), "see `podman info` and the checks above")
            return
        finally:
            found.remove(name)
    yield Check(
        "watermark",
        "ok" if resets else "note",
        "the kernel resets the memory peak: tool calls get their true peak"
        if resets
        else "the kernel cannot reset the memory peak: peaks of tool calls are sampled",
        "" if resets else "Linux 6.12 or later on cgroup v2 can",
    )


def _memory_probe(found, container, reader, effective) -> Check:
    if effective["memory_bytes"] != _PROBE_MEMORY_BYTES:
        return Check(
            "memory limit",
            "fail",
            f"asked {_PROBE_MEMORY_BYTES} bytes, the kernel says {limits['memory_bytes']}",
            "enable the memory controller for your containers (cgroup v2 with delegation, or root)",
        )
    grow = f"head -c {2 * _PROBE_MEMORY_BYTES} /dev/zero | tail > /dev/null"
    found.exec(container.id, "/bin/sh", "-c", grow, check=False, timeout_s=60)
    kills = reader.read().memory_oom_kill or 0
    if kills < 1:
        return Check(
            "memory limit",
            "fail",
            f"a process grew to twice the limit of {_PROBE_MEMORY_BYTES // 2**20} MiB and lived",
            "look for swap: `swapon --show`",
        )
    return Check("memory limit", "ok", f"a process that grew past it was killed ({kills} kill)")


def _cpu_probe(found, container, reader, effective) -> Check:
    if effective["cpus"] is None or abs(effective["cpus"] - float(_PROBE_CPUS)) > 0.005:
        return Check(
            "cpu limit",
            "fail",
            f"asked {_PROBE_CPUS} CPUs, the kernel says {limits['cpus']}",
            "enable the cpu controller for your containers (cgroup v2 with delegation, or root)",
        )
    before, begin = reader.read(), time.monotonic()
    found.exec(container.id, "/bin/sh", "-c", "timeout 1 sh -c 'while :; do :; done'", check=False)
    after, seconds = reader.read(), time.monotonic() - begin
    used = (after.cpu_usage_usec - before.cpu_usage_usec) / 1e6 / seconds
    throttled = (after.cpu_nr_throttled or 0) - (before.cpu_nr_throttled or 0)
    if throttled < 1 or used > 1.5 * float(_PROBE_CPUS):
        return Check(
            "cpu limit",
            "fail",
            f"a busy loop under {_PROBE_CPUS} CPUs used {used:.2f} and was throttled {throttled}x",
            "see whether the kernel has CONFIG_CFS_BANDWIDTH",
        )
    return Check("cpu limit", "ok", f"a busy loop got {used:.2f} CPUs, throttled {throttled} times")


def _swap() -> Iterator[Check]:
    total = host.facts()["swap_total_bytes"]
    if total:
        yield Check(
            "swap",
            "note",
            f"the host has {total // 2**20} MiB of swap; it is closed for containers",
            "`swapoff -a` keeps the host's own swapping out of the times",
        )
    else:
        yield Check("swap", "ok", "the host has none")


def _kernel_log() -> Iterator[Check]:
    if OomLog("/").victims() is None:
        yield Check(
            "kernel log",
            "note",
            "not readable: OOM victims are told apart by counters and exit states only",
            "as root: `sysctl kernel.dmesg_restrict=0`",
        )
    else:
        yield Check("kernel log", "ok", "readable: OOM victims are known by name")


def _agent_checks(config) -> Iterator[Check]:
    for name in sorted({cell.agent for cell in config.cells()}):
        job = config.job(next(cell for cell in config.cells() if cell.agent == name))
        binary = Path(job["agent"]["binary"])
        try:
            agent.check_binary(binary, job["agent"]["binary_sha256"])
        except AgentsweepError as error:
            message, _, cure = str(error).rpartition(": ")
            yield Check(f"agent {name}", "fail", message, cure)
            continue
        yield _version_check(name, binary, job["agent"]["settings"]["version"])


def _version_check(name: str, binary: Path, wanted: str) -> Check:
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [binary, "--version"],
            env={"HOME": home, "PATH": "/usr/bin:/bin", "CLAUDE_CONFIG_DIR": home},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    said = (done.stdout or done.stderr).strip().splitlines()
    first = said[0] if said else f"exit code {done.returncode}"
    if done.returncode != 0 and ("not found" in first or "GLIBC" in first):
        return Check(
            f"agent {name}", "fail", f"a library is missing: {first}", "use a host with glibc 2.26"
        )
    if done.returncode != 0 or not first.startswith(wanted):
        return Check(f"agent {name}", "fail", f"{binary} says {first!r}", "run `make agent`")
    return Check(f"agent {name}", "ok", f"Claude Code {wanted}, hash as locked")


def _mode_checks(config) -> Iterator[Check]:
    settings = config["container"]
    if settings["uid"] == 0:
        yield Check(
            "agent user",
            "fail",
            "the agent would run as root, which Claude Code refuses",
            "set container.uid to 1000",
        )
    else:
        yield Check("agent user", "ok", f"runs as uid {settings['uid']}, without capabilities")
    if settings["network"] == "host":
        if _CERTIFICATES.exists():
            yield Check("certificates", "ok", str(_CERTIFICATES))
        else:
            yield Check(
                "certificates", "fail", f"{_CERTIFICATES} is missing", "install ca-certificates"
            )
    store = Path(config["paths"]["store"])
    try:
        store.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=store, prefix=".doctor-") as folder:
            owner = (settings["uid"], settings["gid"])
            if os.getuid() == 0:
                os.chown(folder, *owner)
        yield Check("configuration directory", "ok", f"{store} takes the agent's files")
    except OSError as error:
        yield Check(
            "configuration directory",
            "fail",
            f"the agent's configuration directory cannot be made in {store}: {error.strerror}",
            "mend the permissions of the directory, or set paths.store to another one",
        )


def _image_checks(config, found: engine.Engine | None) -> Iterator[Check]:
    if shutil.which("skopeo") is None:
        yield Check("skopeo", "fail", "not installed; `lock` needs it", "run `make system`")
    for task in sorted({cell.task for cell in config.cells()}):
        image = config.image_of(task)
        if image.digest is None:
            yield Check(
                f"image {image.name}", "fail", "not locked", "run `snakemake --cores 1 lock`"
            )
            continue
        record = Path(config["paths"]["results"]) / "images" / image.directory / "image.json"
        if found is None or found.image_id(image.tag) is None:
            yield Check(f"image {image.name}", "note", "locked; not yet fixed on this node")
        else:
            yield _image_runs_agent(config, found, image, task, record)


def _image_runs_agent(config, found, image, task: str, record: Path) -> Check:
    """Whether the agent's binary finds its libraries in the image."""
    cell = next(cell for cell in config.cells() if cell.task == task)
    binary = Path(config.job(cell)["agent"]["binary"]).resolve()
    name = f"agentsweep-doctor-image-{os.getpid()}"
    spec = engine.ContainerSpec(
        name=name,
        image=image.tag,
        labels={engine.LABEL: name, engine.OWNER_LABEL: owner_tag()},
        user=f"{config['container']['uid']}:{config['container']['gid']}",
        mounts=(engine.Mount(binary, agent.CONTAINER_BINARY),),
    )
    try:
        container = found.start(found.create(spec), name)
        done = found.exec(container.id, agent.CONTAINER_BINARY, "--version", check=False)
        bash = found.exec(container.id, "bash", "-c", "command -v mkfifo", check=False)
    except InfraError as error:
        return Check(f"image {image.name}", "fail", str(error), "delete the image and fix it again")
    finally:
        found.remove(name)
    if done.returncode != 0:
        return Check(
            f"image {image.name}",
            "fail",
            f"the agent does not start in it: {engine.last_line(done.stderr or done.stdout)}",
            "use an image with glibc 2.26 or later, or userland: host",
        )
    if bash.returncode != 0:
        return Check(
            f"image {image.name}",
            "warn",
            "it has no bash or no mkfifo: tool calls get no exact peaks",
            "install bash and coreutils in the image",
        )
    return Check(f"image {image.name}", "ok", "locked, fixed, and the agent starts in it")


def _disk_checks(config, found: engine.Engine | None) -> Iterator[Check]:
    places = {"store": Path(config["paths"]["store"]), "results": Path(config["paths"]["results"])}
    if found is not None:
        places["images"] = Path(found.info()["storage_root"])
    for name, path in places.items():
        free = host.free_bytes(path.absolute())
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
    if f"linux/{_architecture()}" != images.PLATFORM:
        yield Check(
            "platform",
            "fail",
            f"this machine is {_architecture()}, task images are {images.PLATFORM}",
            "use an x86-64 machine",
        )


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
