"""Where a container sits: inside the cluster job that its runner is part of, or outside.

An engine puts a container where it likes: root Podman below a cgroup of its own, rootless Podman
below the user's session. Slurm limits and accounts the job's cgroup, and nothing that is outside.
Layout of Slurm's cgroups, v1 and v2: `.../job_<id>/step_<name>/...` (Slurm, cgroup.conf(5) and
"Cgroup v2 plugin").
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from agentsweep.containers.engine import Engine
from agentsweep.errors import InfraError
from agentsweep.host.cgroup import reader_for_pid

JOB, OUTSIDE, NONE = "job", "outside", "none"


@dataclass(frozen=True)
class ClusterJob:
    """The Slurm job that this process is part of: its id, and its cgroup where it has one.

    `level` is the path below the mount, that of the memory controller on v1; `directory` is where
    it is found in the file system.
    """

    id: str
    level: str | None
    directory: str | None

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> "ClusterJob | None":
        """That of this process; None where it is in no Slurm job."""
        job = environment.get("SLURM_JOB_ID")
        if not job:
            return None
        reader = reader_for_pid(os.getpid())
        directory = str(reader.paths["memory" if reader.version == 1 else ""])
        level = above(reader.level, job)
        return cls(job, level, above(directory, job))


def above(path: str, job: str) -> str | None:
    """The part of a cgroup's path that ends with the job's own directory; None without one."""
    found = re.match(rf".*?/job_{re.escape(job)}(?=/|$)", path)
    return found[0] if found else None


def scope_of(job: ClusterJob | None, level: str) -> str:
    """`job`, `outside` or `none` (there is no job) for a container whose cgroup is `level`."""
    if job is None:
        return NONE
    inside = job.level is not None and f"{level}/".startswith(f"{job.level}/")
    return JOB if inside else OUTSIDE


def parent_for(job: ClusterJob | None, engine: Engine) -> str | None:
    """The `--cgroup-parent` that puts a container into the job; None where there is no job.

    InfraError, with the cure, where this engine cannot do it.
    """
    if job is None:
        return None
    why = None
    if job.level is None:
        why = f"Slurm job {job.id} has no cgroup (ProctrackType is not proctrack/cgroup)"
    elif (manager := engine.info()["cgroup_manager"]) != "cgroupfs":
        why = (
            f"{engine.name} uses the {manager} cgroup manager, which takes slices only: "
            f"{engine.cgroupfs_hint}"
        )
    elif job.directory is None or not os.access(job.directory, os.W_OK):
        why = f"{job.directory} belongs to Slurm: the site must delegate it to the job's user"
    if why is not None:
        raise InfraError(
            f"the container cannot be put into the job's cgroup: {why}; or set "
            "container.cgroup_parent to `engine`"
        )
    return job.level
