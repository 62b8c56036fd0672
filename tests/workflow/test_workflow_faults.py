"""Snakemake killed, stopped, and started with a secret around it: with real runs.

Nothing sealed is lost, nothing of ours is left after the next start, and that one completes.
"""

import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from clone import BIN, ROOT, Clone, planned

BINARY = ROOT / "agents" / "claude-2.1.330" / "claude"
ARCHIVE = ROOT / "images" / "logstats.tar"
MISSING = [str(path) for path in (BINARY, ARCHIVE) if not path.is_file()]
if shutil.which("podman") is None:
    MISSING.append("podman")
pytestmark = pytest.mark.skipif(
    bool(MISSING) and not os.environ.get("CI"),
    reason=f"NOT RUN, these tests need {' and '.join(MISSING)}: run `make test`",
)

CANARY = "canary-77aa01-secret"
CONFIG = """\
dataset: faults
sweep: {memory: [512MiB], cpus: [1]}
tasks: {wait: config/tasks/wait.yaml}
agents: {claude: {model_id: claude-haiku-4-5-20251001, version: "2.1.330"}}
agent: {timeout_s: 300, stall_s: 120}
# A line of its own: other runs on this machine must not keep a test waiting.
machine: {ledger: line}
"""
TASK = """\
kind: prompt
image: oci-archive:images/logstats.tar
workdir: /faults
prompt: Wait a little.
scenario: config/scenarios/wait.yaml
"""
SCENARIO = """\
description: Wait for some seconds.
turns:
  - tools: [{Bash: {command: "echo begun > begun.txt; sleep 4", description: Wait}}]
  - text: Done.
"""


@pytest.fixture(scope="module")
def ready(tmp_path_factory):
    """A clone whose image is pulled and fixed, and nothing else."""
    clone = Clone.make(tmp_path_factory.mktemp("faults") / "base")
    clone.file("agents").symlink_to(ROOT / "agents")
    clone.file("images").symlink_to(ROOT / "images")
    clone.file("config/config.yaml").write_text(CONFIG, encoding="utf-8")
    clone.file("config/images.lock.yaml").write_text("images: {}\n", encoding="utf-8")
    clone.file("config/tasks/wait.yaml").write_text(TASK, encoding="utf-8")
    clone.file("config/scenarios/wait.yaml").write_text(SCENARIO, encoding="utf-8")
    clone.snakemake("--cores", "1", "lock")
    clone.snakemake("--cores", "1", "images")
    return clone


@pytest.fixture
def clone(ready, tmp_path):
    return ready.copy(tmp_path / "clone")


