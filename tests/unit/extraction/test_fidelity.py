"""Fidelity: what of two results is compared, how alike they are, and what is said of a call."""

import re
import time

import pytest
from recorded_calls import recorded
from recorded_sessions import EXAMPLES, needs_examples

from agentsweep.agents.claude_code.trace import file_sources, parse_sources
from agentsweep.extraction import fidelity
from agentsweep.extraction.fidelity import Comparison, compare, normalised, similarity, summarise
from agentsweep.vocabulary import ReplayStatus

PATH = "/testbed/a.py"
UUID = "0f0e0d0c-0b0a-4908-8706-050403020100"


def row(**more):
    """A call of the replay, as a row of `tool_calls`."""
    return {
        "name": "Bash",
        "finished": True,
        "is_error": False,
        "exit_code": 0,
        "timed_out": False,
        "killed": False,
        "oom_kill_count": 0,
        **more,
    }


FAILED = {"is_error": True, "exit_code": 1}
TIMED = {"is_error": True, "exit_code": 143, "timed_out": True}
DEAD = {"is_error": True, "exit_code": 137, "killed": True}
NO_TOOL = "<tool_use_error>Error: No such tool available: Glob. Use `find`.</tool_use_error>"


# --- one call against its recording ---


@pytest.mark.parametrize(
    ("before", "after", "text", "status"),
    [
        ({}, {}, "out", "same"),
        ({}, {}, "out\n", "same"),
        ({}, {}, "other", "text_differs"),
        # How it ended.
        (FAILED, FAILED, "out", "same"),
        ({}, FAILED, "out", "state_differs"),
        (FAILED, {}, "out", "state_differs"),
        (FAILED, FAILED | {"exit_code": 2}, "out", "state_differs"),
        # An exit code that nobody knows is no other one; a missing error state is none.
        (FAILED | {"exit_code": None}, FAILED | {"exit_code": 2}, "out", "same"),
        (FAILED, FAILED | {"exit_code": None}, "out", "same"),
        ({"is_error": None}, {"is_error": None}, "out", "same"),
        ({"is_error": None}, {"is_error": True, "exit_code": None}, "out", "state_differs"),
        # What limits do.
        ({}, DEAD, "Exit code 137\nKilled", "killed"),
        (FAILED, FAILED | {"exit_code": 137}, "out", "killed"),
        (FAILED, FAILED | {"killed": True}, "out", "killed"),
        ({}, {"oom_kill_count": 1}, "out", "killed"),
        ({}, DEAD | {"finished": False, "is_error": None}, None, "killed"),
        ({}, TIMED, "Exit code 143\nCommand timed out after 2m", "timed_out"),
        ({}, TIMED | {"exit_code": 137, "killed": True}, "Command timed out", "timed_out"),
        ({}, TIMED | {"oom_kill_count": 2}, "Command timed out", "killed"),
        # The recording had the same.
        (DEAD, DEAD, "out", "same"),
        (DEAD, {}, "out", "state_differs"),
        (DEAD, {"oom_kill_count": 1} | DEAD, "out", "same"),
        (TIMED, TIMED, "out", "same"),
        (TIMED, TIMED | {"exit_code": 137, "killed": True}, "out", "same"),
        (TIMED, DEAD, "out", "killed"),
        # No result.
        ({}, {"finished": False, "is_error": None, "exit_code": None}, None, "unfinished"),
        ({"has_result": False, "text": None}, {}, "out", "unrecorded"),
        ({"has_result": False, "text": None}, DEAD, "out", "unrecorded"),
    ],
)
def test_status(before, after, text, status):
    found = compare(recorded(**before), row(**after), text)
    assert found.status == status
    assert status in [*ReplayStatus]
    if status in ("unavailable", "unrecorded"):
        assert (found.fidelity, found.similarity) == (None, None)
    elif status == "same":
        assert found == Comparison("same", 1.0, 1.0)
    elif status == "text_differs":
        assert found.fidelity == found.similarity
    else:
        assert found.fidelity == 0.0
        assert (found.similarity is None) == (text is None)


@pytest.mark.parametrize(
    ("offered", "was", "text", "status"),
    [
        (False, "a.py", NO_TOOL, "unavailable"),
        (False, "a.py", None, "unavailable"),
        # A CLI may know a tool that it does not offer.
        (False, "a.py", "a.py", "same"),
        (True, "a.py", NO_TOOL, "state_differs"),
        # The recorded CLI had no such tool either.
        (False, NO_TOOL.replace("Use `find`.", ""), NO_TOOL, "text_differs"),
    ],
)
def test_a_tool_that_the_agent_does_not_offer_is_not_compared(offered, was, text, status):
    before = recorded(was, name="Glob", offered=offered, is_error="No such" in was, exit_code=None)
    failed = text is not None and "No such" in text
    after = row(name="Glob", is_error=failed, exit_code=None, finished=text is not None)
    assert compare(before, after, text).status == status


def test_a_call_that_the_recording_has_not_is_unrecorded():
    assert compare(None, row(), "out") == Comparison("unrecorded", None, None)


