"""No id alone is taken for identity, no missing time for zero, no branch for the conversation."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from session_maker import MODEL, SESSION, Session, stamp

from agentsweep.agents.claude_code.trace import Source, parse_sources, summary
from agentsweep.gateway import recording

OPUS = "claude-opus-4-7"
quick = settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))


def parse(*sessions: Session, keep_content=False):
    sources = [
        Source(f"file{i}", lambda s=session: s.lines(), session.agent)
        for i, session in enumerate(sessions)
    ]
    return parse_sources(sources, keep_content)


def linked(session: Session) -> Session:
    """Each record follows the one before it, as the CLI writes them."""
    parent = None
    for record in session.records:
        if "uuid" in record:
            record["parentUuid"], parent = parent, record["uuid"]
    return session


def load(tmp_path, session: Session) -> recording.Recording:
    path = tmp_path / f"{SESSION}.jsonl"
    path.write_bytes(session.data())
    return recording.load(path)


def usage(number: int, output: int) -> dict:
    return {
        "input_tokens": number,
        "output_tokens": output,
        "cache_read_input_tokens": 1000 * number,
        "cache_creation_input_tokens": 0,
    }


def tokens(trace) -> tuple[int, int]:
    made = summary(trace)["tokens"]
    return made["input_tokens"], made["output_tokens"]


# --- message ids ---


def same_message(requests, calls=None, link=True) -> Session:
    """One message id for all answers; each with its own call and its own result."""
    session = Session()
    session.user("Fix it", 0)
    for number, request in enumerate(requests):
        call = calls[number] if calls else f"t{number}"
        command, at = f"echo {number}", 1 + 2 * number
        session.bash("m", call, command, at, usage=usage(10 + number, 50 + number))
        if request is None:
            del session.records[-1]["requestId"]
        else:
            session.records[-1]["requestId"] = request
        session.result(call, f"result {number}", at + 1)
    return linked(session) if link else session


def check_each(trace, count: int) -> None:
    assert summary(trace)["messages"]["by_role"]["assistant"] == count
    assert tokens(trace) == (sum(range(10, 10 + count)), sum(range(50, 50 + count)))
    assert [call.command for call in trace.tool_calls] == [f"echo {i}" for i in range(count)]
    assert [call.result_text for call in trace.tool_calls] == [f"result {i}" for i in range(count)]
    assert len({call.id for call in trace.tool_calls}) == count
    keys = [message.key for message in trace.messages]
    assert len(set(keys)) == len(keys)
    assert {call.message_id for call in trace.tool_calls} <= set(keys)


def test_answers_to_several_requests_under_one_message_id_are_several(tmp_path):
    session = same_message(["r0", "r1", "r2", "r3"])
    check_each(parse(session, keep_content=True), 4)
    turns = load(tmp_path, session).main.turns
    assert [call.text for turn in turns for call in turn.calls] == [f"result {i}" for i in range(4)]
    assert len({turn.message.id for turn in turns}) == len(turns) == 4


def test_without_request_ids_a_result_ends_an_answer():
    for link in (True, False):
        check_each(parse(same_message([None] * 4, link=link), keep_content=True), 4)


def test_the_clis_own_id_of_a_request_does_where_the_api_gave_none():
    """2.1.300 and later: results stand between the blocks of one answer of a local server."""
    session = same_message([None, None, None])
    for record, ref in zip(session.records[1::2], ("a", "a", "b"), strict=True):
        record["requestRef"] = ref
        record["message"]["usage"] = usage(4 if ref == "a" else 5, 9)
    trace = parse(session)
    assert tokens(trace) == (9, 18)
    assert len(trace.tool_calls) == 3


def test_blocks_without_a_request_id_follow_each_other():
    session = Session("2.0.0")
    session.user("Fix it", 0)
    for number in range(3):
        session.bash("m", f"t{number}", "ls", 1 + number, output=7)
        del session.records[-1]["requestId"]
    trace = parse(linked(session))
    assert (len(trace.messages), tokens(trace)) == (2, (4, 7))


def test_agents_with_one_message_id_and_no_request_id_each_gave_an_answer():
    agents = []
    for number, name in enumerate(("aaa", "bbb")):
        agent = Session(agent=name, prefix=name)
        agent.user("Look", 1)
        agent.text("m", "ok", 2 + number, usage=usage(3, 5))
        del agent.records[-1]["requestId"]
        agents.append(linked(agent))
    assert tokens(parse(*agents)) == (6, 10)


def test_a_copy_that_lost_its_request_ids_counts_once():
    first, copy = same_message([None] * 3), same_message([None] * 3)
    for record in copy.records:
        record["uuid"] = "again-" + record["uuid"]
        record["parentUuid"] = record["parentUuid"] and "again-" + record["parentUuid"]
    trace = parse(first, copy, keep_content=True)
    assert tokens(trace) == (33, 153)
    assert len(trace.tool_calls) == 3 and all(call.finished for call in trace.tool_calls)


answers = st.lists(
    st.tuples(
        st.sampled_from(["m1", "m2", "m3"]),
        st.booleans(),
        st.lists(st.sampled_from(["c1", "c2", "Bash"]), max_size=3),
        st.integers(0, 50),
    ),
    min_size=1,
    max_size=12,
)


@pytest.mark.slow
@quick
@given(answers, st.booleans(), st.sampled_from(["2.0.0", "2.1.16", "2.1.330"]))
def test_any_repetition_of_ids_keeps_tokens_calls_and_results(made, blockwise, version):
    session, expected, at = Session(version), [], 1
    session.user("Fix it", 0)
    for number, (identity, has_request, calls, output) in enumerate(made):
        spoken = usage(number, output)
        first = len(session.records)
        session.text(identity, f"say {number}", at, usage=spoken)
        for place, call in enumerate(calls):
            session.bash(identity, call, f"run {number} {place}", at + 0.1, usage=spoken)
        for record in session.records[first:]:
            record["requestId"] = f"r{number}" if has_request else None
        if not blockwise:
            blocks = [r["message"]["content"][0] for r in session.records[first:]]
            session.records[first]["message"]["content"] = blocks
            del session.records[first + 1 :]
        for place, call in enumerate(calls):
            session.result(call, f"gave {number} {place}", at + 0.5)
            expected.append((f"run {number} {place}", f"gave {number} {place}"))
        session.user("Go on", at + 0.9)
        at += 2
    trace = parse(linked(session), keep_content=True)
    assert tokens(trace) == (sum(range(len(made))), sum(output for *_, output in made))
    assert [(call.command, call.result_text) for call in trace.tool_calls] == expected
    assert len({call.id for call in trace.tool_calls}) == len(expected)
    assert not any(message.abandoned for message in trace.messages)


# --- tool ids ---


def test_one_tool_id_in_every_answer(tmp_path):
    session = Session()
    session.user("Fix it", 0)
    for number in range(3):
        session.bash(f"m{number}", "Bash", f"echo {number}", 1 + 2 * number)
        session.result("Bash", str(number), 2 + 2 * number)
    session.text("end", "Done.", 9, stop="end_turn")
    for made in (session, linked(session)):
        trace = parse(made, keep_content=True)
        assert [call.result_text for call in trace.tool_calls] == ["0", "1", "2"]
        assert [call.duration_upper_s for call in trace.tool_calls] == [1.0, 1.0, 1.0]
        turns = load(tmp_path, made).main.turns
        assert [call.text for turn in turns for call in turn.calls] == ["0", "1", "2"]
        assert len({call.id for turn in turns for call in turn.calls}) == 3


def test_one_tool_id_twice_in_one_answer():
    session = Session()
    session.bash("m", "Bash", "echo a", 1)
    session.bash("m", "Bash", "echo b", 1.1)
    session.result("Bash", "a", 2)
    session.result("Bash", "b", 3)
    calls = parse(linked(session), keep_content=True).tool_calls
    assert [(call.command, call.result_text) for call in calls] == [
        ("echo a", "a"),
        ("echo b", "b"),
    ]


def test_results_of_one_id_in_any_order_that_follow_their_own_calls():
    for named in (True, False):
        session = Session()
        for number in range(3):
            session.bash("m", "Bash", f"echo {number}", 1 + number / 10)
        uses = [record["uuid"] for record in linked(session).records]
        for place, number in enumerate((2, 0, 1)):
            result = session.result("Bash", str(number), 3 + place)
            result["sourceToolAssistantUUID" if named else "parentUuid"] = uses[number]
        calls = parse(session, keep_content=True).tool_calls
        assert [call.result_text for call in calls] == ["0", "1", "2"]


def test_a_result_after_a_call_that_never_ended_is_that_of_the_later_call():
    session = Session()
    session.bash("m1", "Bash", "sleep 100", 1)
    session.user("[Request interrupted by user]", 2)
    session.bash("m2", "Bash", "ls", 3)
    session.result("Bash", "a", 4)
    for made in (session, linked(session)):
        calls = parse(made, keep_content=True).tool_calls
        assert [call.result_text for call in calls] == [None, "a"]


def test_a_sub_agents_call_with_an_id_of_the_main_conversation_is_no_copy():
    main, agent = Session(), Session(agent="aaa", prefix="a")
    main.bash("m1", "call_1", "ls", 1)
    main.result("call_1", "main", 2)
    agent.bash("n1", "call_1", "pwd", 3)
    agent.result("call_1", "agent", 4)
    calls = parse(main, agent, keep_content=True).tool_calls
    assert [(c.agent_id, c.result_text) for c in calls] == [(None, "main"), ("aaa", "agent")]


# --- records ---


def test_two_records_under_one_uuid_are_two():
    session = Session()
    session.user("Fix it", 0)
    for at in (1, 2):
        record = session.common("system", at, subtype="compact_boundary")
        record["uuid"] = "one"
    assert summary(parse(session))["compactions"] == 2
    session.records.append(dict(session.records[-1]))
    made = summary(parse(session))
    assert (made["compactions"], made["duplicate_records"]) == (2, 1)


def test_two_compactions_at_one_time_differ_in_what_they_compacted():
    session = Session()
    for size in (10, 20):
        record = session.common("system", 1, subtype="compact_boundary")
        record |= {"uuid": "one", "compactMetadata": {"preTokens": size}}
    assert summary(parse(session))["compactions"] == 2


# --- tokens of other models ---


def iterations(*parts) -> dict:
    return usage(2, 491) | {"iterations": list(parts)}


def test_tokens_of_another_model_are_counted_under_its_name():
    session = Session()
    own = [usage(1, 45), usage(1, 446)]
    advisor = {"type": "advisor_message", "model": OPUS, **usage(7, 805)}
    parts = [{"type": "message", **own[0]}, advisor, {"type": "message", **own[1]}]
    for place, text in enumerate(("a", "b")):
        session.text("m", text, 1 + place, stop="end_turn", usage=iterations(*parts))
    made = summary(parse(linked(session)))["tokens"]
    assert (made["messages"], made["input_tokens"], made["output_tokens"]) == (1, 9, 1296)
    by_model = {
        model: (found["messages"], found["input_tokens"], found["output_tokens"])
        for model, found in made["by_model"].items()
    }
    assert by_model == {MODEL: (1, 2, 491), OPUS: (0, 7, 805)}
    assert made["main"]["output_tokens"] == 1296


def test_iterations_of_the_answers_own_model_are_in_its_usage():
    session = Session()
    parts = [{"type": "message", **usage(1, 45)}, {"type": "message", **usage(1, 446)}]
    session.text("m", "a", 1, stop="end_turn", usage=iterations(*parts))
    assert tokens(parse(session)) == (2, 491)


def test_what_a_server_counted_in_is_not_counted_again():
    session = Session()
    parts = [{"type": "message", **usage(1, 400)}, {"model": OPUS, **usage(1, 91)}]
    session.text("m", "a", 1, stop="end_turn", usage=iterations(*parts))
    assert tokens(parse(session)) == (2, 491)


# --- what stands in a second place only ---


def test_a_prompt_that_was_typed_while_a_tool_was_at_work():
    session = Session()
    session.user("Fix it", 0)
    session.bash("m", "t1", "sleep 30", 1)
    session.other("queue-operation", operation="enqueue", timestamp=stamp(5), content="And this.")
    session.result("t1", "", 31)
    attachment = {"type": "queued_command", "prompt": "And this.", "commandMode": "prompt"}
    session.common("attachment", 31.1, attachment=attachment)
    session.text("n", "Done.", 35, stop="end_turn")
    trace = parse(linked(session), keep_content=True)
    assert summary(trace)["messages"]["by_kind"]["prompt"] == 2
    assert "And this." in str([m.content for m in trace.messages if m.kind == "prompt"])
    # One that has a user record, too, counts once.
    attachment["source_uuid"] = session.user("And this.", 32)["uuid"]
    assert summary(parse(session))["messages"]["by_kind"]["prompt"] == 2


def with_missing_agent(progress: bool) -> Session:
    main = Session("2.1.40")
    main.user("Fix it", 0)
    main.tool("m1", "T", "Task", {"prompt": "Look.", "subagent_type": "Explore"}, 1)
    for number in range(2 if progress else 0):
        said = Session(prefix=f"p{number}")
        said.bash(f"s{number}", f"c{number}", "ls", 2 + number, usage=usage(300 + number, 40))
        said.result(f"c{number}", "a", 2.5 + number)
        for place, record in enumerate(said.records):
            nested = {k: record[k] for k in ("type", "uuid", "timestamp", "message")}
            data = {
                "type": "agent_progress",
                "agentId": "abc",
                "prompt": "Look.",
                "message": nested,
            }
            main.common("progress", 2.5 + number + place / 10, data=data, parentToolUseID="T")
    details = {"agentId": "abc", "agentType": "Explore", "totalTokens": 1234}
    main.result("T", "It is there.", 9, details=details)
    main.text("m2", "Done.", 10, stop="end_turn")
    return linked(main)


def test_a_missing_sub_agent_is_named_and_what_the_main_file_has_of_it_counts(tmp_path):
    trace = parse(with_missing_agent(progress=True))
    made = summary(trace)
    assert (made["subagents"]["count"], made["subagents"]["missing"]) == (1, 1)
    assert made["tokens"]["subagents"]["input_tokens"] == 601
    assert made["subagents"]["agents"][0]["parent_id"] == "T"
    assert [c.command for c in trace.tool_calls if c.agent_id == "abc"] == ["ls", "ls"]
    assert sum(made["record_types"].values()) == made["lines"]["total"]
    (found,) = load(tmp_path, with_missing_agent(progress=True)).subagents
    said = [block.get("text") or block["name"] for t in found.turns for block in t.message.content]
    assert said == ["Bash", "Bash", "It is there."]


def test_a_missing_sub_agent_of_which_nothing_else_is_known(tmp_path):
    made = summary(parse(with_missing_agent(progress=False)))["subagents"]
    assert (made["count"], made["missing"]) == (1, 1)
    (found,) = load(tmp_path, with_missing_agent(progress=False)).subagents
    assert (found.recorded, len(found.turns)) == (False, 1)


def test_a_sub_agent_with_a_file_is_not_missing_and_its_progress_adds_nothing():
    agent = Session("2.1.40", agent="abc", prefix="a")
    agent.user("Look.", 1.5)
    for number in range(2):
        agent.bash(f"s{number}", f"c{number}", "ls", 2 + number, usage=usage(300 + number, 40))
        agent.result(f"c{number}", "a", 2.5 + number)
    made = summary(parse(with_missing_agent(progress=True), agent))
    assert (made["subagents"]["count"], made["subagents"]["missing"]) == (1, 0)
    assert made["tokens"]["subagents"]["input_tokens"] == 601


# --- times ---


@pytest.mark.slow
@quick
@given(st.lists(st.sampled_from([None, "", 1772359204000, "soon", 5, 5.0]), min_size=8, max_size=8))
def test_records_without_a_time_keep_their_place(times):
    session = Session()
    session.user("Fix it", 1)
    for number in range(4):
        session.bash(f"m{number}", "t", f"echo {number}", 2)
        session.result("t", f"{number}", 2)
    for record, time in zip(session.records[1:], times, strict=True):
        record["timestamp"] = stamp(5) if time in (5, 5.0) else time
    for made in (session, linked(session)):
        trace = parse(made, keep_content=True)
        said = [message.id for message in trace.messages if message.role == "assistant"]
        assert said == ["m0", "m1", "m2", "m3"]
        expected = [(f"echo {number}", str(number)) for number in range(4)]
        assert [(call.command, call.result_text) for call in trace.tool_calls] == expected
        assert trace.prompt == "Fix it"


def test_a_replay_follows_the_links_when_the_clock_steps_back(tmp_path):
    session = Session()
    session.user("Fix it", 10)
    session.bash("m1", "t1", "ls", 11)
    session.result("t1", "a", 12)
    session.text("m2", "Done.", 5, stop="end_turn")
    turns = load(tmp_path, linked(session)).main.turns
    assert [turn.message.id for turn in turns] == ["m1", "m2"]


def test_errors_and_requests_without_a_time_are_not_the_first():
    session = Session()
    session.other("api-request", id="a1", timestamp=stamp(1))
    session.common("system", 2, subtype="api_error", error={"status": 500})
    session.common("system", None, subtype="api_error", error={"status": 529})
    session.other("api-request", id="a2")
    trace = parse(session)
    assert [error.status for error in trace.api_errors] == [500, 529]
    assert [attempt.id for attempt in trace.api_attempts] == ["a1", "a2"]


# --- branches ---


def branched() -> Session:
    session = Session()
    head = session.user("Fix it", 0)["uuid"]
    dead = session.bash("dead", "t1", "rm -rf build", 1)
    dead["parentUuid"] = head
    session.result("t1", "", 2)["parentUuid"] = dead["uuid"]
    live = session.bash("live", "t2", "ls", 10)
    live["parentUuid"] = head
    result = session.result("t2", "a", 11)
    result["parentUuid"] = live["uuid"]
    session.text("end", "Done.", 12, stop="end_turn")["parentUuid"] = result["uuid"]
    return session


def test_a_replay_leaves_out_what_the_user_went_back_from(tmp_path):
    turns = load(tmp_path, branched()).main.turns
    assert [turn.message.id for turn in turns] == ["live", "end"]
    made = summary(parse(branched()))
    assert made["messages"]["abandoned"] == 1
    assert made["tokens"]["messages"] == 3 and made["tools"]["total"] == 2


def test_a_conversation_that_was_begun_anew_is_the_one_that_is_played(tmp_path):
    session = linked(same_message(["r0", "r1"]))
    old = len(session.records)
    session.user("Another way", 20)
    session.text("new", "Yes.", 21, stop="end_turn")
    session.records[old + 1]["parentUuid"] = session.records[old]["uuid"]
    turns = load(tmp_path, session).main.turns
    assert [turn.message.id for turn in turns] == ["new"]


def test_a_compaction_and_a_lost_line_are_no_new_beginning(tmp_path):
    for lost in (False, True):
        session = linked(same_message(["r0", "r1"]))
        end = session.records[-1]["uuid"]
        boundary = session.common("system", 20, subtype="compact_boundary")
        boundary["logicalParentUuid"] = None if lost else end
        given = session.user("This session is being continued", 20.1, isCompactSummary=True)
        given["parentUuid"] = boundary["uuid"]
        last = session.text("new", "Yes.", 21, stop="end_turn")
        last["parentUuid"] = "a line that was lost" if lost else given["uuid"]
        turns = load(tmp_path, session).main.turns
        assert len(turns) == 3 and turns[-1].message.id == "new"


def test_parallel_results_leave_no_block_behind(tmp_path):
    """The conversation goes on from the result that came last, of whichever block."""
    session = Session()
    session.user("Fix it", 0)
    for number in range(3):
        session.bash("m", f"t{number}", f"echo {number}", 1 + number / 10)
    linked(session)
    uses = [record["uuid"] for record in session.records[1:]]
    for number in (2, 1, 0):
        last = session.result(f"t{number}", "", 3 - number / 10)
        last["parentUuid"] = uses[number]
    session.text("end", "Done.", 4, stop="end_turn")["parentUuid"] = last["uuid"]
    turns = load(tmp_path, session).main.turns
    assert [len(turn.calls) for turn in turns] == [3, 0]


@pytest.mark.slow
@quick
@given(st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=12))
def test_what_is_played_is_the_way_from_the_last_answer_to_the_first(steps):
    """Each answer hangs on any earlier place; a user record leads to each of them."""
    session = Session()
    first = session.user("Fix it", 0)["uuid"]
    ways: list[list[str]] = [[]]
    ends = [first]
    for number, (place, has_time) in enumerate(steps):
        at = number + 1 if has_time else None
        above = place % len(ends)
        asked = session.user(f"try {number}", at)
        asked["parentUuid"] = ends[above]
        session.text(f"m{number}", "x", at)["parentUuid"] = asked["uuid"]
        ends.append(session.records[-1]["uuid"])
        ways.append([*ways[above], f"m{number}"])
    trace = parse(session, keep_content=True)
    live = [m for m in trace.messages if m.role == "assistant" and not m.abandoned]
    live.sort(key=lambda message: message.position)
    assert [message.id for message in live] == ways[-1]
    assert summary(trace)["tokens"]["messages"] == len(steps)


# --- exact events ---


def run_directory(tmp_path, session: Session, exchanges: list[dict]):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "trace.jsonl").write_bytes(session.data())
    (folder / "result.json").write_text("{}", encoding="utf-8")
    lines = "".join(json.dumps(exchange) + "\n" for exchange in exchanges)
    (folder / "api.jsonl").write_text(lines, encoding="utf-8")
    return folder


def test_exact_events_of_answers_with_one_id_are_those_of_each_answer(tmp_path):
    start = 'data: {"type":"message_start","message":{"id":"m"}}\n\n'
    whole = start + 'data: {"type":"message_stop"}\n\n'
    exchanges = [
        {"message_id": "m", "stream": True, "error": None, "events": [[number * 10**9, whole]]}
        for number in (1, 2, 3)
    ]
    session = same_message(["r0", "r1", "r2"])
    turns = recording.load(run_directory(tmp_path, session, exchanges)).main.turns
    assert [turn.events[0][0] for turn in turns] == [1.0, 2.0, 3.0]
    ids = [turn.events[0][1]["message"]["id"] for turn in turns]
    assert ids == [turn.message.id for turn in turns] and len(set(ids)) == 3
