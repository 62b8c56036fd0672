"""Where a container sits, and what puts it into a Slurm job."""

import pytest

from agentsweep.containers.docker import Docker
from agentsweep.containers.engine import Engine
from agentsweep.containers.podman import Podman
from agentsweep.containers.slurm_scope import ClusterJob, above, parent_for, scope_of
from agentsweep.errors import InfraError

V1 = "/slurm/uid_1000/job_42"
V2 = "/system.slice/slurmstepd.scope/job_42"


class Manager:
    """An engine that says which cgroup manager it uses."""

    def __init__(self, manager: str = "cgroupfs", kind: type[Engine] = Podman):
        self.name, self.cgroupfs_hint = kind.name, kind.cgroupfs_hint
        self._manager = manager

    def info(self) -> dict:
        return {"cgroup_manager": self._manager}


@pytest.mark.parametrize(
    ("path", "job", "found"),
    [
        (f"{V1}/step_0/task_0", "42", V1),
        (f"{V2}/step_batch/user/task_0", "42", V2),
        (V1, "42", V1),
        (f"{V1}/step_0", "4", None),
        ("/user.slice/user-1000.slice", "42", None),
        ("/job_41/x/job_42", "42", "/job_41/x/job_42"),
    ],
)
def test_the_job_is_found_in_the_path_of_a_process(path, job, found):
    assert above(path, job) == found


@pytest.mark.parametrize(
    ("level", "job_level", "scope"),
    [
        (f"{V1}/libpod-1", V1, "job"),
        (f"{V1}1/libpod-1", V1, "outside"),
        ("/libpod_parent/libpod-1", V1, "outside"),
        # A job without a cgroup of its own covers nothing.
        ("/libpod_parent/libpod-1", None, "outside"),
    ],
)
def test_a_container_is_in_the_job_or_outside(level, job_level, scope):
    assert scope_of(ClusterJob("42", job_level, job_level), level) == scope
    assert scope_of(None, level) == "none"


def test_without_slurm_there_is_no_job():
    assert ClusterJob.here({}) is None
    assert ClusterJob.here({"SLURM_JOB_ID": ""}) is None
    here = ClusterJob.here({"SLURM_JOB_ID": "99999999"})
    assert (here.level, here.directory) == (None, None)


def test_what_puts_a_container_into_the_job_or_why_nothing_does(tmp_path):
    job = ClusterJob("42", V1, str(tmp_path))
    assert parent_for(job, Manager()) == V1
    assert parent_for(None, Manager()) is None
    elsewhere = ClusterJob("42", V1, str(tmp_path / "none"))
    for wrong, given, engine in (
        ("has no cgroup", ClusterJob("42", None, None), Manager()),
        ("podman uses the systemd .* containers.conf", job, Manager("systemd")),
        ("docker uses the systemd .*daemon.json", job, Manager("systemd", Docker)),
        ("belongs to Slurm", elsewhere, Manager()),
    ):
        with pytest.raises(InfraError, match=wrong):
            parent_for(given, engine)