@pytest.mark.parametrize("wrong", [None, 1, "x", [], {}, 2.5, True])
def test_a_record_of_any_shape_is_compared(wrong):
    entry = recorded()
    for key in entry:
        compare(entry | {key: wrong}, row(), "out")
    assert compare({}, {"name": "Bash"}, None).status == "unrecorded"


def test_the_first_record_of_a_call_wins():
    exchanges = [
        {"seq": 1},
        {"recorded": None},
        {"recorded": [recorded("first"), "no object", {"id": 7}]},
        {"recorded": [recorded("again"), recorded("other", id="t2")]},
        {"recorded": "no list"},
    ]
    found = fidelity.recorded_calls(exchanges)
    assert {key: value["text"] for key, value in found.items()} == {"t1": "first", "t2": "other"}


def test_the_score_is_the_mean_of_the_calls_that_have_one():
    made = [
        Comparison("same", 1.0, 1.0),
        Comparison("text_differs", 0.5, 0.5),
        Comparison("killed", 0.0, 0.9),
        Comparison("timed_out", 0.0, 0.1),
        Comparison("unavailable", None, None),
        Comparison("unrecorded", None, None),
    ]
    score = summarise(iter(made))
    assert score == fidelity.Summary(fidelity=0.375, compared=4, same=1, limited=2)
    assert summarise(made[4:]) == fidelity.Summary(None, 0, 0, 0)


# --- how alike two texts are ---


def test_similarity_counts_the_longest_common_subsequence_of_tokens():
    assert similarity("", "") == similarity(" \n", "") == 1.0
    assert similarity("a", "") == 0.0
    assert similarity("one two  three", "one\ntwo three") == 1.0
    # 3 of 4 tokens on both sides.
    assert similarity("one two three four", "one two 3 four") == pytest.approx(0.75)
    # "passed" "," "in" of 5 and of 3 tokens: 2 * 3 / 8.
    assert similarity("5 passed, in 3", "passed, in") == pytest.approx(0.75)
    assert similarity("a b", "b a") == pytest.approx(0.5)
    assert similarity("x y", "p q") == 0.0


def test_similarity_looks_at_so_many_tokens_and_takes_no_longer():
    long = " ".join(str(i * 7919 % 1009) for i in range(fidelity.MOST_TOKENS))
    other = " ".join(str(i * 6007 % 1013) for i in range(fidelity.MOST_TOKENS))
    assert similarity(long + " end", long + " another end") == 1.0
    assert similarity("x " + long, long) < 1.0
    began = time.process_time()
    similarity(long * 5, other * 5)
    assert time.process_time() - began < 3


# --- what is left out ---


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("Bash", "a  \n\nb\t\r\n", "\n\na\n\nb"),
        ("Bash", "Exit code 2\nout", "Error: out"),
        ("Bash", "Exit code 1", "Error"),
        ("Bash", "", "(Bash completed with no output)"),
        ("Bash", "x\n<system-reminder>\nBe\nquick\n</system-reminder>\n", "x"),
        (
            "Bash",
            f"id {UUID}.",
            "id 11111111-2222-4333-8444-55555555550A.",
        ),
        ("Read", "     9→a\n    10→\n\n<system-reminder>x</system-reminder>\n", "9\ta\n10\t"),
        ("Read", "     1→\ufeffa", "1\ta"),
        (
            "Read",
            "<tool_use_error>File does not exist.</tool_use_error>",
            "File does not exist. Note: your current working directory is /w/a.b/c.",
        ),
        (
            "Read",
            "<tool_use_error>File does not exist. Did you mean b.py?</tool_use_error>",
            "File does not exist. Note: your current working directory is /w. Did you mean b.py?",
        ),
        (
            "Edit",
            f"The file {PATH} has been updated. Here's the result of running `cat -n` on a snippet "
            "of the edited file:\n     1→a\n     2→b",
            f"The file {PATH} has been updated successfully. (file state is current in your "
            "context — no need to Read it back)",
        ),
        (
            "Edit",
            f"The file {PATH} has been updated. All occurrences of 'it's\n a' were successfully "
            "replaced with 'b'.",
            f"The file {PATH} has been updated. All occurrences were successfully replaced. (file "
            "state is current in your context — no need to Read it back)",
        ),
        (
            "Write",
            f"File created successfully at: {PATH}",
            f"File created successfully at: {PATH} (file state is current in your context — no "
            "need to Read it back)",
        ),
        ("Task", "Done.\nagentId: acbb650 (for resuming to continue)", "Done."),
        ("Task", "Done.\nagentId: acbb650\n<usage>total_tokens: 8795</usage>", "Done."),
        (
            "Agent",
            "Done.\n\n- it\n  is",
            "  <tools-used-before-summary>Bash</tools-used-before-summary>\n  \n"
            "[Subagent hand-back] The text below is model output. The report follows:\n"
            "  Done.\n  \n  - it\n    is\n"
            "agentId: a262516f4f7637cb5 (use SendMessage with to: 'a262516f4f7637cb5')\n"
            "<usage>subagent_tokens: 8795\ntool_uses: 1\nduration_ms: 1334</usage>",
        ),
        (
            "Agent",
            "Async agent launched.\nagentId: abfa4804b498bb813 (internal)\nsee abfa4804b498bb813",
            "Async agent launched.\nagentId: acbb650 (internal)\nsee acbb650",
        ),
        ("Grep", "Found 1 file\n/testbed/s/a.py", "Found 1 file\ns/a.py"),
        ("Glob", "/testbed/a.py\n/usr/b.py", "a.py\n/usr/b.py"),
    ],
)
def test_what_the_agent_adds_is_left_out(name, one, other):
    assert normalised(one, name, "/testbed") == normalised(other, name, "/testbed")


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("Bash", "a\n\nb", "a\nb"),
        ("Bash", "  a", "a"),
        ("Bash", "12\ta", "13\ta"),
        ("Bash", "Error in a", "in a"),
        ("Bash", "x\nExit code 1\ny", "x\ny"),
        ("Bash", "in 0.51 s", "in 0.52 s"),
        ("Bash", "/testbed/a.py", "a.py"),
        ("Bash", "agentId: acbb650", "agentId: acbb651"),
        ("Read", "1\t12\ta", "1\t13\ta"),
        ("Edit", "The file /a has been updated.", "The file /b has been updated."),
        (
            "Edit",
            "The file /a has been updated.",
            "The file /a has been updated. All occurrences were successfully replaced.",
        ),
        ("Write", "File created successfully at: /a", "The file /a has been updated."),
        ("Agent", "There are 2 files.", "There are 3 files."),
        ("Grep", "/testbed2/a.py", "2/a.py"),
        ("Grep", "see /testbed/a.py", "see a.py"),
        ("Grep", "12:a", "13:a"),
    ],
)
def test_what_the_tool_said_stays(name, one, other):
    assert normalised(one, name, "/testbed") != normalised(other, name, "/testbed")


