"""The judgement is a pure function: one row a case, each outcome reached, none by text."""

import pytest

from agentsweep.extraction.gateway_facts import Facts
from agentsweep.host.oom_kills import Kills
from agentsweep.runs.outcome import OUTCOMES, Evidence, is_lasting, judge

DONE = {"is_error": False, "terminal_reason": "completed", "subtype": "success"}
FAILED = {"is_error": True, "terminal_reason": "api_error", "api_error_status": 400}


AGENT, INIT, PAUSE, TOOL = 500, 400, 401, 600
NO_KILLS = Kills(0, ())


def killed(*pids: int) -> dict:
    """The kernel's log names each victim."""
    return {"kills": Kills(len(pids), pids)}


def counted(count: int) -> dict:
    """The kernel's log cannot be read."""
    return {"kills": Kills(count, None)}


def evidence(**changes) -> Evidence:
    values = {
        "exit_code": 0,
        "stopped_by": None,
        "kills": NO_KILLS,
        "agent_pids": frozenset({AGENT}),
        "container_pids": frozenset({INIT, PAUSE}),
        "oom_kill_near_end": False,
        "container_alive": True,
        "result": DONE,
        "assistant_messages": 3,
    }
    return Evidence(**values | changes)


def replay(**changes) -> dict:
    return {"unplayed": None, "diverged": None} | changes


REST = {"conversation": "main", "turn": 3, "turns": 5}


