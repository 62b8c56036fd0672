"""Sessions put together from made-up files: one test for each way in which they can be awkward."""

import json
import random

import pytest
from session_maker import MODEL, SESSION, Session, encode, small_session, stamp, succeeded

from agentsweep.agents.claude_code.records import KNOWN_TYPES, format_time, parse_time
from agentsweep.agents.claude_code.trace import (
    Source,
    main_trace,
    parse_file,
    parse_session,
    parse_sources,
    summary,
)
from agentsweep.errors import AgentsweepError


def parse(*sessions: Session):
    sources = [
        Source(f"file{i}", lambda s=session: s.lines(), session.agent)
        for i, session in enumerate(sessions)
    ]
    return parse_sources(sources)


def calls_of(trace):
    return {call.id: call for call in trace.tool_calls}


def at(second: float) -> int:
    return parse_time(stamp(second))


# --- the whole ---


def test_small_session():
    trace = parse(small_session())
    assert trace.status == "ok"
    assert trace.session_id == SESSION and trace.version == "2.1.330"
    assert trace.models(subagents=False) == [MODEL] and trace.models(subagents=True) == []
    made = summary(trace)
    json.dumps(made)
    assert made["messages"]["by_role"] == {"assistant": 3, "user": 3}
    assert made["messages"]["by_kind"] == {"tool_result": 2, "tool_use": 2, "prompt": 1, "text": 1}
    tokens = made["tokens"]
    assert (tokens["input_tokens"], tokens["output_tokens"]) == (12, 60)
    assert tokens["cache_read_input_tokens"] == 300
    assert tokens["cache_creation_input_tokens"] == 60
    assert tokens["output_tokens_final"] is True
    assert tokens["by_model"][MODEL]["output_tokens"] == 60
    assert made["first_timestamp"] == stamp(0) and made["last_timestamp"] == stamp(6)
    assert made["duration_s"] == 6.0
    assert made["tools"]["by_name"] == {"Bash": 1, "Read": 1}
    assert made["record_types"] == {
        "assistant": 4,
        "user": 3,
        "last-prompt": 1,
        "queue-operation": 1,
    }
    assert made["lines"]["total"] == 9 and made["lines"]["unusable"] == 0


@pytest.mark.parametrize("seed", range(20))
def test_the_order_of_lines_decides_nothing(seed):
    session = small_session()
    expected = summary(parse(session))
    random.Random(seed).shuffle(session.records)
    made = summary(parse(session))
    assert made == expected


def test_every_known_type_and_an_unknown_one_are_counted():
    session = small_session()
    for kind in sorted(KNOWN_TYPES):
        session.other(kind)
    session.other("from-the-future", sessionId=SESSION, payload={"type": "user"})
    made = summary(parse(session))
    assert made["status"] == "ok"
    assert set(made["record_types"]) == KNOWN_TYPES | {"from-the-future"}
    assert made["unknown_record_types"] == {"from-the-future": 1}
    assert made["tokens"]["output_tokens"] == 60


def test_no_time_stamps_and_no_version():
    session = small_session()
    for record in session.records:
        record.pop("timestamp", None)
        record.pop("version", None)
    made = summary(parse(session))
    assert made["status"] == "ok" and made["version"] is None
    assert made["first_timestamp"] is None and made["duration_s"] is None
    assert made["tools"]["total"] == 2 and made["tokens"]["output_tokens"] == 60
    assert made["tool_calls"][0]["duration_upper_s"] is None


@pytest.mark.slow
def test_fields_of_every_wrong_type_are_survived():
    wrong = [None, True, 7, -1, 2.5, 10**30, "", "x", [], [None], [3], {}, {"type": None}]
    template = small_session()
    template.common("system", 7, subtype="api_error", error={"status": 500}, retryAttempt=1)
    template.other("api-request", id="r", timestamp=stamp(1), params={"model": "m"})
    template.other("cost-state", startTime=1, totalCostUSD=1)
    template.common("attachment", 7, attachment={"type": "queued_command", "prompt": "x"})
    template.other("progress", data={"agentId": "a"}, parentToolUseID="t1", toolUseID="x")
    keys = set()

    def walk(value, path):
        if isinstance(value, dict):
            for key in value:
                keys.add((*path, key))
                walk(value[key], (*path, key))
        elif isinstance(value, list):
            for i, item in enumerate(value):
                walk(item, (*path, i))

    for i, record in enumerate(template.records):
        walk(record, (i,))
    text = json.dumps(template.records)
    for path in sorted(keys, key=str):
        for value in wrong:
            session = Session()
            session.records = json.loads(text)
            target = session.records
            for key in path[:-1]:
                target = target[key]
            target[path[-1]] = value
            made = summary(parse(session))
            json.dumps(made)
            assert made["tools"]["total"] >= 1, (path, value)


