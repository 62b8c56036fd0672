"""One run, its files linked: trace, marks, samples and exchanges on one clock.

What is exact comes from where it was measured: Bash calls from the wrapper's marks, model times
from the gateway; the rest comes from the trace with its bounds, and says so.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from agentsweep.agents.claude_code.mark_matching import Mark, match_marks
from agentsweep.agents.claude_code.records import Message, ToolCall
from agentsweep.extraction.fidelity import Comparison, compare, recorded_calls
from agentsweep.extraction.run_directory import (
    Damage,
    Fields,
    prompt_was_garbled,
    read_lines,
    read_marks,
    read_trace,
    samples_status,
    truth,
    whole,
    word,
)
from agentsweep.extraction.time_split import TIME_COLUMNS, leaf_rows, time_parts
from agentsweep.intervals import Interval
from agentsweep.tables.rows import NewRow
from agentsweep.vocabulary import FileStatus, PeakSource, TimeSource

if TYPE_CHECKING:
    import pyarrow as pa

TOKENS = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
)
# The two clocks drift apart too slowly for every sample to matter.
_SAMPLES_PER_OFFSET = 64
_EXCHANGE_WORDS = (
    "kind",
    "agent_id",
    "message_id",
    "request_sha256",
    "method",
    "path",
    "model",
    "error",
    "stop_reason",
)
_EXCHANGE_COUNTS = (
    "start_ns",
    "first_byte_ns",
    "end_ns",
    "start_utc_ns",
    "end_utc_ns",
    "status",
    "retry",
    "queued_ns",
    "request_bytes",
    "response_bytes",
    *TOKENS,
)


@dataclass(slots=True)
class Curve:
    """What is kept of the samples in memory: times and memory, eight bytes a value.

    near_ns: a sample further away than this says nothing about the memory before or after a call.
    """

    near_ns: int = 1_000_000_000
    t_ns: "array[int]" = field(default_factory=lambda: array("q"))
    memory_bytes: "array[int]" = field(default_factory=lambda: array("q"))  # -1: not known
    offsets_ns: "array[int]" = field(default_factory=lambda: array("q"))

    def add(self, batch: "pa.RecordBatch") -> None:
        """Take the samples of one batch; those that go back in time are left out."""
        columns = ("t_ns", "utc_ns", "memory_current_bytes")
        for t_ns, utc_ns, current in zip(
            *(batch.column(name).to_pylist() for name in columns), strict=True
        ):
            if self.t_ns and t_ns < self.t_ns[-1]:
                continue
            if len(self.t_ns) % _SAMPLES_PER_OFFSET == 0:
                self.offsets_ns.append(utc_ns - t_ns)
            self.t_ns.append(t_ns)
            self.memory_bytes.append(-1 if current is None else current)

    def around(self, start_ns: int, end_ns: int) -> tuple[int | None, int | None, int | None]:
        """Memory in bytes at the last sample before, the highest within, the first after."""
        first, last = bisect_left(self.t_ns, start_ns), bisect_right(self.t_ns, end_ns)
        before = self._at(bisect_right(self.t_ns, start_ns) - 1, start_ns)
        after = self._at(bisect_left(self.t_ns, end_ns), end_ns)
        peak = max(self.memory_bytes[first:last], default=-1)
        if peak >= 0:
            return before, peak, after
        # Shorter than the time between two samples: they are the best that is known.
        near = [memory for memory in (before, after) if memory is not None]
        return before, max(near, default=None), after

    def _at(self, index: int, time_ns: int) -> int | None:
        if not 0 <= index < len(self.t_ns) or abs(self.t_ns[index] - time_ns) > self.near_ns:
            return None
        memory = self.memory_bytes[index]
        return memory if memory >= 0 else None


class Run:
    """All that is known of one run: its files, linked, on one clock.

    `keep_content`: its trace keeps the texts of messages and of results (a replay's always does).
    """

    def __init__(
        self,
        run_id: str,
        run_dir: Path,
        result: Fields,
        curve: Curve,
        damage: Damage,
        keep_content: bool = False,
    ):
        self.run_id, self.result, self.curve, self.damage = run_id, result, curve, damage
        self.samples_status = samples_status(run_dir / "samples.arrow", len(curve.t_ns), damage)
        self.marks = read_marks(run_dir, damage)
        self.exchanges = list(read_lines(run_dir / "api.jsonl", damage))
        self.exchanges_known = (run_dir / "api.jsonl").is_file()
        self.recorded = recorded_calls(self.exchanges)
        self.is_replay = bool(self.recorded) or isinstance(result("replay"), dict)
        session_id = word(result("agent", "session_id"))
        keep = keep_content or self.is_replay
        self.trace, self.trace_status = read_trace(run_dir, session_id, damage, keep)
        if prompt_was_garbled(run_dir / "trace.jsonl", word(result("spec", "prompt_sha256"))):
            self.trace_status = FileStatus.DAMAGED
            damage.add("trace.jsonl", "the agent got a garbled prompt, not that of the spec")
        self.offset_ns = self._offset()
        start, end = whole(result("agent_start_ns")), whole(result("agent_end_ns"))
        # The agent's phase on the monotonic clock.
        self.window: Interval | None = None
        if start is not None and end is not None and start <= end:
            self.window = start, end
        bash = [call for call in self.trace.tool_calls if call.name == "Bash"]
        matched = match_marks(self.marks, bash)
        self._marks = {id(call): self.marks[index] for index, call in matched.items()}
        self.marks_unmatched = len(self.marks) - len(matched)
        self.tool_rows = [self._tool_call_row(call) for call in self.trace.tool_calls]
        self.comparisons = list(self._compared_rows()) if self.is_replay else []

    def _offset(self) -> int | None:
        """UTC minus monotonic, in ns: the median over the samples, else what others noted."""
        if self.curve.offsets_ns:
            return sorted(self.curve.offsets_ns)[len(self.curve.offsets_ns) // 2]
        lines = [self.exchanges[0]] if self.exchanges else []
        lines += [self.marks[0].line] if self.marks else []
        pairs = [(self.result("agent_start_utc_ns"), self.result("agent_start_ns"))]
        pairs += [(line.get("start_utc_ns"), line.get("start_ns")) for line in lines]
        differences = (_difference(utc, mono) for utc, mono in pairs)
        return next((offset for offset in differences if offset is not None), None)

    def monotonic(self, utc_ns: int | None) -> int | None:
        """The time on the host's monotonic clock; None where the clocks cannot be compared."""
        return _difference(utc_ns, self.offset_ns)

    def _tool_call_row(self, call: ToolCall) -> NewRow:
        """A tool call: exact where the wrapper marked it, else as the trace says."""
        row = trace_call_row(self.run_id, call, self.monotonic)
        mark = self._marks.get(id(call))
        if mark is not None:
            return row | _exact(mark)
        return row | sampled_memory(row, self.curve)

    def _compared_rows(self) -> Iterator[Comparison]:
        """Each tool call against its recording, which its row takes over."""
        directory = word(self.result("spec", "task", "workdir"))
        for call, row in zip(self.trace.tool_calls, self.tool_rows, strict=True):
            recorded = self.recorded.get(call.id)
            comparison = compare(recorded, row, call.result_text, directory)
            row |= replay_columns(recorded or {}, comparison)
            yield comparison

    def api_call_rows(self) -> list[NewRow]:
        """A row for each request to the model: the gateway's record, else the trace's own."""
        if self.exchanges:
            return [_api_call_row(self.run_id, i, e) for i, e in enumerate(self.exchanges, 1)]
        return [
            {
                "run_id": self.run_id,
                "seq": i,
                "source": "trace",
                "kind": "main" if attempt.agent_id is None else "subagent",
                "agent_id": attempt.agent_id,
                "message_id": attempt.message_id,
                "model": attempt.model,
                "start_ns": self.monotonic(attempt.start_utc_ns),
                "end_ns": self.monotonic(attempt.end_utc_ns),
                "start_utc_ns": attempt.start_utc_ns,
                "end_utc_ns": attempt.end_utc_ns,
            }
            for i, attempt in enumerate(self.trace.api_attempts, 1)
        ]

    def time_split(self) -> Mapping[str, float | None]:
        """Where the agent's time went (`time_split.time_parts`); calls that only start sub-agents
        are no tools. None where it is not known when the model was asked."""
        if self.window is None or not self.exchanges_known:
            return dict.fromkeys(TIME_COLUMNS)
        high = self.window[1]
        asked = (
            interval
            for line in self.exchanges
            if line.get("kind") != "other"
            and (interval := _interval(line.get("start_ns"), line.get("end_ns"), high))
        )
        return time_parts(self.window, asked, tool_intervals(self.tool_rows, high))


def tool_intervals(rows: Sequence[NewRow], open_end_ns: int) -> Iterator[Interval]:
    """When tools worked; a call without an end lasts to `open_end_ns`."""
    for row in leaf_rows(rows):
        interval = _interval(row["start_ns"], row["end_ns"], open_end_ns)
        if interval is not None:
            yield interval


def trace_call_row(
    run_id: str, call: ToolCall, monotonic: Callable[[int | None], int | None]
) -> NewRow:
    """A tool call as the trace says; `monotonic` brings UTC to the clock of the samples."""
    return {
        "run_id": run_id,
        "tool_call_id": call.id,
        "name": call.name,
        "category": call.category,
        "agent_id": call.agent_id,
        "parent_id": call.parent_id,
        "message_id": call.message_id,
        "requested_utc_ns": call.requested_utc_ns,
        "start_ns": monotonic(call.start_utc_ns),
        "end_ns": monotonic(call.end_utc_ns),
        "start_utc_ns": call.start_utc_ns,
        "end_utc_ns": call.end_utc_ns,
        "duration_s": call.duration_upper_s,
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
        "background_end_utc_ns": call.background_end_utc_ns,
        "result_chars": call.result_chars,
        "test_interpreter": call.test_interpreter,
        "command": call.command,
    }


def replay_columns(recorded: NewRow, comparison: Comparison) -> NewRow:
    """What is said of a replayed call beside itself: its recording, and how close it came."""
    text = recorded.get("text")
    return {
        "replay_status": comparison.status,
        "fidelity": comparison.fidelity,
        "result_similarity": comparison.similarity,
        "recorded_is_error": truth(recorded.get("is_error")),
        "recorded_exit_code": whole(recorded.get("exit_code")),
        "recorded_result_chars": len(text) if isinstance(text, str) else None,
    }


def sampled_memory(row: NewRow, curve: Curve) -> NewRow:
    """The memory columns of a call from the samples around it; empty where it has no times."""
    if row["start_ns"] is None or row["end_ns"] is None:
        return {}
    before, peak, after = curve.around(row["start_ns"], row["end_ns"])
    return {
        "mem_before_bytes": before,
        "mem_peak_bytes": peak,
        "mem_after_bytes": after,
        "mem_peak_source": None if peak is None else PeakSource.SAMPLED,
    }


def _exact(mark: Mark) -> NewRow:
    """What the wrapper's mark says of a call, in the place of what the trace says."""
    line = mark.line
    code = whole(line.get("exit_code"))
    seconds = (line["end_ns"] - line["start_ns"]) / 1e9
    return {
        "start_ns": line["start_ns"],
        "end_ns": line["end_ns"],
        "start_utc_ns": mark.start_utc_ns,
        "end_utc_ns": mark.end_utc_ns,
        "duration_s": seconds,
        "duration_lower_s": seconds,
        "time_source": TimeSource.EXACT,
        # A wrapper that was killed could not say how its command ended; the trace may.
        **({"exit_code": code, "killed": code == 137} if code is not None else {}),
        "mem_before_bytes": whole(line.get("mem_before_bytes")),
        "mem_peak_bytes": whole(line.get("mem_peak_bytes")),
        "mem_after_bytes": whole(line.get("mem_after_bytes")),
        "mem_peak_source": word(line.get("mem_peak_source")),
        "cpu_usec": whole(line.get("cpu_usec")),
        "oom_kill_count": whole(line.get("oom_kill")),
        "mark_seq": whole(line.get("seq")),
        "end_source": word(line.get("end_source")),
    }


def _api_call_row(run_id: str, place: int, line: NewRow) -> NewRow:
    sequence, turn = whole(line.get("seq")), whole(line.get("turn"))
    return {
        "run_id": run_id,
        "seq": place if sequence is None else sequence,
        "source": "gateway",
        "turn": word(line.get("turn_id")) or (None if turn is None else str(turn)),
        "stream": truth(line.get("stream")),
        **{name: word(line.get(name)) for name in _EXCHANGE_WORDS},
        **{name: whole(line.get(name)) for name in _EXCHANGE_COUNTS},
    }


def message_row(run_id: str, message: Message) -> NewRow:
    """A row for an API message or a user record."""
    answered = message.role == "assistant" and message.kind != "error"
    usage = message.whole_usage if answered else None
    tokens = {name: getattr(usage, name) for name in TOKENS} if usage else {}
    return {
        "run_id": run_id,
        "message_id": message.key,
        "role": message.role,
        "kind": message.kind,
        "agent_id": message.agent_id,
        "model": message.model,
        "other_models": ", ".join(message.other_usage or ()) or None,
        "request_id": message.request_id,
        "start_utc_ns": message.start_utc_ns,
        "start_source": message.start_source,
        "first_utc_ns": message.first_utc_ns,
        "last_utc_ns": message.last_utc_ns,
        "stop_reason": message.stop_reason,
        "n_records": message.records,
        "n_text_blocks": message.blocks.get("text", 0),
        "n_thinking_blocks": message.blocks.get("thinking", 0),
        "n_tool_use_blocks": message.blocks.get("tool_use", 0),
        **tokens,
        "record_output_tokens": message.record_output_tokens if usage else None,
        "output_tokens_final": usage.output_final if usage else None,
    }


def _interval(start: object, end: object, open_end_ns: int) -> Interval | None:
    """An interval whose end may be unknown: then it goes on to `open_end_ns`."""
    begin, known_end = whole(start), whole(end)
    if begin is None:
        return None
    return begin, open_end_ns if known_end is None else known_end


def _difference(end: object, start: object) -> int | None:
    end, start = whole(end), whole(start)
    return None if end is None or start is None else end - start
