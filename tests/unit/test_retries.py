"""What is tried again, how often, and what is said in the end."""

import errno
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from agentsweep import retries
from agentsweep.errors import AgentsweepError, ConfigError, InfraError, LastingError
from agentsweep.files import disk_errors
from agentsweep.runs.signals import Interrupted
from agentsweep.workflow import failures, job_files
from agentsweep.workflow.job_files import JobFile
from agentsweep.workflow.sweep import shell_prefix

SOURCE = Path(retries.__file__).parents[1]


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (InfraError("the registry failed"), True),
        (InfraError("`podman pull` failed: write: No space left on device"), False),
        (InfraError("`podman pull` failed: unauthorized: access denied"), False),
        (LastingError("the agent binary is missing"), False),
        (AgentsweepError("agent.on_miss is `fail`"), False),
        (ConfigError("not in the lock file"), False),
        (Interrupted(15), False),
    ],
)
def test_what_may_pass(error, passes):
    assert retries.may_pass(error) is passes


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_a_disk_that_is_full_stays_so(number, tmp_path):
    with pytest.raises(LastingError), disk_errors(tmp_path):
        raise OSError(number, "no")


JOB = """\
import sys, time
from pathlib import Path
from agentsweep import retries
from agentsweep.errors import InfraError, LastingError
time.sleep = lambda s: print("slept", s, flush=True)
def command():
    said = sys.stdin.read()
    with Path("tries").open("a") as file:
        file.write(said)
    tries = Path("tries").read_text().count(said)
    if tries < int(sys.argv[1]):
        raise {error}(f"no {{tries}}")
    return 0
try:
    sys.exit(retries.run(command, sys.argv[1:], lambda line: print(line, flush=True)))
except InfraError as error:
    print("agentsweep:", error)
    sys.exit(1)
except Exception as error:
    print("agentsweep: noted", error)
    sys.exit(1)
"""


def job(folder: Path, needs: int, left: str | None, error="InfraError"):
    """Run a job that goes well at its so-manieth try; returns exit code, tries and output."""
    (folder / "job.py").write_text(JOB.format(error=error), encoding="utf-8")
    (folder / "stdin").write_text("configuration\n", encoding="utf-8")
    given = {} if left is None else {retries.RETRIES: left}
    with (folder / "stdin").open("rb") as stdin:
        done = subprocess.run(
            [sys.executable, "job.py", str(needs)],
            cwd=folder, stdin=stdin, capture_output=True, text=True, encoding="utf-8",
            env={"PYTHONPATH": str(SOURCE), retries.NOTES: str(folder / "notes")} | given,
            timeout=60,
        )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    tries = (folder / "tries").read_text(encoding="utf-8").count("configuration")
    return done.returncode, tries, done.stdout.splitlines()


def test_a_job_is_tried_again_with_its_configuration_on_stdin(tmp_path):
    code, tries, said = job(tmp_path, 3, "2")
    assert (code, tries) == (0, 3)
    assert said == [
        *("failed: no 1; trying again in 5 s (2 left)", "slept 5"),
        *("failed: no 2; trying again in 10 s (1 left)", "slept 10"),
    ]
    assert not (tmp_path / "notes").exists()


@pytest.mark.parametrize("left", ["0", None, "none"])
def test_no_retries_are_none_at_all(tmp_path, left):
    assert job(tmp_path, 2, left) == (1, 1, ["agentsweep: no 1"])


def test_what_stays_is_tried_once_and_not_started_by_snakemakes_own_retry(tmp_path):
    assert job(tmp_path, 3, "2", "LastingError") == (1, 1, ["agentsweep: no 1"])
    assert job(tmp_path, 3, "2", "LastingError") == (1, 1, ["agentsweep: noted no 1"])


KILLED = """\
# Kills itself as often as the file `signals` has lines, each with a signal.
cat >> said
number=$(wc -l < said)
signal=$(sed -n "${number}p" signals)
[ -z "$signal" ] || kill "-$signal" $$
echo "as it ended: $*"
"""


def killed(folder: Path, signals: list[str], left: str | None, before: str = ""):
    """Run a job's command, which signals end; returns exit code, starts, seconds slept, output."""
    (folder / "bin").mkdir()
    for name, script in (("agentsweep", KILLED), ("sleep", 'echo "$1" >> slept\n' + before)):
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{script}", encoding="utf-8")
        (folder / "bin" / name).chmod(0o755)
    (folder / "signals").write_text("".join(f"{line}\n" for line in signals), encoding="utf-8")
    (folder / "stdin").write_text("configuration\n", encoding="utf-8")
    given = {} if left is None else {retries.RETRIES: left}
    prefix = shell_prefix(SOURCE, folder / "bin" / "python", False)
    command = f"{prefix} agentsweep run 'a b' < stdin > log 2>&1"
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env={"PATH": "/usr/bin:/bin"} | given,
        stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=60,
    )  # fmt: skip
    starts = (folder / "said").read_text(encoding="utf-8").count("configuration")
    slept = folder / "slept"
    slept_s = slept.read_text(encoding="utf-8").split() if slept.exists() else []
    log = (folder / "log").read_text(encoding="utf-8")
    # What bash says itself of a process that a signal ended.
    lines = [line for line in log.splitlines() if not line.startswith("/")]
    return done.returncode, starts, slept_s, lines