# --- usage ---


def test_usage_counts_once_for_the_records_of_one_message():
    session = Session()
    for i in range(4):
        session.text("m1", f"part {i}", i, output=50)
    trace = parse(session)
    tokens = summary(trace)["tokens"]
    assert (tokens["messages"], tokens["output_tokens"]) == (1, 50)
    assert trace.messages[0].records == 4


def test_the_record_with_the_stop_reason_wins_over_a_larger_number():
    """2.1.59 to 2.1.96: only the last block has the final usage."""
    session = Session("2.1.69")
    session.text("m1", "a", 1, stop=None, output=900)
    session.text("m1", "b", 2, stop="end_turn", output=170)
    tokens = summary(parse(session))["tokens"]
    assert tokens["output_tokens"] == 170 and tokens["output_tokens_final"] is True


def test_the_stop_reason_may_be_on_the_first_record():
    session = Session()
    session.text("m1", "a", 1, stop="tool_use", output=5)
    session.text("m1", "b", 2, stop=None, output=3)
    assert summary(parse(session))["tokens"]["output_tokens"] == 5


def test_without_a_stop_reason_the_largest_number_is_taken_and_flagged():
    """2.1.9 to 2.1.58: the number is the one with which the stream began."""
    session = Session("2.1.16")
    session.text("m1", "a", 1, stop=None, output=1)
    session.text("m1", "b", 2, stop=None, output=7)
    session.text("m1", "c", 3, stop=None, output=2)
    session.text("m2", "d", 4, stop="end_turn", output=9)
    tokens = summary(parse(session))["tokens"]
    assert tokens["output_tokens"] == 16
    assert tokens["output_tokens_final"] is False
    assert tokens["messages_without_final_output"] == 1


def test_blocks_of_one_message_need_not_be_contiguous():
    session = Session()
    session.bash("m1", "t1", "sleep 1", 1, output=30)
    session.result("t1", "", 2, details=succeeded())
    session.bash("m1", "t2", "sleep 2", 3, output=30)
    session.result("t2", "", 5, details=succeeded())
    trace = parse(session)
    assert summary(trace)["tokens"]["messages"] == 1
    assert [call.message_id for call in trace.tool_calls] == ["m1", "m1"]


def test_messages_without_an_id_are_told_apart_by_request_or_uuid():
    session = Session()
    for request in ("r1", "r1", "r2"):
        record = session.text("x", "a", 1, output=5)
        record["requestId"] = request
        del record["message"]["id"]
    last = session.text("x", "a", 1, output=5)
    del last["message"]["id"], last["requestId"]
    assert summary(parse(session))["tokens"]["output_tokens"] == 15


# --- tool calls ---


def test_results_in_completion_order_find_their_calls():
    session = Session()
    session.bash("m1", "t1", "sleep 3", 1)
    session.bash("m1", "t2", "sleep 1", 1.1)
    session.bash("m1", "t3", "sleep 2", 1.2)
    session.result("t2", "two", 2.2, details=succeeded())
    session.result("t3", "three!", 3.2, details=succeeded())
    session.result("t1", "one", 4.2, details=succeeded())
    calls = calls_of(parse(session))
    assert [calls[i].end_utc_ns for i in ("t1", "t2", "t3")] == [at(4.2), at(2.2), at(3.2)]
    assert calls["t3"].result_chars == 6


def test_texts_of_results_are_kept_only_when_asked_for():
    session = Session()
    session.bash("m1", "t1", "a", 1)
    session.bash("m1", "t2", "b", 1)
    session.bash("m1", "t3", "c", 1)
    session.result("t1", "one", 2, details=succeeded())
    session.result("t2", [{"type": "text", "text": "two"}, {"type": "image"}], 2)
    source = Source("main.jsonl", session.lines)
    kept = {c.id: c.result_text for c in parse_sources([source], keep_content=True).tool_calls}
    assert kept == {"t1": "one", "t2": "two", "t3": None}
    assert {call.result_text for call in parse_sources([source]).tool_calls} == {None}


