"""The errors that a user sees: one sentence each, saying what, where and how to mend it."""

import json
from typing import Any


class AgentsweepError(Exception):
    """A failure that the command line prints as one line, without a traceback."""


class ConfigError(AgentsweepError):
    """The configuration, a task, a scenario or a lock file is wrong.

    `problems` holds one line for each thing that is wrong; the message is all of them.
    """

    def __init__(self, problems: list[str] | str):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


class InfraError(AgentsweepError):
    """The host, the engine or the endpoint failed, so that nothing was measured.

    Such a run is retried by the workflow and never looks like data.
    """


class LastingError(InfraError):
    """An InfraError that comes again until somebody changes something: no second try is made."""


def show(value: Any) -> str:
    """A value as its file would hold it, cut to one readable line."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= 80 else f"{text[:77]}..."
