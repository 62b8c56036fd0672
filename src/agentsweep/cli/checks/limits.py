"""The engine and the kernel: whether containers start here, and a run's limits hold."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agentsweep.cli.checks.check import Check
from agentsweep.config.config import Config
from agentsweep.containers import engine, engines, slurm_scope
from agentsweep.cpu_modes import CPUSET, QUOTA
from agentsweep.errors import AgentsweepError, InfraError
from agentsweep.host import limits, scratch
from agentsweep.host.cgroup import reader_for_pid
from agentsweep.host.cgroup_reader import CgroupReader, EffectiveLimits
from agentsweep.host.processes import owner_tag

# What the engine, or the kernel of a container, says of itself.
Facts = dict[str, Any]

_PROBE_MEMORY_BYTES = 64 * 2**20
_PROBE_CPUS = "0.2"


def check_limits(config: Config) -> None:
    """InfraError, with the cure, where this host has no engine or a run's limits would not hold.

    It starts one small container and reads its limits back from the kernel, in about a second:
    for the start of a sweep, before anything is pulled or spent.
    """
    settings = config.container
    found = engines.find_engine(settings.engine, settings.runtime, scratch.engine_dir())
    limits.check_host(found.info(), settings.uid)
    job = slurm_scope.ClusterJob.here() if settings.cgroup_parent == "job" else None
    wanted = _probe_spec(slurm_scope.parent_for(job, found) if job else None, "start")
    with found.bare(wanted) as spec:
        try:
            container = found.start(found.create(spec), spec.name)
            effective = reader_for_pid(container.pid).effective_limits()
        finally:
            found.remove(spec.name)
    asked = limits.Limits(_PROBE_MEMORY_BYTES, cpus=_PROBE_CPUS, cpu_mode=QUOTA)
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


def engine_checks(config: Config) -> tuple[engine.Engine | None, list[Check]]:
    """The engine, where one works, and what was found out about it."""
    settings = config.container
    try:
        found = engines.find_engine(settings.engine, settings.runtime, scratch.engine_dir())
        info = found.info()
    except AgentsweepError as error:
        message = str(error).removesuffix(": run `agentsweep doctor`")
        cure = "mend what it says, or run `make system`, which installs Podman"
        return None, [Check("engine", "fail", message, cure)]
    checks = [
        Check("engine", "ok", engines.chosen(found, settings.engine)),
        Check("runtime", "ok", f"{info['runtime']} starts containers"),
    ]
    pinned = any(cell.cpu_mode == CPUSET for cell in config.cells())
    checks += _host_checks(info, settings.uid, pinned)
    if all(check.state != "fail" for check in checks):
        checks += _probe_limits(found, info, settings.cgroup_parent == "job")
    return found, checks


def _host_checks(info: Facts, uid: int, pinned: bool) -> Iterator[Check]:
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


def _probe_limits(found: engine.Engine, info: Facts, in_job: bool) -> Iterator[Check]:
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


def _limit_cure(info: Facts, controller: str) -> str:
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


def _memory_probe(
    found: engine.Engine,
    info: Facts,
    container: engine.Container,
    reader: CgroupReader,
    effective: EffectiveLimits,
) -> Check:
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


def _cpu_probe(
    found: engine.Engine,
    info: Facts,
    container: engine.Container,
    reader: CgroupReader,
    effective: EffectiveLimits,
) -> Check:
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
    used = ((after.cpu_usage_usec or 0) - (before.cpu_usage_usec or 0)) / 1e6 / seconds
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
