"""A recorded session is played by conversation, in a gateway process of its own."""

import json
import threading
import time

import pytest
from gateway_client import answered, calls, starter, text_of, timing, user
from session_maker import SESSION, Session, small_session

from agentsweep.gateway import replay

TOOLS = {
    "Bash": ("command", "description"),
    "Read": ("file_path",),
    "Agent": ("description", "prompt", "subagent_type"),
}


@pytest.fixture
def start(tmp_path):
    with starter(tmp_path) as start:

        def replay(session, agents=(), latency_scale=0, **more):
            path = tmp_path / f"{SESSION}.jsonl"
            path.write_bytes(session.data())
            folder = tmp_path / SESSION / "subagents"
            folder.mkdir(parents=True, exist_ok=True)
            for agent in agents:
                (folder / f"agent-{agent.agent}.jsonl").write_bytes(agent.data())
            return start(mode="replay", recording=str(path), latency_scale=latency_scale, **more)

        yield replay


def ask(gateway, messages, agent=None, stream=True, tools=TOOLS, session="s-1"):
    body = {"model": "claude-now", "messages": messages, "stream": stream}
    body["tools"] = [
        {"name": name, "input_schema": {"properties": {key: {} for key in parameters}}}
        for name, parameters in tools.items()
    ]
    from gateway_client import assemble, who

    status, _, answer = gateway.call(
        "POST", "/v1/messages", json.dumps(body).encode(), **who(agent, session)
    )
    assert status == 200, answer
    return assemble(answer) if stream else json.loads(answer)


def replay_of(gateway) -> dict:
    return gateway.service.ask({"cmd": "status"})["replay"]


def play(gateway, agent=None, opening="Something else entirely."):
    """A whole conversation, as the CLI has it: its messages, and what was answered."""
    messages, said = [user(opening)], []
    for _ in range(50):
        answer = ask(gateway, messages, agent)
        said.append(answer)
        if not calls(answer):
            return messages, said
        messages += answered(answer, *["a result"] * len(calls(answer)))
    raise AssertionError("it does not end")


def test_a_session_is_played_to_its_end(start):
    gateway = start(small_session())
    assert replay_of(gateway)["turns"] == 3
    _, said = play(gateway)
    assert [text_of(answer) for answer in said] == ["I look.", "", "Done."]
    assert [call["id"] for answer in said for call in calls(answer)] == ["t1", "t2"]
    assert calls(said[0])[0]["input"] == {"command": "ls -la"}
    assert [answer["stop_reason"] for answer in said] == ["tool_use", "tool_use", "end_turn"]
    # The recorded model and tokens, not those that are asked for.
    assert {answer["model"] for answer in said} == {"claude-haiku-4-5-20251001"}
    assert said[0]["usage"]["cache_read_input_tokens"] == 100
    rows = gateway.exchanges(3)
    assert [(row["kind"], row["turn"], row["retry"], row["error"]) for row in rows] == [
        ("main", 0, 0, None),
        ("main", 1, 0, None),
        ("main", 2, 0, None),
    ]
    done = replay_of(gateway)
    assert (done["turns_played"], done["unplayed"], done["diverged"]) == (3, None, None)
    assert done["source_kind"] == "session" and done["calls"] == 2


def test_what_was_recorded_of_each_call_is_noted_once(start):
    gateway = start(small_session())
    messages, _ = play(gateway)
    ask(gateway, messages[:1])
    first, _, last, again = gateway.exchanges(4)
    (call,) = first["recorded"]
    assert call == {
        "id": "t1",
        "name": "Bash",
        "sent_name": "Bash",
        "offered": True,
        "has_result": True,
        "is_error": False,
        "exit_code": 0,
        "timed_out": False,
        "killed": False,
        "text": "a\nb",
    }
    assert last["recorded"] == []
    assert (again["turn"], again["retry"], again["recorded"]) == (0, 1, None)


def test_the_same_request_gets_the_same_answer_again_in_any_order(start):
    gateway = start(small_session())
    messages, said = play(gateway)
    for length, answer in reversed(list(zip((1, 3, 5), said, strict=True))):
        assert ask(gateway, messages[:length]) == answer
        assert ask(gateway, messages[:length], stream=False)["content"] == answer["content"]


