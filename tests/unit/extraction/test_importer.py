"""Runs in AgentCgroup's layout become our tables, whatever is missing, odd or broken in them."""

import copy
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import agentcgroup_maker
import agentcgroup_maker as maker
import numpy as np
import pyarrow.parquet as pq
import pytest
from agentcgroup_maker import (
    BEGIN_NS,
    NEPAL,
    PROMPT,
    SECOND,
    TOKYO,
    VANCOUVER,
    attempt,
    contents,
    imported,
    local,
    results,
    sample,
    samples,
    session,
    tool_calls,
    utc_ns,
)
from recorded_sessions import RUNS, needs_runs
from session_maker import SESSION, Session, small_session, stamp, succeeded

from agentsweep.errors import AgentsweepError
from agentsweep.extraction import agentcgroup_layout
from agentsweep.extraction.agentcgroup_layout import AttemptDir, parse_printed_size, select
from agentsweep.extraction.importer import TABLES, import_runs
from agentsweep.extraction.lifetime_cpu import ROUNDING_PERCENT


@pytest.fixture
def one(tmp_path):
    """Writes a data set with one attempt and returns the rows of its tables."""
    return agentcgroup_maker.one_attempt(tmp_path)


def the_run(tables):
    (row,) = tables["runs"]
    return row


def result_of(**changes):
    """results.json without the keys whose value is None."""
    changed = results() | changes
    return {key: value for key, value in changed.items() if value is not None}


# --- what a whole attempt gives ---


def test_a_whole_attempt_fills_every_table(one):
    tables = one()
    row = the_run(tables)
    assert {name: len(rows) for name, rows in tables.items()} == {
        "runs": 1,
        "tool_calls": 3,
        "messages": 8,
        "samples": 12,
    }
    assert row["run_id"] == "D/a__b-1/attempt_1"
    assert (row["dataset"], row["source"], row["selected"]) == ("D", "imported", True)
    assert (row["task"], row["instance_id"]) == ("a__b-1", "a__b-1")
    assert (row["attempt"], row["attempt_id"]) == (1, "a__b-1/attempt_1")
    assert (row["agent"], row["agent_version"]) == ("claude-code", "2.0.0")
    assert (row["model"], row["model_requested"]) == ("claude-haiku-4-5-20251001", "haiku")
    assert row["session_id"] == SESSION
    assert (row["exit_code"], row["outcome_detail"], row["damage"]) == (0, None, None)
    assert (row["trace_status"], row["samples_status"]) == ("ok", "ok")
    assert (row["n_samples"], row["sampled_s"]) == (12, 11.0)
    assert (row["mem_peak_bytes"], row["mem_peak_source"]) == (191_000_000, "sampled")
    assert row["cpu_source"] == "reconstructed"
    assert (row["n_tool_calls"], row["n_bash_calls"], row["n_messages"]) == (3, 2, 8)
    assert (row["container_s"], row["wall_s"]) == (42.0, 75.0)
    assert (row["pull_s"], row["fix_s"]) == (20.0, 10.0)
    assert (row["image_id"], row["image_size_bytes"]) == ("abc", 3 * 2**30)


def test_times_are_measured_part_by_part(one):
    row = the_run(one())
    # The agent's phase is from the first sample (0 s) to the session's last record (9 s).
    assert (row["agent_start_utc_ns"], row["agent_end_utc_ns"]) == (utc_ns(0), utc_ns(9))
    assert (row["trace_first_utc_ns"], row["trace_last_utc_ns"]) == (utc_ns(1), utc_ns(9))
    # Begun at -60 s, then 20 s of pulling and 10 s of fixing.
    assert row["create_s"] == 30.0
    # The prompt at 1 s; m1 1-2.5, m2 3-4, m3 7-8, m4 8.5-9; tools 2.5-3, 4-7, 8-8.5.
    parts = [row[name] for name in ("startup_s", "model_s", "tool_s", "overlap_s", "other_s")]
    assert parts == [1.0, 4.0, 4.0, 0.0, 0.0]


def test_a_creation_that_would_have_taken_less_than_nothing_is_not_known(one):
    assert the_run(one(result=results(pull_time=100.0)))["create_s"] is None


def test_calls_have_their_times_their_category_and_the_memory_around_them(one):
    calls = {call["tool_call_id"]: call for call in one()["tool_calls"]}
    test = calls["t2"]
    assert (test["name"], test["category"], test["command"]) == ("Bash", "test", "pytest -q")
    assert (test["start_utc_ns"], test["end_utc_ns"]) == (utc_ns(4), utc_ns(7))
    assert (test["duration_s"], test["time_source"]) == (3.0, "trace")
    assert (test["mem_before_bytes"], test["mem_peak_bytes"]) == (184_000_000, 187_000_000)
    assert test["mem_peak_source"] == "sampled"


# --- printed units ---


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ("0B / 0B", 0),
        ("512B / 134.5GB", 512),
        ("12.5kB / 134.5GB", 12_500),
        ("12.5KB / 1GB", 12_500),
        ("186MB / 134.5GB", 186_000_000),
        ("6.312MB / 4.295GB", 6_312_000),
        ("1.024GB / 134.5GB", 1_024_000_000),
        ("2TB / 4TB", 2 * 10**12),
        ("1KiB / 2GiB", 1024),
        ("186MiB / 2GiB", 186 * 2**20),
        ("1.5GiB / 2GiB", 3 * 2**29),
        ("186 MB / 134.5GB", 186_000_000),
        ("186MB", 186_000_000),
        ("186 / 134", None),
        ("186XB / 1GB", None),
        ("1.2.3MB / 1GB", None),
        (".MB / 1GB", None),
        ("-- / --", None),
        ("", None),
        ("9" * 400 + "MB / 1GB", None),
        ("99999999TB / 1GB", None),
        (None, None),
        (186, None),
        (["186MB"], None),
    ],
)
def test_printed_sizes_are_decimal_and_with_an_i_binary(printed, expected):
    assert parse_printed_size(printed) == expected


def test_units_reach_the_table(one):
    sizes = ("900B", "700kB", "186MB", "1.5GB", "100MiB", "1GiB", "broken")
    rows = one(listed=[sample(i, memory=size) for i, size in enumerate(sizes)])["samples"]
    assert [row["stats_memory_bytes"] for row in rows] == [
        900,
        700_000,
        186_000_000,
        1_500_000_000,
        100 * 2**20,
        2**30,
        None,
    ]