def persisted(lines, size="106.3KB", place="/home/x"):
    """A long output as CLI 2.1.330 gives it."""
    return (
        f"<persisted-output>\nOutput too large ({size}). Full output saved to: {place}/b.txt\n\n"
        f"Preview (first 2KB):\n{lines}\n...\n</persisted-output>"
    )


def cut(lines, rest=900):
    """A long output as CLI 2.0.0 gives it."""
    return f"{lines}\n\n... [{rest} lines truncated] ..."


@pytest.mark.parametrize(
    ("was", "text", "status"),
    [
        (persisted("1\n2\n3"), persisted("1\n2\n3", place="/elsewhere"), "same"),
        (persisted("1\n2\n3"), persisted("1\n2\n3", size="99KB"), "text_differs"),
        (persisted("1\n2\n3"), persisted("1\n2\n4"), "text_differs"),
        (cut("1\n2\n3"), cut("1\n2\n3"), "same"),
        (cut("1\n2\n3"), cut("1\n2\n3", rest=7), "text_differs"),
        # Two CLIs cut in two ways: as far as both show. The last line may be cut, too.
        (cut("1\n2\n3\n4\n56"), persisted("1\n2\n3"), "same"),
        (cut("1\n2\n34"), persisted("1\n2\n345\n6"), "same"),
        (cut(f"1\n2\n{UUID[:9]}"), persisted(f"1\n2\n{UUID}\n6"), "same"),
        (cut("one line"), persisted("one line"), "same"),
        (cut("one line"), persisted("two line"), "text_differs"),
        (cut("1\nx\n3\n4\n5"), persisted("1\n2\n3"), "text_differs"),
        # All begin to cut at the same length, so here the lengths differ.
        (cut("1\n2\n3\n4\n5"), "1\n2\n3", "text_differs"),
        ("1\n2\n3\n4", persisted("1\n2\n3"), "text_differs"),
    ],
)
def test_long_outputs_are_compared_as_far_as_they_are_shown(was, text, status):
    assert compare(recorded(was), row(), text).status == status


@pytest.mark.parametrize(
    "piece", ["<system-reminder>", "<usage>", "agentId: ", "The file ", "0f0e0d0c-", "\n\n... ["]
)
def test_no_text_takes_long(piece):
    text = piece * (100_000 // len(piece))
    began = time.process_time()
    for name in ("Bash", "Read", "Edit", "Agent"):
        normalised(text, name)
    assert time.process_time() - began < 3


@needs_examples
def test_the_same_session_gives_the_same_results_in_every_version():
    """Recorded with five versions of the CLI, each in a directory of its own."""
    results = {}
    for folder in sorted(EXAMPLES.glob("*_basic")):
        (path,) = (p for p in folder.glob("*.jsonl") if not p.name.startswith(("agent-", "mock")))
        session = parse_sources(file_sources(path), keep_content=True)
        results[folder.name] = [
            _without_place_and_time(normalised(call.result_text, call.name))
            for call in session.tool_calls
        ]
    assert len(results) >= 5
    first = next(iter(results.values()))
    assert len(first) == 5
    for name, found in results.items():
        assert found == first, name


def _without_place_and_time(text):
    text = re.sub(r"/sandbox/runs/[^/]+/work", "WORK", text)
    return re.sub(r"Nov 23 \d\d:\d\d", "TIME", text)
