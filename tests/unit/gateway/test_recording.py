"""Sessions and runs become recordings: every turn, every result, the pace."""

import json
import tarfile
from pathlib import Path

import pytest
from session_maker import SESSION, Session, small_session

from agentsweep.errors import ConfigError
from agentsweep.gateway import recording

SHARED = Path(__file__).parents[4] / "shared" / "data"
needs_shared = pytest.mark.skipif(
    not SHARED.is_dir(), reason=f"NOT RUN, the recorded sessions of others are not in {SHARED}"
)


def load(tmp_path, session) -> recording.Recording:
    path = tmp_path / f"{SESSION}.jsonl"
    path.write_bytes(session.data())
    return recording.load(path)


def said(turn) -> list[tuple]:
    return [
        (b["type"], b.get("text") or b.get("thinking") or b.get("name"))
        for b in turn.message.content
    ]


def offsets(turn) -> list[float]:
    return [
        round(offset_s, 3)
        for offset_s, event in turn.events
        if event["type"] == "content_block_stop"
    ]


def test_turns_words_and_results(tmp_path):
    made = load(tmp_path, small_session())
    assert (made.kind, made.subagents, made.tools) == ("session", (), {"Bash", "Read"})
    first, second, third = made.main.turns
    assert said(first) == [("text", "I look."), ("tool_use", "Bash")]
    assert said(third) == [("text", "Done.")]
    assert [turn.message.stop_reason for turn in made.main.turns] == [
        "tool_use",
        "tool_use",
        "end_turn",
    ]
    (bash,), (read,) = first.calls, second.calls
    assert (bash.id, bash.name, bash.text) == ("t1", "Bash", "a\nb")
    assert (bash.has_result, bash.is_error, bash.exit_code) == (True, False, 0)
    assert (read.id, read.text) == ("t2", "1\ta")
    usage = first.message.usage
    assert (usage.input_tokens, usage.output_tokens, usage.cache_read_input_tokens) == (4, 10, 100)


def test_the_pace_is_counted_from_when_the_model_was_asked(tmp_path):
    made = load(tmp_path, small_session())
    # Asked at 1, 3 and 5; noted at 2 and 2.1, at 4, and at 6.
    assert [offsets(turn) for turn in made.main.turns] == [[1.0, 1.1], [1.0], [1.0]]
    events = made.main.turns[0].events
    assert events[0] == (1.0, events[0][1]) and events[0][1]["type"] == "message_start"
    assert events[-1][0] == pytest.approx(1.1) and events[-1][1]["type"] == "message_stop"
    times_s = [offset_s for offset_s, _ in events]
    assert times_s == sorted(times_s)


def test_the_clis_own_record_of_the_request_is_better_than_the_record_before(tmp_path):
    session = Session()
    session.user("Fix it", 1)
    session.other("api-request", id="r1", timestamp="2026-03-01T12:00:01.900Z")
    session.text("m1", "Done.", 2, stop="end_turn", requestRef="r1")
    assert offsets(load(tmp_path, session).main.turns[0]) == [0.1]


def test_blocks_keep_their_order_and_what_the_api_sent(tmp_path):
    session = Session()
    session.user("Fix it", 1)
    thought = {"type": "thinking", "thinking": "Hm.", "signature": "sig"}
    session.assistant("m1", thought, 2)
    session.assistant("m1", {"type": "text", "text": ""}, 2)
    session.assistant("m1", {"type": "redacted_thinking", "data": "x"}, 2)
    use = {
        "type": "tool_use",
        "id": "t1",
        "name": "Bash",
        "input": {},
        "caller": {"type": "direct"},
    }
    session.assistant("m1", use, 2)
    (turn,) = load(tmp_path, session).main.turns
    assert turn.message.content == (
        thought,
        {"type": "redacted_thinking", "data": "x"},
        {"type": "tool_use", "id": "t1", "name": "Bash", "input": {}},
    )
    assert (turn.calls[0].has_result, turn.calls[0].text) == (False, None)


def test_what_the_cli_says_in_the_models_place_is_no_turn(tmp_path):
    session = small_session()
    session.text("e1", "API Error", 7, model="<synthetic>", isApiErrorMessage=True)
    assert len(load(tmp_path, session).main.turns) == 3


def test_stop_reasons_that_were_never_noted(tmp_path):
    session = Session("2.1.16")
    session.user("Fix it", 1)
    session.bash("m1", "t1", "ls", 2, stop=None)
    session.result("t1", "a", 3)
    session.text("m2", "Done.", 4, stop=None)
    turns = load(tmp_path, session).main.turns
    assert [turn.message.stop_reason for turn in turns] == ["tool_use", "end_turn"]


