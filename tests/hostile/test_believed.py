"""What an agent says, and how it ends: no outcome, no retry and no share is of its choice."""

import json
import os
import subprocess
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_parts import FakeReader, attempt_run, job_content

from agentsweep.containers.podman import Podman
from agentsweep.errors import InfraError, LastingError
from agentsweep.extraction import gateway_facts
from agentsweep.extraction.run_directory import Fields
from agentsweep.extraction.run_row import _cost_usd, _differing
from agentsweep.grading import run_grades
from agentsweep.host.oom_kills import Kills
from agentsweep.runs import agent_end, agent_output, agent_process, outcome, run_cell, watch
from agentsweep.runs.agent_watch import Watched
from agentsweep.runs.job import Job
from agentsweep.runs.store import Store

# What the gateway wrote down


def answer(stop_reason="end_turn", text="Done.", kind="main", calls=0, **more) -> dict:
    events = [{"type": "message_start", "message": {"id": "m"}}]
    if text:
        delta = {"type": "text_delta", "text": text}
        events.append({"type": "content_block_delta", "delta": delta})
    for _ in range(calls):
        events.append({"type": "content_block_start", "content_block": {"type": "tool_use"}})
    events.append({"type": "message_stop"})
    data = "".join(f"event: {e['type']}\ndata: {json.dumps(e)}\n\n" for e in events)
    middle = len(data) // 2
    return {
        "path": "/v1/messages", "status": 200, "message_id": "m", "kind": kind, "error": None,
        "stop_reason": stop_reason, "stream": True, "input_tokens": 10, "output_tokens": 2,
        "events": [[0, data[:middle]], [5, data[middle:]]],
    } | more  # fmt: skip


FAILED = {"path": "/v1/messages", "status": 500, "message_id": None, "kind": "main",
          "error": "api_error", "events": []}  # fmt: skip


def facts(tmp_path, *lines) -> gateway_facts.Facts:
    path = tmp_path / "api.jsonl"
    path.write_bytes(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    return gateway_facts.read(path)


def test_the_facts_of_a_conversation(tmp_path):
    probe = {"path": "/api/hello", "status": 200}
    tool = answer("tool_use", "", calls=2)
    summary = answer(kind="side", text="")
    seen = facts(tmp_path, probe, tool, FAILED, answer(kind="subagent"), summary, answer())
    assert seen.statuses == [200, 500, 200, 200, 200]
    assert (seen.answers, seen.tool_calls, seen.turns, seen.asked) == (3, 2, 2, 3)
    assert (seen.last_status, seen.stop_reason, seen.final) == (200, "end_turn", True)
    assert (seen.tokens["input_tokens"], seen.tokens["output_tokens"]) == (40, 8)
    assert (seen.whole, seen.readable) == (True, True)
    assert "statuses" not in seen.as_dict()


def test_what_the_gateway_refused_is_told_from_what_a_model_was_asked(tmp_path):
    refused = FAILED | {"status": 401, "refused": True}
    seen = facts(tmp_path, refused, answer("tool_use", calls=1), FAILED, refused | {"status": 403})
    assert (seen.statuses, seen.refused) == ([200, 500], [401, 403])
    assert seen.as_dict()["refused"] == 2
    # Runs of earlier versions say nothing of it.
    assert facts(tmp_path, FAILED).refused == []


def test_an_answer_without_a_word_is_none(tmp_path):
    assert facts(tmp_path, answer(text=" \n")).answers == 0
    body = {"content": [{"type": "text", "text": "x"}]}
    plain = answer() | {"stream": False, "events": [[0, json.dumps(body)]]}
    assert facts(tmp_path, plain).answers == 1
    assert facts(tmp_path, plain | {"events": [[0, "{}"]]}).answers == 0


@pytest.mark.parametrize(
    ("lines", "final", "last_status"),
    [
        ([answer("tool_use", calls=1)], False, 200),
        ([answer("tool_use", calls=1), FAILED], False, 500),
        ([answer("pause_turn")], False, 200),
        ([answer(None)], None, 200),
        ([answer(None, error="upstream_broken")], False, None),
        ([answer(None, message_id=None, error="malformed")], False, None),
        ([], False, None),
        # What a tool asks for in no conversation is not the agent's last request.
        ([answer(), FAILED | {"kind": "other"}], True, 200),
        ([FAILED | {"kind": "other"}], False, 500),
        # A conversation of an agent without tools is an errand for the gateway.
        ([answer(kind="side")], True, 200),
    ],
)
def test_whether_a_conversation_ended(tmp_path, lines, final, last_status):
    seen = facts(tmp_path, *lines)
    assert (seen.final, seen.last_status) == (final, last_status)


def test_answers_that_nobody_can_read_say_nothing(tmp_path):
    seen = facts(tmp_path, answer(message_id=None, error="malformed", events=[[0, "\x1f\x8b"]]))
    assert not seen.readable
    assert facts(tmp_path, FAILED).readable


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=5), st.just([[0]]), st.just([[0, 1]]),
    st.just([["0", "x"]]), st.just({}), st.just([None]), st.just(float("nan")),
)  # fmt: skip


