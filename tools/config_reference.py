"""What follows from the configuration's models: JSON Schemas for editors, tables of keys.

Writes src/agentsweep/schemas/*.schema.yaml and the tables of config/README.md; with `--check` it
writes nothing and fails where one of them is not what the models say.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

import yaml

from agentsweep import schema
from agentsweep.config.models import Configuration
from agentsweep.schema import Section
from agentsweep.tasks.models import TaskFile, TaskSetFile

ROOT = Path(__file__).resolve().parents[1]
SCHEMAS = ROOT / "src" / "agentsweep" / "schemas"
README = ROOT / "config" / "README.md"
# Name of the schema's file, model, and heading of its table in the README.
MODELS: tuple[tuple[str, type[Section], str], ...] = (
    ("config", Configuration, "Keys"),
    ("task", TaskFile, "Task files"),
    ("task_set", TaskSetFile, "Task sets"),
)
RERUNS = {
    "yes": "yes",
    "no": "no",
    "new": "new cells only",
    "repeat": "cells with a listed outcome",
}
_TABLE = r"(\n## {}\n.*?\n\n)\|[^\n]*(?:\n\|[^\n]*)*"


def files() -> dict[Path, str]:
    """Every file that follows from the models, with what it should hold."""
    made = {SCHEMAS / f"{name}.schema.yaml": schema_text(model) for name, model, _ in MODELS}
    readme = README.read_text(encoding="utf-8")
    for _, model, heading in MODELS:
        readme = with_table(readme, heading, table(model))
    return made | {README: readme}


def schema_text(model: type[Section]) -> str:
    """A model's JSON Schema as YAML."""
    note = "# Made by tools/config_reference.py; change the model instead.\n"
    return note + yaml.safe_dump(schema.json_schema(model), sort_keys=False, width=100)


def with_table(text: str, heading: str, table: str) -> str:
    """A text in which the first table below a heading is another one."""
    made, count = re.subn(
        _TABLE.format(re.escape(heading)), lambda found: found[1] + table, text, flags=re.DOTALL
    )
    if count != 1:
        raise LookupError(f"{README}: {count} headings {heading!r} with a table, not one")
    return made


def table(model: type[Section]) -> str:
    """The keys of a model, a line each."""
    columns = ["key", "type", "default", "effect"]
    rows = [_row(key, said) for key, said in schema.keys(model)]
    if len(rows[0]) > len(columns):
        columns.append("reruns agents")
    return "\n".join(_line(cells) for cells in (columns, ["---"] * len(columns), *rows))


def _row(key: str, said: dict[str, Any]) -> list[str]:
    default = f"`{json.dumps(said['default'])}`" if "default" in said else "required"
    row = [f"`{key}`", schema.type_in_words(said), default, said["description"]]
    return row + ([RERUNS[said["x-reruns"]]] if "x-reruns" in said else [])


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main(check: bool) -> int:
    """Write what has changed, or only say so; the exit code is 1 where `check` found a change."""
    stale = {path: text for path, text in files().items() if path.read_text("utf-8") != text}
    for path, text in stale.items():
        if not check:
            path.write_text(text, encoding="utf-8")
        said = "not what the models say: run tools/config_reference.py" if check else "written"
        print(f"{path.relative_to(ROOT)}: {said}")
    return 1 if check and stale else 0


if __name__ == "__main__":
    sys.exit(main("--check" in sys.argv[1:]))
