"""profiles/slurm where accounting is enforced: with the account that its first block names.

Beside what CI runs: MariaDB takes more than the rest to start, and `make test` does not install it.
"""

import accounting
import pytest
from accounting import ACCOUNT, AccountingCluster
from slurm import running
from sweeps import SLURM, finished, missing, prepared, started

MISSING = missing() + accounting.missing_programs()
pytestmark = pytest.mark.skipif(
    bool(MISSING), reason=f"NOT RUN, this test needs {', '.join(MISSING)}"
)

MORE = "\nimages: {distribute: archive}\n"
ONE = (
    ("tasks: [starlette-1147, logstats]", "tasks: [two-plus-two]"),
    ("memory: [512MiB, 1GiB, 2GiB]", "memory: [512MiB]"),
    ("cpus: [0.5, 1, 2]", "cpus: [1]"),
)
STATES = ("sacct", "--allocations", "--noheader", "--parsable2", "--format=account,state")


def test_jobs_are_accounted_and_their_states_come_from_sacct(tmp_path):
    with running(AccountingCluster, names=("n1",)) as cluster:
        clone = prepared(tmp_path / "clone", cluster, MORE, ONE)
        profile, account = "profiles/slurm/profile.yaml", f"- slurm_account={ACCOUNT}"
        clone.replace(profile, "# - slurm_account=name", account)
        clone.replace(profile, "slurm-status-command: squeue", "slurm-status-command: sacct")
        with started(clone, cluster, *SLURM, "runs") as sweep:
            finished(clone, sweep)
        assert len(clone.sealed()) == 1
        assert cluster.client(*STATES).split() == [f"{ACCOUNT}|COMPLETED"]
