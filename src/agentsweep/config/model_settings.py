"""Where the turns of an agent's model come from, and what follows for checks, specs and jobs.

The mode is `scripted` (the task's scenario), `live` (a real endpoint, which costs money) or
`replay` (a recorded session). `settings` are an agent's, with those that hold for all.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from agentsweep.errors import show
from agentsweep.extraction.recorded_runs import ReplaySource
from agentsweep.gateway.endpoint_tools import WEB_FETCH, WEB_SEARCH
from agentsweep.runs.spec import REPLAY_RULES
from agentsweep.tasks.task_file import Task

SCRIPTED, LIVE, REPLAY = "scripted", "live", "replay"

# What has a meaning for live agents alone, and what only for the others, with the neutral values.
_LIVE_ONLY = {
    "base_url": None,
    "credential": None,
    "credential_header": "auto",
    "max_cost_usd": None,
    "price": None,
    "endpoint_tools": [],
    "other_models": [],
}
_PLAYED_ONLY = {"latency_scale": 1}


def mode(settings: Mapping) -> str:
    """scripted, live or replay."""
    model = settings.get("model", SCRIPTED)
    return REPLAY if isinstance(model, Mapping) else model


def replayed_path(settings: Mapping) -> Path | None:
    """The recording, or the directory of recordings, that a replay agent names."""
    model = settings.get("model")
    return Path(model["replay"]) if isinstance(model, Mapping) else None


def problems(section: Mapping, agents: Mapping[str, Mapping]) -> Iterator[tuple[tuple, str]]:
    """What is wrong with agents, as (path of keys, sentence).

    A key of the section `agent` is a default, which an agent of another mode does not mind; on the
    agent itself it is a mistake.
    """
    for name, own in agents.items():
        of_mode = mode(own)
        misplaced = _PLAYED_ONLY if of_mode == LIVE else _LIVE_ONLY
        for key, neutral in misplaced.items():
            if own.get(key, neutral) != neutral:
                wanted = "scripted and replay agents" if of_mode == LIVE else "`model: live`"
                yield (
                    ("agents", name, key),
                    f"has a meaning for {wanted} only, and this agent's model is {of_mode}; "
                    "leave it out",
                )
        if of_mode == LIVE:
            yield from _live_problems(name, own, {**section, **own})


def _live_problems(name: str, own: Mapping, settings: Mapping) -> Iterator[tuple[tuple, str]]:
    def place(key: str) -> tuple:
        return ("agents", name, key) if key in own else ("agent", key)

    if settings["max_cost_usd"] is not None and settings["price"] is None:
        yield (
            place("max_cost_usd"),
            f"{show(settings['max_cost_usd'])} needs `price`, which is not built in because "
            "prices change; write input, output, cache_read and cache_write in USD for a million "
            "tokens",
        )
    if settings["base_url"] is not None:
        from agentsweep.gateway.upstream import check_base_url

        # Anthropic's own variables do not go to another endpoint.
        sends = settings["credential"] not in (None, "none")
        wrong = check_base_url(settings["base_url"], sends_credential=sends)
        if wrong:
            yield place("base_url"), wrong


def spec(settings: Mapping, task: Task, recording: ReplaySource | None) -> dict:
    """What of the model decides a run's outcome; never a path, a credential or its header.

    A price decides nothing but when a run has cost too much.
    """
    match mode(settings):
        case "live":
            limit = {key: settings[key] for key in ("max_cost_usd", "price")}
            return {
                "mode": LIVE,
                "base_url": settings["base_url"],
                **(limit if settings["max_cost_usd"] is not None else {}),
                # Left out where empty: specs stay what they were before there was this.
                **{
                    key: sorted(settings[key])
                    for key in ("endpoint_tools", "other_models")
                    if settings[key]
                },
            }
        case "replay":
            return {
                "mode": REPLAY,
                "recording_sha256": recording.sha256,
                "rules": REPLAY_RULES,
                "latency_scale": settings["latency_scale"],
            }
    return {
        "mode": SCRIPTED,
        "scenario_sha256": task.scenario_sha256,
        "latency_scale": settings["latency_scale"],
    }


def job(settings: Mapping, task: Task, recording: ReplaySource | None) -> dict:
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


def rules(settings: Mapping) -> dict:
    """What a live run may ask of its endpoint, as the gateway takes it; nothing for others."""
    if mode(settings) != LIVE:
        return {}
    return {
        "endpoint_tools": sorted(settings["endpoint_tools"]),
        "models": models(settings),
    }


def models(settings: Mapping) -> list[str]:
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


def cli_settings(settings: Mapping, network: str) -> dict:
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


def budget(settings: Mapping) -> dict:
    """What one run may spend: turns, and USD where it costs anything."""
    live = mode(settings) == LIVE
    costs = {key: settings[key] if live else None for key in ("max_cost_usd", "price")}
    return {"max_turns": settings["max_turns"], **costs}


def key_header(settings: Mapping) -> str | None:
    """The header that will carry a live agent's key, None where it has none to send.

    ConfigError where the key cannot be read; it is not kept.
    """
    from agentsweep.gateway import credentials

    found = credentials.read(
        _reference(settings["credential"]), settings["base_url"], settings["credential_header"]
    )
    return found.kind if found is not None else None


def _reference(credential: str | None) -> str | None:
    """A reference to a key, its path made absolute; relative ones begin where we were started."""
    if credential is None or not credential.startswith("file:"):
        return credential
    return f"file:{Path(credential.removeprefix('file:')).expanduser().absolute()}"