def test_bounds_of_parallel_and_queued_calls():
    """From 2.1.160 on a tool may start with its block, or have waited for the one before."""
    session = Session("2.1.330")
    session.bash("m1", "t1", "a", 1)
    session.bash("m1", "t2", "b", 2)
    session.text("m1", "then", 3)
    session.result("t1", "", 4, details=succeeded())
    session.result("t2", "", 6, details=succeeded())
    calls = calls_of(parse(session))
    assert calls["t1"].duration_upper_s == calls["t1"].duration_lower_s == 3.0
    assert calls["t2"].duration_upper_s == 4.0 and calls["t2"].duration_lower_s == 2.0
    assert calls["t1"].time_source == "trace"


@pytest.mark.parametrize(("version", "start"), [("2.1.140", 3), ("2.1.159", 3), ("2.1.160", 1)])
def test_older_versions_wait_for_the_end_of_the_message(version, start):
    session = Session(version)
    session.bash("m1", "t1", "a", 1)
    session.text("m1", "then", 3)
    session.result("t1", "", 4, details=succeeded())
    call = parse(session).tool_calls[0]
    assert call.start_utc_ns == at(start) and call.requested_utc_ns == at(1)


def test_a_result_before_the_end_of_its_message_did_not_wait_for_it():
    session = Session("2.1.150")
    session.bash("m1", "t1", "a", 1)
    session.result("t1", "", 2, details=succeeded())
    session.text("m1", "then", 3)
    assert parse(session).tool_calls[0].start_utc_ns == at(1)


def test_time_running_backwards_gives_no_negative_duration():
    session = Session()
    session.bash("m1", "t1", "a", 5)
    session.result("t1", "", 4, details=succeeded())
    call = parse(session).tool_calls[0]
    assert call.duration_upper_s == call.duration_lower_s == 0.0


def test_a_call_without_a_result_is_unfinished():
    session = Session()
    session.bash("m1", "t1", "sleep 100", 1)
    call = parse(session).tool_calls[0]
    assert call.finished is False and call.end_utc_ns is None and call.is_error is None
    assert call.exit_code is None and call.duration_upper_s is None


def test_a_second_result_and_a_result_without_a_call_change_nothing():
    session = Session()
    session.bash("m1", "t1", "a", 1)
    session.result("t1", "first", 2, details=succeeded())
    session.result("t1", "Exit code 9", 3, is_error=True, details="Error: Exit code 9")
    session.result("t9", "orphan", 4)
    calls = parse(session).tool_calls
    assert len(calls) == 1 and calls[0].end_utc_ns == at(2) and calls[0].exit_code == 0


@pytest.mark.parametrize(
    ("content", "is_error", "details", "code", "timed_out", "killed"),
    [
        ("a\nb", False, succeeded("a\nb"), 0, False, False),
        ("Exit code 3\nout", True, "Error: Exit code 3\nout", 3, False, False),
        ("Exit code 1", True, "Error: Exit code 1", 1, False, False),
        ("Exit code 137\nKilled", True, "Error: Exit code 137", 137, False, True),
        ("Exit code 143\nCommand timed out after 1s", True, "Error", 143, True, False),
        ("Command timed out after 2m 0.0s", True, "Error", None, True, None),
        ("no such file", True, "Error: no such file", None, False, None),
        ("Exit code 12345", True, "Error", None, False, None),
        ("Exit code 7 is what this program prints", False, succeeded(), 0, False, False),
        (
            "(no output)",
            False,
            {**succeeded(), "returnCodeInterpretation": "No matches found"},
            None,
            False,
            False,
        ),
        ("ok", False, None, None, False, False),
        ([{"type": "text", "text": "Exit code 2\nx"}], True, None, 2, False, False),
    ],
)
def test_how_a_bash_call_ended(content, is_error, details, code, timed_out, killed):
    session = Session()
    session.bash("m1", "t1", "a", 1)
    session.result("t1", content, 2, is_error=is_error, details=details)
    call = parse(session).tool_calls[0]
    assert (call.exit_code, call.timed_out, call.killed) == (code, timed_out, killed)
    assert call.is_error is is_error


def test_a_call_that_died_with_the_agent_does_not_say_how_it_ended():
    session = Session()
    session.bash("m1", "t1", "a", 1)
    session.tool("m1", "t2", "Read", {"file_path": "x"}, 1)
    for call in parse(session).tool_calls:
        assert (call.killed, call.timed_out, call.interrupted) == (None, None, None)


