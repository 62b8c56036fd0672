"""The row of a run in `runs`: what its result.json says, and what its other files add up to."""

import re
from collections.abc import Iterable

from agentsweep.agents.claude_code.records import KNOWN_TYPES, Message, Trace
from agentsweep.cpu_modes import CPUSET
from agentsweep.extraction.fidelity import summarise
from agentsweep.extraction.gateway_facts import MESSAGES
from agentsweep.extraction.linked_run import TOKENS, Run
from agentsweep.extraction.run_directory import Fields, number, truth, whole, word
from agentsweep.host.oom_kills import Survived, before_agent
from agentsweep.tables.rows import NewRow
from agentsweep.units import parse_cpus, parse_size
from agentsweep.vocabulary import CpuSource, Outcome, RunSource, TimeSource

_PHASES = (
    "agent_s",
    "pull_s",
    "fix_s",
    "preflight_s",
    "create_s",
    "start_s",
    "verify_s",
    "exec_s",
    "collect_s",
    "services_s",
    "teardown_s",
)
_CONTAINER_PHASES = ("create_s", "start_s", "verify_s", "exec_s", "agent_s")
# Counters that only grow: the phase's own share is the difference of its end and its start.
_GROWING = {
    "mem_failcnt": "memory_failcnt",
    **{
        name: name
        for name in (
            "cpu_usage_usec",
            "cpu_user_usec",
            "cpu_system_usec",
            "cpu_nr_periods",
            "cpu_nr_throttled",
            "cpu_throttled_usec",
            "io_read_bytes",
            "io_write_bytes",
            "cpu_pressure_some_usec",
            "memory_pressure_some_usec",
            "memory_pressure_full_usec",
            "io_pressure_some_usec",
            "io_pressure_full_usec",
        )
    },
}
_TIMES = (
    "started_utc_ns",
    "ended_utc_ns",
    "agent_start_ns",
    "agent_end_ns",
    "agent_start_utc_ns",
    "agent_end_utc_ns",
)


# As `outcome` begins its detail.
_LEFT_AT = re.compile(r"(?:turn (\d{1,9}) of|the end of) [^:]+: (.*)", re.DOTALL)


def run_row(run: Run, n_samples: int) -> NewRow:
    """The row. What result.json does not say is None; a damaged one loses nothing else."""
    phases = {name: number(run.result("phases", name)) for name in _PHASES}
    return {
        "run_id": run.run_id,
        "source": RunSource.MEASURED,
        "selected": True,
        **_identity(run),
        **_limits(run),
        **_outcome(run.result),
        "claims_differ": _differing(run),
        **_counters(run.result),
        **{name: whole(run.result(name)) for name in _TIMES},
        "wall_s": number(run.result("wall_s")),
        **phases,
        "container_s": _sum(phases[name] for name in _CONTAINER_PHASES),
        "trace_first_utc_ns": run.trace.first_utc_ns,
        "trace_last_utc_ns": run.trace.last_utc_ns,
        **run.time_split(),
        **_counts(run),
        **_replay(run),
        **_evidence(run, n_samples),
        **_place(run.result),
    }


def _identity(run: Run) -> NewRow:
    """Who ran what. A recalled run keeps the names of its first time; the cell's own ones win."""
    result, trace = run.result, run.trace
    cell = _cell(run.run_id)
    replicate = whole(result("spec", "replicate"))
    return {
        "dataset": word(result("names", "dataset")),
        "task": cell.get("task") or word(result("names", "task")),
        "instance_id": word(result("names", "instance_id")),
        "agent": cell.get("agent") or word(result("names", "agent")),
        "agent_version": word(trace.version) or word(result("agent", "version")),
        "agent_binary_sha256": word(result("agent", "binary_sha256")),
        "model": next(iter(trace.models(subagents=False)), None),
        "model_requested": word(result("spec", "agent", "model_id")),
        "model_mode": word(result("spec", "model", "mode")),
        "subagent_models": ", ".join(trace.models(subagents=True)) or None,
        "replicate": _int(cell.get("rep")) if replicate is None else replicate,
        "spec_sha256": word(result("spec_sha256")),
        "attempt": whole(result("attempt")),
        "attempt_id": word(result("attempt_id")),
        "session_id": word(result("agent", "session_id")) or word(trace.session_id),
    }


