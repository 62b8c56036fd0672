"""A container inside and outside the cgroup of a Slurm job, which is made by hand here.

A test of a whole cluster (tests/cluster) would need a Slurm that may make cgroups. What counts is
where Slurm puts a job's processes, and that is what the runner is put into.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from agentsweep.host.cgroup import reader_for_pid
from conftest import DONE, PATIENCE, ROOT

JOB = 990001


# Slurm's own layout below a cgroup that systemd hands to this user.
V2 = f"""
top=/sys/fs/cgroup$(sed s/0::// /proc/self/cgroup)
step=$top/job_{JOB}/step_0
mkdir -p $step/user/task_0
echo $$ > $step/user/task_0/cgroup.procs
for folder in $top $top/job_{JOB} $step $step/user; do
  echo '+memory +cpu +pids' > $folder/cgroup.subtree_control
done
exec "$@"
"""


@pytest.fixture
def job_shell(tmp_path):
    """The words that run a command within a job's cgroup, and what they need in the environment."""
    version = reader_for_pid(os.getpid()).version
    if (version, os.getuid()) == (1, 0):
        with _v1_cgroups() as steps:
            enter = "".join(f"echo $$ > {step}/cgroup.procs; " for step in steps)
            yield ["sh", "-ec", f'{enter} exec "$@"', "sh"], {}
    elif version == 2 and os.getuid() != 0 and shutil.which("systemd-run"):
        # The manager that takes a cgroup which is no slice as a parent.
        settings = tmp_path / "containers.conf"
        settings.write_text('[engine]\ncgroup_manager = "cgroupfs"\n', encoding="utf-8")
        scope = ["systemd-run", "--user", "--scope", "--quiet", "--property=Delegate=yes"]
        yield [*scope, "sh", "-ec", V2, "sh"], {"CONTAINERS_CONF": str(settings)}
    else:
        pytest.skip("NOT RUN: makes a job's cgroups as root on v1 or as a user of systemd on v2")


@contextlib.contextmanager
def _v1_cgroups():
    """The directories of `.../uid_<n>/job_<id>/step_0` of each controller."""
    reader = reader_for_pid(os.getpid())
    mounts = {Path("/sys/fs/cgroup") / name for name in reader.paths}
    steps = [mount / f"agentsweep-test/uid_{os.getuid()}/job_{JOB}/step_0" for mount in mounts]
    for step in steps:
        step.mkdir(parents=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            for folder in (*reversed(step.parents), step):
                file = folder / name
                if step.parents[2] in (folder, *folder.parents) and file.exists():
                    file.write_text(
                        (folder.parent / name).read_text(encoding="utf-8"), encoding="utf-8"
                    )
    try:
        yield steps
    finally:
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
def test_a_run_in_a_job_says_where_its_container_was(lab, job_shell, setting, found):
    config = lab.config({"turns": [DONE]}, container={"cgroup_parent": setting})
    shell, settings = job_shell
    environment = os.environ | {"SLURM_JOB_ID": str(JOB)} | (settings if found == "job" else {})
    done = subprocess.run(
        [*shell, sys.executable, "-m", "agentsweep.cli", *lab.arguments(config)],
        cwd=ROOT, env=environment,
        capture_output=True, text=True, check=False, timeout=120 * PATIENCE, encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    result = lab.result()
    assert (result["scope"], result["cluster_job"]) == (found, str(JOB))
    assert (f"outside the cgroup of Slurm job {JOB}" in done.stdout) == (found == "outside")
    assert result["limits"]["effective"]["memory_bytes"] == 512 * 2**20


def test_a_run_outside_of_slurm_has_no_scope(lab):
    assert lab.run({"turns": [DONE]})["scope"] == "none"
