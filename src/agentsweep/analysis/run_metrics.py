"""What one run comes to, as AgentCgroup counts it and as it should be counted.

`paper` follows the definitions of AgentCgroup (arXiv 2602.09345) with their defects, `corrected`
the rules of docs/measurement.md. What a run does not tell is None. Names with `listed` follow the
paper's reading of a file. Each function is of one run, whatever came of it; which runs are summed
up is said in the modules named `claims_`.
"""

import math
import re
from collections.abc import Iterable, Sequence

import numpy as np

from agentsweep.analysis.cohort import MB, CohortRun, Series
from agentsweep.extraction.lifetime_cpu import CpuSeries
from agentsweep.intervals import length, union
from agentsweep.tables.arrays import Bools, Floats, Ints
from agentsweep.tables.rows import Row
from agentsweep.vocabulary import PeakSource, RunSource

UNKNOWN = "unknown"
PAPER, CORRECTED = "paper", "corrected"
MODES = (PAPER, CORRECTED)
TRAJECTORY_POINTS = 100
_LEAST_CALL_S = 0.1
_RETRIES = 3
_LEAST_FOR_R = 10
# The paper's kinds of commands: the first pattern that a command line matches decides.
_LISTED_KINDS = [
    (kind, re.compile(pattern))
    for kind, pattern in (
        ("test", r"\b(?:pytest|tox|nose|unittest)\b"),
        ("git", r"\bgit\s+(?:diff|log|status|show|add|commit|checkout|stash|branch|reset)\b"),
        ("install", r"\b(?:(?:pip|conda)\s+install|apt|yum)\b"),
        ("explore", r"\b(?:ls|find|tree|wc|du|df)\b"),
        ("snippet", r"\bpython3?\s+-c\b"),
        ("python", r"\bpython3?\b"),
        ("text", r"\b(?:cat|head|tail|grep|sed|awk)\b"),
        ("shell", r"\b(?:cd|source|export|chmod|mkdir)\b"),
    )
]
_SNIPPET = re.compile(r"\bpython[0-9.]*\s+-c\b")
# What comes after the first pipe only cuts the output, and a leading `cd` repeats the directory.
_DIRECTORY = re.compile(r"^\s*cd\s+\S+\s*&&\s*")


def ratio(part: float | None, whole: float | None) -> float | None:
    """Their quotient; None where one is not known or there is no whole."""
    return None if part is None or not whole else part / whole


def container_s(run: CohortRun) -> float | None:
    """The container's time, which AgentCgroup calls `claude_time`."""
    seconds: float | None = run.row["container_s"]
    return seconds


def active_s(run: CohortRun, mode: str) -> float | None:
    """The time in which the agent works: the session's span, or the phase after its start-up."""
    if mode == PAPER:
        return run.active_s or container_s(run)
    agent, startup = run.row["agent_s"], run.row["startup_s"]
    return None if agent is None or startup is None else agent - startup


def tool_share(run: CohortRun, mode: str) -> float | None:
    """Share of the active time that tools take, 0 to 1 (in `paper` mode possibly more)."""
    if mode == PAPER:
        if not run.calls_known:
            return None
        return ratio(sum(map(listed_seconds, run.calls)), active_s(run, mode))
    return ratio(run.row["tool_s"], active_s(run, mode))


def least_tool_share(run: CohortRun) -> float | None:
    """The least that `tool_share` can be, by what the trace tells."""
    return ratio(length(run.least_tool_time) / 1e9, active_s(run, CORRECTED))


def listed_seconds(call: Row) -> float:
    """From the request of a call to its result, 0 where either is missing or they are reversed."""
    requested, end = call["requested_utc_ns"], call["end_utc_ns"]
    return 0.0 if requested is None or end is None else max((end - requested) / 1e9, 0.0)


