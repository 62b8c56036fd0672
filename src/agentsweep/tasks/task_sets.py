"""Task sets: the rows of a benchmark that a sweep takes, chosen by a filter and a sample.

Filter first, then sample. The sample is the first rows in the order of a hash of seed and
instance_id, so that it is the same with every version of Python, and so that a larger sample has
all of a smaller one.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agentsweep import schema
from agentsweep.containers.image_lock import Locked
from agentsweep.errors import ConfigError, show
from agentsweep.schema import Json
from agentsweep.tasks import row_files, row_sources
from agentsweep.tasks.hub import HubSplit
from agentsweep.tasks.models import Filter, Row, Rows, TaskSetFile
from agentsweep.tasks.row_files import Entry
from agentsweep.tasks.task_row import TaskRow
from agentsweep.units import parse_size

_COMMON = {"workdir", "environment", "python", "prompt", "scenario"}
# Where an entry of `tasks` says where its rows are.
_SOURCES: Mapping[str, type[Rows]] = {"rows": Rows, "row": Row}
_PLACEHOLDER = "{instance_id}"
# More rows than these have the same thing wrong with them, mostly.
_MOST_PROBLEMS = 20


@dataclass(frozen=True)
class TaskSet:
    """The rows of a set, as `tasks` has them by the set's name.

    sized: references of all images that the filter's size limit would be asked of, so that
    their sizes have to be looked up; without such a limit none.
    """

    name: str
    file: TaskSetFile
    rows: tuple[TaskRow, ...]
    sized: tuple[str, ...]

    @property
    def names(self) -> list[str]:
        """The names of its tasks."""
        return [row.instance_id for row in self.rows]

    @property
    def sha256(self) -> str:
        """Hash of what the set is: of the hashes of its rows, in any order."""
        return hashlib.sha256(
            "\n".join(sorted(row.sha256 for row in self.rows)).encode()
        ).hexdigest()

    def task(self, row: TaskRow) -> Json:
        """A row's task, as a mapping that could stand in `tasks` by itself."""
        common = self.file.model_dump(include=_COMMON, exclude_none=True)
        if self.file.scenario is not None:
            common["scenario"] = self.file.scenario.replace(_PLACEHOLDER, row.instance_id)
        source = self.file.rows.model_dump(exclude_none=True)
        return {"kind": "swe", "row": source | {"id": row.instance_id}, **common}


def content_of(source: str | Json) -> Json | None:
    """The mapping of a set, in place or in a file; None for what is a task."""
    if isinstance(source, str):
        if not Path(source).is_file():
            return None
        source = schema.read_mapping(Path(source))
    return source if "rows" in source else None


def load_set(name: str, source: str | Json, where: str, locked: Mapping[str, Locked]) -> TaskSet:
    """A set from its file or from the mapping in its place.

    `where` is how messages call the place of a mapping (`config.yaml: tasks.verified`); `locked`
    has the sizes of images. Raises ConfigError with all problems.
    """
    content = content_of(source)
    before = f"{source}: " if isinstance(source, str) else f"{where}."
    file, problems = schema.check(TaskSetFile, content)
    if file is None:
        raise ConfigError([f"{before}{schema.dotted(path)}: {said}" for path, said in problems])
    wrong = [f"{before}{problem}" for problem in _problems(file)]
    if wrong:
        raise ConfigError(wrong)
    found = row_sources.entries(file.rows, f"{before}rows")
    chosen, sized = _chosen(found, file, before, locked)
    try:
        rows = row_files.rows(chosen)
    except ConfigError as error:
        raise ConfigError(_shortened(error.problems)) from None
    return TaskSet(name=name, file=file, rows=tuple(rows), sized=sized)


def _problems(file: TaskSetFile) -> Iterator[str]:
    limit = file.filter.max_image_size
    if limit is not None:
        try:
            parse_size(limit)
        except ValueError as error:
            yield f"filter.max_image_size: {error}"
    if file.prompt is not None and "{problem_statement}" not in file.prompt:
        yield "prompt: no {problem_statement} in it, so that the agent would not see the issue"


def _chosen(
    found: list[Entry], file: TaskSetFile, before: str, locked: Mapping[str, Locked]
) -> tuple[list[Entry], tuple[str, ...]]:
    """The rows that filter and sample take, in the source's order; and whose sizes matter."""
    wanted, source = file.filter, row_sources.named(file.rows)
    known = {entry.instance_id for entry in found}
    wrong = [
        f"{before}filter.ids[{index}]: {show(name)} is not in {source}"
        for index, name in enumerate(wanted.ids or ())
        if name not in known
    ]
    if wrong:
        raise ConfigError(_shortened(wrong))
    kept = [entry for entry in found if _meets(entry, wanted)]
    sized: tuple[str, ...] = ()
    if wanted.max_image_size is not None:
        sized = tuple(dict.fromkeys(entry.image for entry in kept))
        kept = _small_enough(kept, parse_size(wanted.max_image_size), locked)
    if not kept:
        raise ConfigError(
            f"{before}filter: none of the {len(found)} rows of {source} meets it; write another"
            if found
            else f"{before}rows: {source} has no rows"
        )
    sample = file.sample
    if sample is not None:
        if sample.size > len(kept):
            raise ConfigError(
                f"{before}sample.size: {sample.size} is more than the {len(kept)} rows that "
                "there are; write that or less"
            )
        order = sorted(kept, key=lambda entry: _rank(sample.seed, entry.instance_id))
        taken = set(order[: sample.size])
        kept = [entry for entry in kept if entry in taken]
    return kept, sized


def _meets(entry: Entry, wanted: Filter) -> bool:
    return all(
        allowed is None or any(value == str(one) for one in allowed)
        for allowed, value in (
            (wanted.ids, entry.instance_id),
            (wanted.repository, entry.repo),
            (wanted.difficulty, entry.difficulty),
        )
    )


def _small_enough(
    found: list[Entry], limit_bytes: int, locked: Mapping[str, Locked]
) -> list[Entry]:
    def size(entry: Entry) -> int:
        known = locked.get(entry.image)
        return known.size_bytes or 0 if known else 0

    return [entry for entry in found if size(entry) <= limit_bytes]


def _rank(seed: int, instance_id: str) -> str:
    return hashlib.sha256(f"{seed}:{instance_id}".encode()).hexdigest()


def _shortened(problems: list[str]) -> list[str]:
    if len(problems) <= _MOST_PROBLEMS:
        return problems
    left = len(problems) - _MOST_PROBLEMS
    return [*problems[:_MOST_PROBLEMS], f"… and {left} more like these"]


def hub_splits(tasks: Json) -> list[HubSplit]:
    """The splits on the hub that the entries of `tasks` name, each once.

    Raises ConfigError with what is wrong with them.
    """
    found: dict[HubSplit, None] = {}
    wrong: list[str] = []
    for name, entry in tasks.items():
        content = entry
        if isinstance(entry, str) and Path(entry).is_file():
            content = schema.read_mapping(Path(entry))
        for key, model in _SOURCES.items():
            source = content.get(key) if isinstance(content, Mapping) else None
            if not isinstance(source, Mapping) or source.get("hub") is None:
                continue
            rows, problems = schema.check(model, source)
            said = [f".{schema.dotted(path)}: {problem}" for path, problem in problems]
            said += row_sources.problems(rows) if rows else ()
            wrong += [f"tasks.{name}.{key}{problem}" for problem in said]
            if rows and not said:
                found[row_sources.of_hub(rows)] = None
    if wrong:
        raise ConfigError(wrong)
    return list(found)
