"""The keys of task files and task sets."""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from agentsweep.schema import NOT_NULL, Section, Whole, key


class Rows(Section):
    """Where rows of a benchmark are: in a file, or on the Hugging Face hub."""

    file: str | None = key(
        None, "A file with rows (`.parquet`, `.jsonl`, or `.json` with a list).", min_length=1
    )
    hub: str | None = key(
        None,
        "In place of `file`, a data set on the Hugging Face hub (`owner/name`), which "
        "`agentsweep fetch-tasks` downloads.",
        min_length=1,
    )
    config: str | None = key(
        None, "The data set's configuration on the hub (null means its default).", min_length=1
    )
    split: str | None = key(None, "The split, for `hub` alone, which needs it.", min_length=1)
    revision: str | None = key(
        None,
        "The commit, for `hub` alone, which needs it; no branch, because that moves.",
        pattern=r"^[0-9a-f]{40}$",
        allowed="a commit of 40 hex digits (in quotes)",
    )


class Row(Rows):
    """A row of a benchmark that a task is.

    Keys of the task that are left out come from it: `instance_id`, `image`, `problem_statement`,
    and where its image has the repository and its environment.
    """

    id: str = key(..., "The row's instance_id.", min_length=1)


class TaskFile(Section):
    """Every key of a task file.

    All of them but `instance_id` decide what a run does; names and paths do not count, what the
    files hold does.
    """

    model_config = ConfigDict(title="agentsweep task")
    kind: Literal["prompt", "code", "swe"] = key(
        ...,
        "`swe`: an issue in a repository, which ends in a patch. `code`: code generation in a "
        "directory. `prompt`: a plain question. May be left out beside `row`, which means `swe`.",
    )
    row: Annotated[Row | None, NOT_NULL] = None
    row_sha256: str | None = key(
        None,
        "In place of `row`, the hash of one that is not at hand: what a run needs of it is then "
        "written out here. Jobs get their tasks so, because reading the rows takes time.",
        pattern=r"^[0-9a-f]{64}$",
        allowed="a SHA-256 of 64 hex digits",
    )
    base_commit: str | None = key(
        None,
        "With `row_sha256`, the row's base commit, whose later history the agent never sees.",
        min_length=1,
    )
    instance_id: str | None = key(
        None, "The task's name in its benchmark (null means its name in `tasks`).", min_length=1
    )
    image: str | None = key(
        None,
        "Image reference with its transport: `docker://`, `oci-archive:` or `docker-archive:` "
        "(null, for `swe` alone, means the benchmark's image of this instance).",
        min_length=1,
    )
    workdir: str = key(
        "/testbed",
        "The directory in the container that the agent starts in and owns.",
        pattern=r"^/[^:]+$",
        allowed="an absolute path in the container, such as /testbed",
    )
    environment: str | None = key(
        None,
        "Shell lines that activate the task's environment in every shell of the agent. The "
        "image's own `ENV` holds without it.",
    )
    python: str | None = key(
        None,
        "The path that `python` must have inside that environment; asserted before a run.",
        pattern=r"^/",
        allowed="an absolute path in the container, such as /opt/venv/bin/python",
    )
    problem_statement: str | None = key(None, "The issue's text; `swe` tasks must have one.")
    prompt: str | None = key(
        None,
        "What the agent is told; `{problem_statement}` in it is replaced (null, for `swe` alone, "
        "means the built-in text).",
    )
    scenario: str | None = key(
        None,
        "The scenario file that plays the model, for agents with `model` `scripted`.",
        min_length=1,
    )


class Filter(Section):
    """Which rows to take; a row must meet all that is given."""

    ids: list[str] | None = key(None, "Instance ids; each must be there.", min_length=1)
    repository: list[str] | None = key(None, "Repositories, as `owner/name`.", min_length=1)
    difficulty: list[str | Whole] | None = key(
        None,
        "Difficulties as the rows have them, such as `<15 min fix`, `1` or `easy`.",
        min_length=1,
    )
    max_image_size: str | None = key(
        None,
        "The largest image, as a size with a unit: that of its layers as they are downloaded, "
        "which `snakemake lock` looks up. Rows whose image's size is not known yet are taken.",
        allowed="a size with a unit, such as 2GB, or null",
    )


class Sample(Section):
    """How many rows to take of those, by chance that is the same everywhere."""

    size: Whole = key(
        ..., "How many rows; a larger sample of the same seed contains the smaller one.", ge=1
    )
    seed: Whole = key(0, "Another number is another sample.")


class TaskSetFile(Section):
    """Every key of a task set: many rows of a benchmark, each of them a task.

    A row's task has the row's instance_id as its name.
    """

    model_config = ConfigDict(title="agentsweep task set")
    rows: Rows
    filter: Filter = Field(default_factory=Filter)
    sample: Annotated[Sample | None, NOT_NULL] = None
    workdir: str | None = key(
        None,
        "As for a task (null means where the rows' images have the repository).",
        pattern=r"^/[^:]+$",
        allowed="an absolute path in the container, such as /testbed",
    )
    environment: str | None = key(None, "As for a task (null means what the rows' images need).")
    python: str | None = key(
        None,
        "As for a task (null means what the rows' images have).",
        pattern=r"^/",
        allowed="an absolute path in the container, such as /opt/venv/bin/python",
    )
    prompt: str | None = key(None, "As for a task (null means the built-in text).")
    scenario: str | None = key(
        None, "As for a task; `{instance_id}` in it is replaced.", min_length=1
    )
