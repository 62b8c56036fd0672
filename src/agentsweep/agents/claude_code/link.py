"""Links what was collected of a session: one Trace, sorted by time, then by place in the files.

By the ids that the CLI gives: blocks to their message, results to their calls, sub-agents to the
calls that started them, notifications to background tasks, requests to their answers. Where an id
is missing, by what is left: a sub-agent has the prompt of its call. Where an id was given more than
once, by the chain of the records, then by their order.
"""

import re
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

from agentsweep.agents.claude_code.answers import Use
from agentsweep.agents.claude_code.collect import LATEST, Collector, Result
from agentsweep.agents.claude_code.first_fit import skip
from agentsweep.agents.claude_code.parents import Parents
from agentsweep.agents.claude_code.records import (
    AGENT_TOOLS,
    SYNTHETIC_MODEL,
    ApiAttempt,
    Message,
    SubAgent,
    ToolCall,
    Trace,
    as_text,
    read_result,
    result_text,
)
from agentsweep.agents.claude_code.versions import version_tuple

# From this version on a tool starts while its message is still being streamed.
_TOOLS_START_EARLY = (2, 1, 160)
_KIND_ORDER = ("error", "tool_use", "text", "thinking")
# The CLI's closing line under the report of a sub-agent.
_CLOSING = re.compile(r"^agentId: ([\w-]+)", re.MULTILINE)
# A result follows its call with few records in between; a broken chain may lead on for ever.
_MOST_STEPS = 2000


def link(found: Collector, keep_content: bool = False) -> Trace:
    """The session as far as it is known. What was collected is used up.

    `keep_content`: the tool calls keep the texts of their results.
    """
    return _Linker(found, keep_content).trace()


