"""Runs that others made, in our own tables: `source` is `imported`.

Nothing is dropped: `runs` has a row for every attempt directory, whose `samples_status`,
`trace_status`, `outcome_detail` and `damage` say what it lacks and why. The result depends on the
files alone: not on the order in which the file system lists them, the machine or its time zone.
"""

from array import array
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from agentsweep.agents.claude_code.records import Trace
from agentsweep.agents.claude_code.trace import parse_file, parse_sources
from agentsweep.extraction import agentcgroup_layout
from agentsweep.extraction.agentcgroup_layout import AttemptDir, AttemptFiles, Sample
from agentsweep.extraction.linked_run import (
    Curve,
    message_row,
    sampled_memory,
    tool_intervals,
    trace_call_row,
)
from agentsweep.extraction.run_directory import Damage, Fields, number, whole, word
from agentsweep.extraction.run_row import trace_counts, trace_evidence
from agentsweep.extraction.time_split import TIME_COLUMNS, time_parts
from agentsweep.tables import parquet
from agentsweep.tables.rows import NewRow
from agentsweep.units import parse_cpus, parse_size
from agentsweep.vocabulary import CpuSource, FileStatus, ModelMode, PeakSource, RunSource

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_Limit = TypeVar("_Limit")

TABLES = ("runs", "tool_calls", "messages", "samples")

# One sample a second: the one before a call may be this old.
_NEAR_NS = 2_000_000_000


def import_runs(directory: Path | str, name: str, attempts: str, out: Path | str) -> dict[str, int]:
    """Write `TABLES` for all attempts below a directory; returns the rows of each.

    `name` becomes the data set's; `attempts` (`last`, `first` or `all`) says which attempts of a
    task are `selected`. Raises AgentsweepError where there is no attempt, OSError where the tables
    cannot be written; never for what the files contain.
    """
    found, out = agentcgroup_layout.attempts_in(Path(directory)), Path(out)
    selected = agentcgroup_layout.select(found, attempts)
    tasks = agentcgroup_layout.task_names(
        found, {a.place: agentcgroup_layout.image_of(a.path) for a in found}
    )
    out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        writers = {
            table: stack.enter_context(parquet.Writer(table, out / f"{table}.parquet"))
            for table in TABLES
        }
        for attempt in found:
            task = tasks[attempt.place]
            run = _ImportedRun(attempt, name, task, attempt.place in selected)
            for table, rows in run.tables(writers["samples"].schema).items():
                writers[table].write(rows)
    return {table: writer.rows for table, writer in writers.items()}


@dataclass(frozen=True)
class _Placed:
    """A sample at its time in UTC."""

    utc_ns: int
    memory_bytes: int | None
    cpu_percent: float | None
    dead: bool