def test_a_job_that_is_killed_is_started_again_with_its_configuration_on_stdin(tmp_path):
    assert killed(tmp_path, ["KILL", "SEGV"], "2") == (
        *(0, 3, ["5", "5"]),
        [
            "killed by SIGKILL; trying again in 5 s (2 left)",
            "killed by SIGSEGV; trying again in 5 s (1 left)",
            "as it ended: run a b",
        ],
    )


def test_a_job_that_is_always_killed_ends_and_says_so(tmp_path):
    code, starts, _, said = killed(tmp_path, ["KILL"] * 5, "2")
    assert (code, starts, said[-1]) == (137, 3, "agentsweep: killed by SIGKILL")
    assert failures.sentence("\n".join(said)) == "killed by SIGKILL"


@pytest.mark.parametrize("left", ["0", None, "none"])
def test_a_killed_job_has_no_more_retries_than_there_are(tmp_path, left):
    assert killed(tmp_path, ["KILL"], left) == (137, 1, [], ["agentsweep: killed by SIGKILL"])


@pytest.mark.parametrize("number", ["INT", "TERM", "HUP"])
def test_a_job_that_was_asked_to_end_is_not_started_again(tmp_path, number):
    code, starts, *_ = killed(tmp_path, [number], "2")
    assert (code, starts) == (128 + signal.Signals[f"SIG{number}"], 1)


def test_a_job_whose_shell_is_asked_to_end_is_not_started_again(tmp_path):
    asked = "kill -TERM \"$(awk '{print $4}' /proc/$$/stat)\"\n"
    code, starts, slept_s, _ = killed(tmp_path, ["KILL"], "2", before=asked)
    assert (code, starts, slept_s) == (137, 1, ["5"])


@pytest.mark.slow
def test_a_job_whose_snakemake_has_gone_is_not_started_again(tmp_path):
    # The shell that starts the job's ends at once, and what it leaves is another's child.
    prefix = shell_prefix(SOURCE, tmp_path / "bin" / "python", False)
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "agentsweep"
    script.write_text("#!/bin/sh\necho x >> starts\nsleep 1\nkill -KILL $$\n", encoding="utf-8")
    script.chmod(0o755)
    job = shlex.quote(f"{prefix} agentsweep run > log 2>&1; true")
    subprocess.run(
        ["bash", "-c", f"bash -c {job} & sleep 0.2"], cwd=tmp_path, check=True, timeout=60,
        env={"PATH": "/usr/bin:/bin", retries.RETRIES: "2"},
    )  # fmt: skip
    deadline = time.monotonic() + 30
    while "agentsweep:" not in (tmp_path / "log").read_text(encoding="utf-8"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert (tmp_path / "starts").read_text(encoding="utf-8") == "x\n"


def test_a_commands_file_is_written_when_the_command_is_made(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    wanted = JobFile("tex\u0301t")
    assert not list(tmp_path.iterdir())
    path = Path(f"{wanted}")
    assert path.read_bytes() == "tex\u0301t".encode()
    assert f"{JobFile('tex' + chr(0x301) + 't')}" == str(path)
    assert [p.name for p in job_files.FOLDER.iterdir()] == [path.name]
    before = path.stat().st_mtime_ns
    assert str(JobFile("tex\u0301t")) == str(path) and path.stat().st_mtime_ns == before
    assert not Path(str(JobFile("other", write=False))).exists()


def failed(tmp_path, log: str | None, name="run", **wildcards):
    path = tmp_path / f"{name}.log"
    if log is not None:
        path.write_text(log, encoding="utf-8")
    return SimpleNamespace(
        is_group=lambda: False, log=[str(path)], wildcards=wildcards,
        rule=SimpleNamespace(name=name),
        params={"cell": "task~a"} if "replicate" in wildcards else {},
    )  # fmt: skip


def test_the_last_lines_say_each_failed_job_with_its_sentence(tmp_path):
    run = failed(tmp_path, "starting\nagentsweep: task~a: no engine: install it\n", replicate="0")
    pull = failed(tmp_path, "agentsweep: one\nagentsweep: two\n", "image_pull", image="x")
    figure = failed(tmp_path, "Traceback\nValueError: no\n", "figure_a")
    silent = failed(tmp_path, None, "tables")
    fine = failed(tmp_path, "done\n", "extract")
    group = SimpleNamespace(is_group=lambda: True, jobs=[fine, pull])
    assert failures.lines([run, group, figure, silent]) == [
        f"agentsweep: failed: figure_a: ValueError: no (see {tmp_path}/figure_a.log)",
        "agentsweep: failed: image_pull x: one; two",
        "agentsweep: failed: tables: it ended without a word; see what Snakemake says of it above",
        "agentsweep: failed: task~a: no engine: install it",
    ]
