"""The typed records of a Claude Code session, and how their fields are read.

Times are UTC nanoseconds (the files have milliseconds). A field that a version of the CLI does
not write, or that is not what it should be, is None; nothing here raises for its content.
"""

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from agentsweep.agents.claude_code.lines import LineReport

# Every type that the CLI is known to write; others are counted as unknown.
_TYPES = """user assistant system attachment progress summary queue-operation api-request
    api-request-shape api-request-blob api-request-resumed file-history-snapshot
    file-history-delta attribution-snapshot custom-title ai-title tag relocated agent-name
    agent-color agent-setting mode permission-mode session-owner isolation-latch dev-mods
    atis-latch worktree-state bridge-session tools-used data-flow-records data-flow-incomplete
    derived-from pr-link history-suppression ended-by-model cost-state last-prompt
    content-replacement memory-mode artifact-comment-monitor artifact-autoreact-ledger
    fork-context-ref frame-link observer-ref continued-in resume-head-vouch host-row repl-mode
    hybrid-organization"""
KNOWN_TYPES = frozenset(_TYPES.split())
SYNTHETIC_MODEL = "<synthetic>"
# The tool that starts a sub-agent, in newer and in older versions.
AGENT_TOOLS = ("Agent", "Task")

# Parts of an answer that its usage leaves out, whatever their model.
_EXTRA_PARTS = ("advisor_message", "compaction")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MAX_INT = 2**63 - 1
_EXIT_CODE = re.compile(r"\s*(?:Error: )?Exit code (\d{1,3})(?=\s|$)")
_TIMED_OUT = re.compile(r"\s*(?:Error: )?(?:Exit code \d{1,3}\s+)?Command timed out after ")
# The first lines of pytest, in all its versions.
_TEST_BANNER = re.compile(r"^platform \w+ -- Python (\d+\.\d+\.\d+)", re.MULTILINE)
_BACKGROUND = re.compile(
    r"(?:running in (?:the )?background with ID: |moved to the background \(ID: )([\w-]+)"
)
_NOTIFIED = {
    "task_id": re.compile(r"<task-id>([^<]*)</task-id>"),
    "tool_use_id": re.compile(r"<tool-use-id>([^<]*)</tool-use-id>"),
    "status": re.compile(r"<status>([^<]*)</status>"),
    "exit_code": re.compile(r"\(exit code (\d{1,3})\)|with exit code (\d{1,3})"),
}


@dataclass(slots=True)
class Usage:
    """The tokens of one API message; `output_final` is false when only a placeholder is known."""

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_input_tokens: int = 0
    cache_creation_input_tokens: int = 0
    output_final: bool = False

    @property
    def total(self) -> int:
        return (
            self.input_tokens
            + self.output_tokens
            + self.cache_read_input_tokens
            + self.cache_creation_input_tokens
        )

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
            self.cache_read_input_tokens + other.cache_read_input_tokens,
            self.cache_creation_input_tokens + other.cache_creation_input_tokens,
            self.output_final and other.output_final,
        )


@dataclass(slots=True)
class Message:
    """One API message (role `assistant`, in however many records) or one user record.

    `kind` is `text`, `thinking`, `tool_use`, `error` for the assistant (`error` is what the CLI
    itself says when the API failed), and `prompt`, `tool_result`, `task_notification`, `meta`,
    `compact_summary`, `interrupt` for the user. `start_utc_ns` is when the model was asked, where
    that is known: `start_source` is `request` (the CLI's own record of it) or `previous` (the
    record that the message answers). `content` is kept only where that was asked for.

    `abandoned`: the user went back to before it, so that it is no part of the conversation that
    went on. `position` is its place in that conversation by the links of its records, None where
    they do not lead from the end to the beginning.
    """

    id: str
    role: str
    kind: str
    agent_id: str | None
    first_utc_ns: int | None
    last_utc_ns: int | None
    model: str | None = None
    request_id: str | None = None
    request_ref: str | None = None
    stop_reason: str | None = None
    usage: Usage | None = None
    start_utc_ns: int | None = None
    start_source: str | None = None
    records: int = 1
    record_output_tokens: int = 0  # summed over the records, which all repeat the usage
    blocks: dict[str, int] = field(default_factory=dict)
    content: list[tuple[int | None, dict[str, Any]]] | None = (
        None  # blocks and when they were noted
    )
    # Of other models that worked on the answer, by model: no part of `usage`.
    other_usage: dict[str, Usage] | None = None
    calls: list["ToolCall"] = field(default_factory=list)  # in the order of its blocks
    abandoned: bool = False
    position: int | None = None
    _key: str | None = None

    @property
    def key(self) -> str:
        """The id, and a suffix where the session gives the id to several messages: unique in it."""
        return self._key or self.id

    @key.setter
    def key(self, key: str) -> None:
        self._key = key

    @property
    def whole_usage(self) -> Usage:
        """All tokens that the answer took, of whatever model."""
        whole = self.usage or Usage()
        for usage in (self.other_usage or {}).values():
            whole = whole + usage
        return whole


