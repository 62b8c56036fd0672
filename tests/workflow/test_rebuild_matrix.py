"""The rebuild matrix: one thing changes; exactly these jobs are planned, exactly so many runs made.

Everything is real: images, containers, the agent, the store, the figures. One finished sweep of
four cells (two tasks in images of their own, under two memory limits; one of them has tests, and
its two runs leave one patch) is made once; each line of the matrix changes a copy of it, so that
each is also a clone that was moved. After every change the workflow is run, and must then have
nothing more to do.
"""

import json
import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass, field

import pytest
import yaml
from clone import ROOT, Clone

BINARY = ROOT / "agents" / "claude-2.1.330" / "claude"
ARCHIVES = {name: ROOT / "images" / f"{name}.tar" for name in ("logstats", "starlette-1147")}
MISSING = [
    what
    for what, there in (
        ("podman", shutil.which("podman")),
        ("skopeo", shutil.which("skopeo")),
        *((str(path), path.is_file()) for path in (BINARY, *ARCHIVES.values())),
    )
    if not there
]
pytestmark = pytest.mark.skipif(
    bool(MISSING) and not os.environ.get("CI"),
    reason=f"NOT RUN, the rebuild matrix needs {' and '.join(MISSING)}: run `make test`",
)

CONFIG = """\
# The matrix.
dataset: matrix
sweep:
  tasks: [question, code]
  agents: [claude]
  memory: [448MiB, 512MiB]
  cpus: [1]
tasks:
  question: config/tasks/question.yaml
  code: config/tasks/code.yaml
agents:
  claude: {model_id: claude-haiku-4-5-20251001, version: "2.1.330"}
agent: {max_sessions: 2, timeout_s: 300, stall_s: 120}
# Once is enough: how often a task is validated changes no plan.
grading: {validations: 1}
# Other runs on this machine must not keep a test waiting.
machine: {ledger: line}
# A user that no other sweep has: the images that are made here are removed afterwards.
container: {uid: 1147, gid: 1147}
"""
QUESTION = """\
kind: prompt
image: oci-archive:images/logstats.tar
workdir: /matrix
prompt: Say hello.
scenario: config/scenarios/question.yaml
"""
CODE = """\
kind: swe
row: {file: config/rows/matrix.jsonl, id: demo__hello-1}
prompt: Say hello. {problem_statement}
scenario: config/scenarios/code.yaml
"""
NEW_FILE = """\
diff --git a/{path} b/{path}
new file mode 100644
--- /dev/null
+++ b/{path}
@@ -0,0 +1,{count} @@
{lines}
"""
SCENARIO = """\
description: One command, one word.
turns:
  - tools: [{{Bash: {{command: "echo {name} > hello.txt", description: Say hello}}}}]
  - text: Done.
"""
ALL_FIGURES = 9


def new_file(path: str, *lines: str) -> str:
    return NEW_FILE.format(path=path, count=len(lines), lines="\n".join(f"+{li}" for li in lines))


