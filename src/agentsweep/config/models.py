"""The sections of a configuration and their keys: types, defaults, what they do.

`reruns` says whether a change of a key makes finished runs stale: `yes`, `no`, `new` (only cells
that did not exist before are run) or `repeat` (only runs with a listed outcome).
"""

from typing import Annotated, Literal

from pydantic import ConfigDict, Field

from agentsweep.config.agent_models import Agent, AgentDefaults
from agentsweep.schema import EACH_ONCE, WHOLE, Json, Number, Section, Whole, hints, key

_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_SIZE = "a size with a unit, such as 512MiB"

CpuMode = Literal["quota", "cpuset"]
# A number of cores, or its text.
Cpus = Number | str
_Name = Annotated[str, Field(pattern=_NAME)]
_Size = Annotated[str, Field(json_schema_extra=hints(allowed=_SIZE))]
_Directory = Annotated[
    str, Field(pattern=r"^/", json_schema_extra=hints(allowed="an absolute path such as /home"))
]


class Import(Section):
    """A data set of runs that others made: where it lies, how, and which attempts count."""

    directory: str = key(
        ..., "Where the runs lie, below `imports_directory`.", reruns="no", min_length=1
    )
    layout: Literal["agentcgroup"] = key(
        "agentcgroup",
        'How they lie there; see "Imported runs" in docs/agentcgroup.md.',
        reruns="no",
    )
    attempts: Literal["last", "first", "all"] = key(
        "last",
        "Which attempts of a task count, in the order of their names as text: the `last`, the "
        "`first` or `all`. The others are imported too, and marked.",
        reruns="no",
    )


class Paper(Section):
    """What `snakemake paper` makes, beside the figures."""

    published: str | None = key(
        None,
        "A CSV file with what a paper prints (columns claim, dataset, printed, number, factor, "
        "remark), to set beside what is computed; null for none.",
        reruns="no",
    )


class Sweep(Section):
    """The cells to measure."""

    tasks: list[str] | None = key(
        None,
        "Names of the tasks to run, that of a task set for all of it (null means those that your "
        "own files define, or all of `tasks` where they define none; [] means that nothing is "
        "measured, for a configuration that only imports).",
        reruns="new",
    )
    agents: list[str] | None = key(
        None,
        "Names of the agents to run (null means those that your own files define, or all of "
        "`agents` where they define none).",
        reruns="new",
        min_length=1,
    )
    memory: list[_Size] | None = key(
        None,
        "Memory limits, as sizes with a unit; swap is always closed.",
        reruns="new",
        min_length=1,
        examples=[["512MiB", "2GiB"]],
    )
    cpus: list[Cpus] | None = key(
        None,
        "CPU limits, in cores, two decimals at most.",
        reruns="new",
        min_length=1,
        examples=[[0.5, 1, 2]],
    )
    cpu_modes: Annotated[list[CpuMode], EACH_ONCE] | None = key(
        None,
        "Modes of limiting CPUs, as in `container.cpu_mode` (null means that one alone); "
        "`cpuset` takes whole cores only.",
        reruns="new",
        min_length=1,
    )
    replicates: Whole = key(
        1, "How many independent runs each setting gets.", reruns="new", ge=1, le=10000
    )
    cells: str | None = key(
        None,
        "A CSV or TSV file with the columns task, agent, memory, cpus, replicate (and cpu_mode), "
        "one cell a line, instead of the full grid.",
        reruns="new",
    )
    skip_unfit: bool = key(
        False,
        "Leave out cells larger than this machine, with a printed reason, instead of refusing "
        "them. Cells whose run is in the store stay, and on a cluster all do.",
        reruns="no",
    )