@dataclass(slots=True)
class ToolCall:
    """One tool call. The true execution lies within [`start_utc_ns`, `end_utc_ns`].

    `requested_utc_ns` is the time of the tool_use record and `end_utc_ns` that of its result. The
    tool cannot have started before `start_utc_ns` (before CLI 2.1.160 tools wait for the end of
    their message), so `end - start` is an upper bound. If tools of one message ran one after the
    other it started at `start_latest_utc_ns`, so `end - start_latest` is a lower bound. A call
    without a result (the session was killed) has no end.

    `id` is the CLI's; where a server gives one id to several calls of an agent, the second and
    later ones have a suffix (`_2`). `parent_id` is the tool call that started the sub-agent which
    made this call, `agent_id` that sub-agent. `exit_code` is None when the trace does not say.
    `result_text` is there only where the session was read with its results.
    """

    id: str
    name: str
    input: dict[str, Any]
    command: str | None
    category: str
    message_id: str
    agent_id: str | None
    version: str | None
    requested_utc_ns: int | None
    parent_id: str | None = None
    start_utc_ns: int | None = None
    start_latest_utc_ns: int | None = None
    end_utc_ns: int | None = None
    time_source: str = "trace"
    finished: bool = False
    is_error: bool | None = None
    exit_code: int | None = None
    # None: nothing tells. A call without a result may have died with the agent.
    timed_out: bool | None = None
    killed: bool | None = None
    interrupted: bool | None = None
    background: bool = False
    background_task_id: str | None = None
    background_status: str | None = None
    background_end_utc_ns: int | None = None
    result_chars: int | None = None
    result_text: str | None = None
    test_interpreter: str | None = None

    @property
    def duration_upper_s(self) -> float | None:
        return _seconds_between(self.start_utc_ns, self.end_utc_ns)

    @property
    def duration_lower_s(self) -> float | None:
        return _seconds_between(self.start_latest_utc_ns, self.end_utc_ns)


@dataclass(slots=True)
class ApiAttempt:
    """One HTTP request that the CLI says it sent (CLI 2.1.300 and later)."""

    id: str
    start_utc_ns: int | None
    model: str | None
    agent_id: str | None
    query_source: str | None
    end_utc_ns: int | None = None
    message_id: str | None = None  # None: the attempt brought no message


@dataclass(slots=True)
class ApiError:
    """A failed request: retried (`fatal` false) or given up, which ends the session's turn."""

    utc_ns: int | None
    fatal: bool
    status: int | None
    text: str
    retry_attempt: int | None = None
    retry_in_ms: float | None = None
    agent_id: str | None = None


@dataclass(slots=True)
class SubAgent:
    """One sub-agent; `parent_id` is the tool call that started it.

    `warmup` marks the agents that some versions start by themselves to fill the prompt cache.
    `parent` is the call of that id. `missing`: its own file is not there; what is known of it
    comes from the main file, which has some of its messages or none.
    """

    agent_id: str
    parent_id: str | None = None
    agent_type: str | None = None
    warmup: bool = False
    inline: bool = False
    file: str | None = None
    models: list[str] = field(default_factory=list)
    first_utc_ns: int | None = None
    last_utc_ns: int | None = None
    missing: bool = False
    parent: ToolCall | None = None

    def seen(self, utc_ns: int | None) -> None:
        """A record of it has this time."""
        if utc_ns is not None:
            if self.first_utc_ns is None or utc_ns < self.first_utc_ns:
                self.first_utc_ns = utc_ns
            if self.last_utc_ns is None or utc_ns > self.last_utc_ns:
                self.last_utc_ns = utc_ns


