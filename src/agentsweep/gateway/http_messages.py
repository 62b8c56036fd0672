"""A request as a handler gets it, and the reply that it fills."""

import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol


class Sender(Protocol):
    """The connection that a reply goes through."""

    def send(self, data: bytes) -> None: ...

    async def drain(self) -> None: ...

    def hang_up(self) -> None: ...

    def reset(self) -> None: ...


@dataclass
class Request:
    """One request. `headers` has lower-case names; `body` is decoded; start_ns and start_utc_ns
    are when its first byte came.

    is_http_1_0: the client knows no chunks. query: what follows the `?`. A careless client puts
    secrets there: pass it on, never note it. problem: status and sentence where it cannot be
    served as HTTP, else None. admitted: whether the server read its body.
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
    is_http_1_0: bool = False
    admitted: bool = True


class Reply:
    """The answer to one request: one `send`, or `start`, some `write` and `finish`; anything that
    is not brought to its end is cut off with `truncate` or `abort`.

    first_byte_ns is None until something was sent; parts are the pieces of the body, without
    framing, each with the time at which it was sent; complete is true once all of it was handed
    to the kernel or waits in our buffer.
    """

    def __init__(self, connection: Sender, request: Request):
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
        if self._request.is_http_1_0:
            # It knows no chunks: the answer ends with the connection (RFC 9112, section 6.1).
            self.close_after, framing = True, {}
        else:
            framing = {"transfer-encoding": "chunked"}
        head = self._head(status, {**headers, **framing})
        self._pending = (status, head)

    async def write(self, part: bytes) -> None:
        """One part of the body, not empty, sent at once."""
        self._put(part, framed=not self._request.is_http_1_0)
        await self._connection.drain()

    async def finish(self) -> None:
        self.complete = True
        end = b"" if self._request.is_http_1_0 else b"0\r\n\r\n"
        self._connection.send(self._take_head() + end)
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