def _limits(run: Run) -> NewRow:
    asked, found = (
        Fields(run.result("limits", "requested")),
        Fields(run.result("limits", "effective")),
    )
    cell = _cell(run.run_id)
    memory, cpus = whole(asked("memory_bytes")), number(asked("cpus"))
    return {
        "mem_limit_bytes": _size(cell.get("mem")) if memory is None else memory,
        "mem_effective_bytes": whole(found("memory_bytes")),
        "mem_cgroup": word(found("memory_level")),
        "swap_limit_bytes": whole(asked("swap_bytes")),
        "swap_effective_bytes": whole(found("swap_bytes")),
        "cpu_limit": _cpus(_unmoded(cell.get("cpus"))) if cpus is None else cpus,
        "cpu_effective": _cpus_in_force(asked, found),
        "cpu_cgroup": word(found("cpu_level")),
        "cpu_mode": word(asked("cpu_mode")),
        "cpuset": word(found("cpuset")),
        "nproc": whole(found("nproc")),
        "pids_limit": whole(asked("pids")),
        "pids_effective": whole(found("pids")),
        "scope": word(run.result("scope")),
    }


def _cpus_in_force(asked: Fields, found: Fields) -> float | None:
    """The quota; of a pinned run the CPUs that it has, unless a quota gives it less of them."""
    quota = number(found("cpus"))
    if word(asked("cpu_mode")) != CPUSET:
        return quota
    known = [value for value in (quota, number(found("nproc"))) if value is not None]
    return min(known, default=None)


def _outcome(result: Fields) -> NewRow:
    said = Fields(result("stream", "result"))
    tools = _tool_kills(result)
    return {
        "outcome": word(result("outcome")),
        "outcome_detail": word(result("outcome_detail")),
        "exit_code": whole(result("exit_code")),
        "tool_oom_count": tools.count,
        "tool_oom_count_max": tools.at_most,
        "oom_kill_count": whole(result("oom", "kill_count")),
        "agent_oom_victim": truth(result("oom", "agent_victim")),
        "container_oom_victim": truth(result("oom", "container_victim")),
        "leftover_processes": whole(result("leftover_processes")),
        **_endpoint(result),
        "terminal_reason": word(said("terminal_reason")),
        "is_error": truth(said("is_error")),
        "num_turns": whole(said("num_turns")),
        "patch_status": word(result("patch", "status")),
        "patch_sha256": word(result("patch", "sha256")),
        "patch_bytes": whole(result("patch", "bytes")),
        "patch_reason": word(result("patch", "reason")),
        "patch_cause": word(result("patch", "cause")),
        # In the spec up to version 0.1.0. Of a graded run, the data set names the grading's.
        "row_sha256": word(result("spec", "task", "row_sha256"))
        or word(result("names", "row_sha256")),
        # Of the patch, not of the run: the data set says it (agentsweep.grading.run_grades).
        **dict.fromkeys(("resolved", "grade_status", "grade_detail", "grade_evidence")),
    }


def _endpoint(result: Fields) -> NewRow:
    """What a live run could ask of its endpoint; nothing is known of runs from before there were
    rules, and of other modes."""
    said = Fields(result("endpoint"))
    allowed, refused = said("allowed"), whole(said("refused"))
    if not isinstance(allowed, list) or refused is None:
        return {"endpoint_tools": None, "n_not_allowed": None}
    names = [name for name in allowed if isinstance(name, str)]
    return {"endpoint_tools": ", ".join(names) or "none", "n_not_allowed": refused}


def _differing(run: Run) -> str | None:
    """`num_turns: said 9, seen at most 3; ...`: null where nothing differs or nobody compared."""
    differs = run.result("stream", "differs")
    found = dict(differs) if isinstance(differs, dict) else {}
    asked = [e for e in run.exchanges if e.get("path") == MESSAGES]
    # Of an answer that broke off, the session may have a part that the gateway has no name for.
    if any(e.get("message_id") for e in asked) and not any(map(_broke_off, asked)):
        answered = {word(e.get("message_id")) for e in asked}
        said = {m.id for m in run.trace.messages if _is_of_model(m)}
        if unknown := len(said - answered):
            found["session"] = f"said {len(said)} messages, seen {len(said) - unknown} of them"
    return "; ".join(f"{name}: {word(said)}" for name, said in found.items()) or None


def _broke_off(exchange: NewRow) -> bool:
    return exchange.get("status") == 200 and (
        exchange.get("message_id") is None or exchange.get("error") is not None
    )


