"""From what a run left to its outcome: the evidence, and what is recorded of the OOM kills."""

from dataclasses import dataclass
from typing import Any

from agentsweep.extraction.gateway_facts import Facts
from agentsweep.host import machine_facts, oom_kills
from agentsweep.runs import outcome
from agentsweep.runs.agent_process import AgentRun
from agentsweep.runs.job import Job

_NEAR_END_NS = 2_000_000_000


@dataclass(frozen=True)
class Oom:
    """The kernel's kills for want of memory while the agent ran.

    kill_count: all of them. tool_count: those that the agent survived, None where their order is
    not known; tool_count_max is then the bound. victims: the kernel log's records, None where it
    cannot be read.
    """

    kill_count: int
    tool_count: int | None
    tool_count_max: int | None
    agent_pid: int | None
    agent_victim: bool
    container_victim: bool
    victims: list[dict[str, Any]] | None


def judge(
    job: Job,
    agent_run: AgentRun,
    summary: dict[str, Any],
    facts: Facts,
    disk_full: str | None,
    gateway_cut: str | None,
) -> tuple[outcome.Judgement, Oom]:
    """The outcome, as of the agent's end: what the kernel kills of ours while git makes the patch
    under the same limit is none of the agent's.

    summary: the sampler's. disk_full: what the run wrote too much of. gateway_cut: how the gateway
    was lost at its stop.
    """
    kills, victims = oom_kills.in_phase(
        agent_run.begin, agent_run.end, machine_facts.sees_kernel_pids()
    )
    last_kill_ns = summary.get("oom_kill_last_ns")
    gateway, claims = agent_run.gateway, agent_run.claims
    judged = outcome.judge(
        outcome.Evidence(
            exit_code=agent_run.exit_code,
            stopped_by=agent_run.stopped_by,
            kills=kills,
            agent_pids=frozenset() if agent_run.pid is None else frozenset((agent_run.pid,)),
            container_pids=agent_run.container_pids,
            oom_kill_near_end=last_kill_ns is not None
            and agent_run.end_ns - _NEAR_END_NS < last_kill_ns < agent_run.end["t_ns"],
            container_alive=agent_run.alive,
            result=claims["result"],
            assistant_messages=claims["assistant_messages"],
            api_statuses=tuple(facts.statuses),
            api_refused=tuple(facts.refused),
            gateway=facts if facts.readable else None,
            max_turns=job.budget.max_turns,
            live=job.is_live,
            over_budget=gateway["budget"]["refused"],
            disk_full=disk_full,
            not_allowed=gateway.get("endpoint"),
            replay=gateway.get("replay"),
            gateway_lost=gateway.get("lost"),
            gateway_cut=gateway_cut,
        )
    )
    return judged, Oom(
        kill_count=kills.count,
        tool_count=judged.tools.count,
        tool_count_max=judged.tools.at_most,
        agent_pid=agent_run.pid,
        agent_victim=judged.agent_victim,
        container_victim=judged.container_victim,
        victims=victims,
    )