@dataclass(slots=True)
class Trace:
    """A session: its records put together over all of its files, in time order."""

    files: list[str]
    lines: LineReport
    recognised: bool  # the first file has a record as only session files have them
    record_types: dict[str, int]
    duplicates: int
    session_id: str | None
    session_ids: list[str]
    versions: list[str]
    messages: list[Message]
    tool_calls: list[ToolCall]
    api_attempts: list[ApiAttempt]
    api_errors: list[ApiError]
    agents: list[SubAgent]
    compactions: int
    prompt: str | None  # the first one of the main chain
    first_utc_ns: int | None
    last_utc_ns: int | None
    cost_state: dict[str, Any] | None

    @property
    def status(self) -> str:
        """`damaged` if anything could not be read as written, `empty` without messages, `ok`."""
        if self.lines.damaged:
            return "damaged"
        return "ok" if self.messages else "empty"

    @property
    def version(self) -> str | None:
        """The version that wrote the newest records."""
        return self.versions[-1] if self.versions else None

    def models(self, subagents: bool) -> list[str]:
        """The models that answered in the main chain, or in sub-agents; most messages first."""
        counts: dict[str, int] = {}
        for message in self.messages:
            model = message.model
            if model and model != SYNTHETIC_MODEL and (message.agent_id is not None) == subagents:
                counts[model] = counts.get(model, 0) + 1
        return sorted(counts, key=lambda model: (-counts[model], model))


def is_session_record(record: object) -> bool:
    """Whether an object is a record of a session file, judged by what only those have.

    The CLI's stream-json output has the same types but `session_id` and no `parentUuid`.
    """
    if not isinstance(record, dict) or not isinstance(record.get("type"), str):
        return False
    if isinstance(record.get("sessionId"), str):
        return True
    if "parentUuid" in record and "uuid" in record:
        return True
    kind = record["type"]
    if kind in ("user", "assistant"):
        keys = ("message", "uuid", "timestamp")
        return "session_id" not in record and all(key in record for key in keys)
    return (kind == "summary" and "leafUuid" in record) or (
        kind == "file-history-snapshot" and "messageId" in record
    )


def as_text(value: object) -> str | None:
    """A string that can be written as UTF-8 (a cut-off emoji is half a surrogate pair), or None."""
    if type(value) is not str:
        return None
    if value.isascii():
        return value
    try:
        value.encode()
    except UnicodeEncodeError:
        return value.encode("utf-8", "replace").decode()
    return value


def as_count(value: object) -> int:
    """A count of tokens; 0 for anything that is not one."""
    if type(value) is int and 0 <= value <= _MAX_INT:
        return value
    return 0


def parse_time(value: object) -> int | None:
    """UTC nanoseconds of an ISO time stamp, or None. A time without a zone is taken as UTC."""
    if type(value) is not str:
        return None
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        nanoseconds = (moment - _EPOCH) // _MICROSECOND * 1000
    except (ValueError, OverflowError):
        return None
    return nanoseconds if 0 <= nanoseconds <= _MAX_INT else None