def test_an_id_that_comes_twice_gets_a_name_of_its_own(tmp_path):
    session = Session()
    session.user("Fix it", 1)
    session.bash("m1", "call_0", "ls", 2)
    session.result("call_0", "first", 2.5)
    session.bash("m2", "call_0", "pwd", 3)
    session.result("call_0", "second", 3.5, is_error=True)
    session.text("m3", "Done.", 4, stop="end_turn")
    turns = load(tmp_path, session).main.turns
    ids = [block["id"] for turn in turns for block in turn.message.content if "id" in block]
    assert ids == ["call_0", "call_0_2"]
    first, second = (call for turn in turns for call in turn.calls)
    assert [first.id, second.id] == ids
    assert (first.text, first.is_error) == ("first", False)
    assert (second.text, second.is_error) == ("second", True)


def test_exact_events_of_a_call_that_got_another_name_are_not_played(tmp_path):
    session = Session()
    session.user("Fix it", 1)
    for number in (1, 2):
        session.bash(f"m{number}", "call_0", "ls", number + 1)
    session.text("m3", "Done.", 4, stop="end_turn")
    use = '{"type":"content_block_start","content_block":{"type":"tool_use","id":"call_0"}}'
    whole = f'data: {use}\n\ndata: {{"type":"message_stop"}}\n\n'
    lines = [exchange(f"m{number}", [[1, whole]]) for number in (1, 2)]
    made = recording.load(run_directory(tmp_path, session, lines))
    ids = [
        event["content_block"]["id"]
        for turn in made.main.turns
        for _, event in turn.events
        if event.get("content_block", {}).get("type") == "tool_use"
    ]
    assert (ids, made.kind) == (["call_0", "call_0_2"], "mixed")


def test_what_a_fork_or_a_resumed_session_repeats_is_played_once(tmp_path):
    session = small_session()
    for record in list(session.records):
        if "uuid" in record:
            session.records.append({**record, "uuid": f"again-{record['uuid']}"})
    made = load(tmp_path, session)
    assert [said(turn) for turn in made.main.turns] == [
        [("text", "I look."), ("tool_use", "Bash")],
        [("tool_use", "Read")],
        [("text", "Done.")],
    ]


def test_sessions_with_odd_ids_lose_nothing_else(tmp_path):
    session = small_session()
    for record in session.records:
        record.pop("uuid", None)
    assert [len(turn.message.content) for turn in load(tmp_path, session).main.turns] == [2, 1, 1]
    odd = small_session()
    odd.tool("m4", None, "Bash", {"command": "x"}, 7)
    odd.tool("m5", ["t"], "Bash", {"command": "x"}, 8)
    odd.tool("m6", "t6", None, {"command": "x"}, 9)
    odd.assistant({"id": 1}, {"type": "text", "text": "Odd."}, 10, requestId="r")
    odd.records[-1]["uuid"] = ["u"]
    turns = load(tmp_path, odd).main.turns
    assert [call.id for turn in turns for call in turn.calls] == ["t1", "t2"]
    assert "Odd." in str(turns[-1].message.content)


def test_placeholders_are_no_tokens(tmp_path):
    session = Session("2.1.16")
    session.user("Fix it", 1)
    session.text("m1", "x" * 400, 2, stop=None, output=1)
    (turn,) = load(tmp_path, session).main.turns
    assert turn.message.usage.output_tokens == 100


def test_the_wait_after_a_failed_attempt_is_not_the_models_time(tmp_path):
    session = Session("2.1.112")
    session.user("Fix it", 1)
    error = {"subtype": "api_error", "retryInMs": 30000, "retryAttempt": 1}
    session.common("system", 2, **error, error={"status": 529})
    session.text("m1", "Done.", 40, stop="end_turn")
    assert offsets(load(tmp_path, session).main.turns[0]) == [8.0]


def test_a_sub_agent_that_could_not_be_started_is_none(tmp_path):
    main = with_subagent(Session("2.1.16"))
    main.result("t1", "Agent type not found", 6, is_error=True)
    main.text("m2", "Done.", 7, stop="end_turn")
    assert load(tmp_path, main).subagents == ()


def with_subagent(main: Session) -> Session:
    prompt = {"description": "look", "prompt": "Look left.", "subagent_type": "Explore"}
    main.user("Fix it", 1)
    main.tool("m1", "t1", "Agent", prompt, 2)
    return main


def test_a_sub_agent_is_known_by_its_prompt(tmp_path):
    main = with_subagent(Session())
    main.result("t1", "Nothing there.", 6, details={"agentId": "a7", "agentType": "Explore"})
    main.text("m2", "Done.", 7, stop="end_turn")
    agent = Session(agent="a7", prefix="s")
    agent.user("Look left.", 2.5)
    agent.bash("n1", "s1", "ls", 3)
    agent.result("s1", "", 4)
    agent.text("n2", "Nothing there.", 5, stop="end_turn")
    folder = tmp_path / SESSION / "subagents"
    folder.mkdir(parents=True)
    (folder / "agent-a7.jsonl").write_bytes(agent.data())
    made = load(tmp_path, main)
    (found,) = made.subagents
    assert (found.prompt, found.recorded, len(found.turns)) == ("Look left.", True, 2)
    assert len(made.main.turns) == 2
    assert [call.id for call in found.turns[0].calls] == ["s1"]


