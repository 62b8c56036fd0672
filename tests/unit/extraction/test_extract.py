"""A run directory to its tables: whole, and with each of its files missing or damaged."""

import json
import random
import resource
import shutil
import subprocess
import sys

import pytest
import recorded_calls
from run_maker import (
    MIB,
    RUN_ID,
    SECOND,
    exchange,
    exchanges,
    lines,
    make_run,
    mark,
    marks,
    mono,
    result,
    session,
    subagent,
    tar,
    utc,
    write_samples,
)
from session_maker import SESSION, Session, small_session, stamp, succeeded

from agentsweep.agents.claude_code.lines import LineReport
from agentsweep.extraction.extract import extract
from agentsweep.extraction.linked_run import Curve, Run
from agentsweep.extraction.run_directory import Damage, prompt_was_garbled, read_result
from agentsweep.extraction.time_split import leaf_rows
from agentsweep.hashes import text_sha256
from agentsweep.runs.store import PUBLISHED
from agentsweep.tables import parquet

REPLAY_COLUMNS = {
    "runs": [
        "fidelity", "replay_source_sha256", "replay_turns", "replay_turns_played",
        "n_recorded_calls", "n_compared_calls", "n_same_calls", "n_limited_calls",
        "diverged_turn", "diverged_reason",
    ],
    "tool_calls": [
        "replay_status", "fidelity", "result_similarity", "recorded_is_error",
        "recorded_exit_code", "recorded_result_chars",
    ],
}  # fmt: skip


@pytest.fixture
def run(tmp_path):
    return make_run(tmp_path / "run")


@pytest.fixture
def replay(run):
    """The same run as a replay: `b1` as recorded, `b2` killed here alone, `r1` other text, `a1`
    without a recorded result, `sb1` with another exit code."""
    ended = result()
    ended["spec"] |= {"model": {"mode": "replay"}, "task": {"workdir": "/testbed"}}
    ended["replay"] = {
        "source_sha256": "34" * 32,
        "source_kind": "session",
        "turns": 6,
        "turns_played": 5,
        "calls": 7,
        "diverged": {"turn": 4, "conversation": "main", "reason": "the recording ends"},
        "unrecorded_subagents": 0,
    }
    (run / "result.json").write_text(json.dumps(ended), encoding="utf-8")
    made = exchanges()
    made[0]["recorded"] = [recorded("b1"), recorded("b2")]
    made[1]["recorded"] = None
    made[2]["recorded"] = [
        recorded("r1", name="Read", exit_code=None, text="another text", encoding="utf-8"),
        recorded("a1", name="Task", sent_name="Agent", has_result=False, text=None, is_error=None),
    ]
    failed = {"is_error": True, "exit_code": 2, "text": "Exit code 2"}
    made[3]["recorded"] = [recorded("sb1", **failed)]
    # A retry, of which nothing may be taken over.
    made[5]["recorded"] = [recorded("b1", text="not this", encoding="utf-8")]
    (run / "api.jsonl").write_bytes(lines(made))
    return run


def recorded(call_id, **more):
    return recorded_calls.recorded(**{"id": call_id, "text": "done"} | more)


def tables_of(run_dir, run_id=RUN_ID):
    out = run_dir.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    counts = extract(run_dir, run_id, out)
    made = {name: parquet.read(name, out / f"{name}.parquet").to_pylist() for name in counts}
    assert {name: len(rows) for name, rows in made.items()} == counts
    assert all(row["run_id"] == run_id for rows in made.values() for row in rows)
    return made


def calls_of(made):
    return {row["tool_call_id"]: row for row in made["tool_calls"]}


# --- a whole run ---


def test_a_recalled_run_takes_the_name_of_the_data_set_it_is_extracted_for(run):
    extract(run, RUN_ID, run.parent / "out", dataset="another")
    (row,) = parquet.read("runs", run.parent / "out" / "runs.parquet").to_pylist()
    assert row["dataset"] == "another"


