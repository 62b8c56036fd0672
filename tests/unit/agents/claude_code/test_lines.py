"""Damaged JSON lines: what is saved, what is counted as lost, and where."""

import io
import json
import random

import pytest
from session_maker import encode, small_session

from agentsweep.agents.claude_code.lines import LineReport, read_records
from agentsweep.agents.claude_code.records import is_session_record


def read(data: bytes):
    report = LineReport()
    lines = io.BytesIO(data)
    return list(read_records(lines, "f", report, is_session_record)), report


def record(number: int, **more) -> dict:
    base = {"parentUuid": None, "type": "user", "uuid": f"u{number}", "sessionId": "s"}
    return {**base, "message": {"role": "user", "content": [{"type": "text", "text": "x"}]}, **more}


def reasons(report):
    return [(problem.line, problem.reason, problem.lost) for problem in report.problems]


def test_whole_lines_are_read_with_their_numbers():
    data = encode(record(1)) + b"\n\n" + encode(record(2)) + b"\r\n"
    found, report = read(data)
    assert [(number, r["uuid"]) for number, r in found] == [(1, "u1"), (3, "u2")]
    assert (report.total, report.blank, report.unusable, report.recovered) == (3, 1, 0, 0)
    assert not report.damaged


def test_missing_final_newline_is_no_damage():
    found, report = read(encode(record(1)) + b"\n" + encode(record(2)))
    assert len(found) == 2 and not report.damaged


def test_torn_last_line_is_lost_and_counted():
    data = encode(record(1)) + b"\n" + encode(record(2))[:-9]
    found, report = read(data)
    assert [r["uuid"] for _, r in found] == ["u1"]
    assert report.unusable == 1 and reasons(report) == [(2, "broken off", True)]


def test_byte_order_mark_is_no_damage():
    found, report = read(b"\xef\xbb\xbf" + encode(record(1)) + b"\n")
    assert len(found) == 1 and not report.damaged


def test_two_whole_records_on_one_line_are_both_saved():
    found, report = read(encode(record(1)) + encode(record(2)) + b"\n")
    assert [r["uuid"] for _, r in found] == ["u1", "u2"]
    assert (report.unusable, report.recovered) == (0, 1)
    assert reasons(report) == [(1, "several records on one line", False)]


@pytest.mark.parametrize("cut", range(1, len(encode(record(1)))))
def test_half_a_record_followed_by_a_whole_one(cut):
    """Wherever the first record was cut, the second one is saved and the half is counted."""
    found, report = read(encode(record(1))[:cut] + encode(record(2)) + b"\n")
    assert [r["uuid"] for _, r in found] == ["u2"]
    assert (report.unusable, report.recovered) == (1, 1)


def test_whole_record_followed_by_half_of_one():
    found, report = read(encode(record(1)) + encode(record(2))[:40] + b"\n" + encode(record(3)))
    assert [r["uuid"] for _, r in found] == ["u1", "u3"]
    assert (report.unusable, report.recovered) == (1, 1)


@pytest.mark.parametrize("cut", [2, 5, 20, 60, 110])
def test_record_interrupted_by_another_writers_line_is_put_together(cut):
    first = encode(record(1, note="with spaces  around "))
    data = first[:cut] + encode(record(2)) + b"\n" + first[cut:] + b"\n" + encode(record(3))
    found, report = read(data)
    assert sorted(r["uuid"] for _, r in found) == ["u1", "u2", "u3"]
    assert report.unusable == 0 and report.damaged
    assert next(r for _, r in found if r["uuid"] == "u1")["note"] == "with spaces  around "


def test_a_part_of_a_record_is_not_taken_for_a_record():
    """The rest of a torn record holds whole objects with a type; none is a record."""
    whole = encode(record(1))
    for start in range(1, len(whole)):
        found, report = read(whole[start:] + b"\n")
        assert found == []
        assert report.unusable == 1


def test_a_quoted_record_in_tool_output_is_text():
    inner = encode(record(9)).decode()
    outer = record(1, toolUseResult={"stdout": inner + "\n" + inner})
    found, report = read(encode(outer) + b"\n")
    assert [r["uuid"] for _, r in found] == ["u1"] and not report.damaged
    torn = encode(outer)[:-3]
    found, report = read(torn + b"\n")
    assert found == [] and report.unusable == 1


