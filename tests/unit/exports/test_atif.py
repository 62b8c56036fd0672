"""Trajectories in ATIF against Harbor's published model, and against what our own tables say.

The model's files come from Harbor's wheel by hash (`tools/fetch_atif_model.py`, which `make test`
calls); the recorded sessions are those of `test_trace_examples`.
"""

import importlib
import json
import re
import shutil
import sys
from collections import Counter
from pathlib import Path

import export_maker
import pyarrow.parquet as pq
import pytest
import run_maker
from recorded_sessions import EXAMPLES, REPOSITORY, main_files, needs_examples, parameters
from session_maker import Session, small_session

from agentsweep.agents.claude_code import trace
from agentsweep.agents.claude_code.records import format_time
from agentsweep.cli import main
from agentsweep.exports import atif_files
from agentsweep.extraction import extract

MODEL = REPOSITORY / "build" / "atif-model"


@pytest.fixture(scope="session")
def model():
    """Harbor's `Trajectory`, without the rest of Harbor."""
    assert (MODEL / "harbor").is_dir(), (
        f"Harbor's model of ATIF is not in {MODEL}: run `python tools/fetch_atif_model.py`"
    )
    sys.path.insert(0, str(MODEL))
    try:
        return importlib.import_module("harbor.models.trajectories").Trajectory
    finally:
        sys.path.remove(str(MODEL))


@pytest.fixture
def sweep(tmp_path, monkeypatch):
    return export_maker.sweep_in(tmp_path / "sweep", monkeypatch)


@pytest.fixture
def exported(sweep, model):
    """Seals a run and exports it: its JSON, held against the model; and its directory."""

    def export(**given) -> tuple[dict, Path]:
        loaded = export_maker.load(sweep)
        folder = export_maker.seal(loaded, **given)
        atif_files.export(loaded, sweep / "out", lambda line: None)
        made = json.loads((sweep / "out" / f"{export_maker.CELL}.json").read_text(encoding="utf-8"))
        held = model.model_validate(made)
        assert held.model_dump(mode="json", exclude_unset=True) == made
        check_references(made)
        return made, folder

    return export


def all_of(trajectory: dict) -> list[dict]:
    """A trajectory and those inside it."""
    below = trajectory.get("subagent_trajectories", [])
    return [trajectory, *(inner for outer in below for inner in all_of(outer))]


def steps_of(trajectory: dict) -> list[dict]:
    return [step for part in all_of(trajectory) for step in part["steps"]]


def results_of(step: dict) -> list[dict]:
    return step.get("observation", {}).get("results", [])


def check_references(made: dict) -> None:
    """Each reference resolves where it stands, and each call of a session's is there once."""
    for part in all_of(made):
        inside = [inner["trajectory_id"] for inner in part.get("subagent_trajectories", [])]
        for step in part["steps"]:
            for result in results_of(step):
                for reference in result.get("subagent_trajectory_ref", []):
                    assert reference["trajectory_id"] in inside
    identities = [part["trajectory_id"] for part in all_of(made)]
    assert len(set(identities)) == len(identities)


def table(folder: Path, name: str, tmp_path: Path) -> list[dict]:
    if not (tmp_path / "tables").exists():
        extract.extract(folder, export_maker.CELL, tmp_path / "tables")
    return pq.read_table(tmp_path / "tables" / f"{name}.parquet").to_pylist()


def raw_records(main: Path) -> list[dict]:
    """The records of a recorded session, each once, read without any code of ours."""
    paths = [main, *sorted(main.parent.glob(f"{main.stem}/subagents/*.jsonl"))]
    paths += sorted(main.parent.glob("agent-*.jsonl"))
    records = [
        json.loads(line) for path in paths for line in path.read_text(encoding="utf-8").splitlines()
    ]
    return list({r.get("uuid", f"none {i}"): r for i, r in enumerate(records)}.values())


def raw_blocks(main: Path, role: str, kind: str) -> list[dict]:
    """The blocks of a type. One that an API message has in several records counts once. The
    endpoint of the recordings gave all warm-up agents the same message id: their requests differ.
    """
    found, seen = [], set()
    for record in raw_records(main):
        content = record.get("message", {}).get("content") if record["type"] == role else None
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        for block in content or []:
            identity = record["message"].get("id", record["uuid"]), record.get("requestId")
            key = (identity, json.dumps(block))
            if block["type"] == kind and key not in seen:
                seen.add(key)
                found.append(block)
    return found