def test_a_sub_agent_whose_session_is_lost_says_its_report(tmp_path):
    main = with_subagent(Session("2.1.16"))
    report = [{"type": "text", "text": "Nothing there."}, {"type": "text", "text": "agentId: a7"}]
    main.result("t1", report, 6, details={"agentId": "a7", "agentType": "Explore"})
    main.text("m2", "Done.", 7, stop="end_turn")
    (found,) = load(tmp_path, main).subagents
    assert (found.name, found.prompt, found.recorded) == ("sub-agent t1", "Look left.", False)
    (turn,) = found.turns
    assert said(turn) == [("text", "Nothing there.")]
    # As long as the whole call took.
    assert offsets(turn) == [4.0]


def run_directory(tmp_path, session, exchanges) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "trace.jsonl").write_bytes(session.data())
    (folder / "result.json").write_text(
        json.dumps({"agent": {"session_id": SESSION}}), encoding="utf-8"
    )
    (folder / "api.jsonl").write_text(
        "".join(json.dumps(e) + "\n" for e in exchanges), encoding="utf-8"
    )
    with tarfile.open(folder / "session.tar", "w") as archive:
        archive.add(folder / "trace.jsonl", f"projects/-testbed/{SESSION}.jsonl")
    return folder


def exchange(message_id, pieces, **more) -> dict:
    return {"message_id": message_id, "stream": True, "error": None, "events": pieces, **more}


def test_a_run_of_our_own_gives_its_exact_events(tmp_path):
    start = 'event: message_start\ndata: {"type":"message_start","message":{"id":"m1"}}\n\n'
    stop = 'event: message_stop\ndata: {"type":"message_stop"}\n\n'
    pieces = [[250_000_000, start + stop[:9]], [700_000_000, stop[9:]]]
    broken = exchange("m2", [[1, start]])
    failed = exchange("m3", [[1, start + stop]], error="dropped")
    folder = run_directory(tmp_path, small_session(), [exchange("m1", pieces), broken, failed])
    made = recording.load(folder)
    assert made.kind == "mixed"
    first, second, third = made.main.turns
    assert [(offset_s, event["type"]) for offset_s, event in first.events] == [
        (0.25, "message_start"),
        (0.7, "message_stop"),
    ]
    # Of the others the pace is derived, as in any session.
    assert offsets(second) == [1.0] and offsets(third) == [1.0]


def test_a_run_without_its_archive_still_gives_the_main_conversation(tmp_path):
    folder = run_directory(tmp_path, small_session(), [])
    (folder / "session.tar").unlink()
    made = recording.load(folder)
    assert (made.kind, len(made.main.turns)) == ("session", 3)


@pytest.mark.parametrize("content", [b"", b"\n", b'{"type":"x"}\n', b"\xff\xfe"])
def test_what_has_no_turn_cannot_be_replayed(tmp_path, content):
    path = tmp_path / "x.jsonl"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="holds no answer of a model") as caught:
        recording.load(path)
    assert str(path) in str(caught.value) and len(caught.value.problems) == 1


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.jsonl cannot be read: No such file"):
        recording.load(tmp_path / "none.jsonl")


@needs_shared
@pytest.mark.parametrize(
    "path",
    [
        p
        for p in sorted(SHARED.glob("claude_code_examples/*/*.jsonl"))
        if len(p.stem) == 36 and "fatal" not in str(p)
    ],
    ids=lambda path: path.parent.name,
)
def test_sessions_of_every_version_convert(path):
    """Every tool call that the parser finds is in the recording, and none twice."""
    from agentsweep.agents.claude_code import trace

    made = recording.load(path)
    warmups = {agent.agent_id for agent in trace.parse_file(path).agents if agent.warmup}
    wanted = {call.id for call in trace.parse_file(path).tool_calls if call.agent_id not in warmups}
    found = [c.id for con in made.conversations for turn in con.turns for c in turn.calls]
    assert sorted(found) == sorted(wanted)
    assert made.main.turns


@pytest.mark.slow
@needs_shared
def test_all_sessions_of_a_published_data_set_convert():
    paths = sorted(SHARED.glob("agentcgroup/all_images_*/*/attempt_*/trace.jsonl"))
    assert len(paths) > 100
    subagents = 0
    for path in paths:
        made = recording.load(path)
        assert made.main.turns, path
        assert all(c.prompt for c in made.subagents), path
        subagents += sum(c.recorded for c in made.subagents)
    assert subagents == 16