KILLED = {"exit_code": 137, "result": None}
CONTAINER_GONE = {"exit_code": None, "result": None, "container_alive": False}
LOST = {"gateway_lost": "it gave no answer", "live": True, "result": FAILED}
CASES = {
    "all well": ({}, "completed", 0),
    "a tool was killed": (killed(TOOL, TOOL + 1), "completed", 2),
    "a tool was killed, no kernel log": (counted(2), "completed", 2),
    "no result event": ({"result": None}, "no_work", 0),
    "no assistant message": ({"assistant_messages": 0}, "no_work", 0),
    "exit code 1": ({"exit_code": 1}, "agent_error", 0),
    "exit code unknown": ({"exit_code": None, "result": None}, "agent_error", 0),
    "reported error": ({"result": DONE | {"is_error": True}}, "agent_error", 0),
    "max turns": ({"result": DONE | {"terminal_reason": "max_turns"}}, "over_budget", 0),
    "the gateway refused": (
        {"result": FAILED | {"api_error_status": 403}, "exit_code": 1, "over_budget": "too much"},
        "over_budget",
        0,
    ),
    "killed over budget": (
        {**KILLED, **killed(AGENT), "over_budget": "too much"},
        "oom_agent",
        0,
    ),
    "played to its end": ({"replay": replay()}, "completed", 0),
    "left the recording": (
        {"replay": replay(diverged={"turn": 3, "conversation": "main", "reason": "lost"})},
        "diverged",
        0,
    ),
    "ended before the recording": ({"replay": replay(unplayed=REST)}, "diverged", 0),
    "ends as the recording did": (
        {
            "replay": replay(),
            "exit_code": 1,
            "result": FAILED | {"api_error_status": None},
            "api_statuses": (200, 200),
        },
        "diverged",
        0,
    ),
    "the gateway fails after the last turn": (
        {
            "replay": replay(),
            "exit_code": 1,
            "result": FAILED | {"api_error_status": None},
            "api_statuses": (200, None),
        },
        "api_error",
        0,
    ),
    "timed out before the recording ended": (
        {"stopped_by": "timed_out", "exit_code": 143, "replay": replay(unplayed=REST)},
        "timed_out",
        0,
    ),
    "a wrong key": (
        {"result": FAILED | {"api_error_status": 401}, "api_statuses": (401, 401), "live": True},
        "infra_error",
        0,
    ),
    "a key that stops being right": (
        {"result": FAILED | {"api_error_status": 401}, "api_statuses": (200, 401), "live": True},
        "api_error",
        0,
    ),
    "no way to the endpoint": (
        {"result": FAILED | {"api_error_status": None}, "api_statuses": (None,), "live": True},
        "infra_error",
        0,
    ),
    "no way to a scripted endpoint": (
        {"result": FAILED | {"api_error_status": None}, "api_statuses": (None,)},
        "api_error",
        0,
    ),
    "an error with a status, whatever the reason": (
        {"result": {"is_error": True, "api_error_status": 500}, "api_statuses": (200, 500)},
        "api_error",
        0,
    ),
    "a status without an error": (
        {"result": DONE | {"api_error_status": 500}, "api_statuses": (200, 500, 200)},
        "completed",
        0,
    ),
    "a kill near the end, and the agent ended by itself": (
        {**counted(1), "exit_code": 1, "oom_kill_near_end": True},
        "agent_error",
        1,
    ),
    "overloaded before the first turn": (
        {"result": FAILED | {"api_error_status": 529}, "api_statuses": (429, 529)},
        "infra_error",
        0,
    ),
    "refused before the first turn by a scripted endpoint": (
        {"result": FAILED | {"api_error_status": 500}, "api_statuses": (500, 500)},
        "api_error",
        0,
    ),
    "success in subtype is nothing": ({"result": FAILED, "exit_code": 1}, "api_error", 0),
    "refused later": (
        {"result": FAILED | {"api_error_status": 429}, "api_statuses": (200, 429, 429)},
        "api_error",
        0,
    ),
    "refused before the first turn": (
        {"result": FAILED | {"api_error_status": 429}, "exit_code": 1, "api_statuses": (429, 429)},
        "infra_error",
        0,
    ),
    "timed out": ({"exit_code": 143, "stopped_by": "timed_out", "result": None}, "timed_out", 0),
    "killed at the limit": ({**KILLED, "stopped_by": "timed_out"}, "timed_out", 0),
    "killed at the limit after a tool": (
        {**KILLED, **killed(TOOL), "stopped_by": "stalled", "oom_kill_near_end": True},
        "stalled",
        1,
    ),
    "killed at the limit after a kill, no kernel log": (
        {**KILLED, **counted(1), "stopped_by": "stalled", "oom_kill_near_end": True},
        "stalled",
        (None, 1),
    ),
    "ended at the limit after a kill, no kernel log": (
        {**counted(1), "exit_code": 143, "stopped_by": "stalled"},
        "stalled",
        1,
    ),
    "killed by the kernel at the limit": (
        {**KILLED, **killed(TOOL, AGENT, TOOL + 1), "stopped_by": "timed_out"},
        "timed_out",
        1,
    ),
    "kernel names the agent last": (
        {**KILLED, **killed(TOOL, TOOL + 1, AGENT)},
        "oom_agent",
        2,
    ),
    "kernel names the agent first": (
        {**KILLED, **killed(AGENT, TOOL, TOOL + 1)},
        "oom_agent",
        0,
    ),
    "kernel names the agent, records are missing": (
        {**KILLED, "kills": Kills(5, (TOOL, AGENT, TOOL + 1))},
        "oom_agent",
        (None, 3),
    ),
    "kernel names another": (
        {**KILLED, **killed(TOOL), "oom_kill_near_end": True},
        "agent_error",
        1,
    ),
    "kernel names another, a record is missing": (
        {**KILLED, "kills": Kills(2, (TOOL,)), "oom_kill_near_end": True},
        "oom_agent",
        (None, 1),
    ),
    "the agent was never found": (
        {**KILLED, **killed(TOOL), "agent_pids": frozenset(), "oom_kill_near_end": True},
        "oom_agent",
        0,
    ),
    "no kernel log, kill at the end": (
        {**KILLED, **counted(1), "oom_kill_near_end": True},
        "oom_agent",
        0,
    ),
    "no kernel log, kills at the end": (
        {**KILLED, **counted(3), "oom_kill_near_end": True},
        "oom_agent",
        (None, 2),
    ),
    "no kernel log, kill long ago": ({**KILLED, **counted(1)}, "agent_error", (None, 1)),
    "137 alone is not OOM": (KILLED, "agent_error", 0),
    "container killed": ({**CONTAINER_GONE, **killed(TOOL, INIT)}, "oom_container", 1),
    "container killed, then a tool": ({**CONTAINER_GONE, **killed(INIT, TOOL)}, "oom_container", 0),
    "what keeps the container alive was killed": (
        {**CONTAINER_GONE, **killed(PAUSE)},
        "oom_container",
        0,
    ),
    "container killed, no kernel log": ({**CONTAINER_GONE, **counted(1)}, "oom_container", 0),
    "container killed after some, no kernel log": (
        {**CONTAINER_GONE, **counted(3)},
        "oom_container",
        (None, 2),
    ),
    "too much was written": ({"disk_full": "the run wrote too much"}, "disk_full", 0),
    "too much was written, then it was ended": (
        {"disk_full": "the run wrote too much", "stopped_by": "disk_full", "exit_code": 137},
        "disk_full",
        0,
    ),
    "too much was written, and the kernel killed the agent": (
        {"disk_full": "the run wrote too much", **killed(AGENT), "exit_code": 137},
        "oom_agent",
        0,
    ),
    "the gateway was lost to the agent": (
        {**LOST, **killed(TOOL), "stopped_by": "gateway_lost", "exit_code": 137},
        "agent_error",
        1,
    ),
    "the gateway was lost, and the agent ended": (LOST, "agent_error", 0),
    "the gateway was lost, and the kernel killed the agent": (
        {**LOST, **killed(TOOL, AGENT), "exit_code": 137},
        "oom_agent",
        1,
    ),
    "container removed": (CONTAINER_GONE, "infra_error", 0),
    "container removed after a tool was killed": (
        {**CONTAINER_GONE, **killed(TOOL)},
        "infra_error",
        1,
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_judgement(case):
    changes, outcome, tools = CASES[case]
    judged = judge(evidence(**changes))
    count, at_most = tools if isinstance(tools, tuple) else (tools, tools)
    assert judged.outcome == outcome
    assert (judged.tools.count, judged.tools.at_most) == (count, at_most)
    assert judged.detail and "\n" not in judged.detail


def test_every_outcome_is_reached_and_none_beside_them():
    reached = {outcome for _, outcome, _ in CASES.values()}
    assert reached == {*OUTCOMES, "infra_error"}


def test_victims_are_marked():
    agent = judge(evidence(**CASES["kernel names the agent last"][0]))
    container = judge(evidence(**CASES["container killed"][0]))
    assert (agent.agent_victim, agent.container_victim) == (True, False)
    assert (container.agent_victim, container.container_victim) == (False, True)


def test_a_replay_says_at_which_turn_it_left():
    left = {"turn": 3, "conversation": "main", "reason": "the recording ends"}
    judged = judge(evidence(replay=replay(diverged=left)))
    assert judged.detail == "turn 3 of main: the recording ends"
    judged = judge(evidence(replay=replay(unplayed=REST)))
    assert judged.detail == "turn 3 of main: the agent ended without it (of 5 turns there)"


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("refused later", "gave up on its endpoint (status 429)"),
        ("no way to a scripted endpoint", "gave up on its endpoint (no status)"),
        ("exit code 1", "ended with exit code 1"),
        ("exit code unknown", "ended with an unknown exit code"),
        ("no result event", "left no result event"),
        ("no assistant message", "left no assistant message"),
        ("timed out", "at the wall limit"),
        ("killed at the limit after a tool", "at the stall limit"),
        ("container removed", "killed no process in it"),
        ("container removed after a tool was killed", "killed other processes than its init"),
        ("container killed, then a tool", "init for memory (2 kills)"),
        ("max turns", "(agent.max_turns)"),
        ("reported error", "reported an error (completed)"),
        ("137 alone is not OOM", "killed with SIGKILL"),
        ("ends as the recording did", "the last recorded answer is an error"),
        ("overloaded before the first turn", "refused every request with 529 before the first"),
        ("the gateway was lost to the agent", "its own model endpoint: it gave no answer"),
    ],
)
def test_the_detail_says_what_happened(case, says):
    assert says in judge(evidence(**CASES[case][0])).detail