def startup_total_s(run: CohortRun) -> float | None:
    """From creating the container to the agent's first request: measured, part by part."""
    created, asked = run.row["create_s"], run.row["startup_s"]
    parts = [run.row[name] for name in ("start_s", "verify_s", "exec_s")]
    if run.row["source"] == RunSource.IMPORTED:
        # Its creation lasts to its first sample, so that it has no such parts.
        parts = [part for part in parts if part is not None]
    return None if None in (created, asked, *parts) else created + asked + sum(parts)


def residual_startup_s(run: CohortRun) -> float | None:
    """The container's time less the active time, which AgentCgroup calls start-up."""
    total, active = container_s(run), active_s(run, PAPER)
    return None if total is None or active is None else total - active


def startup_share(run: CohortRun, mode: str) -> float | None:
    """Share of the container's time before the agent works, 0 to 1."""
    spent = residual_startup_s(run) if mode == PAPER else startup_total_s(run)
    return ratio(spent, container_s(run))


def model_share(run: CohortRun, mode: str) -> float | None:
    """Share of the container's time that the model takes, 0 to 1."""
    if mode == CORRECTED:
        return ratio(run.row["model_s"], container_s(run))
    share, active = tool_share(run, mode), active_s(run, mode)
    if share is None or active is None:
        return None
    return ratio(active * (1 - share), container_s(run))


def os_share(run: CohortRun, mode: str) -> float | None:
    """Share of the container's time that start-up and tools take, 0 to 1."""
    if mode == CORRECTED:
        startup, tools = startup_total_s(run), run.row["tool_s"]
        return None if None in (startup, tools) else ratio(startup + tools, container_s(run))
    share, active, startup = tool_share(run, mode), active_s(run, mode), startup_share(run, mode)
    total = container_s(run)
    if share is None or startup is None or active is None or not total:
        return None
    return startup + active * share / total


def uncertain_share(run: CohortRun) -> float | None:
    """Share of the container's time that may be a tool's or the model's, 0 to 1."""
    tools = run.row["tool_s"]
    if tools is None:
        return None
    return ratio(max(tools - length(run.least_tool_time) / 1e9, 0.0), container_s(run))


def plus(a: float | None, b: float | None, sign: int = 1) -> float | None:
    return None if a is None or b is None else a + sign * b


def listed_kind(command: str | None) -> str:
    """What a command does, as AgentCgroup sorts them."""
    text = (command or "").strip().lower()
    return next((kind for kind, pattern in _LISTED_KINDS if pattern.search(text)), "other")


def command_kind(call: Row) -> str:
    """What a command does, by its programs; `python -c` apart, as the paper has it."""
    kind = call["category"] or UNKNOWN
    if kind == "python" and _SNIPPET.search(call["command"] or ""):
        return "snippet"
    return kind


def has_bash_run(run: CohortRun) -> bool:
    """Three or more Bash calls in a row."""
    return _longest(["Bash" if c["name"] == "Bash" else None for c in run.calls]) >= _RETRIES


def has_retry_loop(run: CohortRun) -> bool:
    """The same test command three or more times in a row among a chain's Bash calls."""
    chains: dict[str | None, list[str | None]] = {}
    for call in run.calls:
        if call["name"] == "Bash":
            command = _essence(call["command"]) if call["category"] == "test" else None
            chains.setdefault(call["agent_id"], []).append(command)
    return any(_longest(commands) >= _RETRIES for commands in chains.values())


def _essence(command: str | None) -> str:
    text = (command or "").replace("2>&1", " ").split("|", 1)[0]
    return " ".join(_DIRECTORY.sub("", text).split())


def _longest(items: Sequence[str | None]) -> int:
    """Length of the longest run of equal items that are not None."""
    longest = here = 0
    before = None
    for item in items:
        here = 0 if item is None else here + 1 if item == before else 1
        longest, before = max(longest, here), item
    return longest


