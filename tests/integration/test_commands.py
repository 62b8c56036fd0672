"""The commands as a person calls them, on the real host with the real agent."""

import json
import os
import shutil

import engine_in_use
import pytest

from agentsweep.config.load import load as load_config
from conftest import DONE, agentsweep, bash

CELL = "task~task/agent~claude/mem~512MiB_cpus~1_rep~0"
SCENARIO = {"turns": [bash("echo hello"), DONE]}


def checks(*arguments) -> dict[str, dict]:
    done = agentsweep("doctor", "--json", *arguments, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    found = json.loads(done.stdout)
    assert done.returncode == any(check["state"] == "fail" for check in found)
    return {check["name"]: check for check in found}


def fixed_image_where_it_is_looked_for(lab, config) -> str:
    """Put the record where `run` looks by itself, and its image under the name that it expects."""
    image = load_config([config]).image_of("task")
    folder = lab.folder / "results" / "images" / image.directory
    folder.mkdir(parents=True)
    record = json.loads(lab.images.record.read_text(encoding="utf-8")) | {"tag": image.tag}
    (folder / "image.json").write_text(json.dumps(record), encoding="utf-8")
    engine_in_use.ask("tag", lab.images.tag, image.tag)
    return image.tag


def test_the_doctor_finds_nothing_wrong_on_this_host(lab):
    config = lab.config(SCENARIO)
    tag = fixed_image_where_it_is_looked_for(lab, config)
    try:
        found = checks("--config", config)
    finally:
        engine_in_use.ask("rmi", tag)
    wrong = {name: check for name, check in found.items() if check["state"] == "fail"}
    assert not wrong
    # Seen to act on a real container, not read from a setting.
    assert "was killed" in found["memory limit"]["detail"]
    assert "throttled" in found["cpu limit"]["detail"]
    assert "the agent starts in it" in found["image task"]["detail"]
    assert "doctor" not in engine_in_use.ask("ps", "--all", "--format", "{{.Names}}")


def test_the_doctor_sees_that_an_agent_finds_no_library_in_the_image(lab):
    """Stand-in: a script that says what the loader says, because the demo's image has a glibc."""
    config = lab.config(SCENARIO)
    tag = fixed_image_where_it_is_looked_for(lab, config)
    binary = lab.folder / "agents" / "claude-2.1.330" / "claude"
    binary.parent.mkdir(parents=True)
    binary.write_text(
        "#!/bin/sh\necho 'libc.so.6: version GLIBC_2.26 not found' >&2\nexit 1\n", encoding="utf-8"
    )
    binary.chmod(0o755)
    broken = lab.folder / "broken.yaml"
    broken.write_text(f"paths: {{agents: {binary.parent.parent}}}\n", encoding="utf-8")
    try:
        found = checks("--config", config, "--config", broken)
    finally:
        engine_in_use.ask("rmi", tag)
    assert "not the locked agent binary" in found["agent claude"]["detail"]
    assert found["image task"]["state"] == "fail"
    assert "a library of the agent is missing" in found["image task"]["detail"]
    assert "glibc" in found["image task"]["cure"]


@pytest.mark.parametrize("umask", [0o027, 0o077], ids=oct)
def test_a_hardened_umask_changes_nothing(lab, umask):
    before = os.umask(umask)
    try:
        config = lab.config(SCENARIO)
        tag = fixed_image_where_it_is_looked_for(lab, config)
        try:
            assert "the agent starts in it" in checks("--config", config)["image task"]["detail"]
            done = agentsweep("run", CELL, "--config", config)
        finally:
            engine_in_use.ask("rmi", tag)
    finally:
        os.umask(before)
    assert f"{CELL}: completed" in done.stdout
    marks = lab.folder / "results" / "runs" / CELL / "marks.jsonl"
    assert "echo hello" in marks.read_text(encoding="utf-8")


def test_a_run_by_hand_needs_no_more_than_the_cell(lab):
    config = lab.config(SCENARIO)
    tag = fixed_image_where_it_is_looked_for(lab, config)
    try:
        first = agentsweep("run", CELL, "--config", config)
    finally:
        engine_in_use.ask("rmi", tag)
    out = lab.folder / "results" / "runs" / CELL
    assert f"{CELL}: completed" in first.stdout and f"its files are in {out}" in first.stdout
    assert "\r" not in first.stdout and "\033" not in first.stdout

    assert agentsweep("plan", "--config", config).stdout.startswith(f"{CELL}  sealed\n")
    shutil.rmtree(lab.folder / "results")
    # The image's record is gone too: what is sealed needs nothing.
    assert "no new run" in agentsweep("run", CELL, "--config", config).stdout

    store = ("store", "--store", lab.store)
    head, line = agentsweep(*store, "list").stdout.splitlines()
    row = dict(zip(head.split("\t"), line.split("\t"), strict=True))
    assert (row["outcome"], row["memory"], row["cpus"]) == ("completed", "512MiB", "1")
    shown = agentsweep(*store, "show", row["attempt"]).stdout
    assert "completed" in shown and "512.0 MiB of memory" in shown and len(shown) < 3000
    whole = json.loads(agentsweep(*store, "show", row["attempt"], "--json").stdout)
    assert whole == json.loads((out / "result.json").read_text(encoding="utf-8"))

    summary = json.loads(agentsweep("trace", out / "trace.jsonl").stdout)
    assert summary["lines"]["unusable"] == 0
    tables = lab.folder / "tables"
    said = agentsweep("extract", out, "--run-id", CELL, "--out", tables).stdout
    assert "1 tool_calls" in said and (tables / "runs.parquet").is_file()

    refused = agentsweep(*store, "remove", row["attempt"], check=False)
    assert refused.returncode == 1 and "--yes" in refused.stderr
    agentsweep(*store, "remove", "--yes", row["attempt"])
    assert not list(lab.store.glob("*/attempt-*"))
