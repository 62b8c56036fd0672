"""What the tables are: every column's name, type, unit and meaning (`runs`: `run_columns`).

Names carry their unit. Times that end in `_ns` are the host's monotonic clock, those that end in
`_utc_ns` are UTC since 1970. A column that is not required is null where nobody knows the value;
null is never 0.
"""

import pyarrow as pa

from agentsweep.tables.run_columns import HOST, RUN_ID, RUNS, TOKENS, Column

# Raise it when a column is renamed, removed or changes its meaning.
VERSION = 2

_TYPES = {"int": pa.int64(), "float": pa.float64(), "bool": pa.bool_(), "text": pa.string()}

TABLE_DESCRIPTIONS = {
    "runs": "One row for each run: one agent, one task, one pair of limits, one replicate.",
    "tool_calls": "One row for each tool call, those of sub-agents included.",
    "api_calls": "One row for each request that the agent sent to its model endpoint.",
    "messages": "One row for each message of the session; tokens count once for each message id.",
    "samples": "The container's raw counters over time; cumulative integers and levels, no rates.",
    "tests": "One row for each test that graded a run's patch.",
    "hosts": "One row for each distinct machine and engine that runs were measured on.",
}


_COUNTERS: list[Column] = [
    (
        "memory_current_bytes",
        "int",
        "bytes",
        "Memory charged to the container, page cache included",
    ),
    ("memory_anon_bytes", "int", "bytes", "Anonymous memory: heaps and stacks"),
    ("memory_file_bytes", "int", "bytes", "Page cache, shared memory included"),
    ("memory_kernel_bytes", "int", "bytes", "Memory of the kernel for the container"),
    ("memory_slab_bytes", "int", "bytes", "Slab part of it; null on cgroup v1"),
    ("memory_shmem_bytes", "int", "bytes", "Shared memory and tmpfs"),
    ("memory_inactive_file_bytes", "int", "bytes", "Page cache that is reclaimed first"),
    ("memory_swap_bytes", "int", "bytes", "Swap in use"),
    ("memory_oom_kill", "int", "kills", "Processes killed for memory; cumulative"),
    ("memory_failcnt", "int", "events", "Times that the memory limit was hit; cumulative"),
    ("cpu_usage_usec", "int", "us", "CPU time; cumulative"),
    ("cpu_user_usec", "int", "us", "CPU time in user mode; cumulative"),
    ("cpu_system_usec", "int", "us", "CPU time in the kernel; cumulative"),
    ("cpu_nr_periods", "int", "periods", "CFS periods in which the container ran; cumulative"),
    ("cpu_nr_throttled", "int", "periods", "CFS periods in which it was throttled; cumulative"),
    ("cpu_throttled_usec", "int", "us", "Time throttled, summed over CPUs; cumulative"),
    ("pids_current", "int", "tasks", "Processes and threads"),
    ("io_read_bytes", "int", "bytes", "Bytes read from block devices; cumulative"),
    ("io_write_bytes", "int", "bytes", "Bytes written to block devices; cumulative"),
    ("cpu_pressure_some_usec", "int", "us", "Time in which a task waited for CPU; cumulative"),
    (
        "memory_pressure_some_usec",
        "int",
        "us",
        "Time in which a task waited for memory; cumulative",
    ),
    ("memory_pressure_full_usec", "int", "us", "Time in which all waited for memory; cumulative"),
    ("io_pressure_some_usec", "int", "us", "Time in which a task waited for I/O; cumulative"),
    ("io_pressure_full_usec", "int", "us", "Time in which all waited for I/O; cumulative"),
]

