"""A container engine's client: each call is one command, to its end, with its output as text.

Every call runs in a scratch directory of ours, because conmon drops a file named `oom` into the
working directory of the call when a container meets its memory limit.
"""

import contextlib
import os
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path

from agentsweep import bounded
from agentsweep.errors import InfraError, LastingError
from agentsweep.utf8 import CHILD_LOCALE

# How long a command that changes a container may take after its caller was interrupted.
_FINISH_S = 30
# What an engine's answer may have.
_SAID_BYTES = 64 * 2**20

_ENVIRONMENT = (
    *("PATH", "HOME", "USER", "LOGNAME", "TMPDIR"),
    *("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "DBUS_SESSION_BUS_ADDRESS"),
    *("DOCKER_HOST", "DOCKER_CONFIG", "DOCKER_CONTEXT"),
    *("CONTAINERS_CONF", "CONTAINERS_STORAGE_CONF"),
    *("CONTAINERS_REGISTRIES_CONF", "REGISTRY_AUTH_FILE", "SSL_CERT_FILE", "SSL_CERT_DIR"),
)
# For what speaks to a registry and for nothing else: their values may hold a password.
PROXIES = tuple(
    name
    for upper in ("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY")
    for name in (upper, upper.lower())
)
_USES_REGISTRY = ("pull", "push")


class EngineTimeout(InfraError):
    """An engine call that did not end within its time."""


class EngineClient(ABC):
    """One engine with one runtime, as far as any command of it is called.

    `runtime` None means the engine's own choice. Raises InfraError with one sentence when the
    engine refuses.
    """

    name: str
    install_hint: str

    def __init__(self, runtime: str | None, workdir: Path):
        self.runtime = runtime
        self.workdir = workdir

    @abstractmethod
    def command(self, *arguments: str) -> list[str]:
        """The argument list of one engine call."""

    def call(
        self, *arguments: str, timeout_s: float = 600, check: bool = True, finish: bool = False
    ) -> "subprocess.CompletedProcess[str]":
        """Run an engine command to its end and capture its output as text.

        finish: when the caller is interrupted, let the command end all the same. One that is
        killed while it changes a container leaves something that the engine no longer knows.
        """
        try:
            done = self._run(
                self.command(*arguments), timeout_s, finish, arguments[0] in _USES_REGISTRY
            )
        except FileNotFoundError:
            raise LastingError(f"{self.name} is not installed: {self.install_hint}") from None
        except subprocess.TimeoutExpired:
            raise EngineTimeout(
                f"`{self.name} {arguments[0]}` gave no answer within {timeout_s:.0f} s: "
                f"see whether `{self.name} ps` hangs too"
            ) from None
        if check and done.returncode != 0:
            raise InfraError(
                f"`{self.name} {' '.join(arguments[:2])}` failed: {self.complaint(done.stderr)}"
            )
        return done

    @contextlib.contextmanager
    def understood(self, command: str) -> Iterator[None]:
        """InfraError where what a command printed is not of the shape that is read in the block."""
        try:
            yield
        except (
            ValueError,
            LookupError,
            TypeError,
            AttributeError,
            ArithmeticError,
            RecursionError,
        ) as error:
            raise InfraError(
                f"what `{self.name} {command}` printed cannot be read ({type(error).__name__}): "
                f"see what it prints, and whether this version of {self.name} is supported"
            ) from error

    def complaint(self, said: str) -> str:
        """The line of an engine's stderr that says what is wrong."""
        return last_line(said)

    def _run(
        self, command: list[str], timeout_s: float, finish: bool, proxies: bool
    ) -> "subprocess.CompletedProcess[str]":
        process = subprocess.Popen(
            command,
            cwd=self.workdir,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=engine_environment(proxies),
            # Ctrl-C in a terminal is for the runner, which then cleans up with the engine.
            start_new_session=True,
        )
        talk = bounded.Talk(process, _SAID_BYTES)
        with process:
            try:
                code = talk.run(timeout_s)
            except BaseException as error:
                try:
                    if finish and not isinstance(error, subprocess.TimeoutExpired):
                        with contextlib.suppress(subprocess.TimeoutExpired, bounded.TooMuch):
                            talk.run(_FINISH_S)
                finally:
                    process.kill()
                if isinstance(error, bounded.TooMuch):
                    raise InfraError(
                        f"`{' '.join(command[:3])}` said more than {_SAID_BYTES // 2**20} MiB"
                    ) from None
                raise
        texts = (bytes(talk.said), talk.errors.bytes())
        said = (text.decode("utf-8", "replace").replace("\r\n", "\n") for text in texts)
        return subprocess.CompletedProcess(command, code, *said)


def engine_environment(proxies: bool = False) -> dict[str, str]:
    """The environment of engine calls: no credential can reach an engine that never saw one.

    proxies: with the host's proxy settings, for calls that speak to a registry.
    """
    names = (*_ENVIRONMENT, *(PROXIES if proxies else ()))
    return {name: os.environ[name] for name in names if name in os.environ} | CHILD_LOCALE


def last_line(text: str) -> str:
    """The last line of an engine's complaint that says something."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:400] if lines else "no message"
