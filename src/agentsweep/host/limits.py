"""Whether a host can enforce a cell's limits, and whether it does."""

import os
import re

from agentsweep.cpu_modes import CPUSET
from agentsweep.errors import LastingError
from agentsweep.host import machine_facts
from agentsweep.host.topology import parse_list
from agentsweep.units import format_size

_PAGE_BYTES = 4096


def ignored(info: dict) -> str | None:
    """Why an engine would ignore the limits, with the cure; None where it does not."""
    if info["rootless"] and info["cgroup_version"] == 1:
        return (
            f"rootless {info['name']} on cgroup v1 silently ignores --memory and --cpus: run as "
            "root, or boot with systemd.unified_cgroup_hierarchy=1 for cgroup v2"
        )
    return None


def check_host(info: dict, uid: int) -> None:
    """InfraError, with the reason and the cure, on a host that would ignore the limits."""
    reason = ignored(info)
    if reason is not None:
        raise LastingError(reason)
    if info["rootless"] and uid != os.getuid():
        raise LastingError(
            f"with rootless {info['name']} the agent has your own user id: set container.uid to "
            f"{os.getuid()} (it is {uid})"
        )


def limit_differences(wanted: dict, effective: dict) -> list[str]:
    """What the kernel enforces other than what was requested; empty when all is as requested.

    wanted: memory_bytes, cpus, cpu_mode, and for the mode cpuset the CPUs as `cpuset`.
    """
    found = []
    asked = wanted["memory_bytes"] // _PAGE_BYTES * _PAGE_BYTES
    if effective["memory_bytes"] != asked:
        acts = _size(effective["memory_bytes"], "no limit")
        found.append(f"the kernel enforces {acts} of memory, but {_size(asked)} were requested")
    if effective["swap_bytes"] is None and machine_facts.swap_bytes() > 0:
        found.append("the kernel does not limit swap, and this machine has swap")
    elif effective["swap_bytes"]:
        found.append(f"the kernel allows {_size(effective['swap_bytes'])} of swap, not none")
    cpus = effective["cpus"]
    if wanted["cpu_mode"] == CPUSET:
        pinned = effective["cpuset"]
        if pinned is None or parse_list(pinned) != parse_list(wanted["cpuset"]):
            acts = f"CPUs {pinned}" if pinned else "no CPUs"
            found.append(
                f"the kernel pins the container to {acts}, but CPUs {wanted['cpuset']} were "
                "requested"
            )
        if cpus is not None and cpus < float(wanted["cpus"]):
            found.append(f"a quota leaves {cpus} of the {wanted['cpus']} CPUs requested")
    elif cpus is None or abs(cpus - float(wanted["cpus"])) > 0.005:
        acts = "no limit of CPUs" if cpus is None else f"{cpus} CPUs"
        found.append(f"the kernel enforces {acts}, but {wanted['cpus']} were requested")
    return found


def changes(before: dict, now: dict) -> list[str]:
    """What of a container's effective limits changed between two looks; empty when nothing did."""
    return [
        f"{name} was {before[name]} and became {now[name]}"
        for name in before
        if now[name] != before[name]
    ]


def _size(size_bytes: int | None, absent: str = "") -> str:
    return absent if size_bytes is None else re.sub(r"(?<=\d)(?=\D)", " ", format_size(size_bytes))
