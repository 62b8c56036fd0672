"""The gateway's process: `python -m agentsweep.gateway`.

Reads one JSON line on stdin, prints one when it listens, and serves until stdin ends or SIGTERM
comes.
"""

import asyncio
import contextlib
import io
import json
import os
import re
import resource
import signal
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, TextIO

import uvloop

from agentsweep.errors import AgentsweepError, InfraError
from agentsweep.gateway import listening, scenario
from agentsweep.gateway.budget import Budget
from agentsweep.gateway.endpoint_tools import Rules
from agentsweep.gateway.exchanges import ExchangeLog
from agentsweep.gateway.gateway import Gateway, Model
from agentsweep.gateway.http_server import HttpServer
from agentsweep.gateway.scripted import ScriptedModel
from agentsweep.gateway.settings import Settings
from agentsweep.host import processes

# What the gateway may take of memory beside what it has when it begins to serve: the most that the
# bounds of http_server and messages_api let an agent use, and half of that again.
MEMORY_BOUND_BYTES = 1024 * 1024 * 1024
# How long it may take from the order to end to the end; shorter than its parent waits.
_END_WITHIN_S = 7
_STDERR_BYTES = 1024 * 1024
# Some large requests; it is what makes their first byte quick.
_KEPT_BYTES = 16 * 1024 * 1024


class _Commands:
    """The lines on stdin: the settings first, then commands."""

    def __init__(self, descriptor: int = 0):
        self._descriptor = descriptor
        self._buffer = b""
        self.ended = False

    def first(self) -> bytes:
        while b"\n" not in self._buffer and not self.ended:
            self._fill()
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def read(self) -> list[bytes]:
        """The lines that came since; blocks only where nothing can be read."""
        self._fill()
        return self.waiting()

    def waiting(self) -> list[bytes]:
        """The lines that were read already, with those before."""
        *lines, self._buffer = self._buffer.split(b"\n")
        return lines

    def _fill(self) -> None:
        data = os.read(self._descriptor, 65536)
        self.ended = not data
        self._buffer += data


def _say(content: dict[str, Any]) -> None:
    # The reader may be gone already, in which case stdin ends us at once.
    with contextlib.suppress(BrokenPipeError):
        print(json.dumps(content), flush=True)


async def serve(settings: Settings, commands: _Commands) -> str | None:
    """Serve until told to end; returns what went wrong with the record, if anything did."""
    async with _model(settings) as model:
        bound, address = listening.bind(settings.listen)
        try:
            log = ExchangeLog(settings.log)
            rules = Rules(settings.endpoint_tools, settings.models)
            gateway = Gateway(
                model,
                log,
                settings.token,
                Budget.of(settings.budget or {}),
                rules if settings.mode == "live" else None,
            )
            server = HttpServer(gateway.handle, gateway.admits)
            await server.start(bound)
            stop = asyncio.Event()
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, stop.set)
            _bound_memory()
            _say({"ready": True, "address": address} | model.progress())
            _watch(commands, gateway, server, stop)
            await stop.wait()
            _end_in_time()
            gateway.stopping = True
            model.end()
            await server.stop()
            await gateway.idle()
            log.close()
            _say({"written": {"api.jsonl": log.tally.facts()}})
            return log.failed
        finally:
            bound.close()
            if address.startswith("unix:"):
                Path(address.removeprefix("unix:")).unlink(missing_ok=True)


@contextlib.asynccontextmanager
async def _model(settings: Settings) -> AsyncIterator[Model]:
    """What answers in this mode. Raises AgentsweepError where it cannot."""
    # The mode alone decides, so that no other one ever reaches an endpoint that costs money;
    # `Settings.parse` has seen to it that each has what it plays.
    if settings.mode == "scripted":
        assert settings.scenario is not None
        yield ScriptedModel(scenario.load(settings.scenario), settings.latency_scale)
    elif settings.mode == "replay":
        assert settings.recording is not None
        from agentsweep.gateway import recording
        from agentsweep.gateway.replay import ReplayModel

        yield ReplayModel(recording.load(settings.recording), settings.latency_scale)
    else:
        # It loads an HTTP client, which the other modes have no use for.
        from agentsweep.gateway import live

        async with live.open_model(settings.base_url, settings.credential) as model:
            yield model


def _bound_memory() -> None:
    """The last line of defence: what none of the bounds holds ends this process, not its host."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(r"^VmData:\s+(\d+) kB$", status, re.MULTILINE)
    if found is None:
        raise InfraError("/proc/self/status has no VmData; mount the /proc of a Linux kernel")
    limit = int(found[1]) * 1024 + MEMORY_BOUND_BYTES
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    if most == resource.RLIM_INFINITY or most > limit:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _watch(commands: _Commands, gateway: Gateway, server: HttpServer, stop: asyncio.Event) -> None:
    """Obey what comes on stdin, in a thread: whoever asks gets an answer while the loop is busy."""
    loop = asyncio.get_running_loop()

    def obey() -> None:
        lines = commands.waiting()
        while True:
            for line in lines:
                _say(_obey(line, gateway, server))
            if commands.ended:
                break
            lines = commands.read()
        # The loop may have ended by a signal already.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=obey, daemon=True).start()


def _end_in_time() -> None:
    """End this process in any case, whatever it is at: its parent kills it otherwise."""

    def end() -> None:
        if sys.__stderr__ is not None:
            sys.__stderr__.write(f"the gateway did not come to its end within {_END_WITHIN_S} s\n")
            sys.__stderr__.flush()
        os._exit(processes.OVERWHELMED)

    timer = threading.Timer(_END_WITHIN_S, end)
    timer.daemon = True
    timer.start()


class _BoundedText(io.TextIOBase):
    """A text stream that passes on so many characters and swallows the rest: what an agent can make
    us say must not fill a disk."""

    def __init__(self, file: TextIO, limit: int):
        self._file, self._left = file, limit

    def write(self, text: str) -> int:
        if self._left > 0:
            self._file.write(text[: self._left])
            self._file.flush()
        self._left -= len(text)
        return len(text)


def _obey(line: bytes, gateway: Gateway, server: HttpServer) -> dict[str, Any]:
    try:
        command = json.loads(line).get("cmd")
    except (ValueError, AttributeError, RecursionError):
        command = None
    if command == "status":
        return {
            "last_byte_ns": server.last_byte_ns,
            "active": gateway.active,
            "exchanges": gateway.log.count,
            "log_failed": gateway.log.failed,
            "budget": {
                "refused": gateway.budget.refused,
                "turns": gateway.budget.turns,
                "cost_usd": gateway.budget.cost_usd,
            },
            **({"endpoint": gateway.rules.progress()} if gateway.rules is not None else {}),
        } | gateway.model.progress()
    return {"error": f"unknown command {command!r}; allowed is status"}


def main() -> int:
    """The process; its exit code is REFUSED where it says what keeps it from serving, 1 where the
    record is not whole, and OVERWHELMED where its clients asked for more than it may have."""
    processes.end_with_parent()
    processes.keep_freed_memory(_KEPT_BYTES)
    last_words, sys.stderr = sys.stderr, _BoundedText(sys.stderr, _STDERR_BYTES)

    commands = _Commands()
    try:
        failed = uvloop.run(serve(Settings.parse(commands.first()), commands))
    except AgentsweepError as error:
        print(error, file=last_words)
        return processes.REFUSED
    except MemoryError:
        print("the gateway's clients needed more memory than it may have", file=last_words)
        return processes.OVERWHELMED
    if failed:
        print(failed, file=last_words)
        return 1
    return 0