def raw_text(content: object) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(block["text"] for block in content if block["type"] == "text")


# Recorded sessions of the real CLI


@needs_examples
def test_the_recorded_sessions_are_checked():
    names = {path.parent.name.partition("_")[2] for path in EXAMPLES.glob("*/*.jsonl")}
    wanted = {"subagents_foreground", "subagent_background", "parallel_tools", "sigkill"}
    assert names >= wanted | {"podman_oom_512m", "api_error_fatal", "subagent"}


@needs_examples
@pytest.mark.parametrize("path", parameters())
def test_calls_results_and_texts_are_those_of_the_session(exported, path):
    """Against the file itself: every call, result, text and thought, and nothing else."""
    made, _ = exported(session=path)
    steps = steps_of(made)
    calls = {c["tool_call_id"]: c for step in steps for c in step.get("tool_calls", [])}
    assert calls.keys() == {block["id"] for block in raw_blocks(path, "assistant", "tool_use")}
    for block in raw_blocks(path, "assistant", "tool_use"):
        call = calls[block["id"]]
        assert (call["function_name"], call["arguments"]) == (block["name"], block["input"])
    results = {r["source_call_id"]: r for step in steps for r in results_of(step)}
    wanted = {b["tool_use_id"]: b for b in raw_blocks(path, "user", "tool_result")}
    assert {i for i, r in results.items() if "content" in r} == wanted.keys()
    for identity, block in wanted.items():
        assert results[identity]["content"] == raw_text(block["content"])
        assert results[identity]["extra"]["is_error"] is bool(block.get("is_error"))
    said = Counter(s["message"] for s in steps if s["source"] == "agent" and s["message"])
    assert said == Counter(block["text"] for block in raw_blocks(path, "assistant", "text"))
    heard = Counter(step["message"] for step in steps if step["source"] != "agent")
    assert heard == Counter(block["text"] for block in raw_blocks(path, "user", "text"))
    thought = [s["reasoning_content"] for s in steps if "reasoning_content" in s]
    blocks = raw_blocks(path, "assistant", "thinking")
    assert Counter(thought) == Counter(b["thinking"] for b in blocks if b["thinking"])


@pytest.mark.slow
@needs_examples
@pytest.mark.parametrize("path", parameters())
def test_steps_are_the_rows_of_our_tables(exported, path, tmp_path):
    made, folder = exported(session=path)
    by_agent = {row["agent_id"] for row in table(folder, "messages", tmp_path)}
    parts = {part["trajectory_id"]: part for part in all_of(made)}
    root = made["trajectory_id"]
    assert parts.keys() == {agent or root for agent in by_agent} | {root}
    rows = table(folder, "tool_calls", tmp_path)
    for agent_id, part in parts.items():
        own = [row for row in rows if (row["agent_id"] or root) == agent_id]
        calls = [(c, s) for s in part["steps"] for c in s.get("tool_calls", [])]
        assert Counter(c["tool_call_id"] for c, _ in calls) == Counter(
            row["tool_call_id"] for row in own
        )
        for call, step in calls:
            (row,) = (row for row in own if row["tool_call_id"] == call["tool_call_id"])
            assert step["extra"]["message_id"] == row["message_id"]
            assert call["function_name"] == row["name"]
            assert call["arguments"].get("command") == row["command"] or row["command"] is None
            for name in ("category", "time_source", "duration_s", "end_utc_ns"):
                assert call["extra"].get(name) == row[name]
            result = [r for r in results_of(step) if r["source_call_id"] == call["tool_call_id"]]
            assert len(result) <= 1
            assert row["finished"] is any("content" in r for r in result)
            if row["finished"]:
                assert len(result[0]["content"]) == row["result_chars"]
                assert result[0]["extra"].get("exit_code") == row["exit_code"]
    messages = [row for row in table(folder, "messages", tmp_path) if row["kind"] != "tool_result"]
    steps = {step["extra"]["message_id"]: step for step in steps_of(made)}
    assert steps.keys() == {row["message_id"] for row in messages}
    for row in messages:
        step = steps[row["message_id"]]
        assert step.get("timestamp") == format_time(row["first_utc_ns"])
        assert step["extra"]["kind"] == row["kind"]
        by_user = "user" if row["kind"] in ("prompt", "interrupt") else "system"
        assert step["source"] == ("agent" if row["role"] == "assistant" else by_user)
        if "metrics" in step:
            assert step["metrics"]["completion_tokens"] == row["output_tokens"]
            assert step["metrics"]["cached_tokens"] == row["cache_read_input_tokens"]
            assert step["model_name"] == row["model"]