class _Linker:
    def __init__(self, found: Collector, keep_content: bool):
        self._found = found
        self._keep_content = keep_content
        self._uses: dict[str, list[Use]] = {}
        self._started_by: dict[str, ToolCall] = {}  # sub-agents by the call that says so

    def trace(self) -> Trace:
        self._found.finish()
        self._resolve_chains()
        answers = self._found.answers
        if len({draft.message.id for draft in answers.drafts}) < len(answers.drafts):
            answers.merge_copies(self._found.chain.roots())
        self._mark_branches()
        messages = self._finish_messages()
        calls = self._finish_calls(messages)
        self._link_agents(calls)
        self._finish_background(calls)
        attempts = self._finish_attempts(messages)
        found = self._found
        agents = [agent.record for agent in found.agents.values()]
        models: dict[str | None, set[str]] = {}
        for message in messages:
            if message.model and message.model != SYNTHETIC_MODEL:
                models.setdefault(message.agent_id, set()).add(message.model)
        for agent in agents:
            agent.models = sorted(models.get(agent.agent_id, ()))
        by_number = sorted(found.versions, key=lambda text: version_tuple(text) or (0, 0, 0))
        sessions = sorted(found.sessions, key=lambda session: -found.sessions[session])
        # A forked session may repeat more records of another than it has of its own.
        named = {PurePath(name).stem for name in found.files[:1]}
        own = [session for session in sessions if session in named]
        return Trace(
            files=found.files,
            lines=found.report,
            recognised=found.recognised,
            record_types=dict(
                sorted(found.record_types.items(), key=lambda item: (-item[1], item[0]))
            ),
            duplicates=found.duplicates,
            session_id=next(iter(own + sessions), None),
            session_ids=sessions,
            versions=sorted(by_number, key=lambda text: found.versions[text]),
            messages=messages,
            tool_calls=calls,
            api_attempts=attempts,
            api_errors=[error for _, error in sorted(found.errors, key=lambda item: item[0])],
            agents=sorted(agents, key=_by_start),
            compactions=found.compactions,
            prompt=as_text(found.prompt[0]) if found.prompt else None,
            first_utc_ns=found.first_utc_ns if found.last_utc_ns >= 0 else None,
            last_utc_ns=found.last_utc_ns if found.last_utc_ns >= 0 else None,
            cost_state=found.cost_state[1] if found.cost_state else None,
        )

    def _resolve_chains(self) -> None:
        """Give each inline sub-agent (CLI 2.0.0: no agent id) the uuid of its first record."""
        if not self._found.chain_parents:
            return
        roots: dict[str, str] = {}
        for uuid in self._found.chain_parents:
            path: set[str] = set()
            here = uuid
            while here not in roots:
                path.add(here)
                parent = self._found.chain_parents[here]
                if parent is None or parent not in self._found.chain_parents or parent in path:
                    roots[here] = here
                    break
                here = parent
            for step in path:
                roots[step] = roots[here]
        answers = self._found.answers.drafts
        drafts = (origin for draft in answers for origin in draft.origins)
        uses = (use.origin for draft in answers for use in draft.all_uses())
        results = (result.origin for result in self._found.results)
        users = (origin for origin, _, _ in self._found.user_records)
        for group in (drafts, uses, results, users):
            for origin in group:
                if origin.chain_uuid is not None:
                    origin.agent_id = roots[origin.chain_uuid]
                    origin.chain_uuid = None
        for uuid in sorted(set(roots.values())):
            agent = self._found.agent(uuid)
            agent.record.inline = True
            no_prompt = (None, (LATEST, 0))
            agent.prompt, agent.prompt_order = self._found.chain_prompts.get(uuid, no_prompt)

    def _mark_branches(self) -> None:
        """Which answers of the main conversation the last one does not descend from."""
        files = self._found.main_files
        if not files:
            return
        found = self._found.chain.live(files)
        if found is None:
            return
        uuids, whole, first, end = found
        places = {uuid: number for number, uuid in enumerate(uuids)}
        for draft in self._found.answers.drafts:
            if not draft.uuids or all(origin.key is not None for origin in draft.origins):
                continue
            live = [places[uuid] for uuid in draft.uuids if uuid in places]
            if live:
                draft.message.position = min(live) if whole else None
            else:
                links = (self._found.chain.links[uuid] for uuid in draft.uuids)
                draft.message.abandoned = all(first <= link[0] < end for link in links)

    def _finish_messages(self) -> list[Message]:
        ordered = []
        for draft in self._found.answers.drafts:
            message = draft.message
            agents = [origin.agent_id for origin in draft.origins]
            # A side chain may repeat messages of the main chain; they belong to the main chain.
            message.agent_id = None if None in agents else agents[0]
            message.kind = next((k for k in _KIND_ORDER if message.blocks.get(k)), "text")
            ordered.append(((draft.order_ns, draft.number), message))
        for origin, message, order in self._found.user_records:
            message.agent_id = origin.agent_id
            ordered.append((order, message))
        ordered.sort(key=lambda item: item[0])
        messages = [message for _, message in ordered]
        _name([(message, message.id) for message in messages], "key")
        previous: dict[str | None, int | None] = {}
        for message in messages:
            agent_id = message.agent_id
            if message.role == "user":
                previous[agent_id] = message.last_utc_ns
            elif message.kind != "error":
                message.start_utc_ns = previous.get(agent_id)
                message.start_source = "previous" if message.start_utc_ns is not None else None
            if agent_id is not None:
                agent = self._found.agent(agent_id)
                agent.record.seen(message.first_utc_ns)
                agent.record.seen(message.last_utc_ns)
        return messages

    def _finish_calls(self, messages: list[Message]) -> list[ToolCall]:
        drafts = self._found.answers.drafts
        uses = [use for draft in drafts for use in draft.made_uses()]
        uses.sort(key=lambda use: (use.order_ns, use.number))
        for use in uses:
            use.call.agent_id = use.origin.agent_id
            use.call.message_id = use.answer.message.key
            self._uses.setdefault(use.tool_id, []).append(use)
        by_agent: dict[str | None, list[tuple[ToolCall, str]]] = {}
        for use in uses:
            by_agent.setdefault(use.call.agent_id, []).append((use.call, use.tool_id))
        for named in by_agent.values():
            _name(named, "id")
        finder = _CallOfResult(self._uses, self._found)
        for result in sorted(self._found.results, key=lambda result: result.order):
            call = finder.find(result)
            if call is None:
                continue
            agent_id = self._agent_of_result(result, call)
            if agent_id:
                self._started_by.setdefault(agent_id, call)
            if not call.finished:
                call.end_utc_ns = result.utc_ns
                read_result(call, result.block, result.extra, self._keep_content)
        groups: dict[tuple[int, str | None], list[ToolCall]] = {}
        ends = {}
        for use in uses:
            key = (id(use.answer), use.call.agent_id)
            groups.setdefault(key, []).append(use.call)
            ends[key] = use.answer.message.last_utc_ns
        for key, group in groups.items():
            _bound(group, ends[key])
        return [use.call for use in uses]

    def _agent_of_result(self, result: Result, call: ToolCall) -> str | None:
        extra = result.extra
        starts = call.name in AGENT_TOOLS
        if isinstance(extra, dict):
            agent_id = as_text(extra.get("agentId"))
            kind = as_text(extra.get("agentType"))
            if agent_id and kind:
                self._found.agent_types.setdefault(agent_id, kind)
            if agent_id and starts:
                # Where it has no records of its own, they are missing.
                self._found.agent(agent_id)
            return agent_id
        text = result_text(result.block.get("content"))
        if "agentId: " not in text:
            return None
        # Only the CLI's own closing lines count, and of others only those of a known agent.
        word = text.rsplit("agentId: ", 1)[1].split(None, 1)
        if word and word[0] in self._found.agents:
            return word[0]
        failed = result.block.get("is_error") is True
        closing: list[str] = _CLOSING.findall(text) if starts and not failed else []
        if not closing:
            return None
        self._found.agent(closing[-1])
        return closing[-1]

    def _link_agents(self, calls: list[ToolCall]) -> None:
        parents = Parents(self._uses, calls)
        for agent_id, agent in self._found.agents.items():
            agent.record.missing = agent.record.file is None and not agent.record.inline
            call = self._started_by.get(agent_id)
            named = self._found.agent_parents.get(agent_id)
            if named is not None and (call is None or not parents.is_of(call, named)):
                call = parents.named(named, agent)
            if call is not None:
                agent.record.parent, agent.record.parent_id = call, call.id
            else:
                agent.record.parent_id = named
            parents.take(agent.record.parent_id)
        ordered = sorted(self._found.agents.values(), key=lambda agent: agent.prompt_order)
        for agent in ordered:
            record = agent.record
            if record.parent_id is None:
                call = parents.guess(agent)
                if call is not None:
                    record.parent, record.parent_id = call, call.id
                    parents.take(call.id)
            record.agent_type = self._found.agent_types.get(record.agent_id)
            if record.agent_type is None and record.parent is not None:
                record.agent_type = as_text(record.parent.input.get("subagent_type"))
            prompt = (agent.prompt or "").strip()
            record.warmup = record.parent_id is None and prompt == "Warmup"
        for call in calls:
            if call.agent_id is not None:
                call.parent_id = self._found.agents[call.agent_id].record.parent_id

    def _finish_background(self, calls: list[ToolCall]) -> None:
        by_task = {call.background_task_id: call for call in calls if call.background_task_id}
        for order, utc_ns, fields in sorted(self._found.notifications, key=lambda item: item[:1]):
            uses = self._uses.get(fields.get("tool_use_id", ""), ())
            # Of several calls of one id the last one before the note.
            place = bisect_left(uses, order, key=lambda use: (use.order_ns, use.number))
            call = uses[place - 1].call if uses else None
            task = by_task.get(fields.get("task_id", ""))
            call = task if call is None or (task is not None and len(uses) > 1) else call
            if call is None or call.background_end_utc_ns is not None:
                continue
            call.background = True
            call.background_end_utc_ns = utc_ns
            call.background_status = fields.get("status")
            if call.name == "Bash" and "exit_code" in fields:
                call.exit_code = int(fields["exit_code"])
                call.killed = call.exit_code == 137

    def _finish_attempts(self, messages: list[Message]) -> list[ApiAttempt]:
        given: dict[str, int] = {}  # how many attempts of an id have their answer
        for message in messages:
            if message.role != "assistant":
                continue
            identity = message.request_ref or ""
            attempts = self._found.attempts.get(identity)
            if attempts is None:
                continue
            place = given.get(identity, 0)
            given[identity] = place + 1
            attempt = attempts[place if place < len(attempts) else 0][1]
            attempt.message_id = message.key
            attempt.end_utc_ns = message.last_utc_ns
            if attempt.start_utc_ns is not None:
                message.start_utc_ns = attempt.start_utc_ns
                message.start_source = "request"
        made = [item for items in self._found.attempts.values() for item in items]
        return [attempt for _, attempt in sorted(made, key=lambda item: item[0])]


