"""What `agentsweep store` prints: attempts as a table, and one attempt in some lines.

Whatever an attempt lacks, or has damaged, is shown as `-`: the store is looked into most of all
when something went wrong.
"""

import datetime
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tabulate import tabulate

from agentsweep import seal
from agentsweep.runs.store import SEALED, SUPERSEDED, Attempt, Store
from agentsweep.units import format_size

# What a file says.
Json = dict[str, Any]
# By COLUMNS.
Row = dict[str, Any]

COLUMNS = (
    *("attempt", "state", "outcome", "task", "agent", "memory", "cpus", "rep"),
    *("wall_s", "size_bytes", "started", "seal"),
)
_HEADS = {"wall_s": "wall", "size_bytes": "size"}
_ERROR_CHARS = 300
_SEALS = {
    seal.WHOLE: "every file is what was sealed, by size and SHA-256",
    seal.NO_HASHES: "made by an earlier version, without hashes of its files",
    seal.DAMAGED: "damaged: ",
}


def rows(store: Store) -> Iterable[Row]:
    """A row for each attempt: COLUMNS as plain values, None where nothing is known."""
    specs = store.keys()
    for key in specs:
        for attempt in store.attempts(key):
            result = _result(attempt)
            spec = store.spec(key)
            memory, replicate = _at(spec, "limits", "memory_bytes"), _at(spec, "replicate")
            yield {
                "attempt": attempt.id,
                "state": attempt.state,
                "outcome": _at(result, "outcome"),
                "task": _at(result, "names", "task"),
                "agent": _at(result, "names", "agent"),
                "memory": format_size(memory) if isinstance(memory, int) else None,
                "cpus": _at(spec, "limits", "cpus"),
                "rep": replicate,
                "wall_s": _at(result, "wall_s"),
                "size_bytes": sum(size for _, size in _files(attempt.path)),
                "started": _utc(_at(result, "started_utc_ns")),
                "seal": _seal(attempt, result),
            }


def table(found: list[Row], for_people: bool) -> str:
    """The rows as aligned columns with readable sizes, or as tab-separated raw values."""
    if not for_people:
        lines = [COLUMNS, *([row[name] for name in COLUMNS] for row in found)]
        return "\n".join("\t".join(map(_cell, line)) for line in lines)
    lines = [[_HEADS.get(name, name) for name in COLUMNS]]
    for row in found:
        shown = row | {"wall_s": _seconds(row["wall_s"]), "size_bytes": human(row["size_bytes"])}
        lines.append([_cell(shown[name]) for name in COLUMNS])
    aligned = tabulate(lines, tablefmt="plain", disable_numparse=True)
    total = human(sum(row["size_bytes"] for row in found))
    return "\n".join([aligned, "", f"{len(found)} attempts, {total}"])


def describe(attempt: Attempt) -> str:
    """One attempt in some lines, whatever the size of its files."""
    result = _result(attempt)

    def at(*path: str, scale: float | None = None) -> str:
        value = _at(result, *path)
        if scale and isinstance(value, int | float):
            return f"{value / scale:.1f}"
        return _cell(value)

    lines = {"attempt": f"{attempt.id} ({attempt.state})", "path": str(attempt.path)}
    if attempt.state in (SEALED, SUPERSEDED):
        lines["seal"] = _SEALS[(found := seal.check(attempt.path)).state] + found.sentence
    error = attempt.path / "error.txt"
    if error.is_file():
        lines["error"] = error.read_text(errors="replace", encoding="utf-8").strip()[:_ERROR_CHARS]
    if "outcome" in result:
        lines |= {
            "outcome": f"{at('outcome')}: {at('outcome_detail')[:_ERROR_CHARS]}",
            "task": f"{at('names', 'task')}, agent {at('names', 'agent')}, "
            f"replicate {at('spec', 'replicate')}",
            "limits": f"{_size(result, 'limits', 'effective', 'memory_bytes')} of memory, "
            f"{at('limits', 'effective', 'cpus')} CPUs (read back from the kernel)",
            "started": _cell(_utc(_at(result, "started_utc_ns"))),
            "time": f"{at('wall_s', scale=1)} s, "
            f"of it the agent {at('phases', 'agent_s', scale=1)} s",
            "memory": f"peak {_size(result, 'memory', 'peak_bytes')} "
            f"({at('memory', 'peak_source')}), {at('oom', 'kill_count')} OOM kills, "
            f"{_survived(result)} of them survived by the agent",
            "agent": f"Claude Code {at('agent', 'version')}, session {at('agent', 'session_id')}",
            "image": f"{at('image', 'reference')} {at('image', 'digest')}",
            "engine": f"{at('engine', 'name')} {at('engine', 'version')}, "
            f"{at('engine', 'runtime')}, cgroup v{at('engine', 'cgroup_version')}",
            "patch": f"{at('patch', 'status')}, {at('patch', 'bytes')} bytes",
        }
        if "replay" in result:
            lines["replay"] = (
                f"{at('replay', 'turns_played')} of {at('replay', 'turns')} turns of recording "
                f"{at('replay', 'source_sha256')[:12]}"
            )
    elif (attempt.path / "result.json").exists():
        lines["result"] = "result.json is damaged: `agentsweep store remove` the attempt"
    else:
        lines["result"] = "none was written"
    sizes: dict[str, int] = {}
    for name, size in _files(attempt.path):
        top, _, rest = name.partition("/")
        top += "/" if rest else ""
        sizes[top] = sizes.get(top, 0) + size
    lines["files"] = ", ".join(f"{name} {human(size)}" for name, size in sizes.items())
    return str(tabulate(lines.items(), tablefmt="plain", disable_numparse=True))


def _seal(attempt: Attempt, result: Json) -> str | None:
    """Whether a sealed attempt has hashes, which are not compared here; `store verify` does."""
    if attempt.state not in (SEALED, SUPERSEDED):
        return None
    if (attempt.path / seal.SEAL).exists():
        return seal.WHOLE
    return seal.DAMAGED if seal.MARK in result else seal.NO_HASHES


def human(size_bytes: int) -> str:
    """`512 B`, `4.0 KiB`, `1.1 MiB`."""
    size = float(size_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def _result(attempt: Attempt) -> Json:
    found = attempt.result()
    return found if isinstance(found, dict) else {}


def _at(content: Any, *path: str) -> Any:
    """What lies at a path of keys, None where a part of it is missing or no mapping."""
    for key in path:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def _files(folder: Path) -> list[tuple[str, int]]:
    return [
        (str(path.relative_to(folder)), path.lstat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file() or path.is_symlink()
    ]


def _survived(result: Json) -> str:
    """The kills that the agent survived, or what they are at most where that alone is known."""
    count, at_most = _at(result, "oom", "tool_count"), _at(result, "oom", "tool_count_max")
    return _cell(count) if count is not None or at_most is None else f"0 to {at_most}"


def _cell(value: object) -> str:
    """A value on one line, without the characters that would break a table."""
    return "-" if value is None else " ".join(str(value).split()) or "-"


def _size(result: Json, *path: str) -> str:
    value = _at(result, *path)
    return human(value) if isinstance(value, int) else "-"


def _seconds(value: object) -> str | None:
    return f"{value:.1f} s" if isinstance(value, int | float) else None


def _utc(ns: object) -> str | None:
    if not isinstance(ns, int):
        return None
    when = datetime.datetime.fromtimestamp(ns / 1e9, datetime.UTC)
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")
