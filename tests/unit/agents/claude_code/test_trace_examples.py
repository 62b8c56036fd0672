"""Recorded sessions of several CLI versions against what their scripted endpoint really sent."""

import json
from pathlib import Path

import pytest
from recorded_sessions import (
    EXAMPLES,
    RUNS,
    main_files,
    needs_examples,
    needs_runs,
    parameters,
)

from agentsweep.agents.claude_code.trace import parse_file, summary


def sent(path: Path) -> dict[str, dict]:
    """What the endpoint sent, by message id (ids are unique except those of warm-up agents)."""
    log = path.parent / "mock_requests.log.jsonl"
    if not log.exists():
        pytest.skip(f"{path.parent.name} has no request log")
    messages = {}
    for line in log.read_text(encoding="utf-8").splitlines():
        entry = json.loads(line)
        reply = entry.get("sent")
        if isinstance(reply, dict) and reply.get("message_id"):
            messages.setdefault(reply["message_id"], []).append({**reply, "entry": entry})
    return messages


def test_examples_are_complete():
    if not EXAMPLES.is_dir():
        pytest.skip(f"NOT CHECKED: {EXAMPLES} is absent")
    assert len(main_files()) >= 20


@needs_examples
@pytest.mark.parametrize("path", parameters())
def test_nothing_is_unusable_and_the_version_is_right(path):
    trace = parse_file(path)
    made = summary(trace)
    json.dumps(made)
    assert made["status"] == "ok"
    assert made["version"] == path.parent.name.split("_")[0]
    assert made["session_id"] == path.stem
    assert made["unknown_record_types"] == {}
    lines = sum(f.read_bytes().count(b"\n") for f in map(Path, trace.files))
    assert made["lines"]["total"] == lines == sum(made["record_types"].values())


@needs_examples
@pytest.mark.parametrize("path", parameters())
def test_tokens_are_those_that_were_sent(path):
    """Input tokens in every version; output tokens wherever the trace claims to have them."""
    truth = sent(path)
    messages = [m for m in parse_file(path).messages if m.role == "assistant" and m.kind != "error"]
    for message in messages:
        replies = truth[message.id]
        if len(replies) > 1:
            continue  # the endpoint gave one id to all warm-up requests
        usage = replies[0]["usage"]
        assert message.usage.input_tokens == usage["input_tokens"]
        assert message.usage.cache_read_input_tokens == usage["cache_read_input_tokens"]
        assert message.usage.cache_creation_input_tokens == usage["cache_creation_input_tokens"]
        if message.usage.output_final:
            assert message.usage.output_tokens == usage["output_tokens"]
            assert message.stop_reason == replies[0]["stop_reason"]
        assert message.model == replies[0]["entry"]["model"]
    final = all(message.usage.output_final for message in messages)
    version = path.parent.name.split("_")[0]
    if version == "2.1.16":
        assert not any(message.usage.output_final for message in messages)
    if version in ("2.1.69", "2.1.330"):
        assert final


@needs_examples
@pytest.mark.parametrize("path", parameters())
def test_every_tool_that_was_asked_for_is_there_once(path):
    truth = sent(path)
    asked = {}
    messages = {m.id for m in parse_file(path).messages}
    for message_id, replies in truth.items():
        if message_id in messages:
            blocks = replies[0]["blocks"]
            asked[message_id] = [b.split(":", 1)[1] for b in blocks if b.startswith("tool_use:")]
    calls = parse_file(path).tool_calls
    made = {}
    for call in calls:
        made.setdefault(call.message_id, []).append(call.name)
    assert {m: sorted(names) for m, names in made.items()} == {
        m: sorted(names) for m, names in asked.items() if names
    }
    assert len({call.id for call in calls}) == len(calls)


@needs_examples
@pytest.mark.parametrize("path", parameters())
def test_tool_bounds_are_in_order_and_between_the_requests(path):
    """A tool runs after the request that asked for it began and before its result was sent."""
    truth = sent(path)
    for call in parse_file(path).tool_calls:
        if not call.finished:
            assert path.parent.name == "2.1.330_sigkill"
            continue
        assert call.requested_utc_ns <= call.start_utc_ns <= call.start_latest_utc_ns
        assert call.start_latest_utc_ns <= call.end_utc_ns
        asked = truth[call.message_id][0]["entry"]["t"]
        assert asked <= call.start_utc_ns / 1e9 + 0.002


@needs_examples
@pytest.mark.parametrize("path", parameters())
def test_every_subagent_is_linked_or_a_warm_up(path):
    trace = parse_file(path)
    starts = {call.id for call in trace.tool_calls if call.name in ("Agent", "Task")}
    for agent in trace.agents:
        assert agent.warmup or agent.parent_id in starts
    for call in trace.tool_calls:
        assert (call.parent_id is None) == (call.agent_id is None)
    expected = {"subagent": 1, "subagents": 2}.get(path.parent.name.split("_")[1], 0)
    assert sum(not agent.warmup for agent in trace.agents) == expected
    if path.parent.name.startswith("2.0.77"):
        assert sum(agent.warmup for agent in trace.agents) == 3


