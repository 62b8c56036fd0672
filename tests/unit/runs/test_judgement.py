"""Whom the kernel killed, from the sampler's answers and its summary."""

import pytest
from run_parts import BUDGET, an_agent_run, job_content, live, reading

from agentsweep.extraction.gateway_facts import Facts
from agentsweep.runs import judgement
from agentsweep.runs.job import Job

AGENT, INIT, TOOL = 500, 400, 600
KILLED = {
    "exit_code": 137,
    "claims": {"result": None, "result_events": 0, "assistant_messages": 1},
}
# Where nothing could be read of the answers, the claims decide.
UNREAD = Facts(readable=False)


def record(pid: int) -> dict:
    return {"pid": pid, "comm": "x", "uid": 1000, "t_ns": pid, "utc_ns": pid}


def agent_run(begin=(0, ()), end=(0, ()), **changes):
    """begin and end: the counter of kills, and the log's victims, None where it is not readable."""

    def answer(t_ns, told):
        count, pids = told
        victims = None if pids is None else [record(pid) for pid in pids]
        return reading(t_ns, count) | {"victims": victims}

    given = {"pid": AGENT, "container_pids": frozenset({INIT})}
    edges = {"begin": answer(10**9, begin), "end": answer(10**10, end)}
    return an_agent_run(**given | edges | changes)


@pytest.fixture
def judged(tmp_path, monkeypatch):
    monkeypatch.setattr(judgement.machine_facts, "sees_kernel_pids", lambda: True)

    def judge(run, facts=UNREAD, disk_full=None, gateway_cut=None, of_job=(), **summary):
        job = Job.from_json(job_content(tmp_path, **dict(of_job)))
        return judgement.judge(job, run, summary, facts, disk_full, gateway_cut)

    return judge


def test_the_agent_is_a_victim_only_where_the_log_names_it(judged):
    by_kernel, oom = judged(agent_run(end=(1, [AGENT]), **KILLED))
    assert by_kernel.outcome == "oom_agent"
    assert (oom.agent_victim, oom.tool_count, oom.agent_pid) == (True, 0, AGENT)
    # A tool was the victim, and somebody else killed the agent.
    other, oom = judged(agent_run(end=(1, [TOOL]), **KILLED), oom_kill_last_ns=9 * 10**9)
    assert other.outcome == "agent_error"
    assert not oom.agent_victim


def test_kills_before_the_agents_phase_are_not_its(judged):
    verdict, oom = judged(agent_run(begin=(2, [1, 2]), end=(3, [1, 2, TOOL])))
    assert verdict.outcome == "completed"
    assert (oom.kill_count, oom.tool_count) == (1, 1)
    assert [victim["pid"] for victim in oom.victims] == [TOOL]
    _, oom = judged(agent_run(begin=(2, None), end=(2, None)))
    assert (oom.kill_count, oom.tool_count, oom.victims) == (0, 0, None)


def test_the_logs_larger_number_counts(judged):
    run = agent_run(end=(1, [TOOL, INIT]), **KILLED | {"alive": False, "exit_code": None})
    verdict, oom = judged(run)
    assert verdict.outcome == "oom_container"
    assert (oom.kill_count, oom.tool_count, oom.container_victim) == (2, 1, True)


def test_a_kill_after_the_agents_own_is_no_kill_that_it_survived(judged):
    _, oom = judged(agent_run(end=(2, [AGENT, TOOL]), **KILLED))
    assert (oom.kill_count, oom.tool_count, oom.tool_count_max) == (2, 0, 0)
    _, oom = judged(agent_run(end=(2, [TOOL, AGENT]), **KILLED))
    assert (oom.kill_count, oom.tool_count, oom.tool_count_max) == (2, 1, 1)


def test_without_the_kernels_log_the_number_is_unknown_with_a_bound(judged):
    run = agent_run(begin=(0, None), end=(3, None), **KILLED)
    verdict, oom = judged(run, oom_kill_last_ns=9 * 10**9 - 1)
    assert verdict.outcome == "oom_agent"
    assert (oom.tool_count, oom.tool_count_max) == (None, 2)


def test_pids_of_another_namespace_are_not_the_agents(judged, monkeypatch):
    monkeypatch.setattr(judgement.machine_facts, "sees_kernel_pids", lambda: False)
    verdict, _ = judged(agent_run(end=(1, [AGENT]), **KILLED))
    assert verdict.outcome == "agent_error"


@pytest.mark.parametrize(
    ("last_kill_ns", "outcome"),
    [
        (None, "agent_error"),
        (7 * 10**9, "agent_error"),
        (7 * 10**9 + 1, "oom_agent"),
        (10**10 - 1, "oom_agent"),
        (10**10, "agent_error"),
    ],
)
def test_near_the_end_is_two_seconds(judged, last_kill_ns, outcome):
    run = agent_run(begin=(0, None), end=(1, None), **KILLED)
    assert judged(run, oom_kill_last_ns=last_kill_ns)[0].outcome == outcome


def test_what_ended_it_reaches_the_judgement(judged):
    assert judged(agent_run(stopped_by="stalled"))[0].outcome == "stalled"
    assert judged(agent_run(), disk_full="it wrote too much")[0].outcome == "disk_full"
    spent = {"budget": BUDGET | {"refused": "it has had its money"}}
    assert judged(agent_run(gateway=spent))[0].outcome == "over_budget"
    lost = {"budget": BUDGET, "lost": "it gave no answer"}
    assert "overwhelmed" in judged(agent_run(gateway=lost))[0].detail
    replay = {"diverged": {"turn": 1, "conversation": "main", "reason": "r"}, "unplayed": None}
    diverged = {"budget": BUDGET, "replay": replay}
    assert judged(agent_run(gateway=diverged))[0].outcome == "diverged"


def test_what_the_gateway_saw_reaches_the_judgement(judged):
    gave_up = an_agent_run(exit_code=1)
    refused = Facts(statuses=[500], asked=1, last_status=500)
    assert judged(gave_up, refused)[0].outcome == "api_error"
    # Of a real endpoint that never answered, nothing is data.
    assert judged(gave_up, refused, of_job={"model": live()})[0].outcome == "infra_error"
    turns = Facts(statuses=[200], asked=1, turns=1, last_status=200, stop_reason="tool_use")
    assert judged(gave_up, turns, of_job={"budget": {"max_turns": 1}})[0].outcome == "over_budget"
    cut = Facts(asked=1)
    said = {"result": {"terminal_reason": "api_error"}, "result_events": 1, "assistant_messages": 0}
    claims = an_agent_run(exit_code=1, claims=said)
    verdict, _ = judged(claims, cut, gateway_cut="it could not be stopped in time")
    assert "could not be stopped in time" in verdict.detail
    # What the gateway itself refused, because its rules do not know it, is no data.
    said = {"budget": BUDGET, "endpoint": {"refused": 1, "first_refused": "unknown"}}
    not_allowed = Facts(refused=[403], asked=1, last_status=403)
    assert judged(an_agent_run(exit_code=1, gateway=said), not_allowed)[0].outcome == "infra_error"
