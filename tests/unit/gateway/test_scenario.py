"""Scenario files: what is refused and how that is said, and what a good one means."""

import re
from pathlib import Path

import pytest

from agentsweep.errors import ConfigError
from agentsweep.gateway import scenario
from agentsweep.gateway.messages_api import ToolResult

ROOT = Path(__file__).resolve().parents[3]

GOOD = """\
description: Look, build, and react to a killed build.
defaults: {latency_s: 0.3, chunk_chars: 50, chunk_s: 0.01}
turns:
  - text: I will look first.
    thinking: What is there?
    tools:
      - Bash: {command: ls -la, description: List files}
      - Read: {file_path: /testbed/x.py}
    latency_s: 0.5
    usage: {input_tokens: 100, output_tokens: 20}
  - id: build
    tools: [{Bash: {command: python3 big.py}}]
    fault: {status: 429, times: 2, retry_after_s: 1}
    next:
      - if: {result_matches: "Exit code 137|Killed", is_error: true}
        goto: smaller
      - goto: done
  - id: smaller
    tools: [{Bash: {command: python3 small.py}}]
  - id: done
    text: Finished.
subagents:
  explore:
    marker: "[[explore]]"
    turns:
      - text: Nothing to see.
"""


def load(tmp_path, text):
    path = tmp_path / "scenario.yaml"
    if isinstance(text, bytes):
        path.write_bytes(text)
    else:
        path.write_text(text, encoding="utf-8")
    return scenario.load(path)


def problems(tmp_path, text):
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    prefix = f"{tmp_path / 'scenario.yaml'}: "
    assert all(problem.startswith(prefix) for problem in caught.value.problems)
    assert not any("\n" in problem for problem in caught.value.problems)
    return [problem.removeprefix(prefix) for problem in caught.value.problems]


def turns(*lines):
    return "turns:\n" + "".join(f"  - {line}\n" for line in lines)


TOOL = "tools: [{Bash: {command: ls}}]"
END = "{text: Done.}"