def test_the_run_row(run):
    (row,) = tables_of(run)["runs"]
    expected = {
        "dataset": "demo",
        "source": "measured",
        "task": "demo",
        "instance_id": "demo__demo-1",
        "agent": "claude",
        "agent_version": "2.1.330",
        "model": "claude-haiku-4-5-20251001",
        "model_requested": "asked-for",
        "model_mode": "scripted",
        "subagent_models": "other",
        "replicate": 0,
        "mem_limit_bytes": 512 * MIB,
        "mem_effective_bytes": 512 * MIB,
        "cpu_limit": 0.5,
        "cpu_effective": 0.5,
        "cpu_mode": "quota",
        "nproc": 2,
        "outcome": "completed",
        "exit_code": 0,
        "tool_oom_count": 1,
        "oom_kill_count": 1,
        "mem_start_bytes": 50 * MIB,
        "mem_peak_bytes": 400 * MIB,
        "mem_peak_source": "watermark",
        "cpu_usage_usec": 4_500_000,
        "cpu_nr_throttled": 10,
        "cpu_throttled_usec": 700_000,
        "mem_failcnt": 2,
        "io_read_bytes": None,
        "wall_s": 9.5,
        "agent_s": 8.0,
        "create_s": 0.25,
        "n_messages": 12,
        "n_assistant_messages": 5,
        "n_tool_calls": 5,
        "n_bash_calls": 3,
        "n_tool_errors": 1,
        "n_tool_unfinished": 0,
        "n_api_calls": 6,
        "n_api_errors": 1,
        "n_subagents": 1,
        "input_tokens": 20,
        "output_tokens": 70,
        "cache_read_input_tokens": 500,
        "output_tokens_final": True,
        "cost_usd": 0.5,
        "trace_status": "ok",
        "trace_lines": 15,
        "trace_bad_lines": 0,
        "damage": None,
        "n_samples": 500,
        "samples_missed": 2,
        "n_marks": 3,
        "n_marks_unmatched": 0,
        "image_digest": "sha256:1",
        "patch_sha256": "ef" * 32,
        "spec_sha256": "ab" * 32,
        "attempt_id": "abababababab-1",
        "session_id": SESSION,
        "resolved": None,
        "terminal_reason": "completed",
        "is_error": False,
        "engine": "podman",
        "rootless": False,
        "cgroup_version": 1,
        "pswpin_pages": 3,
        "load1_end": 1.5,
        "tool_time_source": "trace",
    }
    assert {name: row[name] for name in expected} == expected


def test_what_an_error_message_says_it_used_is_in_no_number(run):
    (before,) = tables_of(run)["runs"]
    said = Session(prefix="e")
    record = said.text("error", "API Error: 529", 9.5, stop="stop_sequence", model="<synthetic>")
    record.update(isApiErrorMessage=True)
    with (run / "trace.jsonl").open("ab") as trace:
        trace.write(said.data())
    made = tables_of(run)
    (after,) = made["runs"]
    assert after["n_messages"] == before["n_messages"] + 1
    assert after["n_assistant_messages"] == before["n_assistant_messages"]
    tokens = [name for name in before if name.endswith("_tokens")]
    assert len(tokens) >= 4 and before["output_tokens"] > 0
    assert {name: after[name] for name in tokens} == {name: before[name] for name in tokens}
    (row,) = [row for row in made["messages"] if row["kind"] == "error"]
    assert [row[name] for name in tokens if name in row] == [None] * len(tokens)


VICTIMS = [{"comm": name, "pid": n} for n, name in enumerate(("cc1plus", "claude", "python3"))]


@pytest.mark.parametrize(
    ("oom", "count", "at_most"),
    [
        # As results are now.
        ({"kill_count": 3, "tool_count": 1, "tool_count_max": 1, "agent_victim": True}, 1, 1),
        ({"kill_count": 3, "tool_count": None, "tool_count_max": 2, "agent_victim": True}, None, 2),
        # As they were: the agent's own kill alone was left out, and not those after it.
        ({"kill_count": 3, "tool_count": 2, "agent_victim": True, "victims": VICTIMS}, 1, 1),
        ({"kill_count": 3, "tool_count": 2, "agent_victim": True, "victims": None}, None, 2),
        ({"kill_count": 1, "tool_count": 0, "agent_victim": True, "victims": None}, 0, 0),
        ({"kill_count": 3, "tool_count": 2, "container_victim": True}, None, 2),
        ({"kill_count": 1, "tool_count": 0, "container_victim": True}, 0, 0),
        ({"kill_count": 3, "tool_count": 3, "victims": VICTIMS}, 3, 3),
        ({"kill_count": 0, "tool_count": 0}, 0, 0),
        ({}, None, None),
    ],
)
def test_kills_that_the_agent_survived_in_results_of_now_and_before(run, oom, count, at_most):
    told = json.loads((run / "result.json").read_text(encoding="utf-8"))
    told["oom"] = oom
    (run / "result.json").write_text(json.dumps(told), encoding="utf-8")
    (row,) = tables_of(run)["runs"]
    assert (row["tool_oom_count"], row["tool_oom_count_max"]) == (count, at_most)


@pytest.mark.parametrize("where", [("spec", "task"), ("names",)], ids=["0.1.0", "since"])
def test_a_run_knows_the_row_of_its_task(run, where):
    ended = json.loads((run / "result.json").read_text(encoding="utf-8"))
    place = ended
    for key in where:
        place = place.setdefault(key, {})
    place["row_sha256"] = "ab" * 32
    (run / "result.json").write_text(json.dumps(ended), encoding="utf-8")
    assert tables_of(run)["runs"][0]["row_sha256"] == "ab" * 32


