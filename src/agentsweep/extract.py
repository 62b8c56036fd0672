"""One published run directory to its rows in the five tables.

Every file of the run is read as far as it is readable. What is exact comes from where it was
measured: Bash calls from the wrapper's marks, model times from the gateway, totals from the
kernel's counters; the rest comes from the trace with its bounds, and says so.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from agentsweep.attribution import Mark, match_marks
from agentsweep.intervals import Interval, length, union
from agentsweep.run_files import (
    Damage,
    Fields,
    SampleReader,
    number,
    read_lines,
    read_marks,
    read_result,
    read_trace,
    truth,
    whole,
    word,
)
from agentsweep.trace_records import Message, ToolCall

# Calls whose time is that of a model and of other calls, not of a tool.
_AGENT_CATEGORY = "agent"
# A sample further away than this says nothing about the memory before or after a call.
_NEAR_NS = 1_000_000_000
_BETWEEN_OFFSETS = 64
_PHASES = ("pull", "fix", "preflight", "create", "start", "verify", "agent", "collect", "teardown")
_TOKENS = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
)
_EXCHANGE_WORDS = ("kind", "agent_id", "model", "error", "message_id", "stop_reason")
_EXCHANGE_COUNTS = ("status", "retry", "turn", "request_bytes", "response_bytes", *_TOKENS)
# Of the counters, those that only grow: a phase's share is the difference of end and start.
_CUMULATIVE = (
    "cpu_usage_usec",
    "cpu_user_usec",
    "cpu_system_usec",
    "cpu_nr_periods",
    "cpu_nr_throttled",
    "cpu_throttled_usec",
    "memory_failcnt",
    "io_read_bytes",
    "io_write_bytes",
    "cpu_pressure_some_usec",
    "memory_pressure_some_usec",
    "memory_pressure_full_usec",
    "io_pressure_some_usec",
    "io_pressure_full_usec",
)


@dataclass(slots=True)
class Curve:
    """What is kept of the samples in memory: times and memory, eight bytes a value."""

    t_ns: array = field(default_factory=lambda: array("q"))
    memory_bytes: array = field(default_factory=lambda: array("q"))
    offsets_ns: array = field(default_factory=lambda: array("q"))

    def add(self, batch) -> None:
        times = batch.column("t_ns").to_pylist()
        utc = batch.column("utc_ns").to_pylist()
        memory = [None] * len(times)
        if "memory_current_bytes" in batch.schema.names:
            memory = batch.column("memory_current_bytes").to_pylist()
        for t_ns, utc_ns, current in zip(times, utc, memory, strict=True):
            if t_ns is None or (self.t_ns and t_ns < self.t_ns[-1]):
                continue
            if utc_ns is not None and len(self.t_ns) % _BETWEEN_OFFSETS == 0:
                self.offsets_ns.append(utc_ns - t_ns)
            self.t_ns.append(t_ns)
            self.memory_bytes.append(-1 if current is None else current)

    def around(self, start_ns: int, end_ns: int) -> tuple[int | None, int | None, int | None]:
        """Memory in bytes at the last sample before, the highest within, the first after."""
        first = bisect_left(self.t_ns, start_ns)
        last = bisect_right(self.t_ns, end_ns)
        before = self._at(bisect_right(self.t_ns, start_ns) - 1, start_ns)
        after = self._at(bisect_left(self.t_ns, end_ns), end_ns)
        within = [m for m in self.memory_bytes[first:last] if m >= 0]
        peak = max(within) if within else None
        if peak is None and before is not None and after is not None:
            # Shorter than the time between two samples.
            peak = max(before, after)
        return before, peak, after

    def _at(self, index: int, near_ns: int) -> int | None:
        if not 0 <= index < len(self.t_ns) or abs(self.t_ns[index] - near_ns) > _NEAR_NS:
            return None
        memory = self.memory_bytes[index]
        return memory if memory >= 0 else None


def extract(run_dir: Path | str, run_id: str, out_dir: Path | str) -> dict[str, int]:
    """Write runs, tool_calls, api_calls, messages and samples as Parquet; returns rows by table.

    Raises nothing for the content of the run's files: a missing or damaged one leaves its columns
    empty, and `runs.trace_status` and the counts beside it say what was lost. Raises OSError where
    the tables cannot be written.
    """
    from agentsweep import tables

    run_dir, out_dir = Path(run_dir), Path(out_dir)
    out_dir.mkdir(parents=True, exist_ok=True)
    damage = Damage()
    result = read_result(run_dir, damage)
    curve = Curve()
    samples = _write_samples(run_dir, run_id, out_dir / "samples.parquet", curve, damage)
    run = _Run(run_id, run_dir, result, curve, damage)
    rows = {
        "tool_calls": run.tool_rows,
        "api_calls": run.api_call_rows(),
        "messages": run.message_rows(),
    }
    rows["runs"] = [run.run_row(samples)]
    for name, table_rows in rows.items():
        tables.write(name, table_rows, out_dir / f"{name}.parquet")
    return {"samples": samples, **{name: len(made) for name, made in rows.items()}}


def _write_samples(run_dir: Path, run_id: str, out: Path, curve: Curve, damage: Damage) -> int:
    """Copy the samples batch by batch under the table's schema; returns the number of rows."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from agentsweep import tables

    schema = tables.SCHEMAS["samples"]
    rows = 0
    with pq.ParquetWriter(out, schema, compression="zstd") as writer:
        for batch in SampleReader(run_dir / "samples.arrow", damage).batches():
            if not {"t_ns", "utc_ns"} <= set(batch.schema.names):
                damage.add("samples.arrow", "has no times")
                break
            curve.add(batch)
            columns = []
            for field_ in schema:
                if field_.name == "run_id":
                    columns.append(pa.array([run_id] * batch.num_rows, field_.type))
                elif field_.name in batch.schema.names:
                    columns.append(batch.column(field_.name).cast(field_.type))
                else:
                    columns.append(pa.nulls(batch.num_rows, field_.type))
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
            rows += batch.num_rows
    return rows