# (what the file holds, the one line that says what is wrong with it)
BROKEN = {
    "empty": ("", r"the file is empty; write at least `turns:`"),
    "only a comment": ("# later\n", r"the file is empty; .*"),
    "not YAML": ("turns: [\n", r"line 2: not YAML: .*"),
    "a tab": ("turns:\n\t- text: x\n", r"line 2: not YAML: .*"),
    "binary": (b"\xff\xfe\x00", r"cannot be read: it is not UTF-8 text"),
    "control character": ("turns: [{text: \x01}]\n", r"not YAML: .*"),
    "a list": ("- text: x\n", r"\[\{'text': 'x'\}\] is not allowed; write a mapping with descr.*"),
    "no turns": ("description: x\n", r"turns: missing; write a list of one turn or more"),
    "turns empty": ("turns: []\n", r"turns: \[\] is not allowed; write a list of one turn or more"),
    "turns a mapping": ("turns: {text: x}\n", r"turns: \{'text': 'x'\} is not allowed; .*"),
    "unknown top key": (turns(END) + "model: x\n", r"unknown key 'model'; allowed are desc.*"),
    "unknown turn key": (
        turns("{text: x, tool: 1}"),
        r"turn 1: unknown key 'tool'; allowed are id, text, thinking, tools, .*",
    ),
    "turn a text": (turns("Done."), r"turn 1: 'Done.' is not allowed; write a mapping with id, .*"),
    "turn says nothing": (
        turns("{latency_s: 1}"),
        r"turn 1: says nothing; write text, thinking or tools .*",
    ),
    "text a number": (turns("{text: 4}"), r"turn 1: text: 4 is not allowed; write a text; put .*"),
    "tools a mapping": (
        turns("{tools: {Bash: {command: ls}}}", END),
        r"turn 1: tools: \{'Bash': .* is not allowed; write a list of `Tool: \{argument: value\}`",
    ),
    "tool not a mapping": (
        turns("{tools: [Bash]}", END),
        r"turn 1: tools\[0\]: 'Bash' is not allowed; write one tool as .*",
    ),
    "tool without arguments": (
        turns("{tools: [{Bash: ls}]}", END),
        r"turn 1: tools\[0\].Bash: 'ls' is not allowed; write a mapping of the tool's arguments",
    ),
    "two tools in one": (
        turns("{tools: [{Bash: {command: ls}, Read: {file_path: x}}]}", END),
        r"turn 1: tools\[0\]: .* is not allowed; write one tool as .*",
    ),
    "tool with a space": (
        turns("{tools: [{My tool: {}}]}", END),
        r"turn 1: tools\[0\]: 'My tool' is not allowed; write a tool's name: .*",
    ),
    "argument a date": (
        turns("{tools: [{Bash: {command: 2024-01-01}}]}", END),
        r"turn 1: tools\[0\].Bash.command: 2024-01-01 is a YAML date, .*; put it in quotes",
    ),
    "argument not a number": (
        turns("{tools: [{Bash: {timeout: .nan}}]}", END),
        r"turn 1: tools\[0\].Bash.timeout: nan is not allowed; write a finite number",
    ),
    "argument key a number": (
        turns("{tools: [{Bash: {1: x}}]}", END),
        r"turn 1: tools\[0\].Bash: the key 1 is not a text; put it in quotes",
    ),
    "negative latency": (
        turns("{text: x, latency_s: -1}"),
        r"turn 1: latency_s: -1 is not allowed; write seconds from 0 to 86400",
    ),
    "latency a text": (
        turns("{text: x, latency_s: 3s}"),
        r"turn 1: latency_s: '3s' is not allowed; .*",
    ),
    "latency true": (turns("{text: x, latency_s: yes}"), r"turn 1: latency_s: True is not .*"),
    "latency infinite": (turns("{text: x, latency_s: .inf}"), r"turn 1: latency_s: inf is not .*"),
    "chunk of nothing": (
        turns("{text: x, chunk_chars: 0}"),
        r"turn 1: chunk_chars: 0 is not allowed; write a whole number from 1",
    ),
    "bad default": (
        "defaults: {latency_s: x}\n" + turns(END),
        r"defaults.latency_s: 'x' is not allowed; .*",
    ),
    "unknown default": (
        "defaults: {latency: 1}\n" + turns(END),
        r"defaults: unknown key 'latency'; allowed are latency_s, chunk_chars, chunk_s",
    ),
    "usage half a token": (
        turns("{text: x, usage: {output_tokens: 0.5}}"),
        r"turn 1: usage.output_tokens: 0.5 is not allowed; write a whole number from 0",
    ),
    "usage misspelt": (
        turns("{text: x, usage: {tokens: 5}}"),
        r"turn 1: usage: unknown key 'tokens'; allowed are input_tokens, .*",
    ),
    "goto nowhere": (
        turns(f"{{id: a, {TOOL}, next: [{{goto: b}}]}}", "{id: c, text: Done.}"),
        r"turn 1 \(a\): next\[0\].goto: 'b' is not allowed; write the id of a turn: a, c",
    ),
    "goto missing": (
        turns(f"{{{TOOL}, next: [{{if: {{is_error: true}}}}]}}", END),
        r"turn 1: next\[0\].goto: missing; write the id of a turn: \(no turn has one\)",
    ),
    "next a text": (
        turns(f"{{{TOOL}, next: done}}", "{id: done, text: x}"),
        r"turn 1: next: 'done' is not allowed; write a list of `goto: <id>`, .*",
    ),
    "next without tools": (
        turns("{text: x, next: [{goto: b}]}", "{id: b, text: Done.}"),
        r"turn 1: next: this turn has no tools, so that it ends the conversation; .*",
    ),
    "branch after a sure one": (
        turns(f"{{{TOOL}, next: [{{goto: b}}, {{goto: b}}]}}", "{id: b, text: Done.}"),
        r"turn 1: next\[1\]: never reached, because an entry before it has no `if`",
    ),
    "bad regex": (
        turns(
            f"{{{TOOL}, next: [{{if: {{result_matches: '(x'}}, goto: b}}]}}",
            "{id: b, text: Done.}",
        ),
        r"turn 1: next\[0\].if.result_matches: '\(x' is not a regular expression \(.*\); escape .*",
    ),
    "regex a number": (
        turns(
            f"{{{TOOL}, next: [{{if: {{result_matches: 137}}, goto: b}}]}}", "{id: b, text: Done.}"
        ),
        r"turn 1: next\[0\].if.result_matches: 137 is not allowed; write a regular expression .*",
    ),
    "is_error a text": (
        turns(f"{{{TOOL}, next: [{{if: {{is_error: maybe}}, goto: b}}]}}", "{id: b, text: Done.}"),
        r"turn 1: next\[0\].if.is_error: 'maybe' is not allowed; write true or false",
    ),
    "empty condition": (
        turns(f"{{{TOOL}, next: [{{if: {{}}, goto: b}}]}}", "{id: b, text: Done.}"),
        r"turn 1: next\[0\].if: \{\} is not allowed; write result_matches, is_error or both",
    ),
    "unknown condition": (
        turns(f"{{{TOOL}, next: [{{if: {{exit: 1}}, goto: b}}]}}", "{id: b, text: Done.}"),
        r"turn 1: next\[0\].if: unknown key 'exit'; allowed are result_matches, is_error",
    ),
    "same id twice": (
        turns(f"{{id: a, {TOOL}}}", "{id: a, text: Done.}"),
        r"turn 2: id: 'a' is the id of turn 1 already; each id may stand once",
    ),
    "id a number": (turns("{id: 1, text: x}"), r"turn 1: id: 1 is not allowed; write a text"),
    "same key twice": (
        turns("{text: x, fault: {status: 429}, fault: {hang_s: 1}}"),
        r"line 2: the key 'fault' is written twice",
    ),
    "two faults": (
        turns("{text: x, fault: {status: 429, drop: connect}}"),
        r"turn 1: fault: status and drop are given; write exactly one of status, drop, hang_s, .*",
    ),
    "no fault": (
        turns("{text: x, fault: {times: 2}}"),
        r"turn 1: fault: none is given; write exactly one of .*",
    ),
    "fault null": (turns("{text: x, fault: }"), r"turn 1: fault: missing; write a mapping .*"),
    "fault a list": (turns("{text: x, fault: [1]}"), r"turn 1: fault: \[1\] is not allowed; .*"),
    "status of success": (
        turns("{text: x, fault: {status: 200}}"),
        r"turn 1: fault.status: 200 is not allowed; write an HTTP status from 400 to 599",
    ),
    "drop anywhere": (
        turns("{text: x, fault: {drop: sometimes}}"),
        r"turn 1: fault.drop: 'sometimes' is not allowed; write connect or midstream",
    ),
    "other stream error": (
        turns("{text: x, fault: {stream_error: oops}}"),
        r"turn 1: fault.stream_error: 'oops' is not allowed; write overloaded_error or api_error",
    ),
    "malformed true": (
        turns("{text: x, fault: {malformed: true}}"),
        r"turn 1: fault.malformed: True is not allowed; write event or body",
    ),
    "no times": (
        turns("{text: x, fault: {status: 500, times: 0}}"),
        r"turn 1: fault.times: 0 is not allowed; write a whole number from 1, or forever",
    ),
    "times often": (
        turns("{text: x, fault: {status: 500, times: often}}"),
        r"turn 1: fault.times: 'often' is not allowed; .*",
    ),
    "retry-after of a drop": (
        turns("{text: x, fault: {drop: connect, retry_after_s: 1}}"),
        r"turn 1: fault.retry_after_s: only a fault with a status carries it",
    ),
    "retry-after in half seconds": (
        turns("{text: x, fault: {status: 429, retry_after_s: 0.5}}"),
        r"turn 1: fault.retry_after_s: 0.5 is not allowed; write a whole number from 0",
    ),
    "no end": (
        turns("{text: x}", f"{{id: b, {TOOL}}}").replace("{text: x}", f"{{{TOOL}}}"),
        r"turn 2 \(b\): the last turn has tools, and nothing answers their results; .*",
    ),
    "no end when no branch holds": (
        turns(
            f"{{id: a, {TOOL}, next: [{{goto: b}}]}}",
            "{id: c, text: Done.}",
            f"{{id: b, {TOOL}, next: [{{if: {{is_error: true}}, goto: c}}]}}",
        ),
        r"turn 3 \(b\): the last turn has tools, .*",
    ),
    "loop without an end": (
        turns(
            f"{{id: a, {TOOL}, next: [{{if: {{is_error: true}}, goto: b}}, {{goto: b}}]}}",
            f"{{id: b, {TOOL}, next: [{{goto: a}}]}}",
        ),
        r"turn 1 \(a\): from here the conversation never ends, whatever the tools say; .*",
    ),
    "turn that nothing leads to": (
        turns(f"{{{TOOL}}}", END, "{id: lost, text: x}"),
        r"turn 3 \(lost\): no turn leads here; remove it or goto it",
    ),
    "alias of itself": (
        "turns:\n  - tools: [{Bash: &a {command: *a}}]\n  - text: x\n",
        r"nested too deeply, or an alias that holds itself",
    ),
    "sub-agents a list": (
        turns(END) + "subagents: [x]\n",
        r"subagents: \['x'\] is not allowed; write a mapping of names",
    ),
    "sub-agent without a marker": (
        turns(END) + "subagents: {explore: {turns: [{text: x}]}}\n",
        r"subagent explore: marker: missing; write a text that the sub-agent's prompt holds",
    ),
    "sub-agent without turns": (
        turns(END) + "subagents: {explore: {marker: m}}\n",
        r"subagent explore, turns: missing; write a list of one turn or more",
    ),
    "sub-agent's turn": (
        turns(END) + "subagents: {explore: {marker: m, turns: [{id: z, txt: x}]}}\n",
        r"subagent explore, turn 1 \(z\): unknown key 'txt'; .*",
    ),
    "sub-agent's name": (
        turns(END) + "subagents: {a b: {marker: m, turns: [{text: x}]}}\n",
        r"subagents: 'a b' is not allowed; write names of letters, .*",
    ),
    "markers alike": (
        turns(END)
        + "subagents: {a: {marker: m, turns: [{text: x}]}, b: {marker: mm, turns: [{text: x}]}}\n",
        r"subagent b: marker: 'mm' cannot be told from 'm' of a; no marker may hold another",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_scenarios_are_refused_with_a_line(tmp_path, name):
    text, expected = BROKEN[name]
    found = problems(tmp_path, text)
    assert any(re.fullmatch(expected, problem) for problem in found), found
    # What is said beside it must follow from it, not hide it.
    assert len(found) <= 2, found


def test_all_problems_come_at_once(tmp_path):
    found = problems(
        tmp_path,
        "defaults: {pace: 1}\n"
        + turns("{text: 4}", f"{{{TOOL}, latency_s: x}}", "{text: x, fault: {status: 1}}"),
    )
    assert len(found) == 4
    assert [p.split(":")[0] for p in found] == ["defaults", "turn 1", "turn 2", "turn 3"]


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: there is no such file"):
        scenario.load(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        scenario.load(tmp_path)


def test_a_good_scenario_says_what_it_says(tmp_path):
    loaded = load(tmp_path, GOOD)
    look, build, smaller, done = loaded.main.turns
    assert loaded.description == "Look, build, and react to a killed build."
    assert [(t.name, t.input) for t in look.tools] == [
        ("Bash", {"command": "ls -la", "description": "List files"}),
        ("Read", {"file_path": "/testbed/x.py"}),
    ]
    assert (look.text, look.thinking) == ("I will look first.", "What is there?")
    assert look.usage == {"input_tokens": 100, "output_tokens": 20}
    assert look.pace == scenario.Pace(0.5, 50, 0.01)
    assert build.pace == scenario.Pace(0.3, 50, 0.01)
    assert build.fault == scenario.Fault("status", 429, 2, 1)
    assert [t.id for t in (look, build, smaller, done)] == [None, "build", "smaller", "done"]
    assert [t.number for t in loaded.main.turns] == [1, 2, 3, 4]
    (explore,) = loaded.subagents
    assert (explore.name, explore.marker) == ("explore", "[[explore]]")
    assert explore.turns[0].pace.latency_s == 0.3


def test_without_defaults_nothing_waits(tmp_path):
    assert load(tmp_path, turns(END)).main.turns[0].pace == scenario.Pace(0.0, 200, 0.0)


def test_an_empty_answer_and_a_turn_that_is_never_answered_are_allowed(tmp_path):
    assert load(tmp_path, turns('{text: ""}')).main.turns[0].text == ""
    assert load(tmp_path, turns("{fault: {hang_s: 5, times: forever}}")).main.turns[0].fault


KILLED = ToolResult("Exit code 137\nKilled", True)
FINE = ToolResult("all fine", False)
MENTIONED = ToolResult("the word Killed in a log", False)


@pytest.mark.parametrize(
    ("condition", "results", "taken"),
    [
        ("result_matches: Killed", [KILLED], True),
        ("result_matches: Killed", [FINE], False),
        ("result_matches: Killed", [FINE, KILLED], True),
        ("result_matches: '^Exit code (137|9)'", [KILLED], True),
        ("result_matches: '^Killed'", [KILLED], False),
        ("is_error: true", [KILLED], True),
        ("is_error: true", [FINE], False),
        ("is_error: false", [FINE], True),
        ("is_error: false", [KILLED], False),
        ("result_matches: Killed, is_error: true", [MENTIONED], False),
        # Both must hold for one and the same result.
        ("result_matches: fine, is_error: true", [FINE, KILLED], False),
        ("result_matches: Killed, is_error: true", [FINE, KILLED], True),
        ("is_error: true", [], False),
    ],
)
def test_branch(tmp_path, condition, results, taken):
    loaded = load(
        tmp_path,
        turns(
            f"{{{TOOL}, next: [{{if: {{{condition}}}, goto: other}}]}}",
            "{text: went on}",
            "{id: other, text: branched}",
        ),
    )
    first = loaded.main.turns[0]
    assert loaded.main.turns[first.next_index(results)].text == ("branched" if taken else "went on")


def test_the_first_branch_that_holds_wins(tmp_path):
    loaded = load(tmp_path, GOOD)
    build = loaded.main.turns[1]
    assert build.next_index([KILLED]) == 2
    assert build.next_index([FINE]) == 3
    assert loaded.main.turns[2].next_index([FINE]) == 3


def test_a_loop_with_a_way_out_is_allowed(tmp_path):
    loaded = load(
        tmp_path,
        turns(
            f"{{id: a, {TOOL}, next: [{{if: {{result_matches: ready}}, goto: b}}, {{goto: a}}]}}",
            "{id: b, text: Done.}",
        ),
    )
    assert loaded.main.turns[0].next_index([FINE]) == 0


def test_faults_hit_as_often_as_they_say():
    assert [scenario.Fault("status", 500, 2).hits(n) for n in range(3)] == [True, True, False]
    assert all(scenario.Fault("status", 500, None).hits(n) for n in (0, 5, 1000))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("Finished.", "Finished!"),
        ("ls -la", "ls"),
        ("latency_s: 0.5", "latency_s: 0.6"),
        ("chunk_chars: 50", "chunk_chars: 51"),
        ("times: 2", "times: 3"),
        ("Exit code 137|Killed", "Killed"),
        ("is_error: true", "is_error: false"),
        ("goto: smaller", "goto: done"),
        ("output_tokens: 20", "output_tokens: 21"),
        ("[[explore]]", "[[look]]"),
        ("Nothing to see.", "Something."),
    ],
)
def test_the_hash_follows_what_the_model_does(tmp_path, old, new):
    assert old in GOOD
    text = GOOD.replace(old, new)
    if new == "goto: done":
        text = text.replace("id: smaller", "id: rest").replace("- goto: done", "- goto: rest")
    assert load(tmp_path, text).sha256 != load(tmp_path, GOOD).sha256


def test_the_hash_ignores_comments_layout_description_and_place(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    text = GOOD.replace("Look, build", "# not a comment, but a description").replace(
        "text: Finished.", "text:   Finished.   # at last"
    )
    assert load(tmp_path / "elsewhere", text).sha256 == load(tmp_path, GOOD).sha256
    spelt_out = GOOD.replace("text: Finished.", "text: Finished.\n    latency_s: 0.3")
    assert load(tmp_path, spelt_out).sha256 == load(tmp_path, GOOD).sha256


@pytest.mark.parametrize("path", sorted(ROOT.glob("config/scenarios/*.yaml")), ids=lambda p: p.name)
def test_the_scenarios_of_this_repository_are_valid(path):
    assert scenario.load(path).main.turns


def test_the_example_in_the_documentation_is_valid(tmp_path):
    text = (ROOT / "docs" / "scenarios.md").read_text(encoding="utf-8")
    examples = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    assert any("subagents:" in example for example in examples)
    for example in examples:
        if example.startswith(("description:", "turns:")):
            assert load(tmp_path, example).main.turns