@needs_examples
@pytest.mark.parametrize("path", [p for p in parameters() if "2.1.330" in p.id])
def test_requests_and_cost_agree_with_the_endpoint(path):
    truth = sent(path)
    made = summary(parse_file(path))
    log = (path.parent / "mock_requests.log.jsonl").read_text(encoding="utf-8").splitlines()
    posts = [json.loads(line) for line in log]
    posts = [p for p in posts if p.get("method") == "POST" and "/v1/messages" in p["path"]]
    assert made["api"]["attempts"] == len(posts)
    for message in parse_file(path).messages:
        if message.start_source == "request":
            began = truth[message.id][-1]["entry"]["t"]
            # The CLI writes its note at the moment of sending, a few ms before or after.
            assert -0.05 < began - message.start_utc_ns / 1e9 < 0.5


@needs_examples
def test_exit_codes_of_the_failing_commands():
    (path,) = EXAMPLES.glob("2.1.330_failing_bash/1*.jsonl")
    calls = {call.command: call for call in parse_file(path).tool_calls if call.command}
    assert calls["echo out1; echo err1 >&2; exit 3"].exit_code == 3
    assert calls["grep -q nosuch /etc/hostname"].exit_code is None
    assert calls["kill -9 $$"].exit_code == 1
    assert calls["bash -c 'kill -9 $$'; exit $?"].exit_code == 137
    assert calls["nosuchcmd_xyz"].exit_code == 127
    timed_out = calls["sleep 5; echo never"]
    assert (timed_out.exit_code, timed_out.timed_out) == (143, True)
    assert calls["pwd; true"].exit_code == 0


@needs_examples
def test_a_command_in_the_background():
    (path,) = EXAMPLES.glob("2.1.330_timeout_autobackground/1*.jsonl")
    (call,) = parse_file(path).tool_calls
    assert call.background and call.timed_out and call.background_status == "completed"
    assert 6.9 < (call.background_end_utc_ns - call.start_utc_ns) / 1e9 < 7.5
    assert call.duration_upper_s == pytest.approx(2.078)
    assert call.exit_code == 0


@needs_examples
def test_retried_and_fatal_api_errors():
    (path,) = EXAMPLES.glob("2.1.330_api_error_retry/1*.jsonl")
    made = summary(parse_file(path))["api"]
    assert (made["errors_retried"], made["errors_fatal"]) == (2, 0)
    assert {error["status"] for error in made["errors"]} == {529}
    assert made["attempts_without_message"] == 2
    (path,) = EXAMPLES.glob("2.1.330_api_error_fatal/1*.jsonl")
    made = summary(parse_file(path))["api"]
    assert (made["errors_retried"], made["errors_fatal"]) == (0, 1)
    assert made["errors"][0]["status"] == 400


@needs_examples
def test_exact_tool_times_lie_within_the_bounds():
    """The CLI's own telemetry spans of a session with four calls in one message."""
    (path,) = EXAMPLES.glob("2.1.330_multi_tool_otel/3*.jsonl")
    spans = {}
    for dump in sorted(path.parent.glob("otlp/*.json")):
        for name, span in _spans(json.loads(dump.read_text(encoding="utf-8"))):
            if name == "claude_code.tool.execution":
                spans[span["tool_use_id"]] = (span["start"], span["end"])
    calls = {call.id: call for call in parse_file(path).tool_calls}
    assert len(spans) == 4 and set(spans) <= set(calls)
    for tool_use_id, (start, end) in spans.items():
        call = calls[tool_use_id]
        assert call.requested_utc_ns - 3e6 <= start and end <= call.end_utc_ns + 3e6
        assert end - start <= call.duration_upper_s * 1e9 + 3e6


def _spans(dump: dict):
    body = dump.get("body", dump)
    for resource in body.get("resourceSpans", ()):
        for scope in resource.get("scopeSpans", ()):
            for span in scope.get("spans", ()):
                attributes = {
                    a["key"]: next(iter(a["value"].values())) for a in span.get("attributes", ())
                }
                times = {
                    "start": int(span["startTimeUnixNano"]),
                    "end": int(span["endTimeUnixNano"]),
                }
                yield span["name"], {**attributes, **times}


@pytest.mark.slow
@needs_runs
def test_recorded_runs_of_real_models():
    """The numbers of messages and calls are known from an independent count of these files."""
    files = sorted(RUNS.glob("**/trace.jsonl"))
    by_model: dict[str, list[int]] = {}
    unfinished = 0
    for path in files:
        trace = parse_file(path)
        assert trace.status == "ok"
        unfinished += sum(not call.finished for call in trace.tool_calls)
        assert all(agent.parent_id for agent in trace.agents)
        for message in trace.messages:
            if message.role == "assistant" and message.kind != "error":
                counts = by_model.setdefault(message.model, [0, 0])
                counts[0] += 1
                counts[1] += not message.usage.output_final
    assert unfinished == 0
    assert by_model["claude-3-5-haiku-20241022"] == [796, 794]
    assert by_model["claude-sonnet-4-5-20250929"] == [268, 267]
    assert by_model["unsloth/GLM-4.7-Flash-GGUF:Q4_K_M"] == [5641, 1]
