"""Whether an agent that ended, in a container that lives, did run and did end by itself."""

from agentsweep.agents.claude_code import invocation
from agentsweep.containers.engine import Engine
from agentsweep.errors import InfraError, LastingError
from agentsweep.runs import agent_output, disk_use, limits_in_force
from agentsweep.runs.agent_watch import Watched
from agentsweep.runs.attempt_run import AttemptRun
from agentsweep.runs.limits_in_force import Verified

# The engine's own, and what a shell says of a program that it cannot run.
_ENGINES_OWN, _LOST = 125, 255
_NEVER_THE_AGENTS = (_ENGINES_OWN, 126, 127, _LOST)


def check(
    run: AttemptRun,
    engine: Engine,
    verified: Verified,
    has_run: bool,
    watched: Watched,
    code: int | None,
    exchanges: int,
) -> None:
    """InfraError where the agent did not run, or its end is not its own, or its limits changed.

    has_run: whether it wrote down its process id. exchanges: how many the gateway saw. An agent
    that has asked for anything did run.
    """
    disk_use.refuse_full(run)
    if not has_run:
        _refuse_unstarted(run, code)
    if watched.stopped_by is None:
        _refuse_foreign_end(run, engine, watched, code, exchanges)
    limits_in_force.check(run, verified)


def _refuse_unstarted(run: AttemptRun, code: int | None) -> None:
    last_words = agent_output.last_words(run.path / "stderr.txt")
    if code == invocation.WRONG_PYTHON:
        raise LastingError(
            f"the environment of task {run.job.names.task} is not the one it states "
            f"({last_words}, wanted {run.job.task.python}): mend `environment` or "
            "`python` in the task file"
        )
    raise InfraError(f"the agent did not start (exit code {code}): {last_words}")


def _refuse_foreign_end(
    run: AttemptRun, engine: Engine, watched: Watched, code: int | None, exchanges: int
) -> None:
    if watched.client_first or code is None or code < 0:
        raise InfraError(
            f"`{engine.name} exec` ended before the agent did: something outside killed it"
        )
    last_words = agent_output.last_words(run.path / "stderr.txt")
    lost = engine.lost_command
    if code == _LOST and lost is not None and lost.match(last_words):
        raise InfraError(
            f"how the agent ended is not known: `{engine.name} exec` lost it ({last_words})"
        )
    if code == _ENGINES_OWN or (code in _NEVER_THE_AGENTS and not exchanges):
        raise InfraError(f"the agent could not be run (exit code {code}): {last_words}")
