"""docs/data_dictionary.md: what each column is, from the schemas."""

import pyarrow as pa
from tabulate import tabulate

from agentsweep.tables.schemas import SCHEMAS, TABLE_DESCRIPTIONS, VERSION

_TYPES = {pa.int64(): "int64", pa.float64(): "float64", pa.bool_(): "bool", pa.string(): "text"}


def data_dictionary() -> str:
    """All tables and columns, with type, unit and meaning, as Markdown."""
    lines = [
        "# Data dictionary",
        "",
        "Generated from `agentsweep.tables.schemas` by `python -m agentsweep.tables`; do not edit.",
        "",
        f"The tables are Parquet files in `results/dataset/`, schema version {VERSION}. `_ns` is",
        "the host's monotonic clock (imported runs have none: theirs is UTC too), `_utc_ns` is UTC",
        "since 1970. A value that nobody knows is null, never 0. Columns marked * always have a",
        "value.",
    ]
    for table, schema in SCHEMAS.items():
        rows = [
            (
                f"`{field.name}`{'' if field.nullable else ' *'}",
                _TYPES[field.type],
                field.metadata.get(b"unit", b"").decode(),
                field.metadata[b"description"].decode(),
            )
            for field in schema
        ]
        heads = ("column", "type", "unit", "meaning")
        lines += ["", f"## {table}", "", TABLE_DESCRIPTIONS[table], ""]
        lines.append(tabulate(rows, heads, "github", stralign=None, disable_numparse=True))
    return "\n".join(lines) + "\n"
