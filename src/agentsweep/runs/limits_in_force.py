"""Whether the limits of a run hold: read back from the kernel before the agent, during its run,
and once more at its end."""

import os
from dataclasses import dataclass
from typing import Any

from agentsweep.containers import slurm_scope
from agentsweep.errors import InfraError, LastingError
from agentsweep.host import limits
from agentsweep.host.cgroup import reader_for_pid
from agentsweep.host.cgroup_reader import CgroupGone, CgroupReader, EffectiveLimits
from agentsweep.runs.attempt_run import AttemptRun
from agentsweep.runs.container import Started


@dataclass(frozen=True)
class Verified:
    """A container whose limits are those of its cell.

    reader: of its cgroup. effective: what the kernel enforces. nproc: the CPUs that its init may
    use. scope: where its cgroup is (`slurm_scope`).
    """

    reader: CgroupReader
    effective: EffectiveLimits
    nproc: int
    scope: str


def verify(run: AttemptRun, started: Started) -> Verified:
    """Read the limits back from the kernel, ancestors too; InfraError on any difference."""
    reader = reader_for_pid(started.container.pid)
    scope = slurm_scope.scope_of(run.cluster_job, reader.level)
    if run.cluster_job is not None and scope == slurm_scope.OUTSIDE:
        run.say(
            f"the container is outside the cgroup of Slurm job {run.cluster_job.id}, whose "
            "limits and accounting do not cover it (container.cgroup_parent)"
        )
    effective = reader.effective_limits()
    nproc = len(os.sched_getaffinity(started.container.pid))
    differences = limits.limit_differences(run.job.limits, effective)
    if differences:
        why = f"{'; '.join(differences)}. Run `agentsweep doctor`."
        raise LastingError(_not_enforced(run, why))
    return Verified(reader, effective, nproc, scope)


def check(run: AttemptRun, verified: Verified) -> None:
    """InfraError where a limit is another than at the start: the run then had neither."""
    reader = verified.reader
    try:
        now = reader.effective_limits()
    except CgroupGone:
        return
    changed = limits.changes(verified.effective, now)
    # The files of a container that goes vanish one by one, which is no change of a limit.
    if changed and all(path.is_dir() for path in reader.paths.values()):
        why = (
            f"{'; '.join(changed)} during the run. Something outside (often a reload of "
            "systemd) set the container's limits anew."
        )
        raise InfraError(_not_enforced(run, why))


def recorded(requested: limits.Limits, verified: Verified) -> dict[str, Any]:
    """Both, as the record of the run has them."""
    return {
        "requested": {
            "memory_bytes": requested.memory_bytes,
            "swap_bytes": 0,
            "cpus": requested.cpus,
            "cpu_mode": requested.cpu_mode,
            "cpuset": requested.cpuset,
            "pids": requested.pids,
        },
        "effective": {**verified.effective, "nproc": verified.nproc},
    }


def _not_enforced(run: AttemptRun, why: str) -> str:
    return f"this host does not enforce the limits of {run.job.cell}: {why}"