def row() -> dict:
    """A benchmark row whose one test wants what the scenario writes."""
    test = (
        "from pathlib import Path",
        "def test_hello():",
        '    assert Path("hello.txt").read_text() == "code\\n"',
    )
    return {
        "instance_id": "demo__hello-1",
        "repo": "demo/hello",
        "base_commit": "0" * 40,
        "image_name": "oci-archive:images/starlette-1147.tar",
        "problem_statement": "There is no hello.",
        "patch": new_file("hello.txt", "code"),
        "test_patch": new_file("tests/test_hello.py", *test),
        "FAIL_TO_PASS": ["tests/test_hello.py::test_hello"],
        "PASS_TO_PASS": [],
        "install_config": {"test_cmd": "pytest -rA --no-cov", "log_parser": "parse_log_pytest"},
    }


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The sweep, run to its end. Nobody changes it."""
    clone = Clone.make(tmp_path_factory.mktemp("matrix") / "base")
    clone.file("agents").symlink_to(ROOT / "agents")
    clone.file("images").symlink_to(ROOT / "images")
    clone.file("config/config.yaml").write_text(CONFIG, encoding="utf-8")
    clone.file("config/images.lock.yaml").unlink()
    clone.file("config/rows/matrix.jsonl").write_text(json.dumps(row()) + "\n", encoding="utf-8")
    for name, task in (("question", QUESTION), ("code", CODE)):
        clone.file(f"config/tasks/{name}.yaml").write_text(task, encoding="utf-8")
        clone.file(f"config/scenarios/{name}.yaml").write_text(
            SCENARIO.format(name=name), encoding="utf-8"
        )
    clone.snakemake("--cores", "1", "lock")
    assert graded(clone.snakemake("--cores", "2").stdout) == 1
    assert clone.planned() == {}
    # One of the runs' patch; the row's own and none validate the task.
    assert (len(clone.sealed()), len(clone.gradings())) == (4, 3)
    yield clone
    for record in clone.path.parent.glob("*/results/images/*/image.json"):
        made = yaml.safe_load(record.read_text(encoding="utf-8"))
        for image in (made["tag"], made["id"]):
            subprocess.run(["podman", "rmi", "--force", image], capture_output=True, check=False)


AGGREGATES = {"dataset": 1, "figure": ALL_FIGURES}
VALIDATED = {"validate_task": 1}


def graded(output: str) -> int:
    """How many grading jobs a run of the workflow had."""
    return len(re.findall(r"^(?:local)?rule grade:", output, re.MULTILINE))


def whole(runs: int, images: int = 0) -> dict[str, int]:
    """A number of runs, and all that comes after them."""
    counts = {"agent_run": runs, "trace_extract": runs, "patches": 1, **AGGREGATES}
    of_images = {"image_pull": images, "image_fix": images, "tasks": 1}
    return counts | (of_images if images else {})


def nothing(clone):
    pass


def what_concerns_no_result(clone):
    """Each of these alone plans nothing, so all of them together do."""
    for change in (
        comment,
        spell_otherwise,
        move_task_file,
        edit_scenario_description,
        change_sessions,
        change_runner,
        distribute_images,
    ):
        change(clone)


def comment(clone):
    clone.replace("config/config.yaml", "# The matrix.", "# The matrix.\n# A comment.")
    clone.replace("config/tasks/code.yaml", "kind: swe", "# A comment.\nkind: swe")


def add_memory(clone):
    clone.replace("config/config.yaml", "[448MiB, 512MiB]", "[448MiB, 512MiB, 576MiB]")


def remove_memory(clone):
    clone.replace("config/config.yaml", "[448MiB, 512MiB]", "[512MiB]")


def add_cpus(clone):
    clone.replace("config/config.yaml", "cpus: [1]", "cpus: [1, 2]")


def spell_otherwise(clone):
    clone.replace("config/config.yaml", "[448MiB, 512MiB]", "[448m, 0.5GiB]")
    clone.replace("config/config.yaml", "cpus: [1]", "cpus: ['1.0']")


def edit_prompt(clone):
    clone.replace("config/tasks/code.yaml", "Say hello.", "Say hello politely.")


def edit_scenario(clone):
    clone.replace("config/scenarios/code.yaml", "text: Done.", "text: Finished.")


def edit_patch(clone):
    clone.replace("config/scenarios/code.yaml", "echo code", "echo other")


def change_agent_setting(clone):
    clone.replace("config/config.yaml", "timeout_s: 300", "timeout_s: 301")


def change_grader(clone):
    clone.replace("src/agentsweep/grading/grading.py", "GRADER = 1\n", "GRADER = 2\n")


def change_verdict(clone):
    source = clone.file("src/agentsweep/grading/verdict.py")
    source.write_text(
        source.read_text(encoding="utf-8") + "\n# Another verdict.\n", encoding="utf-8"
    )


def name_task_twice(clone):
    """The same row and image by another name: nothing is validated again."""
    clone.replace("config/config.yaml", "tasks: [question, code]", "tasks: [question, code, same]")
    clone.replace("config/config.yaml", "tasks:\n", "tasks:\n  same: config/tasks/code.yaml\n")


def change_grading_memory(clone):
    clone.replace("config/config.yaml", "{validations: 1}", "{validations: 1, memory: 1GiB}")


def keep_invalid(clone):
    clone.replace("config/config.yaml", "{validations: 1}", "{validations: 1, keep_invalid: true}")


def remove_validation(clone):
    shutil.rmtree(clone.file("results/validation"))


def edit_test(clone):
    clone.replace("config/rows/matrix.jsonl", "def test_hello", "def test_hello_again")
    clone.replace("config/rows/matrix.jsonl", "::test_hello", "::test_hello_again")


def correct_test_name(clone):
    """What the agent gets stays, what its patch is judged by does not."""
    clone.replace(
        "config/rows/matrix.jsonl", '"PASS_TO_PASS": []', '"PASS_TO_PASS": ["tests/x.py::y"]'
    )


def rerun_one(clone):
    cell = "task~code/agent~claude/mem~512MiB_cpus~1_rep~0"
    said = clone.agentsweep("rerun", cell)
    assert f"{cell}: the next `snakemake` makes a new run" in said
    assert clone.agentsweep("plan").count("would run") == 1 + 1  # the cell, and the sum


def edit_issue(clone):
    clone.replace("config/rows/matrix.jsonl", "There is no hello.", "There is still no hello.")


def repeat_what_went_well(clone):
    clone.replace("config/config.yaml", "agent: {", "agent: {repeat: [api_error], ")


def repeat_a_bad_hour(clone):
    """One run is said to have ended by the provider's fault."""
    repeat_what_went_well(clone)
    found = "task~code/agent~claude/mem~512MiB_cpus~1_rep~0/result.json"
    key = json.loads(clone.file(f"results/runs/{found}").read_text(encoding="utf-8"))["spec_sha256"]
    sealed = clone.file(f"store/{key}/attempt-1/result.json")
    ended = json.loads(sealed.read_text(encoding="utf-8")) | {"outcome": "api_error"}
    # The results have a link to this file, which stays as it is.
    sealed.unlink()
    sealed.write_text(json.dumps(ended), encoding="utf-8")
    assert clone.agentsweep("plan").count("would run") == 1 + 1


