"""The workflow as Snakemake reads it and begins it: no container, no network, no key."""

import contextlib
import json
import re
import shutil
import subprocess

import pytest
import yaml
from clone import BIN, ROOT, Clone, planned

# Three tasks may not run on the machine of the test: its size must not matter here.
SMALL = {
    "sweep": {"tasks": ["question"], "memory": ["64MiB"], "cpus": [0.5, 1], "replicates": 2},
    "tasks": {
        "question": {
            "kind": "prompt", "prompt": "What is 2+2?", "image": "oci-archive:images/a.tar",
            "scenario": "config/scenarios/two-plus-two.yaml",
        },
    },
    "agents": {
        "claude": {"model_id": "claude-haiku-4-5-20251001", "version": "2.1.330"},
    },
}  # fmt: skip
LOCK = {
    "images": {
        "oci-archive:images/a.tar": {
            "digest": "sha256:" + "a" * 64,
            "config_digest": "sha256:" + "b" * 64,
            "platform": "linux/amd64",
        }
    }
}


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A fresh clone with the configuration as it is; tests of this module change no file in it."""
    return Clone.make(tmp_path_factory.mktemp("dag") / "clone")


@pytest.fixture
def small(tmp_path):
    """A fresh clone with a small sweep: one task, four cells."""
    made = Clone.make(tmp_path / "clone")
    configure(made)
    return made


def configure(clone, **overrides) -> None:
    settings = json.loads(json.dumps(SMALL))
    for section, values in overrides.items():
        settings[section] = (
            settings.get(section, {}) | values if isinstance(values, dict) else values
        )
    clone.file("config/config.yaml").write_text(yaml.safe_dump(settings), encoding="utf-8")
    clone.file("config/images.lock.yaml").write_text(yaml.safe_dump(LOCK), encoding="utf-8")


def test_fresh_clone_plans_the_whole_chain(small):
    assert small.planned() == {
        "image_pull": 1, "image_fix": 1, "agent_run": 4, "trace_extract": 4, "dataset": 1,
        "figure": 9, "tasks": 1,
    }  # fmt: skip


def plan_with_nothing(clone, empty, *arguments) -> str:
    """A dry run without an engine on PATH, in a network of its own, where that can be had.

    The Slurm plugin calls `which` when Snakemake reads its arguments, so that alone is there.
    """
    if not (empty / "which").exists():
        (empty / "which").symlink_to(shutil.which("which"))
    command = [str(BIN / "snakemake"), "-n", *arguments]
    if subprocess.run(["unshare", "--net", "true"], capture_output=True).returncode == 0:
        command = ["unshare", "--net", *command]
    done = subprocess.run(
        [shutil.which(command[0]), *command[1:]],
        cwd=clone.path, env={"PATH": str(empty)}, capture_output=True, text=True, timeout=60,
        encoding="utf-8",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "agent_run" in done.stdout + done.stderr
    assert not clone.file("results").exists()
    assert not clone.file("store").exists()
    return done.stderr


def test_own_configuration_plans_without_lock_engine_key_or_network(clone, tmp_path):
    plan_with_nothing(clone, tmp_path, "--config", "images={lock: none.yaml}")


@pytest.mark.parametrize(
    ("target", "counts"),
    [
        ("images", {"image_pull": 1, "image_fix": 1}),
        ("runs", {"image_pull": 1, "image_fix": 1, "agent_run": 4}),
        ("dataset", {"image_pull": 1, "image_fix": 1, "agent_run": 4, "trace_extract": 4,
                     "dataset": 1}),
        ("figures", {"image_pull": 1, "image_fix": 1, "agent_run": 4, "trace_extract": 4,
                     "dataset": 1, "figure": 9}),
        ("lock", {"lock": 1}),
        ("doctor", {"doctor": 1}),
    ],
)  # fmt: skip
def test_targets(small, target, counts):
    assert small.planned(target) == counts


def test_catalogue_shim_is_the_same_workflow(small):
    profile = ["--workflow-profile", "profiles/default"]
    whole = small.planned(*profile)
    assert small.planned("--snakefile", "workflow/Snakefile", *profile) == whole


def test_on_a_cluster_the_caps_of_this_machine_do_not_hold(clone, tmp_path):
    """The login node may have fewer cores than a cell; sessions are capped everywhere."""
    clone = clone.copy(tmp_path / "clone")
    clone.replace("config/demo.yaml", "cpus: [", "cpus: [512, ")
    clone.replace("config/config.yaml", "max_sessions: ", "max_sessions: 3  # was ")
    done = clone.snakemake("-n", "--profile", "profiles/slurm")
    assert "left out" not in done.stdout
    assert "threads: 512" in done.stdout
    assert "mem_mb=Resource" not in done.stdout
    assert "runtime=26" in done.stdout
    assert (done.stdout.count("agent_sessions=1"), done.stdout.count("at_once=1")) == (24, 57)
    # On this machine they do, also for one who sets resources of jobs.
    here = clone.snakemake("-n", "--default-resources", "tmpdir='/tmp'").stdout
    assert here.count("cpus~512_rep~0 needs 512 cores, and this machine has") == 6
    clone.replace("config/demo.yaml", "skip_unfit: true", "skip_unfit: false")
    refused = clone.snakemake("-n", check=False)
    assert "needs 512 cores and Snakemake gives" in refused.stdout


def test_lint_is_clean(clone):
    done = clone.snakemake("--lint")
    assert "Congratulations, your workflow is in a good condition!" in done.stdout


def test_parsing_imports_nothing_heavy():
    """The Snakefile is read again by every job."""
    code = (
        "import sys; from agentsweep import codehash; from agentsweep.cli import plan;"
        "from agentsweep.workflow import sweep;"
        "print([m for m in ('pandas', 'pyarrow', 'matplotlib', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [BIN / "python", "-c", code], capture_output=True, text=True, check=True,
        env={"PYTHONPATH": str(ROOT / "src")}, encoding="utf-8",
    )  # fmt: skip
    assert done.stdout.strip() == "[]"


def test_broken_configuration_is_one_line_for_each_mistake(small):
    configure(small, sweep={"memory": ["64"], "cpus": ["many"]})
    done = small.snakemake("-n", check=False)
    assert done.returncode != 0
    lines = [line.strip() for line in done.stdout.splitlines() if "config/config.yaml: " in line]
    assert [line.split(": ")[1] for line in lines] == ["sweep.memory[0]", "sweep.cpus[0]"]
    assert "Traceback" not in done.stdout


def test_boolean_on_the_command_line_is_explained(small):
    done = small.snakemake("-n", "--config", "partial=true", check=False)
    assert "--config: partial: 'true' is not allowed; write true or false" in done.stdout
    assert "True or False, with a capital letter" in done.stdout


def test_values_below_the_first_level_of_the_command_line_are_merged_with_their_types(small):
    """Snakemake reads them as texts, and dotted keys not at all."""
    said = ["--config", "agent.timeout_s=61", "agent={stall_s: 7, system_search: false}"]
    done = small.snakemake("-n", *said, "runs")
    assert planned(done.stdout)["agent_run"] == 4
    assert "runtime=17" in done.stdout  # 61 s, 5 s, and 15 minutes
    done = small.snakemake("-n", "--config", "agent.timeout_s=soon", check=False)
    assert "--config: agent.timeout_s: 'soon' is not allowed; write a number" in done.stdout
    assert "Traceback" not in done.stdout.split("WorkflowError")[0]


def test_targets_after_a_named_file_are_targets(small):
    small.file("my.yaml").write_text("dataset: mine\n", encoding="utf-8")
    counts = {"image_pull": 1, "image_fix": 1, "agent_run": 4}
    assert small.planned("--configfile", "my.yaml", "runs") == counts
    assert small.planned("--config", "partial=False", "runs") == counts
    assert small.planned("--configfile", "my.yaml", "--", "runs") == counts
    # A name in the directory says nothing.
    small.file("images").mkdir()
    assert small.planned("--configfile", "my.yaml", "images") == {"image_pull": 1, "image_fix": 1}


def test_in_another_directory_with_a_configuration_the_plan_is_the_same(small, tmp_path):
    whole = small.planned()
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(small.file("config"), elsewhere / "config")
    here = ["--snakefile", str(small.file("Snakefile")), "--directory", str(elsewhere)]
    assert small.planned(*here) == whole
    assert not (elsewhere / "results").exists()


def test_nothing_of_the_demo_holds_for_a_sweep_of_ones_own(clone, tmp_path):
    """And without one the demo is what is planned, with the base file named or not."""
    clone = clone.copy(tmp_path / "clone")
    clone.file("my.yaml").write_text(
        "sweep: {tasks: [logstats], memory: [64MiB], cpus: [1]}\n", encoding="utf-8"
    )
    done = clone.snakemake("-n", "--configfile", "my.yaml")
    assert planned(done.stdout)["agent_run"] == 1
    assert "runtime=46" in done.stdout  # the default's half an hour, and 15 minutes
    large = "sweep: {tasks: [logstats], memory: [64TiB], cpus: [1]}\n"
    clone.file("my.yaml").write_text(large, encoding="utf-8")
    refused = clone.snakemake("-n", "--configfile", "my.yaml", check=False)
    assert refused.returncode != 0 and "mem~64TiB_cpus~1_rep~0 needs" in refused.stdout
    profile = ["--cores", "2", "--resources", "mem_mb=9000"]
    demo = clone.planned(*profile)
    assert demo["agent_run"] == 18
    for named in ("config/config.yaml", "config/demo.yaml"):
        assert clone.planned(*profile, "--configfile", named) == demo


def test_a_dry_run_writes_no_file_for_a_command(small):
    small.snakemake("-n", "--printshellcmds")
    assert not small.file(".snakemake/agentsweep").exists()


def test_a_failed_job_is_one_short_block_and_the_last_line(small):
    """No configuration in the output, no second try at what stays, nothing after the sentence."""
    done = small.snakemake("--cores", "1", "runs", check=False)
    assert done.returncode != 0
    assert done.stdout.count("Error in rule image_pull") == 1
    assert "Trying to restart" not in done.stdout
    last = done.stdout.splitlines()[-1]
    assert last.startswith("agentsweep: failed: image_pull ") and "is missing: build it" in last
    # A job that is given all of it.
    done = small.snakemake("--cores", "1", "lock", check=False)
    assert done.stdout.count("Error in rule lock") == 1
    assert not [key for key in ("two-plus-two", "replicates") if key in done.stdout]
    assert done.stdout.splitlines()[-1].startswith("agentsweep: failed: lock: image archive ")


def test_misspelt_cell_matches_no_rule(small):
    right = "results/runs/task~question/agent~claude/mem~64MiB_cpus~1_rep~0/result.json"
    assert small.planned(right)["agent_run"] == 1
    for wrong in (right.replace("64MiB", "65MiB"), right.replace("cpus~1", "cpus~1.0")):
        done = small.snakemake("-n", wrong, check=False)
        assert "MissingRuleException" in done.stdout


def test_cell_that_snakemake_would_clamp_is_refused_by_name(small):
    configure(small, sweep={"cpus": [2]})
    assert small.planned("--cores", "2")["agent_run"] == 2
    done = small.snakemake("-n", "--cores", "1", check=False)
    assert done.returncode != 0
    assert (
        "task~question/agent~claude/mem~64MiB_cpus~2_rep~0 needs 2 cores and Snakemake gives 1 "
        "(--cores)"
    ) in done.stdout
    done = small.snakemake("-n", "--cores", "2", "--resources", "mem_mb=300", check=False)
    assert "needs 336 MB and Snakemake gives 300 (--resources mem_mb)" in done.stdout


def test_cells_larger_than_the_machine_are_left_out_with_a_reason_printed_once(small):
    configure(small, sweep={"memory": ["64MiB", "64TiB"], "skip_unfit": True})
    done = small.snakemake("-n")
    left_out = [line for line in done.stdout.splitlines() if "left out" in line]
    assert len(left_out) == 4
    assert left_out[0].startswith(
        "agentsweep: left out: task~question/agent~claude/mem~64TiB_cpus~0.5_rep~0 needs 64TiB"
    )
    assert small.planned()["agent_run"] == 4


def test_without_skip_unfit_a_cell_larger_than_the_machine_is_refused(small):
    configure(small, sweep={"memory": ["64TiB"]})
    done = small.snakemake("-n", check=False)
    assert done.returncode != 0
    assert "mem~64TiB_cpus~0.5_rep~0 needs" in done.stdout


def test_reservation_is_limit_and_overhead_in_whole_cores_and_decimal_megabytes(small):
    text = small.snakemake("-n", "--cores", "2").stdout
    blocks = text.split("rule agent_run:\n")[1:]
    assert len(blocks) == 4
    blocks = [block.split("\nrule ")[0] for block in blocks]
    for block in blocks:
        # 64 MiB + 256 MiB = 335.5 MB
        assert "mem_mb=336" in block
        assert "agent_sessions=1" in block
        assert "threads: " not in block  # Snakemake prints it from 2 on.


def test_sessions_are_capped_by_the_configuration_and_by_the_command_line(small):
    """The attribute is Snakemake's own, so that an upgrade may take it away."""
    configure(small, agent={"max_sessions": 1})
    text = small.file("workflow/rules/common.smk").read_text(encoding="utf-8")
    small.file("workflow/rules/common.smk").write_text(
        text + '\nprint("CAP", workflow.global_resources["agent_sessions"].value)\n',
        encoding="utf-8",
    )
    assert "CAP 1\n" in small.snakemake("-n").stdout
    assert "CAP 9\n" in small.snakemake("-n", "--resources", "agent_sessions=9").stdout
    assert "CAP 1\n" in small.snakemake("-n", "--resources", "mem_mb=9000").stdout