@needs_examples
@pytest.mark.parametrize("path", parameters())
def test_tokens_add_up_to_the_runs(exported, path, tmp_path):
    made, folder = exported(session=path)
    (row,) = table(folder, "runs", tmp_path)
    for part in all_of(made):
        metrics = [step["metrics"] for step in part["steps"] if "metrics" in step]
        final = part["final_metrics"]
        for total, each in (("prompt", "prompt"), ("completion", "completion"), ("cached",) * 2):
            summed = sum(metric[f"{each}_tokens"] for metric in metrics)
            assert final[f"total_{total}_tokens"] == summed
        assert final["total_steps"] == len(part["steps"])
    finals = [part["final_metrics"] for part in all_of(made)]
    assert sum(f["total_completion_tokens"] for f in finals) == (row["output_tokens"] or 0)
    assert sum(f["total_cached_tokens"] for f in finals) == (row["cache_read_input_tokens"] or 0)
    whole = ("input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens")
    prompt = sum(row[name] or 0 for name in whole)
    assert sum(f["total_prompt_tokens"] for f in finals) == prompt
    said = made["final_metrics"]["extra"]["run"]
    assert said == {name: row[name] for name in said}


@needs_examples
def test_a_killed_session_ends_in_a_call_without_a_result(exported):
    """SIGKILL: the last complete record stands, and there is no result event."""
    (path,) = (p for p in main_files() if p.parent.name.endswith("_sigkill"))
    oom = {"kill_count": 1, "tool_count": 0, "agent_victim": True, "container_victim": False}
    made, _ = exported(session=path, outcome="oom_agent", exit_code=137, oom=oom,
                       stream={"result": None})  # fmt: skip
    last = made["steps"][-1]
    assert len(last["tool_calls"]) == 1 and "observation" not in last
    extra = made["extra"]
    assert (extra["outcome"], extra["exit_code"]) == ("oom_agent", 137)
    assert (extra["oom_kill_count"], extra["agent_oom_victim"]) == (1, True)
    assert extra["mem_peak_bytes"] == 400 * run_maker.MIB
    assert extra["mem_limit_bytes"] == extra["mem_effective_bytes"] == 512 * run_maker.MIB
    assert re.fullmatch("[0-9a-f]{64}", extra["spec_sha256"])


@needs_examples
def test_a_tool_that_the_kernel_killed_shows_in_its_result(exported):
    (path,) = (p for p in main_files() if p.parent.name.endswith("_podman_oom_512m"))
    made, _ = exported(session=path)
    killed = [r for s in made["steps"] for r in results_of(s) if r["extra"]["exit_code"] == 137]
    assert len(killed) == 1
    assert killed[0]["extra"]["killed"] is killed[0]["extra"]["is_error"] is True
    assert "Killed" in killed[0]["content"]


@needs_examples
@pytest.mark.parametrize(
    "name",
    [
        *("2.0.0_subagent", "2.0.77_subagent", "2.1.16_subagent"),
        *("2.1.330_subagents_foreground", "2.1.330_subagent_background"),
    ],
)
def test_subagents_are_referred_to_by_the_calls_that_started_them(exported, name):
    (path,) = (p for p in main_files() if p.parent.name == name)
    made, _ = exported(session=path)
    inside = {part["trajectory_id"]: part for part in made["subagent_trajectories"]}
    referred = {}
    for step in made["steps"]:
        names = {c["tool_call_id"]: c for c in step.get("tool_calls", [])}
        for result in results_of(step):
            for reference in result.get("subagent_trajectory_ref", []):
                referred[reference["trajectory_id"]] = names[result["source_call_id"]]
    real = {i for i, part in inside.items() if not part["extra"]["warmup"]}
    assert referred.keys() == real and real
    assert len(real) == (2 if name.endswith("foreground") else 1)
    for identity, call in referred.items():
        assert call["function_name"] in ("Agent", "Task")
        assert call["arguments"]["prompt"] == inside[identity]["steps"][0]["message"]
    warmups = {a.agent_id for a in trace.parse_file(path).agents if a.warmup}
    assert warmups == inside.keys() - real
    assert len(warmups) == (3 if name.startswith("2.0.77") else 0)


