"""docs/files.md from the schemas of files: each field with its unit and what it means.

    python tools/describe_files.py            print the page
    python tools/describe_files.py --write    write it

A schema of `src/agentsweep/schemas/` is one of a file where it has `x-file`, the file's name. A
field has `description`, and `x-unit` where it is a quantity.
"""

import argparse
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from agentsweep.codehash import SOURCE

PAGE = Path(__file__).resolve().parents[1] / "docs" / "files.md"

_HEAD = """# Files of a run, field by field

What a run leaves behind is kept for years. Each file below has a schema in
`src/agentsweep/schemas/`, from which this page is made (`python tools/describe_files.py --write`).
A field may be added; none changes its meaning. `?` marks a field of the
first level that older files do not have, or that is there in some cases only.
"""


def file_schemas() -> list[tuple[str, Mapping[str, Any]]]:
    """The schemas that describe a file, by their names."""
    loaded = [
        (path.name.removesuffix(".schema.yaml"), yaml.safe_load(path.read_text(encoding="utf-8")))
        for path in sorted((SOURCE / "schemas").glob("*.schema.yaml"))
    ]
    return [(name, content) for name, content in loaded if "x-file" in content]


def page() -> str:
    """The whole page."""
    return "\n".join([_HEAD, *(_section(name, content) for name, content in file_schemas())])


def fields(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every field below a node with a dotted name, `?` at its end where it need not be there."""
    required = node.get("required", ())
    for key, known in node.get("properties", {}).items():
        may_lack = not prefix and required and key not in required
        yield f"{prefix}{key}{'?' if may_lack else ''}", known
        yield from fields(known, f"{prefix}{key}.")
        items = known.get("items")
        if isinstance(items, Mapping):
            yield from fields(items, f"{prefix}{key}[].")


def _section(name: str, content: Mapping[str, Any]) -> str:
    rows = [
        f"| `{field}` | {_type(known)} | {known.get('x-unit', '')} | {_text(known)} |"
        for field, known in fields(content)
    ]
    head = ["| field | type | unit | meaning |", "| --- | --- | --- | --- |"]
    title = f"## `{content['x-file']}`"
    made_from = f"Schema: `{name}.schema.yaml`."
    return "\n".join([title, "", f"{_text(content)} {made_from}", "", *head, *rows, ""])


def _type(known: Mapping[str, Any]) -> str:
    if "const" in known:
        return f"`{known['const']}`"
    if "enum" in known:
        return ", ".join(f"`{'null' if value is None else value}`" for value in known["enum"])
    kinds = known.get("type", "any")
    return " or ".join([kinds] if isinstance(kinds, str) else kinds)


def _text(known: Mapping[str, Any]) -> str:
    return " ".join(known["description"].split()).replace("|", "\\|")


def main() -> None:
    parser = argparse.ArgumentParser(description="docs/files.md from the schemas of files")
    parser.add_argument("--write", action="store_true", help="write the page, instead of printing")
    if parser.parse_args().write:
        PAGE.write_text(page(), encoding="utf-8")
    else:
        print(page(), end="")


if __name__ == "__main__":
    main()