def test_partial_takes_the_cells_that_have_their_run(small, monkeypatch):
    """A sealed run counts and so does a published one, but not that of another spec."""
    from agentsweep.config.load import load as load_config

    monkeypatch.chdir(small.path)
    loaded = load_config([small.file("config/config.yaml")])
    cells = loaded.cells()
    digests = [loaded.spec_sha256(cell) for cell in cells]
    sealed = small.file("store") / digests[0] / "attempt-1"
    sealed.mkdir(parents=True)
    for cell, digest in ((cells[1], digests[1]), (cells[2], "0" * 64)):
        folder = small.file("results/runs") / cell.id
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps({"spec_sha256": digest}), encoding="utf-8")
    assert small.planned("--config", "partial=True")["trace_extract"] == 2
    assert small.planned()["trace_extract"] == 4


def test_another_results_directory_moves_every_output(small):
    done = small.snakemake("-n", "--config", "paths={results: elsewhere}")
    assert "elsewhere/figures/wall_time.pdf" in done.stdout
    assert " results/" not in done.stdout


def test_everything_runs_this_clones_modules(small):
    """The environment may have been made in another clone."""
    small.file("src/agentsweep/cli/checks/limits.py").write_text(
        "raise SystemExit(f'HERE {__file__}')\n", encoding="utf-8"
    )
    small.replace(
        "workflow/rules/common.smk", "\nFIGURES = (", "\nprint(codehash.SOURCE)\nFIGURES = ("
    )
    done = small.snakemake("--cores", "1", "doctor", check=False)
    assert f"{small.path}/src/agentsweep\n" in done.stdout
    assert f"HERE {small.path}/src/agentsweep/cli/checks/limits.py" in done.stdout


