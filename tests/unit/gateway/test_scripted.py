"""Scripted conversations: the answers' form, which turn is played, its pace and its faults."""

import http.client
import json
import time

import pytest
from gateway_client import (
    BASIC,
    TOKEN,
    active,
    answered,
    calls,
    events,
    request,
    send_only,
    starter,
    text_of,
    timing,
    user,
    wait_until,
    who,
)


@pytest.fixture
def start(tmp_path):
    with starter(tmp_path) as start:
        yield start


# The Messages API


def test_a_stream_has_the_events_of_the_api_in_their_order(start):
    gateway = start()
    _, headers, body = gateway.call("POST", "/v1/messages", request([user("Go.")], True), **who())
    assert headers["content-type"].startswith("text/event-stream")
    assert headers["request-id"].startswith("req_")
    found = events(body)
    assert [event["type"] for event in found[:2]] == ["message_start", "ping"]
    assert [event["type"] for event in found[-2:]] == ["message_delta", "message_stop"]
    opened = found[0]["message"]
    assert (opened["role"], opened["type"], opened["model"]) == (
        "assistant",
        "message",
        "claude-test-1",
    )
    assert opened["content"] == [] and opened["stop_reason"] is None
    assert opened["usage"]["input_tokens"] > 0
    assert found[-2]["delta"]["stop_reason"] == "tool_use"
    assert found[-2]["usage"]["output_tokens"] > 10
    kinds = [event["content_block"]["type"] for event in found if "content_block" in event]
    assert kinds == ["thinking", "text", "tool_use", "tool_use"]
    for index in range(4):
        own = [event["type"] for event in found if event.get("index") == index]
        assert own[0] == "content_block_start" and own[-1] == "content_block_stop"
        assert set(own[1:-1]) == {"content_block_delta"}


def test_the_stream_and_the_whole_answer_say_the_same(start):
    gateway = start()
    streamed = gateway.ask([user("Go.")], stream=True)
    whole = gateway.ask([user("Go.")], stream=False)
    assert streamed["content"] == whole["content"]
    thinking, text, bash, read = whole["content"]
    assert thinking["thinking"] == "What is there?" and len(thinking["signature"]) > 40
    assert text == {"type": "text", "text": "I will look first."}
    assert (bash["name"], bash["input"]) == ("Bash", {"command": "ls -la"})
    assert (read["name"], read["input"]) == ("Read", {"file_path": "/testbed/x.py"})
    assert bash["id"].startswith("toolu_") and bash["id"] != read["id"]
    assert whole["stop_reason"] == streamed["stop_reason"] == "tool_use"


def test_text_is_cut_into_chunks_of_the_size_given(start):
    gateway = start("turns: [{text: abcdefghijkl€nop, chunk_chars: 5}]")
    _, _, body = gateway.call("POST", "/v1/messages", request([user("Go.")], True))
    pieces = [e["delta"]["text"] for e in events(body) if e["type"] == "content_block_delta"]
    assert pieces == ["abcde", "fghij", "kl€no", "p"]


def test_an_empty_answer_is_one(start):
    message = start('turns: [{text: ""}]').ask([user("Go.")], stream=True)
    assert (message["content"], message["stop_reason"]) == ([], "end_turn")