def test_nul_bytes_before_a_record_are_dropped():
    found, report = read(b"\0" * 4096 + encode(record(1)) + b"\n")
    assert [r["uuid"] for _, r in found] == ["u1"]
    assert reasons(report) == [(1, "NUL bytes", False)]
    assert (report.unusable, report.recovered) == (0, 1)


def test_a_line_of_nul_bytes_is_one_unusable_line():
    found, report = read(encode(record(1)) + b"\n" + b"\0" * 10_000)
    assert len(found) == 1
    assert reasons(report) == [(2, "NUL bytes only", True)]


def test_nul_bytes_over_the_middle_of_a_record_lose_it():
    data = bytearray(encode(record(1)))
    data[20:60] = b"\0" * 40
    found, report = read(bytes(data) + b"\n")
    assert found == [] and report.unusable == 1


def test_invalid_utf8_in_a_text_loses_only_the_characters():
    data = encode(record(1, note="abc")).replace(b"abc", b"a\xff\xfec")
    found, report = read(data + b"\n")
    assert found[0][1]["note"] == "a\ufffd\ufffdc"
    assert reasons(report) == [(1, "invalid UTF-8", False)]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"[1, 2]", "not a JSON object"),
        (b'"text"', "not a JSON object"),
        (b"17", "not a JSON object"),
        (b"null", "not a JSON object"),
        (b"{}", "an object without a type"),
        (b'{"type": 3}', "an object without a type"),
        (b"hello, world", "not JSON"),
        (b"\x89PNG\r", "invalid UTF-8, not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"type":' * 100_000, "broken off"),
        (b'{"type":"user","n":' + b"9" * 5000 + b"}", "broken off"),
    ],
)
def test_lines_that_are_no_records(line, reason):
    found, report = read(line + b"\n" + encode(record(1)) + b"\n")
    assert [r["uuid"] for _, r in found] == ["u1"]
    assert report.unusable == 1
    assert report.problems[0].reason == reason and report.problems[0].line == 1


def test_only_the_first_problems_are_kept_but_all_are_counted():
    _, report = read(b"nonsense\n" * 500)
    assert report.unusable == 500 and len(report.problems) == 20


def test_truncation_at_every_byte_never_raises_and_loses_at_most_one_record():
    lines = small_session().lines()
    data = b"\n".join(lines)
    for cut in range(len(data) + 1):
        found, report = read(data[:cut])
        whole = data[:cut].count(b"\n")
        assert whole <= len(found) <= whole + 1
        assert report.unusable <= 1
        if len(found) == whole and not data[:cut].endswith(b"\n"):
            assert report.unusable == (1 if cut else 0)


def test_random_damage_never_raises():
    data = small_session().data()
    for seed in range(400):
        chance = random.Random(seed)
        broken = bytearray(data)
        for _ in range(chance.randint(1, 6)):
            at = chance.randrange(len(broken))
            what = chance.randint(0, 4)
            if what == 0:
                del broken[at : at + chance.randint(1, 200)]
            elif what == 1:
                broken[at : at + 1] = bytes(chance.choices(range(256), k=chance.randint(1, 20)))
            elif what == 2:
                broken[at:at] = b"\0" * chance.randint(1, 500)
            elif what == 3:
                broken[at:at] = broken[: chance.randrange(len(broken))]
            else:
                broken[at:at] = b"\n"
        found, report = read(bytes(broken))
        assert all(isinstance(r, dict) and isinstance(r["type"], str) for _, r in found)
        assert report.total >= len([line for line in broken.split(b"\n") if line.strip()])


@pytest.mark.slow
def test_a_very_long_broken_line_is_searched_in_linear_time():
    """2 MB of false starts; the limit on attempts keeps this in the range of a second."""
    nested = json.dumps({"type": "text", "text": "x" * 20})
    line = b'{"parentUuid":[' + (nested + ",").encode() * 40_000
    found, report = read(line + b"\n" + encode(record(1)))
    assert [r["uuid"] for _, r in found] == ["u1"] and report.unusable == 1