def test_the_exit_code_of_other_tools_is_not_read():
    session = Session()
    session.tool("m1", "t1", "Read", {"file_path": "x"}, 1)
    session.result("t1", "Exit code 3", 2, is_error=True)
    assert parse(session).tool_calls[0].exit_code is None


def notification(tool_id: str, text: str, status: str = "completed") -> str:
    return (
        f"<task-notification>\n<task-id>b1</task-id>\n<tool-use-id>{tool_id}</tool-use-id>\n"
        f"<status>{status}</status>\n<summary>Background command {text}</summary>\n"
        "</task-notification>"
    )


def test_a_command_moved_to_the_background_ends_with_its_notification():
    session = Session()
    session.bash("m1", "t1", "python3 long.py", 1)
    details = {**succeeded("start"), "backgroundTaskId": "b1", "timedOutAfterMs": 2000}
    session.result("t1", "moved to the background (ID: b1)", 3, details=details)
    text = notification("t1", '"python3 long.py" completed (exit code 4)')
    session.other("queue-operation", operation="enqueue", timestamp=stamp(9), content=text)
    session.user(text, 9.5, origin={"kind": "task-notification"})
    trace = parse(session)
    call = trace.tool_calls[0]
    assert call.background and call.background_task_id == "b1" and call.timed_out
    assert call.end_utc_ns == at(3) and call.background_end_utc_ns == at(9)
    assert call.background_status == "completed" and call.exit_code == 4
    assert [m.kind for m in trace.messages if m.role == "user"] == [
        "tool_result",
        "task_notification",
    ]


def test_a_notification_as_an_attachment_and_by_task_id():
    session = Session()
    session.bash("m1", "t1", "x", 1)
    session.result("t1", "", 2, details={**succeeded(), "backgroundTaskId": "b1"})
    text = notification("", "failed with exit code 137", "failed").replace(
        "<tool-use-id></tool-use-id>\n", ""
    )
    session.common("attachment", 8, attachment={"type": "queued_command", "prompt": text})
    call = parse(session).tool_calls[0]
    assert call.background_end_utc_ns == at(8) and call.background_status == "failed"
    assert call.exit_code == 137 and call.killed


def test_a_printed_notification_is_not_one():
    session = Session()
    session.bash("m1", "t1", "cat log", 1)
    text = "x" * 300 + notification("t1", "completed (exit code 4)")
    session.result("t1", text + "\nrunning in background with ID: b7", 2, details=succeeded(text))
    call = parse(session).tool_calls[0]
    assert call.exit_code == 0 and not call.background


def test_half_an_emoji_can_be_written_everywhere():
    session = Session()
    data = encode({"x": "\ud83d"})
    assert b"\xed\xa0\xbd" in data
    session.bash("m1", "t1", "echo X", 1)
    lines = [line.replace(b"echo X", b"echo \\ud83d") for line in session.lines()]
    trace = parse_sources([Source("f", lambda: lines)])
    command = trace.tool_calls[0].command
    assert command == "echo ?" and command.encode()


# --- sub-agents ---


def test_inline_subagents_are_linked_by_their_prompts():
    """2.0.0: no agent ids; the records of two agents are interleaved in the main file."""
    session = Session("2.0.0")
    session.user("Go", 1)
    for i, prompt in enumerate(("one", "two")):
        session.tool("m1", f"task{i}", "Task", {"prompt": prompt, "subagent_type": "Explore"}, 2)
    heads = {}
    for prompt in ("two", "one"):
        heads[prompt] = session.user(prompt, 3, isSidechain=True)["uuid"]
    for number, prompt in enumerate(("one", "two")):
        record = session.bash(
            f"s{number}", f"t-{prompt}", "ls", 4 + number, model="sonnet", output=7
        )
        record.update(isSidechain=True, parentUuid=heads[prompt])
        result = session.result(f"t-{prompt}", "", 5 + number, details=succeeded())
        result.update(isSidechain=True, parentUuid=record["uuid"])
    session.result("task0", "done", 9)
    session.result("task1", "done", 9.5)
    trace = parse(session)
    calls = calls_of(trace)
    assert calls["t-one"].parent_id == "task0" and calls["t-two"].parent_id == "task1"
    assert calls["task0"].parent_id is None
    assert calls["t-one"].end_utc_ns == at(5)
    assert [a.agent_type for a in trace.agents] == ["Explore", "Explore"]
    assert all(agent.inline and not agent.warmup for agent in trace.agents)
    assert trace.models(False) == [MODEL] and trace.models(True) == ["sonnet"]
    made = summary(trace)
    assert made["subagents"]["count"] == 2
    assert made["tokens"]["main"]["output_tokens"] == 10
    assert made["tokens"]["subagents"]["output_tokens"] == 14


