"""The last lines of a workflow that failed: each failed job with the sentence of its error."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

# One of Snakemake's, whose types we do not load.
Job = Any

_MARK = "agentsweep: "


def lines(jobs: Iterable[Job]) -> list[str]:
    """A line for each of Snakemake's failed jobs, those of a group one by one."""
    found = []
    for job in jobs:
        members = list(job.jobs) if job.is_group() else [job]
        told = [(member, said) for member in members if (said := _error(member)) is not None]
        # What ended without a word, killed perhaps: the job itself, as Snakemake printed it.
        told = told or [(members[0], _last_line(members[0]))]
        for member, said in told:
            name = _name(member)
            # The sentence of a run begins with its cell.
            found.append(f"{_MARK}failed: {name}: {said.removeprefix(f'{name}: ')}")
    return sorted(found)


def sentence(log: str) -> str | None:
    """The error that an agentsweep command ended with, in one line; None where its log has none."""
    said: list[str] = []
    for line in reversed(log.rstrip().splitlines()):
        if not line.startswith(_MARK):
            break
        said.insert(0, line.removeprefix(_MARK))
    return "; ".join(said) or None


def _error(job: Job) -> str | None:
    return sentence(_log(job))


def _last_line(job: Job) -> str:
    written = _log(job).rstrip().splitlines()
    if written:
        return f"{written[-1].strip()} (see {job.log[0]})"
    return "it ended without a word; see what Snakemake says of it above"


def _log(job: Job) -> str:
    try:
        return Path(job.log[0]).read_text(encoding="utf-8", errors="replace")
    except (IndexError, OSError):
        return ""


def _name(job: Job) -> str:
    """The cell of a run, else the rule with what tells its jobs from each other."""
    values = dict(job.wildcards.items())
    if "replicate" in values:
        return str(job.params.get("cell", job.rule.name))
    return " ".join([job.rule.name, *map(str, values.values())])