_COLUMNS: dict[str, list[Column]] = {
    "runs": RUNS,
    "tool_calls": [
        RUN_ID,
        (
            "tool_call_id",
            "text!",
            "",
            "Id of the call; with a suffix (_2, ...) where a server gave one id to several",
        ),
        ("name", "text", "", "Tool"),
        ("category", "text", "", "What the call does: test, build, read, ..."),
        ("agent_id", "text", "", "Sub-agent that made the call; null for the main chain"),
        ("parent_id", "text", "", "Call that started that sub-agent"),
        ("message_id", "text", "", "Message that asked for the call"),
        ("requested_utc_ns", "int", "ns", "When the trace has the request"),
        ("start_ns", "int", "ns", "Start"),
        ("end_ns", "int", "ns", "End; null when it never ended"),
        ("start_utc_ns", "int", "ns", "Start"),
        ("end_utc_ns", "int", "ns", "End"),
        ("duration_s", "float", "s", "End minus start; an upper bound if the source is trace"),
        ("duration_lower_s", "float", "s", "Lower bound of the duration"),
        ("time_source", "text", "", "Source of start and end: exact or trace"),
        ("finished", "bool", "", "Whether the trace has a result"),
        ("is_error", "bool", "", "Whether the result is an error"),
        ("exit_code", "int", "", "Exit code of the command"),
        (
            "timed_out",
            "bool",
            "",
            "Whether the agent's time limit for it ended it; null without a result",
        ),
        ("killed", "bool", "", "Whether SIGKILL ended it; null where nothing tells how it ended"),
        ("interrupted", "bool", "", "Whether the user interrupted it; null without a result"),
        ("background", "bool", "", "Whether it went on in the background"),
        ("background_status", "text", "", "How the background task ended"),
        ("background_end_utc_ns", "int", "ns", "When the background task ended"),
        ("mem_before_bytes", "int", "bytes", "Container's memory before the call"),
        ("mem_peak_bytes", "int", "bytes", "Container's peak memory during the call"),
        ("mem_after_bytes", "int", "bytes", "Container's memory after the call"),
        ("mem_peak_source", "text", "", "Source of the peak: watermark, counter or sampled"),
        ("cpu_usec", "int", "us", "Container's CPU time during the call"),
        ("oom_kill_count", "int", "kills", "Kernel OOM kills during the call"),
        ("mark_seq", "int", "", "Number of the wrapper's mark"),
        ("end_source", "text", "", "How the wrapper's end was seen: mark, exit or stop"),
        ("result_chars", "int", "characters", "Length of the result"),
        # Of replays alone
        (
            "replay_status",
            "text",
            "",
            "Against the recorded call: same, text_differs, state_differs, killed, timed_out, "
            "unfinished, unavailable or unrecorded",
        ),
        (
            "fidelity",
            "float",
            "",
            "1 if same, result_similarity if only the text differs, 0 for another end; null if "
            "unavailable or unrecorded",
        ),
        (
            "result_similarity",
            "float",
            "",
            "How alike the two results' texts are, 0 to 1, what the agent adds to them left out",
        ),
        ("recorded_is_error", "bool", "", "Whether the recorded result is an error"),
        ("recorded_exit_code", "int", "", "Exit code of the recorded command"),
        ("recorded_result_chars", "int", "characters", "Length of the recorded result"),
        (
            "test_interpreter",
            "text",
            "",
            "Python version in the banner of a test runner in the result",
        ),
        ("command", "text", "", "Shell command"),
    ],
    "api_calls": [
        RUN_ID,
        ("seq", "int!", "", "Number of the request in its run, from 1"),
        ("source", "text", "", "Who saw it: gateway or trace"),
        ("kind", "text", "", "main, subagent, side or other"),
        ("agent_id", "text", "", "Sub-agent that asked"),
        ("turn", "text", "", "Turn of the scenario or recording that answered"),
        ("message_id", "text", "", "Message that came back"),
        ("request_sha256", "text", "", "Hash of the request's body"),
        ("method", "text", "", "HTTP method"),
        ("path", "text", "", "HTTP path"),
        ("model", "text", "", "Model asked for"),
        ("stream", "bool", "", "Whether the answer was streamed"),
        ("start_ns", "int", "ns", "Request received"),
        ("first_byte_ns", "int", "ns", "First byte of the answer sent"),
        ("end_ns", "int", "ns", "Answer ended"),
        ("start_utc_ns", "int", "ns", "Request received"),
        ("end_utc_ns", "int", "ns", "Answer ended"),
        ("status", "int", "", "HTTP status"),
        ("error", "text", "", "What went wrong"),
        ("retry", "int", "", "0 for the first try, 1 for the first repetition, ..."),
        ("stop_reason", "text", "", "Why the model stopped"),
        (
            "queued_ns",
            "int",
            "ns",
            "Time for which the gateway held the request back because of the run's budget; part of "
            "the time to the first byte; null where it was refused before, and in older runs",
        ),
        ("request_bytes", "int", "bytes", "Size of the request's body"),
        ("response_bytes", "int", "bytes", "Size of the answer's body"),
        *TOKENS,
    ],
    "messages": [
        RUN_ID,
        (
            "message_id",
            "text!",
            "",
            "API message id, or the record's id for the user's; with a suffix (_2, ...) where a "
            "server gave one id to several answers",
        ),
        ("role", "text", "", "assistant or user"),
        ("kind", "text", "", "text, thinking, tool_use, error, prompt, tool_result, ..."),
        ("agent_id", "text", "", "Sub-agent whose message it is"),
        ("model", "text", "", "Model that answered"),
        ("other_models", "text", "", "Other models that helped; the tokens include theirs"),
        ("request_id", "text", "", "API request id"),
        ("start_utc_ns", "int", "ns", "When the model was asked, where known"),
        ("start_source", "text", "", "Source of the start: request or previous"),
        ("first_utc_ns", "int", "ns", "First record of the message"),
        ("last_utc_ns", "int", "ns", "Last record of the message"),
        ("stop_reason", "text", "", "Why the model stopped"),
        ("n_records", "int", "records", "Records that the message is spread over"),
        ("n_text_blocks", "int", "blocks", "Text blocks"),
        ("n_thinking_blocks", "int", "blocks", "Thinking blocks"),
        ("n_tool_use_blocks", "int", "blocks", "Tool calls"),
        *TOKENS,
        ("output_tokens_final", "bool", "", "Whether output_tokens is the final number"),
        (
            "record_output_tokens",
            "int",
            "tokens",
            "Output tokens summed over the records, which all repeat them: not a count of tokens",
        ),
    ],
    "samples": [
        RUN_ID,
        ("t_ns", "int!", "ns", "Time of the sample"),
        ("utc_ns", "int!", "ns", "Time of the sample"),
        *_COUNTERS,
        # What other recorders have in the place of counters.
        (
            "cpu_usage_error_usec",
            "int",
            "us",
            "Half-width of the uncertainty of a cpu_usage_usec that was reconstructed",
        ),
        ("stats_memory_bytes", "int", "bytes", "Memory as the engine's `stats` command prints it"),
        (
            "stats_cpu_percent",
            "float",
            "% of a core",
            "CPU as the engine's `stats` command prints it: the average since the start",
        ),
    ],
    "tests": [
        RUN_ID,
        ("test_id", "text!", "", "Name of the test"),
        ("kind", "text", "", "fail_to_pass or pass_to_pass; null where the task names it nowhere"),
        ("outcome", "text!", "", "passed, xfailed, skipped, failed, error or missing"),
        ("duration_s", "float", "s", "Duration of the test"),
        ("grader", "text", "", "Version of the grading's evidence: 2 has what its plugin saw"),
    ],
    "hosts": [*HOST, ("n_runs", "int!", "runs", "Runs measured there")],
}


def _field(name: str, kind: str, unit: str, description: str) -> pa.Field:
    metadata = {"description": description} | ({"unit": unit} if unit else {})
    return pa.field(
        name, _TYPES[kind.rstrip("!")], nullable=not kind.endswith("!"), metadata=metadata
    )


SCHEMAS: dict[str, pa.Schema] = {
    table: pa.schema(
        [_field(*column) for column in columns],
        metadata={"agentsweep_table": table, "agentsweep_schema": str(VERSION)},
    )
    for table, columns in _COLUMNS.items()
}