def test_an_inline_subagent_whose_first_record_is_lost_belongs_to_the_call_around_it():
    session = Session("2.0.0")
    session.tool("m1", "task0", "Task", {"prompt": "one"}, 2)
    record = session.bash("s1", "t1", "ls", 3)
    record.update(isSidechain=True, parentUuid="lost")
    session.result("task0", "done", 9)
    assert calls_of(parse(session))["t1"].parent_id == "task0"


def test_subagent_files_are_linked_by_the_result_that_names_them():
    main = Session("2.0.77")
    main.tool("m1", "task0", "Task", {"prompt": "one"}, 2)
    main.tool("m1", "task1", "Task", {"prompt": "one"}, 2.1)
    main.result("task0", "done", 9, details={"agentId": "bbb", "agentType": "Plan"})
    main.result("task1", "done", 9, details={"agentId": "aaa"})
    agents = []
    for name in ("aaa", "bbb"):
        agent = Session("2.0.77", agent=name, prefix=name)
        agent.user("one", 3)
        agent.bash(f"m-{name}", f"t-{name}", "ls", 4)
        agent.result(f"t-{name}", "x", 5)
        agents.append(agent)
    trace = parse(main, *agents)
    calls = calls_of(trace)
    assert calls["t-aaa"].parent_id == "task1" and calls["t-bbb"].parent_id == "task0"
    assert calls["t-aaa"].agent_id == "aaa"
    assert {a.agent_id: a.agent_type for a in trace.agents} == {"aaa": None, "bbb": "Plan"}


def test_a_subagent_of_a_killed_session_is_linked_by_its_prompt():
    main = Session()
    main.tool("m1", "task0", "Agent", {"prompt": "one", "subagent_type": "Explore"}, 2)
    agent = Session(agent="aaa", prefix="a")
    agent.user("one", 3)
    agent.bash("m2", "t1", "ls", 4)
    trace = parse(main, agent)
    assert calls_of(trace)["t1"].parent_id == "task0"
    assert trace.agents[0].agent_type == "Explore"


def test_a_progress_record_links_a_subagent():
    main = Session()
    main.tool("m1", "task0", "Agent", {"prompt": "other words"}, 2)
    main.other("progress", data={"agentId": "aaa"}, parentToolUseID="task0", toolUseID="p1")
    agent = Session(agent="aaa", prefix="a")
    agent.user("one", 3)
    agent.bash("m2", "t1", "ls", 4)
    assert calls_of(parse(main, agent))["t1"].parent_id == "task0"


def test_warm_up_agents_are_told_apart():
    main = small_session("2.0.77")
    warm = Session("2.0.77", agent="w1", prefix="w")
    warm.user("Warmup", 0.5)
    warm.text("mw", "ok", 0.8, stop=None, output=8, model="sonnet")
    made = summary(parse(main, warm))
    assert made["subagents"]["count"] == 0 and made["subagents"]["warmup"] == 1
    assert made["tokens"]["main"]["output_tokens"] == 60
    assert made["tokens"]["subagents"]["output_tokens"] == 8
    assert made["models"] == {"main": [MODEL], "subagents": ["sonnet"]}


def test_a_side_chain_that_repeats_the_main_chain_adds_nothing():
    main = small_session()
    side = Session(agent="side", prefix="side")
    side.text("m1", "I look.", 2, output=10, requestId="other")
    side.bash("m1", "t1", "ls -la", 2.1)
    side.result("t1", "copied", 3)
    side.text("m9", "Aside.", 7, stop="end_turn", output=5)
    for order in ((main, side), (side, main)):
        trace = parse(*order)
        made = summary(trace)
        assert made["tokens"]["output_tokens"] == 65
        assert made["tokens"]["main"]["output_tokens"] == 60
        assert len(trace.tool_calls) == 2 and calls_of(trace)["t1"].agent_id is None


