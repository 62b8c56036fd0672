"""The configuration: what is refused and how that is said, and what cells and specs come out."""

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import small_sweep
import yaml
from session_maker import small_session
from small_sweep import AGENTS_LOCK, CONFIG, DIGEST, IMAGES_LOCK, REFERENCE, TASK

from agentsweep import schema
from agentsweep.agents.claude_code.invocation import AgentSettings
from agentsweep.config import layers
from agentsweep.config.cells import Cell
from agentsweep.config.config import Import
from agentsweep.config.load import load as load_config
from agentsweep.config.models import Configuration
from agentsweep.containers import image_lock
from agentsweep.errors import ConfigError
from agentsweep.extraction import recorded_runs
from agentsweep.hashes import text_sha256
from agentsweep.host.capacity import Machine
from agentsweep.runs import spec
from agentsweep.runs.job import Job
from agentsweep.tasks import task_file
from agentsweep.tasks.models import TaskFile, TaskSetFile
from agentsweep.units import parse_size

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A directory with a small valid configuration, as the current one."""
    small_sweep.write(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def load(*files, **overrides):
    return load_config([Path(f) for f in files or ("config.yaml",)], overrides)


def replace(name: str, old: str, new: str) -> None:
    text = Path(name).read_text(encoding="utf-8")
    assert old in text, f"{old!r} is not in {name}"
    Path(name).write_text(text.replace(old, new), encoding="utf-8")


# (file, old text, new text, the one line that says what is wrong)
BROKEN = [
    ("config.yaml", "dataset: test", "dataset: [", r"config.yaml: line \d+: .*"),
    ("config.yaml", CONFIG, "", r"config.yaml: sweep: missing; .*"),
    ("config.yaml", CONFIG, "- a\n", r"config.yaml: \[\"a\"\] is not allowed here; write .*"),
    ("config.yaml", "dataset: test", "dataset: test\ndataset: other",
     r"config.yaml: line 2: the key 'dataset' is written twice"),
    ("config.yaml", "dataset: test", "datset: test",
     r"config.yaml: datset: unknown key; did you mean dataset\?"),
    ("config.yaml", "dataset: test", "dataset: my/set",
     r"config.yaml: dataset: 'my/set' is not allowed; write a text that matches .*"),
    ("config.yaml", "dataset: test", "partial: \"true\"",
     r"config.yaml: partial: 'true' is not allowed; write true or false \(after --config: .*"),
    ("config.yaml", "memory: [512MiB, 1GiB]", "memry: [512MiB]",
     r"config.yaml: sweep.memry: unknown key; did you mean memory\?"),
    ("config.yaml", "512MiB", "512",
     r"config.yaml: sweep.memory\[0\]: 512 is not allowed; write a size with a unit, such as .*"),
    ("config.yaml", "dataset: test", "grading: {memory: 4}",
     r"config.yaml: grading.memory: 4 is not allowed; write a size with a unit, such as 512MiB"),
    ("config.yaml", "dataset: test", "machine: {memory: 4096}",
     r"config.yaml: machine.memory: 4096 is not allowed; write a size with a unit, .*, or null"),
    ("config.yaml", "dataset: test", "measure: {mem_overhead: 256}",
     r"config.yaml: measure.mem_overhead: 256 is not allowed; write a size with a unit, .*"),
    ("config.yaml", "512MiB", '"512"',
     r"config.yaml: sweep.memory\[0\]: '512' is not a size; write a number and a unit, .*"),
    ("config.yaml", "512MiB", "512Mb",
     r"config.yaml: sweep.memory\[0\]: '512Mb' has the unknown unit 'Mb'; allowed are KiB, .*"),
    ("config.yaml", "512MiB", "8MiB",
     r"config.yaml: sweep.memory\[0\]: '8MiB' is less than 16MiB, .*"),
    ("config.yaml", "512MiB", "1024MiB",
     r"config.yaml: sweep.memory\[1\]: '1GiB' is the same as '1024MiB' before it; leave one out"),
    ("config.yaml", "memory: [512MiB, 1GiB]", "memory: []",
     r"config.yaml: sweep.memory: \[\] is not allowed; write a list or null that is not empty"),
    ("config.yaml", "  memory: [512MiB, 1GiB]\n", "",
     r"config.yaml: sweep.memory: missing; write a list, or name a table in sweep.cells"),
    ("config.yaml", "cpus: [0.5, 2]", "cpus: [0.5, two]",
     r"config.yaml: sweep.cpus\[1\]: 'two' is not a number of CPUs; write 0.5, 1 or 2"),
    ("config.yaml", "cpus: [0.5, 2]", "cpus: [0]",
     r"config.yaml: sweep.cpus\[0\]: 0 is not a number of CPUs between 0.01 and 4096"),
    ("config.yaml", "cpus: [0.5, 2]", "cpus: [0.125]",
     r"config.yaml: sweep.cpus\[0\]: 0.125 has more than two decimals; .*"),
    ("config.yaml", "replicates: 2", "replicates: 0",
     r"config.yaml: sweep.replicates: 0 is not allowed; write a whole number, 1 or more"),
    ("config.yaml", "replicates: 2", "replicates: 1.5",
     r"config.yaml: sweep.replicates: 1.5 is not allowed; write a whole number, 1 or more"),
    ("config.yaml", "tasks: [fix]", "tasks: [fx]",
     r"config.yaml: sweep.tasks\[0\]: 'fx' is not defined; defined are fix"),
    ("config.yaml", "agents: [claude]", "agents: [codex]",
     r"config.yaml: sweep.agents\[0\]: 'codex' is not defined; defined are claude"),
    ("config.yaml", "replicates: 2", "cells: cells.csv",
     r"config.yaml: sweep.cells: 'cells.csv' is not a readable CSV or TSV file"),
    ("config.yaml", "  fix: fix.yaml", "  fix: other.yaml",
     r"config.yaml: tasks.fix: 'other.yaml' is not a file; write a task file"),
    ("config.yaml", "  fix: fix.yaml", "  fix: 3",
     r"config.yaml: tasks.fix: 3 is not allowed; write a text or a mapping"),
    ("config.yaml", "  fix: fix.yaml", "  fix: fix.yaml\n  a/b: fix.yaml",
     r"config.yaml: tasks.a/b: is not a name; allowed are letters, digits, .*"),
    ("config.yaml", "model: scripted", "model: lve",
     r"config.yaml: agents.claude.model: 'lve' is not allowed; write scripted, live or \{rep.*"),
    ("config.yaml", "model: scripted", "model: [live]",
     r'config.yaml: agents.claude.model: \["live"\] is not allowed; write scripted, live or .*'),
    ("config.yaml", "model: scripted", "model: {replai: a.jsonl}",
     r"config.yaml: agents.claude.model.replai: unknown key; did you mean replay\?"),
    ("config.yaml", "model: scripted", "model: {replay: a.jsonl, from: 3}",
     r"config.yaml: agents.claude.model.from: unknown key; allowed are replay"),
    ("config.yaml", "model: scripted", "model: {}",
     r"config.yaml: agents.claude.model: \{\} is not allowed; write \{replay: PATH\}"),
    ("config.yaml", "model: scripted", "model: {replay: 3}",
     r"config.yaml: agents.claude.model.replay: 3 is not allowed; write the path of a recording"),
    ("config.yaml", "model: scripted", "model: {replay: a.jsonl}",
     r"config.yaml: agents.claude.model.replay: /.*/a.jsonl: there is no such file .*"),
    ("config.yaml", "model: scripted", "model: {replay: fix.yaml}",
     r"config.yaml: agents.claude.model.replay: /.*/fix.yaml is not a Claude Code session .*"),
    ("config.yaml", "model: scripted", "model: {replay: config}",
     r"config.yaml: agents.claude.model.replay: /.*/config holds no run that can be replayed: .*"),
    ("config.yaml", "model: scripted", "model: live, max_cost_usd: 2",
     r"config.yaml: agents.claude.max_cost_usd: 2 needs `price`, which is not built in .*"),
    ("config.yaml", "model: scripted", "model: live, max_cost_usd: 0",
     r"config.yaml: agents.claude.max_cost_usd: 0 is not allowed; write a number or null gre.*"),
    ("config.yaml", "model: scripted", "model: live, price: {input: 1, output: 1, cache_read: 1}",
     r"config.yaml: agents.claude.price.cache_write: missing; a number, 0 or more must be there"),
    ("config.yaml", "model: scripted",
     "model: live, price: {input: 1, output: 1, cache_read: 1, cache_write: 1, cached: 1}",
     r"config.yaml: agents.claude.price.cached: unknown key; did you mean cache_read\?"),
    ("config.yaml", "model: scripted", "model: live, price: 3",
     r"config.yaml: agents.claude.price: 3 is not allowed; write a mapping or null"),
    ("config.yaml", "model: scripted", "model: live, credential: sk-ant-secret",
     r"config.yaml: agents.claude.credential: what is there \(not shown, .*\) is not allowed; "
     r"write env:NAME, file:PATH, none or null"),
    ("config.yaml", "model: scripted", "model: live, credential: 1234567890",
     r"config.yaml: agents.claude.credential: what is there \(not shown, .*\) is not allowed; .*"),
    ("config.yaml", "model: scripted", "model: live, credential_header: basic",
     r"config.yaml: agents.claude.credential_header: 'basic' is not allowed; write auto, x-api.*"),
    ("config.yaml", "model: scripted", "model: live, base_url: localhost",
     r"config.yaml: agents.claude.base_url: must begin with https:// or http://"),
    ("config.yaml", "model: scripted", "model: live, latency_scale: 0",
     r"config.yaml: agents.claude.latency_scale: has a meaning for scripted and replay agents "
     r"only, and this agent's model is live; leave it out"),
    *(
        ("config.yaml", "model: scripted", f"model: scripted, {key}: {value}",
         rf"config.yaml: agents.claude.{key}: has a meaning for `model: live` only, and this "
         r"agent's model is scripted; leave it out")
        for key, value in (
            ("base_url", "https://llm.example"), ("credential", "none"), ("max_cost_usd", 1),
            ("credential_header", "bearer"),
            ("price", "{input: 1, output: 1, cache_read: 1, cache_write: 1}"),
        )
    ),
    ("config.yaml", 'version: "2.1.330"', 'version: "2.1.330", max_live_runs: 3',
     r"config.yaml: agents.claude.max_live_runs: unknown key; .*"),
    ("config.yaml", "dataset: test", "agent: {max_live_runs: -1}",
     r"config.yaml: agent.max_live_runs: -1 is not allowed; write a whole number or null, 0 or .*"),
    ("config.yaml", "claude-haiku-4-5-20251001", "haiku",
     r"config.yaml: agents.claude.model_id: 'haiku' is an alias, .*; write a full model id, .*"),
    ("config.yaml", ', version: "2.1.330"', "",
     r"config.yaml: agents.claude.version: missing; a version such as .* must be there"),
    ("config.yaml", '"2.1.330"', "2.1",
     r"config.yaml: agents.claude.version: 2.1 is not allowed; write a version such as .*"),
    ("config.yaml", '"2.1.330"', '"2.1.1"',
     r"config/agents.lock.yaml: claude: version '2.1.1' is not locked; locked are 2.1.330"),
    ("config.yaml", 'version: "2.1.330"', 'version: "2.1.330", timeout: 3',
     r"config.yaml: agents.claude.timeout: unknown key; did you mean timeout_s\?"),
    ("config.yaml", 'version: "2.1.330"', 'version: "2.1.330", max_sessions: 3',
     r"config.yaml: agents.claude.max_sessions: unknown key; .*"),
    ("config.yaml", "dataset: test", "agent: {timeout_s: 0}",
     r"config.yaml: agent.timeout_s: 0 is not allowed; write a number greater than 0"),
    ("config.yaml", "dataset: test", "agent: {on_miss: skip}",
     r"config.yaml: agent.on_miss: 'skip' is not allowed; write run or fail"),
    ("config.yaml", "dataset: test", "agent: {extra_args: [--model=opus]}",
     r"config.yaml: agent.extra_args\[0\]: '--model=opus' is set by agentsweep itself; .*"),
    ("config.yaml", "dataset: test", "agent: {tools: [Bash, 'Read,Edit']}",
     r"config.yaml: agent.tools\[1\]: 'Read,Edit' is not allowed; write a tool name"),
    ("config.yaml", "dataset: test", "container: {uid: 0}",
     r"config.yaml: container.uid: 0 is not allowed; write a whole number, 1 or more"),
    ("config.yaml", "dataset: test", "container: {network: none}",
     r"config.yaml: container.network: 'none' is not allowed; write gateway or host"),
    ("config.yaml", "dataset: test", "container: {host_mounts: [/home]}",
     r"config.yaml: container.host_mounts: \[\"/home\"\] needs `userland: host`; .*"),
    ("config.yaml", "dataset: test", "measure: {rate_hz: 1000}",
     r"config.yaml: measure.rate_hz: 1000 is not allowed; write a number from 0.1 to 200"),
    ("config.yaml", "dataset: test", "machine: {memory: '256'}",
     r"config.yaml: machine.memory: '256' is not a size; .*"),
    ("config.yaml", "dataset: test", "measure: {mem_overhead: '256'}",
     r"config.yaml: measure.mem_overhead: '256' is not a size; .*"),
    ("config.yaml", "dataset: test", "grading: {memory: '4'}",
     r"config.yaml: grading.memory: '4' is not a size; .*"),
    ("config.yaml", "dataset: test", "grading: {cpus: 0}",
     r"config.yaml: grading.cpus: 0 is not a number of CPUs between 0.01 and 4096"),
    ("config.yaml", "dataset: test", "grading: {validations: -1}",
     r"config.yaml: grading.validations: -1 is not allowed; write a whole number, 0 or more"),
    ("config.yaml", "dataset: test", "images: digests.yaml",
     r"config.yaml: images: 'digests.yaml' is not allowed; write a mapping"),
    ("fix.yaml", "kind: swe", "kind: bug",
     r"fix.yaml: kind: 'bug' is not allowed; write prompt, code or swe"),
    ("fix.yaml", "kind: swe\n", "", r"fix.yaml: kind: missing; prompt, code or swe must be there"),
    ("fix.yaml", "kind: swe", "kind: swe\nhints: none", r"fix.yaml: hints: unknown key; .*"),
    ("fix.yaml", "It is broken {here}.", "''",
     r"fix.yaml: problem_statement: '' is empty; a task of kind swe needs the issue's text"),
    ("fix.yaml", "kind: swe", "kind: swe\nprompt: Mend it.",
     r"fix.yaml: prompt: no \{problem_statement\} in it, so that .*"),
    ("fix.yaml", "kind: swe", "kind: prompt",
     r"fix.yaml: prompt: null is empty; a task of kind prompt needs the text .*"),
    ("fix.yaml", TASK, "kind: code\nprompt: Write it.\nscenario: scenario.yaml\n",
     r"fix.yaml: image: missing; only tasks of kind swe have an image by their name .*"),
    ("fix.yaml", "oci-archive:images/fix.tar", "images/fix.tar",
     r"fix.yaml: image: 'images/fix.tar' has no known transport; write one of docker://, .*"),
    ("fix.yaml", "oci-archive:images/fix.tar", "docker://debian",
     r"fix.yaml: image: 'docker://debian' names no registry; write it out, as in .*"),
    ("fix.yaml", "kind: swe", "kind: swe\nworkdir: testbed",
     r"fix.yaml: workdir: 'testbed' is not allowed; write an absolute path in the container, .*"),
    ("fix.yaml", "scenario.yaml", "none.yaml",
     r"none.yaml: there is no such file"),
    ("fix.yaml", "scenario: scenario.yaml\n", "",
     r"config.yaml: tasks.fix: no scenario, which agent claude \(model scripted\) plays"),
    ("fix.yaml", TASK, "\x00", r"fix.yaml: .*"),
    ("scenario.yaml", "text: Done.", "text: 3", r"scenario.yaml: .*text.*"),
    ("config/images.lock.yaml", "images:", "image:",
     r"config/images.lock.yaml: image: unknown key; allowed is images"),
    ("config/images.lock.yaml", IMAGES_LOCK, "images: [a]",
     r"config/images.lock.yaml: images: \[\"a\"\] is not allowed; write a mapping"),
    ("config/images.lock.yaml", f'digest: "{DIGEST}", config', "digest: latest, config",
     r"config/images.lock.yaml: images\['oci.*'\].digest: 'latest' is not a digest; .*"),
    ("config/images.lock.yaml", f'config_digest: "{DIGEST}", ', "",
     r"config/images.lock.yaml: images\['oci.*'\].config_digest: null is not a digest; .*"),
    ("config/images.lock.yaml", "linux/amd64", "amd64",
     r"config/images.lock.yaml: images\['oci.*'\].platform: 'amd64' is not a platform; .*"),
    ("config/images.lock.yaml", "platform", "arch: x, platform",
     r"config/images.lock.yaml: images\['oci.*'\].arch: unknown key; allowed are .*"),
    ("config/agents.lock.yaml", "claude:", "codex:",
     r"config/agents.lock.yaml: not a lock file of agent versions .*"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "line"), BROKEN, ids=[b[3][:60] for b in BROKEN])
def test_broken_input_is_refused_with_one_line(project, name, old, new, line):
    replace(name, old, new)
    with pytest.raises(ConfigError) as caught:
        load()
    matching = [problem for problem in caught.value.problems if re.fullmatch(line, problem)]
    assert matching, caught.value.problems
    assert all("\n" not in problem for problem in caught.value.problems)
    assert not any("sk-ant" in problem or "1234" in problem for problem in caught.value.problems)
    if old not in (CONFIG, "tasks: [fix]", "agents: [claude]"):
        assert len(caught.value.problems) == 1, caught.value.problems


CELLS = "task,agent,memory,cpus,replicate\nfix,claude,1g,0.5,0\nfix,claude,2GiB,1.0,3\n"
BROKEN_CELLS = [
    (
        "task,agent",
        "agent",
        r"cells.csv: line 1: the columns are agent, memory, .*; allowed are .*",
    ),
    ("fix,claude,1g", "fx,claude,1g", r"cells.csv: line 2: task: 'fx' is not defined; .*"),
    ("2GiB", "2", r"cells.csv: line 3: memory: '2' is not a size; .*"),
    ("1.0,3", "1.0,x", r"cells.csv: line 3: replicate: 'x' is not a replicate; .*"),
    ("2GiB,1.0,3", "1GiB,0.50,0", r"cells.csv: line 3: the same cell as in line 2; leave one out"),
    ("1.0,3", "1.0,3,9", r"cells.csv: line 3: more values than columns"),
    (CELLS[33:], "", r"cells.csv: no cells in it; write one a line"),
]


@pytest.mark.parametrize("separator", [",", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_table_of_cells_may_begin_with_a_byte_order_mark(project, separator, end):
    """A spreadsheet saves it so as `CSV UTF-8`."""
    text = CELLS.replace(",", separator).replace("\n", end)
    replace("config.yaml", "replicates: 2", "cells: cells.csv")
    Path("cells.csv").write_bytes(text.encode())
    plain = load().cells()
    Path("cells.csv").write_bytes(text.encode("utf-8-sig"))
    assert load().cells() == plain and len(plain) == 2


@pytest.mark.parametrize("line", [",,,,", " , ,,,", ",,,,,,", ""])
def test_lines_of_nothing_but_commas_are_no_cells(project, line):
    replace("config.yaml", "replicates: 2", "cells: cells.csv")
    Path("cells.csv").write_text(CELLS, encoding="utf-8")
    plain = load().cells()
    first, rest = CELLS.split("\n", 1)
    Path("cells.csv").write_text(f"{first}\n{line}\n{rest}{line}\n", encoding="utf-8")
    assert load().cells() == plain and len(plain) == 2


def test_without_a_task_no_limit_is_needed(project):
    """A configuration that only imports."""
    replace("config.yaml", "tasks: [fix]", "tasks: []")
    replace("config.yaml", "  memory: [512MiB, 1GiB]\n  cpus: [0.5, 2]\n", "")
    assert load().cells() == []


@pytest.mark.parametrize(("old", "new", "line"), BROKEN_CELLS)
def test_broken_cells_are_refused_with_their_line(project, old, new, line):
    Path("cells.csv").write_text(CELLS.replace(old, new), encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(sweep={"cells": "cells.csv"})
    assert len(caught.value.problems) == 1
    assert re.fullmatch(line, caught.value.problems[0]), caught.value.problems


def test_there_are_enough_broken_inputs():
    assert len(BROKEN) + len(BROKEN_CELLS) >= 60


def test_everything_that_is_wrong_is_said_at_once(project):
    replace("config.yaml", "512MiB", '"512"')
    replace("config.yaml", "[0.5, 2]", "[none]")
    replace("fix.yaml", "It is broken {here}.", "''")
    replace("config/images.lock.yaml", "linux/amd64", "amd64")
    with pytest.raises(ConfigError) as caught:
        load()
    starts = [problem.split(": ")[:2] for problem in caught.value.problems]
    assert sorted(starts) == [
        ["config.yaml", "sweep.cpus[0]"],
        ["config.yaml", "sweep.memory[0]"],
        ["config/images.lock.yaml", f"images['{REFERENCE.split(':')[0]}:images/fix.tar'].platform"],
        ["fix.yaml", "problem_statement"],
    ]


def test_message_names_the_file_that_holds_the_value(project):
    Path("more.yaml").write_text("sweep: {cpus: [0]}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^more.yaml: sweep.cpus\[0\]"):
        load("config.yaml", "more.yaml")
    merged = layers.merge(yaml.safe_load(CONFIG), {"sweep": {"replicates": 0}})
    with pytest.raises(ConfigError, match=r"^--config: sweep.replicates: 0 "):
        load_config(merged)
    with pytest.raises(ConfigError, match=r"^--config: sweep.replicates: 0 "):
        load_config(merged, files=["config.yaml"])
    Path("more.yaml").write_text("sweep: {replicates: 0}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"^more.yaml: sweep.replicates: 0 "):
        load_config(merged, files=["config.yaml", "more.yaml"])


def test_layers_are_merged_key_by_key(project):
    Path("more.yaml").write_text("sweep: {memory: [4g]}\nagent: {timeout_s: 7}\n", encoding="utf-8")
    loaded = load("config.yaml", "more.yaml")
    assert {cell.memory for cell in loaded.cells()} == {"4GiB"}
    assert {cell.cpus for cell in loaded.cells()} == {"0.5", "2"}
    assert loaded.agent.timeout_s == 7
    assert loaded.agent.stall_s == 300


def test_grid_is_the_product_of_its_axes_in_order(project):
    ids = [cell.id for cell in load().cells()]
    assert len(ids) == len(set(ids)) == 2 * 2 * 2
    assert ids[:3] == [
        "task~fix/agent~claude/mem~512MiB_cpus~0.5_rep~0",
        "task~fix/agent~claude/mem~512MiB_cpus~0.5_rep~1",
        "task~fix/agent~claude/mem~512MiB_cpus~2_rep~0",
    ]


def test_spellings_of_one_size_and_cpu_count_are_one_cell(project):
    replace("config.yaml", "[512MiB, 1GiB]", "[512m, 1024MiB]")
    replace("config.yaml", "[0.5, 2]", "['0.50', 2.0]")
    assert {(cell.memory, cell.cpus) for cell in load().cells()} == {
        ("512MiB", "0.5"), ("512MiB", "2"), ("1GiB", "0.5"), ("1GiB", "2"),
    }  # fmt: skip


@pytest.mark.parametrize("delimiter", [",", "\t"])
def test_cells_of_a_table_replace_the_grid(project, delimiter):
    Path("cells.csv").write_text(CELLS.replace(",", delimiter), encoding="utf-8")
    assert load(sweep={"cells": "cells.csv"}).cells() == [
        Cell("fix", "claude", "1GiB", "0.5", 0),
        Cell("fix", "claude", "2GiB", "1", 3),
    ]


def test_tasks_and_agents_left_out_mean_all(project):
    replace("config.yaml", "  tasks: [fix]\n  agents: [claude]\n", "")
    assert {(c.task, c.agent) for c in load().cells()} == {("fix", "claude")}


def test_task_in_place_equals_task_in_a_file(project):
    in_place = load(tasks={"fix": yaml.safe_load(TASK)})
    cell = in_place.cells()[0]
    assert in_place.spec(cell) == load().spec(cell)
    with pytest.raises(ConfigError, match=r"^--config: tasks.fix.kind: 'x' is not allowed"):
        load(tasks={"fix": {"kind": "x"}})


def test_spec_is_canonical_and_holds_what_it_must(project):
    loaded = load()
    cell = loaded.cells()[0]
    text = loaded.spec(cell)
    said = json.loads(text)
    assert text == json.dumps(said, sort_keys=True, separators=(",", ":"))
    assert said["limits"] == {
        "memory_bytes": 512 * 2**20, "swap_bytes": 0, "cpus": "0.5", "cpu_mode": "quota",
        "pids": 4096,
    }  # fmt: skip
    assert said["image"] == {"digest": DIGEST, "recipe": spec.FIX_RECIPE, "uid": 1000, "gid": 1000}
    assert said["agent"]["binary_sha256"] == "b" * 64
    assert said["protocol"] == spec.PROTOCOL
    assert loaded.spec_sha256(cell) == text_sha256(text)


@pytest.mark.parametrize("written", ["1GB", "1000000000B", "16777217B"])
def test_a_size_that_no_binary_unit_divides_is_a_limit_like_any_other(project, written):
    replace("config.yaml", "memory: [512MiB, 1GiB]", f"memory: [{written}]")
    loaded = load()
    cell = loaded.cells()[0]
    size_bytes = parse_size(written)
    assert cell.memory == f"{size_bytes}B"
    assert loaded.job(cell).to_json()["limits"]["memory_bytes"] == size_bytes
    # What a job reads has the canonical spelling.
    assert loaded.for_cell(cell)["sweep"]["memory"] == [cell.memory]


def test_specs_of_runs_that_were_made_stay_as_they_were(project):
    """Another one would have every archived run made again; PROTOCOL is how that is asked for."""
    text = load().spec(load().cells()[0])
    assert text_sha256(text) == ("c502269fced56e229d34b5f7197c9df0ca63175f125d5b1004389b23d1dffb94")


def test_spec_holds_no_name_and_no_path(project):
    text = load().spec(load().cells()[0])
    for word in ("fix.yaml", "scenario.yaml", str(project), "images/", "store", "results"):
        assert word not in text
    Path("moved").mkdir()
    Path("fix.yaml").rename("moved/other.yaml")
    Path("scenario.yaml").rename("moved/played.yaml")
    replace("moved/other.yaml", "scenario.yaml", "moved/played.yaml")
    replace("config.yaml", "fix: fix.yaml", "renamed: moved/other.yaml")
    replace("config.yaml", "[fix]", "[renamed]")
    assert load().spec(load().cells()[0]) == text


def test_spec_does_not_care_how_a_number_is_written(project):
    before = load().spec(load().cells()[0])
    assert load(agent={"timeout_s": 1800.0}).spec(load().cells()[0]) == before


def test_spec_of_an_image_without_a_lock_entry_says_so(project):
    Path("config/images.lock.yaml").unlink()
    loaded = load()
    assert json.loads(loaded.spec(loaded.cells()[0]))["image"]["digest"] == image_lock.UNLOCKED
    assert loaded.image_of("fix").digest is None


def test_comments_in_config_task_and_scenario_change_no_spec(project):
    before = [load().spec(cell) for cell in load().cells()]
    for name in ("config.yaml", "fix.yaml", "scenario.yaml"):
        Path(name).write_text(
            "# a comment\n" + Path(name).read_text(encoding="utf-8") + "# and another\n",
            encoding="utf-8",
        )
    assert [load().spec(cell) for cell in load().cells()] == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("fix.yaml", "It is broken", "It is very broken"),
        ("fix.yaml", "kind: swe", "kind: swe\nenvironment: . /opt/venv/bin/activate"),
        ("fix.yaml", "kind: swe", "kind: swe\npython: /opt/venv/bin/python"),
        ("fix.yaml", "kind: swe", "kind: swe\nworkdir: /work"),
        ("scenario.yaml", "Done.", "Finished."),
        ("config/images.lock.yaml", f'digest: "{DIGEST}", config', 'digest: "sha256:'
         + "c" * 64 + '", config'),
        ("config/agents.lock.yaml", "b" * 64, "d" * 64),
    ],
)  # fmt: skip
def test_what_decides_a_run_changes_its_spec(project, name, old, new):
    before = load().spec(load().cells()[0])
    replace(name, old, new)
    assert load().spec(load().cells()[0]) != before


# Live and replay agents

PRICE = {"input": 1, "output": 5, "cache_read": 0.1, "cache_write": 1.25}


def one_agent(loaded) -> tuple[dict, dict]:
    """What the spec says of the model in the first cell, and the job of that cell."""
    cell = loaded.cells()[0]
    return json.loads(loaded.spec(cell))["model"], loaded.job(cell).to_json()


def test_a_live_agent_has_its_endpoint_in_the_spec_and_its_credential_in_the_job_alone(project):
    said, job = one_agent(load(agents={"claude": {"model": "live"}}))
    assert said == {"mode": "live", "base_url": None}
    assert job["model"] == {
        "mode": "live", "base_url": None, "credential": None, "credential_header": "auto",
    }  # fmt: skip
    assert job["budget"] == {"max_turns": None, "max_cost_usd": None, "price": None}
    assert job["max_live_runs"] is None
    keys = {"base_url": "https://llm.example/v1", "credential": "env:KEY", "max_turns": 7,
            "credential_header": "bearer", "max_cost_usd": 0.5, "price": PRICE}  # fmt: skip
    said, job = one_agent(
        load(agents={"claude": {"model": "live", **keys}}, agent={"max_live_runs": 3})
    )
    assert said == {
        "mode": "live", "base_url": "https://llm.example/v1", "max_cost_usd": 0.5, "price": PRICE,
    }  # fmt: skip
    assert job["model"] == {
        "mode": "live", "base_url": "https://llm.example/v1", "credential": "env:KEY",
        "credential_header": "bearer",
    }  # fmt: skip
    assert job["budget"] == {"max_turns": 7, "max_cost_usd": 0.5, "price": PRICE}
    assert job["max_live_runs"] == 3


def test_what_a_live_agent_may_ask_of_its_endpoint(project):
    def live(**more):
        return one_agent(load(agents={"claude": {"model": "live", **more}}))

    said, job = live()
    # As it was before there were rules, so that sealed runs are recalled.
    assert said == {"mode": "live", "base_url": None}
    assert job["rules"] == {"endpoint_tools": [], "models": ["claude-haiku-4-5-20251001"]}
    settings = job["agent"]["settings"]
    assert settings["disallowed_tools"] == ["WebSearch", "WebFetch"]
    assert settings["aliases_mean_model"] is True
    assert set(settings) <= set(AgentSettings.__dataclass_fields__)

    said, job = live(
        endpoint_tools=["web_search", "mcp"],
        other_models=["claude-b"],
        model_id="claude-a-1[1m]",
        extra_args=["--fallback-model", "claude-c, claude-d", "--fallback-model=claude-e"],
    )
    assert said["endpoint_tools"] == ["mcp", "web_search"]
    assert said["other_models"] == ["claude-b"]
    assert job["rules"]["models"] == [
        *("claude-a-1", "claude-a-1[1m]", "claude-b", "claude-c", "claude-d", "claude-e"),
    ]
    assert job["agent"]["settings"]["disallowed_tools"] == ["WebFetch"]
    assert job["agent"]["settings"]["aliases_mean_model"] is False
    _, job = live(tools=["Bash", "WebSearch"])
    assert job["agent"]["settings"]["disallowed_tools"] == ["WebFetch"]
    host = load(agents={"claude": {"model": "live"}}, container={"network": "host"})
    assert one_agent(host)[1]["agent"]["settings"]["disallowed_tools"] == ["WebSearch"]

    # Of a scripted agent nothing is known of this.
    _, job = one_agent(load())
    assert job["rules"] is None
    assert job["agent"]["settings"]["disallowed_tools"] == []
    assert job["agent"]["settings"]["aliases_mean_model"] is False
    with pytest.raises(ConfigError, match=r"agents\.claude\.endpoint_tools.*`model: live` only"):
        load(agents={"claude": {"endpoint_tools": ["mcp"]}})
    with pytest.raises(ConfigError, match=r"agent\.endpoint_tools"):
        load(agent={"endpoint_tools": ["internet"]})


def test_no_job_spec_or_command_line_holds_a_secret(project, monkeypatch):
    monkeypatch.setenv("KEY", "sk-canary")
    Path("key").write_text("sk-canary", encoding="utf-8")
    for reference in ("env:KEY", "file:key"):
        loaded = load(agents={"claude": {"model": "live", "credential": reference}})
        cell = loaded.cells()[0]
        text = json.dumps([loaded.job(cell).to_json(), loaded.for_cell(cell), loaded.spec(cell)])
        assert "canary" not in text
        assert reference not in loaded.spec(cell)


def test_a_credential_file_is_found_from_where_we_were_started(project, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    for given, found in (("key", project / "key"), ("/k", "/k"), ("~/k", "/home/me/k")):
        keys = {"model": "live", "credential": f"file:{given}"}
        assert one_agent(load(agents={"claude": keys}))[1]["model"]["credential"] == f"file:{found}"


def test_a_price_without_a_limit_counts_and_reruns_nothing(project):
    before, _ = one_agent(load(agents={"claude": {"model": "live"}}))
    said, job = one_agent(load(agents={"claude": {"model": "live", "price": PRICE}}))
    assert said == before
    assert job["budget"]["price"] == PRICE


def test_keys_of_live_agents_may_stand_for_all_and_mean_nothing_to_others(project):
    before = load()
    defaults = {"base_url": "https://llm.example", "credential": "env:KEY", "max_cost_usd": 1,
                "credential_header": "bearer", "price": PRICE}  # fmt: skip
    loaded = load(agent=defaults)
    assert [loaded.spec(c) for c in loaded.cells()] == [before.spec(c) for c in before.cells()]
    _, job = one_agent(loaded)
    assert job["model"] == {"mode": "scripted", "scenario": "scenario.yaml", "latency_scale": 1}
    assert job["budget"] == {"max_turns": None, "max_cost_usd": None, "price": None}
    # What says nothing is no mistake on the agent itself, so that an overlay can take it back.
    load(agents={"claude": {"base_url": None, "credential_header": "auto", "price": None}})
    with pytest.raises(ConfigError, match=r"config: agent\.max_cost_usd: 1 needs `price`"):
        load(agents={"claude": {"model": "live"}}, agent={"max_cost_usd": 1})


def test_a_key_is_not_sent_in_the_clear(project):
    """And an endpoint that gets none may be reached so."""
    for credential in (None, "none"):
        keys = {"model": "live", "base_url": "http://llm.example", "credential": credential}
        load(agents={"claude": keys})
    with pytest.raises(ConfigError, match=r"agents\.claude\.base_url: must begin with https"):
        load(agents={"claude": keys | {"credential": "env:KEY"}})
    load(agents={"claude": keys | {"credential": "env:KEY", "base_url": "http://127.0.0.1:9"}})


def test_a_live_agent_needs_no_scenario(project):
    replace("fix.yaml", "scenario: scenario.yaml\n", "")
    load(agents={"claude": {"model": "live"}})


@pytest.fixture
def recorded(project):
    """Writes a recorded run of ours: `result.json` and a session that says a text."""

    def write(name: str, text: str = "Done.", replicate: int = 0) -> Path:
        folder = project / name
        folder.mkdir(parents=True, exist_ok=True)
        of_run = {"model": {"mode": "live"}, "replicate": replicate}
        result = {"names": {"task": "fix", "instance_id": "fix"}, "spec": of_run}
        (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")
        (folder / "trace.jsonl").write_bytes(
            small_session().data().replace(b"Done.", text.encode())
        )
        for cached in (recorded_runs._find, recorded_runs._runs, recorded_runs._source):
            cached.cache_clear()
        return folder

    return write


def replaying(path, **keys):
    return load(agents={"claude": {"model": {"replay": str(path)}, **keys}})


def test_a_replay_is_known_by_what_the_recording_says(project, recorded):
    replace("fix.yaml", "scenario: scenario.yaml\n", "")
    folder = recorded("recordings/a")
    said, job = one_agent(replaying("recordings/a", latency_scale=0.5))
    assert said == {
        "mode": "replay", "recording_sha256": said["recording_sha256"], "latency_scale": 0.5,
        "rules": spec.REPLAY_RULES,
    }  # fmt: skip
    assert job["model"] == {"mode": "replay", "recording": str(folder), "latency_scale": 0.5}
    assert "recordings" not in json.dumps(said)
    # The session alone, without what was measured beside it, is played from its file.
    _, job = one_agent(replaying("recordings/a/trace.jsonl"))
    assert job["model"]["recording"] == str(folder / "trace.jsonl")
    folder.rename(project / "moved")
    assert one_agent(replaying("moved", latency_scale=0.5))[0] == said
    assert one_agent(replaying("moved", latency_scale=1))[0] != said
    recorded("moved", "Finished.")
    assert one_agent(replaying("moved", latency_scale=0.5))[0] != said


def test_each_replicate_may_have_its_own_recording(project, recorded):
    for number in (0, 1):
        recorded(f"recordings/{number}", f"Replicate {number}.", number)
    loaded = replaying("recordings")
    cells = [cell for cell in loaded.cells() if (cell.memory, cell.cpus) == ("512MiB", "0.5")]
    assert [loaded.job(cell).to_json()["model"]["recording"][-1] for cell in cells] == ["0", "1"]
    hashes = [json.loads(loaded.spec(cell))["model"]["recording_sha256"] for cell in cells]
    assert len(set(hashes)) == 2
    for cell in cells:
        of_job = load_config(loaded.for_cell(cell))
        assert of_job.spec(cell) == loaded.spec(cell)
        assert of_job.job(cell) == loaded.job(cell)


def test_a_replicate_without_a_recording_of_its_own_is_refused_beforehand(project, recorded):
    for number in (0, 1):
        recorded(f"recordings/{number}", replicate=number)
    with pytest.raises(ConfigError, match=r"recordings holds 2 runs that could be replicate 2 of"):
        load(agents={"claude": {"model": {"replay": "recordings"}}}, sweep={"replicates": 3})


def test_a_recording_that_is_missing_is_said_once_with_all_else_that_is_wrong(project, recorded):
    recorded("recordings/a")
    recorded("recordings/b")
    replace("fix.yaml", "kind: swe", "kind: swe\nhints: none")
    Path("other.yaml").write_text(TASK, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load(
            tasks={"other": "other.yaml"},
            sweep={"tasks": ["fix", "other"]},
            agents={"claude": {"model": {"replay": "recordings"}, "base_url": "https://x.example"}},
        )
    replace("fix.yaml", "hints: none\n", "")
    assert [problem.split(": ")[1] for problem in caught.value.problems] == [
        "agents.claude.base_url", "hints", "agents.claude.model.replay",
    ]  # fmt: skip
    with pytest.raises(ConfigError) as caught:
        replaying("nowhere")
    assert len(caught.value.problems) == 1
    # An agent that is not in the sweep needs no recording yet.
    load(agents={"later": {"model": {"replay": "nowhere"}, "model_id": "m", "version": "2.1.330"}},
         sweep={"agents": ["claude"]})  # fmt: skip


# Another valid value for every key of the configuration but `sweep`, `tasks` and `imports`.
OTHER_VALUES = {
    "dataset": "other", "partial": True,
    "agents.<name>.model": "live",
    "agents.<name>.model_id": "claude-sonnet-4-5-20250929", "agents.<name>.version": "2.1.331",
    "agent.timeout_s": 9, "agent.stall_s": 9, "agent.grace_s": 9, "agent.max_turns": 9,
    "agent.max_sessions": 9, "agent.on_miss": "fail", "agent.repeat": ["api_error"],
    "agent.repeat_times": 9, "agent.system_search": False,
    "agent.extra_args": ["--bare"], "agent.tools": ["Bash"], "agent.bash_timeout_s": 9,
    "agent.max_retries": 9, "agent.latency_scale": 9, "agent.lock": "other.lock.yaml",
    "agent.base_url": "https://llm.example", "agent.credential": "env:OTHER",
    "agent.credential_header": "bearer", "agent.max_cost_usd": 9, "agent.max_live_runs": 9,
    "agent.endpoint_tools": ["web_search"], "agent.other_models": ["claude-other-1"],
    "agent.price": {"input": 1, "output": 5, "cache_read": 0.1, "cache_write": 9},
    "container.engine": "docker", "container.runtime": "runc", "container.userland": "host",
    "container.network": "host", "container.pids": 99, "container.uid": 99, "container.gid": 99,
    "container.disk": "1GiB",
    "container.host_mounts": ["/home"], "images.lock": "other.images.yaml",
    "container.cgroup_parent": "job", "images.distribute": "archive",
    "images.archive_directory": "elsewhere", "images.prepare": "node",
    "images.registry": "docker://registry.example/me/images",
    "measure.rate_hz": 9, "measure.mem_overhead": "9MiB", "paths.results": "elsewhere",
    "paths.store": "elsewhere", "paths.agents": "elsewhere",
    "grading.memory": "9GiB", "grading.cpus": 9, "grading.timeout_s": 9, "grading.network": True,
    "grading.install": True, "grading.validations": 9, "grading.keep_invalid": True,
    "machine.memory": "9GiB", "machine.cpus": 9, "machine.wait_s": 9, "machine.ledger": "elsewhere",
    "imports_directory": "elsewhere", "paper.published": "fix.yaml",
}  # fmt: skip
ONLY_VALUE = {"container.cpu_mode"}
LIVE = {"agents": {"claude": {"model": "live"}}, "agent": {"max_cost_usd": 1, "price": PRICE}}
# What a key needs to have a meaning.
NEEDED = {
    "container.host_mounts": {"container": {"userland": "host"}},
    **{f"agent.{key}": LIVE for key in ("base_url", "credential", "credential_header", "price",
                                        "max_cost_usd", "max_live_runs", "endpoint_tools",
                                        "other_models")},
}  # fmt: skip


@pytest.mark.slow
def test_schema_tells_truly_which_keys_rerun_agents(project):
    Path("config/agents.lock.yaml").write_text(
        AGENTS_LOCK.replace("}}", '}, "2.1.331": {binary_sha256: "' + "e" * 64 + '"}}'),
        encoding="utf-8",
    )
    Path("other.lock.yaml").write_text(
        Path("config/agents.lock.yaml").read_text(encoding="utf-8"), encoding="utf-8"
    )
    Path("other.images.yaml").write_text(IMAGES_LOCK, encoding="utf-8")
    known = dict(schema.keys(Configuration))
    tested = {key for key in known if key.split(".")[0] not in ("sweep", "tasks", "imports")}
    assert tested == OTHER_VALUES.keys() | ONLY_VALUE
    cell = load().cells()[0]
    for key, value in OTHER_VALUES.items():
        base = NEEDED.get(key, {})
        before = load(**base).spec(cell)
        change: object = value
        for part in reversed(key.replace("<name>", "claude").split(".")):
            change = {part: change}
        after = load(**layers.merge(base, change)).spec(cell)
        assert (before != after) == (known[key]["x-reruns"] == "yes"), key


def test_imports_have_their_defaults_and_change_no_run(project):
    before = load()
    Path("data/haiku").mkdir(parents=True)
    loaded = load(imports_directory="data", imports={"H": {"directory": "haiku"}})
    assert loaded.imports() == [Import("H", Path("data/haiku"), "agentcgroup", "last")]
    assert before.imports() == []
    assert [loaded.spec(c) for c in loaded.cells()] == [before.spec(c) for c in before.cells()]
    # The configuration of one job is an argument, and imports are not its business.
    assert loaded.for_cell(loaded.cells()[0])["imports"] == {}


def test_imports_are_told_apart_from_each_other_and_from_the_sweep(project):
    (project / "data").mkdir()
    (project / "other").mkdir()
    (project / "link").symlink_to("data")
    with pytest.raises(ConfigError, match=r"imports\.B\.directory.*'link' is that of 'A' too"):
        load(imports={"A": {"directory": "data"}, "B": {"directory": "link"}})
    with pytest.raises(ConfigError, match=r"imports\.mine.*the sweep's own dataset"):
        load(dataset="mine", imports={"mine": {"directory": "data"}})
    load(dataset="mine", imports={"A": {"directory": "data"}, "B": {"directory": "other"}})


def test_imports_alone_need_no_cell(project):
    assert load(sweep={"tasks": []}).cells() == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"H": {}}, "imports.H.directory: missing"),
        ({"H": {"directory": "d", "attempts": "best"}}, "imports.H.attempts: 'best'"),
        ({"H": {"directory": "d", "layout": "harbor"}}, "imports.H.layout: 'harbor'"),
        ({"H/L": {"directory": "d"}}, "is not a name"),
        ({"H": {"directory": "d", "attempt": "last"}}, "did you mean attempts?"),
        ({"H": {"directory": "e"}}, "imports.H.directory: 'e' is no directory; set imports_direct"),
    ],
)
def test_a_wrong_import_is_refused_by_its_key(project, given, said):
    Path("d").mkdir()
    with pytest.raises(ConfigError) as refused:
        load(imports=given)
    assert len(refused.value.problems) == 1
    assert said in refused.value.problems[0]


def test_published_values_must_be_a_file(project):
    with pytest.raises(ConfigError, match=r"paper\.published: 'nowhere\.csv' is not a file"):
        load(paper={"published": "nowhere.csv"})


def test_an_agent_overrides_what_holds_for_all(project):
    replace("config.yaml", 'version: "2.1.330"', 'version: "2.1.330", timeout_s: 60, tools: [Bash]')
    loaded = load(agent={"stall_s": 11})
    said = json.loads(loaded.spec(loaded.cells()[0]))
    assert (said["timeout_s"], said["stall_s"], said["agent"]["args"]) == (
        60,
        11,
        ["--tools", "Bash"],
    )


def test_for_cell_gives_the_same_spec_job_and_image_and_stays_small(project):
    loaded = load()
    for cell in loaded.cells():
        text = json.dumps(loaded.for_cell(cell))
        small = load_config(json.loads(text))
        assert small.spec(small.cell(cell.id)) == loaded.spec(cell)
        assert small.job(small.cell(cell.id)) == loaded.job(cell)
        assert small.image_of(cell.task).directory == loaded.image_of(cell.task).directory
        assert len(text) < 4096


def test_job_holds_what_the_runner_reads(project):
    loaded = load()
    cell = loaded.cells()[0]
    job = loaded.job(cell).to_json()
    assert job["prompt"] == loaded.task("fix").prompt
    assert "It is broken {here}." in job["prompt"]
    assert job["names"]["task"] == "fix"
    assert job["limits"] == json.loads(loaded.spec(cell))["limits"]
    assert job["model"] == {"mode": "scripted", "scenario": "scenario.yaml", "latency_scale": 1}
    assert job["agent"]["binary"] == "agents/claude-2.1.330/claude"
    assert Job.from_json(json.loads(json.dumps(job))) == loaded.job(cell)


def test_unknown_cell_is_refused_by_name(project):
    with pytest.raises(ConfigError, match="task~x/agent~y/mem~1GiB_cpus~1_rep~0 is no cell"):
        load().cell("task~x/agent~y/mem~1GiB_cpus~1_rep~0")


@pytest.mark.parametrize(
    ("cpus", "memory", "cores", "megabytes"),
    [("0.5", "512MiB", 1, 806), ("2", "1GiB", 2, 1343), ("1.01", "4GiB", 2, 4564)],
)
def test_reservation_is_rounded_up_in_decimal_megabytes(project, cpus, memory, cores, megabytes):
    cell = Cell("fix", "claude", memory, cpus, 0)
    assert (load().reserved_cores(cell), load().reserved_mb(cell)) == (cores, megabytes)


def test_a_cell_larger_than_the_machine_is_told_by_its_reason(project):
    machine = Machine(memory_bytes=2**30, cpus=2)
    loaded = load()
    fits = {(c.memory, c.cpus): loaded.misfit(c, machine) for c in loaded.cells()}
    assert fits["512MiB", "2"] is None
    assert fits["1GiB", "0.5"] == (
        "needs 1GiB + 256MiB = 1343 MB of memory, and this machine gives 966 MB (90% of it)"
    )
    loaded = load(machine={"memory": "700MiB", "cpus": 1})
    fits = {(c.memory, c.cpus): loaded.misfit(c, machine) for c in loaded.cells()}
    assert fits["512MiB", "0.5"].endswith("= 806 MB of memory, and this machine gives 734 MB "
                                          "(machine.memory)")  # fmt: skip
    loaded = load(machine={"memory": "700GiB", "cpus": 1})
    fits = {(c.memory, c.cpus): loaded.misfit(c, machine) for c in loaded.cells()}
    assert fits["512MiB", "0.5"] is None
    # What is offered to several together is still not more than there is for one.
    assert fits["1GiB", "0.5"].endswith("= 1343 MB of memory, and this machine has 1073 MB")
    assert fits["512MiB", "2"] == "needs 2 cores, and this machine gives 1 (machine.cpus)"
    loaded = load(machine={"cpus": 8})
    one_core = Machine(memory_bytes=2**40, cpus=1)
    assert loaded.misfit(Cell("fix", "claude", "1GiB", "2", 0), one_core) == (
        "needs 2 cores, and this machine has 1"
    )


@pytest.mark.parametrize(
    ("instance_id", "image"),
    [
        ("encode__starlette-1147", "encode_1776_starlette-1147"),
        ("Django__Django-12345", "django_1776_django-12345"),
    ],
)
def test_benchmark_image_follows_from_the_instance(instance_id, image):
    assert task_file.benchmark_image(instance_id) == (
        f"docker://docker.io/swerebench/sweb.eval.x86_64.{image}"
    )


def test_image_named_in_the_task_wins(project):
    assert load().task("fix").reference == REFERENCE
    replace("fix.yaml", f"image: {REFERENCE}", "instance_id: encode__starlette-1147")
    assert load().task("fix").reference == task_file.benchmark_image("encode__starlette-1147")


@pytest.mark.parametrize(
    ("reference", "name"),
    [
        ("oci-archive:images/starlette-1147.tar", "starlette-1147"),
        ("oci-archive:images/a.oci.tar:v1", "a"),
        ("docker-archive:/srv/My_Image.tar", "my-image"),
        ("docker://docker.io/swerebench/sweb.eval.x86_64.a_1776_b-1:latest",
         "sweb-eval-x86-64-a-1776-b-1"),
        ("docker://127.0.0.1:5000/team/tool@sha256:" + "0" * 64, "tool"),
    ],
)  # fmt: skip
def test_image_name_fits_a_path_and_an_engine(reference, name):
    image = spec.ImageRef(reference, None, None, "/testbed", 1000, 1000)
    assert image.name == name
    assert re.fullmatch(r"[a-z0-9-]+~[0-9a-f]{12}", image.directory)
    assert image.tag == f"localhost/agentsweep/{name}:{image.key}"


def test_image_key_changes_with_whatever_changes_the_image():
    base = ("docker://r.io/a", DIGEST, DIGEST, "/testbed", 1000, 1000)
    keys = {spec.ImageRef(*base).key}
    for index, value in ((0, "docker://r.io/b"), (1, None), (3, "/w"), (4, 7), (5, 7)):
        keys.add(spec.ImageRef(*base[:index], value, *base[index + 1 :]).key)
    assert len(keys) == 6


def test_lock_file_is_written_once_and_keeps_what_others_need(project):
    path = Path("config/images.lock.yaml")
    entry = {"digest": DIGEST, "config_digest": DIGEST, "platform": "linux/amd64"}
    assert image_lock.update(path, {REFERENCE: entry}) == 0
    assert path.read_text(encoding="utf-8") == IMAGES_LOCK
    assert image_lock.update(path, {"docker://r.io/a": entry}) == 1
    assert image_lock.read(path).keys() == {REFERENCE, "docker://r.io/a"}
    assert image_lock.read(path)["docker://r.io/a"] == image_lock.Locked(**entry)
    assert path.read_text(encoding="utf-8").startswith("# Image references")


# The repository's own files


def test_own_config_is_valid(monkeypatch):
    monkeypatch.chdir(ROOT)
    loaded = load_config(layers.files([]))
    assert loaded.dataset == "demo"
    assert loaded.agent.timeout_s == 600
    assert {(c.memory, c.cpus) for c in loaded.cells()} == {
        (memory, cpus) for memory in ("512MiB", "1GiB", "2GiB") for cpus in ("0.5", "1", "2")
    }
    assert {loaded.task(name).kind for name in loaded.tasks} == {"prompt", "code", "swe"}


def _table(heading: str) -> dict[str, list[str]]:
    """The rows of a table in config/README.md: key -> the other columns."""
    section = (
        (ROOT / "config" / "README.md").read_text(encoding="utf-8").split(f"## {heading}\n")[1]
    )
    section = section.split("\n## ")[0]
    rows = [line.strip().strip("|").split(" | ") for line in section.splitlines() if "|" in line]
    return {row[0].strip().strip("`"): [cell.strip() for cell in row[1:]] for row in rows[2:]}


@pytest.mark.parametrize(
    ("model", "heading"),
    [(Configuration, "Keys"), (TaskFile, "Task files"), (TaskSetFile, "Task sets")],
)
def test_readme_lists_every_key_with_its_type_and_default(model, heading):
    known, table = dict(schema.keys(model)), _table(heading)
    assert list(table) == list(known)
    for key, said in known.items():
        kind, default, *_ = table[key]
        assert kind == schema.type_in_words(said), key
        expected = f"`{json.dumps(said['default'])}`" if "default" in said else "required"
        assert default.replace("“", '"') == expected, key


RERUNS = {
    "yes": "yes",
    "no": "no",
    "new": "new cells only",
    "repeat": "cells with a listed outcome",
}


def test_readme_says_truly_whether_a_change_reruns_agents():
    table = _table("Keys")
    for key, said in schema.keys(Configuration):
        assert table[key][-1] == RERUNS[said["x-reruns"]], key


def test_own_config_mentions_no_key_that_the_schema_lacks():
    text = (ROOT / "config" / "config.yaml").read_text(encoding="utf-8")
    assert text.startswith(
        "# yaml-language-server: $schema=../src/agentsweep/schemas/config.schema.yaml\n"
    )


@pytest.fixture(scope="module")
def reference():
    """The program that makes what follows from the models."""
    found = importlib.util.spec_from_file_location("reference", ROOT / "tools/config_reference.py")
    made = importlib.util.module_from_spec(found)
    found.loader.exec_module(made)
    return made


def test_schemas_and_tables_are_what_the_models_say(reference):
    """Else: python tools/config_reference.py."""
    made = reference.files()
    assert {path.name for path in made} >= {"config.schema.yaml", "README.md"}
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, path


KEYWORDS = {
    *("$schema", "$defs", "$ref", "title", "description", "default", "examples", "type", "enum"),
    *("properties", "required", "additionalProperties", "propertyNames", "minProperties", "items"),
    *("minItems", "uniqueItems", "minLength", "pattern", "minimum", "maximum", "exclusiveMinimum"),
    *("anyOf", "oneOf", "x-reruns", "x-allowed", "x-type", "x-secret"),
}


def _keywords(node: dict) -> set[str]:
    inner = [*node.get("$defs", {}).values(), *node.get("properties", {}).values()]
    inner += [node[key] for key in ("items", "additionalProperties", "propertyNames")
              if isinstance(node.get(key), dict)]  # fmt: skip
    inner += [*node.get("anyOf", ()), *node.get("oneOf", ())]
    return {*node, *(key for below in inner for key in _keywords(below))}


def test_schemas_hold_what_json_schema_knows(reference):
    """A limit that pydantic cannot say there is written by its own name, which editors ignore."""
    for _, model, _ in reference.MODELS:
        made = schema.json_schema(model)
        assert not _keywords(made) - KEYWORDS
        jsonschema.Draft202012Validator.check_schema(made)


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"agent": {"max_turns": 0}}, ["agent", "max_turns"]),
        ({"agent": {"max_cost_usd": 0}}, ["agent", "max_cost_usd"]),
        ({"agent": {"repeat": ["no_work", "no_work"]}}, ["agent", "repeat"]),
        ({"agents": {"a": {"model": "lve"}}}, ["agents", "a", "model"]),
        ({"agents": {"a": {"timeout_s": 0}}}, ["agents", "a", "timeout_s"]),
        ({"sweep": {"cpu_modes": []}}, ["sweep", "cpu_modes"]),
        ({"tasks": {"a/b": {}}}, ["tasks"]),
        ({"machine": {"cpus": 2.5}}, ["machine", "cpus"]),
        ({"container": {"engin": "docker"}}, ["container"]),
    ],
)
def test_editors_refuse_what_we_refuse(change, path):
    """By the file that `yaml-language-server` is told to use."""
    text = (ROOT / "src/agentsweep/schemas/config.schema.yaml").read_text(encoding="utf-8")
    editor = jsonschema.Draft202012Validator(yaml.safe_load(text))
    right = {
        "sweep": {},
        "tasks": {"t": {}},
        "agents": {"a": {"model_id": "m", "version": "1.2.3"}},
    }
    assert editor.is_valid(right)
    assert schema.problems(Configuration, right) == []
    wrong = layers.merge(right, change)
    assert [list(error.absolute_path) for error in editor.iter_errors(wrong)] == [path]
    assert [list(found)[: len(path)] for found, _ in schema.problems(Configuration, wrong)] == [
        path
    ]


def test_every_key_has_a_description():
    for model in (Configuration, TaskFile, TaskSetFile):
        for key, said in schema.keys(model):
            assert said.get("description"), key


def test_a_disk_budget_needs_a_unit(project):
    with pytest.raises(ConfigError, match=r"container.disk: .*unit"):
        load(container={"disk": "5"})
    cell = load().cells()[0]
    assert load(container={"disk": "8192MiB"}).spec(cell) == load().spec(cell)
    assert load(container={"disk": "1GiB"}).job(cell).disk_bytes == 2**30


def test_a_whole_number_may_be_written_with_a_point(project):
    """Which Python's range and an engine's options do not take."""
    loaded = load(sweep={"replicates": 2.0}, container={"pids": 99.0})
    assert len(loaded.cells()) == 8
    assert json.dumps(loaded.container.pids) == "99"


def test_a_number_stays_as_it_is_written(project):
    """A job's configuration is text that Snakemake compares; 1800 and 1800.0 are not the same."""
    loaded = load(agent={"timeout_s": 60, "stall_s": 30.5}, grading={"cpus": 3})
    of_job = loaded.for_cell(loaded.cells()[0])
    said = [of_job["agent"]["timeout_s"], of_job["agent"]["stall_s"], of_job["grading"]["cpus"]]
    assert json.dumps(said) == "[60, 30.5, 3]"