def test_unlocked_image_is_planned_and_then_refused_with_one_sentence(small):
    from agentsweep.containers import images
    from agentsweep.errors import ConfigError

    small.file("config/images.lock.yaml").unlink()
    done = small.snakemake("-n", "-p", "images")
    assert planned(done.stdout) == {"image_pull": 1, "image_fix": 1}
    assert "--digest unlocked --config-digest unlocked" in done.stdout
    with pytest.raises(ConfigError, match="run `snakemake --cores 1 lock`"):
        images.pull(None, "oci-archive:images/a.tar", "unlocked", "unlocked")


def test_reports_have_a_caption_for_every_figure(clone):
    text = clone.file("workflow/rules/common.smk").read_text(encoding="utf-8")
    figures = text.split("\nFIGURES = (")[1].split(")")[0].replace('"', "").replace(",", "").split()
    assert len(figures) == 9
    for figure in figures:
        assert clone.file(f"workflow/report/{figure}.rst").read_text(encoding="utf-8").strip()
        assert clone.file(f"workflow/scripts/figures/{figure}.py").is_file()


# The shortest session: a question and the model's answer.
RECORDED = "".join(
    json.dumps({"type": kind, "sessionId": "s", "uuid": kind, "timestamp": "2026-03-01T12:00:00Z",
                "message": {"id": "m", "role": kind, "content": [{"type": "text", "text": text}]}})
    + "\n"
    for kind, text in (("user", "What is 2+2?"), ("assistant", "It is 4."))
)  # fmt: skip