class Container(Section):
    """The container around an agent."""

    engine: Literal["auto", "podman", "docker"] = key(
        "auto",
        "The container engine; `auto` takes the first one that works here, Podman before Docker.",
        reruns="no",
    )
    runtime: Literal["auto", "crun", "runc"] = key(
        "auto",
        "The OCI runtime below the engine; `auto` is found by starting a container, and with "
        "Docker is its daemon's own default.",
        reruns="no",
    )
    userland: Literal["image", "host"] = key(
        "image",
        "`image`: the image's own system, only the agent's binary is mounted. `host`: this "
        "machine's /usr, /lib, /lib64, /etc, /bin and /sbin, read-only, over the image's.",
        reruns="yes",
    )
    network: Literal["gateway", "host"] = key(
        "gateway",
        "`gateway`: no network but a socket to the run's own model endpoint. `host`: this "
        "machine's network.",
        reruns="yes",
    )
    cpu_mode: CpuMode = key(
        "quota",
        "How CPUs are limited. `quota`: a share of the time of all CPUs (the engine's `--cpus`). "
        "`cpuset`: whole ones that no other pinned run has.",
        reruns="new",
    )
    pids: Whole = key(
        4096,
        "The largest number of processes and threads in the container.",
        reruns="yes",
        ge=64,
        le=4194304,
    )
    disk: str = key(
        "8GiB",
        "What a run may write on this machine's disks in all (home, session, output, layer and "
        "records), as a size with a unit; past it the run ends as `disk_full`.",
        reruns="yes",
        allowed="a size with a unit, such as 8GiB",
    )
    uid: Whole = key(
        1000,
        "The user that the agent runs as and that owns the work tree; never root.",
        reruns="yes",
        ge=1,
        le=4294967294,
    )
    gid: Whole = key(1000, "The group of that user.", reruns="yes", ge=1, le=4294967294)
    host_mounts: list[_Directory] = key(
        [],
        "More directories of this machine, writable at the same path in the container; for "
        "`userland: host` only.",
        reruns="yes",
    )
    cgroup_parent: Literal["engine", "job"] = key(
        "engine",
        "Where a container's cgroup is, in a Slurm job. `engine`: where the engine puts it, "
        "mostly outside the job's (column `scope` of `runs` says it). `job`: in that of the job, "
        "so that its limits and accounting hold for the container; see docs/cluster.md.",
        reruns="no",
    )


class Images(Section):
    """Where images are pinned, and how the nodes of a cluster come by them."""

    lock: str = key(
        "config/images.lock.yaml",
        "The file that gives each image reference its digest; written by `snakemake lock` alone.",
        reruns="no",
        min_length=1,
    )
    distribute: Literal["local", "archive", "registry"] = key(
        "local",
        "How the nodes of a cluster come by an image, each once. `local`: each node makes its "
        "own, which is right for one machine. `archive`: from a file in `archive_directory`. "
        "`registry`: from `registry`. See docs/cluster.md.",
        reruns="no",
    )
    archive_directory: str | None = key(
        None,
        "Where image archives and the records of distributed images lie, on storage that all "
        "nodes see (null means `image-archives` in `paths.results`).",
        reruns="no",
        min_length=1,
    )
    registry: str | None = key(
        None,
        "The repository that images are pushed to with `distribute: registry`, such as "
        "`docker://registry.example.org/me/agentsweep`.",
        reruns="no",
        examples=["docker://registry.example.org/me/agentsweep"],
        pattern=r"^docker://[^/@]+(/[^/@:]+)+$",
        allowed="docker://, a registry and a repository in it, without a tag",
    )
    prepare: Literal["here", "node"] = key(
        "here",
        "Where images are pulled and fixed on a cluster. `here`: where `snakemake` was started, "
        "which needs an engine. `node`: in a job, on a node, which needs the registries.",
        reruns="no",
    )


class Grading(Section):
    """How the patches of tasks with a row are graded, each in a container of its own."""

    memory: str = key(
        "4GiB",
        "Memory of a grading's container, the same for all runs, as a size with a unit.",
        reruns="no",
        allowed=_SIZE,
    )
    cpus: Cpus = key(2, "CPUs of a grading's container, the same for all runs.", reruns="no")
    timeout_s: Number = key(
        1800, "Wall time after which the tests are ended.", reruns="no", gt=0, le=1_000_000_000
    )
    network: bool = key(False, "Whether a grading's container has network.", reruns="no")
    install: bool = key(
        False,
        "Whether a row's `install` commands are run before its tests, as its benchmark does; "
        "most need `network`.",
        reruns="no",
    )
    validations: Whole = key(
        2,
        "How often a row and its image are validated: the gold patch must resolve the task, and "
        "an empty one must not. 0 validates nothing.",
        reruns="no",
        ge=0,
        le=1000,
    )
    keep_invalid: bool = key(
        False,
        "Tasks whose validation failed stay in the sweep, its shares and its figures.",
        reruns="no",
    )


