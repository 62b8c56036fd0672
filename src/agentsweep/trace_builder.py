"""Puts the records of one session together, from all of its files and in any order.

Lines come in the order of writing, which is neither the order of time nor that of cause: results
of parallel calls come in completion order, blocks of one message are interleaved with results,
a resumed or forked session repeats records. So everything is collected first and linked last, by
the ids that the CLI gives, and sorted by time.
"""

from dataclasses import dataclass, field

from agentsweep.trace_category import categorise
from agentsweep.trace_lines import LineReport
from agentsweep.trace_records import (
    SYNTHETIC_MODEL,
    ApiAttempt,
    ApiError,
    Message,
    SubAgent,
    ToolCall,
    Trace,
    Usage,
    as_text,
    is_session_record,
    parse_time,
    read_notification,
    read_result,
    read_usage,
    result_text,
    version_tuple,
)

# From this version on a tool starts while its message is still being streamed.
_TOOLS_START_EARLY = (2, 1, 160)
_AGENT_TOOLS = ("Agent", "Task")
_LATEST = 2**63 - 1
_KIND_ORDER = ("error", "tool_use", "text", "thinking")


@dataclass(slots=True)
class _Origin:
    """Where a record came from: its agent as written, or its place in an unnamed inline chain."""

    agent_id: str | None
    chain_uuid: str | None = None


_MAIN = _Origin(None)


@dataclass(slots=True)
class _Use:
    origin: _Origin
    call: ToolCall


@dataclass(slots=True)
class _Result:
    origin: _Origin
    tool_use_id: str
    utc_ns: int | None
    block: dict
    extra: object


@dataclass(slots=True)
class _Agent:
    """What is known of one sub-agent before it is linked to the call that started it."""

    record: SubAgent
    origin: _Origin
    prompt: str | None = None
    prompt_utc_ns: int = _LATEST


@dataclass(slots=True)
class _Draft:
    """An assistant message of which some records have been read."""

    message: Message
    origins: list[_Origin] = field(default_factory=list)


