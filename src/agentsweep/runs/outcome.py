"""What happened in a run, as one of a closed set of names.

The judgement is a pure function of evidence that the runner collected. Whether the kernel killed
for memory comes from kernel counters and kernel records alone: exit code 137 only says that
*somebody* sent SIGKILL, and the text of a tool only says what the tool believes. How the
conversation ended comes from the exit code and the gateway: what the agent's stdout says of it is a
claim that any tool can forge, and decides only where the gateway could not read the answers.

An agent that ran and ended is data, whoever ended it, unless something shows that the host did.
"""

import re
from dataclasses import dataclass
from typing import Any

from agentsweep.extraction.gateway_facts import Facts
from agentsweep.host.oom_kills import Kills, Survived
from agentsweep.vocabulary import Outcome

OUTCOMES = tuple(Outcome)

SIGKILL_EXIT = 137
# What the CLI ends with by itself where it does not complete its work.
_FAILED_EXIT = 1
# Of the statuses that blame the request: timeout, conflict, too early, too many.
_PASSING = (408, 409, 425, 429)

# What to see to where an endpoint refuses every request with one of these.
_HINTS = {
    401: "see whether its key is right",
    402: "see whether its account has credit",
    403: "see whether its key is right",
    404: "see whether base_url and model_id are right",
}


@dataclass(frozen=True)
class Evidence:
    """All that the judgement rests on.

    exit_code: the agent's exit code, None when it never ended by itself or was lost.
    stopped_by: `timed_out`, `stalled` or `gateway_lost` when the runner ended the agent, else None.
    kills: kernel OOM kills in the container during the agent phase, in their order where known.
    agent_pids: the agent's own process, on the host; empty when it had ended before it was found.
    container_pids: the container's init and what keeps it alive.
    oom_kill_near_end: the kernel's kill counter rose in the last moments before the agent ended.
    container_alive: the container's init outlived the agent.
    result: the final `result` event of the CLI's output stream, or None: a claim.
    assistant_messages: genuine (not synthetic) assistant messages with text or a tool call in that
    stream: a claim, too.
    gateway: what the gateway saw, None where it could not read the answers; then the claims decide.
    max_turns: the agent's limit, None without one.
    api_statuses: HTTP status of each request for a message that the model was asked, None where no
    answer was given. api_refused: of each that the gateway itself refused.
    live: whether a real endpoint answered. over_budget: why the gateway refused a request, None
    where it refused none for that. not_allowed: how many requests it refused because they asked
    for more than the run may, and the first reason (`endpoint_tools.Rules.progress`), None in other
    modes. replay: how a replay went (`replay.ReplayModel.progress`), None in other modes.
    gateway_lost: how the gateway was lost to the agent's own load, None where it was not.
    gateway_cut: the same of one that could not be stopped in time after the agent's end: what was
    under way is not in its record.
    disk_full: what the run wrote too much of (`disk.Watch.over`), None where it did not.
    """

    exit_code: int | None
    stopped_by: str | None
    kills: Kills
    agent_pids: frozenset[int]
    container_pids: frozenset[int]
    oom_kill_near_end: bool
    container_alive: bool
    result: dict[str, Any] | None
    assistant_messages: int
    api_statuses: tuple[int | None, ...] = ()
    api_refused: tuple[int | None, ...] = ()
    live: bool = False
    over_budget: str | None = None
    not_allowed: dict[str, Any] | None = None
    replay: dict[str, Any] | None = None
    gateway_lost: str | None = None
    gateway_cut: str | None = None
    disk_full: str | None = None
    gateway: Facts | None = None
    max_turns: int | None = None


@dataclass(frozen=True)
class Judgement:
    """`outcome` is one of OUTCOMES or `infra_error`; `detail` is one sentence for a reader.

    tools: the kills that the agent survived.
    """

    outcome: str
    detail: str
    tools: Survived
    agent_victim: bool = False
    container_victim: bool = False


