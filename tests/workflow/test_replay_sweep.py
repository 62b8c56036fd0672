"""A session of others, replayed under 3 x 3 limits by Snakemake: real containers, the real agent.

The session is AgentCgroup's of starlette-1147 (Claude Code 2.1.16), in the demo's image.
"""

import json
import os
import re
import shutil
import subprocess

import pyarrow.parquet as pq
import pytest
import yaml
from clone import ROOT, Clone

SOURCE = "sweb.eval.x86_64.encode_1776_starlette-1147_20260204_031139"
SESSION = ROOT.parent / "shared" / "data" / "agentcgroup" / SOURCE
BINARY = ROOT / "agents" / "claude-2.1.330" / "claude"
ARCHIVE = ROOT / "images" / "starlette-1147.tar"
MISSING = [
    what
    for what, there in (
        ("podman", shutil.which("podman")),
        *((str(path), path.is_file()) for path in (BINARY, ARCHIVE)),
    )
    if not there
]
pytestmark = [
    pytest.mark.skipif(
        bool(MISSING) and not os.environ.get("CI"),
        reason=f"NOT RUN, a replay needs {' and '.join(MISSING)}: run `make test`",
    ),
    pytest.mark.skipif(
        not SESSION.is_dir(), reason=f"NOT RUN, the recorded session of others is not in {SESSION}"
    ),
]

CONFIG = {
    "dataset": "replay",
    "sweep": {
        "tasks": ["starlette-1147"],
        "agents": ["replay"],
        "memory": ["512MiB", "1GiB", "2GiB"],
        "cpus": [0.5, 1, 2],
    },
    "agents": {
        "replay": {
            "model": {"replay": str(SESSION)},
            "model_id": "claude-haiku-4-5-20251001",
            "version": "2.1.330",
        }
    },
    "agent": {"latency_scale": 0},
    # Whether the task is valid is nothing that is asked here.
    "grading": {"memory": "1GiB", "validations": 0},
    # Other runs on this machine must not keep a test waiting.
    "machine": {"ledger": "line"},
}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory):
    clone = Clone.make(tmp_path_factory.mktemp("replay") / "clone")
    clone.file("agents").symlink_to(ROOT / "agents")
    clone.file("images").symlink_to(ROOT / "images")
    clone.file("config/images.lock.yaml").unlink()
    clone.file("replay.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    # A work tree that no other sweep has, so that the image can be removed: the same one, written
    # in another way.
    clone.replace("config/tasks/starlette-1147.yaml", "kind: swe", "kind: swe\nworkdir: /testbed/")
    for target in ("lock", "results/figures/fidelity.pdf"):
        clone.snakemake("--cores", "2", target, "--configfile", "replay.yaml")
    yield clone
    for record in clone.path.glob("results/images/*/image.json"):
        made = json.loads(record.read_text(encoding="utf-8"))
        for image in (made["tag"], made["id"]):
            subprocess.run(["podman", "rmi", "--force", image], capture_output=True, check=False)


def table(clone, name: str) -> list[dict]:
    return pq.read_table(clone.file(f"results/dataset/{name}.parquet")).to_pylist()


def test_every_cell_is_played_to_its_end(sweep):
    runs = table(sweep, "runs")
    assert len({(run["mem_effective_bytes"], run["cpu_effective"]) for run in runs}) == 9
    assert {(run["outcome"], run["replay_turns"], run["replay_turns_played"]) for run in runs} == {
        ("completed", 41, 41)
    }
    assert {run["agent_version"] for run in runs} == {"2.1.330"}


def test_every_cell_without_a_killed_tool_makes_the_same_change(sweep):
    patches = []
    for run in table(sweep, "runs"):
        patch = sweep.file(f"results/runs/{run['run_id']}/patch.diff").read_text(encoding="utf-8")
        (change,) = (
            part
            for part in re.split(r"(?m)^(?=diff --git )", patch)
            if part.startswith("diff --git a/starlette/middleware/sessions.py")
        )
        if not run["tool_oom_count"]:
            patches.append(change)
    assert len(patches) >= 6 and len(set(patches)) == 1
    assert "root_path" in patches[0]


def test_the_calls_are_the_same_in_the_same_order(sweep):
    orders: dict[str, list] = {}
    for call in table(sweep, "tool_calls"):
        known = (call["tool_call_id"], call["name"], call["command"])
        orders.setdefault(call["run_id"], []).append(known)
    first, *others = orders.values()
    assert len(orders) == 9 and len(first) == 39
    assert all(other == first for other in others)
    names = [name for _, name, _ in first]
    assert names[0] == "Agent", "Task is called Agent now"


def test_fidelity_is_there_for_every_run_and_in_the_figure(sweep):
    runs = table(sweep, "runs")
    scores = [run["fidelity"] for run in runs]
    # The image is not the recording's, so that it is not 1, and it is the same image everywhere.
    assert all(0.5 < score < 0.9 for score in scores)
    assert max(scores) - min(scores) < 0.02
    assert {run["n_recorded_calls"] for run in runs} == {39}
    caption = sweep.file("results/figures/fidelity.rst").read_text(encoding="utf-8")
    assert "n = 9 runs, all completed." in caption
    said = "Distinct patches of completed runs by task: starlette-1147 1 in 9 runs of 1 recording."
    assert said in caption
    assert sweep.file("results/figures/fidelity.pdf").stat().st_size > 5000