def call_places(run: CohortRun, mode: str) -> list[tuple[str, float]]:
    """Each call's tool and its place in the run, 0 to 1.

    In `paper` mode that of every call's request between the first and the last sample, else that of
    the start of every leaf call between the agent's start and its end; times beyond are at the end.
    """
    if mode == PAPER:
        utc_ns = run.series.utc_ns
        first, last = (utc_ns[0], utc_ns[-1]) if len(utc_ns) else (None, None)
        calls, column = run.calls, "requested_utc_ns"
    else:
        first, last = run.row["agent_start_utc_ns"], run.row["agent_end_utc_ns"]
        calls, column = run.leaf_calls, "start_utc_ns"
    if first is None or last is None or last <= first:
        return []
    return [
        (
            call["name"] or UNKNOWN,
            min(max(float((call[column] - first) / (last - first)), 0.0), 1.0),
        )
        for call in calls
        if call[column] is not None
    ]


def mean_of_means(run: CohortRun) -> float | None:
    percent = run.series.mean_cpu_percent
    known = percent[np.isfinite(percent)]
    return float(known.mean()) if len(known) else None


def mean_load(run: CohortRun) -> float | None:
    if run.cpu is None:
        return None
    t_s = run.cpu_t_s
    return float(100 * (run.cpu.used_s[-1] - run.cpu.used_s[0]) / (t_s[-1] - t_s[0]))


def mean_load_error(run: CohortRun) -> float | None:
    if run.cpu is None:
        return None
    t_s = run.cpu_t_s
    return float(100 * (run.cpu.error_s[-1] + run.cpu.error_s[0]) / (t_s[-1] - t_s[0]))


def listed_correlation(run: CohortRun) -> float | None:
    percent, memory_mb = run.series.mean_cpu_percent, listed_memory_mb(run.series)
    known = np.isfinite(percent) & np.isfinite(memory_mb)
    return correlation(percent[known], memory_mb[known])


def load_correlation(run: CohortRun) -> float | None:
    """Pearson's r of the load in a step and the memory at its end."""
    return None if run.cpu is None else _load_and(run.cpu, run.cpu_memory_mb[1:])


def start_correlation(run: CohortRun) -> float | None:
    """Pearson's r of the load in a step and the memory at its start."""
    return None if run.cpu is None else _load_and(run.cpu, run.cpu_memory_mb[:-1])


def _load_and(cpu: CpuSeries, memory_mb: Floats) -> float | None:
    known = np.isfinite(memory_mb)
    return correlation(cpu.load_percent[known], memory_mb[known])


def unattenuated_correlation(run: CohortRun) -> float | None:
    """The correlation if the load had no error, which makes it smaller than it is."""
    r = load_correlation(run)
    if r is None or run.cpu is None:
        return None
    # Errors are evenly spread within their bounds.
    noise = float((run.cpu.load_error_percent**2).mean()) / 3
    reliable = max(1 - noise / float(run.cpu.load_percent.var()), r * r)
    return r / reliable**0.5 if reliable else 0.0


def correlation(a: Floats, b: Floats) -> float | None:
    """Pearson's r; None for fewer than ten points or where one of them does not vary."""
    if len(a) < _LEAST_FOR_R or a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def quantile_interval(
    values: Sequence[float], q: float, outside: float = 0.05
) -> tuple[float | None, float | None]:
    """The interval of a quantile that its values' ranks give; two None where there are too few.

    The number of values below the quantile is binomial (Conover, Practical Nonparametric
    Statistics, section 3.2); each end is missed with a probability of `outside` / 2 at most.
    """
    ordered, n = sorted(values), len(values)
    logs = [
        math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
        + k * math.log(q) + (n - k) * math.log1p(-q)
        for k in range(n + 1)
    ]  # fmt: skip
    below = np.cumsum(np.exp(logs))
    # Place i as the lower end is wrong if at most i values lie below the quantile.
    lower = np.flatnonzero(below[:-1] <= outside / 2)
    # Place i as the upper end is wrong if more than i values do.
    upper = np.flatnonzero(1 - below[:-1] <= outside / 2)
    if not len(lower) or not len(upper):
        return None, None
    return ordered[lower[-1]], ordered[upper[0]]


def in_listed_calls(run: CohortRun) -> Bools:
    """Which samples lie between request and result of any call, sub-agents' included."""
    return within(run.series.utc_ns, tool_spans(run, PAPER))