@settings(deadline=None)
@given(st.lists(st.dictionaries(st.sampled_from(sorted(answer())), ODD, max_size=6), max_size=5))
def test_no_line_ends_the_reading(tmp_path_factory, changes):
    folder = tmp_path_factory.mktemp("facts")
    seen = facts(folder, *(answer() | change | {"path": "/v1/messages"} for change in changes))
    assert len(seen.statuses) + len(seen.refused) == len(changes)
    assert json.dumps(seen.as_dict())


# A claim that is forged

CLAIMS = st.fixed_dictionaries(
    {"type": st.just("result")},
    optional={
        "is_error": st.booleans(),
        "terminal_reason": st.sampled_from(["completed", "max_turns", "api_error", "aborted"]),
        "api_error_status": st.sampled_from([None, 400, 401, 429, 529]),
        "num_turns": st.integers(-5, 10**9),
        "total_cost_usd": st.floats(),
        "result": st.text(max_size=20),
        "modelUsage": st.one_of(st.none(), st.dictionaries(st.text(max_size=3), ODD, max_size=2)),
    },
)
ENDS = [
    ("end_turn", 0, "completed"),
    ("tool_use", 143, "agent_error"),
    ("tool_use", 137, "agent_error"),
    ("end_turn", 1, "agent_error"),
]


@settings(deadline=None)
@given(CLAIMS, st.sampled_from(ENDS), st.booleans())
def test_no_claim_changes_an_outcome(tmp_path_factory, claim, end, live):
    stop_reason, exit_code, expected = end
    folder = tmp_path_factory.mktemp("claim")
    seen = facts(folder, answer("tool_use", calls=1), answer(stop_reason))
    (folder / "stream.jsonl").write_text(json.dumps(claim) + "\n", encoding="utf-8")
    said = agent_output.read_stream(folder / "stream.jsonl")
    judged = outcome.judge(
        outcome.Evidence(
            exit_code=exit_code,
            stopped_by=None,
            kills=Kills(0, ()),
            agent_pids=frozenset({5}),
            container_pids=frozenset({1}),
            oom_kill_near_end=False,
            container_alive=True,
            result=said["result"],
            assistant_messages=said["assistant_messages"],
            api_statuses=tuple(seen.statuses),
            live=live,
            gateway=seen,
            max_turns=100,
        )
    )
    assert judged.outcome == expected
    differs = agent_output.disagreements(said["result"], said["result_events"], exit_code, seen)
    kept = agent_output.believed(said["result"], differs) or {}
    assert 0 <= kept.get("num_turns", 0) <= 4
    assert len(json.dumps({"result": kept, "differs": differs})) < 10_000


def run_of(differs, exchanges=(), messages=()) -> SimpleNamespace:
    said = [SimpleNamespace(id=m, role="assistant", kind="text") for m in messages]
    return SimpleNamespace(
        result=Fields({"stream": {"differs": differs}}),
        exchanges=list(exchanges),
        trace=SimpleNamespace(messages=said),
    )