# --- samples ---


def test_a_dead_sample_at_the_end_is_kept_but_is_no_reading(one):
    dead = sample(12, memory="0B", cpu="0.00%") | {"mem_usage": "0B / 0B"}
    with_it, without = one(listed=[*samples(), dead]), one()
    assert with_it["samples"][-1] == with_it["samples"][-1] | {
        "utc_ns": utc_ns(12),
        "stats_memory_bytes": 0,
        "stats_cpu_percent": 0.0,
        "cpu_usage_usec": None,
        "cpu_usage_error_usec": None,
    }
    assert with_it["samples"][:-1] == without["samples"]
    changed = {"n_samples": 13, "sampled_s": 12.0}
    assert the_run(with_it) == the_run(without) | changed


def test_a_dead_sample_is_not_what_the_memory_fell_to_after_a_call(one):
    listed = [*samples(9), sample(9, memory="0B", cpu="0.00%")]
    made = session()
    made.bash("m5", "t5", "rm -r x", 9.2, stop=None)
    made.result("t5", "", 9.3)
    call = one(listed=listed, trace=made)["tool_calls"][-1]
    assert call["mem_before_bytes"] == 188_000_000
    assert call["mem_after_bytes"] is None


def test_samples_out_of_order_are_put_in_order(one):
    listed = samples()
    shuffled = listed[:]
    random.Random(1).shuffle(shuffled)
    assert shuffled != listed
    assert one(listed=shuffled) == one(listed=listed)


def test_samples_of_one_time_stay_in_their_order_and_the_cpu_time_skips_the_second(one):
    twice = [*samples(), sample(5, memory="999MB", cpu="50.00%")]
    rows = one(listed=twice)["samples"]
    assert [row["stats_memory_bytes"] for row in rows][5:7] == [185_000_000, 999_000_000]
    assert rows[5]["cpu_usage_usec"] is not None
    assert rows[6]["cpu_usage_usec"] is None


def test_an_entry_that_is_no_sample_is_counted_as_bad(one):
    listed = [*samples(), None, 5, {}, {"mem_usage": "1MB / 2MB"}]
    row = the_run(one(listed=listed))
    assert (row["samples_status"], row["n_samples"]) == ("damaged", 12)
    assert row["damage"] == "samples: 4 bad lines"


def test_numbers_that_are_none_leave_the_sample_without_them(one):
    odd = ["--", None, "-5%", "inf", "nan", "1e9%", [], 7, "8", "9 %"]
    rows = one(listed=[sample(i, cpu=value) for i, value in enumerate(odd)])["samples"]
    assert [row["stats_cpu_percent"] for row in rows] == [None] * 7 + [7.0, 8.0, 9.0]


def test_no_samples_and_an_empty_list_are_told_apart(one):
    empty = the_run(one(listed=[], result=None))
    assert (empty["samples_status"], empty["n_samples"]) == ("empty", 0)
    missing = the_run(one(listed=None, result=None))
    assert (missing["samples_status"], missing["n_samples"]) == ("missing", 0)
    broken = the_run(one(listed=b"{", result=None))
    assert (broken["samples_status"], broken["n_samples"]) == ("damaged", 0)
    for row in (empty, missing, broken):
        assert row["sampled_s"] is None
        assert row["mem_peak_bytes"] is None
        assert row["cpu_usage_usec"] is None
        assert row["cpu_source"] is None
        # The session alone tells the phase.
        assert row["agent_s"] == 8.0


def test_cpu_time_is_reconstructed_from_the_averages(one):
    """40 % of a core for 4 s, then nothing: the container started a second before."""
    used = [0.4 * min(i + 1, 5) for i in range(20)]
    listed = [sample(i, cpu=f"{100 * u / (i + 1):.2f}%") for i, u in enumerate(used)]
    tables = one(listed=listed)
    for row, u in zip(tables["samples"], used, strict=True):
        assert abs(row["cpu_usage_usec"] / 1e6 - u) <= row["cpu_usage_error_usec"] / 1e6
        # The start is within a second; that much of the average it may be off.
        assert row["cpu_usage_error_usec"] < 13_000 * row["stats_cpu_percent"]
    # The session ends at 9 s.
    assert the_run(tables)["cpu_usage_usec"] == tables["samples"][9]["cpu_usage_usec"]


# --- time zones ---


def test_two_data_sets_of_other_zones_give_the_same(tmp_path):
    made = {}
    for zone in (VANCOUVER, TOKYO, NEPAL):
        data, out = tmp_path / f"in{zone}" / "data", tmp_path / f"out{zone}"
        attempt(data / "a__b-1" / "attempt_1", zone_h=zone)
        import_runs(data, "D", "last", out)
        made[zone] = contents(out)
    assert made[VANCOUVER] == made[TOKYO] == made[NEPAL]


def test_times_of_results_json_are_local_time_of_the_recorder(one):
    for zone in (VANCOUVER, TOKYO, NEPAL):
        row = the_run(one(zone_h=zone))
        assert row["started_utc_ns"] == utc_ns(-60)
        assert row["ended_utc_ns"] == utc_ns(15)


def test_times_of_results_json_may_have_a_zone(one):
    row = the_run(one(result=results(start_time="2026-03-01T11:59:00Z", end_time=None)))
    assert (row["started_utc_ns"], row["ended_utc_ns"]) == (utc_ns(-60), None)


def test_samples_without_epoch_take_the_zone_of_one_that_has_it(one):
    for zone in (VANCOUVER, TOKYO):
        listed = samples(zone_h=zone)
        for entry in listed[::2]:
            del entry["epoch"]
        assert one(listed=listed, zone_h=zone) == one()


def test_samples_without_any_epoch_take_the_zone_from_the_session(one):
    for zone in (VANCOUVER, TOKYO, NEPAL):
        listed = samples(zone_h=zone)
        for entry in listed:
            del entry["epoch"]
        assert one(listed=listed, zone_h=zone) == one()


def test_the_zone_is_that_of_the_earliest_sample_in_whatever_order_they_are(one):
    listed = samples(step=600.0, zone_h=TOKYO)[::-1]
    for entry in listed:
        del entry["epoch"]
    assert one(listed=listed, zone_h=TOKYO) == one(listed=samples(step=600.0))