class Measure(Section):
    """How runs are measured."""

    rate_hz: Number = key(
        50, "Samples of the container's counters in a second.", reruns="no", ge=0.1, le=200
    )
    mem_overhead: str = key(
        "256MiB",
        "Memory that is reserved beside a run's limit for what watches it (engine, sampler, "
        "gateway).",
        reruns="no",
        allowed=_SIZE,
    )


class Machine(Section):
    """What runs and gradings may take of a machine together, also of other invocations."""

    memory: str | None = key(
        None,
        "Memory that runs and gradings may reserve together (null means nine tenths of the "
        "machine's), as a size with a unit.",
        reruns="no",
        allowed="a size with a unit, such as 512MiB, or null",
    )
    cpus: Annotated[int, Field(ge=1, le=65536), WHOLE] | None = key(
        None,
        "Cores that they may reserve (null means all that `snakemake` may use).",
        reruns="no",
    )
    wait_s: Number = key(
        86400,
        "How long a run or a grading waits for room before it fails, in seconds.",
        reruns="no",
        ge=0,
        le=1_000_000_000,
    )
    ledger: str | None = key(
        None,
        "Directory on the machine's own disk in which they stand in line (null means one of this "
        "user in /dev/shm).",
        reruns="no",
    )


class Paths(Section):
    """Directories, relative to where `snakemake` is started."""

    results: str = key(
        "results", "Everything the workflow makes; safe to delete.", reruns="no", min_length=1
    )
    store: str = key(
        "store",
        "The sealed runs; never deleted by the workflow, keep it.",
        reruns="no",
        min_length=1,
    )
    agents: str = key(
        "agents", "The agents' binaries, one directory for each version.", reruns="no", min_length=1
    )


class Configuration(Section):
    """Every key of config/config.yaml.

    `x-reruns` says whether a change of the key makes finished runs stale: `yes`, `no`, `new` (only
    cells that did not exist before are run) or `repeat` (only runs with a listed outcome).
    """

    model_config = ConfigDict(title="agentsweep configuration")
    dataset: str = key(
        "sweep",
        "Name of the data set that this sweep makes; a column of `runs`.",
        reruns="no",
        pattern=_NAME,
    )
    partial: bool = key(
        False,
        "Aggregate the runs that exist and start no other, so that a sweep that is not finished "
        "(or has a cell that cannot be) gives figures, whose captions say how many of the cells "
        "have a run.",
        reruns="no",
    )
    imports_directory: str = key(
        ".", "The directory that those of `imports` are below.", reruns="no", min_length=1
    )
    imports: dict[_Name, Import] = key(
        {},
        "Data sets of runs that others made, by name; the name becomes that of the data set in "
        "tables and captions.",
    )
    paper: Paper = Field(default_factory=Paper)
    sweep: Sweep
    tasks: dict[_Name, str | Json] = key(
        ...,
        'The tasks by name; each a task file (see "Task files" in config/README.md) or the same '
        'keys in place. Or a set of tasks (see "Task sets" there), each of which has the name '
        "that it has in its benchmark.",
        reruns="yes",
        min_length=1,
    )
    agents: dict[_Name, Agent] = key(
        ...,
        "The agents by name; `model`, `model_id`, `version`, and any key of `agent` to override "
        "it for this agent alone.",
        min_length=1,
    )
    agent: AgentDefaults = Field(default_factory=AgentDefaults)
    container: Container = Field(default_factory=Container)
    images: Images = Field(default_factory=Images)
    grading: Grading = Field(default_factory=Grading)
    measure: Measure = Field(default_factory=Measure)
    machine: Machine = Field(default_factory=Machine)
    paths: Paths = Field(default_factory=Paths)

    def plain(self) -> Json:
        """The configuration as a file could hold it; of agents what they say themselves."""
        agents = {name: agent.model_dump(exclude_unset=True) for name, agent in self.agents.items()}
        return self.model_dump() | {"agents": agents}

    def agent_settings(self, name: str) -> Agent:
        """What holds for an agent: `agent`, with what it overrides."""
        return self.agents[name].over(self.agent)
