"""What the bytes of a request mean by RFC 9112, in h11's words, and what h11 lets pass and the RFC
does not.

h11 parses heads and chunks. Each check of our own says what it is for: two readers that take the
same bytes for different requests are what request smuggling needs, and the CLI needs none of it.
Whoever calls cuts heads, chunks and trailers out of the stream, and bounds them.
"""

import re
from dataclasses import dataclass

import h11

HEAD_LIMIT_BYTES = 64 * 1024
HEADER_LIMIT = 128
# As the Messages API has it; of an unpacked body too.
BODY_LIMIT_BYTES = 32 * 1024 * 1024
_LENGTH_DIGITS = 18

# h11 ends lines at a bare LF as well, so that its head would end elsewhere than ours (RFC 9112,
# section 2.2, which forbids a bare CR too), and lets control bytes pass in values, from where they
# would get into logs (RFC 9110, section 5.5). Counted, since an expression takes ten times as long.
_CONTROL = bytes({*range(0x20), 0x7F} - {*b"\t\r\n"})
# h11 joins folded lines; a server may refuse them (RFC 9112, section 5.2), and has to where they
# follow the request line (section 2.2).
_FOLDED = re.compile(rb"\r\n[ \t]")
# h11 counts Host lines and does not look into them (RFC 9112, section 3.2).
_HOST = re.compile(r"([\w.~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]*)?", re.ASCII)
_ABSOLUTE = re.compile(r"https?://([^/?#]*)(.*)", re.IGNORECASE)
# h11 takes blanks after a size, and any byte in an extension (RFC 9112, section 7.1); before an
# extension blanks are to be taken (section 7.1.1).
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,16})([ \t]*;[\t\x20-\x7e\x80-\xff]*)?(?<![ \t])\r\n")


class Refused(Exception):
    """A request that is answered with `status`, and that ends its connection; the message is one
    sentence, which quotes no header."""

    def __init__(self, status: int, said: str):
        super().__init__(said)
        self.status, self.said = status, said


@dataclass(frozen=True)
class Head:
    """The head of a request: `headers` have lower-case names; path and query are what is asked
    for, without scheme and host where the client wrote them.

    length_bytes: of the body, None where it comes in chunks. parser: what reads these.
    """

    method: str
    path: str
    query: str
    headers: dict[str, str]
    keep_alive: bool
    is_http_1_0: bool
    length_bytes: int | None
    parser: h11.Connection

    @property
    def has_body(self) -> bool:
        return self.length_bytes != 0

    @property
    def expects_continue(self) -> bool:
        """Whether the client waits for a 100 before it sends the body; one of HTTP/1.0 never does
        (RFC 9110, section 10.1.1)."""
        return not self.is_http_1_0 and self.headers.get("expect", "").lower() == "100-continue"


def too_large(limit_bytes: int = BODY_LIMIT_BYTES) -> Refused:
    """The refusal of a body of more bytes than that."""
    what = "body" if limit_bytes == BODY_LIMIT_BYTES else "unpacked body"
    return Refused(413, f"the request's {what} is larger than {limit_bytes} bytes")


def check_text(data: bytes | bytearray, begin: int = 0) -> None:
    """Refuse what no head can hold, in the part of one from `begin` on, whose last byte may be half
    of a line's end. Where the byte before `begin` is a CR, it is looked at as well."""
    if data[begin - 1 : begin] == b"\r":
        begin -= 1
    part = data[begin:]
    ends = part.count(b"\r\n")
    is_bare = part.count(b"\r") - part.endswith(b"\r") != ends or part.count(b"\n") != ends
    if is_bare or len(part.translate(None, _CONTROL)) != len(part):
        raise Refused(400, "the request's head has a control byte, or a line without CR LF")


def asked_for(head: bytes) -> tuple[str, str]:
    """Method and path of a head that may be refused, for the record; empty where there are none.
    Without what follows a `?`, where careless clients have secrets."""
    words = head.partition(b"\r\n")[0].decode("latin-1").split(" ")
    return (words[0], words[1].partition("?")[0]) if len(words) == 3 else ("", "")