@pytest.mark.parametrize(
    ("statuses", "hint"),
    [((403,), True), ((429, 429, 403), True), ((429, 401), True), ((401, 401, 429), False)],
)
def test_the_last_refusal_decides_whether_the_key_is_doubted(statuses, hint):
    failed = FAILED | {"api_error_status": statuses[-1]}
    said = judge(evidence(result=failed, api_statuses=statuses, live=True)).detail
    assert f"with {statuses[-1]} before" in said
    assert said.endswith("see whether its key is right") == hint
    assert hint or said.endswith("the first turn")


@pytest.mark.parametrize(
    ("status", "cure"),
    [
        (402, "see whether its account has credit"),
        (404, "see whether base_url and model_id are right"),
    ],
)
def test_a_lasting_refusal_names_its_cure(status, cure):
    failed = FAILED | {"api_error_status": status}
    said = judge(evidence(result=failed, api_statuses=(status, status), live=True)).detail
    assert said.endswith(f"with {status} before the first turn: {cure}") and is_lasting(said)


def test_what_the_gateway_refused_is_not_put_on_the_endpoint():
    rules = {"allowed": [], "refused": 3, "first_refused": "the field new is not known"}
    useless, _, _ = CASES["a wrong key"]
    only = {"api_statuses": (), "api_refused": (403, 403), "not_allowed": rules}
    said = judge(evidence(**useless | only))
    assert said.outcome == "infra_error" and is_lasting(said.detail)
    assert said.detail == (
        "the gateway refused every request with 403 before the first turn: the field new is not "
        "known"
    )
    # Where the endpoint refused too, it is the one to look at.
    more = useless | only | {"api_statuses": (401,)}
    assert "the endpoint refused every request with 401" in judge(evidence(**more)).detail


