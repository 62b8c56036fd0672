"""A small HTTP/1.1 server on asyncio, for loopback and Unix sockets only.

It knows no paths and no meaning: a handler gets a `Request` and a `Reply`. What the standard
library's servers lack is what it is for: the handler is cancelled as soon as the client goes away,
replies can be cut off on purpose, and the times of first and last byte are known.
"""

import asyncio
import contextlib
import errno
import os
import socket
import stat
import time
import zlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from agentsweep.errors import ConfigError, InfraError

HEAD_LIMIT_BYTES = 64 * 1024
BODY_LIMIT_BYTES = 128 * 1024 * 1024
_LOOPBACK = {"127.0.0.1": socket.AF_INET, "[::1]": socket.AF_INET6}
# sun_path of unix(7) has 108 bytes, and the last one is a NUL.
_SOCKET_PATH_LIMIT_BYTES = 107
_READ_AHEAD_BYTES = 1024 * 1024


@dataclass
class Request:
    """One request. `headers` has lower-case names; `body` is decoded; start_ns and start_utc_ns
    are when its first byte came.

    query: what follows the `?`. A careless client puts secrets there: pass it on, never note it.
    problem: status and sentence where it cannot be served as HTTP, else None.
    """

    method: str
    path: str
    headers: dict[str, str]
    start_ns: int
    start_utc_ns: int
    query: str = ""
    body: bytes = b""
    problem: tuple[int, str] | None = None
    keep_alive: bool = True


