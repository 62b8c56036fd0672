"""The head of an HTTP/1.1 request: its line and headers, and how its body is framed.

h11 reads it; where h11 is lenient and RFC 9112 is not, the head is refused before or after. A
client that is not understood is never guessed at: what it meant would be for an attacker to say.
"""

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

import h11

HEAD_LIMIT_BYTES = 64 * 1024
HEADER_LIMIT = 128
# As the Messages API has it; of an unpacked body too.
BODY_LIMIT_BYTES = 32 * 1024 * 1024
_LENGTH_DIGITS = 18

# An end of a head as h11 and others would see it; the strict one alone is taken (`parse`).
END = re.compile(rb"\n\r?\n")
# RFC 9112, section 2.2: a line ends with CR LF, and neither stands alone.
_BARE_LINE_END = re.compile(rb"(?<!\r)\n|\r(?!\n)")
# Section 5.2: a server refuses a folded header, or replaces the fold; h11 replaces it.
_FOLD = re.compile(rb"\r\n[ \t]+[^\r]")
# RFC 9110, section 5.5: no control character but a tab; h11 lets all but NUL pass.
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]")
# RFC 9110, section 7.2: a name or address, perhaps with a port; or nothing.
_HOST = re.compile(r"(\[[0-9A-Fa-fvV.:]+\]|[A-Za-z0-9._~!$&'()*+,;=%-]*)(:[0-9]*)?")
_TRANSFER_ENCODING = re.compile(rb"^transfer-encoding:([^\r]*)", re.IGNORECASE | re.MULTILINE)

# What h11 says of a head, by how its sentence begins, in ours: its own may quote a secret.
_SAID = {
    "illegal request line": "the request line is not HTTP",
    "no request line": "the request line is not HTTP",
    "illegal header line": "a header line is not `name: value`",
    "Missing mandatory Host": "the Host header is missing",
    "Found multiple Host": "the Host header is there more than once",
    "conflicting Content-Length": "content-length is there with different values",
    "bad Content-Length": "content-length is not a number that a body can have",
}


class Refused(Exception):
    """A request that is not served: the status of the answer, and why, in one sentence."""

    def __init__(self, status: int, said: str):
        super().__init__(said)
        self.status, self.said = status, said


@dataclass(frozen=True)
class Head:
    """A request's head. `headers` has lower-case names; those of one name are joined by commas.

    length is the body's in bytes; is_chunked says that the body tells it itself. expects_continue:
    the client waits for `100 Continue` before it sends the body.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    keep_alive: bool
    is_chunked: bool
    length: int
    expects_continue: bool


def too_large(limit: int = BODY_LIMIT_BYTES) -> Refused:
    what = "body" if limit == BODY_LIMIT_BYTES else "unpacked body"
    return Refused(413, f"the request's {what} is larger than {limit} bytes")


def too_long(head: bytes) -> Refused:
    """Why a head that goes on beyond HEAD_LIMIT_BYTES is refused: its line, or all of it."""
    if b"\n" not in head[:HEAD_LIMIT_BYTES]:
        return Refused(414, f"the request line is longer than {HEAD_LIMIT_BYTES} bytes")
    return Refused(431, f"the request's head is longer than {HEAD_LIMIT_BYTES} bytes")


def request_line(head: bytes) -> tuple[str, str, str]:
    """Method, path and query as far as they can be made out, for the record of a refused head."""
    method, _, rest = head.partition(b"\r\n")[0].decode("latin-1").partition(" ")
    path, _, query = rest.rpartition(" ")[0].partition("?")
    return method, path, query


def parse(head: bytes) -> Head:
    """The head up to and with its empty line; Refused where it is not what RFC 9112 asks for."""
    if _BARE_LINE_END.search(head):
        raise Refused(400, "a line of the head does not end with CR LF")
    if head.count(b"\n") - 2 > HEADER_LIMIT:
        raise Refused(431, f"the request has more than {HEADER_LIMIT} header lines")
    if _FOLD.search(head):
        raise Refused(400, "a header is folded over several lines")
    if _CONTROL.search(head):
        raise Refused(400, "the head has a control character")
    # What follows the head is not for this parser: a body could be larger than it may hold.
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT_BYTES)
    try:
        connection.receive_data(head)
        request = connection.next_event()
    except h11.RemoteProtocolError as error:
        raise _refused(str(error), error.error_status_hint, head) from None
    if not isinstance(request, h11.Request):
        raise Refused(400, "the request line is not HTTP")
    return _checked(request)


def _refused(said: str, status: int, head: bytes) -> Refused:
    if status == 501:
        codings = b",".join(_TRANSFER_ENCODING.findall(head)).lower().split(b",")
        # Known, but not twice: nothing that could be implemented (RFC 9112, section 7).
        if all(coding.strip() == b"chunked" for coding in codings):
            return Refused(400, "the body is chunked more than once")
        return Refused(501, "this transfer-encoding is not supported; send chunked, or a length")
    sentence = next((ours for begin, ours in _SAID.items() if said.startswith(begin)), None)
    return Refused(status, sentence or "the request's head is not HTTP/1.1")


def _checked(request: h11.Request) -> Head:
    headers: dict[str, str] = {}
    for raw_name, raw_value in request.headers:
        name, value = raw_name.decode("ascii"), raw_value.decode("latin-1")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    major, minor = (int(digit) for digit in request.http_version.split(b"."))
    if major != 1:
        raise Refused(505, "only HTTP/1.1 is spoken")
    # A later minor version is spoken to as 1.1 is (RFC 9110, section 2.5); h11 asks 1.1 alone.
    if minor and "host" not in headers:
        raise Refused(400, "the Host header is missing")
    if not _HOST.fullmatch(headers.get("host", "")):
        raise Refused(400, "the Host header is no name or address")
    path, query = _path(request.method.decode("ascii"), request.target.decode("ascii"))
    is_chunked, length = _framing(headers, minor)
    tokens = {token.strip() for token in headers.get("connection", "").lower().split(",")}
    return Head(
        method=request.method.decode("ascii"),
        path=path,
        query=query,
        headers=headers,
        keep_alive="close" not in tokens and (minor > 0 or "keep-alive" in tokens),
        is_chunked=is_chunked,
        length=length,
        # RFC 9110, section 10.1.1: not from a client that speaks 1.0.
        expects_continue=minor > 0 and headers.get("expect", "").lower() == "100-continue",
    )


def _path(method: str, target: str) -> tuple[str, str]:
    """Path and query of a target in each of the four forms of RFC 9112, section 3.2."""
    if target.startswith(("http://", "https://")):
        try:
            url = urlsplit(target)
        except ValueError:
            raise Refused(400, "the request's target is no path") from None
        return url.path or "/", url.query
    if not (target.startswith("/") or method == "CONNECT" or (method, target) == ("OPTIONS", "*")):
        raise Refused(400, "the request's target is no path")
    path, _, query = target.partition("?")
    return path, query


def _framing(headers: dict[str, str], minor: int) -> tuple[bool, int]:
    """Whether the body is chunked, and its length where it is not (RFC 9112, section 6)."""
    length = headers.get("content-length", "0")
    if "transfer-encoding" in headers:
        if not minor:
            raise Refused(400, "a request of HTTP/1.0 has no transfer-encoding")
        if "content-length" in headers:
            raise Refused(400, "the request has both content-length and transfer-encoding")
        return True, 0
    if len(length) > _LENGTH_DIGITS:
        raise Refused(400, "content-length is not a number that a body can have")
    if int(length) > BODY_LIMIT_BYTES:
        raise too_large()
    return False, int(length)