# Made sessions


def test_what_the_run_measured_is_in_the_trajectory(exported):
    made, _ = exported()
    bash = next(c for s in made["steps"] for c in s.get("tool_calls", ())
                if c["tool_call_id"] == "b2")  # fmt: skip
    assert bash["extra"]["mem_peak_bytes"] == 300 * run_maker.MIB
    assert bash["extra"]["mem_peak_source"] == "watermark"
    assert bash["extra"]["oom_kill_count"] == 1
    assert bash["extra"]["time_source"] == "exact"
    assert made["agent"]["name"] == "claude-code"
    assert made["agent"]["version"] == "2.1.330"
    assert made["agent"]["model_name"] == "claude-haiku-4-5-20251001"
    assert made["extra"]["outcome"] == "completed"
    assert made["extra"]["run_id"] == export_maker.CELL


def test_a_scripted_run_cost_no_money_and_a_live_one_what_the_agent_said(exported):
    scripted, folder = exported()
    shutil.rmtree(folder.parent)
    live, _ = exported(spec={"agent": {"model_id": "m"}, "model": {"mode": "live"}, "replicate": 0})
    assert scripted["final_metrics"]["total_cost_usd"] == 0
    assert live["final_metrics"]["total_cost_usd"] == 0.5
    for made in (scripted, live):
        assert made["final_metrics"]["extra"]["cost_usd_said_by_agent"] == 0.5


def test_a_message_in_two_records_is_one_step_with_its_last_usage(exported, tmp_path):
    session = small_session()
    again = json.loads(session.lines()[2])
    again["uuid"] = "another"
    again["message"]["usage"]["output_tokens"] = 77
    again["message"]["content"] = [{"type": "text", "text": "And on."}]
    session.records.insert(4, again)
    session.records.append(dict(session.records[3]))  # a repeated uuid
    session.result("t1", "twice", 7)
    session.result("nobody's", "an orphan", 7)
    main = tmp_path / f"{session.session}.jsonl"
    main.write_bytes(session.data())
    made, _ = exported(session=main)
    agent = [step for step in made["steps"] if step["source"] == "agent"]
    assert [step["extra"]["message_id"] for step in agent] == ["m1", "m2", "m3"]
    assert agent[0]["metrics"]["completion_tokens"] == 77
    assert agent[0]["metrics"]["prompt_tokens"] == 124
    assert agent[0]["message"] == "I look.\nAnd on."
    assert [r["content"] for s in agent for r in results_of(s)] == ["a\nb", "1\ta"]


def test_a_call_that_a_forked_subagent_repeats_stands_in_both(exported, tmp_path):
    """The message is one, and its tokens count once; the calls have a row for each sub-agent."""
    session = small_session()
    folder = tmp_path / "session" / session.session / "subagents"
    folder.mkdir(parents=True)
    for name in ("sub1", "sub2"):
        inner = Session(agent=name, prefix=name)
        inner.user("Look", 7)
        inner.bash("s1", "sb1", "true", 8, output=5)
        inner.result("sb1", "", 9)
        inner.text(f"own {name}", "found", 10)
        (folder / f"agent-{name}.jsonl").write_bytes(inner.data())
    main = folder.parents[1] / f"{session.session}.jsonl"
    main.write_bytes(session.data())
    made, run = exported(session=main)
    rows = [r for r in table(run, "tool_calls", tmp_path) if r["tool_call_id"] == "sb1"]
    assert {row["agent_id"] for row in rows} == {"sub1", "sub2"}
    first, second = made["subagent_trajectories"]
    assert [step["message"] for step in second["steps"]] == ["Look", "", "found"]
    copied = second["steps"][1]
    assert copied["is_copied_context"] is True and "metrics" not in copied
    assert copied["tool_calls"][0]["arguments"] == {"command": "true"}
    assert "is_copied_context" not in first["steps"][1]
    assert first["steps"][1]["metrics"]["completion_tokens"] == 5