def test_the_first_sample_may_have_an_epoch_only(one):
    listed = samples()
    for entry in listed[1:]:
        del entry["epoch"]
    del listed[0]["timestamp"]
    assert one(listed=listed) == one()


def test_without_session_and_epoch_the_first_listed_call_tells_the_zone(one):
    listed = samples()
    for entry in listed:
        del entry["epoch"]
    assert the_run(one(listed=listed, trace=None))["n_samples"] == 12
    assert one(listed=listed, trace=None)["samples"] == one(trace=None)["samples"]


def test_samples_that_no_zone_places_are_named(one):
    listed = samples()
    for entry in listed:
        del entry["epoch"]
    row = the_run(one(listed=listed, trace=None, calls=[]))
    assert (row["samples_status"], row["n_samples"]) == ("damaged", 0)
    assert "12 have no epoch" in row["damage"]
    assert row["started_utc_ns"] is None


def places(directory):
    return [found.place for found in agentcgroup_layout.find_attempts(directory)]


def test_a_summary_above_runs_hides_none_of_them(tmp_path):
    attempt(tmp_path / "a__b-1" / "attempt_1")
    attempt(tmp_path / "c__d-2")
    found = places(tmp_path)
    assert found == ["a__b-1/attempt_1", "c__d-2"]
    for above in (tmp_path, tmp_path / "a__b-1"):
        (above / "results.json").write_text("{}", encoding="utf-8")
        assert places(tmp_path) == found
    (tmp_path / "a__b-1" / "tool_calls.json").write_text("[]", encoding="utf-8")
    assert places(tmp_path) == found


def test_what_a_work_tree_holds_is_no_run(tmp_path):
    attempt(tmp_path / "a__b-1")
    attempt(tmp_path / "a__b-1" / "work" / "data")
    attempt(tmp_path / "c__d-2" / "attempt_1" / "work" / "attempt_1")
    attempt(tmp_path / "c__d-2" / "attempt_1")
    assert places(tmp_path) == ["a__b-1", "c__d-2/attempt_1"]


def test_a_link_into_the_data_set_is_no_second_run(tmp_path):
    data = tmp_path / "data"
    attempt(data / "a__b-1" / "attempt_1")
    (data / "latest").symlink_to("a__b-1")
    (data / "a__b-1" / "attempt_latest").symlink_to("attempt_1")
    (data / "a__b-1" / "up").symlink_to(data)
    (data / "a__b-1" / "over").symlink_to(tmp_path)
    (data / "loop").symlink_to("loop")
    assert places(data) == ["a__b-1/attempt_1"]
    attempt(tmp_path / "elsewhere" / "attempt_1")
    (data / "c__d-2").symlink_to(tmp_path / "elsewhere")
    assert places(data) == ["a__b-1/attempt_1", "c__d-2/attempt_1"]
    (tmp_path / "name").symlink_to(data)
    assert places(tmp_path / "name") == places(data)


@pytest.mark.parametrize("name", ["attempt-2", "Attempt_2", "attempt2"])
def test_attempts_spelled_otherwise_are_attempts_of_their_task(tmp_path, name):
    attempt(tmp_path / "a__b-1" / name)
    (found,) = agentcgroup_layout.find_attempts(tmp_path)
    assert (found.task_place, found.number) == ("a__b-1", 2)


def test_a_time_that_contradicts_its_epoch_is_no_zone(one):
    listed = samples()
    listed[0]["timestamp"] = "1999-01-01T00:00:00"
    listed[1]["timestamp"] = "9999-01-01T00:00:00"
    assert one(listed=listed) == one()


def test_times_beyond_what_a_column_holds_are_unknown(one):
    for odd in ("9999-12-31T23:59:59", "0001-01-01T00:00:00", "2262-04-11T23:00:00"):
        listed = [*samples(), {"timestamp": odd, "mem_usage": "1MB / 2MB"}]
        row = the_run(one(listed=listed, result=results(start_time=odd)))
        assert (row["n_samples"], row["started_utc_ns"]) == (12, None)


IMPORT = (
    "import sys; from agentsweep.extraction.importer import import_runs; import_runs(*sys.argv[1:])"
)


@pytest.mark.slow
def test_the_machines_zone_and_language_change_no_byte(tmp_path):
    listed = samples()
    del listed[3]["epoch"]
    attempt(tmp_path / "data" / "a__b-1" / "attempt_1", listed=listed)
    attempt(tmp_path / "data" / "c__d-2" / "attempt_1", zone_h=TOKYO, trace=None)
    found = []
    for zone, language in (
        ("Asia/Tokyo", "C"),
        ("America/New_York", "C.UTF-8"),
        ("UTC", "de_DE.UTF-8"),
    ):
        out = tmp_path / zone.replace("/", "-")
        environment = os.environ | {"TZ": zone, "LC_ALL": language, "LANG": language}
        arguments = [str(tmp_path / "data"), "D", "last", str(out)]
        subprocess.run([sys.executable, "-c", IMPORT, *arguments], check=True, env=environment)
        found.append(contents(out))
    assert found[0] == found[1] == found[2]


# --- the session ---


def test_tokens_of_a_message_count_once_however_many_records_repeat_them(one):
    tables = one()
    (m1,) = (row for row in tables["messages"] if row["message_id"] == "m1")
    assert (m1["n_records"], m1["output_tokens"], m1["record_output_tokens"]) == (2, 8, 16)
    row = the_run(tables)
    assert (row["output_tokens"], row["input_tokens"]) == (8 + 5 + 3 + 4, 4 * 4)
    assert row["cache_read_input_tokens"] == 400


def test_output_tokens_of_the_messages_start_are_not_final(one):
    placeholder = the_run(one())
    assert placeholder["output_tokens_final"] is False
    made = Session("2.0.0")
    made.user("Fix it", 1)
    made.text("m1", "Done.", 2, stop="end_turn", output=30)
    final = the_run(one(trace=made))
    assert (final["output_tokens"], final["output_tokens_final"]) == (30, True)