def test_what_differs_is_in_the_row():
    differs = {"num_turns": "said 9, seen at most 3", "x": "said 1"}
    assert _differing(run_of(differs)) == "num_turns: said 9, seen at most 3; x: said 1"
    assert _differing(run_of(None)) is _differing(run_of({})) is None
    assert _differing(run_of(None, [answer()], ["m"])) is None
    forged = run_of(None, [answer()], ["m", "forged"])
    assert _differing(forged) == "session: said 2 messages, seen 1 of them"
    broken = answer(message_id=None, error="upstream_broken")
    assert _differing(run_of(None, [answer(), broken], ["m", "part"])) is None


def test_who_counted_the_cost():
    claimed = {"result": {"total_cost_usd": 1e-5}}
    assert _cost_usd(Fields({"budget": {"cost_usd": 0.25}, "stream": claimed})) == 0.25
    assert _cost_usd(Fields({"budget": {"cost_usd": None}, "stream": claimed})) == 1e-5


# Ends that an agent can bring about


@pytest.fixture
def ended(tmp_path, monkeypatch):
    """`agent_end.check` of a run whose container lives."""

    def check(code, exchanges, client_first=False, said="it was bad"):
        monkeypatch.setattr(agent_end.disk_use, "refuse_full", lambda _: None)
        monkeypatch.setattr(agent_end.limits_in_force, "check", lambda *_: None)
        (tmp_path / "stderr.txt").write_text(f"{said}\n", encoding="utf-8")
        watched = Watched(1, None, client_first)
        engine, run = Podman("runc", tmp_path), attempt_run(tmp_path)
        agent_end.check(run, engine, None, True, watched, code, exchanges)

    return check


@pytest.mark.parametrize("code", [0, 1, 126, 127, 137, 143, 255])
def test_an_agent_that_asked_for_anything_did_run(ended, code):
    assert ended(code, exchanges=1) is None


@pytest.mark.parametrize(
    ("code", "exchanges", "client_first"),
    [(126, 0, False), (127, 0, False), (255, 0, False), (125, 9, False), (-9, 9, False),
     (None, 9, False), (0, 9, True)],
)  # fmt: skip
def test_what_the_host_did_is_no_data(ended, code, exchanges, client_first):
    with pytest.raises(InfraError):
        ended(code, exchanges, client_first)


def test_an_end_that_the_engine_lost_is_no_data(ended):
    said = f"Error: timed out waiting for file /c/userdata/x/exit/{'0' * 64}: internal libpod error"
    with pytest.raises(InfraError, match="how the agent ended is not known"):
        ended(255, exchanges=3, said=said)
    # An agent may say the same.
    assert ended(1, exchanges=3, said=said) is None


@pytest.mark.parametrize("kind", ["fifo", "zero", "directory"])
def test_a_note_of_the_process_id_that_is_not_a_file_is_refused(tmp_path, kind):
    note = tmp_path / "agent.pid"
    if kind == "fifo":
        os.mkfifo(note)
    elif kind == "zero":
        note.symlink_to("/dev/zero")
    else:
        note.mkdir()
    with pytest.raises(LastingError, match=r"environment of task t .*agent\.pid"):
        agent_process.read_note(attempt_run(tmp_path), FakeReader(tmp_path), note)


@pytest.mark.parametrize("content", [b"", b"x", b"1" * 10**6, b"\xff"])
def test_a_note_that_says_nothing_is_looked_at_again(tmp_path, content):
    note = tmp_path / "agent.pid"
    note.write_bytes(content)
    run, reader = attempt_run(tmp_path), FakeReader(tmp_path)
    if content.startswith(b"1"):
        # No more of it is read than a process id is long.
        assert agent_process.read_note(run, reader, note).pid is None
    else:
        with pytest.raises(ValueError):
            agent_process.read_note(run, reader, note)


