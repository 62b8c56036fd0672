"""A small HTTP/1.1 server on asyncio, for loopback and Unix sockets only.

It knows no paths and no meaning: a handler gets a `Request` and a `Reply`. What the standard
library's servers lack is what it is for: the handler is cancelled as soon as the client goes away,
replies can be cut off on purpose, and the times of first and last byte are known.

Clients are hostile until shown otherwise. A request's head is read first, and its body only if
`admits` says so; connections, heads, bodies, requests at once and the time for each are bounded
(`Bounds`), so that the memory of all of them together is.
"""

import asyncio
import contextlib
import socket
import time
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

from agentsweep.gateway import http_parser
from agentsweep.gateway.http_messages import Reply, Request
from agentsweep.gateway.http_parser import BODY_LIMIT_BYTES as BODY_LIMIT_BYTES
from agentsweep.gateway.http_parser import HEAD_LIMIT_BYTES, Head, Refused, too_large

# JSON packs to a tenth. What unpacks to more than this times its size was made to do so; small
# bodies may, since they cost nothing.
_UNPACKED_RATIO = 100
_UNPACKED_FREELY_BYTES = 1024 * 1024
_READ_AHEAD_BYTES = 64 * 1024
# Work on a body goes on for so many bytes before others have their turn.
_SLICE_BYTES = 256 * 1024


@dataclass(frozen=True)
class Bounds:
    """What all clients of a server may take together, and one request of the time.

    connections: beyond it the one that has been without a request for longest is closed.
    requests: admitted ones at once, bodies_bytes: of all bodies at once, packed and unpacked; what
    goes beyond is answered 503. head_s: from a head's first byte to its last, also how long a
    connection may wait before its first admitted request; idle_s: after one; body_s: for a body;
    drain_s: how long a refused client may go on sending before it is cut off.
    """

    connections: int = 256
    requests: int = 128
    bodies_bytes: int = 64 * 1024 * 1024
    head_s: float = 60
    idle_s: float = 3600
    body_s: float = 300
    drain_s: float = 2


Handler = Callable[[Request, Reply], Awaitable[None]]


