"""What the tables are: every column's name, type, unit and meaning, in one place.

Names carry their unit. Times that end in `_ns` are the host's monotonic clock, those that end in
`_utc_ns` are UTC since 1970. A column that is not required is null where nobody knows the value;
null is never 0.
"""

import pyarrow as pa

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

# name, type (! = required), unit, meaning
_RUN_ID = ("run_id", "text!", "", "The run: its cell's id, or the importer's name for it")

_HOST = [
    ("hostname", "text", "", "Name of the machine"),
    ("kernel", "text", "", "Kernel release"),
    ("cpu_model", "text", "", "Processor"),
    ("host_cpu_count", "int", "CPUs", "CPUs of the machine"),
    ("host_memory_bytes", "int", "bytes", "Memory of the machine"),
    ("host_swap_total_bytes", "int", "bytes", "Swap of the machine"),
    ("engine", "text", "", "Container engine: podman or docker"),
    ("engine_version", "text", "", "Version of the engine"),
    ("runtime", "text", "", "OCI runtime of the engine"),
    ("storage_driver", "text", "", "Storage driver of the engine"),
    ("rootless", "bool", "", "Whether the engine ran without root"),
    ("cgroup_version", "int", "", "1 or 2: where the counters come from"),
]

_TOKENS = [
    ("input_tokens", "int", "tokens", "Input tokens outside the prompt cache"),
    ("output_tokens", "int", "tokens", "Output tokens; a lower bound unless final"),
    ("cache_read_input_tokens", "int", "tokens", "Input tokens read from the prompt cache"),
    ("cache_creation_input_tokens", "int", "tokens", "Input tokens written to the prompt cache"),
]