def judge(seen: Evidence) -> Judgement:
    """The outcome of a run; see `Evidence` for what it may rest on."""
    if not seen.container_alive:
        whom = "no process" if seen.kills.count == 0 else "other processes than its init"
        if seen.kills.count == 0 or seen.kills.hit(seen.container_pids) is False:
            return Judgement(
                "infra_error",
                "the container went away during the run and the kernel killed "
                f"{whom} in it for memory: something outside removed it",
                _survived(seen, ended_by_kill=False),
            )
        return Judgement(
            "oom_container",
            f"the kernel killed the container's init for memory ({seen.kills.count} kills)",
            _survived(seen, ended_by_kill=True),
            container_victim=True,
        )
    if _agent_was_victim(seen):
        return Judgement(
            "oom_agent",
            "the kernel killed the agent's own process for memory",
            _survived(seen, ended_by_kill=True),
            agent_victim=True,
        )
    tools = _survived(seen, ended_by_kill=False)
    if seen.gateway_lost is not None:
        return Judgement("agent_error", _overwhelmed(seen.gateway_lost), tools)
    if seen.disk_full is not None:
        return Judgement("disk_full", seen.disk_full, tools)
    if seen.stopped_by:
        limit = {"timed_out": "the wall limit", "stalled": "the stall limit"}[seen.stopped_by]
        return Judgement(seen.stopped_by, f"the runner ended the agent at {limit}", tools)
    if seen.exit_code == SIGKILL_EXIT:
        # Its own tools can do this, and would be no data whenever they like.
        return Judgement(
            "agent_error",
            "the agent was killed with SIGKILL, by a tool of its own or from the host: neither the "
            "kernel's OOM killer nor a limit did it",
            tools,
        )
    return _judge_end(seen, tools)


def _overwhelmed(how: str) -> str:
    return f"the agent overwhelmed its own model endpoint: {how}"


def _agent_was_victim(seen: Evidence) -> bool:
    if seen.kills.count == 0 or seen.exit_code != SIGKILL_EXIT or seen.stopped_by:
        return False
    named = seen.kills.hit(seen.agent_pids) if seen.agent_pids else None
    return seen.oom_kill_near_end if named is None else named


def _survived(seen: Evidence, ended_by_kill: bool) -> Survived:
    """The kills that the agent survived: all but its own and those after it."""
    kills, ends = seen.kills, seen.agent_pids | seen.container_pids
    named = kills.hit(ends)
    if ended_by_kill or named:
        return kills.before(ends)
    if kills.count and seen.exit_code == SIGKILL_EXIT and (named is None or not seen.agent_pids):
        # The runner killed it at a limit, or the kernel was quicker.
        return Survived(None, kills.count)
    return Survived(kills.count, kills.count)


def _judge_end(seen: Evidence, tools: Survived) -> Judgement:
    """The agent ended by itself: what do its exit code and the gateway say?

    `subtype` of the result event says `success` even after a fatal API error, so it is not looked
    at.
    """
    if seen.over_budget is not None:
        return Judgement("over_budget", seen.over_budget, tools)
    if _had_its_turns(seen):
        return Judgement("over_budget", "the agent has had its turns (agent.max_turns)", tools)
    if seen.replay is not None and (left := _left_recording(seen, seen.replay)) is not None:
        return Judgement("diverged", left, tools)
    if _gave_up(seen):
        status = _claimed(seen, "api_error_status")
        if seen.gateway is not None:
            status = seen.gateway.last_status
        if seen.gateway_cut is not None and not seen.api_statuses:
            # A record that was cut does not show that the endpoint gave no answer.
            return Judgement("agent_error", _overwhelmed(seen.gateway_cut), tools)
        if (useless := _never_answered(seen)) is not None:
            return Judgement("infra_error", useless, tools)
        said = f"status {status}" if status not in (None, 200) else "no status"
        return Judgement("api_error", f"the agent gave up on its endpoint ({said})", tools)
    if seen.exit_code != 0:
        code = "an unknown exit code" if seen.exit_code is None else f"exit code {seen.exit_code}"
        return Judgement("agent_error", f"the agent ended with {code}", tools)
    messages = seen.assistant_messages if seen.gateway is None else seen.gateway.answers
    final = None if seen.gateway is None else seen.gateway.final
    if messages == 0 or (seen.result is None and final is not True):
        missing = "no assistant message" if messages == 0 else "no result event"
        return Judgement("no_work", f"the agent ended with exit code 0 but left {missing}", tools)
    if final is False:
        return Judgement(
            "agent_error",
            "the agent ended with exit code 0 before the model had given its last answer",
            tools,
        )
    reason = _claimed(seen, "terminal_reason")
    if final is None and (_claimed(seen, "is_error") or reason not in (None, "completed")):
        return Judgement("agent_error", f"the agent reported an error ({reason})", tools)
    return Judgement("completed", "the agent completed its work", tools)