def edit_scenario_description(clone):
    clone.replace("config/scenarios/code.yaml", "One command", "One short command")


def move_task_file(clone):
    clone.file("config/tasks/code.yaml").rename(clone.file("config/other.yaml"))
    clone.replace("config/config.yaml", "config/tasks/code.yaml", "config/other.yaml")


def change_digest(clone):
    """Another manifest for the same layers, as an image that was compressed again has."""
    lock = clone.file("config/images.lock.yaml")
    content = yaml.safe_load(lock.read_text(encoding="utf-8"))
    content["images"]["oci-archive:images/starlette-1147.tar"]["digest"] = f"sha256:{'d' * 64}"
    lock.write_text(yaml.safe_dump(content), encoding="utf-8")


def change_parser(clone):
    source = clone.file("src/agentsweep/agents/claude_code/trace.py")
    source.write_text(
        source.read_text(encoding="utf-8") + "\n# Another parser.\n", encoding="utf-8"
    )


def rename_data_set(clone):
    clone.replace("config/config.yaml", "dataset: matrix", "dataset: renamed")


def change_figure(clone):
    script = clone.file("workflow/scripts/figures/wall_time.py")
    script.write_text(
        script.read_text(encoding="utf-8") + "\n# Another figure.\n", encoding="utf-8"
    )


def change_runner(clone):
    """How runs are made is told by the protocol number, not by the runner's bytes."""
    source = clone.file("src/agentsweep/runs/measurement.py")
    source.write_text(
        source.read_text(encoding="utf-8") + "\n# Another runner.\n", encoding="utf-8"
    )


