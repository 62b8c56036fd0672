"""skopeo: looks images up without an engine, and turns one kind of archive into another."""

import re
import subprocess
import time

from agentsweep.containers.client import engine_environment, last_line
from agentsweep.errors import InfraError

_TIMEOUT_S = 300


def run(*arguments: str, image: str) -> bytes:
    """What one call prints; a registry that is asked too often is asked again.

    `image` names what is looked up in the sentence of the InfraError.
    """
    for attempt in range(3):
        try:
            done = subprocess.run(
                ["skopeo", *arguments],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=_TIMEOUT_S,
                check=False,
                env=engine_environment(proxies=True),
            )
        except FileNotFoundError:
            raise InfraError("skopeo is not installed: run `make system`") from None
        except subprocess.TimeoutExpired:
            raise InfraError(f"{image}: no answer from its registry in {_TIMEOUT_S} s") from None
        if done.returncode == 0:
            return done.stdout
        said = last_line(done.stderr.decode(errors="replace"))
        if "toomanyrequests" not in said.lower():
            break
        time.sleep(2**attempt)
    # skopeo writes log lines: what it has to say is in `msg`.
    message = re.search(r'msg="((?:[^"\\]|\\.)*)"', said)
    raise InfraError(
        f"{image} cannot be read: {message[1] if message else said}: see whether the "
        "reference is right and its registry can be reached"
    )