def tool_spans(run: CohortRun, mode: str) -> Sequence[tuple[int, int]]:
    """When tools work (disjoint, UTC ns); in `paper` mode from request to result of any call."""
    if mode == CORRECTED:
        return run.tool_time
    spans = [
        (call["requested_utc_ns"], call["end_utc_ns"])
        for call in run.calls
        if None not in (call["requested_utc_ns"], call["end_utc_ns"])
    ]
    return union(spans, (0, 2**63))


def within(utc_ns: Ints, intervals: Sequence[tuple[int, int]]) -> Bools:
    """Which times lie in disjoint intervals, both ends included."""
    if not intervals:
        return np.zeros(len(utc_ns), bool)
    bounds = np.array(intervals, dtype=np.int64)
    place = np.searchsorted(bounds[:, 0], utc_ns, side="right") - 1
    inside: Bools = (place >= 0) & (utc_ns <= bounds[np.maximum(place, 0), 1])
    return inside


def listed_memory_mb(series: Series) -> Floats:
    """Memory as most of AgentCgroup's scripts read it from the printed text: 1 GB is 1024 MB.

    NaN where nothing was read.
    """
    printed = _printed(series.memory_bytes)
    read = np.where(printed >= 1e9, printed / 1e9 * 1024, np.where(printed >= 1e6, printed / MB, 0))
    return np.where(np.isnan(series.memory_bytes), np.nan, read)


def cut_memory_mb(series: Series) -> Floats:
    """Memory as one of AgentCgroup's scripts reads it: without the last three letters of `186MB`.

    What is left of the printed text is 18, a tenth of it, where there are no decimals. NaN where
    nothing was read.
    """
    return np.array([_cut(value) for value in series.memory_bytes.tolist()])


def _cut(memory_bytes: float) -> float:
    for unit, factor in (("GB", 1024.0), ("MB", 1.0), ("kB", 1 / 1024)):
        scale = {"GB": 1e9, "MB": 1e6, "kB": 1e3}[unit]
        if memory_bytes >= scale:
            kept = f"{memory_bytes / scale:.4g}{unit}"[:-3]
            return float(kept) * factor if kept else 0.0
    return math.nan if math.isnan(memory_bytes) else 0.0


def _printed(memory_bytes: Floats) -> Floats:
    """The value that the engine prints, with four significant digits."""
    known = np.nan_to_num(memory_bytes)
    digits = np.floor(np.log10(np.maximum(known, 1)))
    step = 10.0 ** (digits - 3)
    return np.round(known / step) * step


def listed_test_rises(run: CohortRun) -> list[float]:
    calls = [
        (call["requested_utc_ns"], call["end_utc_ns"])
        for call in run.calls
        if call["name"] == "Bash"
        and listed_seconds(call) >= _LEAST_CALL_S
        and listed_kind(call["command"]) == "test"
    ]
    if not calls:
        return []
    memory_mb = cut_memory_mb(run.series)
    read = np.isfinite(memory_mb)
    return _sampled_rises(calls, run.series.utc_ns[read], memory_mb[read])


def test_rises(run: CohortRun) -> list[float]:
    tests = [
        call
        for call in run.leaf_calls
        if call["name"] == "Bash"
        and call["category"] == "test"
        and (call["duration_s"] or 0) >= _LEAST_CALL_S
    ]
    exact = [c for c in tests if c["mem_peak_source"] in (PeakSource.WATERMARK, PeakSource.COUNTER)]
    known = [
        (call["mem_peak_bytes"] - call["mem_before_bytes"]) / MB
        for call in exact
        if None not in (call["mem_peak_bytes"], call["mem_before_bytes"])
    ]
    spans = [
        (call["start_utc_ns"], call["end_utc_ns"])
        for call in tests
        if call not in exact and None not in (call["start_utc_ns"], call["end_utc_ns"])
    ]
    live = run.series.live
    return known + _sampled_rises(spans, run.series.utc_ns[live], run.series.live_memory_mb)