class Reply:
    """The answer to one request: one `send`, or `start`, some `write` and `finish`; anything that
    is not brought to its end is cut off with `truncate` or `abort`.

    first_byte_ns is None until something was sent; parts are the pieces of the body, without
    framing, each with the time at which it was sent; complete is true once all of it was handed
    to the kernel or waits in our buffer.
    """

    def __init__(self, connection: "_Connection", request: Request):
        self._connection = connection
        self._request = request
        self.status: int | None = None
        self.first_byte_ns: int | None = None
        self.parts: list[tuple[int, bytes]] = []
        self.complete = False
        self.close_after = not request.keep_alive
        self._pending: tuple[int, bytes] | None = None

    async def send(
        self, status: int, headers: dict[str, str], body: bytes, cut_at: int | None = None
    ) -> None:
        """A whole answer. With `cut_at` only so many bytes of the body follow a head that
        promises all of it."""
        head = self._head(status, {**headers, "content-length": str(len(body))})
        self._pending = (status, head)
        if self._request.method == "HEAD":
            body = b""
        self._put(body[:cut_at])
        self.complete = cut_at is None
        await self._connection.drain()

    async def start(self, status: int, headers: dict[str, str]) -> None:
        """The head of an answer of unknown length; it leaves with what comes first."""
        head = self._head(status, {**headers, "transfer-encoding": "chunked"})
        self._pending = (status, head)

    async def write(self, part: bytes) -> None:
        """One part of the body, not empty, sent at once."""
        self._put(part, framed=True)
        await self._connection.drain()

    async def finish(self) -> None:
        self.complete = True
        self._connection.send(self._take_head() + b"0\r\n\r\n")
        await self._connection.drain()

    def truncate(self) -> None:
        """Close the connection after what was sent, which is not all that was promised."""
        self._connection.hang_up()

    def abort(self) -> None:
        """Cut the connection off with a reset (over TCP); nothing more arrives."""
        self._connection.reset()

    def _head(self, status: int, headers: dict[str, str]) -> bytes:
        try:
            reason = HTTPStatus(status).phrase
        except ValueError:
            reason = "Error"
        lines = [f"HTTP/1.1 {status} {reason}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines.append(f"connection: {'close' if self.close_after else 'keep-alive'}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def _take_head(self) -> bytes:
        """The head, if it is still to leave; what is known of an answer is known from here on."""
        if self._pending is None:
            return b""
        (self.status, head), self._pending = self._pending, None
        self.first_byte_ns = time.monotonic_ns()
        return head

    def _put(self, body: bytes, framed: bool = False) -> None:
        head = self._take_head()
        if body:
            self.parts.append((time.monotonic_ns(), body))
        framing = (b"%x\r\n" % len(body), b"\r\n") if framed else (b"", b"")
        self._connection.send(head + framing[0] + body + framing[1])


Handler = Callable[[Request, Reply], Awaitable[None]]


class HttpServer:
    """Serves on a socket from `bind`. `last_byte_ns` is when a byte last came or went."""

    def __init__(self, handler: Handler):
        self.handler = handler
        self.last_byte_ns: int | None = None
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    async def start(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        make = loop.create_unix_server if listening.family == socket.AF_UNIX else loop.create_server
        self._server = await make(lambda: _Connection(self), sock=listening)

    async def stop(self) -> None:
        """Stop listening, cancel every handler and wait until all of them are done."""
        if self._server is not None:
            self._server.close()
        tasks = [connection.close() for connection in tuple(self._connections)]
        await asyncio.gather(*tasks, return_exceptions=True)

    def touch(self) -> None:
        self.last_byte_ns = time.monotonic_ns()


def bind(listen: str) -> tuple[socket.socket, str]:
    """A listening socket for `tcp:127.0.0.1:<port>`, `tcp:[::1]:<port>` or `unix:<path>`, and
    its address as a client writes it.

    Port 0 takes a free one. The socket file gets mode 0666, because the agent's user is not ours;
    who can reach it is decided by the directory. Raises ConfigError for any other place, since
    whoever reaches the gateway can spend what it can spend; InfraError when the place is taken.
    """
    kind, _, place = listen.partition(":")
    if kind == "unix" and place.startswith("/"):
        return _bind_unix(listen, place), f"unix:{place}"
    host, _, port = place.rpartition(":")
    if kind == "tcp" and host in _LOOPBACK and port.isascii() and port.isdigit():
        if int(port) > 65535:
            raise ConfigError(f"listen: {listen!r} has no valid port; write 0 to 65535")
        listening = _bind_tcp(listen, host, int(port))
        return listening, f"http://{host}:{listening.getsockname()[1]}"
    raise ConfigError(
        f"listen: {listen!r} is not allowed; write tcp:127.0.0.1:<port>, tcp:[::1]:<port> or "
        "unix:<absolute path>, because the gateway serves this host only"
    )


def _bind_tcp(listen: str, host: str, port: int) -> socket.socket:
    listening = socket.socket(_LOOPBACK[host], socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host.strip("[]"), port))
        listening.listen(512)
    except OSError as error:
        listening.close()
        raise _cannot_listen(listen, error) from None
    return listening


def _bind_unix(listen: str, path: str) -> socket.socket:
    if len(os.fsencode(path)) > _SOCKET_PATH_LIMIT_BYTES:
        raise ConfigError(
            f"listen: {listen!r} is too long for a socket ({len(os.fsencode(path))} bytes, at most "
            f"{_SOCKET_PATH_LIMIT_BYTES}); choose a shorter directory, for example with TMPDIR"
        )
    _remove_stale(Path(path))
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listening.bind(path)
        Path(path).chmod(0o666)
        listening.listen(512)
    except OSError as error:
        listening.close()
        raise _cannot_listen(listen, error) from None
    return listening


def _remove_stale(path: Path) -> None:
    """Remove a socket file whose server is dead; anything else in its place stays."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            return
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
        except OSError:
            return


def _cannot_listen(listen: str, error: OSError) -> InfraError:
    if error.errno == errno.EADDRINUSE:
        return InfraError(f"listen: {listen} is in use by another process; choose another one")
    return InfraError(f"listen: {listen} cannot be used: {error.strerror}")


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
        self._first_byte: tuple[int, int] | None = None

    # What asyncio calls

    def connection_made(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._server._connections.add(self)
        self._task = asyncio.get_running_loop().create_task(self._serve())

    def data_received(self, data: bytes) -> None:
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
        self._server._connections.discard(self)

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

    def reset(self) -> None:
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sock.family != socket.AF_UNIX:
            # SO_LINGER with a time of 0: close(2) sends a reset instead of an orderly end.
            with contextlib.suppress(OSError):
                linger = (1).to_bytes(4, "little") + bytes(4)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._gone = True
        self._transport.abort()

    def close(self) -> asyncio.Task:
        self._leave()
        self._transport.abort()
        return self._task

    def _leave(self) -> None:
        if not self._gone:
            self._gone = True
            self._task.cancel()

    # Serving

    async def _serve(self) -> None:
        with contextlib.suppress(asyncio.CancelledError, _ClientGone):
            while not self._gone:
                request = await self._read_request()
                reply = Reply(self, request)
                await self._server.handler(request, reply)
                if reply.close_after or not reply.complete:
                    break
        self._transport.close()

    async def _read_request(self) -> Request:
        if self._buffer and self._first_byte is None:
            self._first_byte = (time.monotonic_ns(), time.time_ns())
        head = await self._read_head()
        start_ns, start_utc_ns = self._first_byte or (time.monotonic_ns(), time.time_ns())
        request = Request("", "", {}, start_ns, start_utc_ns)
        try:
            if head is None:
                raise _Refused(431, f"the request's head is longer than {HEAD_LIMIT_BYTES} bytes")
            _parse_head(head, request)
            request.body = _decoded(await self._read_body(request), request.headers)
        except _Refused as refused:
            request.problem = (refused.status, refused.said)
            # What follows on this connection is no longer known to be a request.
            request.keep_alive = False
        self._first_byte = None
        return request

    async def _read_head(self) -> bytes | None:
        """Up to the empty line; None when it is too long."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > HEAD_LIMIT_BYTES:
                return None
            await self._wait_for_more()
        return self._take(end + 4)

    async def _read_body(self, request: Request) -> bytes:
        headers = request.headers
        if headers.get("expect", "").lower() == "100-continue":
            self.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        coding = headers.get("transfer-encoding", "").lower()
        if coding == "chunked":
            return await self._read_chunks()
        if coding:
            raise _Refused(501, f"transfer-encoding {coding} is not supported")
        length = headers.get("content-length", "0")
        if not (length.isascii() and length.isdigit()):
            raise _Refused(400, "content-length is not a number")
        return await self._read_exactly(int(length))

    async def _read_chunks(self) -> bytes:
        body = bytearray()
        while True:
            line = await self._read_line()
            try:
                size = int(line.split(b";")[0].strip(), 16)
            except ValueError:
                raise _Refused(400, "a chunk has no valid size") from None
            if size < 0:
                raise _Refused(400, "a chunk has no valid size")
            if size == 0:
                while await self._read_line():
                    pass
                return bytes(body)
            if len(body) + size > BODY_LIMIT_BYTES:
                raise _too_large()
            body += await self._read_exactly(size)
            if await self._read_exactly(2) != b"\r\n":
                raise _Refused(400, "a chunk is longer than it says")

    async def _read_line(self) -> bytes:
        while (end := self._buffer.find(b"\r\n")) < 0:
            if len(self._buffer) > HEAD_LIMIT_BYTES:
                raise _Refused(400, "a chunk has no valid size")
            await self._wait_for_more()
        return self._take(end + 2)[:-2]

    async def _read_exactly(self, size: int) -> bytes:
        if size > BODY_LIMIT_BYTES:
            raise _too_large()
        self._wanted = size
        while len(self._buffer) < size:
            await self._wait_for_more()
        self._wanted = 0
        return self._take(size)

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


class _ClientGone(Exception):
    """The client left before it had sent a whole request."""


class _Refused(Exception):
    def __init__(self, status: int, said: str):
        super().__init__(said)
        self.status, self.said = status, said


def _too_large() -> _Refused:
    return _Refused(413, f"the request's body is larger than {BODY_LIMIT_BYTES} bytes")


def _parse_head(head: bytes, request: Request) -> None:
    lines = head.decode("latin-1").split("\r\n")
    try:
        request.method, target, version = lines[0].split(" ")
    except ValueError:
        raise _Refused(400, "the request line is not HTTP") from None
    if version not in ("HTTP/1.1", "HTTP/1.0"):
        raise _Refused(400 if not version.startswith("HTTP/") else 505, "only HTTP/1.1 is spoken")
    request.path, _, request.query = target.partition("?")
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            request.headers[name.strip().lower()] = value.strip()
        elif line:
            raise _Refused(400, "a header line has no colon")
    connection = request.headers.get("connection", "").lower()
    request.keep_alive = connection == "keep-alive" or (
        version == "HTTP/1.1" and connection != "close"
    )


def _decoded(body: bytes, headers: dict[str, str]) -> bytes:
    coding = headers.get("content-encoding", "identity").lower()
    if coding == "identity" or not body:
        return body
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise _Refused(415, f"content-encoding {coding} is not supported; send gzip or none")
    # 32 added to the window size: zlib recognises gzip and zlib heads by itself.
    decoder = zlib.decompressobj(32 + zlib.MAX_WBITS)
    try:
        decoded = decoder.decompress(body, BODY_LIMIT_BYTES)
    except zlib.error:
        raise _Refused(400, f"the body is not valid {coding}") from None
    if decoder.unconsumed_tail:
        raise _too_large()
    if not decoder.eof:
        raise _Refused(400, f"the body is not valid {coding}")
    return decoded
