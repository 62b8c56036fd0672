"""Whether a host can enforce a cell's limits, and whether it does."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agentsweep.cpu_modes import CPUSET
from agentsweep.errors import LastingError
from agentsweep.host import machine_facts
from agentsweep.host.cgroup_reader import EffectiveLimits
from agentsweep.host.topology import parse_list
from agentsweep.typed_json import OMIT_NONE
from agentsweep.units import format_size

_PAGE_BYTES = 4096


@dataclass(frozen=True)
class Limits:
    """What a run's container may have. Swap is always closed.

    cpus: a decimal number, as text. cpu_mode: `quota`, or `cpuset` with the CPUs that it is pinned
    to, as the kernel lists them, once they are known. pids: processes, None without a limit.
    """

    memory_bytes: int
    cpus: str
    cpu_mode: str
    swap_bytes: int = 0
    pids: int | None = None
    cpuset: str | None = field(default=None, metadata=OMIT_NONE)


def ignored(info: Mapping[str, Any]) -> str | None:
    """Why an engine would ignore the limits, with the cure; None where it does not."""
    if info["rootless"] and info["cgroup_version"] == 1:
        return (
            f"rootless {info['name']} on cgroup v1 silently ignores --memory and --cpus: run as "
            "root, or boot with systemd.unified_cgroup_hierarchy=1 for cgroup v2"
        )
    return None


def check_host(info: Mapping[str, Any], uid: int) -> None:
    """InfraError, with the reason and the cure, on a host that would ignore the limits."""
    reason = ignored(info)
    if reason is not None:
        raise LastingError(reason)
    if info["rootless"] and uid != os.getuid():
        raise LastingError(
            f"with rootless {info['name']} the agent has your own user id: set container.uid to "
            f"{os.getuid()} (it is {uid})"
        )


def limit_differences(requested: Limits, effective: EffectiveLimits) -> list[str]:
    """What the kernel enforces other than what was requested; empty when all is as requested."""
    differences = []
    asked = requested.memory_bytes // _PAGE_BYTES * _PAGE_BYTES
    if effective["memory_bytes"] != asked:
        acts = _size(effective["memory_bytes"], "no limit")
        differences.append(
            f"the kernel enforces {acts} of memory, but {_size(asked)} were requested"
        )
    if effective["swap_bytes"] is None and machine_facts.swap_bytes() > 0:
        differences.append("the kernel does not limit swap, and this machine has swap")
    elif effective["swap_bytes"]:
        differences.append(f"the kernel allows {_size(effective['swap_bytes'])} of swap, not none")
    cpus = effective["cpus"]
    if requested.cpu_mode == CPUSET:
        pinned = effective["cpuset"]
        asked_cpus = requested.cpuset or ""
        if pinned is None or parse_list(pinned) != parse_list(asked_cpus):
            acts = f"CPUs {pinned}" if pinned else "no CPUs"
            differences.append(
                f"the kernel pins the container to {acts}, but CPUs {asked_cpus} were requested"
            )
        if cpus is not None and cpus < float(requested.cpus):
            differences.append(f"a quota leaves {cpus} of the {requested.cpus} CPUs requested")
    elif cpus is None or abs(cpus - float(requested.cpus)) > 0.005:
        acts = "no limit of CPUs" if cpus is None else f"{cpus} CPUs"
        differences.append(f"the kernel enforces {acts}, but {requested.cpus} were requested")
    return differences


def changes(before: EffectiveLimits, now: EffectiveLimits) -> list[str]:
    """What of a container's effective limits changed between two looks; empty when nothing did."""
    then: Mapping[str, object] = {**before}
    since: Mapping[str, object] = {**now}
    return [
        f"{name} was {value} and became {since[name]}"
        for name, value in then.items()
        if since[name] != value
    ]


def _size(size_bytes: int | None, absent: str = "") -> str:
    return absent if size_bytes is None else re.sub(r"(?<=\d)(?=\D)", " ", format_size(size_bytes))
