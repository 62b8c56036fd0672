"""The model endpoint of one run, as a process of its own: `python -m agentsweep.gateway`.

Reads one JSON line on stdin, prints one when it listens, and serves until stdin ends or SIGTERM
comes. It checks the run's token, sends each request to the model, and writes each exchange down.
What answers is a model object (see `Model`); HTTP, the API's format and the record are modules of
their own.
"""

import asyncio
import contextlib
import hmac
import io
import json
import os
import re
import resource
import signal
import sys
import threading
import time
import traceback
import urllib.parse
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TextIO

import uvloop

from agentsweep.errors import AgentsweepError, ConfigError
from agentsweep.gateway import listening, messages_api, scenario
from agentsweep.gateway.budget import Budget, OverBudget, Reservation
from agentsweep.gateway.endpoint_tools import NotAllowed, Rules
from agentsweep.gateway.exchanges import Exchange, ExchangeLog
from agentsweep.gateway.http_server import HttpServer, Reply, Request
from agentsweep.gateway.local_model import refuse, send_json
from agentsweep.gateway.messages_api import BadRequest, MessagesRequest
from agentsweep.gateway.scripted import ScriptedModel
from agentsweep.host import processes

# What each mode needs beside what all of them do.
MODES = {"scripted": ("scenario",), "replay": ("recording",), "live": ()}
OVER_BUDGET = "over_budget"
NOT_ALLOWED = "not_allowed"
DISCONNECTED = "client_disconnected"
STOPPED = "gateway_stopped"

_PROBES = {("HEAD", "/"), ("HEAD", "/api/hello"), ("GET", "/api/hello")}

# What the gateway may take of memory beside what it has when it begins to serve: the most that the
# bounds of http_server and messages_api let an agent use, and half of that again.
MEMORY_BOUND_BYTES = 1024 * 1024 * 1024
# How long it may take from the order to end to the end; shorter than its parent waits.
_END_WITHIN_S = 7
_STDERR_BYTES = 1024 * 1024
# Some large requests; it is what makes their first byte quick.
_KEPT_BYTES = 16 * 1024 * 1024


class Model(Protocol):
    """What answers conversations. `answer` sends the reply itself, since when each byte goes is
    part of the answer, and says in the exchange what it was; `read` gives what the request asks
    for. It may read an answer on when its client has left, before it raises CancelledError; `end`
    stops that. `progress` is what it adds to the gateway's status."""

    async def answer(
        self,
        read: Callable[[], MessagesRequest],
        request: Request,
        exchange: Exchange,
        reply: Reply,
    ) -> None: ...

    async def count_tokens(self, request: Request, exchange: Exchange, reply: Reply) -> None: ...

    async def models(self, request: Request, exchange: Exchange, reply: Reply) -> None: ...

    def progress(self) -> dict[str, Any]: ...

    def end(self) -> None: ...


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
        known = isinstance(mode, str) and mode in MODES
        if mode is not None and not known:
            problems.append(f"gateway: mode: {mode!r} is not allowed; write {' or '.join(MODES)}")
        for key in ("mode", "listen", "log", "token", *(MODES[mode] if known else ())):
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