def test_an_agent_says_in_a_job_only_what_it_says_itself(project):
    """Else its defaults would count as what it overrides."""
    loaded = load(agent={"timeout_s": 60})
    of_job = loaded.for_cell(loaded.cells()[0])
    assert of_job["agents"]["claude"].keys() == {"model", "model_id", "version"}
    assert load_config(of_job).agent_settings("claude").timeout_s == 60


@pytest.mark.parametrize(
    ("model", "content", "said"),
    [
        (TaskFile, {"kind": "swe", "row": None}, "null is not allowed; write a mapping"),
        (TaskSetFile, {"rows": {}, "sample": None}, "null is not allowed; write a mapping"),
    ],
)
def test_a_section_that_may_be_left_out_is_no_null(model, content, said):
    assert [found for _, found in schema.problems(model, content)] == [said]


def test_a_name_ends_where_its_line_ends(project):
    with pytest.raises(ConfigError, match=r"dataset: 'mine\\n' is not allowed"):
        load(dataset="mine\n")


@pytest.mark.parametrize(
    "module",
    [
        *("agentsweep.cli.main", "agentsweep.runs.run_cell", "agentsweep.containers.images"),
        *("agentsweep.extraction.extract", "agentsweep.grading.evidence"),
        "agentsweep.tasks.row_files",
    ],
)
def test_what_reads_no_configuration_loads_no_models(module):
    """They take a tenth of a second."""
    code = f"import sys, {module}; print({{'pydantic', 'jsonschema'}} & sys.modules.keys())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, encoding="utf-8"
    )
    assert (done.stdout, done.stderr) == ("set()\n", "")
