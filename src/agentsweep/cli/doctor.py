"""Everything that has to be right on a host, checked at once, each with how to mend it."""

import os
from collections.abc import Callable, Iterator

from agentsweep.cli.checks import agents, host, images, limits
from agentsweep.cli.checks.check import Check
from agentsweep.config.config import Config
from agentsweep.errors import AgentsweepError
from agentsweep.host import machine_facts
from agentsweep.host.oom_log import OomLog


def examine(config: Config) -> list[Check]:
    """All checks for this host under a configuration, in the order in which they matter."""
    found, checks = limits.engine_checks(config)
    checks += [
        host.swap(machine_facts.facts()["swap_total_bytes"]),
        host.kernel_log(OomLog("/").victims()),
    ]
    checks += _all("agent", agents.agent_checks(config))
    checks += _all("credential", agents.credential_checks(config))
    checks += _all("mode", host.mode_checks(config))
    checks += _all("images", images.image_checks(config, found))
    checks += _all("disk", host.disk_checks(config, found))
    checks += _all("stall limit", agents.stall_checks(config))
    return [*checks, *host.platform(os.uname().machine)]


def _all(title: str, checks: Iterator[Check]) -> list[Check]:
    """What the checks say; one that breaks off is a failure too, and hides no other."""
    done: list[Check] = []
    try:
        done.extend(checks)
    except (AgentsweepError, OSError) as error:
        done.append(Check(title, "fail", str(error), "mend what the message names"))
    return done


def report(checks: list[Check], out: Callable[[str], object] = print) -> None:
    """Print the checks for a person, a line each, with the cure below where there is one."""
    width = max(len(check.name) for check in checks)
    for check in checks:
        out(f"{check.state:<5}{check.name:<{width + 2}}{check.detail}")
        if check.cure:
            out(f"{'':<5}{'':<{width + 2}}mend: {check.cure}")
    failed = sum(check.state == "fail" for check in checks)
    warned = sum(check.state == "warn" for check in checks)
    out(f"{len(checks)} checks: {failed} failed, {warned} to look at")