def start(clone: Clone, *options: str) -> subprocess.Popen:
    """Snakemake in a process group of its own, once its agent is at work."""
    process = subprocess.Popen(
        [str(BIN / "snakemake"), "--cores", "1", "runs", *options],
        cwd=clone.path,
        env={"PATH": f"{BIN}:/usr/bin:/bin:/usr/sbin:/sbin", "HOME": os.environ.get("HOME", "/")},
        stdin=subprocess.DEVNULL,
        stdout=clone.file("log").open("w", encoding="utf-8"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    # Seconds on a machine that has nothing else to do.
    deadline = time.monotonic() + 180
    while not [p for p in clone.path.glob("store/*/*.partial/api.jsonl") if p.stat().st_size]:
        at_work = process.poll() is None and time.monotonic() < deadline
        assert at_work, clone.file("log").read_text(encoding="utf-8")
        time.sleep(0.1)
    return process


def containers(clone: Clone) -> list[str]:
    keys = [path.name[:12] for path in clone.path.glob("store/*")]
    done = subprocess.run(
        ["podman", "ps", "--all", "--format", "{{.Names}}"],
        capture_output=True,
        text=True,
        check=True,
        cwd="/",
        encoding="utf-8",
    )
    return [name for name in done.stdout.split() if any(key in name for key in keys)]


def processes(clone: Clone) -> list[str]:
    """Runners, samplers and gateways with a file of this clone open, or named by it."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().decode(errors="replace")
            links = [str(fd.readlink()) for fd in (path / "fd").iterdir()]
        except OSError:
            continue
        if "agentsweep" in words and any(str(clone.path) in link for link in links):
            found.append(words)
    return found


def finish(clone: Clone) -> list[str]:
    """The next start, as a user makes it; returns the attempts there are afterwards."""
    clone.snakemake("--unlock")
    clone.snakemake("--cores", "1", "runs")
    assert clone.planned("runs") == {}
    deadline = time.monotonic() + 10
    while containers(clone) or processes(clone):
        assert time.monotonic() < deadline, (containers(clone), processes(clone))
        time.sleep(0.2)
    return sorted(path.name for path in clone.path.glob("store/*/attempt-*"))


def test_a_killed_snakemake_leaves_its_run_to_end_and_be_recalled(clone):
    snakemake = start(clone)
    snakemake.kill()
    snakemake.wait()
    assert finish(clone) == ["attempt-1"]


def test_everything_killed_at_once_runs_again(clone):
    snakemake = start(clone)
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(path.name)) == snakemake.pid:
                os.kill(int(path.name), signal.SIGKILL)
        except OSError:
            continue
    snakemake.wait()
    assert finish(clone) == ["attempt-1.interrupted", "attempt-2"]


def test_ctrl_c_leaves_nothing_behind(clone):
    snakemake = start(clone)
    os.killpg(snakemake.pid, signal.SIGINT)
    assert snakemake.wait(30) != 0
    deadline = time.monotonic() + 15
    while containers(clone) or processes(clone):
        assert time.monotonic() < deadline, (containers(clone), processes(clone))
        time.sleep(0.2)
    assert [p.name for p in clone.path.glob("store/*/attempt-*")] == ["attempt-1.interrupted"]
    assert finish(clone) == ["attempt-1.interrupted", "attempt-2"]


def test_a_secret_around_the_workflow_is_in_no_file_of_it(clone):
    secrets = dict.fromkeys(("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "MY_SECRET"), CANARY)
    # A job that has no use for a key does not have it either.
    telling = (
        "import os\n\nprint('told', [os.environ.get(n) for n in ('HOME', 'ANTHROPIC_API_KEY')])"
    )
    script = "workflow/scripts/figures/outcome_map.py"
    clone.replace(script, "def draw(", f"{telling}\n\n\ndef draw(")
    done = clone.snakemake("--cores", "2", "results/figures/outcome_map.pdf", env=secrets)
    assert CANARY not in done.stdout
    (log,) = clone.file("logs").rglob("*outcome_map*.log")
    assert log.read_text(encoding="utf-8").startswith("told ['/")
    found = [path for path in clone.path.rglob("*") if path.is_file() and not path.is_symlink()]
    assert {part.parts[len(clone.path.parts)] for part in found} >= {
        ".snakemake",
        "results",
        "store",
        "logs",
    }
    for path in found:
        assert CANARY.encode() not in path.read_bytes(), path


DROPPING = """\
#!/bin/sh
# An engine that takes the limits and forgets them.
kept=
for word; do
  shift
  if [ "$kept" = skip ]; then kept=; continue; fi
  case $word in
    --memory | --memory-swap | --cpus) kept=skip ;;
    *) set -- "$@" "$word" ;;
  esac
done
exec REAL "$@"
"""


def test_a_host_whose_limits_do_not_hold_is_refused_before_an_image_is_pulled(clone):
    engine = clone.file("bin") / "podman"
    engine.parent.mkdir()
    engine.write_text(DROPPING.replace("REAL", shutil.which("podman")), encoding="utf-8")
    engine.chmod(0o755)
    shutil.rmtree(clone.file("results"))
    path = f"{engine.parent}:{BIN}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    # A dry run asks no engine.
    assert planned(clone.snakemake("-n", "runs", env={"PATH": path}).stdout)["image_pull"] == 1
    done = clone.snakemake("--cores", "1", "runs", check=False, env={"PATH": path})
    assert done.returncode != 0
    assert "this host does not enforce limits" in done.stdout
    assert "rule image_pull:" not in done.stdout.split("this host does not enforce")[0]
    assert not clone.file("results/images").exists() and not clone.file("store").exists()


FAILING_ONCE = """\
#!/bin/sh
case " $* " in
*" exec "*" /run/agentsweep/start "*)
  [ -e "MARK" ] || { touch "MARK"; exit 125; } ;;
