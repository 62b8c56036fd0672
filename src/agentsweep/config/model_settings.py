"""Where the turns of an agent's model come from, and what follows for checks, specs and jobs.

The mode is `scripted` (the task's scenario), `live` (a real endpoint, which costs money) or
`replay` (a recorded session). `settings` are an agent's, with those that hold for all.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agentsweep.config.agent_models import LIVE, REPLAY, SCRIPTED, Agent, AgentDefaults
from agentsweep.errors import show
from agentsweep.extraction.recorded_runs import ReplaySource
from agentsweep.gateway.endpoint_tools import WEB_FETCH, WEB_SEARCH
from agentsweep.runs.spec import REPLAY_RULES
from agentsweep.schema import Json, KeyPath
from agentsweep.tasks.task_file import Task

# What has a meaning for live agents alone, and what only for the others, with the neutral values.
_LIVE_ONLY: Mapping[str, object] = {
    "base_url": None,
    "credential": None,
    "credential_header": "auto",
    "max_cost_usd": None,
    "price": None,
    "endpoint_tools": [],
    "other_models": [],
}
_PLAYED_ONLY: Mapping[str, object] = {"latency_scale": 1}


def mode(settings: Mapping[str, Any]) -> str:
    """scripted, live or replay."""
    model = settings["model"]
    return REPLAY if isinstance(model, Mapping) else str(model)


def problems(section: AgentDefaults, agents: Mapping[str, Agent]) -> Iterator[tuple[KeyPath, str]]:
    """What is wrong with agents, as (path of keys, sentence).

    A key of the section `agent` is a default, which an agent of another mode does not mind; on the
    agent itself it is a mistake.
    """
    for name, own in agents.items():
        misplaced = _PLAYED_ONLY if own.mode == LIVE else _LIVE_ONLY
        for key, neutral in misplaced.items():
            if getattr(own, key) != neutral:
                wanted = "scripted and replay agents" if own.mode == LIVE else "`model: live`"
                yield (
                    ("agents", name, key),
                    f"has a meaning for {wanted} only, and this agent's model is {own.mode}; "
                    "leave it out",
                )
        if own.mode == LIVE:
            yield from _live_problems(name, own, own.over(section))


def _live_problems(name: str, own: Agent, settings: Agent) -> Iterator[tuple[KeyPath, str]]:
    def place(key: str) -> KeyPath:
        return ("agents", name, key) if key in own.model_fields_set else ("agent", key)

    if settings.max_cost_usd is not None and settings.price is None:
        yield (
            place("max_cost_usd"),
            f"{show(settings.max_cost_usd)} needs `price`, which is not built in because "
            "prices change; write input, output, cache_read and cache_write in USD for a million "
            "tokens",
        )
    if settings.base_url is not None:
        from agentsweep.gateway.upstream import check_base_url

        # Anthropic's own variables do not go to another endpoint.
        sends = settings.credential not in (None, "none")
        wrong = check_base_url(settings.base_url, sends_credential=sends)
        if wrong:
            yield place("base_url"), wrong


def spec(settings: Agent, task: Task, recording: ReplaySource | None) -> Json:
    """What of the model decides a run's outcome; never a path, a credential or its header.

    A price decides nothing but when a run has cost too much.
    """
    if settings.mode == LIVE:
        return _live_spec(settings)
    if settings.mode == REPLAY:
        assert recording is not None, "a replay agent has a recording (Config.recording)"
        return {
            "mode": REPLAY,
            "recording_sha256": recording.sha256,
            "rules": REPLAY_RULES,
            "latency_scale": settings.latency_scale,
        }
    return {
        "mode": SCRIPTED,
        "scenario_sha256": task.scenario_sha256,
        "latency_scale": settings.latency_scale,
    }


def _live_spec(settings: Agent) -> Json:
    said: Json = {"mode": LIVE, "base_url": settings.base_url}
    if settings.max_cost_usd is not None:
        said |= settings.model_dump(include={"max_cost_usd", "price"})
    # Left out where empty: specs stay what they were before there was this.
    if settings.endpoint_tools:
        said["endpoint_tools"] = sorted(settings.endpoint_tools)
    if settings.other_models:
        said["other_models"] = sorted(settings.other_models)
    return said


def job(settings: Mapping[str, Any], task: Task, recording: ReplaySource | None) -> Json:
    """What the gateway needs to know of the model; of a credential only where it is."""
    match mode(settings):
        case "live":
            return {
                "mode": LIVE,
                "base_url": settings["base_url"],
                "credential": _reference(settings["credential"]),
                "credential_header": settings["credential_header"],
            }
        case "replay":
            assert recording is not None, "a replay agent has a recording (Config.recording)"
            return {
                "mode": REPLAY,
                "recording": str(recording.run_dir or recording.trace),
                "latency_scale": settings["latency_scale"],
            }
    return {
        "mode": SCRIPTED,
        "scenario": str(task.scenario) if task.scenario else None,
        "latency_scale": settings["latency_scale"],
    }


def rules(settings: Mapping[str, Any]) -> Json:
    """What a live run may ask of its endpoint, as the gateway takes it; nothing for others."""
    if mode(settings) != LIVE:
        return {}
    return {
        "endpoint_tools": sorted(settings["endpoint_tools"]),
        "models": models(settings),
    }


def models(settings: Mapping[str, Any]) -> list[str]:
    """The ids that a live run may ask its endpoint for: the agent's own, those of `other_models`,
    and what `--fallback-model` names."""
    named = [settings["model_id"], *settings["other_models"]]
    arguments = settings["extra_args"]
    for argument, following in zip(arguments, [*arguments, ""][1:], strict=True):
        name, equals, value = argument.partition("=")
        if name == "--fallback-model":
            named += (value if equals else following).split(",")
    # The CLI asks for `<id>[1m]` by the id and a header.
    return sorted({name.strip().partition("[")[0] for name in named} - {""} | {named[0]})


def cli_settings(settings: Mapping[str, Any], network: str) -> Json:
    """How the CLI of a live run is kept to what its gateway lets through; nothing for others.

    disallowed_tools: those that would ask the endpoint to leave the sandbox, or cannot work in it,
    unless they are named in `tools`. aliases_mean_model: whether `haiku` and the like, which the
    CLI gives sub-agents to choose from, stand for the run's own model.
    """
    if mode(settings) != LIVE:
        return {}
    allowed, named = settings["endpoint_tools"], settings["tools"] or ()
    unusable = {"WebSearch": WEB_SEARCH not in allowed}
    unusable["WebFetch"] = WEB_FETCH not in allowed and network == "gateway"
    return {
        "disallowed_tools": [tool for tool in unusable if unusable[tool] and tool not in named],
        "aliases_mean_model": not settings["other_models"],
    }


def budget(settings: Mapping[str, Any]) -> Json:
    """What one run may spend: turns, and USD where it costs anything."""
    live = mode(settings) == LIVE
    costs = {key: settings[key] if live else None for key in ("max_cost_usd", "price")}
    return {"max_turns": settings["max_turns"], **costs}


def key_header(settings: Agent) -> str | None:
    """The header that will carry a live agent's key, None where it has none to send.

    ConfigError where the key cannot be read; it is not kept.
    """
    from agentsweep.gateway import credentials

    found = credentials.read(
        _reference(settings.credential), settings.base_url, settings.credential_header
    )
    return found.kind if found is not None else None


def _reference(credential: str | None) -> str | None:
    """A reference to a key, its path made absolute; relative ones begin where we were started."""
    if credential is None or not credential.startswith("file:"):
        return credential
    return f"file:{Path(credential.removeprefix('file:')).expanduser().absolute()}"