def test_two_agents_with_the_same_call_id_both_made_it():
    agents = []
    for name, second in (("aaa", 3), ("bbb", 6)):
        agent = Session(agent=name, prefix=name)
        agent.bash(f"m-{name}", "same", "ls", second)
        agent.result("same", "x", second + 1)
        agents.append(agent)
    trace = parse(small_session(), *agents)
    same = [call for call in trace.tool_calls if call.id == "same"]
    assert [(call.agent_id, call.end_utc_ns) for call in same] == [("aaa", at(4)), ("bbb", at(7))]


# --- repeated records ---


def test_the_same_records_in_two_files_count_once():
    first, second = small_session(), small_session()
    made = summary(parse(first, second))
    alone = summary(parse(first))
    assert made["tokens"] == alone["tokens"] and made["tool_calls"] == alone["tool_calls"]
    assert made["messages"] == alone["messages"]
    assert made["duplicate_records"] == 7


def test_a_fork_with_new_uuids_counts_its_messages_once():
    first, fork = small_session(), small_session()
    for record in fork.records:
        if "uuid" in record:
            record["uuid"] = "fork-" + record["uuid"]
    fork.text("m4", "More.", 8, stop="end_turn", output=5)
    trace = parse(first, fork)
    assert summary(trace)["tokens"]["output_tokens"] == 65
    assert len(trace.tool_calls) == 2


def test_a_forked_file_is_the_session_that_it_is_named_by(tmp_path):
    fork = small_session()
    fork.session = "11111111-0000-4000-8000-000000000000"
    fork.text("m4", "More.", 8, stop="end_turn", output=5)
    trace = parse_file(write(tmp_path / f"{fork.session}.jsonl", fork))
    assert trace.session_id == fork.session and trace.session_ids == [SESSION, fork.session]


@pytest.mark.slow
def test_a_long_inline_chain_in_any_order_is_followed_in_good_time():
    session = Session("2.0.0")
    session.tool("m0", "task0", "Task", {"prompt": "one"}, 1)
    parent = session.user("one", 2, isSidechain=True)["uuid"]
    for i in range(4000):
        record = session.text(f"s{i}", "x", 3 + i / 1000)
        record.update(isSidechain=True, parentUuid=parent)
        parent = record["uuid"]
    session.records.reverse()
    trace = parse(session)
    assert [(a.parent_id, a.inline) for a in trace.agents] == [("task0", True)]


def test_compaction_and_resume():
    session = small_session()
    session.common("system", 7, subtype="compact_boundary", compactMetadata={"trigger": "manual"})
    session.user("This session is being continued", 7.1, isCompactSummary=True)
    session.other("mode", mode="default")
    session.other("queue-operation", operation="enqueue", timestamp=stamp(60), content="More")
    session.version = "2.1.331"
    session.user("More", 61)
    session.text("m4", "Yes.", 62, stop="end_turn", output=1)
    trace = parse(session)
    made = summary(trace)
    assert made["compactions"] == 1 and made["messages"]["by_kind"]["compact_summary"] == 1
    assert made["versions"] == ["2.1.330", "2.1.331"] and made["version"] == "2.1.331"
    assert made["tokens"]["output_tokens"] == 61


# --- the model's requests ---


def test_api_requests_give_the_start_of_their_messages():
    session = Session()
    session.user("Go", 1)
    session.other("api-request", id="a1", timestamp=stamp(2), params={"model": "m"})
    session.common(
        "system",
        3,
        subtype="api_error",
        error={"status": 529, "formatted": "529 overloaded"},
        retryAttempt=1,
        retryInMs=520.5,
    )
    session.other("api-request", id="a2", timestamp=stamp(4), params={"model": "m"})
    session.text("m1", "Hello", 6, stop="end_turn", requestRef="a2")
    trace = parse(session)
    assert [(a.id, a.message_id) for a in trace.api_attempts] == [("a1", None), ("a2", "m1")]
    assert trace.api_attempts[1].end_utc_ns == at(6)
    message = trace.messages[-1]
    assert (message.start_utc_ns, message.start_source) == (at(4), "request")
    made = summary(trace)["api"]
    assert made["attempts"] == 2 and made["attempts_without_message"] == 1
    assert made["errors_retried"] == 1 and made["errors_fatal"] == 0
    assert made["errors"][0]["status"] == 529 and made["errors"][0]["retry_in_ms"] == 520.5


def test_without_api_requests_the_record_before_gives_the_start():
    trace = parse(small_session("2.1.69"))
    starts = [m.start_utc_ns for m in trace.messages if m.role == "assistant"]
    assert starts == [at(1), at(3), at(5)]


