"""Limits read back from a kernel that is a fake. Real ones: integration."""

import os
from types import SimpleNamespace

import pytest
from run_parts import CELL, EFFECTIVE, FakeReader, attempt_run, started, verified

from agentsweep.containers.slurm_scope import ClusterJob
from agentsweep.errors import InfraError, LastingError
from agentsweep.host import limits
from agentsweep.runs import limits_in_force


@pytest.fixture
def verify(tmp_path, monkeypatch):
    """`verify` of a container whose kernel gives these limits; its pid is this process."""

    def of(first: dict, cluster_job=None, said=None):
        monkeypatch.setattr(
            limits_in_force, "reader_for_pid", lambda pid: FakeReader(tmp_path, first)
        )
        run = attempt_run(tmp_path, said)
        run = SimpleNamespace(**vars(run) | {"cluster_job": cluster_job, "path": run.path})
        return limits_in_force.verify(run, started(os.getpid()))

    return of


def test_limits_in_force_are_recorded_beside_those_requested(verify):
    requested = limits.Limits(2**29, cpus="1", cpu_mode="quota", pids=4096)
    recorded = limits_in_force.recorded(requested, verify(EFFECTIVE))
    assert recorded["requested"] == {
        "memory_bytes": 2**29,
        "swap_bytes": 0,
        "cpus": "1",
        "cpu_mode": "quota",
        "cpuset": None,
        "pids": 4096,
    }
    assert recorded["effective"] == EFFECTIVE | {"nproc": len(os.sched_getaffinity(0))}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"memory_bytes": None}, "no limit of memory, but 512 MiB were requested"),
        ({"memory_bytes": 2**30}, "1 GiB of memory, but 512 MiB were requested"),
        ({"cpus": None}, "no limit of CPUs, but 1 were requested"),
        ({"cpus": 2.0}, "2.0 CPUs, but 1 were requested"),
        ({"swap_bytes": 2**29}, "512 MiB of swap, not none"),
    ],
)
def test_a_limit_that_is_not_in_force_ends_the_run(verify, change, says):
    sentence = f"does not enforce the limits of task~t.*{says}"
    with pytest.raises(LastingError, match=sentence) as error:
        verify(EFFECTIVE | change)
    assert "\n" not in str(error.value)
    assert "`agentsweep doctor`" in str(error.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"memory_bytes": 2**30}, "memory_bytes was 536870912 and became 1073741824"),
        ({"cpus": None}, "cpus was 1.0 and became None"),
        ({"pids": 10}, "pids was 4096 and became 10"),
    ],
)
def test_a_limit_that_changes_during_the_run_ends_it(tmp_path, change, says):
    reader = FakeReader(tmp_path, EFFECTIVE | change)
    with pytest.raises(InfraError, match=f"limits of {CELL}.*{says} during the run") as error:
        limits_in_force.check(attempt_run(tmp_path), verified(reader))
    # It may hold the next time.
    assert not isinstance(error.value, LastingError)


def test_limits_that_stay_and_a_container_that_goes_are_no_change(tmp_path):
    run = attempt_run(tmp_path)
    assert limits_in_force.check(run, verified(FakeReader(tmp_path))) is None
    assert limits_in_force.check(run, verified(FakeReader(tmp_path, {}))) is None
    going = FakeReader(tmp_path / "gone", dict.fromkeys(EFFECTIVE))
    assert limits_in_force.check(run, verified(going)) is None


def test_a_container_outside_of_its_cluster_job_is_told(verify):
    said: list[str] = []
    assert verify(EFFECTIVE, None, said).scope == "none"
    assert verify(EFFECTIVE, ClusterJob("7", "/x", "/sys/x"), said).scope == "job"
    assert said == []
    assert verify(EFFECTIVE, ClusterJob("7", "/other", "/sys/y"), said).scope == "outside"
    assert "outside the cgroup of Slurm job 7" in said[0]
