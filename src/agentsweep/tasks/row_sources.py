"""Where rows of a benchmark are: a file, or a split on the Hugging Face hub."""

from collections.abc import Iterator
from pathlib import Path

from agentsweep.errors import ConfigError, show
from agentsweep.hashes import file_sha256
from agentsweep.tasks import hub, row_files
from agentsweep.tasks.models import Row, Rows
from agentsweep.tasks.row_files import Entry
from agentsweep.tasks.task_row import TaskRow

_HUB_KEYS = ("hub", "config", "split", "revision")


def find(source: Row, where: str) -> TaskRow:
    """The row that `{file: …, id: …}` (or `hub`, `split`, `revision` and `id`) means.

    Raises ConfigError with what is wrong; `where` is how messages call the mapping's place.
    """
    found = [entry for entry in entries(source, where) if entry.instance_id == source.id]
    if not found:
        raise ConfigError(f"{where}.id: {show(source.id)} is not in {named(source)}")
    return row_files.rows(found)[0]


def entries(source: Rows, where: str) -> list[Entry]:
    """Every row of a source, as a filter sees it, in order of files and rows.

    A source on the hub is read from the local cache. Raises ConfigError with what is wrong.
    """
    wrong = [f"{where}{problem}" for problem in problems(source)]
    if wrong:
        raise ConfigError(wrong)
    paths = [Path(source.file)] if source.file is not None else hub.cached(of_hub(source))
    found: dict[str, Entry] = {}
    for entry in (entry for path in paths for entry in row_files.entries(path)):
        other = found.setdefault(entry.instance_id, entry)
        if other is not entry:
            raise ConfigError(
                f"{entry.path}: row {entry.number}: instance_id: {show(entry.instance_id)} is that "
                f"of row {other.number} in {other.path} too; leave one out"
            )
    return list(found.values())


def problems(source: Rows) -> Iterator[str]:
    """What is wrong with the keys of a source, beside what its schema says."""
    given = {key for key in ("file", *_HUB_KEYS) if getattr(source, key) is not None}
    if "file" in given and "hub" in given:
        yield ".hub: `file` is there too; leave one out"
    elif "file" in given:
        for key in sorted(given - {"file"}):
            yield f".{key}: has a meaning beside `hub` only; leave it out"
    elif "hub" not in given:
        yield ".file: missing; write a file with rows, or `hub`, `split` and `revision`"
    else:
        for key in ("split", "revision"):
            if key not in given:
                yield f".{key}: missing; a data set of the hub needs it"


def of_hub(source: Rows) -> hub.HubSplit:
    """The split of a data set on the hub that a source without problems means."""
    return hub.HubSplit(source.hub or "", source.split or "", source.revision or "", source.config)


def named(source: Rows) -> str:
    """How messages call a source."""
    return source.file if source.file is not None else str(of_hub(source))


def record(source: Rows) -> dict[str, str | None]:
    """What results say of a source: its file with the hash, or what it is on the hub."""
    if source.file is not None:
        return {"file": source.file, "sha256": file_sha256(Path(source.file))}
    return {key: getattr(source, key) for key in _HUB_KEYS}
