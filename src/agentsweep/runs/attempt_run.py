"""One attempt that is being made: what all steps of its run know and none of them changes."""

import os
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from agentsweep.agents.claude_code import invocation
from agentsweep.containers.slurm_scope import ClusterJob
from agentsweep.runs.job import Job
from agentsweep.runs.phases import Phases, Say
from agentsweep.runs.store import Attempt


@dataclass(frozen=True)
class AttemptRun:
    """name: of its container and its scratch directory; another store may have an attempt of the
    same id at work on this machine. session: the id that the agent is started with. token: what
    the gateway lets in. cluster_job: the Slurm job that this process is part of, if it is."""

    attempt: Attempt
    job: Job
    spec: str
    say: Say
    phases: Phases
    name: str
    session: str
    token: str = field(repr=False)
    cluster_job: ClusterJob | None

    @classmethod
    def begin(cls, attempt: Attempt, job: Job, spec: str, say: Say) -> "AttemptRun":
        """For a partial attempt; starts nothing."""
        return cls(
            attempt,
            job,
            spec,
            say,
            phases=Phases(say),
            name=f"{attempt.id}-{os.getpid()}",
            session=invocation.session_id(attempt.spec_sha256, attempt.number),
            token=secrets.token_urlsafe(24),
            cluster_job=ClusterJob.here(),
        )

    @property
    def path(self) -> Path:
        """The attempt's directory."""
        return self.attempt.path