# Live agents

LIVE = {"claude": {**SMALL["agents"]["claude"], "model": "live", "credential": "env:DAG_KEY"}}


def test_live_runs_are_planned_without_a_key_and_said_to_be_paid(small):
    configure(small, agents=LIVE, agent={"base_url": "https://llm.example"})
    empty = small.path.parent / "empty"
    empty.mkdir()
    lines = plan_with_nothing(small, empty).splitlines()
    assert [line for line in lines if "paid" in line] == [
        "agentsweep: 4 live runs would be paid, 0 are in the store"
    ]
    configure(small, agents=LIVE, agent={"max_live_runs": 1})
    said = "; agent.max_live_runs leaves 1, and the other 3 will be refused"
    assert said in plan_with_nothing(small, empty)


def test_nothing_is_started_without_the_key_that_it_would_need(small):
    configure(small, agents=LIVE)
    for arguments in (("runs",), ("--snakefile", "workflow/Snakefile")):
        done = small.snakemake("--cores", "1", *arguments, check=False)
        assert done.returncode != 0
        assert "Traceback" not in done.stdout
        (line,) = [line for line in done.stdout.splitlines() if "DAG_KEY" in line]
        assert line.strip().startswith("agents.claude: credential: the variable DAG_KEY is not set")
        assert "rule " not in done.stdout
        assert not small.file("results").exists()
        assert not small.file("store").exists()
    # What needs no live run needs no key, and neither does marking files as up to date.
    done = small.snakemake("--cores", "1", "images", check=False)
    assert "DAG_KEY" not in done.stdout
    assert "rule image_pull" in done.stdout
    assert "DAG_KEY" not in small.snakemake("--cores", "1", "--touch", "runs", check=False).stdout
    # With the key the first job is begun; nothing of what it says holds the key.
    done = small.snakemake("--cores", "1", "runs", check=False, env={"DAG_KEY": "canary-41"})
    assert "rule image_pull" in done.stdout
    assert "canary-41" not in done.stdout
    written = [path for path in small.path.rglob("*") if path.is_file()]
    assert not [path for path in written if b"canary-41" in path.read_bytes()]