class TraceBuilder:
    """Collects records with `add`, file by file, and gives the whole with `build`."""

    def __init__(self, report: LineReport):
        self._report = report
        self._files: list[str] = []
        self._types: dict[str, int] = {}
        self._recognised = False
        self._duplicates = 0
        self._uuids: set[str] = set()
        self._sessions: dict[str, int] = {}
        self._versions: dict[str, int] = {}
        self._first = _LATEST
        self._last = -1
        self._drafts: dict[str, _Draft] = {}
        self._user: list[tuple[_Origin, Message]] = []
        self._uses: list[_Use] = []
        self._results: list[_Result] = []
        self._attempts: dict[str, ApiAttempt] = {}
        self._errors: list[ApiError] = []
        self._notifications: list[tuple[int, dict[str, str]]] = []
        self._agents: dict[str, _Agent] = {}
        self._agent_parents: dict[str, str] = {}
        self._agent_types: dict[str, str] = {}
        self._chain: dict[str, str | None] = {}
        self._chain_prompts: dict[str, tuple[str, int]] = {}
        self._compactions = 0
        self._cost_state: tuple[int, dict] | None = None
        self._file_agent: str | None = None
        self._number = 0
        self._handlers = {
            "user": self._add_user,
            "assistant": self._add_assistant,
            "system": self._add_system,
            "attachment": self._add_attachment,
            "api-request": self._add_request,
            "queue-operation": self._add_queue,
            "cost-state": self._add_cost,
            "progress": self._add_progress,
        }

    def begin_file(self, name: str, agent_id: str | None = None, meta: dict | None = None) -> None:
        """The records that follow are from this file; `agent_id` if it is a sub-agent's own."""
        self._files.append(name)
        self._file_agent = agent_id
        if agent_id is None:
            return
        agent = self._agent(agent_id)
        agent.record.file = agent.record.file or name
        if meta:
            parent, kind = as_text(meta.get("toolUseId")), as_text(meta.get("agentType"))
            if parent:
                self._agent_parents.setdefault(agent_id, parent)
            if kind:
                self._agent_types.setdefault(agent_id, kind)

    def add(self, record: dict) -> None:
        """Take one record, of any type."""
        kind = record["type"]
        self._types[kind] = self._types.get(kind, 0) + 1
        self._number += 1
        if not self._recognised and len(self._files) == 1:
            self._recognised = is_session_record(record)
        uuid = record.get("uuid")
        if type(uuid) is str:
            if uuid in self._uuids:
                self._duplicates += 1
                return
            self._uuids.add(uuid)
        utc_ns = parse_time(record.get("timestamp"))
        if utc_ns is not None:
            if utc_ns < self._first:
                self._first = utc_ns
            if utc_ns > self._last:
                self._last = utc_ns
        session = record.get("sessionId")
        if type(session) is str:
            self._sessions[session] = self._sessions.get(session, 0) + 1
        version = record.get("version")
        if type(version) is str and (
            version not in self._versions or (utc_ns or -1) > self._versions[version]
        ):
            self._versions[version] = -1 if utc_ns is None else utc_ns
        handler = self._handlers.get(kind)
        if handler:
            handler(record, utc_ns)

    # --- one method a record type ---

    def _origin(self, record: dict, utc_ns: int | None) -> _Origin:
        agent_id = record.get("agentId", self._file_agent)
        if agent_id is None and record.get("isSidechain") is not True:
            return _MAIN
        if type(agent_id) is not str or not agent_id:
            agent_id = self._file_agent
        if agent_id is not None:
            if record.get("isSidechain") is True or self._file_agent is not None:
                agent = self._agent(agent_id)
                self._seen(agent.record, utc_ns)
                return agent.origin
            return _MAIN
        if record.get("isSidechain") is True:
            uuid = record.get("uuid")
            if type(uuid) is str:
                parent = record.get("parentUuid")
                self._chain[uuid] = parent if type(parent) is str else None
                return _Origin(None, uuid)
        return _MAIN

    def _agent(self, agent_id: str) -> _Agent:
        agent = self._agents.get(agent_id)
        if agent is None:
            agent = self._agents[agent_id] = _Agent(SubAgent(agent_id), _Origin(agent_id))
        return agent

    @staticmethod
    def _seen(agent: SubAgent, utc_ns: int | None) -> None:
        if utc_ns is not None:
            if agent.first_utc_ns is None or utc_ns < agent.first_utc_ns:
                agent.first_utc_ns = utc_ns
            if agent.last_utc_ns is None or utc_ns > agent.last_utc_ns:
                agent.last_utc_ns = utc_ns

    def _add_user(self, record: dict, utc_ns: int | None) -> None:
        origin = self._origin(record, utc_ns)
        message = record.get("message")
        content = message.get("content") if isinstance(message, dict) else None
        kind = None
        if isinstance(content, list):
            for block in content:
                if not isinstance(block, dict) or block.get("type") != "tool_result":
                    continue
                tool_use_id = as_text(block.get("tool_use_id"))
                if tool_use_id:
                    kind = "tool_result"
                    extra = record.get("toolUseResult")
                    self._results.append(_Result(origin, tool_use_id, utc_ns, block, extra))
        if kind is None:
            kind = self._read_prompt(record, utc_ns, origin, result_text(content))
        identity = as_text(record.get("uuid")) or f"user-{self._number}"
        self._user.append(
            (origin, Message(identity, "user", kind, origin.agent_id, utc_ns, utc_ns))
        )

    def _read_prompt(self, record: dict, utc_ns: int | None, origin: _Origin, text: str) -> str:
        notification = read_notification(text)
        if notification is not None:
            self._notifications.append((utc_ns or 0, notification))
            return "task_notification"
        if record.get("isCompactSummary") is True:
            return "compact_summary"
        if text.startswith("[Request interrupted"):
            return "interrupt"
        if record.get("isMeta") is True:
            return "meta"
        order = _LATEST if utc_ns is None else utc_ns
        if origin.agent_id is not None:
            agent = self._agents[origin.agent_id]
            if agent.prompt is None or order < agent.prompt_utc_ns:
                agent.prompt, agent.prompt_utc_ns = text, order
        elif origin.chain_uuid is not None:
            self._chain_prompts[origin.chain_uuid] = (text, order)
        return "prompt"

    def _add_assistant(self, record: dict, utc_ns: int | None) -> None:
        origin = self._origin(record, utc_ns)
        content = record.get("message")
        if type(content) is not dict:
            content = {}
        message = self._draft(record, content, origin, utc_ns)
        blocks = content.get("content")
        if type(blocks) is str:
            blocks = [{"type": "text", "text": blocks}]
        for block in blocks if type(blocks) is list else ():
            if type(block) is not dict:
                continue
            kind = block.get("type")
            kind = kind if type(kind) is str else "unknown"
            message.blocks[kind] = message.blocks.get(kind, 0) + 1
            if kind == "tool_use":
                version = as_text(record.get("version"))
                self._add_tool_use(block, origin, message.id, version, utc_ns)
        failed = record.get("isApiErrorMessage") is True
        if failed or message.model == SYNTHETIC_MODEL:
            message.blocks["error"] = message.blocks.get("error", 0) + 1
        if failed:
            self._add_fatal(record, result_text(blocks), origin, utc_ns)

    def _draft(self, record: dict, content: dict, origin: _Origin, utc_ns: int | None) -> Message:
        """The API message that an assistant record is part of, with what the record adds to it."""
        identity = content.get("id")
        if type(identity) is not str or not identity:
            identity = as_text(record.get("requestId")) or as_text(record.get("uuid"))
            identity = identity or f"assistant-{self._number}"
        usage = read_usage(content)
        draft = self._drafts.get(identity)
        if draft is not None:
            message = draft.message
            message.records += 1
            if utc_ns is not None:
                if message.first_utc_ns is None or utc_ns < message.first_utc_ns:
                    message.first_utc_ns = utc_ns
                if message.last_utc_ns is None or utc_ns > message.last_utc_ns:
                    message.last_utc_ns = utc_ns
            if _better(usage, message.usage):
                message.usage = usage
            message.stop_reason = message.stop_reason or as_text(content.get("stop_reason"))
        else:
            message = Message(
                as_text(identity) or identity,
                "assistant",
                "text",
                None,
                utc_ns,
                utc_ns,
                as_text(content.get("model")),
                as_text(record.get("requestId")),
                as_text(record.get("requestRef")),
                as_text(content.get("stop_reason")),
                usage,
            )
            draft = self._drafts[identity] = _Draft(message)
        if origin not in draft.origins:
            draft.origins.append(origin)
        return message

    def _add_tool_use(
        self,
        block: dict,
        origin: _Origin,
        message_id: str,
        version: str | None,
        utc_ns: int | None,
    ) -> None:
        name = as_text(block.get("name")) or "unknown"
        given = block.get("input")
        given = given if isinstance(given, dict) else {}
        command = as_text(given.get("command")) if name == "Bash" else None
        identity = as_text(block.get("id")) or f"tool-{self._number}"
        call = ToolCall(
            identity,
            name,
            given,
            command,
            categorise(name, command),
            message_id,
            None,
            version,
            utc_ns,
        )
        call.background = given.get("run_in_background") is True
        self._uses.append(_Use(origin, call))

    def _add_fatal(self, record: dict, text: str, origin: _Origin, utc_ns: int | None) -> None:
        status = record.get("apiErrorStatus")
        status = status if type(status) is int else None
        error = ApiError(utc_ns, True, status, as_text(text[:500]) or "")
        error.agent_id = origin.agent_id
        self._errors.append(error)

    def _add_system(self, record: dict, utc_ns: int | None) -> None:
        origin = self._origin(record, utc_ns)
        subtype = record.get("subtype")
        if subtype == "compact_boundary":
            self._compactions += 1
        elif subtype == "api_error":
            self._add_retried(record, origin, utc_ns)

    def _add_retried(self, record: dict, origin: _Origin, utc_ns: int | None) -> None:
        detail = record.get("error")
        detail = detail if isinstance(detail, dict) else {}
        status = detail.get("status")
        connection = detail.get("connection") or detail.get("cause")
        code = connection.get("code") if isinstance(connection, dict) else None
        text = as_text(detail.get("formatted")) or as_text(detail.get("message")) or as_text(code)
        error = ApiError(utc_ns, False, status if type(status) is int else None, (text or "")[:500])
        attempt, wait = record.get("retryAttempt"), record.get("retryInMs")
        error.retry_attempt = attempt if type(attempt) is int else None
        error.retry_in_ms = float(wait) if type(wait) in (int, float) else None
        error.agent_id = origin.agent_id
        self._errors.append(error)

    def _add_attachment(self, record: dict, utc_ns: int | None) -> None:
        attachment = record.get("attachment")
        if isinstance(attachment, dict) and attachment.get("type") == "queued_command":
            self._note_if_notification(attachment.get("prompt"), utc_ns)

    def _add_queue(self, record: dict, utc_ns: int | None) -> None:
        if record.get("operation") == "enqueue":
            self._note_if_notification(record.get("content"), utc_ns)

    def _note_if_notification(self, content: object, utc_ns: int | None) -> None:
        notification = read_notification(result_text(content))
        if notification is not None:
            self._notifications.append((utc_ns or 0, notification))

    def _add_request(self, record: dict, utc_ns: int | None) -> None:
        identity = as_text(record.get("id"))
        if identity is None or identity in self._attempts:
            return
        params = record.get("params")
        model = as_text(params.get("model")) if isinstance(params, dict) else None
        # These records are not part of the chain and have no isSidechain.
        agent_id = as_text(record.get("agentId")) or self._file_agent
        source = as_text(record.get("querySource"))
        self._attempts[identity] = ApiAttempt(identity, utc_ns, model, agent_id, source)

    def _add_cost(self, record: dict, utc_ns: int | None) -> None:
        started = record.get("startTime")
        order = started if type(started) in (int, float) else 0
        if self._cost_state is None or order >= self._cost_state[0]:
            self._cost_state = (order, record)

    def _add_progress(self, record: dict, utc_ns: int | None) -> None:
        data = record.get("data")
        agent_id = as_text(data.get("agentId")) if isinstance(data, dict) else None
        parent = as_text(record.get("parentToolUseID"))
        if agent_id and parent:
            self._agent_parents.setdefault(agent_id, parent)

    # --- putting together ---

    def build(self) -> Trace:
        """The session as far as it is known. The builder is spent afterwards."""
        self._resolve_chains()
        messages = self._finish_messages()
        calls = self._finish_calls(messages)
        self._link_agents(calls)
        self._finish_background(calls)
        attempts = self._finish_attempts(messages)
        agents = [agent.record for agent in self._agents.values()]
        for agent in agents:
            agent.models = sorted(
                {m.model for m in messages if m.agent_id == agent.agent_id and m.model}
                - {SYNTHETIC_MODEL}
            )
        by_number = sorted(self._versions, key=lambda text: version_tuple(text) or (0, 0, 0))
        return Trace(
            files=self._files,
            lines=self._report,
            recognised=self._recognised,
            record_types=dict(sorted(self._types.items(), key=lambda item: (-item[1], item[0]))),
            duplicates=self._duplicates,
            session_id=max(self._sessions, key=lambda sid: self._sessions[sid], default=None),
            session_ids=sorted(self._sessions, key=lambda sid: -self._sessions[sid]),
            versions=sorted(by_number, key=lambda text: self._versions[text]),
            messages=messages,
            tool_calls=calls,
            api_attempts=attempts,
            api_errors=sorted(self._errors, key=lambda error: error.utc_ns or 0),
            agents=sorted(agents, key=lambda agent: (agent.first_utc_ns or 0, agent.agent_id)),
            compactions=self._compactions,
            first_utc_ns=self._first if self._last >= 0 else None,
            last_utc_ns=self._last if self._last >= 0 else None,
            cost_state=self._cost_state[1] if self._cost_state else None,
        )

    def _resolve_chains(self) -> None:
        """Give each inline sub-agent (CLI 2.0.0: no agent id) the uuid of its first record."""
        roots: dict[str, str] = {}
        for uuid in self._chain:
            path = []
            here = uuid
            while here not in roots:
                path.append(here)
                parent = self._chain[here]
                if parent is None or parent not in self._chain or parent in path:
                    roots[here] = here
                    break
                here = parent
            for step in path:
                roots[step] = roots[here]
        drafts = (origin for draft in self._drafts.values() for origin in draft.origins)
        uses = (use.origin for use in self._uses)
        results = (result.origin for result in self._results)
        users = (origin for origin, _ in self._user)
        for group in (drafts, uses, results, users):
            for origin in group:
                if origin.chain_uuid is not None:
                    origin.agent_id = roots[origin.chain_uuid]
                    origin.chain_uuid = None
        for uuid in sorted(set(roots.values())):
            agent = self._agent(uuid)
            agent.record.inline = True
            agent.prompt, agent.prompt_utc_ns = self._chain_prompts.get(uuid, (None, _LATEST))

    def _finish_messages(self) -> list[Message]:
        messages = []
        for draft in self._drafts.values():
            message = draft.message
            agents = [origin.agent_id for origin in draft.origins]
            # A side chain may repeat messages of the main chain; they belong to the main chain.
            message.agent_id = None if None in agents else agents[0]
            message.kind = next((k for k in _KIND_ORDER if message.blocks.get(k)), "text")
            messages.append(message)
        for origin, message in self._user:
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
                self._seen(self._agent(agent_id).record, message.first_utc_ns)
                self._seen(self._agent(agent_id).record, message.last_utc_ns)
        return messages

    def _finish_calls(self, messages: list[Message]) -> list[ToolCall]:
        by_message = {m.id: m for m in messages if m.role == "assistant"}
        uses: dict[str, dict[str | None, ToolCall]] = {}
        for use in sorted(self._uses, key=lambda use: use.call.requested_utc_ns or 0):
            use.call.agent_id = use.origin.agent_id
            uses.setdefault(use.call.id, {}).setdefault(use.origin.agent_id, use.call)
        for copies in uses.values():
            # A forked sub-agent repeats the calls of the main chain without making them.
            if None in copies:
                main = copies[None]
                copies.clear()
                copies[None] = main
        for result in sorted(self._results, key=lambda result: result.utc_ns or 0):
            copies = uses.get(result.tool_use_id)
            if not copies:
                continue
            call = copies.get(result.origin.agent_id) or next(iter(copies.values()))
            agent_id = self._agent_of_result(result)
            if agent_id:
                self._agent_parents.setdefault(agent_id, call.id)
            if not call.finished:
                call.end_utc_ns = result.utc_ns
                read_result(call, result.block, result.extra)
        calls = [call for copies in uses.values() for call in copies.values()]
        calls.sort(key=lambda call: call.requested_utc_ns or 0)
        groups: dict[tuple[str, str | None], list[ToolCall]] = {}
        for call in calls:
            groups.setdefault((call.message_id, call.agent_id), []).append(call)
        for (message_id, _), group in groups.items():
            _bound(group, by_message[message_id].last_utc_ns)
        return calls

    def _agent_of_result(self, result: _Result) -> str | None:
        extra = result.extra
        if isinstance(extra, dict):
            agent_id = as_text(extra.get("agentId"))
            kind = as_text(extra.get("agentType"))
            if agent_id and kind:
                self._agent_types.setdefault(agent_id, kind)
            return agent_id
        text = result_text(result.block.get("content"))
        if "agentId: " not in text:
            return None
        # Only the CLI's own closing lines count, and only for an agent that there is.
        word = text.rsplit("agentId: ", 1)[1].split(None, 1)
        return word[0] if word and word[0] in self._agents else None

    def _link_agents(self, calls: list[ToolCall]) -> None:
        starts = [call for call in calls if call.name in _AGENT_TOOLS]
        known = {call.id: call for call in calls}
        taken = set()
        for agent_id, agent in self._agents.items():
            parent = self._agent_parents.get(agent_id)
            agent.record.parent_id = parent
            taken.add(parent)
        ordered = sorted(self._agents.values(), key=lambda agent: agent.prompt_utc_ns)
        for agent in ordered:
            record = agent.record
            if record.parent_id is None:
                call = self._guess_parent(agent, [c for c in starts if c.id not in taken])
                if call is not None:
                    record.parent_id = call.id
                    taken.add(call.id)
            parent = known.get(record.parent_id or "")
            record.agent_type = self._agent_types.get(record.agent_id)
            if record.agent_type is None and parent is not None:
                record.agent_type = as_text(parent.input.get("subagent_type"))
            prompt = (agent.prompt or "").strip()
            record.warmup = record.parent_id is None and prompt == "Warmup"
        for call in calls:
            if call.agent_id is not None:
                call.parent_id = self._agents[call.agent_id].record.parent_id

    @staticmethod
    def _guess_parent(agent: _Agent, starts: list[ToolCall]) -> ToolCall | None:
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
            if (call.requested_utc_ns or 0) <= first and last <= (call.end_utc_ns or _LATEST)
        ]
        return around[0] if len(around) == 1 else None

    def _finish_background(self, calls: list[ToolCall]) -> None:
        by_id = {call.id: call for call in calls}
        by_task = {call.background_task_id: call for call in calls if call.background_task_id}
        for utc_ns, fields in sorted(self._notifications, key=lambda item: item[0]):
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
            attempt = self._attempts.get(message.request_ref or "")
            if attempt is None or message.role != "assistant":
                continue
            attempt.message_id = message.id
            attempt.end_utc_ns = message.last_utc_ns
            if attempt.start_utc_ns is not None:
                message.start_utc_ns = attempt.start_utc_ns
                message.start_source = "request"
        return sorted(self._attempts.values(), key=lambda attempt: attempt.start_utc_ns or 0)


def _better(usage: Usage, than: Usage | None) -> bool:
    """Whether this record of a message has its usage more finally than another record of it."""
    if than is None:
        return True
    return (usage.output_final, usage.output_tokens, usage.total) > (
        than.output_final,
        than.output_tokens,
        than.total,
    )


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
