"""Imported runs: what engines print in other ways, times without a zone, and tasks' names.

What cannot be read is counted; what can be read in two ways is not guessed.
"""

import json
from datetime import UTC, datetime
from pathlib import Path

import agentcgroup_maker
import pytest
from agentcgroup_maker import (
    BEGIN,
    NEPAL,
    TOKYO,
    VANCOUVER,
    attempt,
    imported,
    local,
    results,
    sample,
    samples,
    tool_calls,
    utc_ns,
)
from hypothesis import given
from hypothesis import strategies as st

from agentsweep.extraction.agentcgroup_layout import (
    AttemptDir,
    find_attempts,
    parse_percent,
    parse_printed_size,
    task_names,
)

DECIMAL = {"B": 1, "kB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4}
BINARY = {"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3, "Ki": 1024, "Mi": 1024**2, "Gi": 1024**3}
NAMES = st.text("abcdefgh", min_size=1, max_size=5)


@pytest.fixture
def one(tmp_path):
    """Writes a data set with one attempt and returns the rows of its tables."""
    return agentcgroup_maker.one_attempt(tmp_path)


def the_run(tables):
    (row,) = tables["runs"]
    return row


# --- readings ---


@given(
    value=st.decimals(min_value=0, max_value=1023, places=2),
    unit=st.sampled_from(sorted(DECIMAL | BINARY)),
    comma=st.booleans(),
    space=st.sampled_from(["", " ", "\u00a0"]),
    rest=st.sampled_from(["", " / 2.09GB", " / --"]),
)
def test_every_size_that_has_one_meaning_is_read(value, unit, comma, space, rest):
    text = str(value).replace(".", ",") if comma else str(value)
    expected = round(float(value) * (DECIMAL | BINARY)[unit])
    assert parse_printed_size(f"{text}{space}{unit}{rest}") == expected


@given(value=st.integers(0, 10**6), unit=st.sampled_from(["", "k", "M", "G", "K", "XB", "%"]))
def test_a_size_whose_unit_tells_no_factor_is_none(value, unit):
    assert parse_printed_size(f"{value}{unit} / 1GB") is None


@given(thousands=st.integers(1, 999), digits=st.integers(0, 999))
def test_three_digits_after_a_comma_may_be_thousands(thousands, digits):
    assert parse_printed_size(f"{thousands},{digits:03}MB / 4GB") is None
    assert parse_percent(f"{thousands},{digits:03}%") is None


@pytest.mark.slow
@given(st.text(max_size=20))
def test_any_text_is_a_reading_or_none(text):
    for value in (parse_printed_size(text), parse_percent(text)):
        assert value is None or value >= 0


def test_unreadable_readings_are_counted_and_the_samples_are_damaged(one):
    listed = samples(12)
    listed[2]["mem_usage"] = "-- / --"
    listed[3] |= {"mem_usage": "1.5G / 2G", "cpu_percent": "--"}
    del listed[4]["cpu_percent"]
    row = the_run(one(listed=listed))
    assert (row["samples_status"], row["n_samples"]) == ("damaged", 12)
    assert row["damage"] == "samples: unreadable readings: 2 of memory, 2 of CPU"
    assert row["mem_peak_bytes"] == 191_000_000


def test_swapped_fields_and_dockers_keys_are_read(one):
    swapped = [s | {"mem_usage": "3.19%", "mem_percent": s["mem_usage"]} for s in samples()]
    row = the_run(one(listed=swapped))
    assert (row["samples_status"], row["mem_peak_bytes"], row["damage"]) == (
        "ok",
        191_000_000,
        None,
    )
    docker = [
        {name: s[name] for name in ("timestamp", "epoch")}
        | {"MemUsage": s["mem_usage"], "MemPerc": s["mem_percent"], "CPUPerc": s["cpu_percent"]}
        for s in samples()
    ]
    row = the_run(one(listed=docker))
    # Docker's CPUPerc is no average since the start: taken for one, CPU times would be false.
    assert (row["mem_peak_bytes"], row["cpu_usage_usec"]) == (191_000_000, None)
    assert row["damage"] == "samples: unreadable readings: 12 of CPU"


# --- times without a zone ---


def naive_calls(zone_h: float) -> list[dict]:
    """The calls as a recorder in this zone lists them, without saying so."""
    calls = tool_calls()
    for call in calls:
        for name in ("timestamp", "end_timestamp"):
            moment = datetime.fromisoformat(call[name].replace("Z", "+00:00"))
            call[name] = local((moment.astimezone(UTC) - BEGIN).total_seconds(), zone_h)
    return calls


@pytest.mark.parametrize("zone_h", [VANCOUVER, TOKYO, NEPAL, 0.0])
def test_calls_in_the_recorders_local_time_are_where_the_samples_are(one, zone_h):
    tables = one(
        trace=None,
        listed=samples(zone_h=zone_h),
        calls=naive_calls(zone_h),
        result=results(zone_h=zone_h),
    )
    assert [call["start_utc_ns"] for call in tables["tool_calls"]] == [
        utc_ns(2.5),
        utc_ns(4),
        utc_ns(8),
    ]
    assert the_run(tables)["damage"] == "trace.jsonl: is missing"


def test_calls_in_utc_without_saying_so_are_where_the_samples_are(one):
    calls = one(trace=None, calls=naive_calls(0.0))["tool_calls"]
    assert calls[0]["start_utc_ns"] == utc_ns(2.5)


def test_calls_of_a_zone_that_nothing_tells_have_no_time_but_their_length(one):
    # Neither UTC nor the samples' zone puts them into the run.
    tables = one(trace=None, calls=naive_calls(TOKYO))
    for call, seconds in zip(tables["tool_calls"], (0.5, 3.0, 0.5), strict=True):
        assert (call["start_utc_ns"], call["end_utc_ns"], call["mem_peak_bytes"]) == (None,) * 3
        assert (call["duration_s"], call["finished"]) == (seconds, True)
    assert (
        "tool_calls.json: 3 times have no zone, and nothing tells it" in the_run(tables)["damage"]
    )


def test_samples_without_an_epoch_take_no_zone_from_calls_without_one(one):
    listed = [{k: v for k, v in entry.items() if k != "epoch"} for entry in samples()]
    row = the_run(one(trace=None, listed=listed, calls=naive_calls(0.0), result=None))
    assert (row["samples_status"], row["n_samples"]) == ("damaged", 0)
    assert "have no epoch" in row["damage"]


# --- which level is the task ---


@given(st.lists(NAMES, min_size=2, max_size=6, unique=True), st.sampled_from(["swebench", "main"]))
def test_a_level_that_all_attempts_share_is_not_their_task(tasks, level):
    found = [
        AttemptDir(Path(place), place) for place in (f"{task}/{level}/attempt_1" for task in tasks)
    ]
    assert sorted(task_names(found, {}).values()) == sorted(tasks)
    under = [
        AttemptDir(Path(place), place) for place in (f"{level}/{task}/attempt_1" for task in tasks)
    ]
    assert sorted(task_names(under, {}).values()) == sorted(tasks)


def test_one_attempt_of_a_deeper_layout_is_named_by_its_id_or_image():
    for place, image in (
        ("django__django-11039/swebench/attempt_1", None),
        ("main/django__django-11039/swebench", None),
        ("Odd-Name-3/main/attempt_1", "docker.io/x/sweb.eval.x86_64.odd-name-3:latest"),
    ):
        (name,) = task_names([AttemptDir(Path(place), place)], {place: image}).values()
        assert name in ("django__django-11039", "Odd-Name-3")


def test_the_same_task_in_two_sets_keeps_its_name():
    places = [f"{group}/t{n}/attempt_1" for group in ("haiku", "local") for n in range(3)]
    found = [AttemptDir(Path(place), place) for place in places]
    assert [task_names(found, {})[place] for place in places] == ["t0", "t1", "t2"] * 2


def test_the_task_of_a_deeper_layout_reaches_the_table(tmp_path):
    for task in ("a__b-1", "a__b-2"):
        attempt(tmp_path / "data" / task / "swebench" / "attempt_1")
    rows = imported(tmp_path / "data", tmp_path / "out")["runs"]
    assert [row["task"] for row in rows] == ["a__b-1", "a__b-2"]


# --- attempts of which nothing but a manifest is there ---


def test_an_attempt_with_a_manifest_alone_has_a_row(tmp_path):
    data = tmp_path / "data"
    attempt(data / "t1")
    (data / "t2").mkdir()
    (data / "t2" / "manifest.json").write_text(json.dumps({"task": "t2"}), encoding="utf-8")
    # No attempts: a manifest of the set, and one within a run's own files.
    (data / "manifest.json").write_text("{}", encoding="utf-8")
    (data / "t1" / "web").mkdir()
    (data / "t1" / "web" / "manifest.json").write_text("{}", encoding="utf-8")
    assert [found.place for found in find_attempts(data)] == ["t1", "t2"]
    rows = imported(data, tmp_path / "out")["runs"]
    assert [(row["task"], row["samples_status"]) for row in rows] == [
        ("t1", "ok"),
        ("t2", "missing"),
    ]
    assert "results.json: is missing" in rows[1]["damage"]
    assert sample(0)["mem_percent"]
