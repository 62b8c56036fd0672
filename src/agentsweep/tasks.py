"""Tasks: what an agent is asked to do, in which image, and what plays the model."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from agentsweep import schema
from agentsweep.errors import ConfigError
from agentsweep.scenario import load as load_scenario

TRANSPORTS = ("docker://", "oci-archive:", "docker-archive:")

# Where the benchmark's published images lie, by instance.
_BENCHMARK_IMAGE = "docker://docker.io/swerebench/sweb.eval.x86_64.{name}"
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

    prompt: the whole text that the agent gets; reference: image with transport; environment:
    shell lines or None; python: path that `python` must have, or None; scenario: file that plays
    the model, or None; scenario_sha256: hash of what that file makes the model do.
    """

    name: str
    kind: str
    instance_id: str
    reference: str
    workdir: str
    environment: str | None
    python: str | None
    prompt: str
    scenario: Path | None
    scenario_sha256: str | None


def benchmark_image(instance_id: str) -> str:
    """The reference of a benchmark's image: `__` is written `_1776_` there, in lower case."""
    return _BENCHMARK_IMAGE.format(name=instance_id.lower().replace("__", "_1776_"))


def load_task(name: str, source: str | Mapping, where: str) -> Task:
    """A task from its file or from the mapping in its place.

    `where` is how messages call the place of a mapping. Raises ConfigError with all problems.
    """
    if isinstance(source, str):
        content, where = schema.read_mapping(Path(source)), f"{source}: "
    else:
        content = dict(source)
    wrong = [
        f"{where}{schema.dotted(path)}: {problem}"
        for path, problem in schema.problems("task", content)
    ]
    if wrong:
        raise ConfigError(wrong)
    content = schema.with_defaults("task", content)
    wrong = [f"{where}{problem}" for problem in _problems(content)]
    scenario, scenario_sha256 = content["scenario"], None
    if scenario is not None:
        try:
            scenario_sha256 = load_scenario(Path(scenario)).sha256
        except ConfigError as error:
            wrong += error.problems
    if wrong:
        raise ConfigError(wrong)
    instance_id = content["instance_id"] or name
    return Task(
        name=name,
        kind=content["kind"],
        instance_id=instance_id,
        reference=content["image"] or benchmark_image(instance_id),
        workdir=content["workdir"],
        environment=content["environment"],
        python=content["python"],
        prompt=_prompt(content),
        scenario=Path(scenario) if scenario is not None else None,
        scenario_sha256=scenario_sha256,
    )


def _problems(content: Mapping):
    statement, prompt = content["problem_statement"], content["prompt"]
    if content["kind"] == "swe":
        if not (statement or "").strip():
            yield (
                f"problem_statement: {schema.show(statement)} is empty; a task of kind swe needs "
                "the issue's text"
            )
        if prompt is not None and _PLACEHOLDER not in prompt:
            yield f"prompt: no {_PLACEHOLDER} in it, so that the agent would not see the issue"
    else:
        if not (prompt or "").strip():
            yield (
                f"prompt: {schema.show(prompt)} is empty; a task of kind {content['kind']} needs "
                "the text that the agent gets"
            )
        elif _PLACEHOLDER in prompt and not (statement or "").strip():
            yield f"problem_statement: missing; the prompt has {_PLACEHOLDER} in it"
        if content["image"] is None:
            yield (
                f"image: missing; only tasks of kind swe have an image by their name "
                f"(allowed are {', '.join(TRANSPORTS)})"
            )
    if content["image"] is not None:
        yield from _image_problems(content["image"])


def _image_problems(image: str):
    transport = next((known for known in TRANSPORTS if image.startswith(known)), None)
    if transport is None:
        yield (
            f"image: {schema.show(image)} has no known transport; write one of "
            f"{', '.join(TRANSPORTS)} before it"
        )
    elif re.search(r"\s", image) or image == transport:
        yield f"image: {schema.show(image)} is not an image reference"
    elif transport == "docker://" and not re.match(
        r"(localhost|[^/]*[.:][^/]*|\[[0-9a-f:]+\](:\d+)?)/.", image.removeprefix(transport)
    ):
        yield (
            f"image: {schema.show(image)} names no registry; write it out, as in "
            "docker://docker.io/library/debian:12"
        )


def _prompt(content: Mapping) -> str:
    template = content["prompt"] or _SWE_PROMPT
    # Not str.format: issue texts and prompts are full of braces.
    return template.replace(_PLACEHOLDER, (content["problem_statement"] or "").strip())