def test_what_the_cli_says_in_place_of_the_model_is_no_message_of_it():
    session = Session()
    session.user("Go", 1)
    record = session.text(
        "m1", "API Error: 400 bad", 2, stop="stop_sequence", output=0, model="<synthetic>"
    )
    record.update(isApiErrorMessage=True, apiErrorStatus=400)
    made = summary(parse(session))
    assert made["messages"]["by_role"]["assistant"] == 0
    assert made["messages"]["by_kind"]["error"] == 1
    assert made["models"]["main"] == [] and made["tokens"]["messages"] == 0
    assert made["api"]["errors_fatal"] == 1
    assert made["api"]["errors"][0]["text"] == "API Error: 400 bad"


# --- files ---


def write(path, session):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(session.data())
    return path


def subagent(session_id=SESSION, name="a1") -> Session:
    agent = Session(session=session_id, agent=name, prefix=name)
    agent.user("one", 3)
    agent.text(f"m-{name}", "x", 4, stop="end_turn", output=3)
    return agent


def test_companions_are_found_beside_and_below(tmp_path):
    main = write(tmp_path / f"{SESSION}.jsonl", small_session())
    below = tmp_path / SESSION / "subagents"
    write(below / "agent-a1.jsonl", subagent(name="a1"))
    (below / "agent-a1.meta.json").write_text(
        '{"toolUseId": "t2", "agentType": "Explore"}', encoding="utf-8"
    )
    write(tmp_path / "agent-a2.jsonl", subagent(name="a2"))
    write(tmp_path / "agent-a3.jsonl", subagent(session_id="another", name="a3"))
    (tmp_path / "agent-a4.jsonl").mkdir()
    trace = parse_file(main)
    assert {agent.agent_id for agent in trace.agents} == {"a1", "a2"}
    linked = {agent.agent_id: (agent.parent_id, agent.agent_type) for agent in trace.agents}
    assert linked["a1"] == ("t2", "Explore")
    assert summary(trace)["tokens"]["output_tokens"] == 66


def test_companions_of_a_renamed_main_file_are_found_by_the_session_in_it(tmp_path):
    main = write(tmp_path / "trace.jsonl", small_session())
    write(tmp_path / SESSION / "subagents" / "agent-a1.jsonl", subagent())
    assert summary(parse_file(main))["subagents"]["count"] == 1


def test_a_subagent_file_alone(tmp_path):
    write(tmp_path / "agent-a2.jsonl", subagent(name="a2"))
    trace = parse_file(write(tmp_path / "agent-a1.jsonl", subagent(name="a1")))
    assert [agent.agent_id for agent in trace.agents] == ["a1"]
    assert summary(trace)["messages"]["main"] == 0


def test_a_damaged_or_unreadable_companion_loses_nothing_else(tmp_path):
    main = write(tmp_path / f"{SESSION}.jsonl", small_session())
    below = tmp_path / SESSION / "subagents"
    path = write(below / "agent-a1.jsonl", subagent(name="a1"))
    path.write_bytes(path.read_bytes()[:-20])
    (below / "agent-a1.meta.json").write_text("{broken", encoding="utf-8")
    made = summary(parse_file(main))
    assert made["status"] == "damaged" and made["lines"]["unusable"] == 1
    assert made["lines"]["problems"][0]["file"].endswith("agent-a1.jsonl")
    assert made["tokens"]["main"]["output_tokens"] == 60
    broken = Source("gone", lambda: (tmp_path / "gone").open("rb"))
    made = summary(parse_sources([Source.of_path(main), broken]))
    assert made["status"] == "damaged" and made["tokens"]["output_tokens"] == 60


def test_the_right_session_among_several_and_over_two_project_folders(tmp_path):
    other = "99999999-0000-4000-8000-000000000000"
    write(tmp_path / "projects" / "-testbed" / f"{other}.jsonl", small_session())
    write(tmp_path / "projects" / "-testbed" / f"{SESSION}.jsonl", small_session())
    second = Session(prefix="second")
    second.text("m9", "elsewhere", 9, stop="end_turn", output=5)
    folder = tmp_path / "projects" / "-testbed-sub"
    write(folder / f"{SESSION}.jsonl", second)
    write(folder / SESSION / "subagents" / "agent-a1.jsonl", subagent())
    trace = parse_session(tmp_path, SESSION)
    assert len(trace.files) == 3
    assert summary(trace)["tokens"]["output_tokens"] == 68
    with pytest.raises(AgentsweepError, match=r"no session file 123\.jsonl"):
        parse_session(tmp_path, "123")