class _Run:
    """All that is known of one run, and its rows."""

    def __init__(self, run_id: str, run_dir: Path, result: Fields, curve: Curve, damage: Damage):
        self.run_id, self.result, self.curve, self.damage = run_id, result, curve, damage
        self.trace, self.trace_status = read_trace(
            run_dir, word(result("agent", "session_id")), damage
        )
        self.marks = read_marks(run_dir, damage)
        self.exchanges = list(read_lines(run_dir / "api.jsonl", damage))
        self.exchanges_known = (run_dir / "api.jsonl").is_file()
        self.offset_ns = self._offset()
        self.window = self._window()
        bash = [call for call in self.trace.tool_calls if call.name == "Bash"]
        matched = match_marks(self.marks, bash)
        self.mark_of = {id(call): self.marks[index] for index, call in matched.items()}
        self.marks_unmatched = len(self.marks) - len(matched)
        self.tool_rows = [self._tool_call_row(call) for call in self.trace.tool_calls]

    def _offset(self) -> int | None:
        """UTC minus monotonic, in ns: the median over the samples, else what the run noted."""
        if self.curve.offsets_ns:
            return sorted(self.curve.offsets_ns)[len(self.curve.offsets_ns) // 2]
        pairs = [
            (whole(self.result("agent_start_utc_ns")), whole(self.result("agent_start_ns"))),
            *((mark.start_utc_ns, mark.line["start_ns"]) for mark in self.marks[:1]),
            *((whole(e.get("start_utc_ns")), whole(e.get("start_ns"))) for e in self.exchanges[:1]),
        ]
        return next((utc - mono for utc, mono in pairs if None not in (utc, mono)), None)

    def _mono(self, utc_ns: int | None) -> int | None:
        return None if utc_ns is None or self.offset_ns is None else utc_ns - self.offset_ns

    def _window(self) -> Interval | None:
        """The agent's phase on the monotonic clock."""
        start, end = whole(self.result("agent_start_ns")), whole(self.result("agent_end_ns"))
        return (start, end) if start is not None and end is not None and start <= end else None

    # --- one method a table ---

    def _tool_call_row(self, call: ToolCall) -> dict:
        """A tool call: exact where the wrapper marked it, else as the trace says."""
        row = {
            "run_id": self.run_id,
            "tool_call_id": call.id,
            "name": call.name,
            "category": call.category,
            "start_ns": self._mono(call.start_utc_ns),
            "end_ns": self._mono(call.end_utc_ns),
            "start_utc_ns": call.start_utc_ns,
            "end_utc_ns": call.end_utc_ns,
            "start_latest_ns": self._mono(call.start_latest_utc_ns),
            "time_source": call.time_source,
            "is_error": call.is_error,
            "exit_code": call.exit_code,
            "timed_out": call.timed_out,
            "killed": call.killed,
            "background": call.background,
            "finished": call.finished,
            "parent_id": call.parent_id,
            "agent_id": call.agent_id,
            "message_id": call.message_id,
            "mem_before_bytes": None,
            "mem_peak_bytes": None,
            "mem_after_bytes": None,
            "mem_peak_source": None,
            "cpu_usec": None,
            "oom_kill_count": None,
            "command": call.command,
        }
        mark = self.mark_of.get(id(call))
        if mark is not None:
            row |= _exact(mark)
        elif row["start_ns"] is not None and row["end_ns"] is not None:
            before, peak, after = self.curve.around(row["start_ns"], row["end_ns"])
            row["mem_before_bytes"], row["mem_peak_bytes"] = before, peak
            row["mem_after_bytes"] = after
            row["mem_peak_source"] = "sampled" if peak is not None else None
        if None not in (row["start_ns"], row["end_ns"]):
            row["duration_s"] = (row["end_ns"] - row["start_ns"]) / 1e9
        return row

    def api_call_rows(self) -> list[dict]:
        """A row for each exchange with the model endpoint that the gateway wrote down."""
        rows = []
        for i, line in enumerate(self.exchanges, 1):
            start, end = whole(line.get("start_ns")), whole(line.get("end_ns"))
            sequence = whole(line.get("seq"))
            rows.append(
                {
                    "run_id": self.run_id,
                    "request_id": str(i if sequence is None else sequence),
                    "start_ns": start,
                    "first_byte_ns": whole(line.get("first_byte_ns")),
                    "end_ns": end,
                    "duration_s": None if None in (start, end) else (end - start) / 1e9,
                    **{name: word(line.get(name)) for name in _EXCHANGE_WORDS},
                    **{name: whole(line.get(name)) for name in _EXCHANGE_COUNTS},
                    "stream": truth(line.get("stream")),
                }
            )
        return rows

    def message_rows(self) -> list[dict]:
        """A row for each API message and each user record of the trace."""
        return [self._message_row(message) for message in self.trace.messages]

    def _message_row(self, message: Message) -> dict:
        usage = message.usage if message.role == "assistant" else None
        return {
            "run_id": self.run_id,
            "message_id": message.id,
            "role": message.role,
            "kind": message.kind,
            "t_ns": self._mono(message.first_utc_ns),
            "utc_ns": message.first_utc_ns,
            "end_utc_ns": message.last_utc_ns,
            "agent_id": message.agent_id,
            "model": message.model,
            "stop_reason": message.stop_reason,
            "input_tokens": usage and usage.input_tokens,
            "output_tokens": usage and usage.output_tokens,
            "cache_read_input_tokens": usage and usage.cache_read_input_tokens,
            "cache_creation_input_tokens": usage and usage.cache_creation_input_tokens,
            "output_tokens_final": usage and usage.output_final,
        }

    def run_row(self, samples: int) -> dict:
        """The run's own row."""
        result, trace = self.result, self.trace
        start, end = Fields(result("counters", "start")), Fields(result("counters", "end"))
        identity = _read_cell_id(self.run_id)
        limits, host, sampler = (Fields(result(n)) for n in ("limits", "host", "sampler"))
        return {
            "run_id": self.run_id,
            "dataset": word(result("names", "dataset")),
            "source": "measured",
            "task": word(result("names", "task")) or identity.get("task"),
            "agent": word(result("names", "agent")) or identity.get("agent"),
            "agent_version": trace.version or word(result("agent", "version")),
            "model": next(iter(trace.models(subagents=False)), None),
            "mem_limit_bytes": whole(limits("requested", "memory_bytes")),
            "mem_effective_bytes": whole(limits("effective", "memory_bytes")),
            "cpu_limit": number(limits("requested", "cpus")),
            "cpu_effective": number(limits("effective", "cpus")),
            "cpu_mode": word(limits("requested", "cpu_mode")),
            "replicate": whole(result("spec", "replicate")),
            "outcome": word(result("outcome")),
            "outcome_detail": word(result("outcome_detail")),
            "exit_code": whole(result("exit_code")),
            "tool_oom_count": whole(result("oom", "tool_count")),
            "oom_kill_count": whole(result("oom", "kill_count")),
            "mem_peak_bytes": whole(result("memory", "peak_bytes")),
            "mem_peak_source": word(result("memory", "peak_source")),
            **{name: _difference(end(name), start(name)) for name in _CUMULATIVE},
            "wall_s": number(result("wall_s")),
            **{f"{name}_s": number(result("phases", f"{name}_s")) for name in _PHASES},
            **self._time_split(),
            **self._tokens(),
            "n_messages": sum(_is_of_model(message) for message in trace.messages),
            "n_tool_calls": len(trace.tool_calls),
            "n_tool_errors": sum(call.is_error is True for call in trace.tool_calls),
            "n_api_calls": len(self.exchanges),
            "n_api_errors": sum(map(_failed, self.exchanges)),
            "n_subagents": sum(not agent.warmup for agent in trace.agents),
            "n_samples": samples,
            "n_marks": len(self.marks),
            "n_marks_unmatched": self.marks_unmatched,
            "trace_status": self.trace_status,
            "trace_bad_lines": trace.lines.unusable,
            "file_problems": "; ".join(self._problems()) or None,
            "image_digest": word(result("image", "digest")),
            "spec_sha256": word(result("spec_sha256")),
            "attempt_id": word(result("attempt_id")),
            "session_id": word(result("agent", "session_id")) or trace.session_id,
            "patch_status": word(result("patch", "status")),
            "patch_sha256": word(result("patch", "sha256")),
            "patch_bytes": whole(result("patch", "bytes")),
            "resolved": None,
            "nproc": whole(limits("effective", "nproc")),
            "hostname": word(host("hostname")),
            "kernel": word(host("kernel")),
            "rate_hz": number(sampler("rate_hz")),
            "n_samples_missed": whole(sampler("missed")),
        }

    def _problems(self) -> list[str]:
        lines = [f"{name}: {count} bad lines" for name, count in self.damage.lines.items()]
        return lines + self.damage.notes

    def _tokens(self) -> dict:
        """Tokens of all messages of the trace, each counted once; None without any message."""
        usages = [m.usage for m in self.trace.messages if _is_of_model(m) and m.usage]
        if not usages:
            return dict.fromkeys((*_TOKENS, "output_tokens_final"))
        totals = {name: sum(getattr(usage, name) for usage in usages) for name in _TOKENS}
        return {**totals, "output_tokens_final": all(usage.output_final for usage in usages)}

    def _time_split(self) -> dict:
        """Where the agent's time went, in seconds.

        `startup_s` ends with the first request to the model. `model_s` is the time in which at
        least one exchange was open, `tool_s` that in which at least one tool ran (calls that only
        start sub-agents are left out), `overlap_s` that of both at once, `other_s` the rest, so
        that startup + model + tool - overlap + other = agent, but for work during start-up.
        """
        names = ("startup_s", "model_s", "tool_s", "model_tool_overlap_s", "other_s")
        if self.window is None or not self.exchanges_known:
            return dict.fromkeys(names)
        low, high = self.window
        exchanges = [
            _interval(line.get("start_ns"), line.get("end_ns"), high)
            for line in self.exchanges
            if line.get("kind") != "other"
        ]
        model = union((e for e in exchanges if e is not None), self.window)
        tool = union(self._tool_intervals(high), self.window)
        either = union([*model, *tool], self.window)
        # An agent that never asked was starting up all the time.
        asked = [e[0] for e in exchanges if e is not None]
        first = min(max(min(asked, default=high), low), high)
        covered = length(union(either, (first, high)))
        split = (
            first - low,
            length(model),
            length(tool),
            length(model) + length(tool) - length(either),
            high - first - covered,
        )
        return {name: ns / 1e9 for name, ns in zip(names, split, strict=True)}

    def _tool_intervals(self, high: int) -> Iterator[Interval]:
        parents = {row["parent_id"] for row in self.tool_rows}
        for row in self.tool_rows:
            if row["category"] == _AGENT_CATEGORY or row["tool_call_id"] in parents:
                continue
            interval = _interval(row["start_ns"], row["end_ns"], high)
            if interval is not None:
                yield interval


def _interval(start: object, end: object, open_end_ns: int) -> Interval | None:
    """An interval of which the end may be unknown: then it goes on to `open_end_ns`."""
    start, end = whole(start), whole(end)
    return None if start is None else (start, open_end_ns if end is None else end)


def _exact(mark: Mark) -> dict:
    """What the wrapper's mark says of a call in the place of what the trace says."""
    line = mark.line
    code = whole(line.get("exit_code"))
    return {
        "start_ns": line["start_ns"],
        "end_ns": line["end_ns"],
        "start_utc_ns": mark.start_utc_ns,
        "end_utc_ns": mark.end_utc_ns,
        "start_latest_ns": line["start_ns"],
        "time_source": "exact",
        **({"exit_code": code, "killed": code == 137} if code is not None else {}),
        "mem_before_bytes": whole(line.get("mem_before_bytes")),
        "mem_peak_bytes": whole(line.get("mem_peak_bytes")),
        "mem_after_bytes": whole(line.get("mem_after_bytes")),
        "mem_peak_source": word(line.get("mem_peak_source")),
        "cpu_usec": whole(line.get("cpu_usec")),
        "oom_kill_count": whole(line.get("oom_kill")),
    }


def _difference(end: object, start: object) -> int | None:
    end, start = whole(end), whole(start)
    return None if end is None or start is None else end - start


def _failed(exchange: dict) -> bool:
    return exchange.get("error") is not None or exchange.get("status") != 200


def _is_of_model(message: Message) -> bool:
    return message.role == "assistant" and message.kind != "error"


def _read_cell_id(run_id: str) -> dict[str, str]:
    """What a cell id says of itself: `task~x/agent~y/...` gives task and agent."""
    pairs = (part.split("~", 1) for part in run_id.split("/"))
    return {pair[0]: pair[1] for pair in pairs if len(pair) == 2}
