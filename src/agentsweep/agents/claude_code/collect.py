"""Collects the records of one session, file by file and in any order.

Lines come in the order of writing, which is neither the order of time nor that of cause: results
of parallel calls come in completion order, blocks of one message are interleaved with results,
a resumed or forked session repeats records. So nothing is linked here; see `trace_link`. A record
without a time keeps its place in the file: it is put right after the one before it.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from agentsweep.agents.claude_code.answers import (
    Answers,
    Block,
    Draft,
    Origin,
    Use,
    add_record,
    content_of,
    request_of,
)
from agentsweep.agents.claude_code.api_errors import fatal, retried
from agentsweep.agents.claude_code.chain import PROMPT, Chain
from agentsweep.agents.claude_code.lines import LineReport
from agentsweep.agents.claude_code.records import (
    SYNTHETIC_MODEL,
    ApiAttempt,
    ApiError,
    Message,
    SubAgent,
    ToolCall,
    as_text,
    is_session_record,
    parse_time,
    read_notification,
    read_other_usage,
    read_usage,
    result_text,
)
from agentsweep.agents.claude_code.tool_category import categorise

LATEST = 2**63 - 1

_MAIN = Origin(None)


@dataclass(slots=True)
class Result:
    origin: Origin
    tool_use_id: str
    utc_ns: int | None
    block: dict[str, Any]
    extra: object
    order: tuple[int, int]
    call_uuid: str | None  # the record of its call, where it is named
    above: str | None  # the record that it follows: that of a call, or another result


@dataclass(slots=True)
class Agent:
    """What is known of one sub-agent before it is linked to the call that started it."""

    record: SubAgent
    origin: Origin
    prompt: str | None = None
    prompt_order: tuple[int, int] = (LATEST, 0)


class Collector:
    """Takes records with `add`, after `begin_file` has said where they are from."""

    def __init__(
        self, report: LineReport, keep_content: bool = False, filed: Iterable[str | None] = ()
    ):
        """`filed`: the sub-agents that have files of their own among those that will be read."""
        self.report = report
        self._filed = frozenset(filed)
        self._keep_content = keep_content
        self.files: list[str] = []
        self.record_types: dict[str, int] = {}
        self.recognised = False
        self.duplicates = 0
        self.chain = Chain()
        self.answers = Answers()
        self.main_files: list[int] = []  # the numbers of the records before each main file
        self.sessions: dict[str, int] = {}
        self.versions: dict[str, int] = {}
        self.first_utc_ns = LATEST
        self.last_utc_ns = -1
        self.user_records: list[tuple[Origin, Message, tuple[int, int]]] = []
        self.uses: list[Use] = []
        self.results: list[Result] = []
        self.attempts: dict[str, list[tuple[tuple[int, int], ApiAttempt]]] = {}
        self._attempts_told: set[tuple[object, ...]] = set()
        self.errors: list[tuple[tuple[int, int], ApiError]] = []
        self.notifications: list[tuple[tuple[int, int], int | None, dict[str, str]]] = []
        self.agents: dict[str, Agent] = {}
        self.agent_parents: dict[str, str] = {}
        self.agent_types: dict[str, str] = {}
        self.chain_parents: dict[str, str | None] = {}
        self.chain_prompts: dict[str, tuple[str, tuple[int, int]]] = {}
        self.compactions = 0
        self.prompt: tuple[str, tuple[int, int]] | None = None
        self.cost_state: tuple[float | None, dict[str, Any]] | None = None
        self._queued: list[tuple[Origin, Message, tuple[int, int], str | None]] = []
        self._progress: dict[str, list[dict[str, Any]]] = {}
        self._file_agent: str | None = None
        self._number = 0
        self._order = (-1, 0)
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

    def begin_file(
        self, name: str, agent_id: str | None = None, meta: dict[str, Any] | None = None
    ) -> None:
        """The records that follow are from this file; `agent_id` if it is a sub-agent's own."""
        self.files.append(name)
        self._file_agent = agent_id
        # What stands first in its file and has no time comes before all of that file.
        self._order = (-1, self._number)
        self.answers.begin_file()
        if agent_id is None:
            self.main_files.append(self._number)
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

    def add(self, record: dict[str, Any]) -> None:
        """Take one record, of any type."""
        kind = record["type"]
        self.record_types[kind] = self.record_types.get(kind, 0) + 1
        self._number += 1
        if not self.recognised and len(self.files) == 1:
            self.recognised = is_session_record(record)
        stamp = record.get("timestamp")
        if not self.chain.note(record, self._number, len(self.files)):
            self.duplicates += 1
            return
        utc_ns = parse_time(stamp)
        self._order = (self._order[0] if utc_ns is None else utc_ns, self._number)
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
            version not in self.versions or self._order[0] > self.versions[version]
        ):
            self.versions[version] = self._order[0]
        handler = self._handlers.get(kind)
        if handler:
            handler(record, utc_ns)

    def finish(self) -> None:
        """All files were read: take what stands in a second place only, where the first is lost."""
        for agent_id, records in self._progress.items():
            if agent_id not in self._filed:
                self._take_progress(agent_id, records)
        for origin, message, order, source in self._queued:
            if source is None or source not in self.chain.links:
                self.user_records.append((origin, message, order))

    # --- one method a record type ---

    def _origin(self, record: dict[str, Any], utc_ns: int | None) -> Origin:
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

    def _add_user(self, record: dict[str, Any], utc_ns: int | None) -> None:
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
                    named = as_text(record.get("sourceToolAssistantUUID"))
                    above = as_text(record.get("parentUuid"))
                    self.results.append(
                        Result(origin, tool_use_id, utc_ns, block, extra, self._order, named, above)
                    )
        if kind is None:
            kind = self._read_prompt(record, utc_ns, origin, result_text(content))
        identity = as_text(record.get("uuid")) or f"user-{self._number}"
        made = Message(identity, "user", kind, origin.agent_id, utc_ns, utc_ns)
        if self._keep_content:
            blocks = content if isinstance(content, list) else [{"type": "text", "text": content}]
            # Results are kept with their calls.
            kept = (b for b in blocks if isinstance(b, dict) and b.get("type") != "tool_result")
            made.content = [(utc_ns, block) for block in kept]
        self.user_records.append((origin, made, self._order))
        self.answers.heard(origin, self._number)
        if origin is _MAIN:
            self._spoken(record, "result" if kind == "tool_result" else kind)

    def _spoken(self, record: dict[str, Any], kind: str) -> None:
        """A record of the main conversation, in which the user may go back."""
        uuid = record.get("uuid")
        if type(uuid) is str and self._file_agent is None:
            self.chain.spoken.append((self._number, uuid, kind, self._order[0]))

    def _read_prompt(
        self, record: dict[str, Any], utc_ns: int | None, origin: Origin, text: str
    ) -> str:
        notification = read_notification(text)
        if notification is not None:
            self.notifications.append((self._order, utc_ns, notification))
            return "task_notification"
        if record.get("isCompactSummary") is True:
            return "compact_summary"
        if text.startswith("[Request interrupted"):
            return "interrupt"
        if record.get("isMeta") is True:
            return "meta"
        order = self._order
        if origin is _MAIN and (self.prompt is None or order < self.prompt[1]):
            self.prompt = (text, order)
        if origin.agent_id is not None:
            agent = self.agents[origin.agent_id]
            if agent.prompt is None or order < agent.prompt_order:
                agent.prompt, agent.prompt_order = text, order
        elif origin.chain_uuid is not None:
            self.chain_prompts[origin.chain_uuid] = (text, order)
        return PROMPT

    def _add_assistant(self, record: dict[str, Any], utc_ns: int | None) -> None:
        origin = self._origin(record, utc_ns)
        content = record.get("message")
        if type(content) is not dict:
            content = {}
        draft, goes_on = self._draft(record, content, origin, utc_ns)
        message = draft.message
        blocks = content.get("content")
        if type(blocks) is str:
            blocks = [{"type": "text", "text": blocks}]
        # Of a record that does not follow the one before it, a block may be there already.
        known: dict[tuple[object, ...], list[Block]] = {}
        file, speaker = len(self.files), origin.key
        for block in blocks if type(blocks) is list else ():
            if type(block) is not dict:
                continue
            kind = block.get("type")
            kind = kind if type(kind) is str else "unknown"
            message.blocks[kind] = message.blocks.get(kind, 0) + 1
            made = Block(utc_ns, kind, content_of(kind, block), file, speaker, draft.last_uuid)
            copy = None
            if not goes_on:
                if made.token not in known:
                    known[made.token] = draft.blocks_like(made)[::-1]
                copy = known[made.token].pop() if known[made.token] else None
            if copy is not None:
                if copy.use is not None:
                    twin = self._tool_use(block, origin, draft, record, utc_ns)
                    draft.twins.append((copy.use, twin))
                continue
            draft.blocks.append(made)
            if self._keep_content:
                if message.content is None:
                    message.content = []
                message.content.append((utc_ns, block))
            if kind == "tool_use":
                made.use = self._tool_use(block, origin, draft, record, utc_ns)
        failed = record.get("isApiErrorMessage") is True
        if failed or message.model == SYNTHETIC_MODEL:
            message.blocks["error"] = message.blocks.get("error", 0) + 1
        if failed:
            error = fatal(record, result_text(blocks), utc_ns, origin.agent_id)
            self.errors.append((self._order, error))
        if origin is _MAIN:
            self._spoken(record, "assistant")

    def _draft(
        self, record: dict[str, Any], content: dict[str, Any], origin: Origin, utc_ns: int | None
    ) -> tuple[Draft, bool]:
        """The answer that an assistant record is part of, with what the record adds to it; and
        whether the record follows the answer's last one."""
        request = request_of(record)
        uuid = record.get("uuid")
        uuid = uuid if type(uuid) is str else None
        identity = content.get("id")
        if type(identity) is not str or not identity:
            identity = request or uuid or f"assistant-{self._number}"
        identity = as_text(identity) or identity
        usage, parent = read_usage(content), record.get("parentUuid")
        version = record.get("version")
        draft = self.answers.find(identity, request, usage, origin, parent, utc_ns, version)
        if draft is not None:
            message = draft.message
            add_record(message, content, usage, utc_ns)
            draft.request = draft.request or request
            goes_on = parent is not None and parent == draft.last_uuid
            draft.last_number = self._number
            if self._order[0] < draft.order_ns:
                draft.order_ns, draft.number = self._order
        else:
            message = Message(
                identity,
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
            message.other_usage = read_other_usage(content)
            draft = Draft(
                message,
                request,
                self._number,
                self._order[0],
                self._number,
            )
            self.answers.drafts.append(draft)
            goes_on = True
        message.record_output_tokens += usage.output_tokens
        if uuid is not None:
            draft.last_uuid = uuid
            draft.uuids.append(uuid)
            self.answers.owners[uuid] = draft
        self.answers.note(draft, origin)
        return draft, goes_on

    def _tool_use(
        self,
        block: dict[str, Any],
        origin: Origin,
        draft: Draft,
        record: dict[str, Any],
        utc_ns: int | None,
    ) -> Use:
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
            draft.message.id,
            None,
            as_text(record.get("version")),
            utc_ns,
        )
        call.background = given.get("run_in_background") is True
        uuids = [] if draft.last_uuid is None else [draft.last_uuid]
        return Use(identity, call, draft, self._number, self._order[0], origin, uuids)

    def _add_system(self, record: dict[str, Any], utc_ns: int | None) -> None:
        origin = self._origin(record, utc_ns)
        subtype = record.get("subtype")
        if subtype == "compact_boundary":
            self.compactions += 1
        elif subtype == "api_error":
            self.errors.append((self._order, retried(record, utc_ns, origin.agent_id)))

    def _add_attachment(self, record: dict[str, Any], utc_ns: int | None) -> None:
        attachment = record.get("attachment")
        if not isinstance(attachment, dict) or attachment.get("type") != "queued_command":
            return
        if self._note_if_notification(attachment.get("prompt"), utc_ns):
            return
        text = result_text(attachment.get("prompt"))
        typed = attachment.get("commandMode") in (None, PROMPT) and not attachment.get("isMeta")
        if not text or not typed:
            return
        # What the user typed while tools were at work; it has no record of its own as a rule.
        origin = self._origin(record, utc_ns)
        identity = as_text(record.get("uuid")) or f"user-{self._number}"
        made = Message(identity, "user", PROMPT, origin.agent_id, utc_ns, utc_ns)
        if self._keep_content:
            made.content = [(utc_ns, {"type": "text", "text": text})]
        self._queued.append((origin, made, self._order, as_text(attachment.get("source_uuid"))))
        self.answers.heard(origin, self._number)

    def _add_queue(self, record: dict[str, Any], utc_ns: int | None) -> None:
        if record.get("operation") == "enqueue":
            self._note_if_notification(record.get("content"), utc_ns)

    def _note_if_notification(self, content: object, utc_ns: int | None) -> bool:
        notification = read_notification(result_text(content))
        if notification is not None:
            self.notifications.append((self._order, utc_ns, notification))
        return notification is not None

    def _add_request(self, record: dict[str, Any], utc_ns: int | None) -> None:
        identity = as_text(record.get("id"))
        if identity is None:
            return
        params = record.get("params")
        model = as_text(params.get("model")) if isinstance(params, dict) else None
        # These records are not part of the chain and have no isSidechain.
        agent_id = as_text(record.get("agentId")) or self._file_agent
        source = as_text(record.get("querySource"))
        made = ApiAttempt(identity, utc_ns, model, agent_id, source)
        told = (identity, utc_ns, model, agent_id, source)
        if told not in self._attempts_told:
            self._attempts_told.add(told)
            self.attempts.setdefault(identity, []).append((self._order, made))

    def _add_cost(self, record: dict[str, Any], utc_ns: int | None) -> None:
        started = record.get("startTime")
        order = started if type(started) in (int, float) else None
        known = None if self.cost_state is None else self.cost_state[0]
        # Without both times the one that was written later is the later one.
        if known is None or order is None or order >= known:
            self.cost_state = (order, record)

    def _add_progress(self, record: dict[str, Any], utc_ns: int | None) -> None:
        data = record.get("data")
        agent_id = as_text(data.get("agentId")) if isinstance(data, dict) else None
        parent = as_text(record.get("parentToolUseID"))
        if agent_id and parent:
            self.agent_parents.setdefault(agent_id, parent)
        if agent_id and agent_id not in self._filed:
            self._progress.setdefault(agent_id, []).append({**record, "data": data})

    def _take_progress(self, agent_id: str, records: list[dict[str, Any]]) -> None:
        """What the main file repeats of a sub-agent whose own file is lost."""
        for record in records:
            data = record["data"]
            told = data.get("message"), *_list(data.get("normalizedMessages"))
            for nested in told:
                if not isinstance(nested, dict) or nested.get("type") not in ("user", "assistant"):
                    continue
                if agent_id in self.agents and self.agents[agent_id].record.file is not None:
                    return
                common = {name: record.get(name) for name in ("sessionId", "version", "timestamp")}
                kind = nested["type"]
                self.add({**common, **nested, "isSidechain": True, "agentId": agent_id})
                self.record_types[kind] -= 1
                if not self.record_types[kind]:
                    del self.record_types[kind]
            agent = self.agents.get(agent_id)
            prompt = data.get("prompt")
            if agent is not None and agent.prompt is None and isinstance(prompt, str):
                agent.prompt = prompt or None


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []
