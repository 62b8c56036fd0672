"""The job of a cell: all that its runner needs, made once from the configuration.

A job holds no secret: of a credential only where it is. `Job.to_json` is what passes between
processes, and `Job.from_json` refuses what it does not know.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from agentsweep import typed_json
from agentsweep.agents.claude_code.invocation import AgentSettings
from agentsweep.host.admission import Grant
from agentsweep.host.capacity import MachineSettings
from agentsweep.host.limits import Limits
from agentsweep.runs.spec import ImageRef


@dataclass(frozen=True)
class Names:
    """What the run's record calls it: data set, task, agent, and what of a benchmark it is."""

    dataset: str
    task: str
    agent: str
    instance_id: str | None
    kind: str
    row_sha256: str | None


@dataclass(frozen=True)
class TaskPart:
    """Where the agent starts, the shell lines that ready its environment, and its Python."""

    workdir: str
    environment: str | None
    python: str | None


@dataclass(frozen=True)
class AgentPart:
    """The agent's settings, and its program by path and content."""

    settings: AgentSettings
    binary: Path
    binary_sha256: str


@dataclass(frozen=True)
class ScriptedModel:
    """Turns from a task's scenario, at its pace times `latency_scale`."""

    scenario: str | None
    latency_scale: float
    mode: Literal["scripted"] = "scripted"


@dataclass(frozen=True)
class ReplayModel:
    """Turns of a recorded session: a run's directory, or its session file."""

    recording: str
    latency_scale: float
    mode: Literal["replay"] = "replay"


@dataclass(frozen=True)
class LiveModel:
    """A real endpoint. `credential` says where the key is, `credential_header` how it is sent."""

    base_url: str | None
    credential: str | None
    credential_header: str
    mode: Literal["live"] = "live"


@dataclass(frozen=True)
class Budget:
    """What one run may spend: turns, and USD where `price` (USD for a million tokens) is known."""

    max_turns: int | None = None
    max_cost_usd: float | None = None
    price: dict[str, float] | None = None


@dataclass(frozen=True)
class Rules:
    """What a live run may ask of its endpoint: tools that run there, and models by their ids."""

    endpoint_tools: tuple[str, ...]
    models: tuple[str, ...]


@dataclass(frozen=True)
class Needs:
    """What is kept from others on this machine while the run lasts."""

    memory_bytes: int
    cores: int


@dataclass(frozen=True)
class ContainerPart:
    """The engine, and what of the container is no limit.

    userland: `image` or `host`. network: `gateway` (none but the endpoint's socket) or `host`.
    cgroup_parent: `engine` or `job`.
    """

    engine: str
    runtime: str
    userland: str
    network: str
    host_mounts: tuple[str, ...]
    uid: int
    gid: int
    cgroup_parent: str

    @property
    def user(self) -> str:
        """The agent's user, as engines take it."""
        return f"{self.uid}:{self.gid}"


@dataclass(frozen=True)
class ImagesPart:
    """How images reach other nodes (`image_distribution`)."""

    distribute: str
    archive_directory: str | None
    registry: str | None


@dataclass(frozen=True)
class Paths:
    """Absolute, because engines are called from a directory of their own."""

    store: Path
    results: Path


@dataclass(frozen=True)
class Job:
    """One cell to be run.

    timeout_s: the agent's wall limit; stall_s: how long it may do nothing; grace_s: between TERM
    and KILL. disk_bytes: what the run may write. on_miss: `run` or `fail` where no sealed run is
    found; repeat, repeat_times: outcomes that are run again, and how often. max_live_runs: of one
    invocation. granted: the room that the run was given, None before.
    """

    cell: str
    names: Names
    prompt: str
    task: TaskPart
    agent: AgentPart
    model: ScriptedModel | ReplayModel | LiveModel
    budget: Budget
    rules: Rules | None
    max_live_runs: int | None
    timeout_s: float
    stall_s: float
    grace_s: float
    on_miss: str
    repeat: tuple[str, ...]
    repeat_times: int
    limits: Limits
    disk_bytes: int
    needs: Needs
    machine: MachineSettings
    container: ContainerPart
    image: ImageRef
    images: ImagesPart
    rate_hz: float
    paths: Paths
    granted: Grant | None = field(default=None, metadata=typed_json.OMIT_NONE)

    @property
    def is_live(self) -> bool:
        """Whether a real endpoint is asked, which may cost money."""
        return isinstance(self.model, LiveModel)

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        plain: dict[str, Any] = typed_json.to_json(self)
        return plain

    @classmethod
    def from_json(cls, content: object) -> "Job":
        """The job of plain values; ConfigError with one sentence where they are no job."""
        return typed_json.from_json(cls, content, "job")
