"""The record of a run, `result.json`: what is kept of it for years.

`schemas/result.schema.yaml` says what each field means, and docs/files.md has it as a table. A
field may be added; none may change its meaning, because old stores stay readable.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agentsweep import seal, typed_json
from agentsweep.files import write_durably
from agentsweep.host.admission import Grant
from agentsweep.runs.collect import Patch
from agentsweep.runs.job import Names
from agentsweep.runs.judgement import Oom

NAME = "result.json"
# Raise it when a field changes its meaning; adding one changes none.
SCHEMA = 1


@dataclass(frozen=True)
class Memory:
    """The peak of the agent's phase, and where it is known from."""

    peak_bytes: int | None
    peak_source: str | None


@dataclass(frozen=True)
class CounterReadings:
    """All counters of the container, before the agent and after it."""

    start: dict[str, int | None]
    end: dict[str, int | None]


@dataclass(frozen=True)
class AgentFacts:
    """Which agent ran, and how it was called."""

    version: str
    binary_sha256: str
    argv: list[str]
    session_id: str
    uid: int


@dataclass(frozen=True)
class ImageFacts:
    """Which image it ran in."""

    reference: str
    digest: str
    id: str
    size_bytes: int


@dataclass(frozen=True)
class DiskFacts:
    """What the run might write, what it wrote, and what it wrote too much of, if it did."""

    limit_bytes: int
    used_bytes: int | None
    full: str | None


@dataclass(frozen=True)
class StreamFacts:
    """What the agent's own output said of its end, and where the facts are others."""

    result: dict[str, Any] | None
    result_events: int
    differs: dict[str, str]


@dataclass(frozen=True)
class Runner:
    """Which agentsweep made the run."""

    version: str
    source_sha256: str


@dataclass(frozen=True)
class Record:
    """All of `result.json`, field by field; see the schema for what each means."""

    spec: dict[str, Any]
    spec_sha256: str
    attempt: int
    attempt_id: str
    names: Names
    outcome: str
    outcome_detail: str
    exit_code: int | None
    limits: dict[str, Any]
    reservation: Grant | None
    scope: str
    cluster_job: str | None
    memory: Memory
    counters: CounterReadings
    oom: Oom
    phases: dict[str, float | None]
    wall_s: float
    started_utc_ns: int
    ended_utc_ns: int
    agent_start_ns: int
    agent_end_ns: int
    agent_start_utc_ns: int
    agent_end_utc_ns: int
    leftover_processes: int
    agent: AgentFacts
    image: ImageFacts
    patch: Patch
    session: dict[str, int]
    disk: DiskFacts
    engine: dict[str, Any]
    host: dict[str, Any]
    sampler: dict[str, Any]
    written: seal.Facts
    stream: StreamFacts
    gateway: dict[str, Any]
    budget: dict[str, Any]
    endpoint: dict[str, Any] | None
    runner: Runner
    replay: dict[str, Any] | None = field(default=None, metadata=typed_json.OMIT_NONE)
    schema: int = SCHEMA


def write(record: Record, folder: Path) -> None:
    """Write `result.json`, durably."""
    text = json.dumps(typed_json.to_json(record), indent=1, sort_keys=True)
    write_durably(folder / NAME, text.encode() + b"\n")


def replayed(spec: dict[str, Any], gateway: dict[str, Any]) -> dict[str, Any] | None:
    """What was replayed and how far; None in other modes."""
    if "replay" not in gateway:
        return None
    return {"source_sha256": spec["model"]["recording_sha256"], **gateway["replay"]}