@pytest.mark.parametrize("live", [True, False])
@pytest.mark.parametrize("status", [400, 401, 413, 429, 529])
@pytest.mark.parametrize(
    ("exit_code", "outcome"), [(0, "no_work"), (1, "api_error"), (137, "agent_error")]
)
def test_an_agent_whose_requests_only_the_gateway_refused_is_judged_by_what_it_did(
    live, status, exit_code, outcome
):
    facts = Facts(refused=[status] * 3, asked=3, last_status=status)
    rules = {"allowed": [], "refused": 0, "first_refused": None} if live else None
    said = judge(
        evidence(
            **{"exit_code": exit_code, "live": live, "result": None, "assistant_messages": 0},
            **{"gateway": facts, "api_refused": (status,) * 3, "not_allowed": rules},
        )
    )
    assert said.outcome == outcome


def test_a_refusal_of_the_gateway_hides_no_answer_of_the_endpoint():
    useless, _, _ = CASES["a wrong key"]
    more = useless | {"api_statuses": (401,), "api_refused": (400, 400)}
    assert "the endpoint refused every request with 401" in judge(evidence(**more)).detail
    silent, _, _ = CASES["no way to the endpoint"]
    more = silent | {"api_refused": (400,)}
    assert "gave no answer to any request" in judge(evidence(**more)).detail


def test_a_replay_whose_request_the_gateway_refused_has_not_played_all():
    ends, _, _ = CASES["ends as the recording did"]
    assert judge(evidence(**ends | {"api_refused": (413,)})).outcome == "api_error"


def test_a_record_that_was_cut_shows_no_endpoint_that_was_silent():
    silent, _, _ = CASES["no way to the endpoint"]
    cut = silent | {"api_statuses": (), "gateway_cut": "it could not be stopped in time"}
    assert judge(evidence(**silent | {"api_statuses": ()})).outcome == "infra_error"
    said = judge(evidence(**cut))
    assert said.outcome == "agent_error"
    assert said.detail.endswith("model endpoint: it could not be stopped in time")
    # What it holds says what it said before, and an agent that has ended well did so.
    assert judge(evidence(**cut | {"api_statuses": (None,)})).outcome == "infra_error"
    assert judge(evidence(gateway_cut="it could not be stopped in time")).outcome == "completed"


def test_a_live_endpoint_that_refuses_is_quoted_and_one_that_is_silent_is_not():
    said = judge(evidence(**CASES["a wrong key"][0])).detail
    assert "refused every request with 401" in said and "see whether its key is right" in said
    silent = judge(evidence(**CASES["no way to the endpoint"][0])).detail
    assert "gave no answer to any request" in silent


def seen(stop_reason="end_turn", last_status=200, answers=3, asked=3, statuses=None) -> dict:
    """What the gateway saw of a conversation of three turns."""
    made = Facts(
        statuses=[200] * asked if statuses is None else statuses,
        answers=answers,
        turns=answers,
        asked=asked,
        last_status=last_status,
        stop_reason=stop_reason,
    )
    return {"gateway": made, "api_statuses": tuple(made.statuses)}


