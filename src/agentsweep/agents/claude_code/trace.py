"""Claude Code session files: found, read, put together and summed up.

A session is one JSON Lines file named by its session id, plus one file for each sub-agent: beside
it as `agent-<id>.jsonl` (CLI 2.0.77), or in the folder `<session id>/subagents/` (2.1.16 and
later). Older versions write sub-agents into the main file.
"""

import gc
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from agentsweep import untrusted
from agentsweep.agents.claude_code.collect import Collector
from agentsweep.agents.claude_code.lines import LineReport, read_records
from agentsweep.agents.claude_code.link import link
from agentsweep.agents.claude_code.records import (
    KNOWN_TYPES,
    ApiError,
    Message,
    ToolCall,
    Trace,
    Usage,
    format_time,
    is_session_record,
)
from agentsweep.errors import AgentsweepError

__all__ = [
    "Source",
    "Trace",
    "file_sources",
    "main_trace",
    "parse_file",
    "parse_session",
    "parse_sources",
    "summary",
    "why_not",
]

# A sub-agent's file tells its session in its first records; reading on would not tell more.
_PEEK_LINES = 50
_META_BYTES = 2**20
# What may name a folder: no other one than those beside the file, and a name that there can be.
_SESSION_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,199}")


@dataclass(slots=True)
class Source:
    """One file of a session: a name for messages, how to open its lines, and whose it is."""

    name: str
    open: Callable[[], Iterable[bytes]]
    agent_id: str | None = None
    meta: dict[str, Any] | None = None

    @classmethod
    def of_path(cls, path: Path, agent_id: str | None = None) -> "Source":
        meta = None
        if agent_id is not None:
            try:
                meta = untrusted.read_json(path.with_suffix(".meta.json"), _META_BYTES)
            except (OSError, ValueError):
                meta = None
        return cls(
            str(path), lambda: _lines(path), agent_id, meta if isinstance(meta, dict) else None
        )


def _lines(path: Path) -> Iterator[bytes]:
    file = os.fdopen(untrusted.open_untrusted(path, follow=True), "rb")
    return _closing(file)


def _closing(file: BinaryIO) -> Iterator[bytes]:
    with file:
        yield from untrusted.lines(file)


def agent_id_of(file_name: str) -> str | None:
    """The sub-agent whose file this is: `a262516` for `agent-a262516.jsonl`, None for others."""
    if file_name.startswith("agent-") and file_name.endswith(".jsonl"):
        return file_name[len("agent-") : -len(".jsonl")] or None
    return None


def parse_sources(sources: Iterable[Source], keep_content: bool = False) -> Trace:
    """One session from its files, the main file first; records that are in two count once.

    `keep_content`: messages keep their blocks, and tool calls the texts of their results. Never
    raises for what a file contains. A file that cannot be read is one unusable line.
    """
    # Records have no cycles, and looking for some in them costs a tenth of the time.
    collecting = gc.isenabled()
    gc.disable()
    try:
        return _parse_sources(sources, keep_content)
    finally:
        if collecting:
            gc.enable()


def _parse_sources(sources: Iterable[Source], keep_content: bool) -> Trace:
    report = LineReport()
    sources = list(sources)
    collector = Collector(report, keep_content, (source.agent_id for source in sources))
    for source in sources:
        collector.begin_file(source.name, source.agent_id, source.meta)
        try:
            lines = source.open()
        except OSError as error:
            report.unusable += 1
            report.note(source.name, 0, f"cannot be read: {error.strerror}", True)
            continue
        try:
            for _, record in read_records(lines, source.name, report, is_session_record):
                collector.add(record)
        except OSError as error:
            report.unusable += 1
            report.note(source.name, report.total, f"cannot be read on: {error.strerror}", True)
        finally:
            if hasattr(lines, "close"):
                lines.close()
    return link(collector, keep_content)


def parse_file(path: str | Path) -> Trace:
    """The session whose main file this is, with its companion sub-agent files.

    Raises OSError when the file itself cannot be read.
    """
    return parse_sources(file_sources(path))


def file_sources(path: str | Path) -> list[Source]:
    """The session's files by its main file: that one first, then those of its sub-agents.

    Raises OSError when the file itself cannot be read.
    """
    path = Path(path)
    with path.open("rb"):
        pass
    main = Source.of_path(path)
    if agent_id_of(path.name):
        main.agent_id = agent_id_of(path.name)
        return [main]
    return [main, *_companions(path, _session_ids(path))]


def parse_session(directory: str | Path, session_id: str) -> Trace:
    """The session of that id under a configuration directory or any folder that holds its files.

    A session can be spread over several project folders; its files are put together. Raises
    AgentsweepError when there is none.
    """
    directory = Path(directory)
    mains = sorted(path for path in directory.rglob(f"{session_id}.jsonl") if path.is_file())
    if not mains:
        raise AgentsweepError(
            f"{directory}: no session file {session_id}.jsonl; "
            "was the agent started with --session-id, and with session persistence?"
        )
    sources = [Source.of_path(path) for path in mains]
    seen = set()
    for path in mains:
        for companion in _companions(path, {session_id}):
            if companion.name not in seen:
                seen.add(companion.name)
                sources.append(companion)
    return parse_sources(sources)


