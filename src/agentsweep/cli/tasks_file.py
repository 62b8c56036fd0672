"""`tasks.json`: which tasks a sweep has, from which rows of which source, with their hashes.

No patch, test or hint is in it: results are shown to people and to agents.
"""

import hashlib
import json
from typing import Any

from agentsweep.config.config import Config
from agentsweep.tasks import row_sources

SCHEMA = 1


def document(config: Config) -> dict[str, Any]:
    """What the file says.

    tasks: those of the sweep's cells; `set` is the set that a task is of, null for none. sets: all
    of the configuration; `sha256` is that of the sorted hashes of its rows, a line each.
    """
    return {
        "schema": SCHEMA,
        "tasks": _tasks(config),
        "sets": {
            found.name: {
                "sha256": found.sha256,
                "tasks": len(found.rows),
                "source": row_sources.record(found.file.rows),
                "filter": found.file.filter.model_dump(),
                "sample": found.file.sample.model_dump() if found.file.sample else None,
            }
            for found in config.task_sets()
        },
    }


def sources(config: Config) -> list[str]:
    """The files that sets are read from, those of the hub not: they never change."""
    found = (found.file.rows.file for found in config.task_sets())
    return list(dict.fromkeys(path for path in found if path is not None))


def digest(config: Config) -> str:
    """Hash of all that the file says but the hashes of `sources`, which would take time."""
    sets = [
        [
            found.name,
            found.sha256,
            found.file.rows.model_dump(),
            found.file.filter.model_dump(),
            found.file.sample.model_dump() if found.file.sample else None,
        ]
        for found in config.task_sets()
    ]
    said = json.dumps([SCHEMA, _tasks(config), sets], sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def _tasks(config: Config) -> list[dict[str, Any]]:
    of_set = {name: found.name for found in config.task_sets() for name in found.names}
    found = []
    for name in dict.fromkeys(cell.task for cell in config.cells()):
        task, image = config.task(name), config.image_of(name)
        found.append(
            {
                "name": name,
                "instance_id": task.instance_id,
                "repo": task.row.repo if task.row else None,
                "base_commit": task.row.base_commit if task.row else None,
                "image": image.reference,
                "image_digest": image.digest,
                "row_sha256": task.row_sha256,
                "set": of_set.get(name),
            }
        )
    return found