esac
exec REAL "$@"
"""


def test_an_engine_that_fails_once_is_asked_again_by_the_same_snakemake(clone):
    """As often as the profile says (`retries`)."""
    engine = clone.file("bin") / "podman"
    engine.parent.mkdir()
    script = FAILING_ONCE.replace("REAL", shutil.which("podman"))
    engine.write_text(script.replace("MARK", str(clone.file("mark"))), encoding="utf-8")
    engine.chmod(0o755)
    path = f"{engine.parent}:{BIN}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    clone.snakemake("--cores", "1", "runs", env={"PATH": path})
    assert clone.file("mark").exists()
    (log,) = clone.file("logs/agent_run").rglob("*.log")
    assert "trying again in 5 s (2 left)" in log.read_text(encoding="utf-8")
    found = sorted(path.name for path in clone.file("store").glob("*/attempt-*"))
    assert found == ["attempt-1.failed", "attempt-2"]


def runner(clone: Clone) -> int:
    """The process of `agentsweep run` that works in a clone."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_bytes().decode(errors="replace").split("\0")
            here = (path / "cwd").readlink() == clone.path
        except OSError:
            continue
        if here and "run" in words[:4] and any(Path(w).name == "agentsweep" for w in words[:3]):
            return int(path.name)
    raise AssertionError("there is no runner")


def test_a_killed_runner_is_started_again_by_the_same_snakemake(clone):
    snakemake = start(clone)
    os.kill(runner(clone), signal.SIGKILL)
    assert snakemake.wait(180) == 0, clone.file("log").read_text(encoding="utf-8")
    (log,) = clone.file("logs/agent_run").rglob("*.log")
    said = log.read_text(encoding="utf-8")
    assert "killed by SIGKILL; trying again in 5 s (2 left)" in said
    assert finish(clone) == ["attempt-1.interrupted", "attempt-2"]


def test_without_retries_a_killed_runner_fails_its_cell_and_the_last_line_says_so(clone):
    snakemake = start(clone, "--retries", "0")
    os.kill(runner(clone), signal.SIGKILL)
    assert snakemake.wait(180) != 0
    *_, last = clone.file("log").read_text(encoding="utf-8").splitlines()
    assert last.startswith("agentsweep: failed: task~") and last.endswith(": killed by SIGKILL")
    assert finish(clone) == ["attempt-1.interrupted", "attempt-2"]


def test_what_is_recalled_needs_no_engine_at_the_start(clone):
    clone.snakemake("--cores", "1", "runs")
    run = next(clone.file("results/runs").glob("task~*/agent~*/mem~*"))
    shutil.rmtree(run)
    engine = clone.file("bin") / "podman"
    engine.parent.mkdir()
    engine.write_text("#!/bin/sh\nexit 125\n", encoding="utf-8")
    engine.chmod(0o755)
    path = f"{engine.parent}:{BIN}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
    clone.snakemake("--cores", "1", "runs", env={"PATH": path})
    assert (run / "result.json").exists()
    # And a run that is to be made again does need one.
    cell = str(run.relative_to(clone.file("results/runs")))
    clone.agentsweep("rerun", cell)
    assert clone.planned("runs") == {"agent_run": 1}
    done = clone.snakemake("--cores", "1", "runs", check=False, env={"PATH": path})
    assert done.returncode != 0 and "rule agent_run:" not in done.stdout
    assert clone.sealed() == set()