class _CallOfResult:
    """Finds the call that a result is of: by its id, and by the chain where several have it."""

    def __init__(self, uses: dict[str, list[Use]], found: Collector):
        self._uses, self._links, self._results = uses, found.chain.links, found.results
        self._by_id: dict[str, list[Result]] = {}
        self._styles: dict[str, dict[int, list[str | None]]] = {}
        self._by_uuid: dict[str, dict[str, list[Use]]] = {}
        self._by_agent: dict[tuple[str, str | None], list[Use]] = {}
        self._beside: dict[str, dict[tuple[int, str | None], list[Use]]] = {}
        # What was found before, because each would be looked for once for each result of an id.
        self._hang: dict[tuple[str, int], bool] = {}
        self._nearest: dict[str, dict[str, tuple[str | None, int]]] = {}
        self._passed: dict[int, int] = {}
        self._earlier: dict[int, list[int]] = {}
        self._later: dict[int, list[int]] = {}

    def find(self, result: Result) -> ToolCall | None:
        uses = self._uses.get(result.tool_use_id)
        if not uses:
            return None
        if len(uses) == 1:
            return uses[0].call
        known = self._records(result.tool_use_id)
        found = known.get(result.call_uuid or "")
        exact = found is not None
        if found is None:
            found = self._above(result, known)
            exact = found is not None and self._hang_each_on_its_own(result, known, found[0])
        if found is None:
            return self._before(result, uses).call
        waiting = self._first_waiting(found) if exact else None
        return (waiting or self._waiting_beside(found[0]) or found[0]).call

    def _hang_each_on_its_own(self, result: Result, known: dict[str, Any], use: Use) -> bool:
        """Whether the results of an answer's calls of one id follow the records of their own calls,
        and not one another, as in older versions."""
        tool_id = result.tool_use_id
        key = (tool_id, id(use.answer))
        if key in self._hang:
            return self._hang[key]
        styles = self._styles.get(tool_id)
        if styles is None:
            styles = self._styles[tool_id] = {}
            for one in self._results_of(tool_id):
                if found := self._above(one, known):
                    hung = one.above if one.above in known else None
                    styles.setdefault(id(found[0].answer), []).append(hung)
        above = styles[id(use.answer)]
        self._hang[key] = len(above) > 1 and None not in above and len({*above}) == len(above)
        return self._hang[key]

    def _waiting_beside(self, use: Use) -> Use | None:
        """The first call of this id that one agent made in one answer and that waits."""
        if use.tool_id not in self._beside:
            groups = self._beside[use.tool_id] = {}
            for one in self._uses[use.tool_id]:
                groups.setdefault((id(one.answer), one.call.agent_id), []).append(one)
        group = self._beside[use.tool_id][id(use.answer), use.call.agent_id]
        return self._first_waiting(group)

    def _first_waiting(self, group: list[Use]) -> Use | None:
        """The first call that has no result yet. A list that is kept: what has one keeps it."""
        place = self._passed.get(id(group), 0)
        while place < len(group) and group[place].call.finished:
            place += 1
        self._passed[id(group)] = place
        return group[place] if place < len(group) else None

    def _results_of(self, tool_id: str) -> list[Result]:
        if not self._by_id:
            for result in self._results:
                self._by_id.setdefault(result.tool_use_id, []).append(result)
        return self._by_id.get(tool_id, [])

    def _records(self, tool_id: str) -> dict[str, list[Use]]:
        """The calls of an id by their records."""
        known = self._by_uuid.get(tool_id)
        if known is None:
            known = self._by_uuid[tool_id] = {}
            for use in self._uses[tool_id]:
                for uuid in use.uuids:
                    known.setdefault(uuid, []).append(use)
        return known

    def _above(self, result: Result, known: dict[str, list[Use]]) -> list[Use] | None:
        """The calls in the nearest record above the result that has some of this id."""
        nearest = self._nearest.setdefault(result.tool_use_id, {})
        here, path = result.above, list[str]()
        target, steps = None, _MOST_STEPS
        while here is not None and len(path) < _MOST_STEPS:
            if here in known:
                target, steps = here, 0
                break
            if here in nearest:
                target, steps = nearest[here]
                break
            path.append(here)
            link = self._links.get(here)
            here = None if link is None else link[1]
        if target is not None or here is None:
            # Not where the walk was cut off: those further up have more steps left.
            for far, uuid in enumerate(reversed(path), 1):
                nearest[uuid] = (target, steps + far)
        return known[target] if target is not None and steps + len(path) < _MOST_STEPS else None

    def _before(self, result: Result, uses: list[Use]) -> Use:
        """The first call that waits in the last answer before the result, of its own agent."""
        key = (result.tool_use_id, result.origin.agent_id)
        own = self._by_agent.get(key)
        if own is None:
            of_agent = [u for u in uses if u.origin.agent_id == result.origin.agent_id]
            own = sorted(of_agent or uses, key=lambda use: use.number)
            self._by_agent[key] = own
        place = bisect_left(own, result.order[1], key=lambda use: use.number)
        # The places 1 to n are calls from behind, those from 0 to n - 1 from before.
        earlier = self._earlier.setdefault(id(own), list(range(len(own) + 1)))
        found = skip(earlier, place, -1, lambda at: at > 0 and own[at - 1].call.finished)
        if found > max(0, place - _MOST_STEPS):
            return self._waiting_beside(own[found - 1]) or own[found - 1]
        later = self._later.setdefault(id(own), list(range(len(own) + 1)))
        found = skip(later, place, 1, lambda at: at < len(own) and own[at].call.finished)
        if found < min(len(own), place + _MOST_STEPS):
            return own[found]
        return own[max(0, place - 1)]