@pytest.mark.parametrize(
    ("version", "text", "frozen"),
    [
        (1, "THAWED\n", False),
        (1, "FROZEN\n", True),
        (1, "FREEZING\n", True),
        (2, "populated 1\nfrozen 0\n", False),
        (2, "populated 1\nfrozen 1\n", True),
        (1, None, False),
        (2, None, False),
    ],
)
def test_a_container_that_is_paused_is_seen(tmp_path, monkeypatch, version, text, frozen):
    name = "cgroup.events" if version == 2 else "freezer.state"
    if text is not None:
        (tmp_path / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(watch, "_v1_freezer", lambda pid: tmp_path / "freezer.state")
    reader = SimpleNamespace(version=version, paths={"": tmp_path})
    assert watch.Freezer(reader, 1).frozen() is frozen


def test_a_process_that_lives_is_not_paused():
    with subprocess.Popen(["sleep", "10"]) as process:
        reader = SimpleNamespace(version=1, paths={})
        assert not watch.Freezer(reader, process.pid).frozen()
        process.kill()


# What fails again and again


def a_job(folder, cell: str) -> Job:
    return Job.from_json(job_content(folder, cell=cell))


def fail(store: Store, key: str, answered: bool) -> None:
    with store.locked(key, "{}"):
        attempt = store.begin(key)
        line = {"path": "/v1/messages", "message_id": "m" if answered else None}
        (attempt.path / "api.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
        (attempt.path / "error.txt").write_text("InfraError: it broke\n", encoding="utf-8")
        store.finish(attempt, "failed")


def test_a_cell_is_not_paid_for_for_ever(tmp_path):
    store, key, job = Store(tmp_path), "a" * 64, a_job(tmp_path, "the-cell")
    for answered in (False, *[True] * (run_cell.MAX_PAID_FAILURES - 1), False):
        run_cell._refuse_more_failures(store, key, job)
        fail(store, key, answered)
    # Before an answer nothing was paid.
    run_cell._refuse_more_failures(store, key, job)
    fail(store, key, answered=True)
    with pytest.raises(LastingError) as error:
        run_cell._refuse_more_failures(store, key, job)
    said = str(error.value)
    assert said.startswith("the-cell: 6 attempts failed after a model had answered (it broke)")
    paid = [a for a in store.attempts(key) if gateway_facts.was_answered(a.path / "api.jsonl")]
    assert said.endswith(f"remove {' '.join(a.id for a in paid)}`")
    for attempt in paid:
        store.remove(attempt)
    run_cell._refuse_more_failures(store, key, job)


def test_failures_before_a_sealed_run_do_not_count(tmp_path):
    store, key = Store(tmp_path), "a" * 64
    for _ in range(run_cell.MAX_PAID_FAILURES):
        fail(store, key, answered=True)
    with store.locked(key, "{}"):
        sealed = store.finish(store.begin(key), "sealed")
        store.supersede(sealed)
    assert run_cell._refuse_more_failures(store, key, a_job(tmp_path, "c")) is None
    fail(store, key, answered=True)
    assert run_cell._refuse_more_failures(store, key, a_job(tmp_path, "c")) is None


# The share


RUN = {"run_id": "r", "task": "t", "row_sha256": "cc", "patch_status": "unavailable",
       "patch_sha256": None}  # fmt: skip


@pytest.mark.parametrize(
    ("more", "status", "resolved"),
    [
        ({"patch_cause": "run", "patch_reason": "no work tree"}, "no_patch", False),
        ({"patch_cause": "image", "patch_reason": "the image has no git"}, "ungraded", None),
        # A run of before says nothing of the cause.
        ({"patch_cause": None, "patch_reason": "x"}, "ungraded", None),
        ({}, "ungraded", None),
    ],
)
def test_an_agent_cannot_leave_the_denominator(more, status, resolved):
    found = run_grades.Grades(None).of(RUN | more)
    assert (found["grade_status"], found["resolved"]) == (status, resolved)
    assert more.get("patch_cause") != "run" or found["grade_detail"].endswith(": no work tree")