def _session_ids(path: Path) -> set[str]:
    """The session ids by which companions of a main file are found: its name's and its records'."""
    found = {path.stem}
    report = LineReport()
    if not path.is_file():
        return found  # a pipe can be read only once
    with path.open("rb") as lines:
        for number, record in read_records(lines, str(path), report, is_session_record):
            session = record.get("sessionId")
            if isinstance(session, str) and _SESSION_ID.fullmatch(session):
                found.add(session)
                break
            if number > _PEEK_LINES:
                break
    return found


def _companions(main: Path, session_ids: set[str]) -> list[Source]:
    paths = []
    for session_id in sorted(session_ids):
        folder = main.parent / session_id / "subagents"
        if folder.is_dir():
            paths += sorted(folder.rglob("agent-*.jsonl"))
    for path in sorted(main.parent.glob("agent-*.jsonl")):
        if path != main and path.is_file() and _session_ids(path) & session_ids:
            paths.append(path)
    return [Source.of_path(path, agent_id_of(path.name)) for path in paths if path.is_file()]


# --- the summary ---


def summary(trace: Trace) -> dict[str, Any]:
    """What `agentsweep trace` prints: a JSON-able summary of one session.

    Times are ISO UTC, durations seconds. Tokens count each API message once, with what other models
    did for it; `output_tokens` is a lower bound where `output_tokens_final` is false, because the
    CLI never wrote the final number. `abandoned` counts the model's messages on branches that the
    user left by going back. `subagents.missing` counts those whose own file is not there.
    """
    assistant = [m for m in trace.messages if m.role == "assistant" and m.kind != "error"]
    user = [m for m in trace.messages if m.role == "user"]
    first, last = trace.first_utc_ns, trace.last_utc_ns
    return {
        "schema": 1,
        "file": trace.files[0] if trace.files else None,
        "status": trace.status,
        "session_id": trace.session_id,
        "session_ids": trace.session_ids,
        "version": trace.version,
        "versions": trace.versions,
        "models": {"main": trace.models(False), "subagents": trace.models(True)},
        "first_timestamp": format_time(first),
        "last_timestamp": format_time(last),
        "duration_s": None if first is None or last is None else (last - first) / 1e9,
        "messages": {
            "total": len(assistant) + len(user),
            "by_role": {"assistant": len(assistant), "user": len(user)},
            "by_kind": _count(m.kind for m in trace.messages),
            "main": sum(m.agent_id is None for m in assistant + user),
            "subagents": sum(m.agent_id is not None for m in assistant + user),
            "abandoned": sum(m.abandoned for m in assistant),
        },
        "tokens": {
            **_tokens(assistant),
            "by_model": _tokens_by_model(assistant),
            "main": _tokens([m for m in assistant if m.agent_id is None]),
            "subagents": _tokens([m for m in assistant if m.agent_id is not None]),
        },
        "tools": _tools(trace.tool_calls),
        "tool_calls": [_tool_call(call) for call in trace.tool_calls],
        "api": _api(trace),
        "subagents": _subagents(trace),
        "compactions": trace.compactions,
        "cost_state": _cost_state(trace.cost_state),
        "record_types": trace.record_types,
        "unknown_record_types": {
            kind: n for kind, n in trace.record_types.items() if kind not in KNOWN_TYPES
        },
        "duplicate_records": trace.duplicates,
        "files": trace.files,
        "lines": _line_counts(trace.lines),
    }


def _tools(calls: list[ToolCall]) -> dict[str, Any]:
    return {
        "total": len(calls),
        "by_name": _count(call.name for call in calls),
        "by_category": _count(call.category for call in calls),
        "errors": sum(call.is_error is True for call in calls),
        "unfinished": sum(not call.finished for call in calls),
    }


def _api(trace: Trace) -> dict[str, Any]:
    return {
        "attempts": len(trace.api_attempts) or None,
        "attempts_without_message": sum(
            attempt.message_id is None for attempt in trace.api_attempts
        ),
        "errors_retried": sum(not error.fatal for error in trace.api_errors),
        "errors_fatal": sum(error.fatal for error in trace.api_errors),
        "errors": [_api_error(error) for error in trace.api_errors],
    }


def _subagents(trace: Trace) -> dict[str, Any]:
    agents = [agent for agent in trace.agents if not agent.warmup]
    return {
        "count": len(agents),
        "warmup": len(trace.agents) - len(agents),
        "missing": sum(agent.missing for agent in agents),
        "agents": [
            {
                "agent_id": agent.agent_id,
                "parent_id": agent.parent_id,
                "agent_type": agent.agent_type,
                "warmup": agent.warmup,
                "inline": agent.inline,
                "missing": agent.missing,
                "models": agent.models,
                "first_timestamp": format_time(agent.first_utc_ns),
                "last_timestamp": format_time(agent.last_utc_ns),
            }
            for agent in trace.agents
        ],
    }


