"""Which call started a sub-agent: the same as by looking at each call for each sub-agent."""

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agentsweep.agents.claude_code.parents import Parents

AGENTS = (None, "a", "b", "c")
TIMES = st.one_of(st.none(), st.integers(0, 9))
PROMPTS = st.sampled_from(["go", "stay", None, 7])
CALLS = st.lists(
    st.builds(
        lambda tool_id, **values: (tool_id, SimpleNamespace(**values)),
        st.sampled_from("tu"),
        id=st.sampled_from("123456"),
        name=st.sampled_from(["Task", "Agent", "Bash"]),
        input=st.builds(lambda prompt: {"prompt": prompt}, PROMPTS),
        agent_id=st.sampled_from(AGENTS),
        requested_utc_ns=TIMES,
        end_utc_ns=TIMES,
    ),
    max_size=12,
)
SUB_AGENTS = st.lists(
    st.builds(
        lambda agent_id, prompt, first, last: SimpleNamespace(
            prompt=prompt,
            record=SimpleNamespace(agent_id=agent_id, first_utc_ns=first, last_utc_ns=last),
        ),
        st.sampled_from(AGENTS[1:]),
        st.sampled_from(["go", "stay", None]),
        TIMES,
        TIMES,
    ),
    max_size=6,
)


def guessed(agent, starts):
    """What `guess` is, in n²: `starts` are those that are not taken."""
    first, last = agent.record.first_utc_ns, agent.record.last_utc_ns
    others = [call for call in starts if call.agent_id != agent.record.agent_id]
    if agent.prompt is not None:
        return next((call for call in others if call.input["prompt"] == agent.prompt), None)
    if first is None or last is None:
        return None
    around = [
        call
        for call in others
        if (call.requested_utc_ns is None or call.requested_utc_ns <= first)
        and (call.end_utc_ns is None or last <= call.end_utc_ns)
    ]
    return around[0] if len(around) == 1 else None


def by_id(agent, calls):
    """What `named` is, in n²: `calls` are those of the id."""
    others = [call for call in calls if call.agent_id != agent.record.agent_id] or calls
    starts = [call for call in others if call.name != "Bash"] or others
    same = [call for call in starts if call.input["prompt"] == agent.prompt]
    return next(iter(same or starts), None)


@pytest.mark.slow
@settings(deadline=None)
@given(CALLS, SUB_AGENTS, st.sets(st.sampled_from("123456"), max_size=3))
def test_the_parent_is_that_of_the_slow_way(calls, agents, taken):
    uses = {}
    for tool_id, call in calls:
        uses.setdefault(tool_id, []).append(SimpleNamespace(call=call))
    parents = Parents(uses, [call for _, call in calls])
    for call_id in taken:
        parents.take(call_id)
    for agent in agents:
        for tool_id in "tuv":
            of_id = [call for one, call in calls if one == tool_id]
            assert parents.named(tool_id, agent) is by_id(agent, of_id)
            assert all(parents.is_of(call, tool_id) for call in of_id)
        starts = [call for _, call in calls if call.name != "Bash" and call.id not in taken]
        found = parents.guess(agent)
        assert found is guessed(agent, starts)
        if found is not None:
            taken = taken | {found.id}
            parents.take(found.id)
    assert not any(parents.is_of(call, "v") for _, call in calls)