def _cost_usd(result: Fields) -> float | None:
    """By the gateway's count where the run has a price, else as the agent computes it."""
    counted = number(result("budget", "cost_usd"))
    return number(result("stream", "result", "total_cost_usd")) if counted is None else counted


def _tool_kills(result: Fields) -> Survived:
    """The kills that the agent survived.

    A result from before `tool_count_max` counts all but the agent's own, those after it too: what
    its victims' names do not order is unknown.
    """
    count, at_most = whole(result("oom", "tool_count")), whole(result("oom", "tool_count_max"))
    kills = whole(result("oom", "kill_count"))
    if at_most is not None or kills is None:
        return Survived(count, at_most)
    if truth(result("oom", "agent_victim")):
        victims = result("oom", "victims")
        return before_agent(kills, victims if isinstance(victims, list) else ())
    if truth(result("oom", "container_victim")) and kills > 1:
        return Survived(None, kills - 1)
    return Survived(count, count)


def _counters(result: Fields) -> NewRow:
    """Totals of the agent's phase from the kernel's counters at its start and end."""
    grown = {}
    for column, counter in _GROWING.items():
        start = whole(result("counters", "start", counter))
        end = whole(result("counters", "end", counter))
        grown[column] = None if start is None or end is None else end - start
    return {
        "cpu_source": None if grown["cpu_usage_usec"] is None else CpuSource.COUNTER,
        "mem_start_bytes": whole(result("counters", "start", "memory_current_bytes")),
        "mem_peak_bytes": whole(result("memory", "peak_bytes")),
        "mem_peak_source": word(result("memory", "peak_source")),
        **grown,
    }


def _counts(run: Run) -> NewRow:
    return {
        **trace_counts(run.trace, run.tool_rows),
        "n_api_calls": sum(map(_requests, run.exchanges)) if run.exchanges_known else None,
        "n_api_errors": sum(_requests(line) for line in run.exchanges if _failed(line))
        if run.exchanges_known
        else None,
        "cost_usd": _cost_usd(run.result),
    }


def _replay(run: Run) -> NewRow:
    """How much of its recording a replay played, and how closely; nothing for another run."""
    if not run.is_replay:
        return {}
    said, score = Fields(run.result("replay")), summarise(run.comparisons)
    return {
        "fidelity": score.fidelity,
        "replay_source_sha256": word(said("source_sha256")),
        "replay_turns": whole(said("turns")),
        "replay_turns_played": whole(said("turns_played")),
        "n_recorded_calls": whole(said("calls")),
        "n_compared_calls": score.compared,
        "n_same_calls": score.same,
        "n_limited_calls": score.limited,
        **_diverged(run.result, said),
    }


def _diverged(result: Fields, said: Fields) -> NewRow:
    """Where and why a replay left its recording. The gateway says it of an agent that asked for
    what is not there; of one that ended before its recording the outcome says it."""
    turn, reason = whole(said("diverged", "turn")), word(said("diverged", "reason"))
    if turn is None and reason is None and word(result("outcome")) == Outcome.DIVERGED:
        detail = word(result("outcome_detail")) or ""
        named = _LEFT_AT.match(detail)
        reason = (named[2] if named else detail) or "the agent ended before its recording"
        turn = whole(said("unplayed", "turn"))
        if turn is None and named and named[1]:
            turn = int(named[1])
    return {"diverged_turn": turn, "diverged_reason": reason}


def trace_counts(trace: Trace, rows: list[NewRow]) -> NewRow:
    """What the session and its tool calls add up to."""
    sources = {row["time_source"] for row in rows}
    return {
        "tool_time_source": TimeSource.TRACE
        if TimeSource.TRACE in sources
        else TimeSource.EXACT
        if sources
        else None,
        "n_messages": len(trace.messages),
        "n_assistant_messages": sum(map(_is_of_model, trace.messages)),
        "n_tool_calls": len(rows),
        "n_bash_calls": sum(row["name"] == "Bash" for row in rows),
        "n_tool_errors": sum(row["is_error"] is True for row in rows),
        "n_tool_unfinished": sum(not row["finished"] for row in rows),
        "n_subagents": sum(not agent.warmup for agent in trace.agents),
        "n_subagents_missing": sum(a.missing and not a.warmup for a in trace.agents),
        "n_compactions": trace.compactions,
        **_tokens(trace.messages),
    }