class Gateway:
    """Routes requests: token, path, rules (for a live model), budget, model, record."""

    def __init__(
        self,
        model: Model,
        log: ExchangeLog,
        token: str,
        budget: Budget,
        rules: Rules | None = None,
    ):
        self.model = model
        self.log = log
        self.budget = budget
        self.rules = rules
        self.stopping = False
        self._token = token.encode()
        self._seq = 0
        self._tasks: set[asyncio.Task] = set()

    @property
    def active(self) -> int:
        """How many requests are at work."""
        return len(self._tasks)

    async def idle(self) -> None:
        """Wait until no request is at work, also of those whose client has left."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def handle(self, request: Request, reply: Reply) -> None:
        """Serve one request and write its exchange down, whatever becomes of it."""
        self._seq += 1
        exchange = Exchange(
            seq=self._seq,
            start_ns=request.start_ns,
            start_utc_ns=request.start_utc_ns,
            method=request.method,
            path=request.path,
            request_bytes=len(request.body),
        )
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            await self._route(request, exchange, reply)
        except asyncio.CancelledError:
            # The client is gone, or we are to end. What was handed over whole arrived whole.
            if not reply.complete:
                exchange.error = exchange.error or (STOPPED if self.stopping else DISCONNECTED)
            raise
        except Exception:
            # A fault in the gateway must not leave the agent waiting; nor may want of memory.
            traceback.print_exc()
            exchange.error = "internal_error"
            await self._give_up(reply)
        finally:
            exchange.status = reply.status
            exchange.first_byte_ns = reply.first_byte_ns
            exchange.keep(reply.parts)
            self.log.write(exchange, unasked=exchange.refused or _is_probe(request))
            self._tasks.discard(task)

    async def _give_up(self, reply: Reply) -> None:
        if reply.status is None:
            await send_json(500, messages_api.error_object("api_error", "internal error"), reply)
        else:
            reply.truncate()

    def _settle(self, held: Reservation, exchange: Exchange, reply: Reply) -> None:
        """Count an answer. One that the endpoint refused or broke off is no turn; one whose client
        left is, and it is known only where it was read to its end."""
        whole = reply.complete and exchange.error is None and exchange.message_id is not None
        left = not reply.complete and exchange.error in (None, DISCONNECTED, STOPPED)
        self.budget.settle(
            held,
            exchange.usage(),
            is_turn=whole or left,
            is_known=not left or exchange.stop_reason is not None,
        )

    async def _route(self, request: Request, exchange: Exchange, reply: Reply) -> None:
        if request.problem is not None:
            await refuse(*request.problem, exchange, reply)
        elif _is_probe(request):
            await send_json(200, {}, reply)
        elif not request.admitted:
            reply.close_after = True
            await refuse(401, "the run's token is missing or wrong", exchange, reply)
        elif request.path == "/v1/messages":
            if await _is_method("POST", request, exchange, reply):
                await self._messages(request, exchange, reply)
        elif request.path == "/v1/messages/count_tokens":
            if await _is_method("POST", request, exchange, reply):
                await self._count_tokens(request, exchange, reply)
        elif request.path == "/v1/models" or _is_of_a_model(request.path):
            if await _is_method("GET", request, exchange, reply):
                await self.model.models(request, exchange, reply)
        else:
            await refuse(404, f"there is no {request.path[:256]} here", exchange, reply)

    def admits(self, request: Request) -> bool:
        """Whether a request has the run's token: only then is its body read."""
        headers = request.headers
        scheme, _, bearer = headers.get("authorization", "").partition(" ")
        given = [headers.get("x-api-key", "")]
        if scheme.lower() == "bearer":
            given.append(bearer.strip())
        return any(hmac.compare_digest(key.encode("latin-1"), self._token) for key in given)

    async def _count_tokens(self, request: Request, exchange: Exchange, reply: Reply) -> None:
        async with _refusals(exchange, reply):
            if self.rules is not None:
                self.rules.check(messages_api.json_object(request.body))
        if not exchange.refused:
            await self.model.count_tokens(request, exchange, reply)

    async def _messages(self, request: Request, exchange: Exchange, reply: Reply) -> None:
        async with _refusals(exchange, reply):
            asked = self._read(request, exchange)
            begin_ns = time.monotonic_ns()
            try:
                held = await self.budget.reserve(asked.input_tokens, asked.max_tokens)
            finally:
                exchange.queued_ns = time.monotonic_ns() - begin_ns
        if exchange.refused:
            return
        try:
            await self.model.answer(lambda: asked, request, exchange, reply)
        finally:
            self._settle(held, exchange, reply)

    def _read(self, request: Request, exchange: Exchange) -> MessagesRequest:
        """What a request for a message asks for; the exchange says it, too."""
        content = messages_api.json_object(request.body)
        asked = MessagesRequest.of(content, request.body, request.headers)
        exchange.agent_id = asked.agent_id
        exchange.model = asked.model
        exchange.stream = asked.stream
        exchange.request_sha256 = asked.sha256
        if self.rules is not None:
            self.rules.check(content)
        return asked


def _is_probe(request: Request) -> bool:
    return (request.method, request.path) in _PROBES


@contextlib.asynccontextmanager
async def _refusals(exchange: Exchange, reply: Reply) -> AsyncIterator[None]:
    """Answer what the gateway itself refuses in the body; `exchange.refused` then is true."""
    try:
        yield
    except BadRequest as error:
        await refuse(400, str(error), exchange, reply)
    except NotAllowed as error:
        await _forbid(NOT_ALLOWED, error, exchange, reply)
    except OverBudget as error:
        await _forbid(OVER_BUDGET, error, exchange, reply)


async def _forbid(kind: str, why: Exception, exchange: Exchange, reply: Reply) -> None:
    # Of all refusals this is one that the CLI does not try to get around; to a tool's own request,
    # such as a search, it is the tool's error, which the agent reads.
    await refuse(403, f"agentsweep refuses this request: {why}", exchange, reply)
    exchange.error = kind


def _is_of_a_model(path: str) -> bool:
    """Whether it is `/v1/models/<name>`, and stays that however an endpoint reads it: a name may
    hold a slash, but nothing may lead out of the folder."""
    folder, name = path[: len("/v1/models/")], urllib.parse.unquote(path[len("/v1/models/") :])
    parts = name.split("/")
    return (
        folder == "/v1/models/"
        and re.fullmatch(r"[\w.:@+/-]+", name, re.ASCII) is not None
        and not {"", ".", ".."} & set(parts)
    )


async def _is_method(allowed: str, request: Request, exchange: Exchange, reply: Reply) -> bool:
    if request.method == allowed:
        return True
    await refuse(405, f"only {allowed} is allowed here", exchange, reply)
    return False


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
    if settings.mode == "scripted":
        yield ScriptedModel(scenario.load(settings.scenario), settings.latency_scale)
    elif settings.mode == "replay":
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
    data_kib = int(re.search(r"^VmData:\s+(\d+) kB$", status, re.MULTILINE)[1])
    limit = data_kib * 1024 + MEMORY_BOUND_BYTES
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