def _sampled_rises(
    spans: Iterable[tuple[int, int]], utc_ns: Ints, memory_mb: Floats
) -> list[float]:
    """Peak within each span less the last sample before it; no rise where no sample is within."""
    rises = []
    for start, end in spans:
        first, last = np.searchsorted(utc_ns, start), np.searchsorted(utc_ns, end, side="right")
        if last > first:
            before = memory_mb[first - 1] if first else memory_mb[first]
            rises.append(float(memory_mb[first:last].max() - before))
    return rises


def cpu_over_time(run: CohortRun, mode: str) -> tuple[Floats, Floats, Floats]:
    """Bounds of the steps (s since the first sample), CPU in each (percent of a core), its error.

    In `paper` mode the printed averages, each from its sample to the next, without an error.
    """
    if mode == PAPER:
        percent = run.series.mean_cpu_percent[:-1]
        return run.series.t_s, percent, np.zeros(len(percent))
    if run.cpu is None:
        return np.empty(0), np.empty(0), np.empty(0)
    return run.cpu_t_s, run.cpu.load_percent, run.cpu.load_error_percent


def memory_over_time(run: CohortRun, mode: str) -> tuple[Floats, Floats]:
    """Times (s since the first sample) and memory in MB, as the paper reads it or of live samples.

    A megabyte is a million bytes, but in `paper` mode a gigabyte has 1024 of them.
    """
    if mode == PAPER:
        memory_mb = listed_memory_mb(run.series)
        read = np.isfinite(memory_mb)
        return run.series.t_s[read], memory_mb[read]
    return run.series.live_t_s, run.series.live_memory_mb


def memory_trajectory(run: CohortRun, mode: str) -> Floats | None:
    """Memory in MB at 100 points of the run's progress; None without two samples.

    Progress is the number of the sample in `paper` mode, and else time between live samples.
    """
    t_s, memory_mb = memory_over_time(run, mode)
    progress = np.arange(len(t_s)) if mode == PAPER else t_s
    if len(progress) < 2:
        return None
    return np.interp(np.linspace(progress[0], progress[-1], TRAJECTORY_POINTS), progress, memory_mb)


def peak_mb(run: CohortRun, mode: str) -> float | None:
    """Peak memory in decimal megabytes: the highest sample, or the kernel's where it has one."""
    if mode == CORRECTED and run.row["mem_peak_bytes"] is not None:
        return float(run.row["mem_peak_bytes"] / MB)
    memory = run.series.live_memory_mb
    return float(memory.max()) if len(memory) else None


def peak_to_average(run: CohortRun, mode: str) -> float | None:
    """Peak memory over average memory."""
    memory, t_s = run.series.live_memory_mb, run.series.live_t_s
    if len(memory) < 2:
        return None
    if mode == PAPER:
        return ratio(peak_mb(run, mode), float(memory.mean()))
    step = np.diff(t_s)
    average = float(((memory[1:] + memory[:-1]) / 2 * step).sum() / step.sum())
    return ratio(peak_mb(run, mode), average)


def rounds(run: CohortRun, mode: str) -> float | None:
    """Answers of the model: messages, or in `paper` mode the records that they are spread over."""
    if mode == PAPER:
        return float(sum(m["n_records"] for m in run.messages if m["role"] == "assistant")) or None
    own = [m for m in run.messages if m["role"] == "assistant" and m["kind"] != "error"]
    return float(len(own)) or None


def output_tokens(run: CohortRun, mode: str) -> float | None:
    """Output tokens: each message's once, or in `paper` mode summed over its records."""
    if rounds(run, mode) is None:
        return None
    if mode == PAPER:
        return float(sum(m["record_output_tokens"] or 0 for m in run.messages))
    return float(run.row["output_tokens"]) if run.row["output_tokens_final"] else None


def duration_s(run: CohortRun, mode: str) -> float | None:
    if mode == PAPER:
        return container_s(run)
    seconds: float | None = run.row["agent_s"]
    return seconds
