"""A container inside and outside the cgroup of a Slurm job, which is made by hand here.

A test of a whole cluster (tests/cluster) would need a Slurm that may make cgroups. What counts is
where Slurm puts a job's processes, and that is what the runner is put into.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentsweep.cgroup import CgroupReader
from conftest import DONE, ROOT

JOB = 990001


@pytest.fixture
def job_cgroups():
    """The directories of `.../uid_<n>/job_<id>/step_0` of each controller (cgroup v1)."""
    reader = CgroupReader.for_pid(os.getpid())
    if os.getuid() != 0 or reader.version != 1:
        pytest.skip("NOT RUN: makes a job's cgroups on v1, as root; v2 is described, not tested")
    mounts = {Path("/sys/fs/cgroup") / name for name in reader.paths}
    steps = [mount / f"agentsweep-test/uid_{os.getuid()}/job_{JOB}/step_0" for mount in mounts]
    for step in steps:
        step.mkdir(parents=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            for folder in (*reversed(step.parents), step):
                file = folder / name
                if step.parents[2] in (folder, *folder.parents) and file.exists():
                    file.write_text((folder.parent / name).read_text())
    yield steps
    # The engine made directories in the other controllers too.
    for top in Path("/sys/fs/cgroup").glob(f"*/agentsweep-test/uid_{os.getuid()}/job_{JOB}"):
        for folder, _, _ in os.walk(top, topdown=False):
            _gone(Path(folder))
        for folder in top.parents[:2]:
            _gone(folder)


def _gone(folder: Path) -> None:
    # The last process of a cgroup leaves it a moment after it has ended.
    deadline = time.monotonic() + 5
    while folder.exists():
        try:
            folder.rmdir()
        except OSError:
            assert time.monotonic() < deadline, f"{folder} is still in use"
            time.sleep(0.05)


@pytest.mark.parametrize(("setting", "found"), [("engine", "outside"), ("job", "job")])
def test_a_run_in_a_job_says_where_its_container_was(lab, job_cgroups, setting, found):
    config = lab.config({"turns": [DONE]}, container={"cgroup_parent": setting})
    enter = "".join(f"echo $$ > {step}/cgroup.procs; " for step in job_cgroups)
    done = subprocess.run(
        ["sh", "-ec", f'{enter} exec "$@"', "sh", sys.executable, "-m", "agentsweep.cli",
         *lab.arguments(config)],
        cwd=ROOT, env=os.environ | {"SLURM_JOB_ID": str(JOB)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = lab.result()
    assert (result["scope"], result["cluster_job"]) == (found, str(JOB))
    assert (f"outside the cgroup of Slurm job {JOB}" in done.stdout) == (found == "outside")
    assert result["limits"]["effective"]["memory_bytes"] == 512 * 2**20


def test_a_run_outside_of_slurm_has_no_scope(lab):
    assert lab.run({"turns": [DONE]})["scope"] == "none"
