"""The keys of agents: of the section `agent`, and of each agent by its name."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from agentsweep.schema import (
    AS_WRITTEN,
    EACH_ONCE,
    WHOLE,
    Number,
    Section,
    Whole,
    hints,
    key,
    not_allowed,
)

SCRIPTED, LIVE, REPLAY = "scripted", "live", "replay"

# What no number of seconds, turns or USD passes.
_MOST = 1_000_000_000

Repeatable = Literal[
    "api_error", "over_budget", "agent_error", "no_work", "timed_out", "stalled", "diverged",
    "disk_full", "oom_agent", "oom_container",
]  # fmt: skip
EndpointTool = Literal[
    "web_search", "web_fetch", "code_execution", "mcp", "url_sources", "files", "other"
]
_Tool = Annotated[
    str,
    Field(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", json_schema_extra=hints(allowed="a tool name")),
]
_ModelId = Annotated[str, Field(min_length=1, json_schema_extra=hints(allowed="a model id"))]
# Limits belong to the number and not to the null beside it.
_Cost = Annotated[float, Field(gt=0, le=_MOST), AS_WRITTEN]
_Price = Annotated[float, Field(ge=0), AS_WRITTEN]


def _form(model: Any) -> str:
    return "(mapping)" if isinstance(model, Mapping | Replay) else "(word)"


class Price(Section):
    """What a million tokens cost, in USD."""

    input: _Price = Field()
    output: _Price = Field()
    cache_read: _Price = Field()
    cache_write: _Price = Field()


class Replay(Section):
    """A model whose turns are those of recorded runs."""

    replay: str = key(
        # Without the key, what is there is unknown or nothing, and refused as that.
        "",
        "A session file, a run, or a directory of runs; see config/README.md.",
        allowed="the path of a recording",
        min_length=1,
    )

    @model_validator(mode="before")
    @classmethod
    def _not_empty(cls, value: Any) -> Any:
        if value == {}:
            raise not_allowed("{replay: PATH}")
        return value


class AgentKeys(Section):
    """What an agent has of its own, or from the section `agent`."""

    timeout_s: Number = key(
        1800,
        "Wall time after which an agent is ended (outcome `timed_out`).",
        reruns="yes",
        gt=0,
        le=_MOST,
    )
    stall_s: Number = key(
        300,
        "Time without any sign of life (no output, no traffic with the model endpoint, no tool "
        "at work) after which an agent is ended (outcome `stalled`).",
        reruns="yes",
        gt=0,
        le=_MOST,
    )
    grace_s: Number = key(
        5, "Time between asking an agent to end and killing it.", reruns="yes", ge=0, le=_MOST
    )
    max_turns: Annotated[int, Field(ge=1, le=_MOST), WHOLE] | None = key(
        None,
        "The largest number of turns, each of which is one answer of the model, whoever asked "
        "(null means no such limit).",
        reruns="yes",
    )
    on_miss: Literal["run", "fail"] = key(
        "run",
        "What to do for a cell that has no sealed run: `run` the agent, or `fail`, so that an "
        "archive gives its figures and nothing can be spent.",
        reruns="no",
    )
    repeat: Annotated[list[Repeatable], EACH_ONCE] = key(
        [],
        "Outcomes after which a cell is run again, such as `api_error` after a provider's bad "
        "hour: a sealed run with one of them does not count as the cell's.",
        reruns="repeat",
    )
    repeat_times: Whole = key(
        2,
        "How many more runs a cell gets for `repeat`, in all and not for each start; after that "
        "its newest run counts, whatever its outcome.",
        reruns="repeat",
        ge=1,
        le=10000,
    )
    system_search: bool = key(
        True,
        "Keep `grep` and `find` inside Bash the system's own; the agent otherwise replaces them "
        "by itself, which changes what memory is measured.",
        reruns="yes",
    )
    extra_args: list[str] = key([], "More arguments for the agent's command line.", reruns="yes")
    tools: list[_Tool] | None = key(
        None,
        "The tools that the agent is offered (null means its own choice).",
        reruns="yes",
        min_length=1,
    )
    bash_timeout_s: Whole = key(
        600, "The longest that one Bash call may take.", reruns="yes", ge=1, le=1000000
    )
    max_retries: Whole = key(
        10,
        "How often the agent tries a failed model request again.",
        reruns="yes",
        ge=0,
        le=1000000,
    )
    latency_scale: Number = key(
        1,
        "Factor on the model's latencies of a scenario or a recording; 0 removes them.",
        reruns="yes",
        ge=0,
        le=1000000,
    )
    base_url: str | None = key(
        None,
        "The address of the endpoint that live runs ask (null means the Anthropic API).",
        reruns="yes",
        min_length=1,
    )
    credential: str | None = key(
        None,
        "Where the endpoint's key is, never the key itself: `env:NAME`, `file:PATH` or `none` "
        "(null means what ANTHROPIC_API_KEY, ANTHROPIC_AUTH_TOKEN or CLAUDE_CODE_OAUTH_TOKEN "
        "has, and `none` where `base_url` is another endpoint).",
        reruns="no",
        pattern=r"^(env:[A-Za-z_][A-Za-z0-9_]*|file:.+|none)$",
        allowed="env:NAME, file:PATH, none or null",
        type_words="env:NAME, file:PATH, none or null",
        secret=True,
    )
    credential_header: Literal["auto", "x-api-key", "bearer"] = key(
        "auto",
        "The header that carries the key: `x-api-key`, or `bearer` for `Authorization: Bearer` "
        "(`auto` means `bearer` for OAuth tokens and for what ANTHROPIC_AUTH_TOKEN has, else "
        "`x-api-key`).",
        reruns="no",
    )
    max_cost_usd: _Cost | None = key(
        None,
        "What one live run may cost, in USD, counted by `price`; only its last answer can pass "
        "that (null means no such limit).",
        reruns="yes",
    )
    price: Price | None = key(
        None,
        "What a million tokens cost, in USD: a mapping with all of `input`, `output`, "
        "`cache_read` and `cache_write`. `max_cost_usd` needs it, because prices that are built "
        "in go stale; without that key a change reruns nothing.",
        reruns="yes",
        type_words="a mapping or null",
    )
    endpoint_tools: Annotated[list[EndpointTool], EACH_ONCE] = key(
        [],
        "What a live run may have the endpoint run or fetch outside of the sandbox: "
        "`web_search`, `web_fetch`, `code_execution`, `mcp` (MCP servers), `url_sources` (images "
        "and documents by URL), `files` (by id), `other` (what agentsweep does not know). The "
        "gateway refuses the rest.",
        reruns="yes",
    )
    other_models: Annotated[list[_ModelId], EACH_ONCE] = key(
        [],
        "Models that a live run may ask for beside `model_id`; `price` counts for them too. "
        "Without any, the agent's short names for models (`haiku`, `opus`) all stand for "
        "`model_id`.",
        reruns="yes",
    )
    lock: str = key(
        "config/agents.lock.yaml",
        "The file that gives each agent version the hash of its binary.",
        reruns="no",
        min_length=1,
    )


class AgentDefaults(AgentKeys):
    """How an agent is run; the values that hold unless an agent overrides them."""

    max_sessions: Whole = key(
        4, "How many agents run at once, whatever `--cores` allows.", reruns="no", ge=1, le=10000
    )
    max_live_runs: Annotated[int, Field(ge=0, le=_MOST), WHOLE] | None = key(
        None,
        "How many live runs one `snakemake` may start, repeated attempts included (null means no "
        "such limit); those past it are refused.",
        reruns="no",
    )


class Agent(AgentKeys):
    """An agent by its name: its model, its version, and what it overrides of `agent`."""

    model: Annotated[
        Annotated[Literal["scripted", "live"], Tag("(word)")] | Annotated[Replay, Tag("(mapping)")],
        Discriminator(_form),
    ] = key(
        SCRIPTED,
        "Where the model's turns come from: `scripted` plays the task's scenario, `live` asks a "
        "real endpoint (which costs money), `{replay: PATH}` plays recorded runs.",
        reruns="yes",
        allowed="scripted, live or {replay: PATH}",
        type_words="scripted, live or {replay: PATH}",
    )
    model_id: str = key(
        ...,
        "The full model id that the agent asks for. Aliases such as `haiku` are refused: what "
        "they mean changes with the agent's version.",
        reruns="yes",
        min_length=1,
        examples=["claude-haiku-4-5-20251001"],
    )
    version: str = key(
        ...,
        "The Claude Code version; its binary's hash is taken from `agent.lock`.",
        reruns="yes",
        pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$",
        allowed='a version such as "2.1.330" (in quotes)',
        examples=["2.1.330"],
    )

    @property
    def mode(self) -> str:
        """Where the model's turns come from: scripted, live or replay."""
        return REPLAY if isinstance(self.model, Replay) else self.model

    @property
    def replayed_path(self) -> Path | None:
        """The recording, or the directory of recordings, that a replay agent names."""
        return Path(self.model.replay) if isinstance(self.model, Replay) else None

    def over(self, defaults: AgentDefaults) -> "Agent":
        """The agent with the values of the section `agent` for all keys that it does not set."""
        missing = AgentKeys.model_fields.keys() - self.model_fields_set
        return self.model_copy(update={name: getattr(defaults, name) for name in missing})
