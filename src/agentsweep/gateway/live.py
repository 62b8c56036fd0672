"""The live model: passes the CLI's requests to a real endpoint and what comes back to the CLI.

The credential is added here, on the host. Bodies, statuses and times are passed on as they are;
only the credential itself, should an endpoint repeat it, is blotted out. What a run may ask for and
spend is the gateway's to say, before anything comes here.
"""

import asyncio
import contextlib
import functools
import os
import sys
from collections.abc import AsyncIterator, Callable
from typing import Any

from agentsweep import untrusted
from agentsweep.gateway import messages_api
from agentsweep.gateway.credentials import Credential, Redactor
from agentsweep.gateway.exchanges import Attempts, Exchange
from agentsweep.gateway.http_messages import Reply, Request
from agentsweep.gateway.messages_api import BadRequest, MessagesRequest, Usage
from agentsweep.gateway.upstream import ANTHROPIC, Upstream, UpstreamBroken, UpstreamUnreachable
from agentsweep.sse import EventReader

# For so long an answer is read on whose client has left, to know what it cost; then the connection
# is closed, and it counts with what it may cost at most. So many of them at once.
READ_ON_S = 5
_READ_ON_AT_ONCE = 4


@contextlib.asynccontextmanager
async def open_model(
    base_url: str | None, credential: dict[str, Any] | None
) -> AsyncIterator["LiveModel"]:
    """A model behind `base_url`, None for the Anthropic API.

    Raises InfraError where nothing that speaks HTTP answers there, before anything is asked.
    """
    secret = Credential.from_message(credential) if credential is not None else None
    async with Upstream(base_url or ANTHROPIC, secret, os.environ) as upstream:
        await upstream.probe()
        yield LiveModel(upstream, secret)


class LiveModel:
    """Passes requests on, one for one."""

    def __init__(self, upstream: Upstream, credential: Credential | None):
        self._upstream = upstream
        self._secrets = credential.secrets if credential is not None else ()
        self._attempts = Attempts()
        self._read_on: set[asyncio.Task[None]] = set()
        self._ending = False

    async def answer(
        self,
        read: Callable[[], MessagesRequest],
        request: Request,
        exchange: Exchange,
        reply: Reply,
    ) -> None:
        """Pass a request for a message on; what it and its answer say of themselves goes into the
        exchange, once the answer has begun."""
        listener = _Listener(exchange, functools.partial(self._read, read, exchange))
        client = _Client(reply)
        passing = asyncio.create_task(self._pass(request, exchange, client, listener))
        try:
            await asyncio.shield(passing)
        except asyncio.CancelledError:
            client.left = True
            await self._read_to_its_end(passing)
            raise
        finally:
            listener.asked()

    async def _read_to_its_end(self, passing: asyncio.Task[None]) -> None:
        try:
            if not self._ending and len(self._read_on) < _READ_ON_AT_ONCE:
                self._read_on.add(passing)
                await asyncio.wait((passing,), timeout=READ_ON_S)
        finally:
            self._read_on.discard(passing)
            passing.cancel()
            await asyncio.wait((passing,))

    def end(self) -> None:
        """Read no answer on whose client has left."""
        self._ending = True
        for passing in self._read_on:
            passing.cancel()

    def _read(self, read: Callable[[], MessagesRequest], exchange: Exchange) -> bool:
        """Note what was asked; whether the answer streams. What makes no sense is for the endpoint
        to refuse."""
        with contextlib.suppress(BadRequest):
            asked = read()
            exchange.kind = _kind(asked)
            exchange.turn = len(asked.said)
            self._attempts.count(exchange, asked.sha256)
            return asked.stream
        return False

    async def count_tokens(self, request: Request, exchange: Exchange, reply: Reply) -> None:
        """Passed on as well: only the endpoint knows."""
        await self._pass(request, exchange, _Client(reply), None)

    async def models(self, request: Request, exchange: Exchange, reply: Reply) -> None:
        """Passed on as well."""
        await self._pass(request, exchange, _Client(reply), None)

    def progress(self) -> dict[str, Any]:
        """Nothing to say."""
        return {}

    async def _pass(
        self, request: Request, exchange: Exchange, client: "_Client", listener: "_Listener | None"
    ) -> None:
        target = f"{request.path}?{request.query}" if request.query else request.path
        redactor = Redactor(self._secrets)
        try:
            async with self._upstream.open(
                request.method, target, request.headers, request.body
            ) as answer:
                if answer.status >= 400:
                    exchange.error = messages_api.error_type(answer.status)
                await client.start(answer.status, answer.headers)
                if listener is not None and answer.status != 200:
                    listener = None
                async for part in redactor.over(answer.chunks()):
                    await client.write(part)
                    # Read after it was sent on: the agent is not to wait for that.
                    if listener is not None:
                        listener.hear(part)
                if listener is None or listener.is_whole():
                    await client.finish()
                else:
                    raise UpstreamBroken("the endpoint ended its answer before the message did")
        except UpstreamUnreachable as error:
            exchange.error = f"upstream_{error.kind}"
            print(error, file=sys.stderr)
            client.abort()
        except UpstreamBroken as error:
            exchange.error = "upstream_broken"
            print(error, file=sys.stderr)
            client.truncate()