def test_all_jobs_of_an_invocation_know_that_they_are_of_one(small):
    """Also those of an executor that passes on nothing but what is declared."""
    configure(small, agents=LIVE)
    small.file("src/agentsweep/cli/checks/limits.py").write_text(
        "import os\nraise SystemExit(f'IN {os.environ[\"AGENTSWEEP_INVOCATION\"]}.')\n",
        encoding="utf-8",
    )
    common = small.file("workflow/rules/common.smk")
    common.write_text(
        common.read_text(encoding="utf-8") + "\nprint('DECLARED', sorted(workflow.envvars))\n",
        encoding="utf-8",
    )

    def name(**env) -> str:
        done = small.snakemake("--cores", "1", "doctor", check=False, env=env)
        declared = [f"AGENTSWEEP_{what}" for what in ("INVOCATION", "NOTES", "RETRIES")]
        assert f"DECLARED {declared}" in done.stdout
        return done.stdout.split("IN ")[1].split(".")[0]

    assert name() != name()
    assert name(AGENTSWEEP_INVOCATION="mine") == "mine"
    done = small.snakemake("-n", check=False, env={"AGENTSWEEP_INVOCATION": "a/b"})
    assert "AGENTSWEEP_INVOCATION: 'a/b' is no name" in done.stdout
    assert "Traceback" not in done.stdout


