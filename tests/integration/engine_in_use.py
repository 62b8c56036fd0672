"""The engine that the integration tests run under: `pytest --engine podman|docker`."""

import subprocess

from agentsweep.containers.engine import Engine
from agentsweep.containers.engines import find_engine
from agentsweep.host.scratch import engine_dir

# Set by `conftest` before the first test is collected.
NAME = "podman"


def ask(*arguments: str) -> str:
    """What the engine prints, whether it succeeds or not."""
    done = subprocess.run(
        [NAME, *arguments],
        capture_output=True,
        text=True,
        cwd="/tmp",
        check=False,
        encoding="utf-8",
    )
    return done.stdout


def find() -> Engine:
    """The engine as the library has it."""
    return find_engine(NAME, "auto", engine_dir())