def test_summaries_of_other_sessions_change_nothing(one):
    made = session()
    for number in range(3):
        summary = {"type": "summary", "summary": "Another", "leafUuid": f"elsewhere-{number}"}
        made.records.insert(number, summary)
    with_them, without = the_run(one(trace=made)), the_run(one())
    assert with_them == without | {"trace_lines": without["trace_lines"] + 3}
    assert with_them["trace_unknown_records"] == 0


def inline_subagent() -> Session:
    """A Task of CLI 2.0.0, whose sub-agent's records stand in the same file."""
    made = Session("2.0.0")
    made.user(PROMPT.format("Broken."), 1)
    given = {"prompt": "Look around", "subagent_type": "Explore", "description": "look"}
    made.tool("m1", "task", "Task", given, 2, stop=None)
    side = {"isSidechain": True}
    first = made.user("Look around", 2.1, **side)
    second = made.bash("s1", "inner", "ls", 4, stop=None, model="claude-sonnet-4-5", **side)
    second["parentUuid"] = first["uuid"]
    made.result("inner", "a", 5, **side)["parentUuid"] = second["uuid"]
    last = made.text("s2", "Found.", 7, stop=None, model="claude-sonnet-4-5", **side)
    last["parentUuid"] = made.records[-2]["uuid"]
    made.result("task", "Found.", 8)
    made.text("m2", "Done.", 9, stop=None)
    return made


def test_inline_subagents_have_their_parent_and_are_their_tools(one):
    tables = one(trace=inline_subagent())
    task, inner = tables["tool_calls"]
    assert (task["name"], task["parent_id"], task["agent_id"]) == ("Task", None, None)
    assert (inner["name"], inner["parent_id"]) == ("Bash", "task")
    assert inner["agent_id"] is not None
    row = the_run(tables)
    assert row["subagent_models"] == "claude-sonnet-4-5"
    assert row["model"] == "claude-haiku-4-5-20251001"
    assert (row["n_subagents"], row["n_tool_calls"]) == (1, 2)
    # The Task's six seconds are its sub-agent's model and one second of `ls`.
    assert row["tool_s"] == 1.0
    assert {m["agent_id"] for m in tables["messages"]} == {None, inner["agent_id"]}


def test_a_task_whose_subagent_was_not_collected_is_no_tools_time(one):
    made = Session("2.1.16")
    made.user(PROMPT.format("Broken."), 1)
    made.tool("m1", "task", "Task", {"prompt": "Look"}, 2, stop=None)
    made.result("task", "Found.", 8)
    made.text("m2", "Done.", 9, stop=None)
    tables = one(trace=made)
    (task,) = tables["tool_calls"]
    assert (task["name"], task["category"], task["duration_s"]) == ("Task", "agent", 6.0)
    row = the_run(tables)
    assert (row["n_subagents"], row["n_tool_calls"], row["tool_s"]) == (0, 1, 0.0)
    assert row["subagent_models"] is None


def test_a_change_of_directory_changes_nothing(one):
    moved = session()
    for number, record in enumerate(moved.records):
        record["cwd"] = f"/testbed/{number}"
    assert one(trace=moved) == one()


def test_the_session_in_other_versions(one):
    for version in ("2.1.16", "2.1.69"):
        row = the_run(one(trace=session(version)))
        assert (row["agent_version"], row["trace_status"]) == (version, "ok")
        assert (row["n_tool_calls"], row["n_assistant_messages"]) == (3, 4)
    made = small_session("2.1.330")
    made.other("api-request", id="r1", timestamp=stamp(1.5), params={"model": "m"})
    made.other("cost-state", totalCostUSD=0.1, startTime=1)
    made.common("attachment", 0.5, attachment={"type": "environment"})
    made.common("system", 5.5, subtype="informational")
    made.records[2]["requestRef"] = "r1"
    tables = one(trace=made)
    row = the_run(tables)
    assert (row["agent_version"], row["trace_status"]) == ("2.1.330", "ok")
    assert (row["trace_unknown_records"], row["n_tool_calls"]) == (0, 2)
    assert (row["output_tokens"], row["output_tokens_final"]) == (60, True)
    assert next(m for m in tables["messages"] if m["message_id"] == "m1")["start_utc_ns"] == (
        utc_ns(1.5)
    )
    newer = session("2.9.0")
    newer.other("not-yet-known", timestamp=stamp(3), payload={})
    row = the_run(one(trace=newer))
    assert (row["trace_status"], row["trace_unknown_records"], row["n_tool_calls"]) == ("ok", 1, 3)


@pytest.mark.slow
def test_prompts_with_and_without_an_issue_and_of_another_form(one):
    def chars(prompt):
        return the_run(one(trace=session(prompt=prompt)))["prompt_issue_chars"]

    assert chars(PROMPT.format("It is broken.")) == len("It is broken.")
    assert chars(PROMPT.format("Two\n\nparagraphs")) == len("Two\n\nparagraphs")
    assert chars(PROMPT.format("")) == 0
    assert chars("Fix the following issue:   ") == 0
    assert chars("Fix this issue: no ending") == len("no ending")
    assert chars(" Make it work \n") == len("Make it work")
    assert chars("") == 0
    assert the_run(one(trace=None))["prompt_issue_chars"] is None


def test_the_banner_of_a_test_runner_tells_the_interpreter(one):
    banner = "===\nplatform linux -- Python 3.12.3, pytest-8.4.2, pluggy-1.6.0\n1 passed"
    made = session()
    made.bash("m5", "t5", "python -m pytest", 9.1, stop=None)
    made.result("t5", banner, 9.5, details=succeeded(banner))
    made.bash("m6", "t6", "python --version", 9.6, stop=None)
    made.result("t6", "Python 3.6.13", 9.7)
    found = [call["test_interpreter"] for call in one(trace=made)["tool_calls"]]
    assert found == [None, None, None, "3.12.3", None]


# --- what is missing ---