# --- the command ---


def test_command_prints_a_summary_also_for_a_damaged_file(tmp_path, capsys):
    path = tmp_path / "s.jsonl"
    path.write_bytes(small_session().data()[:-30])
    assert main_trace(path) == 0
    printed = capsys.readouterr()
    made = json.loads(printed.out)
    assert made["status"] == "damaged" and made["lines"]["unusable"] == 1
    assert made["lines"]["problems"][0]["line"] == 9
    assert printed.err == ""


def test_command_accepts_a_file_that_begins_with_garbage(tmp_path, capsys):
    path = tmp_path / "s.jsonl"
    path.write_bytes(b"\x89PNG\r\n\x1a\n,,,\n{}\n" + small_session().data())
    assert main_trace(path) == 0
    assert json.loads(capsys.readouterr().out)["tools"]["total"] == 2


def test_command_accepts_a_session_without_messages(tmp_path, capsys):
    session = Session()
    session.other("queue-operation", operation="enqueue", timestamp=stamp(0), content="x")
    path = write(tmp_path / "s.jsonl", session)
    assert main_trace(path) == 0
    assert json.loads(capsys.readouterr().out)["status"] == "empty"


STREAM = [
    {"type": "system", "subtype": "init", "session_id": "s", "uuid": "1"},
    {"type": "assistant", "message": {}, "session_id": "s", "uuid": "2", "timestamp": stamp(1)},
    {"type": "result", "session_id": "s", "uuid": "3"},
]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "it is empty"),
        (b"\n \n", "it is empty"),
        (b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 20, "none of its"),
        (b"time,mem\n1,2\n3,4\n", "none of its 3 lines"),
        (b'{"a": 1}\n{"b": 2}\n', "none of its 2 lines"),
        (b'{"type": "user", "text": "hi"}\n', "none of its 1 lines"),
        (b'{"role": "user", "content": "hi"}\n', "none of its 1 lines"),
        (b'{"timestamp": "x", "type": "session_meta", "payload": {}}\n', "none of its 1 lines"),
        (b"\0" * 5000, "none of its 1 lines"),
        (b"".join(encode(record) + b"\n" for record in STREAM), "stream-json"),
    ],
)
def test_command_refuses_what_is_no_session(tmp_path, capsys, content, says):
    path = tmp_path / "file"
    path.write_bytes(content)
    assert main_trace(path) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert says in printed.err and str(path) in printed.err


def test_command_refuses_missing_files_and_directories(tmp_path, capsys):
    assert main_trace(tmp_path / "missing") == 2
    assert "No such file" in capsys.readouterr().err
    assert main_trace(tmp_path) == 2
    assert "is a directory" in capsys.readouterr().err


def test_command_ignores_companions_when_it_judges_a_file(tmp_path):
    (tmp_path / f"{SESSION}.jsonl").write_bytes(b"")
    write(tmp_path / SESSION / "subagents" / "agent-a1.jsonl", subagent())
    assert main_trace(tmp_path / f"{SESSION}.jsonl") == 2


@pytest.mark.slow
def test_truncation_at_every_byte_is_summed_up_without_an_exception():
    data = small_session().data()
    tools = 0
    for cut in range(len(data) + 1):
        trace = parse_sources([Source("f", lambda cut=cut: data[:cut].splitlines(True))])
        made = summary(trace)
        assert made["tools"]["total"] >= tools
        tools = made["tools"]["total"]
        assert made["lines"]["unusable"] <= 1
    assert tools == 2


# --- times ---


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1970-01-01T00:00:01.500Z", 1_500_000_000),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1970-01-01T00:00:02", 2_000_000_000),
        ("2026-11-23T12:38:36.361Z", 1_795_437_516_361_000_000),
        ("9999-12-31T23:59:59Z", None),
        ("1900-01-01T00:00:00Z", None),
        ("yesterday", None),
        (1795437516361, None),
        (None, None),
    ],
)
def test_parse_time(text, expected):
    assert parse_time(text) == expected


def test_format_time_is_the_inverse():
    assert format_time(parse_time("2026-11-23T12:38:36.361Z")) == "2026-11-23T12:38:36.361Z"
    assert format_time(None) is None