def parallel_session() -> Session:
    session = Session()
    session.user("Fix it", 1)
    for number in (1, 2, 3):
        session.bash("m1", f"t{number}", f"echo {number}", 2)
    for number in (3, 1, 2):
        session.result(f"t{number}", str(number), 3 + number)
    session.text("m2", "Done.", 8, stop="end_turn")
    return session


def test_parallel_calls_keep_their_ids_and_order(start):
    gateway = start(parallel_session())
    answer = ask(gateway, [user("x")])
    assert [(c["id"], c["input"]["command"]) for c in calls(answer)] == [
        ("t1", "echo 1"),
        ("t2", "echo 2"),
        ("t3", "echo 3"),
    ]
    assert text_of(ask(gateway, [user("x"), *answered(answer, "1", "2", "3")])) == "Done."


def agent_session(name: str, prompt: str, words: str, inline=None) -> Session:
    agent = Session(agent=name, prefix=name)
    agent.user(prompt, 2.5)
    agent.bash(f"n-{name}", f"s-{name}", f"ls {words}", 3)
    agent.result(f"s-{name}", "", 4)
    agent.text(f"e-{name}", f"Looked {words}.", 5, stop="end_turn")
    return agent


def session_with_agents(*prompts: str) -> Session:
    session = Session()
    session.user("Fix it", 1)
    for number, prompt in enumerate(prompts, 1):
        given = {"description": "look", "prompt": prompt, "subagent_type": "Explore"}
        session.tool("m1", f"t{number}", "Agent", given, 2)
    for number in range(1, len(prompts) + 1):
        session.result(f"t{number}", "r", 6, details={"agentId": f"a{number}"})
    session.text("m2", "Done.", 7, stop="end_turn")
    return session


def test_sub_agents_are_told_apart_by_their_prompts_whoever_asks_first(start):
    recorded = (agent_session("a1", "Go left.", "left"), agent_session("a2", "Go right.", "right"))
    gateway = start(session_with_agents("Go left.", "Go right."), recorded)
    answer = ask(gateway, [user("x")])
    messages = {"new-1": [user("Go right.")], "new-2": [user("Go left.")]}
    for _ in range(2):
        for agent, so_far in messages.items():
            turn = ask(gateway, so_far, agent)
            so_far += answered(turn, *["r"] * len(calls(turn)))
    assert "ls right" in str(messages["new-1"]) and "Looked right." in str(messages["new-1"])
    assert "ls left" in str(messages["new-2"]) and "Looked left." in str(messages["new-2"])
    assert text_of(ask(gateway, [user("x"), *answered(answer, "r", "r")])) == "Done."
    done = replay_of(gateway)
    assert (done["turns"], done["turns_played"], done["diverged"]) == (6, 6, None)
    kinds = [row["kind"] for row in gateway.exchanges(6)]
    assert kinds == ["main", *["subagent"] * 4, "main"]


def test_two_sub_agents_with_one_prompt_take_one_recording_each(start):
    recorded = (agent_session("a1", "Go.", "one"), agent_session("a2", "Go.", "two"))
    gateway = start(session_with_agents("Go.", "Go."), recorded)
    first, second = (ask(gateway, [user("Go.")], agent) for agent in ("new-1", "new-2"))
    assert {calls(m)[0]["id"] for m in (first, second)} == {"s-a1", "s-a2"}
    assert ask(gateway, [user("Go.")], "new-1") == first


def test_a_cli_that_sends_no_agent_id_has_its_sub_agents_told_apart_too(start):
    gateway = start(session_with_agents("Go left."), (agent_session("a1", "Go left.", "left"),))
    assert calls(ask(gateway, [user("Go left.")]))[0]["id"] == "s-a1"
    assert calls(ask(gateway, [user("x")]))[0]["id"] == "t1"


def test_a_sub_agent_of_which_only_the_report_is_known_says_it(start):
    gateway = start(session_with_agents("Go left."))
    assert text_of(ask(gateway, [user("Go left.")], "new-1")) == "r"
    assert replay_of(gateway)["unrecorded_subagents"] == 1


