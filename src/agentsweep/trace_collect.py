"""Collects the records of one session, file by file and in any order.

Lines come in the order of writing, which is neither the order of time nor that of cause: results
of parallel calls come in completion order, blocks of one message are interleaved with results,
a resumed or forked session repeats records. So nothing is linked here; see `trace_link`.
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
    Usage,
    as_text,
    is_session_record,
    parse_time,
    read_notification,
    read_usage,
    result_text,
)

LATEST = 2**63 - 1


@dataclass(slots=True)
class Origin:
    """Where a record came from: its agent as written, or its place in an unnamed inline chain."""

    agent_id: str | None
    chain_uuid: str | None = None


_MAIN = Origin(None)


@dataclass(slots=True)
class Use:
    origin: Origin
    call: ToolCall


@dataclass(slots=True)
class Result:
    origin: Origin
    tool_use_id: str
    utc_ns: int | None
    block: dict
    extra: object


@dataclass(slots=True)
class Agent:
    """What is known of one sub-agent before it is linked to the call that started it."""

    record: SubAgent
    origin: Origin
    prompt: str | None = None
    prompt_utc_ns: int = LATEST


@dataclass(slots=True)
class Draft:
    """An assistant message of which some records have been read."""

    message: Message
    origins: list[Origin] = field(default_factory=list)


class Collector:
    """Takes records with `add`, after `begin_file` has said where they are from."""

    def __init__(self, report: LineReport, keep_content: bool = False):
        self.report = report
        self._keep_content = keep_content
        self.files: list[str] = []
        self.record_types: dict[str, int] = {}
        self.recognised = False
        self.duplicates = 0
        self.uuids: set[str] = set()
        self.sessions: dict[str, int] = {}
        self.versions: dict[str, int] = {}
        self.first_utc_ns = LATEST
        self.last_utc_ns = -1
        self.drafts: dict[str, Draft] = {}
        self.user_records: list[tuple[Origin, Message]] = []
        self.uses: list[Use] = []
        self.results: list[Result] = []
        self.attempts: dict[str, ApiAttempt] = {}
        self.errors: list[ApiError] = []
        self.notifications: list[tuple[int, dict[str, str]]] = []
        self.agents: dict[str, Agent] = {}
        self.agent_parents: dict[str, str] = {}
        self.agent_types: dict[str, str] = {}
        self.chain_parents: dict[str, str | None] = {}
        self.chain_prompts: dict[str, tuple[str, int]] = {}
        self.compactions = 0
        self.prompt: tuple[str, int] | None = None
        self.cost_state: tuple[int, dict] | None = None
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
        self.files.append(name)
        self._file_agent = agent_id
        if agent_id is None:
            return
        agent = self.agent(agent_id)
        agent.record.file = agent.record.file or name
        if meta:
            parent, kind = as_text(meta.get("toolUseId")), as_text(meta.get("agentType"))
            if parent:
                self.agent_parents.setdefault(agent_id, parent)
            if kind:
                self.agent_types.setdefault(agent_id, kind)

    def add(self, record: dict) -> None:
        """Take one record, of any type."""
        kind = record["type"]
        self.record_types[kind] = self.record_types.get(kind, 0) + 1
        self._number += 1
        if not self.recognised and len(self.files) == 1:
            self.recognised = is_session_record(record)
        uuid = record.get("uuid")
        if type(uuid) is str:
            if uuid in self.uuids:
                self.duplicates += 1
                return
            self.uuids.add(uuid)
        utc_ns = parse_time(record.get("timestamp"))
        if utc_ns is not None:
            if utc_ns < self.first_utc_ns:
                self.first_utc_ns = utc_ns
            if utc_ns > self.last_utc_ns:
                self.last_utc_ns = utc_ns
        session = record.get("sessionId")
        if type(session) is str:
            self.sessions[session] = self.sessions.get(session, 0) + 1
        version = record.get("version")
        if type(version) is str and (
            version not in self.versions or (utc_ns or -1) > self.versions[version]
        ):
            self.versions[version] = -1 if utc_ns is None else utc_ns
        handler = self._handlers.get(kind)
        if handler:
            handler(record, utc_ns)

    # --- one method a record type ---

    def _origin(self, record: dict, utc_ns: int | None) -> Origin:
        agent_id = record.get("agentId", self._file_agent)
        if agent_id is None and record.get("isSidechain") is not True:
            return _MAIN
        if type(agent_id) is not str or not agent_id:
            agent_id = self._file_agent
        agent_id = as_text(agent_id)
        if agent_id is not None:
            if record.get("isSidechain") is True or self._file_agent is not None:
                agent = self.agent(agent_id)
                agent.record.seen(utc_ns)
                return agent.origin
            return _MAIN
        if record.get("isSidechain") is True:
            uuid = as_text(record.get("uuid"))
            if uuid is not None:
                self.chain_parents[uuid] = as_text(record.get("parentUuid"))
                return Origin(None, uuid)
        return _MAIN

    def agent(self, agent_id: str) -> Agent:
        """The sub-agent of that id, known from now on."""
        agent = self.agents.get(agent_id)
        if agent is None:
            agent = self.agents[agent_id] = Agent(SubAgent(agent_id), Origin(agent_id))
        return agent

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
                    self.results.append(Result(origin, tool_use_id, utc_ns, block, extra))
        if kind is None:
            kind = self._read_prompt(record, utc_ns, origin, result_text(content))
        identity = as_text(record.get("uuid")) or f"user-{self._number}"
        made = Message(identity, "user", kind, origin.agent_id, utc_ns, utc_ns)
        if self._keep_content:
            blocks = content if isinstance(content, list) else [{"type": "text", "text": content}]
            # Results are kept with their calls.
            kept = (b for b in blocks if isinstance(b, dict) and b.get("type") != "tool_result")
            made.content = [(utc_ns, block) for block in kept]
        self.user_records.append((origin, made))

    def _read_prompt(self, record: dict, utc_ns: int | None, origin: Origin, text: str) -> str:
        notification = read_notification(text)
        if notification is not None:
            self.notifications.append((utc_ns or 0, notification))
            return "task_notification"
        if record.get("isCompactSummary") is True:
            return "compact_summary"
        if text.startswith("[Request interrupted"):
            return "interrupt"
        if record.get("isMeta") is True:
            return "meta"
        order = LATEST if utc_ns is None else utc_ns
        if origin is _MAIN and (self.prompt is None or order < self.prompt[1]):
            self.prompt = (text, order)
        if origin.agent_id is not None:
            agent = self.agents[origin.agent_id]
            if agent.prompt is None or order < agent.prompt_utc_ns:
                agent.prompt, agent.prompt_utc_ns = text, order
        elif origin.chain_uuid is not None:
            self.chain_prompts[origin.chain_uuid] = (text, order)
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
            if self._keep_content:
                self._keep(block, message, utc_ns)
            if kind == "tool_use":
                version = as_text(record.get("version"))
                self._add_tool_use(block, origin, message.id, version, utc_ns)
        failed = record.get("isApiErrorMessage") is True
        if failed or message.model == SYNTHETIC_MODEL:
            message.blocks["error"] = message.blocks.get("error", 0) + 1
        if failed:
            self._add_fatal(record, result_text(blocks), origin, utc_ns)

    @staticmethod
    def _keep(block: dict, message: Message, utc_ns: int | None) -> None:
        """Once: a session that was forked or resumed may have it again, in a record of its own."""
        if message.content is None:
            message.content = []
        if all(block != known for _, known in message.content):
            message.content.append((utc_ns, block))

    def _draft(self, record: dict, content: dict, origin: Origin, utc_ns: int | None) -> Message:
        """The API message that an assistant record is part of, with what the record adds to it."""
        identity = content.get("id")
        if type(identity) is not str or not identity:
            identity = as_text(record.get("requestId")) or as_text(record.get("uuid"))
            identity = identity or f"assistant-{self._number}"
        usage = read_usage(content)
        draft = self.drafts.get(identity)
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
            draft = self.drafts[identity] = Draft(message)
        message.record_output_tokens += usage.output_tokens
        if origin not in draft.origins:
            draft.origins.append(origin)
        return message

    def _add_tool_use(
        self,
        block: dict,
        origin: Origin,
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
        self.uses.append(Use(origin, call))

    def _add_fatal(self, record: dict, text: str, origin: Origin, utc_ns: int | None) -> None:
        status = record.get("apiErrorStatus")
        status = status if type(status) is int else None
        error = ApiError(utc_ns, True, status, as_text(text[:500]) or "")
        error.agent_id = origin.agent_id
        self.errors.append(error)

    def _add_system(self, record: dict, utc_ns: int | None) -> None:
        origin = self._origin(record, utc_ns)
        subtype = record.get("subtype")
        if subtype == "compact_boundary":
            self.compactions += 1
        elif subtype == "api_error":
            self._add_retried(record, origin, utc_ns)

    def _add_retried(self, record: dict, origin: Origin, utc_ns: int | None) -> None:
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
        self.errors.append(error)

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
            self.notifications.append((utc_ns or 0, notification))

    def _add_request(self, record: dict, utc_ns: int | None) -> None:
        identity = as_text(record.get("id"))
        if identity is None or identity in self.attempts:
            return
        params = record.get("params")
        model = as_text(params.get("model")) if isinstance(params, dict) else None
        # These records are not part of the chain and have no isSidechain.
        agent_id = as_text(record.get("agentId")) or self._file_agent
        source = as_text(record.get("querySource"))
        self.attempts[identity] = ApiAttempt(identity, utc_ns, model, agent_id, source)

    def _add_cost(self, record: dict, utc_ns: int | None) -> None:
        started = record.get("startTime")
        order = started if type(started) in (int, float) else 0
        if self.cost_state is None or order >= self.cost_state[0]:
            self.cost_state = (order, record)

    def _add_progress(self, record: dict, utc_ns: int | None) -> None:
        data = record.get("data")
        agent_id = as_text(data.get("agentId")) if isinstance(data, dict) else None
        parent = as_text(record.get("parentToolUseID"))
        if agent_id and parent:
            self.agent_parents.setdefault(agent_id, parent)


def _better(usage: Usage, than: Usage | None) -> bool:
    """Whether this record of a message has its usage more finally than another record of it."""
    if than is None:
        return True
    return (usage.output_final, usage.output_tokens, usage.total) > (
        than.output_final,
        than.output_tokens,
        than.total,
    )