def test_without_a_trace_the_calls_come_from_their_list(one):
    tables = one(trace=None)
    row = the_run(tables)
    assert (row["trace_status"], row["damage"]) == ("missing", "trace.jsonl: is missing")
    assert tables["messages"] == []
    calls = tables["tool_calls"]
    assert [(c["tool_call_id"], c["name"], c["category"]) for c in calls] == [
        ("t1", "Bash", "explore"),
        ("t2", "Bash", "test"),
        ("t3", "Read", "read"),
    ]
    assert [(c["start_utc_ns"], c["end_utc_ns"]) for c in calls] == [
        (utc_ns(2.5), utc_ns(3)),
        (utc_ns(4), utc_ns(7)),
        (utc_ns(8), utc_ns(8.5)),
    ]
    assert [c["duration_lower_s"] for c in calls] == [None] * 3
    assert (calls[1]["mem_before_bytes"], calls[1]["mem_peak_bytes"]) == (184_000_000, 187_000_000)
    assert (row["n_tool_calls"], row["n_bash_calls"]) == (3, 2)
    for unknown in ("n_messages", "n_tool_errors", "output_tokens", "model", "model_s", "tool_s"):
        assert row[unknown] is None
    # The samples alone tell the phase.
    assert row["agent_s"] == 11.0


@pytest.mark.parametrize("empty", [b"", b"\0" * 4096, b"\n\n", b"no JSON at all\n", b"[1, 2]\n"])
def test_a_trace_without_a_message_is_like_none_but_is_not_called_missing(one, empty):
    tables = one(trace=empty)
    row = the_run(tables)
    assert row["trace_status"] == ("empty" if not empty.strip() else "damaged")
    assert [call["tool_call_id"] for call in tables["tool_calls"]] == ["t1", "t2", "t3"]
    for unknown in ("n_messages", "n_assistant_messages", "model_s", "tool_s", "startup_s"):
        assert row[unknown] is None


def test_without_both_the_calls_come_from_results_json(one):
    both_missing = one(trace=None, calls=None)
    assert both_missing["tool_calls"] == one(trace=None)["tool_calls"]
    assert "tool_calls.json: is missing" in the_run(both_missing)["damage"]
    nothing = one(trace=None, calls=None, result=None)
    assert nothing["tool_calls"] == []
    assert the_run(nothing)["n_tool_calls"] is None


def test_what_results_json_repeats_is_used_only_where_the_others_are_missing(one):
    other = results()
    other["resource_samples"] = {"samples": samples(3)}
    other["traces"] = {"tool_calls": tool_calls()[:1]}
    there = one(result=other)
    assert (len(there["samples"]), len(there["tool_calls"])) == (12, 3)
    assert len(one(result=other, trace=None)["tool_calls"]) == 3
    missing = one(result=other, trace=None, calls=None, listed=None)
    assert (len(missing["samples"]), len(missing["tool_calls"])) == (3, 1)
    assert the_run(missing)["samples_status"] == "ok"


def test_an_attempt_with_results_json_alone_has_a_row_that_says_why(one):
    failed = {
        "image": "docker.io/swerebench/sweb.eval.x86_64.a_1776_b-1:latest",
        "start_time": local(0),
        "error": " pull failed: timeout\n",
        "total_time": 3.5,
    }
    tables = one(trace=None, calls=None, listed=None, result=failed)
    row = the_run(tables)
    assert [len(tables[name]) for name in ("samples", "tool_calls", "messages")] == [0, 0, 0]
    assert row["outcome_detail"] == "pull failed: timeout"
    assert set(row["damage"].split("; ")) == {
        "resources.json: is missing",
        "trace.jsonl: is missing",
        "tool_calls.json: is missing",
    }
    assert (row["samples_status"], row["trace_status"]) == ("missing", "missing")
    assert (row["wall_s"], row["agent_s"], row["agent_start_utc_ns"]) == (3.5, None, None)
    assert (row["n_tool_calls"], row["n_samples"]) == (None, 0)
    # Nothing tells the zone of its local times.
    assert row["started_utc_ns"] is None


def test_an_empty_attempt_directory_has_a_row(tmp_path):
    (tmp_path / "data" / "a__b-1" / "attempt_1").mkdir(parents=True)
    row = the_run(imported(tmp_path / "data", tmp_path / "out"))
    assert row["task"] == "a__b-1"
    assert row["damage"].count("is missing") == 4


def test_an_older_list_of_calls_has_no_ends_and_no_inputs(one):
    older = [{key: call[key] for key in ("timestamp", "tool", "id")} for call in tool_calls()]
    calls = one(trace=None, calls=older)["tool_calls"]
    assert [(c["tool_call_id"], c["name"], c["finished"]) for c in calls] == [
        ("t1", "Bash", False),
        ("t2", "Bash", False),
        ("t3", "Read", False),
    ]
    assert calls[1]["start_utc_ns"] == utc_ns(4)
    for unknown in ("end_utc_ns", "duration_s", "command", "mem_peak_bytes"):
        assert calls[1][unknown] is None


def test_entries_of_the_list_of_calls_may_be_odd(one):
    odd = [
        None,
        {"tool": 5, "timestamp": 7, "id": None, "input": []},
        {"tool": "Bash", "timestamp": stamp(5), "end_timestamp": stamp(4), "input": {"command": 1}},
    ]
    first, second = one(trace=None, calls=odd)["tool_calls"]
    assert (first["name"], first["tool_call_id"]) == ("unknown", "call-1")
    assert (second["tool_call_id"], second["duration_s"]) == ("call-2", 0.0)


@pytest.mark.parametrize("key", list(results()))
def test_each_key_of_results_json_may_be_absent(one, key):
    """Nothing raises, and no column changes but those that the key alone tells."""
    told = {
        "image": {"image_reference", "instance_id"},
        "start_time": {"started_utc_ns", "create_s"},
        "memory_limit": {"mem_limit_bytes"},
        "cpu_limit": {"cpu_limit"},
        "model": {"model_requested"},
        "pull_time": {"pull_s", "create_s"},
        "permission_fix_time": {"fix_s", "create_s"},
        "image_info": {"image_id", "image_size_bytes"},
        "claude_time": {"container_s"},
        "claude_output": {"exit_code"},
        "total_time": {"wall_s"},
        "end_time": {"ended_utc_ns"},
    }
    whole, without = one(), one(result={k: v for k, v in results().items() if k != key})
    before, after = the_run(whole), the_run(without)
    lost = {name for name in before if before[name] != after[name]}
    assert lost == told.get(key, set())
    assert all(after[name] is None for name in lost)
    assert {n: whole[n] for n in TABLES if n != "runs"} == {
        n: without[n] for n in TABLES if n != "runs"
    }