def test_an_unknown_sub_agent_ends_the_run(start):
    gateway = start(small_session())
    first = ask(gateway, [user("x")])
    assert "The replay ends here" in text_of(ask(gateway, [user("Who am I?")], "new-1"))
    # Nothing else is played after that: the run is no replay any more.
    after = ask(gateway, [user("x"), *answered(first, "r")])
    assert not calls(after) and "The replay ends here" in text_of(after)
    left = replay_of(gateway)["diverged"]
    assert left == {
        "turn": 1,
        "conversation": "a sub-agent",
        "reason": "the recording has no such sub-agent",
    }
    assert [row["error"] for row in gateway.exchanges(3)] == [None, "diverged", "diverged"]


def test_a_conversation_with_calls_of_another_recording_ends_the_run(start):
    gateway = start(small_session())
    strange = {"content": [{"type": "tool_use", "id": "other", "name": "Bash", "input": {}}]}
    assert "tool calls that the recording has not" in text_of(
        ask(gateway, [user("x"), *answered(strange, "r")])
    )
    assert replay_of(gateway)["diverged"]["turn"] == 2


def test_a_recording_that_was_cut_off_ends_the_run_at_that_turn(start):
    session = small_session()
    del session.records[-2:]  # the last message: the session was killed before it came
    gateway = start(session)
    _, said = play(gateway)
    assert len(said) == 3 and "The replay ends here" in text_of(said[2])
    left = replay_of(gateway)["diverged"]
    assert (left["turn"], left["conversation"]) == (3, "main")
    assert left["reason"].startswith("the recording ends after turn 2")


def test_a_text_in_the_middle_is_a_turn_of_its_own(start):
    session = Session()
    session.user("Fix it", 1)
    session.text("m1", "First part", 2, stop="max_tokens")
    session.user("Go on", 3, isMeta=True)
    session.text("m2", "and the rest.", 4, stop="end_turn")
    gateway = start(session)
    messages = [user("x"), {"role": "assistant", "content": "First part"}, user("Go on")]
    assert text_of(ask(gateway, messages[:1])) == "First part"
    assert text_of(ask(gateway, messages)) == "and the rest."


def test_a_tool_with_another_name_is_called_by_its_present_one(start):
    session = Session("2.1.16")
    session.user("Fix it", 1)
    session.tool("m1", "t1", "Task", {"prompt": "p", "description": "d"}, 2)
    session.tool("m1", "t2", "TodoWrite", {"todos": []}, 2)
    session.bash("m1", "t3", "ls", 2, requestId="r")
    session.records[-1]["message"]["content"][0]["input"]["run_in_background"] = True
    gateway = start(session)
    for stream in (True, False):
        answer = ask(gateway, [user("x")], stream=stream)
        assert [c["name"] for c in calls(answer)] == ["Agent", "TodoWrite", "Bash"]
    noted = gateway.exchanges(2)[0]["recorded"]
    assert [(c["name"], c["sent_name"], c["offered"]) for c in noted] == [
        ("Task", "Agent", True),
        ("TodoWrite", "TodoWrite", False),
        ("Bash", "Bash", True),
    ]


def test_a_tool_that_still_has_its_name_keeps_it(start):
    session = Session("2.1.16")
    session.user("Fix it", 1)
    session.tool("m1", "t1", "Task", {"prompt": "p"}, 2)
    gateway = start(session)
    tools = TOOLS | {"Task": ("prompt",)}
    assert calls(ask(gateway, [user("x")], tools=tools))[0]["name"] == "Task"


def slow_session() -> Session:
    session = Session()
    session.user("Fix it", 1)
    session.text("m1", "One.", 1.3, stop="end_turn")
    session.text("m1", "Two.", 1.6, stop="end_turn")
    return session


@pytest.mark.slow
def least_times(gateway, **more):
    """Of some answers the least time to the first byte, and to the end: a busy machine delays
    single ones."""
    for number in range(5):
        ask(gateway, [user("x")], session=f"s{number}", **more)
    return map(min, zip(*map(timing, gateway.exchanges(5)), strict=True))