def _claimed(seen: Evidence, name: str) -> object:
    return (seen.result or {}).get(name)


def _had_its_turns(seen: Evidence) -> bool:
    """Whether the CLI ended for its own limit of turns, before it asked for another one."""
    if seen.gateway is None:
        return _claimed(seen, "terminal_reason") == "max_turns"
    return (
        seen.max_turns is not None
        and seen.gateway.asked >= seen.max_turns
        and seen.gateway.last_status == 200
        and seen.gateway.final is False
        and seen.exit_code == _FAILED_EXIT
    )


def _gave_up(seen: Evidence) -> bool:
    """Whether the CLI ended for what its endpoint answered.

    The gateway's last answer decides. Where that is one that the CLI may take for an error (it was
    cut at a limit, or is a refusal), what it says of itself does.
    """
    says_so = _claimed(seen, "terminal_reason") == "api_error" or bool(
        _claimed(seen, "is_error") and _claimed(seen, "api_error_status")
    )
    if seen.gateway is None or not (seen.gateway.statuses or seen.gateway.refused):
        # Before the first answer there is no tool that could forge it.
        return says_so
    if seen.exit_code != _FAILED_EXIT:
        return False
    return seen.gateway.last_status != 200 or (says_so and seen.gateway.odd_end)


def _left_recording(seen: Evidence, replay: dict[str, Any]) -> str | None:
    """Where and why a replay left its recording; None where it was played to its end."""
    left, unplayed = replay["diverged"], replay["unplayed"]
    if left is not None:
        return f"turn {left['turn']} of {left['conversation']}: {left['reason']}"
    if unplayed is not None:
        return (
            f"turn {unplayed['turn']} of {unplayed['conversation']}: the agent ended without it "
            f"(of {unplayed['turns']} turns there)"
        )
    claims_error = _claimed(seen, "terminal_reason") == "api_error"
    all_answered = set(seen.api_statuses) == {200} and not seen.api_refused
    if claims_error and seen.exit_code != 0 and all_answered:
        # No answer failed, so it is the last one that the agent makes nothing of, as it was when
        # it was recorded.
        return "the end of main: the last recorded answer is an error to the agent"
    return None


def is_lasting(detail: str) -> bool:
    """Whether an `infra_error` of that detail comes again: the endpoint does not want the request.

    A wrong key, an unknown model; neither a rate limit nor an endpoint that fails.
    """
    refused = re.search(r"refused every request with (\d+)", detail)
    return refused is not None and 400 <= int(refused[1]) < 500 and int(refused[1]) not in _PASSING


def _never_answered(seen: Evidence) -> str | None:
    """Why an endpoint that answered nothing is no data: a rate limit before the first turn, and of
    a real endpoint everything else too (a wrong key, no way there).

    What the gateway itself refused is no answer of an endpoint. Where it refused everything, only
    requests that its rules do not know are no data; others are what the agent did."""
    statuses = [status for status in seen.api_statuses if status is not None]
    if 200 in statuses:
        return None
    if seen.api_refused and not seen.api_statuses:
        if not seen.not_allowed or not seen.not_allowed["refused"]:
            return None
        # Not the agent's doing where it never got further: a CLI that asks for what is not known.
        return (
            f"the gateway refused every request with {seen.api_refused[-1]} before the first turn: "
            f"{seen.not_allowed['first_refused']}"
        )
    if statuses and (seen.live or all(status in (429, 529) for status in statuses)):
        hint = f": {_HINTS[statuses[-1]]}" if statuses[-1] in _HINTS else ""
        return f"the endpoint refused every request with {statuses[-1]} before the first turn{hint}"
    if seen.live:
        return (
            "the endpoint gave no answer to any request before the first turn: see api.jsonl of "
            "the attempt"
        )
    return None