def _line_counts(lines: LineReport) -> dict[str, Any]:
    return {
        "total": lines.total,
        "blank": lines.blank,
        "unusable": lines.unusable,
        "recovered": lines.recovered,
        "problems": [
            {
                "file": problem.file,
                "line": problem.line,
                "reason": problem.reason,
                "lost": problem.lost,
            }
            for problem in lines.problems
        ],
    }


def _count(names: Iterable[str]) -> dict[str, int]:
    counts: dict[str, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def _tokens_by_model(messages: list[Message]) -> dict[str, dict[str, Any]]:
    """The tokens of each model; `messages` counts those that it answered itself."""
    own: dict[str, list[Usage]] = {}
    others: dict[str, list[Usage]] = {}
    for message in messages:
        if message.model:
            own.setdefault(message.model, []).append(message.usage or Usage())
        for model, usage in (message.other_usage or {}).items():
            others.setdefault(model, []).append(usage)
    return {
        model: _sums(own.get(model, []) + others.get(model, []), len(own.get(model, [])))
        for model in sorted({*own, *others})
    }


def _tokens(messages: list[Message]) -> dict[str, Any]:
    return _sums([m.whole_usage for m in messages], len(messages))


def _sums(usages: list[Usage], messages: int) -> dict[str, Any]:
    unfinal = sum(not usage.output_final for usage in usages)
    return {
        "messages": messages,
        "input_tokens": sum(usage.input_tokens for usage in usages),
        "output_tokens": sum(usage.output_tokens for usage in usages),
        "cache_read_input_tokens": sum(usage.cache_read_input_tokens for usage in usages),
        "cache_creation_input_tokens": sum(usage.cache_creation_input_tokens for usage in usages),
        "output_tokens_final": unfinal == 0,
        "messages_without_final_output": unfinal,
    }


def _tool_call(call: ToolCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "name": call.name,
        "category": call.category,
        "command": call.command,
        "parent_id": call.parent_id,
        "agent_id": call.agent_id,
        "message_id": call.message_id,
        "requested": format_time(call.requested_utc_ns),
        "start": format_time(call.start_utc_ns),
        "start_latest": format_time(call.start_latest_utc_ns),
        "end": format_time(call.end_utc_ns),
        "duration_upper_s": call.duration_upper_s,
        "duration_lower_s": call.duration_lower_s,
        "time_source": call.time_source,
        "finished": call.finished,
        "is_error": call.is_error,
        "exit_code": call.exit_code,
        "timed_out": call.timed_out,
        "killed": call.killed,
        "interrupted": call.interrupted,
        "background": call.background,
        "background_status": call.background_status,
        "background_end": format_time(call.background_end_utc_ns),
    }


def _api_error(error: ApiError) -> dict[str, Any]:
    return {
        "timestamp": format_time(error.utc_ns),
        "fatal": error.fatal,
        "status": error.status,
        "text": error.text,
        "retry_attempt": error.retry_attempt,
        "retry_in_ms": error.retry_in_ms,
        "agent_id": error.agent_id,
    }


def _cost_state(record: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the CLI itself summed up when it ended; it includes calls that leave no message."""
    if record is None:
        return None
    names = {
        "totalCostUSD": "cost_usd",
        "totalAPIDuration": "api_ms",
        "totalToolDuration": "tool_ms",
        "totalDuration": "total_ms",
    }
    return {
        name: record[key] for key, name in names.items() if type(record.get(key)) in (int, float)
    }


def main_trace(path: str | Path) -> int:
    """`agentsweep trace FILE`: print the summary; the exit code is 2 for what is no session file.

    A damaged session file is summed up as far as it goes, with exit code 0.
    """
    path = Path(path)
    if path.is_dir():
        return _refuse(f"{path} is a directory; give the path of one session file in it (*.jsonl)")
    try:
        trace = parse_file(path)
    except OSError as error:
        return _refuse(f"{path} cannot be read: {error.strerror}")
    if not trace.recognised:
        return _refuse(f"{path} is not a Claude Code session file: {why_not(trace)}")
    json.dump(summary(trace), sys.stdout, indent=2)
    sys.stdout.write("\n")
    return 0


def why_not(trace: Trace) -> str:
    """Why a file is no session file, as the end of a sentence."""
    if trace.lines.total == trace.lines.blank:
        return "it is empty"
    if "result" in trace.record_types or "assistant" in trace.record_types:
        return (
            "its records look like stream-json output; the session file is "
            "projects/<directory>/<session id>.jsonl in the configuration directory"
        )
    return f"none of its {trace.lines.total} lines is a record of a session"


def _refuse(sentence: str) -> int:
    sys.stderr.write(f"agentsweep trace: {sentence}\n")
    return 2