@pytest.mark.parametrize(
    ("said", "allowed", "refused"),
    [
        # A run from before there were rules, or one of another mode.
        (None, None, None),
        ({"allowed": [], "refused": 0, "first_refused": None}, "none", 0),
        ({"allowed": ["mcp", "web_search"], "refused": 3}, "mcp, web_search", 3),
        ({"allowed": "all", "refused": 3}, None, None),
    ],
)
def test_a_live_run_says_what_it_could_ask_of_its_endpoint(run, said, allowed, refused):
    told = json.loads((run / "result.json").read_text(encoding="utf-8"))
    told["endpoint"] = said
    (run / "result.json").write_text(json.dumps(told), encoding="utf-8")
    (row,) = tables_of(run)["runs"]
    assert (row["endpoint_tools"], row["n_not_allowed"]) == (allowed, refused)


def test_every_column_of_a_whole_run_is_known_except_what_the_kernel_does_not_give(run):
    (row,) = tables_of(run)["runs"]
    unknown = {name for name, value in row.items() if value is None}
    pressure = {name for name in row if "pressure" in name or name.startswith("io_")}
    # What this made-up result does not have.
    absent = {"cpu_user_usec", "cpu_system_usec", "cpu_nr_periods"}
    absent |= {"fix_s", "preflight_s", "start_s", "verify_s", "exec_s", "collect_s"}
    absent |= {"services_s", "teardown_s"}
    # The sum of phases of which some are absent, and what only imported runs or replays have.
    absent |= {"container_s", "prompt_issue_chars", *REPLAY_COLUMNS["runs"]}
    # What only live runs have.
    absent |= {"endpoint_tools", "n_not_allowed"}
    # What the data set fills in, from gradings, and what a task without a benchmark row lacks.
    absent |= {"resolved", "grade_status", "grade_detail", "grade_evidence", "row_sha256"}
    # What is said of a patch that is not whole.
    absent |= {"patch_reason", "patch_cause"}
    assert unknown == pressure | absent | {"damage"}


def test_where_the_time_went(run):
    """Agent 1 to 9. Model: 2-3.1, 5-6.1, 6.4-6.7, 7.1-7.3, 7.5-8.1.

    Tools: 3.05-4.7 (two at once), 6.0-6.2 (Read, from the trace), 6.7-6.9 (in the sub-agent).
    """
    (row,) = tables_of(run)["runs"]
    assert row["startup_s"] == pytest.approx(1.0)
    assert row["model_s"] == pytest.approx(1.1 + 1.1 + 0.3 + 0.2 + 0.6)
    assert row["tool_s"] == pytest.approx(1.65 + 0.2 + 0.2)
    assert row["overlap_s"] == pytest.approx(0.05 + 0.1)
    parts = row["startup_s"] + row["model_s"] + row["tool_s"] - row["overlap_s"] + row["other_s"]
    assert parts == pytest.approx(row["agent_s"])


def test_what_is_no_request_to_the_model_is_none(run):
    probe = exchange(7, 1.1, 1.9, kind="other", method="HEAD", path="/")
    before = tables_of(run)["runs"][0]
    with (run / "api.jsonl").open("ab") as file:
        file.write(lines([probe]))
    after = tables_of(run)["runs"][0]
    for name in ("startup_s", "model_s", "other_s"):
        assert after[name] == before[name]


def test_placeholder_tokens_are_flagged(run):
    made = session()
    made.records[1]["message"]["stop_reason"] = None
    for record in made.records[2:4]:
        record["message"]["stop_reason"] = None
    (run / "trace.jsonl").write_bytes(made.data())
    tables_made = tables_of(run)
    assert tables_made["runs"][0]["output_tokens_final"] is False
    flags = {row["message_id"]: row["output_tokens_final"] for row in tables_made["messages"]}
    assert flags["m1"] is False and flags["m2"] is True and flags["u-1"] is None


def test_bash_calls_are_exact(run):
    calls = calls_of(tables_of(run))
    first, second, inner = calls["b1"], calls["b2"], calls["sb1"]
    assert [c["time_source"] for c in (first, second, inner)] == ["exact"] * 3
    assert (first["start_ns"], first["end_ns"]) == (mono(3.05), mono(3.9))
    assert (second["start_ns"], second["end_ns"]) == (mono(3.06), mono(4.7))
    assert first["duration_s"] == first["duration_lower_s"] == pytest.approx(0.85)
    assert first["start_utc_ns"] == utc(3.05) and first["requested_utc_ns"] == utc(2.9)
    assert first["mem_peak_bytes"] == 300 * MIB and first["mem_peak_source"] == "watermark"
    assert first["mem_before_bytes"] == 100 * MIB and first["mem_after_bytes"] == 120 * MIB
    assert first["cpu_usec"] == 250_000 and first["end_source"] == "mark"
    # The trace says success; the kernel killed something in it, and the wrapper saw 137.
    assert second["exit_code"] == 137 and second["killed"] and second["oom_kill_count"] == 1
    assert inner["exit_code"] == 1 and inner["parent_id"] == "a1" and inner["agent_id"] == "sub1"
    assert first["category"] == "build" and first["command"] == "make it"