def touch_everything(clone):
    now = time.time()
    for path in clone.path.rglob("*"):
        if ".snakemake" not in path.parts and not path.is_symlink():
            os.utime(path, (now, now))


def remove_results(clone):
    shutil.rmtree(clone.file("results"))


def refuse_runs(clone):
    clone.replace("config/config.yaml", "agent: {", "agent: {on_miss: fail, ")


def remove_run(clone):
    shutil.rmtree(next(clone.file("results/runs").glob("task~code/agent~claude/mem~512*")))


def lose_snakemake_state(clone):
    shutil.rmtree(clone.file(".snakemake"))


def change_sessions(clone):
    clone.replace("config/config.yaml", "max_sessions: 2", "max_sessions: 1")


def distribute_images(clone):
    """How nodes come by images, and who makes them, changes neither images nor runs."""
    images = "images: {distribute: archive, archive_directory: kept, prepare: node}\n"
    clone.replace("config/config.yaml", "agent: {", f"{images}agent: {{")


@dataclass
class Line:
    """What changes, which jobs are planned, how many new runs and gradings are made.

    grades: grading jobs, which are planned where the patches are known beforehand. Figures take
    seconds each, so most lines leave those at being planned that come after new tables.
    made: false where another line makes what is planned here, of the same kind: then it is only
    asked, of `agentsweep plan`, how many runs would be new.
    """

    change: object
    planned: dict[str, int]
    new: int = 0
    grades: int = 0
    new_gradings: int = 0
    arguments: list[str] = field(default_factory=list)
    made: bool = True

    @property
    def name(self) -> str:
        return " ".join([self.change.__name__, *self.arguments])


MATRIX = [
    Line(nothing, {}),
    Line(what_concerns_no_result, {}),
    # These two apart, because they could hide what the others change.
    Line(lose_snakemake_state, {}),
    Line(touch_everything, {}),
    Line(change_figure, {"figure": 1}),
    Line(remove_memory, {"patches": 1, **AGGREGATES}),
    Line(remove_run, {"agent_run": 1}, arguments=["runs"]),
    Line(change_parser, {"trace_extract": 4, **AGGREGATES}),
    Line(rename_data_set, {"trace_extract": 4, **AGGREGATES}),
    Line(add_memory, whole(2), new=2),
    Line(add_cpus, whole(4), new=4, made=False),
    Line(edit_prompt, whole(2), new=2),
    Line(edit_scenario, whole(2), new=2, made=False),
    Line(edit_patch, whole(2), new=2, grades=1, new_gradings=1),
    Line(change_agent_setting, whole(4), new=4, made=False),
    # With the grading of the runs' patch, the two that validate the task are made again.
    Line(change_grader, {"grade": 1, **VALIDATED, **AGGREGATES}, grades=1, new_gradings=3),
    Line(change_grading_memory, {"grade": 1, **VALIDATED, **AGGREGATES}, grades=1, new_gradings=3),
    Line(change_verdict, {**VALIDATED, **AGGREGATES}),
    # What lies between is not missed while the tables that were made of it are there.
    Line(remove_validation, {}),
    Line(keep_invalid, AGGREGATES),
    # A row and an image that are known: another name costs no validation.
    Line(name_task_twice, whole(2) | {"tasks": 1}, grades=1),
    # Of a row, the run depends on what the agent gets of it.
    Line(
        *(edit_test, {"grade": 1, "tasks": 1, **VALIDATED, **AGGREGATES}),
        grades=1,
        new_gradings=3,
    ),
    Line(
        *(correct_test_name, {"grade": 1, "tasks": 1, **VALIDATED, **AGGREGATES}),
        grades=1,
        new_gradings=3,
    ),
    Line(edit_issue, whole(2) | {"tasks": 1, **VALIDATED}, new=2, grades=1, new_gradings=3),
    Line(rerun_one, whole(1), new=1),
    Line(repeat_what_went_well, {}),
    Line(repeat_a_bad_hour, whole(1), new=1),
    Line(change_digest, whole(2, images=1) | VALIDATED, new=2, grades=1, new_gradings=3),
    Line(remove_results, whole(4, images=2) | VALIDATED, grades=1),
    # All again, and nothing of it new.
    Line(refuse_runs, whole(4, images=2) | VALIDATED, grades=1, arguments=["-F"]),
]