@pytest.mark.parametrize(("scale", "first_s", "end_s"), [(1, 0.3, 0.6), (0.5, 0.15, 0.3)])
def test_the_recorded_time_is_kept(start, scale, first_s, end_s):
    gateway = start(slow_session(), latency_scale=scale)
    least_first_s, least_end_s = least_times(gateway)
    # Never early; late by what a busy machine takes, and not by as much as the other scale.
    assert first_s - 0.01 < least_first_s < 1.9 * first_s
    assert end_s - 0.01 < least_end_s < 1.9 * end_s


def test_a_scale_of_0_removes_the_recorded_time(start):
    gateway = start(slow_session())
    assert text_of(ask(gateway, [user("x")], session="first")) == "One.Two."
    _, end_s = least_times(gateway)
    # Of 0.6 s.
    assert end_s < 0.5


@pytest.mark.slow
def test_an_answer_that_does_not_stream_takes_as_long(start):
    gateway = start(slow_session(), latency_scale=1)
    first_s, _ = least_times(gateway, stream=False)
    assert 0.59 < first_s < 1


@pytest.mark.slow
def test_conversations_are_played_beside_each_other(start):
    gateway = start(slow_session(), latency_scale=1)
    threads = [
        threading.Thread(target=ask, args=(gateway, [user("x")]), kwargs={"session": f"s{n}"})
        for n in range(8)
    ]
    begin = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # One after another they would take 4.8 s.
    assert 0.5 < time.monotonic() - begin < 4.5


def test_the_clients_own_errands_are_no_turns(start):
    gateway = start(small_session())
    search = {"type": "web_search_20250305", "name": "web_search", "max_uses": 8}
    body = {"model": "m", "messages": [user("Search")], "tools": [search]}
    _, _, answer = gateway.call("POST", "/v1/messages", body)
    assert "<summary>" in text_of(json.loads(answer))
    assert "<summary>" in text_of(ask(gateway, [user("Name this session")], tools={}))
    assert calls(ask(gateway, [user("x")]))[0]["id"] == "t1"
    assert [row["kind"] for row in gateway.exchanges(3)] == ["side", "side", "main"]


def test_a_replay_goes_on_after_a_summary(start):
    gateway = start(small_session())
    first = ask(gateway, [user("x")])
    before = [user("x"), *answered(first, "r")]
    wanted = user("CRITICAL: Respond with TEXT ONLY. Summarise.")
    assert "<summary>" in text_of(ask(gateway, [*before, wanted]))
    given = user("This session is being continued from a previous conversation: ...")
    second = ask(gateway, [given])
    assert [call["id"] for call in calls(second)] == ["t2"]
    assert text_of(ask(gateway, [given, *answered(second, "r")])) == "Done."


def test_a_file_without_turns_is_refused_before_anything_starts(start):
    from agentsweep.errors import InfraError

    with pytest.raises(InfraError, match=r"^\S+\.jsonl holds no answer of a model"):
        start(Session())


def test_a_sub_agent_that_was_not_played_is_told(start):
    gateway = start(session_with_agents("Go left."), (agent_session("a1", "Go left.", "left"),))
    play(gateway)
    done = replay_of(gateway)
    assert done["unplayed"] == {"conversation": "sub-agent t1", "turn": 1, "turns": 2}
    assert (done["turns"], done["turns_played"], done["diverged"]) == (4, 2, None)


def test_a_conversation_that_goes_round_in_a_circle_is_ended(start):
    gateway = start(small_session())
    answers = [ask(gateway, [user("x")]) for _ in range(52)]
    assert calls(answers[50]) and not calls(answers[51])
    left = replay_of(gateway)["diverged"]
    assert (left["turn"], left["reason"]) == (1, "the agent asked for this turn 51 times")


def test_an_event_of_a_call_without_an_id_is_played_as_it_is():
    """An endpoint sent it, or a line of the record is damaged."""
    event = {"type": "content_block_start", "content_block": {"type": "tool_use", "name": "Bash"}}
    assert replay._renamed_event(event, {"toolu_1": "Shell"}) == event