def test_other_calls_have_the_traces_bounds_and_sampled_memory(run):
    read = calls_of(tables_of(run))["r1"]
    assert read["time_source"] == "trace"
    assert (read["start_ns"], read["end_ns"]) == (mono(6.0), mono(6.2))
    # Samples every 20 ms, 1 MiB more each.
    assert read["mem_before_bytes"] == (10 + 300) * MIB
    assert read["mem_peak_bytes"] == (10 + 310) * MIB
    assert read["mem_after_bytes"] == (10 + 310) * MIB
    assert read["mem_peak_source"] == "sampled" and read["cpu_usec"] is None


def test_exchanges_messages_and_samples(run):
    made = tables_of(run)
    failed = made["api_calls"][1]
    assert failed["seq"] == 2 and failed["status"] == 529 and failed["error"] == "overloaded_error"
    assert failed["source"] == "gateway" and failed["turn"] == "1"
    assert made["api_calls"][3]["agent_id"] == "sub1"
    by_id = {row["message_id"]: row for row in made["messages"]}
    assert by_id["m1"]["n_records"] == 3 and by_id["m1"]["output_tokens"] == 10
    assert by_id["m1"]["n_tool_use_blocks"] == 2 and by_id["m1"]["n_text_blocks"] == 1
    assert by_id["u-1"]["kind"] == "prompt" and by_id["u-1"]["output_tokens"] is None
    assert by_id["s1"]["agent_id"] == "sub1"
    samples = made["samples"]
    assert samples[7]["t_ns"] == mono(0.14) and samples[7]["memory_current_bytes"] == 17 * MIB
    assert samples[7]["memory_slab_bytes"] is None


def test_the_same_run_gives_the_same_bytes(run):
    tables_of(run)
    out = run.parent / "out"
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    tables_of(run)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == first


# --- replays ---


def test_a_run_that_is_no_replay_has_nothing_to_compare(run):
    made = tables_of(run)
    for table, columns in REPLAY_COLUMNS.items():
        assert all(row[name] is None for row in made[table] for name in columns)


def test_texts_of_results_are_held_for_a_replay_alone(run):
    def texts():
        damage = Damage()
        read = Run(RUN_ID, run, read_result(run, damage), Curve(), damage)
        return {call.id: call.result_text for call in read.trace.tool_calls}

    assert set(texts().values()) == {None}
    log = exchanges()
    log[0]["recorded"] = [recorded("b1")]
    (run / "api.jsonl").write_bytes(lines(log))
    assert texts()["b1"] == "done"


def test_each_call_of_a_replay_is_compared_with_its_recording(replay):
    calls = calls_of(tables_of(replay))
    found = {name: [call[c] for c in REPLAY_COLUMNS["tool_calls"]] for name, call in calls.items()}
    # "text" against "another text": 2 * 1 / 3.
    alike = pytest.approx(2 / 3)
    assert found == {
        "b1": ["same", 1.0, 1.0, False, 0, 4],
        # The wrapper saw it end with 137, and the kernel killed something; the trace says 0.
        "b2": ["killed", 0.0, 1.0, False, 0, 4],
        "r1": ["text_differs", alike, alike, False, None, 12],
        "a1": ["unrecorded", None, None, None, 0, None],
        "sb1": ["state_differs", 0.0, 1.0, True, 2, 11],
    }


def test_the_score_of_a_replay(replay):
    (row,) = tables_of(replay)["runs"]
    assert {name: row[name] for name in REPLAY_COLUMNS["runs"]} == {
        "fidelity": pytest.approx((1 + 0 + 2 / 3 + 0) / 4),
        "replay_source_sha256": "34" * 32,
        "replay_turns": 6,
        "replay_turns_played": 5,
        "n_recorded_calls": 7,
        "n_compared_calls": 4,
        "n_same_calls": 1,
        "n_limited_calls": 1,
        "diverged_turn": 4,
        "diverged_reason": "the recording ends",
    }
    assert row["model_mode"] == "replay"


def test_without_marks_the_trace_says_how_a_replayed_call_ended(replay):
    (replay / "marks.jsonl").write_bytes(b"")
    calls = calls_of(tables_of(replay))
    assert calls["b2"]["replay_status"] == "same"
    assert calls["sb1"]["replay_status"] == "state_differs"


def test_a_replayed_call_without_a_result_is_unfinished(replay):
    cut = Session()
    cut.records = session().records[:4]
    (replay / "trace.jsonl").write_bytes(cut.data())
    calls = calls_of(tables_of(replay))
    assert [calls[name]["replay_status"] for name in ("b1", "b2")] == ["unfinished", "killed"]


def test_paths_of_a_search_are_compared_below_the_working_directory(replay):
    made = session()
    for record in made.records:
        for block in record["message"]["content"]:
            if isinstance(block, dict) and block.get("id") == "r1":
                block["name"] = "Grep"
            if isinstance(block, dict) and block.get("tool_use_id") == "r1":
                block["content"] = "a.py"
    (replay / "trace.jsonl").write_bytes(made.data())
    log = exchanges()
    log[0]["recorded"] = [
        recorded("r1", name="Grep", exit_code=None, text="/testbed/a.py", encoding="utf-8")
    ]
    (replay / "api.jsonl").write_bytes(lines(log))
    calls = calls_of(tables_of(replay))
    assert calls["r1"]["replay_status"] == "same"
    # What the recording does not have was not compared.
    assert calls["b1"]["replay_status"] == "unrecorded"