def test_the_image_may_tell_its_size_in_megabytes_only(one):
    info = {"size_mb": 1024.0, "image_id": "x"}
    assert the_run(one(result=results(image_info=info)))["image_size_bytes"] == 2**30
    info = {"size_mb": 1e290}
    assert the_run(one(result=results(image_info=info)))["image_size_bytes"] is None


# --- limits ---


@pytest.mark.parametrize(
    ("memory", "cpus", "bytes_", "count"),
    [
        ("4g", "2", 4 * 2**30, 2.0),
        ("512m", "0.5", 512 * 2**20, 0.5),
        ("4GB", 2, 4 * 10**9, 2.0),
        (4, 1.5, None, 1.5),
        ("none", "all", None, None),
        ("9999999999999999g", True, None, None),
        (None, None, None, None),
        ([], {}, None, None),
        ("", "", None, None),
    ],
)
def test_limits(one, memory, cpus, bytes_, count):
    row = the_run(one(result=results(memory_limit=memory, cpu_limit=cpus)))
    assert (row["mem_limit_bytes"], row["cpu_limit"]) == (bytes_, count)


# --- which attempts there are ---


def test_a_run_without_an_attempts_level(tmp_path):
    attempt(tmp_path / "data" / "sweb.eval.x86_64.a_1776_b-1")
    attempt(tmp_path / "data" / "c__d-2" / "attempt_3")
    runs = imported(tmp_path / "data", tmp_path / "out")["runs"]
    assert [(r["run_id"], r["task"], r["attempt"], r["selected"]) for r in runs] == [
        ("D/c__d-2/attempt_3", "c__d-2", 3, True),
        (
            "D/sweb.eval.x86_64.a_1776_b-1",
            "sweb.eval.x86_64.a_1776_b-1",
            1,
            True,
        ),
    ]


def test_the_data_set_may_be_the_run(tmp_path, monkeypatch):
    attempt(tmp_path / "a__b-1")
    row = the_run(imported(tmp_path / "a__b-1", tmp_path / "out"))
    assert (row["run_id"], row["task"], row["attempt"]) == ("D/a__b-1", "a__b-1", 1)
    monkeypatch.chdir(tmp_path / "a__b-1")
    assert the_run(imported(Path(), tmp_path / "out2")) == row


def test_the_data_set_may_be_a_task_or_an_attempt(tmp_path):
    for number in (1, 2):
        attempt(tmp_path / "a__b-1" / f"attempt_{number}")
    runs = imported(tmp_path / "a__b-1", tmp_path / "out")["runs"]
    assert [(r["task"], r["attempt"], r["selected"]) for r in runs] == [
        ("a__b-1", 1, False),
        ("a__b-1", 2, True),
    ]
    row = the_run(imported(tmp_path / "a__b-1" / "attempt_2", tmp_path / "out2"))
    assert (row["task"], row["attempt"], row["selected"]) == ("a__b-1", 2, True)


def test_of_several_attempts_the_last_by_name_counts(tmp_path):
    for number in (1, 2, 10):
        attempt(tmp_path / "data" / "a__b-1" / f"attempt_{number}")
    attempt(tmp_path / "data" / "c__d-2" / "attempt_1")

    def counting(which):
        runs = imported(tmp_path / "data", tmp_path / which, attempts=which)["runs"]
        assert [r["attempt_id"] for r in runs] == [
            "a__b-1/attempt_1",
            "a__b-1/attempt_10",
            "a__b-1/attempt_2",
            "c__d-2/attempt_1",
        ]
        return [(r["task"], r["attempt"]) for r in runs if r["selected"]]

    assert counting("last") == [("a__b-1", 2), ("c__d-2", 1)]
    assert counting("first") == [("a__b-1", 1), ("c__d-2", 1)]
    assert counting("all") == [("a__b-1", 1), ("a__b-1", 10), ("a__b-1", 2), ("c__d-2", 1)]


def test_attempts_with_leading_zeros_are_attempts_at_one_task():
    found = [AttemptDir(Path(p), p) for p in ("t/attempt_01", "t/attempt_02", "u/v/attempt_01")]
    assert select(found, "last") == {"t/attempt_02", "u/v/attempt_01"}
    assert select(found, "first") == {"t/attempt_01", "u/v/attempt_01"}
    assert list(agentcgroup_layout.task_names(found, {}).values()) == ["t", "t", "v"]


def test_a_number_of_an_attempt_too_long_for_a_column(tmp_path):
    attempt(tmp_path / "data" / "t" / f"attempt_{10**30}")
    assert the_run(imported(tmp_path / "data", tmp_path / "out"))["attempt"] is None


def test_other_files_and_directories_are_no_runs(tmp_path):
    attempt(tmp_path / "data" / "a__b-1" / "attempt_1")
    (tmp_path / "data" / "progress.json").write_text("{}", encoding="utf-8")
    (tmp_path / "data" / "a__b-1" / "notes").mkdir()
    (tmp_path / "data" / "plots").mkdir()
    (tmp_path / "data" / "plots" / "a.png").write_bytes(b"")
    assert len(imported(tmp_path / "data", tmp_path / "out")["runs"]) == 1


def test_without_a_directory_or_a_run_one_sentence_names_the_directory(tmp_path):
    for directory in (tmp_path / "absent", tmp_path):
        with pytest.raises(AgentsweepError) as raised:
            import_runs(directory, "D", "last", tmp_path / "out")
        assert str(directory) in str(raised.value)
        assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()


# --- the same bytes ---


def several(data: Path, backwards: bool) -> None:
    """Attempts and tasks, made in this order or the other."""
    places = [f"{task}/attempt_{n}" for task in ("a__b-1", "c__d-2", "e__f-3") for n in (1, 2, 10)]
    for number, place in sorted(enumerate(places), reverse=backwards):
        attempt(data / place, listed=samples(12 + number))


