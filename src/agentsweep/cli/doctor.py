"""Everything that has to be right on a host, checked at once, each with how to mend it."""

import os
from collections.abc import Callable, Iterator

from tabulate import tabulate

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
    rows = []
    for check in checks:
        rows.append((check.state, check.name, check.detail))
        if check.cure:
            rows.append(("", "", f"mend: {check.cure}"))
    out(tabulate(rows, tablefmt="plain", disable_numparse=True))
    failed = sum(check.state == "fail" for check in checks)
    warned = sum(check.state == "warn" for check in checks)
    out(f"{len(checks)} checks: {failed} failed, {warned} to look at")