def test_usage_is_the_scenarios_or_an_estimate_from_lengths(start):
    gateway = start(
        "turns:\n"
        "  - {text: x, usage: {input_tokens: 7, output_tokens: 5, cache_read_input_tokens: 3}}\n"
    )
    usage = gateway.ask([user("Go.")], stream=True)["usage"]
    assert (usage["input_tokens"], usage["output_tokens"]) == (7, 5)
    assert (usage["cache_read_input_tokens"], usage["cache_creation_input_tokens"]) == (3, 0)
    (row,) = gateway.exchanges(1)
    assert (row["input_tokens"], row["cache_read_input_tokens"]) == (7, 3)

    estimated = start("turns: [{text: %s}]" % ("x" * 400))
    body = request([user("Go." * 1000)])
    usage = json.loads(estimated.call("POST", "/v1/messages", body)[2])["usage"]
    assert usage["input_tokens"] == -(-len(json.dumps(body)) // 4)
    assert usage["output_tokens"] == 100


# Conversations


def test_a_conversation_walks_through_its_turns(start):
    gateway = start()
    talk = [user("Go.")]
    first = gateway.ask(talk, stream=True)
    talk += answered(first, "a b c", "1: x")
    second = gateway.ask(talk, stream=True)
    assert text_of(second) == "Now the build."
    talk += answered(second, "built")
    last = gateway.ask(talk, stream=True)
    assert (text_of(last), last["stop_reason"]) == ("Finished.", "end_turn")
    rows = gateway.exchanges(3)
    assert [(row["turn"], row["turn_id"], row["kind"]) for row in rows] == [
        (0, None, "main"),
        (1, "build", "main"),
        (2, "done", "main"),
    ]
    assert [row["stop_reason"] for row in rows] == ["tool_use", "tool_use", "end_turn"]
    assert [row["message_id"] for row in rows] == [first["id"], second["id"], last["id"]]
    assert len({row["request_sha256"] for row in rows}) == 3


def walk(gateway, *results, opening="Go.", **more):
    """Plays a conversation with these results and returns its messages."""
    talk, messages = [user(opening)], []
    for given in (*results, None):
        messages.append(gateway.ask(talk, **more))
        if given is not None:
            talk += answered(messages[-1], *given)
    return messages


def test_a_killed_tool_takes_the_branch(start):
    gateway = start()
    killed = ("Exit code 137\nKilled", True)
    messages = walk(gateway, ("x", "y"), (killed,), ("made",))
    assert calls(messages[2])[0]["input"] == {"command": "make small"}
    assert text_of(messages[3]) == "Finished."
    (row,) = [row for row in gateway.exchanges(4) if row["turn_id"] == "smaller"]
    assert row["turn"] == 2


def test_a_loop_gives_every_round_its_own_ids(start):
    gateway = start(
        "turns:\n"
        "  - id: poll\n"
        "    tools: [{Bash: {command: poll}}]\n"
        "    next: [{if: {result_matches: ready}, goto: done}, {goto: poll}]\n"
        "  - {id: done, text: Ready at last.}\n"
    )
    messages = walk(gateway, ("not yet",), ("no",), ("ready",))
    assert text_of(messages[-1]) == "Ready at last."
    assert len({calls(message)[0]["id"] for message in messages[:-1]}) == 3
    assert [row["turn"] for row in gateway.exchanges(4)] == [0, 1, 2, 3]


def test_ids_are_the_same_in_every_gateway_and_differ_between_scenarios(start):
    def ids(gateway):
        message = gateway.ask([user("Go.")])
        return [message["id"], *(call["id"] for call in calls(message))]

    assert ids(start()) == ids(start())
    assert not set(ids(start())) & set(ids(start(BASIC.replace("Finished.", "Done."))))


def test_a_request_that_comes_again_gets_the_same_answer(start):
    gateway = start()
    talk = [user("Go.")]
    first = gateway.ask(talk)
    assert gateway.ask(talk) == first
    talk += answered(first, "x", "y")
    second = gateway.ask(talk)
    # A late duplicate of the first request does not disturb the conversation.
    assert gateway.ask(talk[:1]) == first
    assert gateway.ask(talk) == second
    rows = gateway.exchanges(5)
    assert [(row["turn"], row["retry"]) for row in rows] == [(0, 0), (0, 1), (1, 0), (0, 2), (1, 1)]


def test_messages_of_the_role_system_are_no_turns(start):
    gateway = start()
    first = gateway.ask([user("Go.")])
    reminder = {"role": "system", "content": "A reminder."}
    talk = [user("Go."), reminder, *answered(first, "x", "y"), reminder]
    second = gateway.ask(talk)
    assert text_of(second) == "Now the build."
    talk += [*answered(second, "built"), reminder]
    assert text_of(gateway.ask(talk)) == "Finished."


def test_sessions_are_counted_apart(start):
    gateway = start()
    gateway.ask([user("Go.")], session="s-1")
    gateway.ask([user("Go.")], session="s-2")
    assert [row["retry"] for row in gateway.exchanges(2)] == [0, 0]


def test_sub_agents_have_scripts_and_ids_of_their_own(start):
    gateway = start()
    opening = "Please [[explore]] the left"
    left = walk(gateway, ("x",), opening=opening, agent="a-left", stream=True)
    right = walk(gateway, ("x",), opening="Please [[explore]] the right", agent="a-right")
    assert text_of(left[1]) == text_of(right[1]) == "Explored."
    ids = [message["id"] for message in (*left, *right)]
    assert len(set(ids)) == 4
    assert calls(left[0])[0]["id"] != calls(right[0])[0]["id"]
    rows = gateway.exchanges(4)
    assert {row["kind"] for row in rows} == {"subagent"}
    assert [row["agent_id"] for row in rows] == ["a-left", "a-left", "a-right", "a-right"]

    # Another run has other agent ids and another order; what the agents get is the same.
    other = start()
    again_right = walk(other, ("x",), opening="Please [[explore]] the right", agent="b-1")
    again_left = walk(other, ("x",), opening=opening, agent="b-2", stream=True)
    assert [m["id"] for m in (*again_left, *again_right)] == ids


def test_sub_agents_with_one_prompt_are_still_two(start):
    gateway = start()
    talk = [user("[[explore]]")]
    one, two = gateway.ask(talk, agent="a-1"), gateway.ask(talk, agent="a-2")
    assert one["id"] != two["id"] and calls(one)[0]["id"] != calls(two)[0]["id"]
    assert text_of(gateway.ask(talk + answered(one, "x"), agent="a-1")) == "Explored."
    assert text_of(gateway.ask(talk + answered(two, "x"), agent="a-2")) == "Explored."
    assert [row["retry"] for row in gateway.exchanges(4)] == [0] * 4


def test_a_sub_agent_of_a_cli_without_agent_ids_is_known_by_its_marker(start):
    gateway = start()
    messages = walk(gateway, ("x",), opening="[[explore]]")
    assert text_of(messages[1]) == "Explored."
    assert {row["kind"] for row in gateway.exchanges(2)} == {"subagent"}


def exhausted(gateway, message, count):
    assert message["stop_reason"] == "end_turn" and text_of(message)
    row = gateway.exchanges(count)[-1]
    assert (row["status"], row["error"]) == (200, "scenario_exhausted")
    return row


def test_after_the_end_comes_a_plain_answer(start):
    gateway = start("turns: [{text: Done.}]")
    last = gateway.ask([user("Go.")])
    talk = [user("Go."), {"role": "assistant", "content": last["content"]}, user("And now?")]
    assert exhausted(gateway, gateway.ask(talk, stream=True), 2)["kind"] == "main"
    assert exhausted(gateway, gateway.ask(talk), 3)["retry"] == 0
    assert exhausted(gateway, gateway.ask(talk), 4)["retry"] == 1


def test_a_conversation_of_another_scenario_gets_a_plain_answer(start):
    other = start(BASIC.replace("Finished.", "Done."))
    foreign = answered(other.ask([user("Go.")]), "x", "y")
    gateway = start()
    exhausted(gateway, gateway.ask([user("Go."), *foreign]), 1)


def test_a_sub_agent_without_a_script_gets_a_plain_answer(start):
    gateway = start()
    message = gateway.ask([user("Look around.")], agent="a-1")
    assert exhausted(gateway, message, 1)["kind"] == "subagent"


@pytest.mark.parametrize("content", [None, 5, "text", [], [None, 7], [{"type": "tool_use"}]])
def test_odd_messages_do_no_harm(start, content):
    gateway = start()
    odd = {"role": "assistant", "content": content}
    result = {"role": "user", "content": [{"type": "tool_result", "content": content}]}
    assert gateway.call("POST", "/v1/messages", request([user("Go."), odd, result]))[0] == 200
    assert gateway.errors.read_text(encoding="utf-8") == ""


SUMMARY = "CRITICAL: Respond with TEXT ONLY. Do NOT call any tools."
SUMMARISED = "This session is being continued from a previous conversation that ran out of context."


def test_after_a_summary_the_scenario_goes_on_where_it_was(start):
    gateway = start()
    first, second = walk(gateway, ("x", "y"))
    whole = [user("Go."), *answered(first, "x", "y"), *answered(second, ("Killed", True))]
    asked = gateway.ask([*whole, user(SUMMARY)])
    assert "<summary>" in text_of(asked)
    # The branch was decided by a result that only the summarised conversation held.
    third = gateway.ask([user(SUMMARISED)])
    assert calls(third)[0]["input"] == {"command": "make small"}
    last = gateway.ask([user(SUMMARISED), *answered(third, "made")])
    assert text_of(last) == "Finished."
    # Newer CLIs keep the end of the conversation beside its summary.
    kept = [user(SUMMARISED), *answered(second, ("Killed", True)), *answered(third, "made")]
    assert gateway.ask(kept)["id"] == last["id"]
    rows = gateway.exchanges(6)
    assert [row["kind"] for row in rows[2:]] == ["side", "main", "main", "main"]
    assert [row["turn"] for row in rows[2:]] == [None, 2, 3, 3]


def test_what_the_client_asks_for_itself_is_no_turn(start):
    gateway = start()
    message = gateway.ask([user("Write a title for this conversation.")], tools=False)
    assert message["stop_reason"] == "end_turn"
    assert text_of(gateway.ask([user("Go.")])) == "I will look first."
    assert [(row["kind"], row["turn"], row["retry"]) for row in gateway.exchanges(2)] == [
        ("side", None, 0),
        ("main", 0, 0),
    ]


def test_a_scenario_without_tools_serves_a_client_without_tools(start):
    gateway = start("turns: [{text: '4'}]")
    assert text_of(gateway.ask([user("What is 2+2?")], tools=False)) == "4"
    assert gateway.exchanges(1)[0]["kind"] == "main"


CUT_OFF = "Your response above was cut off mid-stream. Resume directly from where it stops."


@pytest.mark.parametrize("turn", ["{text: Well., tools: [{Bash: {command: ls}}]}", "{text: Well.}"])
def test_a_message_of_which_the_client_has_a_part_is_said_again(start, turn):
    gateway = start(f"turns:\n  - {turn}\n  - {{text: End.}}\n" if "tools" in turn else
                    f"turns: [{turn}]")  # fmt: skip
    first = gateway.ask([user("Go.")])
    part = {"role": "assistant", "content": [{"type": "text", "text": "Well."}]}
    again = gateway.ask([user("Go."), part, user(CUT_OFF)])
    assert again["content"] == first["content"]
    # The client kept the first one's id for the part that it has.
    assert again["id"] != first["id"]
    assert [(row["turn"], row["retry"]) for row in gateway.exchanges(2)] == [(0, 0), (0, 1)]


def test_a_text_alone_is_no_answer_where_the_turn_calls_tools(start):
    gateway = start()
    part = {"role": "assistant", "content": [{"type": "text", "text": "I will look first."}]}
    # However the client puts it that it wants the rest.
    again = gateway.ask([user("Go."), part, user("Please go on.")])
    assert len(calls(again)) == 2
    assert gateway.exchanges(1)[0]["error"] is None


# Pace


def test_latency_and_pace(start):
    scenario = "turns: [{text: abcdefghij, latency_s: 0.3, chunk_chars: 2, chunk_s: 0.05}]"
    gateway = start(scenario)
    with gateway.socket() as connection:
        body = json.dumps(request([user("Go.")], True))
        began = time.monotonic()
        connection.sendall(
            f"POST /v1/messages HTTP/1.1\r\nhost: x\r\nx-api-key: {TOKEN}\r\n"
            f"content-length: {len(body)}\r\n\r\n{body}".encode()
        )
        connection.recv(65536)
        first_s = time.monotonic() - began
        while not connection.recv(65536).endswith(b"0\r\n\r\n"):
            pass
        all_s = time.monotonic() - began
    assert 0.3 <= first_s < 0.6
    # Six pauses: before each of five deltas, and before the end.
    assert 0.6 <= all_s < 1.2
    (row,) = gateway.exchanges(1)
    assert timing(row) == (pytest.approx(first_s, abs=0.1), pytest.approx(all_s, abs=0.1))
    offset_ns = time.time_ns() - time.monotonic_ns()
    for name in ("start", "end"):
        assert row[f"{name}_utc_ns"] - row[f"{name}_ns"] == pytest.approx(offset_ns, abs=5e7)


@pytest.mark.parametrize(("scale", "least", "most"), [(0, 0.0, 0.2), (2, 0.6, 1.0)])
def test_latency_scale(start, scale, least, most):
    gateway = start("turns: [{text: abc, latency_s: 0.3}]", latency_scale=scale)
    gateway.ask([user("Go.")], stream=True)
    first_byte_s, _ = timing(gateway.exchanges(1)[0])
    assert least <= first_byte_s < most


# Faults


def fault(kind, text="text: a longer text that can be cut"):
    return f"turns: [{{{text}, chunk_chars: 5, fault: {{{kind}}}}}]"


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (429, "rate_limit_error"),
        (529, "overloaded_error"),
        (500, "api_error"),
        (503, "api_error"),
        (401, "authentication_error"),
        (418, "invalid_request_error"),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_an_error_status_some_times_and_then_the_answer(start, status, kind, stream):
    gateway = start(fault(f"status: {status}, times: 2, retry_after_s: 3"))
    for _ in range(2):
        got, headers, body = gateway.call(
            "POST", "/v1/messages", request([user("Go.")], stream), **who()
        )
        assert (got, headers["retry-after"]) == (status, "3")
        assert json.loads(body)["error"]["type"] == kind
        assert json.loads(body)["request_id"] == headers["request-id"]
    assert text_of(gateway.ask([user("Go.")], stream)) == "a longer text that can be cut"
    rows = gateway.exchanges(3)
    assert [(row["status"], row["error"], row["retry"]) for row in rows] == [
        (status, kind, 0),
        (status, kind, 1),
        (200, None, 2),
    ]
    # What was never said costs nothing.
    assert [row["output_tokens"] for row in rows[:2]] == [None, None]
    assert rows[2]["output_tokens"] > 0


def test_a_fault_for_ever(start):
    gateway = start(fault("status: 500, times: forever"))
    for _ in range(20):
        status, headers, _ = gateway.call("POST", "/v1/messages", request([user("Go.")]))
        assert (status, headers["retry-after"]) == (500, None)
    assert [row["retry"] for row in gateway.exchanges(20)] == list(range(20))


def test_a_fault_counts_for_its_turn_and_each_conversation(start):
    gateway = start(fault("status: 500"))
    for session, expected in (("s-1", 500), ("s-2", 500), ("s-1", 200), ("s-2", 200)):
        status, *_ = gateway.call(
            "POST", "/v1/messages", request([user("Go.")]), **who(session=session)
        )
        assert status == expected


@pytest.mark.parametrize("listen", ["tcp", "unix"])
def test_a_dropped_connection(start, tmp_path, listen):
    address = "tcp:127.0.0.1:0" if listen == "tcp" else f"unix:{tmp_path}/s"
    gateway = start(fault("drop: connect"), listen=address)
    with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)) as caught:
        gateway.ask([user("Go.")], stream=True)
    if listen == "tcp":
        assert caught.type is ConnectionResetError
    assert gateway.ask([user("Go.")], stream=True)["stop_reason"] == "end_turn"
    rows = gateway.exchanges(2)
    assert [(row["status"], row["error"], row["retry"]) for row in rows] == [
        (None, "dropped", 0),
        (200, None, 1),
    ]
    assert rows[0]["first_byte_ns"] is None and rows[0]["response_bytes"] == 0