@pytest.mark.slow
def test_neither_the_order_on_disk_nor_the_directory_changes_a_byte(tmp_path, monkeypatch):
    several(tmp_path / "here" / "first", backwards=False)
    several(tmp_path / "there" / "below" / "second", backwards=True)
    import_runs(tmp_path / "here" / "first", "D", "last", tmp_path / "out1")
    import_runs(tmp_path / "there" / "below" / "second", "D", "last", tmp_path / "out2")
    listing = Path.iterdir
    monkeypatch.setattr(Path, "iterdir", lambda self: reversed(list(listing(self))))
    import_runs(tmp_path / "here" / "first", "D", "last", tmp_path / "out3")
    monkeypatch.setattr(Path, "iterdir", lambda self: iter(sorted(listing(self))))
    import_runs(str(tmp_path / "here" / "first") + "/", "D", "last", tmp_path / "out4")
    made = [contents(tmp_path / f"out{n}") for n in (1, 2, 3, 4)]
    assert made[0] == made[1] == made[2] == made[3]


def test_no_table_holds_the_path_of_the_directory(tmp_path):
    several(tmp_path / "data", backwards=False)
    attempt(tmp_path / "data" / "g__h-4" / "attempt_1", trace=None, calls=b"x", listed=b"\0")
    # A directory in the place of a file is an error of the system.
    (tmp_path / "data" / "i__j-5" / "attempt_1" / "resources.json").mkdir(parents=True)
    (tmp_path / "data" / "i__j-5" / "attempt_1" / "trace.jsonl").mkdir(parents=True)
    tables = imported(tmp_path / "data", tmp_path / "out")
    assert len(tables["runs"]) == 11
    assert str(tmp_path) not in json.dumps(tables)


# --- damage ---


