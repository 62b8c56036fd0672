"""Tasks: what an agent is asked to do, in which image, and what plays the model."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agentsweep import schema
from agentsweep.containers.image_names import TRANSPORTS, benchmark_image, image_problems
from agentsweep.errors import ConfigError, show
from agentsweep.gateway.scenario import load as load_scenario
from agentsweep.schema import Json
from agentsweep.tasks import row_sources
from agentsweep.tasks.models import TaskFile
from agentsweep.tasks.task_row import TaskRow

# How the images of SWE-bench and of the first SWE-rebench are laid out.
TESTBED = {
    "workdir": "/testbed",
    "environment": "source /opt/miniconda3/bin/activate testbed",
    "python": "/opt/miniconda3/envs/testbed/bin/python",
}
_PLACEHOLDER = "{problem_statement}"

_SWE_PROMPT = """\
You are in the root of a repository that has the following issue.

<issue>
{problem_statement}
</issue>

Mend the issue by changing the source code of the repository. Look at the code first, make the
smallest change that solves the problem, and run the tests that are near it. Do not commit.
"""


@dataclass(frozen=True)
class Task:
    """One task, ready to run.

    reference: image with transport; environment: shell lines or None; python: path that `python`
    must have, or None; template: the prompt with a place for `problem_statement`, which may be
    empty; scenario: file that plays the model, or None; scenario_sha256: hash of what that file
    makes the model do; row: the benchmark's row that the task is, or None; row_sha256: its hash,
    which is there without the row in the job of a cell; base_commit: the row's, likewise.
    """

    name: str
    kind: str
    instance_id: str
    reference: str
    workdir: str
    environment: str | None
    python: str | None
    template: str
    problem_statement: str
    scenario: Path | None
    scenario_sha256: str | None
    row: TaskRow | None = None
    row_sha256: str | None = None
    base_commit: str | None = None

    @property
    def prompt(self) -> str:
        """The whole text that the agent gets."""
        # Not str.format: issue texts and prompts are full of braces.
        return self.template.replace(_PLACEHOLDER, self.problem_statement)

    def without_row(self) -> Json:
        """The task as a mapping for `tasks`: what a run needs of its row, and the row's hash."""
        return {
            "kind": self.kind,
            "row_sha256": self.row_sha256,
            "base_commit": self.base_commit,
            "instance_id": self.instance_id,
            "image": self.reference,
            "workdir": self.workdir,
            "environment": self.environment,
            "python": self.python,
            "problem_statement": self.problem_statement,
            "prompt": self.template,
            "scenario": str(self.scenario) if self.scenario is not None else None,
        }


def load_task(name: str, source: str | Json, where: str, row: TaskRow | None = None) -> Task:
    """A task from its file or from the mapping in its place.

    `where` is how messages call the place of a mapping; `row` is the one that a mapping's `row`
    means, where it was read before. Raises ConfigError with all problems.
    """
    if isinstance(source, str):
        content, where = schema.read_mapping(Path(source)), f"{source}: "
    else:
        content = dict(source)
    if "row" in content:
        content = {"kind": "swe"} | content
    file = _checked(content, where)
    if file.row is not None:
        if file.kind != "swe":
            raise ConfigError(f"{where}kind: {file.kind!r} has no `row`; write swe")
        for key in ("row_sha256", "base_commit"):
            if getattr(file, key) is not None:
                raise ConfigError(f"{where}{key}: `row` is there too; leave one out")
        row = row or row_sources.find(file.row, f"{where}row")
        file = _checked(_of_row(row) | content, where)
    wrong = [f"{where}{problem}" for problem in _problems(file)]
    scenario = Path(file.scenario) if file.scenario is not None else None
    scenario_sha256 = None
    if scenario is not None:
        try:
            scenario_sha256 = load_scenario(scenario).sha256
        except ConfigError as error:
            wrong += error.problems
    if wrong:
        raise ConfigError(wrong)
    instance_id = file.instance_id or name
    return Task(
        name=name,
        kind=file.kind,
        instance_id=instance_id,
        reference=file.image or benchmark_image(instance_id),
        workdir=file.workdir,
        environment=file.environment,
        python=file.python,
        template=file.prompt or _SWE_PROMPT,
        problem_statement=(file.problem_statement or "").strip(),
        scenario=scenario,
        scenario_sha256=scenario_sha256,
        row=row,
        row_sha256=row.sha256 if row else file.row_sha256,
        base_commit=row.base_commit if row else file.base_commit,
    )


def _checked(content: Json, where: str) -> TaskFile:
    file, problems = schema.check(TaskFile, content)
    if file is None:
        raise ConfigError([f"{where}{schema.dotted(path)}: {said}" for path, said in problems])
    return file


def _of_row(row: TaskRow) -> Json:
    """What a row says of its task: of the patches, the tests and the hints nothing."""
    return {
        "instance_id": row.instance_id,
        "image": row.image,
        "problem_statement": row.problem_statement,
        **(
            TESTBED
            if row.layout == "testbed"
            else {"workdir": f"/{row.repo.partition('/')[2]}", "environment": None, "python": None}
        ),
    }


def _problems(file: TaskFile) -> Iterator[str]:
    statement, prompt = file.problem_statement, file.prompt
    if file.kind == "swe":
        if not (statement or "").strip():
            yield (
                f"problem_statement: {show(statement)} is empty; a task of kind swe needs "
                "the issue's text"
            )
        if prompt is not None and _PLACEHOLDER not in prompt:
            yield f"prompt: no {_PLACEHOLDER} in it, so that the agent would not see the issue"
    else:
        if prompt is None or not prompt.strip():
            yield (
                f"prompt: {show(prompt)} is empty; a task of kind {file.kind} needs "
                "the text that the agent gets"
            )
        elif _PLACEHOLDER in prompt and not (statement or "").strip():
            yield f"problem_statement: missing; the prompt has {_PLACEHOLDER} in it"
        if file.image is None:
            yield (
                f"image: missing; only tasks of kind swe have an image by their name "
                f"(allowed are {', '.join(TRANSPORTS)})"
            )
    if file.image is not None:
        for problem in image_problems(file.image):
            yield f"image: {problem}"