_COUNTERS = [
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

_COLUMNS: dict[str, list[tuple[str, str, str, str]]] = {
    "runs": [
        _RUN_ID,
        # Identity
        ("dataset", "text", "", "The data set that the run belongs to"),
        ("source", "text", "", "measured or imported"),
        (
            "selected",
            "bool",
            "",
            "Whether the data set counts the run; false for an attempt that another one supersedes",
        ),
        ("task", "text", "", "Name of the task in the configuration"),
        ("instance_id", "text", "", "Benchmark's id of the task"),
        ("agent", "text", "", "Name of the agent in the configuration"),
        ("agent_version", "text", "", "Version of the agent, from the trace"),
        ("agent_binary_sha256", "text", "", "Hash of the agent's binary"),
        ("model", "text", "", "Model that answered in the main chain, from the trace"),
        ("model_requested", "text", "", "Model that was asked for"),
        ("model_mode", "text", "", "Where the answers come from: scripted, replay or live"),
        ("subagent_models", "text", "", "Models of sub-agents, from the trace; comma-separated"),
        ("replicate", "int", "", "Number of the repetition, from 0"),
        ("spec_sha256", "text", "", "Hash of everything that decides the run's outcome"),
        ("attempt", "int", "", "Number of the attempt in the run store, from 1"),
        ("attempt_id", "text", "", "The attempt in the run store"),
        ("session_id", "text", "", "The agent's session"),
        # Limits
        ("mem_limit_bytes", "int", "bytes", "Memory limit asked for"),
        ("mem_effective_bytes", "int", "bytes", "Memory limit in force, read from the kernel"),
        ("mem_cgroup", "text", "", "The cgroup that the memory limit in force belongs to"),
        ("swap_limit_bytes", "int", "bytes", "Swap allowed beside the memory limit"),
        ("swap_effective_bytes", "int", "bytes", "Swap in force, read from the kernel"),
        ("cpu_limit", "float", "CPUs", "CPU limit asked for"),
        ("cpu_effective", "float", "CPUs", "CPU limit in force, read from the kernel"),
        ("cpu_cgroup", "text", "", "The cgroup that the CPU limit in force belongs to"),
        ("cpu_mode", "text", "", "How CPUs are limited: quota or cpuset"),
        ("cpuset", "text", "", "CPUs that the container may use"),
        ("nproc", "int", "CPUs", "CPUs that a process in the container sees"),
        ("pids_limit", "int", "tasks", "Limit of processes and threads"),
        ("pids_effective", "int", "tasks", "Limit of processes and threads in force"),
        (
            "scope",
            "text",
            "",
            "Whether the limits of the run's Slurm job hold for its container too: job (it is in "
            "the job's cgroup), outside, or none (there was no Slurm job)",
        ),
        # What happened
        ("outcome", "text", "", "One of the closed set of outcomes"),
        ("outcome_detail", "text", "", "The outcome in one sentence"),
        ("exit_code", "int", "", "Exit code of the agent; null when it was lost"),
        (
            "tool_oom_count",
            "int",
            "kills",
            "Kernel OOM kills that the agent survived; null when their order is not known (the "
            "agent was killed too, and the kernel's log does not say when)",
        ),
        (
            "tool_oom_count_max",
            "int",
            "kills",
            "What tool_oom_count is at most; equal to it when it is known",
        ),
        ("oom_kill_count", "int", "kills", "Kernel OOM kills in the agent's phase"),
        ("agent_oom_victim", "bool", "", "Whether the kernel killed the agent for memory"),
        ("container_oom_victim", "bool", "", "Whether the kernel killed the container's init"),
        ("leftover_processes", "int", "processes", "Processes that outlived the agent"),
        (
            "endpoint_tools",
            "text",
            "",
            "What a live run could have its endpoint run or fetch outside of the sandbox: names, "
            "or none; null for runs from before this was checked and in other modes",
        ),
        (
            "n_not_allowed",
            "int",
            "requests",
            "Requests that the gateway refused because they asked for such a tool or source, "
            "another model or another tier; null as endpoint_tools",
        ),
        ("terminal_reason", "text", "", "Why the agent ended, in its own words"),
        ("is_error", "bool", "", "Whether the agent itself reports an error"),
        ("num_turns", "int", "turns", "Turns, as the agent counts them"),
        (
            "claims_differ",
            "text",
            "",
            "Where the agent's last report contradicts the exit code or the gateway, with both; "
            "null where nothing differs",
        ),
        (
            "prompt_issue_chars",
            "int",
            "characters",
            "Issue text in the first prompt of an imported run; 0 when it had none",
        ),
        ("patch_status", "text", "", "ok, empty or unavailable"),
        ("patch_sha256", "text", "", "Hash of the patch that the run left"),
        ("patch_bytes", "int", "bytes", "Size of the patch"),
        ("patch_reason", "text", "", "Why the patch is unavailable, or what it lacks"),
        (
            "patch_cause",
            "text",
            "",
            "Of an unavailable patch: run (what the agent left, or the limits) or image",
        ),
        (
            "row_sha256",
            "text",
            "",
            "Hash of the benchmark row: that which the patch was graded by, else that of when the "
            "run was made; null without one",
        ),
        (
            "resolved",
            "bool",
            "",
            "Whether all tests of the task passed with the patch; null when not graded",
        ),
        ("grade_status", "text", "", "What grading came to, as docs/grading.md lists it"),
        ("grade_detail", "text", "", "Why, in one sentence"),
        (
            "grade_evidence",
            "text",
            "",
            "What the verdict was read from: pytest's report and summary and, since evidence of "
            "version 2, the grading's own plugin; null where no test ran",
        ),
        # Counters over the agent's phase
        ("mem_start_bytes", "int", "bytes", "Memory charged when the agent started"),
        ("mem_peak_bytes", "int", "bytes", "Peak of the memory charged in the agent's phase"),
        ("mem_peak_source", "text", "", "Source of the peak: counter, watermark or sampled"),
        ("mem_failcnt", "int", "events", "Times that the memory limit was hit"),
        ("cpu_usage_usec", "int", "us", "CPU time of the agent and its tools"),
        (
            "cpu_source",
            "text",
            "",
            "Source of CPU times: counter, or reconstructed from averages since the start",
        ),
        ("cpu_user_usec", "int", "us", "CPU time in user mode"),
        ("cpu_system_usec", "int", "us", "CPU time in the kernel"),
        ("cpu_nr_periods", "int", "periods", "CFS periods in which the container ran"),
        ("cpu_nr_throttled", "int", "periods", "CFS periods in which it was throttled"),
        ("cpu_throttled_usec", "int", "us", "Time throttled, summed over CPUs"),
        ("io_read_bytes", "int", "bytes", "Bytes read from block devices"),
        ("io_write_bytes", "int", "bytes", "Bytes written to block devices"),
        ("cpu_pressure_some_usec", "int", "us", "Time in which a task waited for CPU"),
        ("memory_pressure_some_usec", "int", "us", "Time in which a task waited for memory"),
        ("memory_pressure_full_usec", "int", "us", "Time in which all waited for memory"),
        ("io_pressure_some_usec", "int", "us", "Time in which a task waited for I/O"),
        ("io_pressure_full_usec", "int", "us", "Time in which all waited for I/O"),
        # Time
        ("started_utc_ns", "int", "ns", "Start of the attempt"),
        ("ended_utc_ns", "int", "ns", "End of the attempt"),
        ("agent_start_ns", "int", "ns", "Start of the agent"),
        ("agent_end_ns", "int", "ns", "End of the agent"),
        ("agent_start_utc_ns", "int", "ns", "Start of the agent"),
        ("agent_end_utc_ns", "int", "ns", "End of the agent"),
        ("trace_first_utc_ns", "int", "ns", "Earliest time stamp in the session's files"),
        ("trace_last_utc_ns", "int", "ns", "Latest time stamp in the session's files"),
        ("wall_s", "float", "s", "The whole attempt, preflight to teardown"),
        ("agent_s", "float", "s", "The agent's phase, its start to its end"),
        ("container_s", "float", "s", "From creating the container to the agent's end"),
        ("pull_s", "float", "s", "Pulling the image; paid once for each image"),
        ("fix_s", "float", "s", "Fixing the image's owner; paid once for each image"),
        ("preflight_s", "float", "s", "Checks before the container"),
        ("create_s", "float", "s", "Creating the container"),
        ("start_s", "float", "s", "Starting the container"),
        ("verify_s", "float", "s", "Reading the limits back from the kernel"),
        ("exec_s", "float", "s", "From the engine's exec to the agent's process"),
        ("collect_s", "float", "s", "Collecting the session and the patch"),
        ("services_s", "float", "s", "Ending sampler and endpoint"),
        ("teardown_s", "float", "s", "Removing the container"),
        ("startup_s", "float", "s", "From the agent's start to its first request to the model"),
        ("model_s", "float", "s", "Time with a request to the model open (union of intervals)"),
        ("tool_s", "float", "s", "Time with a tool at work (union; a sub-agent is no tool)"),
        ("overlap_s", "float", "s", "Time with both open: part of model_s and of tool_s"),
        ("other_s", "float", "s", "Rest of agent_s: neither start-up, nor model, nor tool"),
        ("tool_time_source", "text", "", "Worst source of the tools' times: exact or trace"),
        # Counts
        ("n_messages", "int", "messages", "Messages of the session, sub-agents included"),
        ("n_assistant_messages", "int", "messages", "Those of the model"),
        ("n_tool_calls", "int", "calls", "Tool calls, sub-agents included"),
        ("n_bash_calls", "int", "calls", "Tool calls that run a shell command"),
        ("n_tool_errors", "int", "calls", "Tool calls that gave an error"),
        ("n_tool_unfinished", "int", "calls", "Tool calls without a result"),
        ("n_api_calls", "int", "calls", "Requests to the model"),
        ("n_api_errors", "int", "calls", "Those that failed"),
        ("n_subagents", "int", "agents", "Sub-agents"),
        (
            "n_subagents_missing",
            "int",
            "agents",
            "Those whose own session file is not there: what they did is in no number, or in part",
        ),
        ("n_compactions", "int", "times", "Times that the conversation was compacted"),
        *_TOKENS,
        ("output_tokens_final", "bool", "", "Whether output_tokens is exact for every message"),
        (
            "cost_usd",
            "float",
            "USD",
            "Cost, by the gateway's count where the run has a price, else as the agent says; "
            "of a scripted or replayed run nothing was paid",
        ),
        # Of replays alone
        (
            "fidelity",
            "float",
            "",
            "Mean fidelity of the tool calls that have one (see tool_calls), 0 to 1; says nothing "
            "of recorded calls that the run did not come to",
        ),
        ("replay_source_sha256", "text", "", "Hash of the recording"),
        ("replay_turns", "int", "turns", "Turns of the recording, sub-agents included"),
        ("replay_turns_played", "int", "turns", "Those that the run came to"),
        ("n_recorded_calls", "int", "calls", "Tool calls of the recording"),
        ("n_compared_calls", "int", "calls", "Tool calls that have a fidelity"),
        ("n_same_calls", "int", "calls", "Those with the recorded result"),
        ("n_limited_calls", "int", "calls", "Those that were killed or timed out here alone"),
        ("diverged_turn", "int", "", "Turn of a conversation at which the run left its recording"),
        ("diverged_reason", "text", "", "Why it left it; null where it did not"),
        # How good the evidence is
        ("trace_status", "text", "", "ok, damaged, empty or missing"),
        ("trace_lines", "int", "lines", "Lines of the session's files"),
        ("trace_bad_lines", "int", "lines", "Lines that could not be used"),
        ("trace_unknown_records", "int", "records", "Records of a type that is not known"),
        ("damage", "text", "", "Other files that were missing or damaged, and how"),
        (
            "seal",
            "text",
            "",
            "Whether the run's files are what was sealed: sha256 (they are), damaged, or none (it "
            "has no hashes, as runs of earlier versions)",
        ),
        ("n_samples", "int", "samples", "Samples of the run"),
        ("samples_status", "text", "", "ok, damaged, empty or missing"),
        ("sampled_s", "float", "s", "First to last sample"),
        ("samples_missed", "int", "samples", "Samples that came too late to be taken"),
        ("rate_hz", "float", "Hz", "Samples asked for in a second"),
        ("sampler_cpu_s", "float", "s", "CPU time of the sampler, outside the container"),
        ("n_marks", "int", "calls", "Shell calls that the wrapper saw"),
        ("n_marks_unmatched", "int", "calls", "Those that belong to no call of the trace"),
        # Image, host, code
        ("image_reference", "text", "", "Reference of the task's image"),
        ("image_digest", "text", "", "Digest of the task's image"),
        ("image_id", "text", "", "Id of the image after the fix"),
        ("image_size_bytes", "int", "bytes", "Size of the image after the fix"),
        *_HOST,
        ("load1_start", "float", "tasks", "Load average over a minute at the start"),
        ("load1_end", "float", "tasks", "Load average over a minute at the end"),
        ("pswpin_pages", "int", "pages", "Pages that the machine swapped in during the run"),
        ("pswpout_pages", "int", "pages", "Pages that the machine swapped out during the run"),
        ("runner_version", "text", "", "Version of agentsweep that made the run"),
        ("runner_sha256", "text", "", "Hash of the code that made the run"),
    ],
    "tool_calls": [
        _RUN_ID,
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
        _RUN_ID,
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
        *_TOKENS,
    ],
    "messages": [
        _RUN_ID,
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
        *_TOKENS,
        ("output_tokens_final", "bool", "", "Whether output_tokens is the final number"),
        (
            "record_output_tokens",
            "int",
            "tokens",
            "Output tokens summed over the records, which all repeat them: not a count of tokens",
        ),
    ],
    "samples": [
        _RUN_ID,
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
        _RUN_ID,
        ("test_id", "text!", "", "Name of the test"),
        ("kind", "text", "", "fail_to_pass or pass_to_pass; null where the task names it nowhere"),
        ("outcome", "text!", "", "passed, xfailed, skipped, failed, error or missing"),
        ("duration_s", "float", "s", "Duration of the test"),
        ("grader", "text", "", "Version of the grading's evidence: 2 has what its plugin saw"),
    ],
    "hosts": [*_HOST, ("n_runs", "int!", "runs", "Runs measured there")],
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
