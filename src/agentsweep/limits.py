"""Whether a host can enforce a cell's limits, and whether it does."""

import os

from agentsweep import host
from agentsweep.cpu_modes import CPUSET
from agentsweep.errors import LastingError
from agentsweep.topology import parse_list

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
    """What the kernel enforces other than what was asked; empty when all is as asked.

    wanted: memory_bytes, cpus, cpu_mode, and for the mode cpuset the CPUs as `cpuset`.
    """
    found = []
    asked = wanted["memory_bytes"] // _PAGE_BYTES * _PAGE_BYTES
    if effective["memory_bytes"] != asked:
        found.append(f"memory limit is {effective['memory_bytes']} bytes, asked {asked}")
    if effective["swap_bytes"] is None and host.swap_bytes() > 0:
        found.append("swap is not limited, and this machine has swap")
    elif effective["swap_bytes"]:
        found.append(f"swap is open ({effective['swap_bytes']} bytes)")
    cpus = effective["cpus"]
    if wanted["cpu_mode"] == CPUSET:
        pinned = effective["cpuset"]
        if pinned is None or parse_list(pinned) != parse_list(wanted["cpuset"]):
            found.append(f"CPUs are {pinned}, asked {wanted['cpuset']}")
        if cpus is not None and cpus < float(wanted["cpus"]):
            found.append(f"a quota gives {cpus} of the {wanted['cpus']} CPUs asked")
    elif cpus is None or abs(cpus - float(wanted["cpus"])) > 0.005:
        found.append(f"CPU limit is {cpus}, asked {wanted['cpus']}")
    return found