class HttpServer:
    """Serves on a socket from `bind`. `last_byte_ns` is when a byte last came or went.

    admits: whether a request, of which only the head is there, may send its body; the handler gets
    one that may not without its body, and the connection ends with the answer.
    """

    def __init__(
        self,
        handler: Handler,
        admits: Callable[[Request], bool] = lambda request: True,
        bounds: Bounds = Bounds(),
    ):
        self.handler, self.admits, self.bounds = handler, admits, bounds
        self.last_byte_ns: int | None = None
        self.requests = 0
        self.bodies_bytes = 0
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None
        self._clock: asyncio.Task[None] | None = None

    async def start(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        make = loop.create_unix_server if listening.family == socket.AF_UNIX else loop.create_server
        self._server = await make(lambda: _Connection(self), sock=listening)
        self._clock = loop.create_task(self._end_late_ones())

    def enter(self, connection: "_Connection") -> None:
        """Take a new connection in, for which another one may have to go."""
        if len(self._connections) >= self.bounds.connections:
            idle = [other for other in self._connections if other.idle_since is not None]
            # Where all of them have work in hand it is the new one that has to go.
            longest = min(idle, key=lambda other: other.idle_since or 0, default=connection)
            longest.cut_off()
            self._connections -= {other for other in idle if other.is_gone}
        self._connections.add(connection)

    def leave(self, connection: "_Connection") -> None:
        self._connections.discard(connection)

    async def _end_late_ones(self) -> None:
        """One clock for all: a timer for each read would cost every request."""
        shortest_s = min(self.bounds.head_s, self.bounds.body_s, self.bounds.drain_s)
        while True:
            await asyncio.sleep(min(1, shortest_s / 4))
            now = time.monotonic()
            for connection in tuple(self._connections):
                connection.end_if_late(now)

    async def stop(self) -> None:
        """Stop listening, cancel every handler and wait until all of them are done."""
        if self._server is not None:
            self._server.close()
        if self._clock is not None:
            self._clock.cancel()
        tasks = [connection.close() for connection in tuple(self._connections)]
        await asyncio.gather(*tasks, return_exceptions=True)

    def touch(self) -> None:
        self.last_byte_ns = time.monotonic_ns()


class _Connection(asyncio.Protocol):
    """One client: requests are served one after another by one task.

    A client that closes its sending side counts as gone: nothing that speaks this API closes half
    of a connection, and waiting would hide a client that was killed.
    """

    def __init__(self, server: HttpServer):
        self._server = server
        self._buffer = bytearray()
        self._more = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self._gone = False
        self._wanted = 0
        self._held = 0
        self._task: asyncio.Task[None] | None = None
        self._first_byte: tuple[int, int] | None = None
        self._trusted = False
        self._in_head = self._in_body = self._late = self._draining = False
        self.idle_since: float | None = time.monotonic()
        self._deadline: float | None = self.idle_since + server.bounds.head_s

    @property
    def is_gone(self) -> bool:
        return self._gone

    # What asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # What a stream's protocol gets, as asyncio says; uvloop's is no asyncio.Transport.
        self._transport = cast(asyncio.Transport, transport)
        self._server.enter(self)
        if not self._gone:
            self._task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        if self._draining:
            return
        self._server.touch()
        if self._first_byte is None:
            self._first_byte = (time.monotonic_ns(), time.time_ns())
        self._buffer += data
        if len(self._buffer) > self._wanted + _READ_AHEAD_BYTES:
            self._transport.pause_reading()
        self._more.set()

    def eof_received(self) -> bool:
        self._leave()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()
        self._server.leave(self)

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # What the server and replies call

    def send(self, data: bytes) -> None:
        self._server.touch()
        self._transport.write(data)

    async def drain(self) -> None:
        await self._writable.wait()

    def hang_up(self) -> None:
        self._gone = True
        self._transport.close()

    def end_if_late(self, now: float) -> None:
        if self._deadline is None or now < self._deadline:
            return
        self._deadline = None
        if self._in_body:
            self._late = True
            self._more.set()
        else:
            self.cut_off()

    def reset(self) -> None:
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            # SO_LINGER with a time of 0: close(2) sends a reset instead of an orderly end.
            with contextlib.suppress(OSError):
                linger = (1).to_bytes(4, "little") + bytes(4)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._gone = True
        self._transport.abort()

    def cut_off(self) -> None:
        """End it from outside: its handler is cancelled."""
        self._leave()
        self._transport.abort()

    async def close(self) -> None:
        """Cut it off and wait for its handler."""
        self.cut_off()
        if self._task is not None:
            await self._task

    def _leave(self) -> None:
        if not self._gone:
            self._gone = True
            # Who still writes is not to wait for it.
            self._writable.set()
            if self._task is not None:
                self._task.cancel()

    # Serving

    async def _serve(self) -> None:
        with contextlib.suppress(asyncio.CancelledError, _ClientGone):
            while not self._gone and await self._serve_one():
                if self._buffer:
                    # A client that sends many at once is not the only one.
                    await asyncio.sleep(0)
            if not self._gone:
                await self._drain_and_end()
        self._transport.close()

    async def _serve_one(self) -> bool:
        """Whether another request may follow. What it held is free again afterwards, also of a
        connection that stays open."""
        bounds, server = self._server.bounds, self._server
        counted = False
        try:
            request = await self._read_request()
            # How long an answer takes is for the handler to say.
            self._deadline = None if self._trusted else time.monotonic() + bounds.head_s
            if request.admitted and request.problem is None:
                counted = True
                server.requests += 1
                if server.requests > bounds.requests:
                    request.problem = (503, f"more than {bounds.requests} requests at once")
            reply = Reply(self, request)
            await server.handler(request, reply)
            return reply.complete and not reply.close_after
        finally:
            server.requests -= counted
            server.bodies_bytes -= self._held
            self._held = self._wanted = 0
            now = time.monotonic()
            self.idle_since = now
            self._deadline = now + (bounds.idle_s if self._trusted else bounds.head_s)

    async def _drain_and_end(self) -> None:
        """Close so that the answer arrives: a client that still sends would see a reset instead."""
        self._draining = True
        self._buffer = bytearray()
        self._deadline = time.monotonic() + self._server.bounds.drain_s
        with contextlib.suppress(OSError, NotImplementedError, RuntimeError):
            self._transport.write_eof()
            self._transport.resume_reading()
            # Ended by the client's end (which cancels), or by the clock.
            await asyncio.get_running_loop().create_future()

    async def _read_request(self) -> Request:
        if self._buffer and self._first_byte is None:
            self._first_byte = (time.monotonic_ns(), time.time_ns())
        request = Request("", "", {}, 0, 0)
        try:
            sent = await self._read_head()
            # The record says what was asked for, also where the rest of the head is refused.
            request.method, request.path = http_parser.asked_for(sent)
            head = http_parser.parse_head(sent)
            request.method, request.path, request.query = head.method, head.path, head.query
            request.headers, request.keep_alive = head.headers, head.keep_alive
            request.is_http_1_0 = head.is_http_1_0
            if head.length_bytes is not None and head.length_bytes > BODY_LIMIT_BYTES:
                raise too_large()
            request.admitted = self._server.admits(request)
            if request.admitted:
                self._trusted, self.idle_since = True, None
                self._in_body = True
                self._deadline = time.monotonic() + self._server.bounds.body_s
                packed = await self._read_body(head)
                request.body = await self._decoded(packed, request.headers)
            elif head.has_body:
                request.keep_alive = False
        except Refused as refused:
            request.problem = (refused.status, refused.said)
            # What follows on this connection is no longer known to be a request.
            request.keep_alive = False
        first = self._first_byte or (time.monotonic_ns(), time.time_ns())
        request.start_ns, request.start_utc_ns = first
        self._in_body = False
        self._first_byte = None
        return request

    async def _read_head(self) -> bytes:
        """Up to the empty line. What cannot become a head is refused before that line comes,
        which it may never."""
        # A client may end a line too many after a body (RFC 9112, section 2.2).
        while not self._buffer or self._buffer == b"\r":
            await self._wait_for_more()
        if self._buffer.startswith(b"\r\n"):
            del self._buffer[:2]
        seen = 0
        while (end := self._buffer.find(b"\r\n\r\n", max(seen - 3, 0))) < 0:
            http_parser.check_text(self._buffer, seen)
            seen = len(self._buffer)
            if seen > HEAD_LIMIT_BYTES:
                break
            if self._buffer and not self._in_head:
                self._in_head = True
                self._deadline = time.monotonic() + self._server.bounds.head_s
            await self._wait_for_more()
        self._in_head = False
        if end < 0 or end > HEAD_LIMIT_BYTES:
            if self._buffer.find(b"\r\n", 0, HEAD_LIMIT_BYTES) < 0:
                raise Refused(414, f"the request line is longer than {HEAD_LIMIT_BYTES} bytes")
            raise Refused(431, f"the request's head is longer than {HEAD_LIMIT_BYTES} bytes")
        return self._take(end + 4)

    async def _read_body(self, head: Head) -> bytes:
        if head.expects_continue and head.has_body:
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        if head.length_bytes is None:
            return await self._read_chunks(head)
        return await self._read_exactly(head.length_bytes)

    async def _read_chunks(self, head: Head) -> bytes:
        body = bytearray()
        done = 0
        while True:
            done += 1
            if done % 256 == 0:
                # Chunks of one byte are legal, and slow to read.
                await asyncio.sleep(0)
            line = await self._read_line()
            size = http_parser.chunk_size_bytes(line)
            if size == 0:
                http_parser.check_trailers(head.parser, line, await self._read_trailers())
                return bytes(body)
            if len(body) + size > BODY_LIMIT_BYTES:
                raise too_large()
            data = await self._read_exactly(size) + await self._read_exactly(2)
            body += http_parser.read_chunk(head.parser, line, data)

    async def _read_trailers(self) -> bytes:
        """With the empty line at their end."""
        lines = bytearray()
        while not lines.endswith(b"\r\n\r\n") and lines != b"\r\n":
            lines += await self._read_line()
            if len(lines) > HEAD_LIMIT_BYTES:
                raise Refused(431, "the trailers are longer than a head may be")
        return bytes(lines)

    async def _read_line(self) -> bytes:
        """With its end."""
        while (end := self._buffer.find(b"\r\n")) < 0:
            http_parser.check_text(self._buffer)
            if len(self._buffer) > HEAD_LIMIT_BYTES:
                raise Refused(400, "a chunk has no valid size")
            await self._wait_for_more()
        return self._take(end + 2)

    async def _read_exactly(self, size: int) -> bytes:
        if size > BODY_LIMIT_BYTES:
            raise too_large()
        self._wanted, held = size, 0
        while (there := min(size, len(self._buffer))) < size:
            # Counted as they come: who only announces a large body keeps nobody else from sending.
            self._hold(there - held)
            held = there
            await self._wait_for_more()
        self._hold(size - held)
        self._wanted = 0
        return self._take(size)

    def _hold(self, size: int) -> None:
        """Count bytes of a body against what all bodies may take; they stay counted until the
        request is answered."""
        if self._server.bodies_bytes + size > self._server.bounds.bodies_bytes:
            raise Refused(
                503,
                "the bodies of all requests together are larger than "
                f"{self._server.bounds.bodies_bytes} bytes",
            )
        self._server.bodies_bytes += size
        self._held += size

    async def _decoded(self, body: bytes, headers: dict[str, str]) -> bytes:
        coding = headers.get("content-encoding", "identity").lower()
        if coding == "identity" or not body:
            return body
        if coding not in ("gzip", "x-gzip", "deflate"):
            raise Refused(415, f"content-encoding {coding[:64]} is not supported; send gzip")
        limit = min(BODY_LIMIT_BYTES, max(_UNPACKED_FREELY_BYTES, len(body) * _UNPACKED_RATIO))
        # 32 added to the window size: zlib recognises gzip and zlib heads by itself.
        decoder = zlib.decompressobj(32 + zlib.MAX_WBITS)
        decoded = bytearray()
        rest = memoryview(body)
        try:
            while rest and not decoder.eof:
                packed, rest = bytes(rest[:_SLICE_BYTES]), rest[_SLICE_BYTES:]
                while packed and not decoder.eof:
                    piece = decoder.decompress(packed, _SLICE_BYTES)
                    if len(decoded) + len(piece) > limit:
                        raise too_large(limit)
                    self._hold(len(piece))
                    decoded += piece
                    packed = decoder.unconsumed_tail
                    await asyncio.sleep(0)
        except zlib.error:
            raise Refused(400, f"the body is not valid {coding}") from None
        if not decoder.eof:
            raise Refused(400, f"the body is not valid {coding}")
        return bytes(decoded)

    def _take(self, size: int) -> bytes:
        taken = bytes(memoryview(self._buffer)[:size])
        del self._buffer[:size]
        return taken

    async def _wait_for_more(self) -> None:
        if self._gone:
            raise _ClientGone
        self._more.clear()
        self._transport.resume_reading()
        await self._more.wait()
        if self._late:
            raise Refused(408, f"the body did not come within {self._server.bounds.body_s:g} s")


class _ClientGone(Exception):
    """The client left before it had sent a whole request."""