@pytest.mark.slow
def test_a_replay_whose_record_is_lost_is_still_a_replay(replay):
    (replay / "api.jsonl").unlink()
    made = tables_of(replay)
    (row,) = made["runs"]
    assert {call["replay_status"] for call in made["tool_calls"]} == {"unrecorded"}
    assert (row["fidelity"], row["n_compared_calls"], row["n_recorded_calls"]) == (None, 0, 7)
    make_run(replay.parent / "other")
    shutil.copy(replay.parent / "other" / "api.jsonl", replay / "api.jsonl")
    (replay / "result.json").unlink()
    (row,) = tables_of(replay)["runs"]
    assert all(row[name] is None for name in REPLAY_COLUMNS["runs"])


def test_a_replay_that_stayed_with_its_recording(replay):
    ended = json.loads((replay / "result.json").read_text(encoding="utf-8"))
    ended["replay"]["diverged"] = None
    (replay / "result.json").write_text(json.dumps(ended), encoding="utf-8")
    (row,) = tables_of(replay)["runs"]
    assert (row["diverged_turn"], row["diverged_reason"]) == (None, None)


@pytest.mark.parametrize(
    ("outcome", "detail", "unplayed", "turn", "reason"),
    [
        (
            "diverged",
            "turn 5 of sub-agent t1: the agent ended without it (of 6 turns there)",
            {"conversation": "sub-agent t1", "turn": 5, "turns": 6},
            5,
            "the agent ended without it (of 6 turns there)",
        ),
        (
            "diverged",
            "turn 5 of main: the agent ended without it",
            None,
            5,
            "the agent ended without it",
        ),
        (
            "diverged",
            "the end of main: the last answer is an error",
            None,
            None,
            "the last answer is an error",
        ),
        ("diverged", None, None, None, "the agent ended before its recording"),
        # The kernel ended it: it did not leave its recording.
        ("oom_agent", "turn 5", {"conversation": "main", "turn": 5, "turns": 6}, None, None),
    ],
)
def test_an_agent_that_ended_before_its_recording_says_where(
    replay, outcome, detail, unplayed, turn, reason
):
    ended = json.loads((replay / "result.json").read_text(encoding="utf-8"))
    ended["replay"] |= {"diverged": None, "unplayed": unplayed}
    ended |= {"outcome": outcome, "outcome_detail": detail}
    (replay / "result.json").write_text(json.dumps(ended), encoding="utf-8")
    (row,) = tables_of(replay)["runs"]
    assert (row["diverged_turn"], row["diverged_reason"]) == (turn, reason)


def test_one_id_for_a_call_and_a_sub_agents_call_hides_no_tool_time():
    made = [
        {"tool_call_id": "c", "category": "agent", "parent_id": None},
        {"tool_call_id": "c", "category": "test", "parent_id": "c"},
    ]
    assert leaf_rows(made) == made[1:]


# --- marks ---


def test_a_mark_without_a_call_is_counted(run):
    extra = mark(4, "not in the trace", 7.6, 7.7)
    (run / "marks.jsonl").write_bytes(lines([*marks(), extra]))
    made = tables_of(run)
    assert made["runs"][0]["n_marks"] == 4 and made["runs"][0]["n_marks_unmatched"] == 1


def test_without_marks_bash_calls_have_the_traces_bounds(run):
    (run / "marks.jsonl").write_bytes(b"")
    made = tables_of(run)
    call = calls_of(made)["b1"]
    assert call["time_source"] == "trace" and call["mem_peak_source"] == "sampled"
    assert call["start_ns"] == mono(2.9) and call["end_ns"] == mono(4.0)
    assert call["exit_code"] == 0
    assert made["runs"][0]["damage"] is None


def test_a_wrapper_that_died_says_nothing_of_the_exit_code(run):
    changed = marks()
    changed[2] |= {"exit_code": None, "end_source": "exit"}
    (run / "marks.jsonl").write_bytes(lines(changed))
    call = calls_of(tables_of(run))["sb1"]
    assert call["exit_code"] == 1 and call["end_source"] == "exit"


def test_an_unfinished_call_ends_with_its_mark(run):
    cut = Session()
    cut.records = session().records[:4]
    (run / "trace.jsonl").write_bytes(cut.data())
    made = tables_of(run)
    call = calls_of(made)["b2"]
    assert call["finished"] is False and call["is_error"] is None
    assert call["end_ns"] == mono(4.7) and call["exit_code"] == 137
    assert made["runs"][0]["n_tool_unfinished"] == 2


def test_an_unfinished_call_without_a_mark_is_open_until_the_agents_end(run):
    cut = Session()
    cut.records = session().records[:4]
    (run / "trace.jsonl").write_bytes(cut.data())
    (run / "session.tar").write_bytes(tar({}))
    (run / "marks.jsonl").write_bytes(b"")
    (row,) = tables_of(run)["runs"]
    assert row["tool_s"] == pytest.approx(9 - 2.9)
    call = calls_of(tables_of(run))["b2"]
    assert call["end_ns"] is None and call["duration_s"] is None