class _ImportedRun:
    """One attempt, its files linked."""

    def __init__(self, attempt: AttemptDir, dataset: str, task: str, selected: bool):
        self.attempt, self.dataset, self.task, self.selected = attempt, dataset, task, selected
        self.run_id = f"{dataset}/{attempt.place}"
        self.damage = Damage()
        self.files = AttemptFiles(attempt.path, self.damage)
        self.results = self.files.results
        self.trace, self.trace_status = _read_trace(attempt.path / "trace.jsonl", self.damage)
        samples, self.samples_status = self.files.samples()
        self.zone_ns = agentcgroup_layout.zone_ns(samples, self._first_known_utc_ns())
        self.samples = self._placed(samples)
        self.live = [sample for sample in self.samples if not sample.dead]
        self.window = self._window()

    def _first_known_utc_ns(self) -> int | None:
        """The session's first record; without a session, the first listed call."""
        if self.trace.first_utc_ns is not None:
            return self.trace.first_utc_ns
        # Those that have a zone: the others tell nothing by themselves.
        times = [
            agentcgroup_layout.utc_of(call("timestamp"), None) for call in self.files.tool_calls
        ]
        return min((time for time in times if time is not None), default=None)

    def _placed(self, samples: list[Sample]) -> list[_Placed]:
        """The samples with a time in UTC, in its order; one without it is counted as bad."""
        placed = [
            _Placed(utc_ns, sample.memory_bytes, sample.cpu_percent, sample.dead)
            for sample in samples
            if (utc_ns := self._utc_ns(sample)) is not None
        ]
        placed.sort(key=lambda sample: sample.utc_ns)
        if len(placed) < len(samples):
            self.damage.add("samples", f"{len(samples) - len(placed)} have no epoch")
            self.samples_status = FileStatus.DAMAGED
        return placed

    def _utc_ns(self, sample: Sample) -> int | None:
        if sample.utc_ns is not None:
            return sample.utc_ns
        if self.zone_ns is None or sample.local_ns is None:
            return None
        return sample.local_ns - self.zone_ns

    def _window(self) -> tuple[int, int] | None:
        """The agent's phase: from the first sample (it is the container's first command) to the
        session's last record; None where neither samples nor session tell it."""
        times = [sample.utc_ns for sample in self.live]
        start = times[0] if times else self.trace.first_utc_ns
        end = self.trace.last_utc_ns
        if end is None:
            end = times[-1] if times else None
        return None if start is None or end is None or end < start else (start, end)

    def tables(self, samples_schema: "pa.Schema") -> dict[str, object]:
        """The rows of each table; `samples` is a record batch."""
        batch, used = self._sample_batch(samples_schema)
        calls = self._call_rows()
        return {
            "samples": batch,
            "tool_calls": calls,
            "messages": [message_row(self.run_id, message) for message in self.trace.messages],
            "runs": [self._run_row(calls, used)],
        }

    # --- samples ---

    def _sample_batch(self, schema: "pa.Schema") -> tuple["pa.RecordBatch", list[int | None]]:
        """The samples, and the CPU time at each, reconstructed (us)."""
        import numpy as np
        import pyarrow as pa

        times = array("q", (sample.utc_ns for sample in self.samples))
        columns: dict[str, list[Any]] = {
            "stats_memory_bytes": [sample.memory_bytes for sample in self.samples],
            "stats_cpu_percent": [sample.cpu_percent for sample in self.samples],
        }
        used, error = self._cpu(np.frombuffer(times, np.int64))
        columns |= {"cpu_usage_usec": used, "cpu_usage_error_usec": error}
        arrays = []
        for field in schema:
            if field.name == "run_id":
                arrays.append(parquet.column([self.run_id] * len(times), field.type))
            elif field.name in ("t_ns", "utc_ns"):
                arrays.append(parquet.column(times.tolist(), field.type))
            elif field.name in columns:
                arrays.append(parquet.column(columns[field.name], field.type))
            else:
                arrays.append(pa.nulls(len(times), field.type))
        return pa.RecordBatch.from_arrays(arrays, schema=schema), used

    def _cpu(self, utc_ns: "np.ndarray") -> tuple[list[int | None], list[int | None]]:
        """Cumulative CPU time and its uncertainty at each sample, in us."""
        import numpy as np

        from agentsweep.extraction.lifetime_cpu import reconstruct

        used: list[int | None] = [None] * len(self.samples)
        error = list(used)
        kept, last_ns = [], None
        for place, sample in enumerate(self.samples):
            if sample.dead or sample.cpu_percent is None or utc_ns[place] == last_ns:
                continue
            kept.append(place)
            last_ns = utc_ns[place]
        if kept:
            percent = np.array([self.samples[place].cpu_percent for place in kept])
            series = reconstruct((utc_ns[kept] - utc_ns[kept[0]]) / 1e9, percent)
            for place, seconds, half_width in zip(
                kept, series.used_s.tolist(), series.error_s.tolist(), strict=True
            ):
                used[place], error[place] = round(seconds * 1e6), round(half_width * 1e6)
        return used, error

    def _cpu_in_phase(self, used: list[int | None]) -> int | None:
        """The CPU time of the agent's phase: the container's first command is the agent, so all
        since its start."""
        if self.window is None:
            return None
        known = [
            usec
            for sample, usec in zip(self.samples, used, strict=True)
            if usec is not None and sample.utc_ns <= self.window[1]
        ]
        return known[-1] if known else None

    # --- tool calls ---

    def _call_rows(self) -> list[NewRow]:
        curve = Curve(near_ns=_NEAR_NS)
        for sample in self.live:
            curve.t_ns.append(sample.utc_ns)
            curve.memory_bytes.append(-1 if sample.memory_bytes is None else sample.memory_bytes)
        if not self.trace.messages:
            rows = self._listed_rows()
        else:
            rows = [
                trace_call_row(self.run_id, call, lambda utc_ns: utc_ns)
                for call in self.trace.tool_calls
            ]
        return [row | sampled_memory(row, curve) for row in rows]

    def _listed_rows(self) -> list[NewRow]:
        """The calls that tool_calls.json lists; those whose time nobody can place are noted."""
        entries = self.files.tool_calls
        span = None
        if self.live:
            span = self.live[0].utc_ns, self.live[-1].utc_ns
        zone_ns = agentcgroup_layout.listed_zone_ns(entries, span, self.zone_ns)
        rows = [
            agentcgroup_layout.listed_call(self.run_id, place, entry, zone_ns)
            for place, entry in enumerate(entries, 1)
        ]
        naive = sum(
            row["start_utc_ns"] is None
            and agentcgroup_layout.naive_ns(entry("timestamp")) is not None
            for row, entry in zip(rows, entries, strict=True)
        )
        if naive:
            self.damage.add("tool_calls.json", f"{naive} times have no zone, and nothing tells it")
        return rows

    # --- the run ---

    def _run_row(self, calls: list[NewRow], used: list[int | None]) -> NewRow:
        results, trace, window = self.results, self.trace, self.window
        known = [s.memory_bytes for s in self.live if s.memory_bytes is not None]
        times = [sample.utc_ns for sample in self.samples]
        image = word(results("image"))
        return {
            "run_id": self.run_id,
            "dataset": self.dataset,
            "source": RunSource.IMPORTED,
            "selected": self.selected,
            "task": self.task,
            "instance_id": agentcgroup_layout.instance_id(self.task, image),
            "agent": "claude-code",
            "agent_version": word(trace.version),
            "model": next(iter(trace.models(subagents=False)), None),
            "model_requested": word(results("model")),
            "model_mode": ModelMode.LIVE,
            "subagent_models": ", ".join(trace.models(subagents=True)) or None,
            "attempt": whole(self.attempt.number),
            "attempt_id": self.attempt.place,
            "session_id": word(trace.session_id),
            "mem_limit_bytes": whole(_parsed(parse_size, results("memory_limit"))),
            "cpu_limit": _parsed(lambda text: float(parse_cpus(text)), results("cpu_limit")),
            "exit_code": whole(results("claude_output", "exit_code")),
            "outcome_detail": (word(results("error")) or "").strip() or None,
            "prompt_issue_chars": _length(agentcgroup_layout.issue_text(trace.prompt)),
            "cpu_source": None if all(usec is None for usec in used) else CpuSource.RECONSTRUCTED,
            "cpu_usage_usec": self._cpu_in_phase(used),
            "mem_peak_bytes": max(known, default=None),
            "mem_peak_source": PeakSource.SAMPLED if known else None,
            **self._times(),
            **self._time_parts(calls),
            **(trace_counts(trace, calls) if trace.messages else _listed(calls)),
            "trace_status": self.trace_status,
            **trace_evidence(trace),
            "damage": self.damage.sentence(),
            "samples_status": self.samples_status,
            "n_samples": len(times),
            "sampled_s": (times[-1] - times[0]) / 1e9 if times else None,
            "image_reference": image,
            "image_id": word(results("image_info", "image_id")),
            "image_size_bytes": _image_bytes(results),
            "engine": "podman",
            "agent_start_ns": window and window[0],
            "agent_end_ns": window and window[1],
            "agent_start_utc_ns": window and window[0],
            "agent_end_utc_ns": window and window[1],
            "agent_s": window and (window[1] - window[0]) / 1e9,
            "trace_first_utc_ns": trace.first_utc_ns,
            "trace_last_utc_ns": trace.last_utc_ns,
        }

    def _times(self) -> NewRow:
        """Start, end and phases. Nothing is a residual: the container was created between the end
        of the phases before it and its first sample."""
        results = self.results
        pull, fix = number(results("pull_time")), number(results("permission_fix_time"))
        started = agentcgroup_layout.utc_of(results("start_time"), self.zone_ns)
        create = None
        if self.live and pull is not None and fix is not None and started is not None:
            create = (self.live[0].utc_ns - started) / 1e9 - pull - fix
        return {
            "started_utc_ns": started,
            "ended_utc_ns": agentcgroup_layout.utc_of(results("end_time"), self.zone_ns),
            "wall_s": number(results("total_time")),
            "container_s": number(results("claude_time")),
            "pull_s": pull,
            "fix_s": fix,
            "create_s": create if create is None or create >= 0 else None,
        }

    def _time_parts(self, calls: list[NewRow]) -> NewRow:
        """Where the agent's time went; model times are those of the trace, whose bounds are wide:
        from the record before a message to its last."""
        if self.window is None or not self.trace.messages:
            return dict.fromkeys(TIME_COLUMNS)
        asked = (
            (start, last)
            for message in self.trace.messages
            if message.role == "assistant"
            and (start := message.start_utc_ns) is not None
            and (last := message.last_utc_ns) is not None
        )
        return time_parts(self.window, asked, tool_intervals(calls, self.window[1]))