def test_a_subagent_of_a_killed_run_is_referred_to_by_a_result_without_content(exported, tmp_path):
    session = small_session()
    session.tool("m4", "a1", "Agent", {"prompt": "Look"}, 7)
    inner = Session(agent="sub1", prefix="sub")
    inner.user("Look", 8)
    inner.tool("s1", "a2", "Agent", {"prompt": "Deeper"}, 9)
    deepest = Session(agent="sub2", prefix="deep")
    deepest.user("Deeper", 10)
    main = tmp_path / "session" / f"{session.session}.jsonl"
    (main.parent / session.session / "subagents").mkdir(parents=True)
    main.write_bytes(session.data())
    for agent in (inner, deepest):
        path = main.parent / session.session / "subagents" / f"agent-{agent.agent}.jsonl"
        path.write_bytes(agent.data())
    made, _ = exported(session=main)
    (result,) = results_of(made["steps"][-1])
    assert "content" not in result and result["extra"]["finished"] is False
    (sub,) = made["subagent_trajectories"]
    assert result["subagent_trajectory_ref"][0]["trajectory_id"] == "sub1" == sub["trajectory_id"]
    (deep,) = sub["subagent_trajectories"]
    assert deep["trajectory_id"] == "sub2"
    assert deep["steps"][0]["message"] == "Deeper"


def test_a_run_that_left_no_session_is_a_trajectory_that_says_so(exported, sweep):
    loaded = export_maker.load(sweep)
    folder = export_maker.seal(loaded, outcome="oom_container", stream={"result": None})
    # As earlier versions could seal it, without a seal of hashes.
    for name in ("seal.json", "trace.jsonl", "session.tar", "marks.jsonl", "api.jsonl"):
        (folder / name).unlink()
    said = []
    atif_files.export(loaded, sweep / "out", said.append)
    made = json.loads((sweep / "out" / f"{export_maker.CELL}.json").read_text(encoding="utf-8"))
    assert [step["source"] for step in made["steps"]] == ["system"]
    assert made["extra"]["outcome"] == "oom_container"
    assert made["extra"]["trace_status"] == "missing"
    assert any("session.tar" in line for line in said)


def test_what_json_or_utf8_cannot_hold_does_no_harm(exported, tmp_path):
    session = small_session()
    deep: object = "x"
    for _ in range(600):
        deep = [deep]
    session.tool("m5", "n1", "Odd", {"half": "\ud83d", "nan": float("nan"), "null": None}, 8)
    session.tool("m5", "n2", "Deep", {"deep": deep}, 8.1)
    session.text("m6", "half \ud83d and NUL \0", 9)
    main = tmp_path / f"{session.session}.jsonl"
    # Escaped, as the CLI writes halves of emojis.
    main.write_text(
        "".join(f"{json.dumps(record)}\n" for record in session.records), encoding="utf-8"
    )
    made, _ = exported(session=main)
    odd, nested = made["steps"][-2]["tool_calls"]
    assert odd["arguments"] == {"half": "?", "nan": "nan", "null": None}
    assert nested["extra"]["arguments_left_out"] == "nested too deeply"
    assert made["steps"][-1]["message"] == "half ? and NUL \0"


def test_the_command_writes_a_file_for_each_run_and_the_same_bytes_again(sweep, capsys):
    loaded = export_maker.load(sweep)
    export_maker.seal(loaded)
    arguments = ["export", "atif", "--config", "config.yaml", "--output"]
    assert [main.main([*arguments, name]) for name in ("a", "b")] == [0, 0]
    said = capsys.readouterr()
    assert said.err == ""
    assert "a: 1 trajectories" in said.out
    assert "no finished run: 7 of 8 cells" in said.out
    files = [[p for p in sorted(Path(n).rglob("*")) if p.is_file()] for n in ("a", "b")]
    assert [str(p.relative_to("a")) for p in files[0]] == [f"{export_maker.CELL}.json"]
    assert files[0][0].read_bytes() == files[1][0].read_bytes()