# --- the trace ---


def test_the_session_archive_adds_subagents_of_this_session_only(run):
    other = "99999999-0000-4000-8000-000000000000"
    project = "projects/-testbed"
    stranger = Session(session=other, agent="x1", prefix="x")
    stranger.text("mx", "x", 5, output=1000)
    files = {
        f"{project}/{SESSION}.jsonl": session().data(),
        f"{project}/{SESSION}/subagents/agent-sub1.jsonl": subagent().data(),
        f"{project}/{SESSION}/subagents/agent-sub1.meta.json": b'{"toolUseId": "a1"}',
        f"{project}/{SESSION}/tool-results/b1.txt": b"long",
        f"{project}/{other}.jsonl": small_session().data(),
        f"{project}/{other}/subagents/agent-x1.jsonl": stranger.data(),
        f"{project}/agent-x1.jsonl": stranger.data(),
    }
    (run / "session.tar").write_bytes(tar(files))
    (row,) = tables_of(run)["runs"]
    assert row["n_subagents"] == 1 and row["output_tokens"] == 70 and row["trace_lines"] == 15


def test_without_a_result_the_trace_tells_which_session_it_is(run):
    other = "99999999-0000-4000-8000-000000000000"
    stranger = small_session()
    stranger.user("Another session", 0.5)
    stranger.records.insert(0, stranger.records.pop())
    files = {
        f"projects/-testbed/{other}.jsonl": stranger.data(),
        f"projects/-testbed/{SESSION}.jsonl": session().data(),
        f"projects/-testbed/{SESSION}/subagents/agent-sub1.jsonl": subagent().data(),
    }
    (run / "session.tar").write_bytes(tar(files))
    (run / "result.json").unlink()
    (row,) = tables_of(run)["runs"]
    assert row["output_tokens"] == 70 and row["trace_lines"] == 15


def test_a_second_project_folder_of_the_same_session_is_added(run):
    more = Session(prefix="more")
    more.text("m9", "elsewhere", 8.5, stop="end_turn", output=5)
    files = {
        f"projects/-testbed/{SESSION}.jsonl": session().data(),
        f"projects/-testbed-sub/{SESSION}.jsonl": more.data(),
        f"projects/-testbed/{SESSION}/subagents/agent-sub1.jsonl": subagent().data(),
    }
    (run / "session.tar").write_bytes(tar(files))
    assert tables_of(run)["runs"][0]["output_tokens"] == 75


def test_a_torn_trace_is_reported_and_loses_only_its_last_record(run):
    data = (run / "trace.jsonl").read_bytes()
    (run / "trace.jsonl").write_bytes(data[:-40])
    made = tables_of(run)
    (row,) = made["runs"]
    assert row["trace_status"] == "damaged" and row["trace_bad_lines"] == 1
    assert row["n_tool_calls"] == 5 and row["output_tokens"] == 40
    assert row["outcome"] == "completed" and row["n_samples"] == 500
    assert len(made["api_calls"]) == 6


def test_an_unknown_record_type_is_counted(run):
    extra = {"type": "from-the-future", "sessionId": SESSION}
    with (run / "trace.jsonl").open("ab") as file:
        file.write(json.dumps(extra).encode() + b"\n")
    (row,) = tables_of(run)["runs"]
    assert row["trace_status"] == "ok" and row["trace_unknown_records"] == 1


def test_no_time_stamps_still_leaves_exact_times_out_of_the_question(run):
    made = session()
    for record in made.records:
        record.pop("timestamp", None)
    (run / "trace.jsonl").write_bytes(made.data())
    calls = calls_of(tables_of(run))
    # The command's text is enough to know its mark.
    assert calls["b1"]["time_source"] == "exact" and calls["r1"]["start_ns"] is None


# --- what is missing or damaged ---