def format_time(utc_ns: int | None) -> str | None:
    """The ISO time stamp, as the CLI writes it, of UTC nanoseconds."""
    if utc_ns is None:
        return None
    moment = _EPOCH + timedelta(microseconds=utc_ns // 1000)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_usage(message: dict[str, Any]) -> Usage:
    """The usage of one assistant record; final only where the record says how the message ended."""
    usage = message.get("usage")
    if not isinstance(usage, dict):
        return Usage()
    return Usage(
        as_count(usage.get("input_tokens")),
        as_count(usage.get("output_tokens")),
        as_count(usage.get("cache_read_input_tokens")),
        as_count(usage.get("cache_creation_input_tokens")),
        isinstance(message.get("stop_reason"), str),
    )


def read_other_usage(message: dict[str, Any]) -> dict[str, Usage] | None:
    """The tokens of one assistant record that its usage leaves out, by model; None as a rule.

    `iterations` lists the parts of an answer: those of the answer's own model add up to the usage,
    those of an advisor or of a compaction of the context come on top.
    """
    usage = message.get("usage")
    parts = usage.get("iterations") if type(usage) is dict else None
    if type(parts) is not list or not parts:
        return None
    final, own = isinstance(message.get("stop_reason"), str), as_text(message.get("model"))
    inside, outside = Usage(), Usage()
    found: dict[str, Usage] = {}
    for part in parts:
        if type(part) is not dict:
            continue
        model = as_text(part.get("model")) or own or "unknown"
        tokens = read_usage({"usage": part})
        tokens.output_final = final
        if model == (own or "unknown") and part.get("type") not in _EXTRA_PARTS:
            inside += tokens
            continue
        outside += tokens
        known = found.get(model)
        found[model] = tokens if known is None else known + tokens
    whole = read_usage(message)
    if not found or not outside.total:
        return None
    # A server may count them in.
    return None if inside.total and whole.total == inside.total + outside.total else found


def result_text(content: object) -> str:
    """The text of a tool result, which is a string or a list of blocks."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = (block.get("text") for block in content if isinstance(block, dict))
        return "\n".join(text for text in texts if isinstance(text, str))
    return ""


def read_result(
    call: ToolCall, block: dict[str, Any], extra: object, keep_text: bool = False
) -> None:
    """Take what a tool_result block and its `toolUseResult` say about how the call ended.

    A failed command begins with `Exit code N` (CLI 2.1.16 and later). A success has no such line;
    it is 0 where the CLI says that it saw no other meaning in the code. `keep_text` also takes its
    text.
    """
    text = result_text(block.get("content"))
    call.finished = True
    call.result_chars = len(text)
    if keep_text:
        call.result_text = as_text(text)
    is_error = block.get("is_error")
    call.is_error = is_error if isinstance(is_error, bool) else False
    details = extra if isinstance(extra, dict) else {}
    task = details.get("backgroundTaskId")
    if task is None and not call.is_error and call.name == "Bash":
        moved = _BACKGROUND.search(text[:200]) or _BACKGROUND.search(text[-1000:])
        # A subagent's records have no details; a command that prints such words has them.
        task = moved[1] if moved and not details else None
    if isinstance(task, str) or details.get("isAsync") is True:
        call.background = True
        call.background_task_id = as_text(task) or as_text(details.get("agentId"))
    call.interrupted = details.get("interrupted") is True or text.startswith("[Request interrupted")
    call.timed_out = False
    if call.name != "Bash":
        call.killed = False
        return
    if "platform " in text:
        banner = _TEST_BANNER.search(text)
        call.test_interpreter = banner[1] if banner else None
    if call.is_error:
        code = _EXIT_CODE.match(text)
        call.exit_code = int(code[1]) if code else None
        call.timed_out = _TIMED_OUT.match(text) is not None
    elif details and not call.background and not call.interrupted:
        meant = details.get("returnCodeInterpretation")
        call.exit_code = 0 if meant is None else None
    if "timedOutAfterMs" in details:
        call.timed_out = True
    call.killed = _killed(call)


def read_notification(text: str) -> dict[str, str] | None:
    """The fields of a `<task-notification>`, or None if the text is not one."""
    if "<task-notification>" not in text[:200]:
        return None
    fields = {}
    for name, pattern in _NOTIFIED.items():
        match = pattern.search(text)
        if match:
            found = next(group for group in match.groups() if group is not None)
            fields[name] = as_text(found) or ""
    return fields


def _killed(call: ToolCall) -> bool | None:
    """Whether SIGKILL ended a Bash command whose result is there; None where nothing tells.

    A command that succeeded, or whose exit code the CLI explains (`grep` found nothing), was not.
    """
    if call.exit_code is not None:
        return call.exit_code == 137
    unknown = call.is_error is not False or call.background or call.interrupted or call.timed_out
    return None if unknown else False


def _seconds_between(start_ns: int | None, end_ns: int | None) -> float | None:
    return None if start_ns is None or end_ns is None else (end_ns - start_ns) / 1e9