FORGED = {
    "nothing": None,
    "completed": DONE,
    "error": DONE | {"is_error": True, "terminal_reason": "aborted"},
    "api error": FAILED,
    "turns": DONE | {"terminal_reason": "max_turns"},
}
WITNESSED = {
    "a final answer": ({**seen()}, "completed"),
    "a tool was asked for": ({**seen("tool_use"), "exit_code": 143}, "agent_error"),
    "an exit code": ({**seen(), "exit_code": 1}, "agent_error"),
    "a signal": ({**seen("tool_use"), "exit_code": 137}, "agent_error"),
    "the endpoint failed": (
        {**seen("tool_use", 500, 2, statuses=[200, 200, 500]), "exit_code": 1},
        "api_error",
    ),
    "the endpoint failed, and a tool ended the agent": (
        {**seen("tool_use", 500, 2, statuses=[200, 200, 500]), "exit_code": 143},
        "agent_error",
    ),
    "all its turns": ({**seen("tool_use"), "exit_code": 1, "max_turns": 3}, "over_budget"),
    "not all its turns": ({**seen("tool_use"), "exit_code": 1, "max_turns": 4}, "agent_error"),
    "all its turns, and a final answer": ({**seen(), "max_turns": 3}, "completed"),
    "no word": ({**seen(answers=0)}, "no_work"),
}


@pytest.mark.parametrize("claim", FORGED)
@pytest.mark.parametrize("case", WITNESSED)
def test_what_the_stream_says_changes_no_outcome(case, claim):
    changes, outcome = WITNESSED[case]
    assert judge(evidence(**changes, result=FORGED[claim])).outcome == outcome


@pytest.mark.parametrize(
    ("result", "outcome", "says"),
    [
        (None, "no_work", "left no result event"),
        (DONE, "agent_error", "before the model had given its last answer"),
        (FAILED, "agent_error", "before the model had given its last answer"),
    ],
)
def test_an_agent_that_ends_before_the_last_answer_has_not_completed(result, outcome, says):
    judged = judge(evidence(**seen("tool_use"), **killed(TOOL), result=result))
    assert (judged.outcome, judged.tools.count) == (outcome, 1)
    assert says in judged.detail


@pytest.mark.parametrize(
    ("stop_reason", "exit_code", "outcome"),
    [
        ("max_tokens", 1, "api_error"),
        ("refusal", 1, "api_error"),
        ("refusal", 143, "agent_error"),
        ("end_turn", 1, "agent_error"),
        ("tool_use", 1, "agent_error"),
    ],
)
def test_an_answer_that_the_agent_takes_for_an_error(stop_reason, exit_code, outcome):
    changes = {"result": FAILED, "exit_code": exit_code}
    judged = judge(evidence(**seen(stop_reason), **changes))
    assert judged.outcome == outcome
    # Whatever the agent claims: the last answer had status 200, which is no failure to be told.
    assert ("(no status)" in judged.detail) == (outcome == "api_error")


def test_the_status_that_is_told_is_the_gateways_and_no_claim():
    changes, _ = WITNESSED["the endpoint failed"]
    said = judge(evidence(**changes, result=FAILED | {"api_error_status": 418})).detail
    assert said == "the agent gave up on its endpoint (status 500)"


def test_an_agent_that_got_no_answer_is_no_data_whatever_it_says():
    refused = seen(None, 429, 0, statuses=[429, 429])
    for result in FORGED.values():
        judged = judge(evidence(**refused, result=result, exit_code=1))
        assert judged.outcome == "infra_error"


@pytest.mark.parametrize(
    ("status", "lasting"),
    [
        *((status, True) for status in (400, 401, 403, 404, 499)),
        *((status, False) for status in (302, 408, 409, 425, 429, 500, 529)),
    ],
)
def test_what_an_endpoint_refuses_for_good(status, lasting):
    detail = f"the endpoint refused every request with {status} before the first turn"
    assert is_lasting(detail) is lasting


def test_what_is_no_refusal_may_pass():
    assert not is_lasting("the container went away")