@pytest.mark.parametrize("line", MATRIX, ids=[line.name for line in MATRIX])
def test_matrix(finished, tmp_path, line):
    clone = finished.copy(finished.path.parent / re.sub(r"\W", "", tmp_path.name))
    try:
        line.change(clone)
        assert clone.planned(*line.arguments) == line.planned
        if not line.made:
            # A line for each cell, and the sum.
            assert clone.agentsweep("plan").count("would run") == line.new + 1
            return
        before, gradings = clone.sealed(), clone.gradings()
        if line.planned:
            target = ["dataset"] if "dataset" in line.planned else []
            output = clone.snakemake("--cores", "2", *line.arguments, *target).stdout
            assert graded(output) == line.grades
            again = [word for word in line.arguments if word != "-F"]
            assert clone.planned(*again, *target) == {}
        assert len(clone.sealed() - before) == line.new
        assert len(clone.gradings() - gradings) == line.new_gradings
        # One that is run again is kept too.
        assert before <= clone.sealed() | clone.superseded()
        assert gradings <= clone.gradings()
    finally:
        for part in ("store", ".snakemake", "results/runs", "results/extracted", "results/grades"):
            shutil.rmtree(clone.file(part), ignore_errors=True)


def test_report_shows_every_figure_with_its_caption(finished):
    clone = finished.copy(finished.path.parent / "report")
    clone.snakemake("--report", "report.html")
    page = clone.file("report.html").read_text(encoding="utf-8")
    captions = sorted(clone.file("results/figures").glob("*.json"))
    assert len(captions) == ALL_FIGURES
    for path in captions:
        assert f"{path.stem}.svg" in page
    # One sentence of each caption comes from the data.
    assert len(re.findall(r"<p>n = 4 (?:runs|calls)", page)) == ALL_FIGURES - 2
    assert "<p>2 of 2 graded runs resolved their task" in page
    assert "<p>n = 0 of 4 runs (the others are no replays)." in page


def test_what_was_changed_and_changed_back_is_recalled(finished):
    """A branch is switched, runs are made there, and it is switched back."""
    clone = finished.copy(finished.path.parent / "switched")
    edit_prompt(clone)
    clone.snakemake("--cores", "2", "runs")
    assert len(clone.sealed()) == 6
    clone.replace("config/tasks/code.yaml", "Say hello politely.", "Say hello.")
    assert clone.planned("runs") == {"agent_run": 2}
    clone.snakemake("--cores", "2", "dataset")
    assert clone.planned("dataset") == {}
    assert len(clone.sealed()) == 6


def test_partial_makes_figures_of_the_runs_there_are(finished):
    clone = finished.copy(finished.path.parent / "partial")
    add_memory(clone)
    shutil.rmtree(next(clone.file("results/runs").glob("task~code/agent~claude/mem~512*")))
    shutil.rmtree(clone.file("results/dataset"))
    clone.snakemake("--cores", "2", "--config", "partial=True")
    assert len(clone.sealed()) == 4
    assert clone.planned("--config", "partial=True") == {}
    caption = clone.file("results/figures/wall_time.rst")
    assert "Incomplete: 4 of 6 cells have a run." in caption.read_text(encoding="utf-8")
    # One more wanted cell that has no run: no table changes, and yet every caption does.
    add_cpus(clone)
    assert clone.planned("--config", "partial=True") == AGGREGATES
    clone.replace("config/config.yaml", "cpus: [1, 2]", "cpus: [1]")
    # Two new ones; the list of patches needs the third, which the store gives back.
    assert clone.planned()["agent_run"] == 3