@pytest.mark.parametrize("stream", [True, False])
def test_a_connection_dropped_in_mid_answer(start, stream):
    gateway = start(fault("drop: midstream"))
    with pytest.raises(http.client.IncompleteRead) as caught:
        gateway.ask([user("Go.")], stream)
    part = caught.value.partial
    if stream:
        assert part.startswith(b"event: message_start") and b"a lon" in part
        assert b"message_stop" not in part
    gateway.ask([user("Go.")], stream)
    first, second = gateway.exchanges(2)
    assert (first["status"], first["error"], first["message_id"]) == (200, "dropped", None)
    assert 0 < first["response_bytes"] < second["response_bytes"]
    assert second["error"] is None


@pytest.mark.parametrize("kind", ["overloaded_error", "api_error"])
def test_an_error_in_the_stream(start, kind):
    gateway = start(fault(f"stream_error: {kind}"))
    status, _, body = gateway.call("POST", "/v1/messages", request([user("Go.")], True))
    found = events(body)
    assert status == 200
    assert [event["type"] for event in found] == ["message_start", "ping", "error"]
    assert found[-1]["error"]["type"] == kind
    assert gateway.call("POST", "/v1/messages", request([user("Go.")], False))[0] == 200
    assert [(row["status"], row["error"]) for row in gateway.exchanges(2)] == [
        (200, kind),
        (200, None),
    ]