BROKEN = {
    "no JSON": b"{this is no JSON",
    "empty": b"",
    "NUL": b"\0" * 2048,
    "a list": b"[1, [2], null]",
    "a number": b"17",
    "an object": b'{"samples": {"a": 1}, "traces": 5, "resource_samples": [1], "image": []}',
    "no UTF-8": b"\xff\xfe\xfa{}",
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
@pytest.mark.parametrize("name", ["listed", "calls", "result", "trace"])
def test_a_broken_file_loses_only_what_it_alone_tells(one, name, content):
    tables = one(**{name: content})
    row = the_run(tables)
    assert len(tables["runs"]) == 1
    if name == "trace":
        assert row["trace_status"] in ("damaged", "empty")
    else:
        assert (row["trace_status"], row["n_tool_calls"], row["n_messages"]) == ("ok", 3, 8)
    if name == "listed":
        # results.json repeats the samples, unless the object has others.
        assert row["n_samples"] == 12
    if name == "result":
        assert (row["n_samples"], row["wall_s"], row["exit_code"]) == (12, None, None)
    if name != "trace" and name != "calls":
        assert (row["damage"] is None) == (content == BROKEN["an object"])
    assert len(tables["tool_calls"]) == 3


@pytest.mark.slow
def test_wrong_types_in_results_json_are_null(tmp_path):
    keys = results()
    odd = (None, [], {}, "text", -1, 1.5, True, 10**30, float("1e308"), "\ud800")
    everywhere = [dict.fromkeys(keys, value) for value in odd]
    inside = [
        results(**{key: keys[key] | {inner: value}})
        for key in ("image_info", "claude_output", "resource_samples", "traces")
        for inner in keys[key]
        for value in (None, [], "x", 10**30, 1e300)
    ]
    for number, result in enumerate(everywhere + inside):
        attempt(tmp_path / "data" / f"a__b-{number:03}" / "attempt_1", result=result)
    rows = imported(tmp_path / "data", tmp_path / "out")["runs"]
    assert len(rows) == len(everywhere + inside) > 50
    for row in rows[: len(everywhere)]:
        assert (row["n_samples"], row["n_tool_calls"], row["n_messages"]) == (12, 3, 8)


@pytest.mark.slow
def test_200_random_mutations_never_raise_and_never_lose_a_run(tmp_path):
    data = tmp_path / "data"
    places = ("a__b-1/attempt_1", "a__b-1/attempt_2", "c__d-2/attempt_1", "e__f-3")
    for place in places:
        attempt(data / place)
    originals = {path: path.read_bytes() for path in sorted(data.rglob("*")) if path.is_file()}
    chance = random.Random(20260301)
    changed = 0
    # One in each attempt, for an import takes longer than a mutation.
    for number in range(200 // len(places)):
        for place in places:
            path = chance.choice(sorted(p for p in originals if p.is_relative_to(data / place)))
            path.write_bytes(mutated(originals[path], chance))
            changed += path.read_bytes() != originals[path]
        tables = imported(data, tmp_path / "out")
        assert [row["attempt_id"] for row in tables["runs"]] == list(places), number
        assert [row["selected"] for row in tables["runs"]] == [False, True, True, True]
        for path, content in originals.items():
            path.write_bytes(content)
    assert changed > 150


ODD = (None, True, -1, 0, 1.5, 10**30, 1e308, "", "x", "\ud800", [], {}, [None], {"a": 1}, "1e999")


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Data cut off, filled with NULs, or with a value of its JSON removed or replaced."""
    kind = chance.choice(("cut", "nul", "value", "value", "value", "value"))
    place = chance.randrange(len(data))
    if kind == "cut":
        return data[:place]
    if kind == "nul":
        return data[:place] + b"\0" * (len(data) - place)
    lines = data.splitlines() if data.count(b"\n") > 1 else [data]
    number = chance.randrange(len(lines))
    value = json.loads(lines[number])
    change_one(value, chance)
    lines[number] = json.dumps(value).encode()
    return b"\n".join(lines)


def change_one(value, chance: random.Random) -> None:
    spots = []

    def walk(part):
        for key in part if isinstance(part, dict) else range(len(part)):
            spots.append((part, key))
            if isinstance(part[key], dict | list):
                walk(part[key])

    walk(value)
    part, key = chance.choice(spots)
    if chance.random() < 0.3:
        del part[key]
    else:
        part[key] = copy.deepcopy(chance.choice(ODD))


# --- the data themselves ---


def recorded_runs(out, name):
    return pq.read_table(out / name / "runs.parquet").to_pylist()


@pytest.mark.slow
@needs_runs
@pytest.mark.parametrize(
    ("name", "attempts", "counting", "failed"), [("H", 58, 33, 3), ("L", 126, 111, 13)]
)
def test_recorded_attempts_all_have_a_row(recorded_data_sets, name, attempts, counting, failed):
    out, rows = recorded_data_sets
    assert rows[name]["runs"] == attempts
    runs = recorded_runs(out, name)
    assert len(runs) == len({run["run_id"] for run in runs}) == attempts
    counts = [
        r for r in runs if r["selected"] and r["n_samples"] >= 10 and (r["sampled_s"] or 0) >= 60
    ]
    assert len(counts) == counting
    without = [run for run in runs if run["samples_status"] == "missing"]
    assert len(without) == failed
    for run in without:
        assert run["outcome_detail"]
        assert "resources.json: is missing" in run["damage"]
    assert all(run["started_utc_ns"] for run in runs if run["n_samples"])


@pytest.mark.slow
@needs_runs
def test_recorded_runs_without_a_trace_have_their_calls(recorded_data_sets):
    out, _ = recorded_data_sets
    lost = [
        run
        for run in recorded_runs(out, "L")
        if run["trace_status"] == "missing" and run["n_samples"]
    ]
    assert len(lost) == 2
    for run in lost:
        assert run["n_tool_calls"] > 10
        assert run["n_messages"] is None


@pytest.mark.slow
@needs_runs
def test_recorded_sessions_add_up(recorded_data_sets):
    """Against an independent reading of the files."""
    out, _ = recorded_data_sets
    for name, folder in (("H", "all_images_haiku"), ("L", "all_images_local")):
        calls, tokens, summed = set(), {}, 0
        for path in (RUNS / folder).rglob("trace.jsonl"):
            for line in path.read_bytes().splitlines():
                record = json.loads(line)
                if record["type"] != "assistant":
                    continue
                message = record["message"]
                if record.get("isApiErrorMessage") or message["model"] == "<synthetic>":
                    continue
                summed += message["usage"]["output_tokens"]
                key = message["id"]
                final = isinstance(message["stop_reason"], str)
                best = (final, message["usage"]["output_tokens"])
                tokens[key] = max(tokens.get(key, (False, -1)), best)
                calls |= {b["id"] for b in message["content"] if b["type"] == "tool_use"}
        runs = recorded_runs(out, name)
        assert sum(run["output_tokens"] or 0 for run in runs) == sum(n for _, n in tokens.values())
        messages = pq.read_table(out / name / "messages.parquet").to_pylist()
        assert sum(m["record_output_tokens"] or 0 for m in messages) == summed
        table = pq.read_table(out / name / "tool_calls.parquet", columns=["run_id", "tool_call_id"])
        with_trace = {r["run_id"] for r in runs if r["trace_status"] != "missing"}
        listed = [c for c in table.to_pylist() if c["run_id"] in with_trace]
        assert {c["tool_call_id"] for c in listed} == calls


@pytest.mark.slow
@needs_runs
def test_the_last_printed_average_times_the_time_is_the_cpu_time(recorded_data_sets):
    """Within the rounding: u = c * (t - s) / 100, with the start that was found."""
    out, _ = recorded_data_sets
    for name in ("H", "L"):
        table = pq.read_table(out / name / "samples.parquet").to_pandas()
        checked = 0
        for _, rows in table.groupby("run_id", sort=False):
            live = rows[rows["cpu_usage_usec"].notna()]
            if len(live) < 10:
                continue
            t_s = (live["utc_ns"].to_numpy() - live["utc_ns"].iloc[0]) / 1e9
            used = live["cpu_usage_usec"].to_numpy() / 1e6
            percent = live["stats_cpu_percent"].to_numpy()
            assert (np.diff(used) >= 0).all()
            # Most samples lie on the line of one start; the steepest tells it best.
            top = int(np.argmax(percent))
            start = t_s[top] - 100 * used[top] / percent[top]
            expected = percent[-1] * (t_s[-1] - start) / 100
            slack = ROUNDING_PERCENT * (t_s[-1] - start) / 100
            error = live["cpu_usage_error_usec"].to_numpy() / 1e6
            assert abs(used[-1] - expected) <= slack + error[-1]
            assert error[-1] <= max(0.03 * used[-1], 0.2)
            checked += 1
        assert checked >= {"H": 33, "L": 111}[name]


@pytest.mark.slow
@needs_runs
def test_recorded_times_are_plausible(recorded_data_sets):
    out, _ = recorded_data_sets
    for name in ("H", "L"):
        for run in recorded_runs(out, name):
            if run["agent_s"] is None:
                continue
            assert 0 <= run["agent_s"] < 4 * 3600
            if run["n_samples"] > 10 and run["trace_status"] == "ok":
                assert abs(run["trace_first_utc_ns"] - run["agent_start_utc_ns"]) < 60 * SECOND
                assert run["startup_s"] < 60
                parts = run["startup_s"] + run["model_s"] + run["tool_s"] - run["overlap_s"]
                assert parts + run["other_s"] == pytest.approx(run["agent_s"])
            assert run["agent_start_utc_ns"] > BEGIN_NS - 90 * 86_400 * SECOND


@pytest.mark.slow
@needs_runs
def test_the_recorded_run_without_an_attempts_level(tmp_path):
    (folder,) = RUNS.glob("sweb.eval.x86_64.encode_1776_starlette-1147_*")
    row = the_run(imported(folder, tmp_path / "out"))
    assert (row["attempt"], row["selected"], row["trace_status"]) == (1, True, "ok")
    assert row["instance_id"].startswith("encode__starlette-1147")
    assert (row["agent_version"], row["mem_limit_bytes"]) == ("2.1.16", 4 * 2**30)
    assert row["cpu_limit"] == 2.0
    assert row["n_samples"] == 173
    assert row["prompt_issue_chars"] > 50


def test_the_makers_files_have_the_recorded_keys():
    """What the examples are made of is what the recorder writes."""
    if not RUNS.is_dir():
        pytest.skip(f"NOT CHECKED against recorded runs: {RUNS} is absent (set AGENTSWEEP_SHARED)")
    path = next(p for p in sorted(RUNS.glob("all_images_haiku/*/*/trace.jsonl"))).parent
    real = {
        name: json.loads((path / name).read_bytes())
        for name in ("resources.json", "tool_calls.json", "results.json")
    }
    assert set(real["results.json"]) <= set(results()) | {"error"}
    assert set(real["tool_calls.json"][0]) == set(tool_calls()[0])
    assert set(real["resources.json"]["samples"][0]) == set(sample(0))
    assert maker.resources([]).keys() == real["resources.json"].keys()
