"""What a gateway is started with: one line of JSON."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agentsweep.errors import ConfigError

# What each mode needs beside what all of them do.
MODES = {"scripted": ("scenario",), "replay": ("recording",), "live": ()}


@dataclass(frozen=True, repr=False)
class Settings:
    """The line that starts a gateway; has no repr, so that no secret can get into a message.

    scenario, recording: the file or directory that is played. base_url: the endpoint to pass to,
    None for the Anthropic API; credential: `credentials.Credential.to_message`, None for none.
    budget: as `Budget.of` takes it. endpoint_tools, models: what a live run may ask for, as `Rules`
    has it.
    """

    mode: str
    listen: str
    log: Path
    token: str
    scenario: Path | None = None
    recording: Path | None = None
    latency_scale: float = 1.0
    base_url: str | None = None
    credential: dict[str, Any] | None = None
    budget: dict[str, Any] | None = None
    endpoint_tools: tuple[str, ...] = ()
    models: tuple[str, ...] | None = None

    @classmethod
    def parse(cls, line: bytes) -> "Settings":
        """Raises ConfigError with one line for each problem."""
        try:
            content = json.loads(line)
        except (ValueError, RecursionError):
            content = None
        if not isinstance(content, dict):
            raise ConfigError("gateway: the first line on stdin must be a JSON object")
        problems = []
        mode = content.get("mode")
        needed = MODES.get(mode) if isinstance(mode, str) else None
        if mode is not None and needed is None:
            problems.append(f"gateway: mode: {mode!r} is not allowed; write {' or '.join(MODES)}")
        for key in ("mode", "listen", "log", "token", *(needed or ())):
            if not isinstance(content.get(key), str) or not content[key]:
                problems.append(f"gateway: {key}: missing; write a text")
        scale = content.get("latency_scale", 1.0)
        if isinstance(scale, bool) or not isinstance(scale, int | float) or not 0 <= scale <= 1000:
            problems.append(
                f"gateway: latency_scale: {scale!r} is not allowed; write a number from 0 to 1000"
            )
        unknown = content.keys() - cls.__dataclass_fields__.keys()
        problems += [f"gateway: unknown key {key!r}" for key in sorted(unknown)]
        if problems:
            raise ConfigError(problems)
        paths = {
            key: Path(content[key]) for key in ("log", "scenario", "recording") if key in content
        }
        return cls(**content | paths | {"latency_scale": float(scale)})