@pytest.mark.parametrize("name", PUBLISHED)
@pytest.mark.parametrize("how", ["missing", "empty", "garbage", "half", "nul", "directory"])
def test_one_broken_file_loses_no_other_row(run, name, how):
    path = run / name
    data = path.read_bytes()
    if how in ("missing", "directory"):
        path.unlink()
        if how == "directory":
            path.mkdir()
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "garbage":
        path.write_bytes(random.Random(1).randbytes(5000))
    elif how == "half":
        # An archive is half padding.
        path.write_bytes(data[:3000] if name == "session.tar" else data[: len(data) // 2 + 7])
    else:
        path.write_bytes(b"\0" * len(data))
    made = tables_of(run)
    (row,) = made["runs"]
    assert row["task"] == "demo" and row["mem_limit_bytes"] == 512 * MIB
    assert row["cpu_limit"] == 0.5 and row["replicate"] == 0
    if name != "result.json":
        assert row["outcome"] == "completed" and row["cpu_usage_usec"] == 4_500_000
    if name != "trace.jsonl":
        assert len(made["tool_calls"]) == (4 if name == "session.tar" else 5)
        assert row["trace_status"] == ("damaged" if name == "session.tar" else "ok")
    elif how == "empty":
        # The archive has the main file too.
        assert row["n_tool_calls"] == 5
    if name != "samples.arrow":
        assert len(made["samples"]) == 500
    if name != "api.jsonl":
        assert len(made["api_calls"]) == 6
    if name == "samples.arrow" and how == "half":
        assert 0 < len(made["samples"]) < 500 and len(made["samples"]) % 25 == 0
    quiet = (how == "empty" and name in ("marks.jsonl", "api.jsonl")) or name == "patch.diff"
    if not quiet and name != "trace.jsonl":
        assert name in row["damage"]


def test_everything_missing(tmp_path):
    (tmp_path / "run").mkdir()
    made = tables_of(tmp_path / "run")
    (row,) = made["runs"]
    assert row["trace_status"] == "missing" and row["outcome"] is None
    assert row["task"] == "demo" and row["agent"] == "claude"
    assert made["samples"] == [] and made["tool_calls"] == []


def test_a_run_id_that_is_no_cell_id(run):
    (row,) = tables_of(run, run_id="imported-17")["runs"]
    assert row["run_id"] == "imported-17" and row["task"] == "an old name"


@pytest.mark.slow
def test_samples_are_readable_to_the_last_complete_batch_wherever_they_are_cut(run):
    write_samples(run / "samples.arrow", seconds=2)
    data = (run / "samples.arrow").read_bytes()
    seen = set()
    for cut in range(0, len(data), 997):
        (run / "samples.arrow").write_bytes(data[:cut])
        made = tables_of(run)
        assert len(made["samples"]) % 25 == 0 and "samples.arrow" in made["runs"][0]["damage"]
        seen.add(len(made["samples"]))
    assert seen == {0, 25, 50, 75} or seen == {0, 25, 50, 75, 100}


def test_torn_lines_of_marks_and_exchanges_are_counted(run):
    for name in ("marks.jsonl", "api.jsonl"):
        path = run / name
        path.write_bytes(path.read_bytes()[:-30] + b"\nnonsense\n[1]\n")
    made = tables_of(run)
    (row,) = made["runs"]
    assert row["damage"] == "marks.jsonl: 3 bad lines; api.jsonl: 3 bad lines"
    assert row["n_marks"] == 2 and row["n_api_calls"] == 5


@pytest.mark.slow
def test_fields_of_the_wrong_type_are_null(run):
    wrong = [None, True, -1, 2.5, 10**30, "", "x", [], {}, "\ud83d", float("nan")]
    template = result()
    paths = []

    def walk(value, path):
        for key, inner in value.items():
            paths.append((*path, key))
            if isinstance(inner, dict):
                walk(inner, (*path, key))

    walk(template, ())
    (run / "samples.arrow").unlink()
    chance = random.Random(3)
    paths.sort(key=len, reverse=True)
    for first in range(0, len(paths), 6):
        changed = result()
        for path in paths[first : first + 6]:
            target = changed
            for key in path[:-1]:
                target = target[key]
            target[path[-1]] = chance.choice(wrong)
        (run / "result.json").write_text(json.dumps(changed), encoding="utf-8")
        (row,) = tables_of(run)["runs"]
        assert row["n_tool_calls"] == 5, paths[first : first + 6]
    replayed = exchange(1, 2, 3, recorded=[recorded("b1")])
    for name, records in (("marks.jsonl", marks()), ("api.jsonl", [replayed])):
        for key in records[0]:
            changed = [dict(record) for record in records]
            changed[0][key] = chance.choice(wrong)
            (run / name).write_bytes(lines(changed))
            assert tables_of(run)["runs"][0]["n_tool_calls"] == 5, key


def test_hostile_text_can_be_written(run):
    made = session()
    for record in made.records:
        for key in ("uuid", "version"):
            record[key] += "\ud83d\0"
    text = "<task-notification><tool-use-id>b1</tool-use-id><status>\ud83d</status>"
    made.user(text, 8.5)
    made.bash("m\ud83d", "t\ud83d", "echo \ud83d", 8.6, agentId="a\ud83d", isSidechain=True)
    made.result("t\ud83d", "\ud83d", 8.7, details=succeeded("\ud83d"))
    (run / "trace.jsonl").write_bytes(lines(made.records))
    tables_of(run)


def test_a_newer_time_of_the_clock_does_not_change_the_mapping_of_all(run):
    """One sample with a clock that was set wrong for a moment."""
    made = tables_of(run)
    assert calls_of(made)["r1"]["start_ns"] == mono(6.0)
    record = json.loads((run / "api.jsonl").read_bytes().splitlines()[0])
    record["start_utc_ns"] += 10 * SECOND
    (run / "api.jsonl").write_bytes(lines([record]))
    assert calls_of(tables_of(run))["r1"]["start_ns"] == mono(6.0)


def test_without_samples_the_run_itself_gives_the_clocks(run):
    (run / "samples.arrow").unlink()
    assert calls_of(tables_of(run))["r1"]["start_ns"] == mono(6.0)
    changed = result()
    del changed["agent_start_ns"]
    (run / "result.json").write_text(json.dumps(changed), encoding="utf-8")
    made = tables_of(run)
    assert calls_of(made)["r1"]["start_ns"] == mono(6.0)
    assert made["runs"][0]["model_s"] is None


def test_an_agent_that_never_asked_was_starting_up(run):
    (run / "api.jsonl").write_bytes(b"")
    (run / "trace.jsonl").write_bytes(b"")
    (run / "session.tar").write_bytes(tar({}))
    (row,) = tables_of(run)["runs"]
    assert row["trace_status"] == "empty" and row["startup_s"] == pytest.approx(8.0)
    assert (row["model_s"], row["tool_s"], row["other_s"]) == (0.0, 0.0, 0.0)


def test_the_traces_own_requests_stand_in_for_a_missing_log(run):
    made = session()
    made.other("api-request", id="q1", timestamp=stamp(2), params={"model": "m"})
    made.records[1]["requestRef"] = "q1"
    (run / "trace.jsonl").write_bytes(made.data())
    (run / "api.jsonl").unlink()
    tables_made = tables_of(run)
    (call,) = tables_made["api_calls"]
    assert call["source"] == "trace" and call["message_id"] == "m1"
    assert (call["start_ns"], call["end_ns"]) == (mono(2), mono(3.0))
    assert tables_made["runs"][0]["n_api_calls"] is None


@pytest.mark.slow
def test_extraction_is_quick_and_imports_no_pandas(run):
    """A trace of 1 MB, process start included; the bound is three times what is promised.

    CPU time, because other tests are on this machine too.
    """
    made = session()
    for i in range(120):
        made.bash(f"x{i}", f"tx{i}", "ls", 8.1, output=1)
        made.result(f"tx{i}", "y" * 4000, 8.2, details=succeeded("y" * 4000))
    (run / "trace.jsonl").write_bytes(made.data())
    assert (run / "trace.jsonl").stat().st_size > 1_000_000
    code = (
        "import sys; from agentsweep.extraction.extract import extract\n"
        f"extract({str(run)!r}, {RUN_ID!r}, {str(run.parent / 'out')!r})\n"
        "assert 'pandas' not in sys.modules"
    )

    def seconds():
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    # A machine under load gives each second of CPU time less.
    assert any(seconds() < 1.5 for _ in range(5))


def test_the_trace_command_imports_no_pyarrow(run):
    code = (
        "import sys; from agentsweep.agents.claude_code.trace import main_trace\n"
        f"assert main_trace({str(run / 'trace.jsonl')!r}) == 0\n"
        "assert not {'pyarrow', 'pandas', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_line_reports_start_clean():
    assert not LineReport().damaged


RIGHT = "Gr\u00f6\u00dfe in Stra\u00dfe\n"


@pytest.mark.parametrize(
    ("got", "status"),
    [
        (RIGHT, "ok"),
        (RIGHT.strip(), "ok"),
        ("Gr\ufffd\ufffde in Stra\ufffde\n", "damaged"),
        # Whatever else the CLI may have made of it is no sign of another locale.
        ("another text", "ok"),
    ],
)
def test_an_agent_that_got_a_garbled_prompt_is_told_of(tmp_path, got, status):
    """Early versions sealed it under the hash of the right text."""
    folder = make_run(tmp_path / "run")
    session = Session()
    session.user(got, 1.5)
    session.text("m1", "Done.", 8.0, stop="end_turn", output=30)
    written = session.data()
    (folder / "trace.jsonl").write_bytes(written)
    (folder / "session.tar").write_bytes(tar({f"projects/-testbed/{SESSION}.jsonl": written}))
    said = result()
    said["spec"]["prompt_sha256"] = text_sha256(RIGHT)
    (folder / "result.json").write_text(json.dumps(said), encoding="utf-8")
    extract(folder, RUN_ID, tmp_path / "out")
    (row,) = parquet.read("runs", tmp_path / "out" / "runs.parquet").to_pylist()
    assert row["trace_status"] == status
    assert ("garbled prompt" in (row["damage"] or "")) == (status == "damaged")


def test_a_prompt_that_has_the_replacement_character_itself_is_not_garbled(tmp_path):
    folder = make_run(tmp_path / "run")
    session = Session()
    session.user("what is \ufffd?", 1.5)
    (folder / "trace.jsonl").write_bytes(session.data())
    right = text_sha256("what is \ufffd?")
    assert not prompt_was_garbled(folder / "trace.jsonl", right)
    assert prompt_was_garbled(folder / "trace.jsonl", text_sha256("what is \u00f6?"))
    assert not prompt_was_garbled(folder / "trace.jsonl", None)
    assert not prompt_was_garbled(folder / "absent.jsonl", right)