# Replays


@pytest.fixture(scope="module")
def all_replayed(tmp_path_factory):
    """A sweep that replays a session, with all runs made: sealed, published, nothing to be done."""
    from agentsweep.config.load import load as load_config
    from agentsweep.runs.run_cell import PUBLISHED
    from agentsweep.runs.store import Store, spec_sha256

    small = Clone.make(tmp_path_factory.mktemp("replays") / "base")
    small.file("recordings").mkdir()
    small.file("recordings/a.jsonl").write_text(RECORDED, encoding="utf-8")
    replay(small)
    with contextlib.chdir(small.path):
        loaded = load_config([small.file("config/config.yaml")])
        specs = [loaded.spec(cell) for cell in loaded.cells()]
        image = small.file("results/images") / loaded.image_of("question").directory
    image.mkdir(parents=True)
    (image / "pulled.json").write_text("{}", encoding="utf-8")
    (image / "image.json").write_text("{}", encoding="utf-8")
    store = Store(small.file("store"))
    for spec in specs:
        with store.locked(spec_sha256(spec), spec):
            attempt = store.begin(spec_sha256(spec))
            for file in PUBLISHED:
                (attempt.path / file).write_text('{"outcome": "completed"}', encoding="utf-8")
            store.finish(attempt, "sealed")
    small.snakemake("--cores", "1", "runs")
    assert small.planned("runs") == {}
    return small


@pytest.fixture
def replayed(all_replayed, tmp_path):
    """A copy of it, to change."""
    return all_replayed.copy(tmp_path / "clone")


def replay(clone, path="recordings/a.jsonl", **keys) -> None:
    agent = {**SMALL["agents"]["claude"], "model": {"replay": path}, **keys}
    configure(clone, agents={"claude": agent})


def test_a_recording_that_says_something_else_reruns_what_replays_it(replayed):
    replayed.replace("recordings/a.jsonl", "It is 4.", "It is four.")
    assert replayed.planned("runs") == {"agent_run": 4}
    replayed.replace("recordings/a.jsonl", "It is four.", "It is 4.")
    assert replayed.planned("runs") == {}


def test_a_recording_that_is_moved_reruns_nothing(replayed):
    replayed.file("recordings").rename(replayed.file("moved"))
    replayed.file("moved/a.jsonl").rename(replayed.file("moved/b.jsonl"))
    replay(replayed, "moved/b.jsonl")
    assert replayed.planned("runs") == {}
    # A directory with the same session in it is another name for it.
    replayed.file("moved/run").mkdir()
    replayed.file("moved/b.jsonl").rename(replayed.file("moved/run/trace.jsonl"))
    replay(replayed, "moved/run")
    assert replayed.planned("runs") == {}


def test_another_pace_of_the_recording_reruns_what_replays_it(replayed):
    replay(replayed, latency_scale=0.5)
    assert replayed.planned("runs") == {"agent_run": 4}
    replay(replayed, latency_scale=1.0)
    assert replayed.planned("runs") == {}


def test_a_recording_that_is_none_is_one_line(small):
    replay(small, "config/config.yaml")
    done = small.snakemake("-n", check=False)
    assert done.returncode != 0
    assert "Traceback" not in done.stdout
    (line,) = [line for line in done.stdout.splitlines() if "model.replay" in line]
    assert line.strip().startswith(
        f"config/config.yaml: agents.claude.model.replay: {small.path}/config/config.yaml is not a "
        "Claude Code session file: "
    )


