"""The runs of one data set with what the paper's numbers are made of: calls, series, intervals.

A series has one point a second, as the paper's recorder had: samples that come faster are thinned,
so that a change "within a second" means the same for every data set.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from agentsweep.agents.claude_code.versions import version_tuple
from agentsweep.errors import AgentsweepError
from agentsweep.extraction.lifetime_cpu import CpuSeries, reconstruct
from agentsweep.extraction.time_split import leaf_rows
from agentsweep.intervals import Interval, union
from agentsweep.tables import parquet
from agentsweep.tables.arrays import Bools, Floats, Ints, Numbers
from agentsweep.tables.dataset import sample_arrays
from agentsweep.tables.rows import NewRow, Row
from agentsweep.vocabulary import CpuSource, FileStatus, RunSource, TimeSource

MB = 1e6

# What makes an imported run count, in the paper: enough of it was recorded.
_LEAST_SAMPLES, _LEAST_S = 10, 60.0
# A recorder that takes a sample a second is never thinned, one at 2 Hz or more is.
_THIN_BELOW_S = 0.6
_UNION = "+"
_LAST_THAT_ASKS = (2, 1, 50)

_RUN_COLUMNS = (
    *("run_id", "dataset", "source", "selected", "task", "agent", "agent_version", "model"),
    *("model_requested", "subagent_models", "instance_id", "outcome", "exit_code"),
    "prompt_issue_chars",
    *("mem_limit_bytes", "mem_peak_bytes", "mem_peak_source", "cpu_limit", "replicate"),
    *("model_mode", "hostname", "kernel", "cpu_model", "cpu_source"),
    *("agent_start_utc_ns", "agent_end_utc_ns", "agent_s", "container_s", "create_s", "start_s"),
    *("verify_s", "exec_s", "startup_s", "model_s", "tool_s", "overlap_s"),
    *("trace_first_utc_ns", "trace_last_utc_ns", "trace_status", "output_tokens"),
    *("output_tokens_final", "n_samples", "sampled_s", "image_reference", "image_size_bytes"),
)
_CALL_COLUMNS = (
    *("run_id", "tool_call_id", "name", "category", "agent_id", "parent_id", "command"),
    *("requested_utc_ns", "start_utc_ns", "end_utc_ns", "duration_s", "duration_lower_s"),
    *("time_source", "test_interpreter", "mem_before_bytes", "mem_peak_bytes", "mem_peak_source"),
)
_MESSAGE_COLUMNS = (
    *("run_id", "role", "kind", "agent_id", "n_records", "output_tokens"),
    "record_output_tokens",
)
_SAMPLE_COLUMNS = (
    *("utc_ns", "memory_current_bytes", "stats_memory_bytes", "stats_cpu_percent"),
    "cpu_usage_usec",
)


@dataclass(frozen=True)
class Series:
    """What was sampled of a run, a point a second; NaN where it is not known.

    `utc_ns` rises. `memory_bytes` is what the recorder called the memory in use (the engine's own
    figure for imported runs, all that is charged for measured ones), 0 after the container's end.
    `mean_cpu_percent` is the CPU time so far over the time since the start, in percent of one core
    (what the engine prints), `used_s` the CPU time so far (reconstructed for imported runs).
    """

    utc_ns: Ints
    memory_bytes: Floats
    mean_cpu_percent: Floats
    used_s: Floats

    @cached_property
    def live(self) -> Bools:
        """The samples with the memory of a container that was still there."""
        return self.memory_bytes > 0

    @cached_property
    def t_s(self) -> Floats:
        """Seconds since the first sample."""
        return np.asarray((self.utc_ns - self.utc_ns[:1]) / 1e9, np.float64)

    @cached_property
    def live_t_s(self) -> Floats:
        return self.t_s[self.live]

    @cached_property
    def live_memory_mb(self) -> Floats:
        """Decimal megabytes at the live samples."""
        return self.memory_bytes[self.live] / MB


@dataclass
class CohortRun:
    """One run: its row, its tool calls in the order of requests, its messages, its series."""

    row: Row
    calls: list[Row] = field(default_factory=list[Any])
    messages: list[Row] = field(default_factory=list[Any])
    series: Series = field(default_factory=lambda: Series(*np.empty((4, 0))))

    @cached_property
    def leaf_calls(self) -> list[Row]:
        """The calls in which a tool works; a sub-agent is its tools, not a tool."""
        return leaf_rows(self.calls)

    @cached_property
    def calls_known(self) -> bool:
        """Whether no calls means that there were none: a session was read, or a list of calls."""
        if self.row["trace_status"] == FileStatus.OK:
            return True
        # Lists of the oldest layout have no ends.
        return any(call["end_utc_ns"] is not None for call in self.calls)

    @cached_property
    def active_s(self) -> float | None:
        """The session from its first to its last time stamp; None without two of them."""
        first, last = self.row["trace_first_utc_ns"], self.row["trace_last_utc_ns"]
        return None if first is None or last is None or last == first else (last - first) / 1e9

    @cached_property
    def tool_time(self) -> list[Interval]:
        """When at least one leaf tool ran (disjoint, UTC ns): at most this, as the trace has it."""
        return intervals_of(self.leaf_calls)

    @cached_property
    def least_tool_time(self) -> list[Interval]:
        """The least that it can be, by what the trace tells."""
        return intervals_of(self.certain_calls(self.leaf_calls), least=True)

    def certain_calls(self, calls: Iterable[Row]) -> list[Row]:
        """The calls whose time is a tool's for certain.

        CLI versions up to 2.1.50 ask a model of their own before a Bash command runs, and nothing
        tells that time from the command's.
        """
        asks = (version_tuple(self.row["agent_version"]) or (0, 0, 0)) <= _LAST_THAT_ASKS
        return [
            call
            for call in calls
            if not (asks and call["name"] == "Bash" and call["time_source"] == TimeSource.TRACE)
        ]

    @cached_property
    def _with_cpu(self) -> Bools:
        """Which samples tell the CPU time, each with a time of its own; memory may be unknown."""
        series = self.series
        later: Bools = np.r_[True, np.diff(series.utc_ns) > 0][: len(series.utc_ns)]
        told: Bools = (series.memory_bytes != 0) & np.isfinite(series.used_s) & later
        return told

    @cached_property
    def cpu(self) -> CpuSeries | None:
        """The load between samples of a container that was still there; None without two."""
        series, known = self.series, self._with_cpu
        if known.sum() < 2:
            return None
        t_s = series.t_s[known]
        if self.row["cpu_source"] == CpuSource.RECONSTRUCTED:
            return reconstruct(t_s, series.mean_cpu_percent[known])
        used = series.used_s[known]
        load = np.maximum(np.diff(used), 0.0) / np.diff(t_s) * 100
        nothing = np.zeros(len(used))
        return CpuSeries(used, nothing, load, nothing[1:], 0.0, 0.0)

    @cached_property
    def cpu_t_s(self) -> Floats:
        """The times of `cpu.used_s`, in seconds since the first sample."""
        return self.series.t_s[self._with_cpu]

    @cached_property
    def cpu_memory_mb(self) -> Floats:
        """Memory at the times of `cpu.used_s`, in decimal megabytes; NaN where it is unknown."""
        return self.series.memory_bytes[self._with_cpu] / MB

    def ns_of(self, t_s: Floats) -> Ints:
        """UTC nanoseconds of seconds since the first sample."""
        since: Ints = np.round(t_s * 1e9).astype(np.int64)
        return np.asarray(self.series.utc_ns[0] + since, np.int64)


@dataclass(frozen=True)
class Cohort:
    """The runs of a data set that count, and the tasks that all data sets of its source have."""

    name: str
    runs: list[CohortRun]
    common_tasks: frozenset[str]
    attempts: int  # rows of `runs`, whether they count or not
    union: bool = False  # several data sets together

    @cached_property
    def common(self) -> list[CohortRun]:
        """The runs of the tasks that every data set has; all where there is no such task."""
        if not self.common_tasks:
            return self.runs
        return [run for run in self.runs if run.row["task"] in self.common_tasks]


def counts(row: Row) -> bool:
    """Whether a run counts: an imported one if enough of it was recorded, a measured one always."""
    if not row["selected"]:
        return False
    if row["source"] != RunSource.IMPORTED:
        return row["outcome"] is not None
    return row["n_samples"] >= _LEAST_SAMPLES and (row["sampled_s"] or 0) >= _LEAST_S


def load(directories: Iterable[Path | str]) -> list[Cohort]:
    """The cohorts of the data sets in directories of tables, and of those of one source together.

    A directory may hold several data sets. What was measured and what was imported differ in what
    they call memory and CPU, so each has its own union, named `A+B`; unions come last and only
    where there are several data sets. Raises AgentsweepError where no run counts, or a run is
    there twice.
    """
    folders = list(map(Path, directories))
    found: dict[str, list[CohortRun]] = {}
    attempts: dict[str, int] = {}
    sources: dict[str, list[str]] = {}
    seen: dict[str, Path] = {}
    for directory in folders:
        for name, rows in _rows_by_dataset(directory).items():
            for row in rows:
                if seen.setdefault(row["run_id"], directory) is not directory:
                    raise AgentsweepError(
                        f"{row['run_id']} is in {seen[row['run_id']]} and in {directory}: name "
                        "each run's tables once, and give each data set a name of its own"
                    )
            attempts[name] = attempts.get(name, 0) + len(rows)
            names = sources.setdefault(rows[0]["source"], [])
            names += [name] if name not in names else []
            runs = {row["run_id"]: CohortRun(row) for row in rows if counts(row)}
            _read(directory, runs)
            found.setdefault(name, []).extend(runs.values())
    if not any(found.values()):
        raise AgentsweepError(
            f"{', '.join(map(str, folders)) or 'no directory'}: no run counts (an imported "
            f"run must have {_LEAST_SAMPLES} samples over {_LEAST_S:.0f} s, a measured one an "
            "outcome): run the sweep, or check `imports`"
        )
    cohorts, unions = [], []
    for names in sources.values():
        tasks = [{run.row["task"] for run in found[name]} for name in names if found[name]]
        common = frozenset(set.intersection(*tasks)) if tasks else frozenset()
        cohorts += [Cohort(name, found[name], common, attempts[name]) for name in names]
        if len(names) > 1:
            together = [run for name in sorted(names) for run in found[name]]
            total = sum(attempts[name] for name in names)
            unions.append(Cohort(_UNION.join(sorted(names)), together, common, total, union=True))
    return cohorts + unions


def intervals_of(calls: Iterable[Row], least: bool = False) -> list[Interval]:
    """When at least one of the calls ran, in UTC ns; `least`: each as short as it can have been."""
    found = []
    for call in calls:
        start, end = call["start_utc_ns"], call["end_utc_ns"]
        if start is None or end is None:
            continue
        if least and call["duration_lower_s"] is not None:
            start = max(start, end - round(call["duration_lower_s"] * 1e9))
        found.append((start, end))
    return union(found, (0, 2**63))


def covered_s(intervals: Sequence[Interval], starts: Ints, ends: Ints) -> Floats:
    """Seconds of each step from `starts` to `ends` (ns) that disjoint intervals cover."""
    if not intervals:
        return np.zeros(len(starts))
    bounds = np.array(intervals, dtype=np.int64)
    lengths = bounds[:, 1] - bounds[:, 0]
    before: Ints = np.r_[0, np.cumsum(lengths)]

    def until(times: Ints) -> Ints:
        place = np.searchsorted(bounds[:, 0], times, side="right")
        inside = np.minimum(times - bounds[np.maximum(place - 1, 0), 0], lengths[place - 1])
        return before[np.maximum(place - 1, 0)] + np.where(place > 0, inside, 0)

    return (until(ends) - until(starts)) / 1e9


def _rows_by_dataset(directory: Path) -> dict[str, list[NewRow]]:
    rows: dict[str, list[NewRow]] = {}
    for row in parquet.read("runs", directory / "runs.parquet", _RUN_COLUMNS).to_pylist():
        rows.setdefault(row["dataset"] or directory.name, []).append(row)
    return rows


def _read(directory: Path, runs: dict[str, CohortRun]) -> None:
    """Calls, messages and samples of the runs, a row group at a time."""
    for row in _rows("tool_calls", directory, _CALL_COLUMNS, runs):
        runs[row["run_id"]].calls.append(row)
    for row in _rows("messages", directory, _MESSAGE_COLUMNS, runs):
        runs[row["run_id"]].messages.append(row)
    for run_id, arrays in sample_arrays(directory, _SAMPLE_COLUMNS, runs):
        runs[run_id].series = _series(runs[run_id].row, arrays)
    # Several figures are drawn at once: what reading took is given back before they go on.
    pa.default_memory_pool().release_unused()


def _rows(
    table: str, directory: Path, columns: Sequence[str], runs: Mapping[str, CohortRun]
) -> Iterator[NewRow]:
    for group in parquet.row_groups(table, directory / f"{table}.parquet", columns, set(runs)):
        for row in group.to_pylist():
            if row["run_id"] in runs:
                yield row


def _series(row: Row, arrays: Mapping[str, Numbers]) -> Series:
    utc_ns: Ints = arrays["utc_ns"].astype(np.int64)
    memory = np.where(
        np.isfinite(arrays["stats_memory_bytes"]),
        arrays["stats_memory_bytes"],
        arrays["memory_current_bytes"],
    )
    used: Floats = np.asarray(arrays["cpu_usage_usec"] / 1e6, np.float64)
    mean: Floats = arrays["stats_cpu_percent"].astype(np.float64, copy=False)
    start = row["agent_start_utc_ns"]
    if row["source"] != RunSource.IMPORTED and start is not None and len(utc_ns):
        # A point a second of the agent's phase, and what an engine would have printed there.
        inside = (utc_ns >= start) & (utc_ns <= (row["agent_end_utc_ns"] or utc_ns[-1]))
        utc_ns, memory, used = utc_ns[inside], memory[inside], used[inside]
        kept = _a_second(utc_ns)
        utc_ns, memory, used = utc_ns[kept], memory[kept], used[kept]
        known = np.flatnonzero(np.isfinite(used))
        used = used - used[known[0]] if len(known) else used
        elapsed = (utc_ns - start) / 1e9
        mean = np.divide(100 * used, elapsed, out=np.full(len(used), np.nan), where=elapsed > 0)
    return Series(utc_ns, memory, mean, used)


def _a_second(utc_ns: Ints) -> Ints:
    """Places of the samples to keep: the first of each second where they come faster."""
    if len(utc_ns) < 2 or np.median(np.diff(utc_ns)) >= _THIN_BELOW_S * 1e9:
        return np.arange(len(utc_ns))
    second = (utc_ns - utc_ns[0]) // 1_000_000_000
    return np.flatnonzero(np.r_[True, second[1:] != second[:-1]])