class _Client:
    """The client of one request: gets what comes until it has left."""

    def __init__(self, reply: Reply):
        self._reply = reply
        self.left = False

    async def start(self, status: int, headers: dict[str, str]) -> None:
        if not self.left:
            await self._reply.start(status, headers)

    async def write(self, part: bytes) -> None:
        if not self.left:
            await self._reply.write(part)

    async def finish(self) -> None:
        if not self.left:
            await self._reply.finish()

    def truncate(self) -> None:
        if not self.left:
            self._reply.truncate()

    def abort(self) -> None:
        if not self.left:
            self._reply.abort()


def _kind(asked: MessagesRequest) -> str:
    if asked.agent_id is not None:
        return "subagent"
    return "main" if asked.is_of_main else "side"


class _Listener:
    """Reads along what an answer says of itself: message id, tokens, why it stopped.

    `asked` notes the request, once, and gives whether the answer streams. Tokens are taken as they
    are said, also of an answer that breaks off: they are paid for.
    """

    def __init__(self, exchange: Exchange, asked: Callable[[], bool]):
        self._exchange = exchange
        self.asked = functools.cache(asked)
        self._events = EventReader()
        self._body = bytearray()
        self._usage: dict[str, int] = {}
        self._stopped = False

    def hear(self, chunk: bytes) -> None:
        if not self.asked():
            # What is longer than any message is none, and is not read.
            self._body += chunk[: max(0, untrusted.FILE_BYTES + 1 - len(self._body))]
            return
        for event in self._events.feed(chunk):
            match event.get("type"):
                case "message_start":
                    self._note(event.get("message"))
                case "message_stop":
                    self._stopped = True
                case "message_delta":
                    delta = event.get("delta")
                    stop = delta.get("stop_reason") if isinstance(delta, dict) else None
                    self._note({"stop_reason": stop, "usage": event.get("usage")})
                case "error":
                    error = event.get("error")
                    kind = error.get("type") if isinstance(error, dict) else None
                    self._exchange.error = kind if isinstance(kind, str) else "api_error"
                    self._stopped = True

    def is_whole(self) -> bool:
        """Whether the answer that has ended was one. What is not the API's is found out here, and
        passed on whole all the same."""
        if not self.asked():
            if len(self._body) <= untrusted.FILE_BYTES:
                with contextlib.suppress(ValueError):
                    self._note(untrusted.loads(bytes(self._body)))
        elif self._exchange.message_id is not None:
            return self._stopped
        if self._exchange.message_id is None and self._exchange.error is None:
            self._exchange.error = "malformed"
        return True

    def _note(self, said: Any) -> None:
        if not isinstance(said, dict):
            return
        if isinstance(said.get("id"), str):
            self._exchange.message_id = said["id"]
        if isinstance(said.get("stop_reason"), str):
            self._exchange.stop_reason = said["stop_reason"]
        usage = said.get("usage")
        if isinstance(usage, dict):
            known = {
                name: usage[name]
                for name in Usage.__dataclass_fields__
                if type(usage.get(name)) is int
            }
            self._usage |= known
            self._exchange.count(Usage(**self._usage))