def test_the_demos_run_is_replayed_by_one_more_file(clone, tmp_path, monkeypatch):
    """config/replay.yaml, once the demo has made the run that it names."""
    from agentsweep.config import layers
    from agentsweep.config.load import load as load_config

    made = clone.copy(tmp_path / "clone")
    # The machine of the test may be too small for the demo's largest cells.
    made.replace("config/replay.yaml", "skip_unfit: true", "skip_unfit: false")
    overlay = ["--configfile", "config/replay.yaml", "--cores", "2", "--resources", "mem_mb=9000"]
    done = made.snakemake("-n", *overlay, check=False)
    assert "there is no such file or directory: make the recording first" in done.stdout
    named = yaml.safe_load(made.file("config/replay.yaml").read_text(encoding="utf-8"))["agents"][
        "replay"
    ]
    monkeypatch.chdir(made.path)
    demo = load_config(layers.files([]))
    assert named["model"]["replay"] in [f"results/runs/{cell.id}" for cell in demo.cells()]
    of_demo = demo.agent_settings("claude")
    assert [named[key] for key in ("model_id", "version")] == [
        getattr(of_demo, key) for key in ("model_id", "version")
    ]
    recorded = made.file(named["model"]["replay"])
    recorded.mkdir(parents=True)
    (recorded / "result.json").write_text("{}", encoding="utf-8")
    (recorded / "trace.jsonl").write_text(RECORDED, encoding="utf-8")
    done = made.snakemake("-n", *overlay)
    jobs = planned(done.stdout)
    assert (jobs["agent_run"], jobs["trace_extract"], jobs["dataset"]) == (9, 9, 1)
    assert " results/replay/runs/task~starlette-1147/agent~replay/mem~1GiB_cpus~2_" in done.stdout
    assert " results/runs/" not in done.stdout


def test_no_rule_uses_what_the_workflow_must_not():
    """ancient() and protected() hide stale runs, `run:` starts a Snakemake for each job.

    A checkpoint hides jobs from dry runs; only which patches there will be cannot be known before.
    A configuration may be longer than an argument, and Snakemake prints a failed job's command: it
    goes in by a file, and a here-document is none.
    """
    checkpoints = []
    for path in [ROOT / "Snakefile", *(ROOT / "workflow").rglob("*.smk")]:
        words = path.read_text(encoding="utf-8")
        for word in ("ancient(", "protected(", "\n    run:", "--config {params", "<<"):
            assert word not in words, f"{path.name}: {word}"
        checkpoints += re.findall(r"^checkpoint (\w+):", words, re.MULTILINE)
    assert checkpoints == ["patches"]


def row(instance_id: str) -> dict:
    """The least that a row of SWE-bench has."""
    patch = "diff --git a/{0} b/{0}\n--- a/{0}\n+++ b/{0}\n@@ -1 +1 @@\n-a\n+b\n"
    return {
        "instance_id": instance_id, "repo": "shop/till", "base_commit": "a" * 40,
        "problem_statement": "It is wrong.", "patch": patch.format("a.py"),
        "test_patch": patch.format("test_a.py"), "FAIL_TO_PASS": ["a"], "PASS_TO_PASS": [],
    }  # fmt: skip


def test_a_task_set_is_planned_from_its_file_and_written_down(small):
    """Two rows of three make two tasks; another row is written down anew.

    The filter is longer than an argument of a command may be.
    """
    rows = [row(f"shop__till-{number}") for number in range(3)]
    small.file("rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    live = {"model": "live", "model_id": "claude-haiku-4-5-20251001", "version": "2.1.330"}
    tasks = {"mine": {"rows": {"file": "rows.jsonl"}, "filter": {"ids": [
        "shop__till-0", "shop__till-2"], "repository": ["shop/till", "x" * 2**17]}}}  # fmt: skip
    configure(small, sweep={"tasks": ["mine"], "replicates": 1}, tasks=tasks,
              agents={"claude": live})  # fmt: skip
    content = yaml.safe_load(small.file("config/config.yaml").read_text(encoding="utf-8"))
    del content["tasks"]["question"]
    small.file("config/config.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    assert small.planned("runs")["agent_run"] == 4
    small.snakemake("--cores", "1", "results/tasks.json")
    said = json.loads(small.file("results/tasks.json").read_text(encoding="utf-8"))
    assert [task["name"] for task in said["tasks"]] == ["shop__till-0", "shop__till-2"]
    assert small.planned("results/tasks.json") == {}
    rows[2]["test_patch"] += "\n"
    small.file("rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert small.planned("results/tasks.json") == {"tasks": 1}
