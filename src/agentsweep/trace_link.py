"""Links what was collected of a session: one Trace, sorted by time.

By the ids that the CLI gives: blocks to their message, results to their calls, sub-agents to the
calls that started them, notifications to background tasks, requests to their answers. Where an id
is missing, by what is left: a sub-agent has the prompt of its call.
"""

from pathlib import PurePath

from agentsweep.trace_collect import LATEST, Agent, Collector, Result
from agentsweep.trace_records import (
    AGENT_TOOLS,
    SYNTHETIC_MODEL,
    ApiAttempt,
    Message,
    ToolCall,
    Trace,
    as_text,
    read_result,
    result_text,
)
from agentsweep.versions import version_tuple

# From this version on a tool starts while its message is still being streamed.
_TOOLS_START_EARLY = (2, 1, 160)
_KIND_ORDER = ("error", "tool_use", "text", "thinking")


def link(found: Collector, keep_content: bool = False) -> Trace:
    """The session as far as it is known. What was collected is used up.

    `keep_content`: the tool calls keep the texts of their results.
    """
    return _Linker(found, keep_content).trace()


class _Linker:
    def __init__(self, found: Collector, keep_content: bool):
        self._found = found
        self._keep_content = keep_content

    def trace(self) -> Trace:
        self._resolve_chains()
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
            api_errors=sorted(found.errors, key=lambda error: error.utc_ns or 0),
            agents=sorted(agents, key=lambda agent: (agent.first_utc_ns or 0, agent.agent_id)),
            compactions=found.compactions,
            prompt=as_text(found.prompt[0]) if found.prompt else None,
            first_utc_ns=found.first_utc_ns if found.last_utc_ns >= 0 else None,
            last_utc_ns=found.last_utc_ns if found.last_utc_ns >= 0 else None,
            cost_state=found.cost_state[1] if found.cost_state else None,
        )

    def _resolve_chains(self) -> None:
        """Give each inline sub-agent (CLI 2.0.0: no agent id) the uuid of its first record."""
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
        drafts = (origin for draft in self._found.drafts.values() for origin in draft.origins)
        uses = (use.origin for use in self._found.uses)
        results = (result.origin for result in self._found.results)
        users = (origin for origin, _ in self._found.user_records)
        for group in (drafts, uses, results, users):
            for origin in group:
                if origin.chain_uuid is not None:
                    origin.agent_id = roots[origin.chain_uuid]
                    origin.chain_uuid = None
        for uuid in sorted(set(roots.values())):
            agent = self._found.agent(uuid)
            agent.record.inline = True
            agent.prompt, agent.prompt_utc_ns = self._found.chain_prompts.get(uuid, (None, LATEST))

    def _finish_messages(self) -> list[Message]:
        messages = []
        for draft in self._found.drafts.values():
            message = draft.message
            agents = [origin.agent_id for origin in draft.origins]
            # A side chain may repeat messages of the main chain; they belong to the main chain.
            message.agent_id = None if None in agents else agents[0]
            message.kind = next((k for k in _KIND_ORDER if message.blocks.get(k)), "text")
            messages.append(message)
        for origin, message in self._found.user_records:
            message.agent_id = origin.agent_id
            messages.append(message)
        messages.sort(key=lambda message: message.first_utc_ns or 0)
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
        by_message = {m.id: m for m in messages if m.role == "assistant"}
        uses: dict[str, dict[str | None, ToolCall]] = {}
        for use in sorted(self._found.uses, key=lambda use: use.call.requested_utc_ns or 0):
            use.call.agent_id = use.origin.agent_id
            uses.setdefault(use.call.id, {}).setdefault(use.origin.agent_id, use.call)
        for copies in uses.values():
            # A forked sub-agent repeats the calls of the main chain without making them.
            if None in copies:
                main = copies[None]
                copies.clear()
                copies[None] = main
        for result in sorted(self._found.results, key=lambda result: result.utc_ns or 0):
            copies = uses.get(result.tool_use_id)
            if not copies:
                continue
            call = copies.get(result.origin.agent_id) or next(iter(copies.values()))
            agent_id = self._agent_of_result(result)
            if agent_id:
                self._found.agent_parents.setdefault(agent_id, call.id)
            if not call.finished:
                call.end_utc_ns = result.utc_ns
                read_result(call, result.block, result.extra, self._keep_content)
        calls = [call for copies in uses.values() for call in copies.values()]
        calls.sort(key=lambda call: call.requested_utc_ns or 0)
        groups: dict[tuple[str, str | None], list[ToolCall]] = {}
        for call in calls:
            groups.setdefault((call.message_id, call.agent_id), []).append(call)
        for (message_id, _), group in groups.items():
            _bound(group, by_message[message_id].last_utc_ns)
        return calls

    def _agent_of_result(self, result: Result) -> str | None:
        extra = result.extra
        if isinstance(extra, dict):
            agent_id = as_text(extra.get("agentId"))
            kind = as_text(extra.get("agentType"))
            if agent_id and kind:
                self._found.agent_types.setdefault(agent_id, kind)
            return agent_id
        text = result_text(result.block.get("content"))
        if "agentId: " not in text:
            return None
        # Only the CLI's own closing lines count, and only for an agent that there is.
        word = text.rsplit("agentId: ", 1)[1].split(None, 1)
        return word[0] if word and word[0] in self._found.agents else None

    def _link_agents(self, calls: list[ToolCall]) -> None:
        starts = [call for call in calls if call.name in AGENT_TOOLS]
        known = {call.id: call for call in calls}
        taken = set()
        for agent_id, agent in self._found.agents.items():
            parent = self._found.agent_parents.get(agent_id)
            agent.record.parent_id = parent
            taken.add(parent)
        ordered = sorted(self._found.agents.values(), key=lambda agent: agent.prompt_utc_ns)
        for agent in ordered:
            record = agent.record
            if record.parent_id is None:
                call = self._guess_parent(agent, [c for c in starts if c.id not in taken])
                if call is not None:
                    record.parent_id = call.id
                    taken.add(call.id)
            parent = known.get(record.parent_id or "")
            record.agent_type = self._found.agent_types.get(record.agent_id)
            if record.agent_type is None and parent is not None:
                record.agent_type = as_text(parent.input.get("subagent_type"))
            prompt = (agent.prompt or "").strip()
            record.warmup = record.parent_id is None and prompt == "Warmup"
        for call in calls:
            if call.agent_id is not None:
                call.parent_id = self._found.agents[call.agent_id].record.parent_id

    @staticmethod
    def _guess_parent(agent: Agent, starts: list[ToolCall]) -> ToolCall | None:
        """The call with the agent's prompt; if that is lost, the only call around the agent."""
        record = agent.record
        starts = [call for call in starts if call.agent_id != record.agent_id]
        if agent.prompt is not None:
            for call in starts:
                if call.input.get("prompt") == agent.prompt:
                    return call
            return None
        first, last = record.first_utc_ns, record.last_utc_ns
        if first is None or last is None:
            return None
        around = [
            call
            for call in starts
            if (call.requested_utc_ns or 0) <= first and last <= (call.end_utc_ns or LATEST)
        ]
        return around[0] if len(around) == 1 else None

    def _finish_background(self, calls: list[ToolCall]) -> None:
        by_id = {call.id: call for call in calls}
        by_task = {call.background_task_id: call for call in calls if call.background_task_id}
        for utc_ns, fields in sorted(self._found.notifications, key=lambda item: item[0]):
            call = by_id.get(fields.get("tool_use_id", "")) or by_task.get(fields.get("task_id"))
            if call is None or call.background_end_utc_ns is not None:
                continue
            call.background = True
            call.background_end_utc_ns = utc_ns or None
            call.background_status = fields.get("status")
            if call.name == "Bash" and "exit_code" in fields:
                call.exit_code = int(fields["exit_code"])
                call.killed = call.exit_code == 137

    def _finish_attempts(self, messages: list[Message]) -> list[ApiAttempt]:
        for message in messages:
            attempt = self._found.attempts.get(message.request_ref or "")
            if attempt is None or message.role != "assistant":
                continue
            attempt.message_id = message.id
            attempt.end_utc_ns = message.last_utc_ns
            if attempt.start_utc_ns is not None:
                message.start_utc_ns = attempt.start_utc_ns
                message.start_source = "request"
        return sorted(self._found.attempts.values(), key=lambda attempt: attempt.start_utc_ns or 0)


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
        if None not in (call.start_utc_ns, call.end_utc_ns):
            # Time stamps are not always monotone.
            call.start_utc_ns = min(call.start_utc_ns, call.end_utc_ns)
        call.start_latest_utc_ns = call.start_utc_ns
    previous = None
    finished = [c for c in calls if c.end_utc_ns is not None and c.start_utc_ns is not None]
    for call in sorted(finished, key=lambda call: call.end_utc_ns):
        if previous is not None:
            call.start_latest_utc_ns = max(call.start_utc_ns, previous)
        previous = call.end_utc_ns