def _name(items: Sequence[tuple[object, str]], attribute: str) -> None:
    """Give each its id as a name; a second one of that id gets `_2`, and so on."""
    given = {identity for _, identity in items}
    if len(given) == len(items):
        return
    taken: dict[str, int] = {}
    for item, identity in items:
        number = taken.get(identity, 0) + 1
        name = identity if number == 1 else f"{identity}_{number}"
        while number > 1 and name in given:
            number += 1
            name = f"{identity}_{number}"
        taken[identity] = number
        if name != identity:
            given.add(name)
            setattr(item, attribute, name)


def _by_start(agent: SubAgent) -> tuple[bool, int, str]:
    """In the order of their first records; those without a time come last."""
    first_ns = agent.first_utc_ns
    return (first_ns is None, 0 if first_ns is None else first_ns, agent.agent_id)


def _bound(calls: list[ToolCall], message_end_ns: int | None) -> None:
    """Bounds for the execution of the calls of one message (see `ToolCall`)."""
    for call in calls:
        call.start_utc_ns = call.requested_utc_ns
        version = version_tuple(call.version)
        waits = version is not None and version < _TOOLS_START_EARLY
        if waits and message_end_ns is not None and call.requested_utc_ns is not None:
            call.start_utc_ns = max(call.requested_utc_ns, message_end_ns)
            if call.end_utc_ns is not None and call.end_utc_ns < call.start_utc_ns:
                # The result came before the message ended, so this tool did not wait for it.
                call.start_utc_ns = call.requested_utc_ns
        if call.start_utc_ns is not None and call.end_utc_ns is not None:
            # Time stamps are not always monotone.
            call.start_utc_ns = min(call.start_utc_ns, call.end_utc_ns)
        call.start_latest_utc_ns = call.start_utc_ns
    previous = None
    finished = [
        (call.end_utc_ns, call.start_utc_ns, call)
        for call in calls
        if call.end_utc_ns is not None and call.start_utc_ns is not None
    ]
    for end_ns, start_ns, call in sorted(finished, key=lambda one: one[0]):
        if previous is not None:
            call.start_latest_utc_ns = max(start_ns, previous)
        previous = end_ns
