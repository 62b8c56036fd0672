"""Which call started a sub-agent, found in linear time however many of both there are.

Calls that the sub-agent made itself did not start it. They are passed over one by one, and each
call is one sub-agent's own, so that this adds up to no more than the calls.
"""

import functools
from collections.abc import Iterable, Mapping, Sequence

from agentsweep.agents.claude_code.answers import Use
from agentsweep.agents.claude_code.collect import Agent
from agentsweep.agents.claude_code.first_fit import FirstFit, skip
from agentsweep.agents.claude_code.records import AGENT_TOOLS, ToolCall


class Parents:
    """The calls that sub-agents may have been started by; each starts at most one without a name.

    uses: all calls by the CLI's id; calls: the same in their order.
    """

    def __init__(self, uses: Mapping[str, Sequence[Use]], calls: Iterable[ToolCall]):
        self._uses = uses
        self._starts = [call for call in calls if call.name in AGENT_TOOLS]
        self._by_prompt = {prompt: _Untaken(of) for prompt, of in _by_prompt(self._starts).items()}
        self._taken: set[str | None] = set()
        self._of_id: dict[str, tuple[_Calls, _Calls]] = {}

    def take(self, call_id: str | None) -> None:
        """The call of that name (`ToolCall.id`) has started a sub-agent, and starts no other."""
        self._taken.add(call_id)

    def is_of(self, call: ToolCall, tool_id: str) -> bool:
        """Whether the CLI gave a call that id."""
        return self._tool_ids.get(id(call)) == tool_id

    @functools.cached_property
    def _tool_ids(self) -> dict[int, str]:
        return {id(use.call): tool_id for tool_id, uses in self._uses.items() for use in uses}

    def named(self, tool_id: str, agent: Agent) -> ToolCall | None:
        """The call of that id that started an agent; of several the one with its prompt."""
        if tool_id not in self._of_id:
            calls = [use.call for use in self._uses.get(tool_id, ())]
            starts = [call for call in calls if call.name in AGENT_TOOLS]
            self._of_id[tool_id] = _Calls(starts), _Calls(calls)
        for own in (agent.record.agent_id, _NOBODY):
            for group in self._of_id[tool_id]:
                if (first := group.first(own)) is not None:
                    return group.first(own, agent.prompt) or first
        return None

    def guess(self, agent: Agent) -> ToolCall | None:
        """The call with the agent's prompt; if that is lost, the only call around the agent."""
        record = agent.record
        if agent.prompt is not None:
            group = self._by_prompt.get(agent.prompt)
            return group.first(self._taken, record.agent_id) if group is not None else None
        first, last = record.first_utc_ns, record.last_utc_ns
        if first is None or last is None:
            return None
        found, index = None, -1
        # One without a time may have started it, too.
        while (fit := self._in_time.first(last, first, index + 1)) is not None:
            index = fit[1]
            call = self._in_time.call(index)
            if call.id in self._taken:
                self._in_time.remove(index)
            elif call.agent_id != record.agent_id:
                if found is not None:
                    return None
                found = call
        return found

    @functools.cached_property
    def _in_time(self) -> FirstFit:
        return FirstFit(list(enumerate(self._starts)))


# Made no call.
_NOBODY = object()
# Whatever a call's prompt is.
_ANY = object()


class _Calls:
    """Some calls in their order, all of them and by their prompt."""

    def __init__(self, calls: Sequence[ToolCall]):
        self._calls = calls
        self._by_prompt = _by_prompt(calls)

    def first(self, own: object, prompt: object = _ANY) -> ToolCall | None:
        """The first that `own` did not make; with a prompt, of those that have it."""
        calls = self._calls if prompt is _ANY else self._by_prompt.get(prompt, [])
        return next((call for call in calls if call.agent_id != own), None)


class _Untaken:
    """Calls of which the first ones are taken away, and others now and then."""

    def __init__(self, calls: Sequence[ToolCall]):
        self._calls = calls
        self._leads_to = list(range(len(calls) + 1))

    def first(self, taken: set[str | None], own: str | None) -> ToolCall | None:
        """The first that is not taken and that `own` did not make."""
        calls = self._calls

        def is_taken(at: int) -> bool:
            return at < len(calls) and calls[at].id in taken

        place = skip(self._leads_to, 0, 1, is_taken)
        while place < len(calls) and calls[place].agent_id == own:
            place = skip(self._leads_to, place + 1, 1, is_taken)
        return calls[place] if place < len(calls) else None


def _by_prompt(calls: Iterable[ToolCall]) -> dict[object, list[ToolCall]]:
    """Those with a text for a prompt, or none, by it; others have no sub-agent's prompt."""
    found: dict[object, list[ToolCall]] = {}
    for call in calls:
        prompt = call.input.get("prompt")
        if prompt is None or isinstance(prompt, str):
            found.setdefault(prompt, []).append(call)
    return found