def parse_head(head: bytes) -> Head:
    """A head with the empty line at its end. Raises Refused."""
    check_text(head)
    if _FOLDED.search(head):
        raise Refused(400, "a header line is folded, or begins with a blank")
    if head.count(b"\r\n") - 2 > HEADER_LIMIT:
        raise Refused(431, f"the request has more than {HEADER_LIMIT} header lines")
    _check_framing(head)
    parser = h11.Connection(h11.SERVER, HEAD_LIMIT_BYTES)
    request = _next_event(parser, head)
    if not isinstance(request, h11.Request):
        raise Refused(400, "the request's head is not HTTP")
    headers: dict[str, str] = {}
    for raw_name, raw_value in request.headers:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        # Lines of one name are one list (RFC 9110, section 5.3).
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    version = request.http_version
    # Of a higher minor version we understand what we know (RFC 9110, section 2.5).
    if not version.startswith(b"1."):
        raise Refused(505, "only HTTP/1.1 is spoken")
    is_http_1_0 = version == b"1.0"
    is_chunked = "transfer-encoding" in headers
    if is_chunked and is_http_1_0:
        # Its framing counts as faulty (RFC 9112, section 6.1); h11 looks at no version.
        raise Refused(400, "HTTP/1.0 has no transfer-encoding")
    if "host" not in headers and not is_http_1_0:
        # h11 asks for it in 1.1 alone.
        raise Refused(400, "the request has no Host line")
    _check_host(headers.get("host", ""))
    path, query = _path_and_query(request.target.decode("latin-1"))
    length = headers.get("content-length", "0")
    if len(length) > _LENGTH_DIGITS:
        raise Refused(400, "content-length is not a number that a body can have")
    tokens = {token.strip().lower() for token in headers.get("connection", "").split(",")}
    return Head(
        method=request.method.decode("latin-1"),
        path=path,
        query=query,
        headers=headers,
        keep_alive="close" not in tokens and (not is_http_1_0 or "keep-alive" in tokens),
        is_http_1_0=is_http_1_0,
        length_bytes=None if is_chunked else int(length),
        parser=parser,
    )


def chunk_size_bytes(line: bytes) -> int:
    """The size that a chunk's first line, with its end, says. Raises Refused."""
    found = _CHUNK_LINE.fullmatch(line)
    if found is None:
        raise Refused(400, "a chunk has no valid size")
    return int(found[1], 16)


def read_chunk(parser: h11.Connection, line: bytes, data: bytes) -> bytes:
    """What a whole chunk holds: `data` is what follows its first line, with the CR LF after it.
    Raises Refused."""
    # Without the extension, before which h11 takes no blanks.
    event = _next_event(parser, b"%x\r\n" % chunk_size_bytes(line) + data)
    if not isinstance(event, h11.Data) or _next_event(parser) is not h11.NEED_DATA:
        raise Refused(400, "a chunk is longer than it says")
    return bytes(event.data)


def check_trailers(parser: h11.Connection, line: bytes, trailers: bytes) -> None:
    """Look at the end of a body in chunks: the line of the last chunk, and the trailers with the
    empty line at their end. They are not used. Raises Refused."""
    check_text(trailers)
    if trailers.startswith((b" ", b"\t")) or _FOLDED.search(trailers):
        raise Refused(400, "a trailer line is folded, or begins with a blank")
    if not isinstance(_next_event(parser, line + trailers), h11.EndOfMessage):
        raise Refused(400, "the body does not end with its last chunk")


def _next_event(
    parser: h11.Connection, data: bytes = b""
) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
    if data:
        parser.receive_data(data)
    try:
        return parser.next_event()
    except h11.RemoteProtocolError as error:
        # What follows the colon quotes the client's bytes, a key among them perhaps.
        said = str(error).partition(":")[0]
        raise Refused(error.error_status_hint, f"the request is not HTTP ({said})") from None


def _check_framing(head: bytes) -> None:
    """Refuse heads from which two readers could take two lengths."""
    lines = head.lower()
    lengths, codings = _values(lines, b"content-length"), _values(lines, b"transfer-encoding")
    if len(lengths) > 1 or b"," in b"".join(lengths):
        # h11 takes equal ones for one; a server may refuse them (RFC 9110, section 8.6).
        raise Refused(400, "the request has more than one content-length")
    if codings and lengths:
        # h11 goes by the coding; a server may refuse both together (RFC 9112, section 6.1).
        raise Refused(400, "the request has both content-length and transfer-encoding")
    if b"chunked" in [coding.strip() for coding in b",".join(codings).split(b",")][:-1]:
        # Its end cannot be found (RFC 9112, section 6.3), which h11 answers with a 501.
        raise Refused(400, "transfer-encoding has chunked twice, or something after it")


def _values(lines: bytes, name: bytes) -> list[bytes]:
    """Of all header lines of that name, of a head in lower case."""
    found = lines.split(b"\r\n" + name + b":")[1:]
    return [value.partition(b"\r\n")[0] for value in found]


def _check_host(host: str) -> None:
    if not _HOST.fullmatch(host):
        raise Refused(400, "the request's host is none")


def _path_and_query(target: str) -> tuple[str, str]:
    """Of a target in whatever form (RFC 9112, section 3.2)."""
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute:
        _check_host(absolute[1])
        target = absolute[2] if absolute[2].startswith("/") else "/" + absolute[2]
    elif not target.startswith("/") and target != "*":
        raise Refused(400, "the request's target is no path")
    path, _, query = target.partition("?")
    return path, query