def test_an_error_in_the_stream_where_there_is_no_stream(start):
    gateway = start(fault("stream_error: overloaded_error"))
    assert gateway.call("POST", "/v1/messages", request([user("Go.")], False))[0] == 529


def test_malformed_answers(start):
    event = start(fault("malformed: event"))
    _, _, body = event.call("POST", "/v1/messages", request([user("Go.")], True))
    with pytest.raises(json.JSONDecodeError):
        events(body)
    page = start(fault("malformed: body, times: 2"))
    for stream in (True, False):
        status, _, body = page.call("POST", "/v1/messages", request([user("Go.")], stream))
        assert status == 200 and body.startswith(b"<html>")
    for gateway in (event, page):
        assert gateway.exchanges()[0]["error"] == "malformed"


def test_a_hang_ends_in_its_time(start):
    gateway = start(fault("hang_s: 0.3"), latency_scale=0)
    began = time.monotonic()
    with pytest.raises((ConnectionResetError, http.client.RemoteDisconnected)):
        gateway.ask([user("Go.")], stream=True)
    assert 0.3 <= time.monotonic() - began < 2
    assert gateway.exchanges(1)[0]["error"] == "hang"


def test_a_client_that_leaves_a_hang_frees_it(start):
    gateway = start(fault("hang_s: 600"))
    connection = send_only(gateway)
    wait_until(lambda: active(gateway) == 1)
    assert gateway.exchanges() == []
    connection.close()
    (row,) = gateway.exchanges(1)
    assert (row["error"], row["status"], row["first_byte_ns"]) == ("hang", None, None)
    assert active(gateway) == 0


def test_the_gateways_end_frees_a_hang(start):
    gateway = start(fault("hang_s: 600"))
    with send_only(gateway):
        wait_until(lambda: active(gateway) == 1)
        began = time.monotonic()
        assert gateway.service.stop() == 0
        assert time.monotonic() - began < 2
    assert gateway.exchanges()[0]["error"] == "hang"