def _tokens(messages: list[Message]) -> NewRow:
    """Tokens of all messages, each counted once; None without any message."""
    usages = [m.whole_usage for m in messages if _is_of_model(m) and m.usage is not None]
    if not usages:
        return dict.fromkeys((*TOKENS, "output_tokens_final"))
    totals = {name: sum(getattr(usage, name) for usage in usages) for name in TOKENS}
    return {**totals, "output_tokens_final": all(usage.output_final for usage in usages)}


def trace_evidence(trace: Trace) -> NewRow:
    """How much of the session's files could be used."""
    unknown = sum(n for kind, n in trace.record_types.items() if kind not in KNOWN_TYPES)
    return {
        "trace_lines": trace.lines.total,
        "trace_bad_lines": trace.lines.unusable,
        "trace_unknown_records": unknown,
    }


def _evidence(run: Run, n_samples: int) -> NewRow:
    sampler, t_ns = Fields(run.result("sampler")), run.curve.t_ns
    return {
        "trace_status": run.trace_status,
        **trace_evidence(run.trace),
        "damage": run.damage.sentence(),
        "samples_status": run.samples_status,
        "n_samples": n_samples,
        "sampled_s": (t_ns[-1] - t_ns[0]) / 1e9 if t_ns else None,
        "samples_missed": whole(sampler("missed")),
        "rate_hz": number(sampler("rate_hz")),
        "sampler_cpu_s": number(sampler("cpu_s")),
        "n_marks": len(run.marks),
        "n_marks_unmatched": run.marks_unmatched,
    }


def _place(result: Fields) -> NewRow:
    """Image, host, engine and code."""
    image, host, engine = (Fields(result(name)) for name in ("image", "host", "engine"))
    return {
        "image_reference": word(image("reference")),
        "image_digest": word(image("digest")),
        "image_id": word(image("id")),
        "image_size_bytes": whole(image("size_bytes")),
        "hostname": word(host("hostname")),
        "kernel": word(host("kernel")),
        "cpu_model": word(host("cpu_model")),
        "host_cpu_count": whole(host("cpu_count")),
        "host_memory_bytes": whole(host("memory_bytes")),
        "host_swap_total_bytes": whole(host("swap_total_bytes")),
        "engine": word(engine("name")),
        "engine_version": word(engine("version")),
        "runtime": word(engine("runtime")),
        "storage_driver": word(engine("storage_driver")),
        "rootless": truth(engine("rootless")),
        "cgroup_version": whole(engine("cgroup_version")),
        "load1_start": number(host("load1_start")),
        "load1_end": number(host("load1_end")),
        "pswpin_pages": _grown(host, "pswpin"),
        "pswpout_pages": _grown(host, "pswpout"),
        "runner_version": word(result("runner", "version")),
        "runner_sha256": word(result("runner", "source_sha256")),
    }


def _sum(parts: Iterable[float | None]) -> float | None:
    listed = list(parts)
    known = [part for part in listed if part is not None]
    return sum(known) if len(known) == len(listed) else None


def _grown(host: Fields, name: str) -> int | None:
    start, end = whole(host(f"{name}_start")), whole(host(f"{name}_end"))
    return None if start is None or end is None else end - start


def _requests(exchange: NewRow) -> int:
    """How many requests a line of api.jsonl stands for; those of before stand for one each."""
    requests = whole(exchange.get("requests"))
    return 1 if requests is None else requests


def _failed(exchange: NewRow) -> bool:
    return exchange.get("error") is not None or exchange.get("status") != 200


def _is_of_model(message: Message) -> bool:
    return message.role == "assistant" and message.kind != "error"


def _cell(run_id: str) -> dict[str, str]:
    """What a cell id says: `task~x/agent~y/mem~1GiB_cpus~1_rep~0`, else nothing."""
    parts = run_id.split("/")
    if len(parts) != 3:
        return {}
    pairs = [parts[0], parts[1], *parts[2].split("_")]
    return {name: value for name, tilde, value in (p.partition("~") for p in pairs) if tilde}


def _unmoded(text: str | None) -> str | None:
    return None if text is None else text.removesuffix(f"-{CPUSET}")


def _int(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdigit() else None


def _size(text: str | None) -> int | None:
    try:
        return None if text is None else parse_size(text)
    except ValueError:
        return None


def _cpus(text: str | None) -> float | None:
    try:
        return None if text is None else float(parse_cpus(text))
    except ValueError:
        return None