def _read_trace(path: Path, damage: Damage) -> tuple[Trace, str]:
    """The session and its status; an empty one, `missing`, where there is no file."""
    try:
        trace = parse_file(path)
    except FileNotFoundError:
        damage.add(path.name, "is missing")
        return parse_sources(()), FileStatus.MISSING
    except OSError as error:
        damage.add(path.name, str(error.strerror))
        return parse_sources(()), FileStatus.MISSING
    return trace, trace.status


def _listed(calls: list[NewRow]) -> NewRow:
    """What is known of a run from the list of its calls alone, where no message is readable."""
    return {
        "n_tool_calls": len(calls) or None,
        "n_bash_calls": sum(row["name"] == "Bash" for row in calls) if calls else None,
    }


def _image_bytes(results: Fields) -> int | None:
    size = whole(results("image_info", "size_bytes"))
    binary_mb = number(results("image_info", "size_mb"))
    return size if size is not None or binary_mb is None else whole(round(binary_mb * 2**20))


def _parsed(parse: Callable[[str], _Limit], text: object) -> _Limit | None:
    """A limit as results.json has it; None for none or for what is no limit."""
    if isinstance(text, int | float) and not isinstance(text, bool):
        text = str(text)
    try:
        return parse(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _length(text: str | None) -> int | None:
    return None if text is None else len(text)
