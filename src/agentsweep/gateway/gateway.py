"""The model endpoint of one run: checks the run's token, sends each request to the model, and
writes each exchange down.

What answers is a model object (see `Model`); HTTP, the API's format and the record are modules of
their own.
"""

import asyncio
import contextlib
import hmac
import re
import time
import traceback
import urllib.parse
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

from agentsweep.gateway import messages_api
from agentsweep.gateway.budget import Budget, OverBudget, Reservation
from agentsweep.gateway.endpoint_tools import NotAllowed, Rules
from agentsweep.gateway.exchanges import Exchange, ExchangeLog
from agentsweep.gateway.http_messages import Reply, Request
from agentsweep.gateway.local_model import refuse, send_json
from agentsweep.gateway.messages_api import BadRequest, MessagesRequest

OVER_BUDGET = "over_budget"
NOT_ALLOWED = "not_allowed"
DISCONNECTED = "client_disconnected"
STOPPED = "gateway_stopped"

_PROBES = {("HEAD", "/"), ("HEAD", "/api/hello"), ("GET", "/api/hello")}


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
        self._tasks: set[asyncio.Task[Any]] = set()

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
        assert task is not None
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
