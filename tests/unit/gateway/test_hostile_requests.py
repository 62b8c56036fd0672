"""Requests that two readers could take for different ones, or that are no HTTP: what the gateway
answers, whether the connection ends with it, and what stands in the record.

Sections are of RFC 9112 where no other one is named. A row's bytes go through a socket to a
gateway process as they are.
"""

import contextlib
import socket
import time
from dataclasses import dataclass

import pytest
from gateway_client import TOKEN, starter

HOST = b"host: x\r\n"
KEY = b"x-api-key: %s\r\n" % TOKEN.encode()
COUNTED = b'{"model":"m","messages":[]}'
SIZE = b"%x" % len(COUNTED)
OPEN, CLOSED = False, True
# The second request of a row whose connection stays open: the answer shows that it does.
NEXT = b"GET /next HTTP/1.1\r\n" + HOST + KEY + b"\r\n"


def head(*lines: bytes, first: bytes = b"POST /v1/messages/count_tokens HTTP/1.1") -> bytes:
    return b"\r\n".join([first, b"host: x", KEY.rstrip(), *lines, b"", b""])


def sized(*lines: bytes, body: bytes = COUNTED) -> bytes:
    return head(b"content-length: %d" % len(COUNTED), *lines) + body


def chunks(data: bytes, *lines: bytes) -> bytes:
    return head(b"transfer-encoding: chunked", *lines) + data


def get(first: bytes, *lines: bytes) -> bytes:
    return head(*lines, first=first)


CHUNK = SIZE + b"\r\n" + COUNTED + b"\r\n"
LAST = b"0\r\n\r\n"
ACCEPTED = CHUNK + LAST
GET = b"GET /v1/models/m HTTP/1.1"
LONG = b"x" * 70_000

# Name, bytes, status (0: closed without one), whether the connection ends, why.
ROWS = [
    # What is sent right, so that the rest is no refusal of everything
    ("length", sized(), 200, OPEN, "6.2"),
    ("chunks", chunks(ACCEPTED), 200, OPEN, "7.1"),
    ("no-body", get(GET), 200, OPEN, "6.3: no framing means no body"),
    # Two framings
    (
        "length-and-chunked",
        head(b"content-length: 5", b"transfer-encoding: chunked") + ACCEPTED,
        400,
        CLOSED,
        "6.1: both together are smuggling",
    ),
    (
        "chunked-and-length",
        head(b"transfer-encoding: chunked", b"content-length: 5") + ACCEPTED,
        400,
        CLOSED,
        "6.1: in either order",
    ),
    (
        "two-equal-lengths",
        sized(b"content-length: %d" % len(COUNTED)),
        400,
        CLOSED,
        "6.3; RFC 9110, 8.6: may be refused",
    ),
    ("two-lengths", sized(b"Content-Length: 1"), 400, CLOSED, "6.3"),
    (
        "list-of-equal-lengths",
        head(b"content-length: 27, 27") + COUNTED,
        400,
        CLOSED,
        "RFC 9110, 8.6: may be refused",
    ),
    ("list-of-lengths", head(b"content-length: 27, 5") + COUNTED, 400, CLOSED, "6.3"),
    ("empty-length", head(b"content-length:") + COUNTED, 400, CLOSED, "6.3"),
    ("length-with-sign", head(b"content-length: +27") + COUNTED, 400, CLOSED, "RFC 9110, 8.6"),
    ("negative-length", head(b"content-length: -1"), 400, CLOSED, "RFC 9110, 8.6"),
    ("hex-length", head(b"content-length: 0x1b") + COUNTED, 400, CLOSED, "RFC 9110, 8.6"),
    ("length-with-blank", head(b"content-length: 2 7") + COUNTED, 400, CLOSED, "RFC 9110, 8.6"),
    ("length-underscore", head(b"content-length: 2_7") + COUNTED, 400, CLOSED, "RFC 9110, 8.6"),
    ("huge-length", head(b"content-length: 99999999999"), 413, CLOSED, "RFC 9110, 15.5.14"),
    ("endless-length", head(b"content-length: " + b"9" * 40), 400, CLOSED, "RFC 9110, 8.6"),
    # Transfer codings
    ("identity", head(b"transfer-encoding: identity") + COUNTED, 501, CLOSED, "6.1"),
    (
        "chunked-then-identity",
        head(b"transfer-encoding: chunked, identity") + ACCEPTED,
        400,
        CLOSED,
        "6.3: chunked is not the last",
    ),
    ("xchunked", head(b"transfer-encoding: xchunked") + ACCEPTED, 501, CLOSED, "6.1"),
    ("gzip-chunked", head(b"transfer-encoding: gzip, chunked") + ACCEPTED, 501, CLOSED, "6.1"),
    (
        "chunked-twice",
        head(b"transfer-encoding: chunked, chunked") + ACCEPTED,
        400,
        CLOSED,
        "6.1, 7.1: never twice",
    ),
    (
        "chunked-on-two-lines",
        head(b"transfer-encoding: chunked", b"Transfer-Encoding: chunked") + ACCEPTED,
        400,
        CLOSED,
        "6.1",
    ),
    (
        "chunked-after-tab",
        head(b"transfer-encoding:\tchunked\t") + ACCEPTED,
        200,
        OPEN,
        "5: blanks around a value are none of it",
    ),
    (
        "chunked-after-vt",
        head(b"transfer-encoding: \x0bchunked") + ACCEPTED,
        400,
        CLOSED,
        "RFC 9110, 5.6.3: no blank",
    ),
    ("CHUNKED", head(b"Transfer-Encoding: CHUNKED") + ACCEPTED, 200, OPEN, "7: any case"),
    (
        "chunked-http-1.0",
        get(b"POST /v1/messages/count_tokens HTTP/1.0", b"transfer-encoding: chunked") + ACCEPTED,
        400,
        CLOSED,
        "6.1: faulty framing",
    ),
    # Chunks
    ("size-with-sign", chunks(b"+" + ACCEPTED), 400, CLOSED, "7.1: 1*HEXDIG"),
    ("size-0x", chunks(b"0x" + ACCEPTED), 400, CLOSED, "7.1: 1*HEXDIG"),
    ("size-underscore", chunks(b"1_" + ACCEPTED), 400, CLOSED, "7.1: 1*HEXDIG"),
    ("negative-size", chunks(b"-" + ACCEPTED), 400, CLOSED, "7.1: 1*HEXDIG"),
    ("blank-before-size", chunks(b" " + ACCEPTED), 400, CLOSED, "7.1: 1*HEXDIG"),
    ("blank-after-size", chunks(ACCEPTED.replace(b"\r", b" \r", 1)), 400, CLOSED, "7.1"),
    ("no-size", chunks(b"\r\n" + ACCEPTED), 400, CLOSED, "7.1: 1*HEXDIG"),
    ("huge-size", chunks(b"ffffffffff\r\n"), 413, CLOSED, "7.1: large numbers are expected"),
    ("endless-size", chunks(b"f" * 40 + b"\r\n"), 400, CLOSED, "7.1: no overflow"),
    ("zeros-before-size", chunks(b"000" + ACCEPTED), 200, OPEN, "7.1: 1*HEXDIG"),
    ("bare-lf-after-size", chunks(SIZE + b"\n" + COUNTED), 400, CLOSED, "2.2"),
    ("no-crlf-after-chunk", chunks(CHUNK[:-2] + LAST), 400, CLOSED, "7.1"),
    ("lf-after-chunk", chunks(CHUNK[:-2] + b"\n" + LAST), 400, CLOSED, "7.1"),
    ("chunk-too-long", chunks(b"5\r\n" + COUNTED + b"\r\n" + LAST), 400, CLOSED, "7.1"),
    (
        "blank-before-extension",
        chunks(ACCEPTED.replace(b"\r", b" ; a=b\r", 1)),
        200,
        OPEN,
        "7.1.1: bad white space is parsed",
    ),
    ("extension", chunks(ACCEPTED.replace(b"\r", b";a=b\r", 1)), 200, OPEN, "7.1.1: ignored"),
    (
        "extension-with-cr",
        chunks(ACCEPTED.replace(b"\r", b";a\rb\r", 1)),
        400,
        CLOSED,
        "7.1.1; 2.2",
    ),
    (
        "extension-with-nul",
        chunks(ACCEPTED.replace(b"\r", b";a\0b\r", 1)),
        400,
        CLOSED,
        "7.1.1: a token or a quoted string",
    ),
    ("endless-extension", chunks(b"1;" + LONG), 400, CLOSED, "7.1.1: limit their length"),
    ("trailer", chunks(CHUNK + b"0\r\na: b\r\n\r\n"), 200, OPEN, "7.1.2: dropped"),
    (
        "trailer-without-colon",
        chunks(CHUNK + b"0\r\nab\r\n\r\n"),
        400,
        CLOSED,
        "7.1.2: header lines",
    ),
    ("folded-trailer", chunks(CHUNK + b"0\r\na: b\r\n c\r\n\r\n"), 400, CLOSED, "5.2"),
    ("trailer-with-lf", chunks(CHUNK + b"0\r\na: b\n\nc: d\r\n\r\n"), 400, CLOSED, "2.2"),
    (
        "endless-trailers",
        chunks(CHUNK + b"0\r\n" + b"a: b\r\n" * 12_000),
        431,
        CLOSED,
        "RFC 6585, 5",
    ),
    # Header lines
    ("blank-before-colon", get(GET, b"a : b"), 400, CLOSED, "5.1: must be refused"),
    ("folded", get(GET, b"a: b", b" c"), 400, CLOSED, "5.2"),
    ("folded-with-tab", get(GET, b"a: b", b"\tc"), 400, CLOSED, "5.2"),
    (
        "blank-after-request-line",
        GET + b"\r\n host: x\r\n" + KEY + b"\r\n",
        400,
        CLOSED,
        "2.2: must be refused",
    ),
    ("nul", get(GET, b"a: b\0c"), 400, CLOSED, "RFC 9110, 5.5"),
    ("control-byte", get(GET, b"a: b\x1b[1mc"), 400, CLOSED, "RFC 9110, 5.5"),
    ("bare-lf", get(GET, b"a: b\nc: d"), 400, CLOSED, "2.2"),
    ("head-ends-with-lf", GET + b"\nhost: x\n" + KEY[:-2] + b"\n\n", 400, CLOSED, "2.2"),
    (
        "lf-ends-a-head-in-a-head",
        get(GET, b"a: b\n\nGET /two HTTP/1.1"),
        400,
        CLOSED,
        "2.2: h11's head ends here",
    ),
    ("bare-cr", get(GET, b"a: b\rc: d"), 400, CLOSED, "2.2: invalid"),
    ("non-ascii-value", get(GET, b"a: \xe4\xff"), 200, OPEN, "RFC 9110, 5.5: obs-text"),
    ("non-ascii-name", get(GET, b"\xe4: b"), 400, CLOSED, "RFC 9110, 5.1: a token"),
    ("no-colon", get(GET, b"ab"), 400, CLOSED, "5"),
    ("empty-name", get(GET, b": b"), 400, CLOSED, "RFC 9110, 5.1: a token"),
    ("name-with-slash", get(GET, b"a/b: c"), 400, CLOSED, "RFC 9110, 5.1: a token"),
    ("too-many", get(GET, *[b"a: b"] * 200), 431, CLOSED, "RFC 6585, 5"),
    ("too-long", get(GET, b"a: " + LONG), 431, CLOSED, "RFC 6585, 5"),
    ("no-host", GET + b"\r\n" + KEY + b"\r\n", 400, CLOSED, "3.2: must be refused"),
    ("two-hosts", get(GET, b"Host: y"), 400, CLOSED, "3.2: must be refused"),
    ("two-equal-hosts", get(GET, b"Host: x"), 400, CLOSED, "3.2: must be refused"),
    (
        "host-that-is-none",
        GET + b"\r\nhost: a/b@c\r\n" + KEY + b"\r\n",
        400,
        CLOSED,
        "3.2: must be refused",
    ),
    ("empty-host", GET + b"\r\nhost:\r\n" + KEY + b"\r\n", 200, OPEN, "3.2: where there is none"),
    # Request lines
    ("lower-case", get(b"get /v1/models/m HTTP/1.1"), 405, OPEN, "3.1: case counts"),
    ("http-0.9", b"GET /v1/models/m\r\n\r\n", 400, CLOSED, "3"),
    ("version-0.9", get(b"GET /v1/models/m HTTP/0.9"), 505, CLOSED, "2.3"),
    (
        "http-2-preface",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        505,
        CLOSED,
        "RFC 9113, 3.4",
    ),
    ("http-1.2", get(b"GET /v1/models/m HTTP/1.2"), 200, OPEN, "RFC 9110, 2.5: as 1.1"),
    (
        "http-1.2-no-host",
        b"GET /v1/models/m HTTP/1.2\r\n" + KEY + b"\r\n",
        400,
        CLOSED,
        "3.2; RFC 9110, 2.5",
    ),
    ("http-1.0", get(b"GET /v1/models/m HTTP/1.0"), 200, CLOSED, "9.3: no keep-alive"),
    ("http-11", get(b"GET /v1/models/m HTTP/11"), 400, CLOSED, "2.3"),
    ("lower-case-version", get(b"GET /v1/models/m http/1.1"), 400, CLOSED, "2.3: case counts"),
    (
        "absolute-form",
        get(b"GET http://x/v1/models/m HTTP/1.1"),
        200,
        OPEN,
        "3.2.2: must be accepted",
    ),
    (
        "absolute-form-with-user",
        get(b"GET http://a@x/v1/models/m HTTP/1.1"),
        400,
        CLOSED,
        "3.2.2; RFC 9110, 4.2.4",
    ),
    ("authority-form", get(b"CONNECT x:80 HTTP/1.1"), 400, CLOSED, "3.2.3: no proxy"),
    ("target-without-slash", get(b"GET v1/models/m HTTP/1.1"), 400, CLOSED, "3.2"),
    ("target-too-long", get(b"GET /" + LONG + b" HTTP/1.1"), 414, CLOSED, "3"),
    ("tabs", get(b"GET\t/v1/models/m\tHTTP/1.1"), 400, CLOSED, "3: single spaces"),
    ("two-spaces", get(b"GET  /v1/models/m HTTP/1.1"), 400, CLOSED, "3: single spaces"),
    ("space-at-end", get(GET + b" "), 400, CLOSED, "3"),
    ("space-in-target", get(b"GET /v1/models/m n HTTP/1.1"), 400, CLOSED, "3.2: must be refused"),
    ("control-byte-in-target", get(b"GET /v1\x01 HTTP/1.1"), 400, CLOSED, "3.2"),
    ("non-ascii-target", get(b"GET /\xe4 HTTP/1.1"), 400, CLOSED, "3.2"),
    ("method-that-is-none", get(b"G(T / HTTP/1.1"), 400, CLOSED, "3.1: a token"),
    ("tls", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, CLOSED, "3"),
    ("empty-line-first", b"\r\n" + get(GET), 200, OPEN, "2.2: should be ignored"),
    # The rest
    (
        "upgrade",
        get(GET, b"connection: upgrade", b"upgrade: websocket"),
        200,
        OPEN,
        "RFC 9110, 7.8",
    ),
    ("connection-close", get(GET, b"connection: te, Close"), 200, CLOSED, "9.6"),
    ("expectation-unknown", get(GET, b"expect: money"), 200, OPEN, "RFC 9110, 10.1.1: may be 417"),
]


@dataclass
class Answer:
    status: int
    closed: bool
    data: bytes


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with starter(tmp_path_factory.mktemp("gateway")) as start:
        yield start("turns: [{text: Hi.}]")


def read_answer(connection: socket.socket) -> bytes:
    """One answer with its body, or what came before the end."""
    data = b""
    while True:
        begin, end, body = data.partition(b"\r\n\r\n")
        if end:
            length = int(begin.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
            if len(body) >= length:
                return data
        part = connection.recv(65536)
        if not part:
            return data
        data += part


def ask(gateway, data: bytes) -> Answer:
    with gateway.socket() as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(data)
        first = read_answer(connection)
        with contextlib.suppress(ConnectionError):
            connection.sendall(NEXT)
        try:
            second = read_answer(connection)
        except ConnectionError:
            second = b""
    status = int(first[9:12]) if first else 0
    return Answer(status, not second, first)


@pytest.mark.parametrize(
    ("data", "status", "closed", "reason"),
    [pytest.param(*row[1:], id=row[0]) for row in ROWS],
)
def test_each_request_has_the_answer_that_the_rfc_asks_for(gateway, data, status, closed, reason):
    noted = len(gateway.exchanges())
    answer = ask(gateway, data)
    assert (answer.status, answer.closed) == (status, closed), (reason, answer.data)
    assert (b"\r\nconnection: close" in answer.data) == closed
    row = gateway.exchanges(noted + 1 + (not closed))[noted]
    assert row["status"] == status
    # A refusal of the endpoint's, as any other one.
    assert row["refused"] == (status >= 400)
    assert TOKEN not in answer.data.decode("latin-1") and TOKEN not in str(row)


def test_a_refused_head_quotes_no_byte_of_it(gateway):
    answer = ask(gateway, get(GET, b"x-api-key : sk-secret"))
    assert answer.status == 400
    assert b"sk-secret" not in answer.data
    assert "sk-secret" not in gateway.log.read_text(encoding="utf-8")


def test_what_follows_a_refused_request_is_no_request(gateway):
    """Else the part of a body that a proxy before us took for one would be served."""
    noted = len(gateway.exchanges())
    both = head(b"content-length: 4", b"transfer-encoding: chunked") + LAST + NEXT
    assert ask(gateway, both).closed
    assert [row["status"] for row in gateway.exchanges(noted + 1)[noted:]] == [400]


def test_pipelined_requests_are_answered_in_turn(gateway):
    with gateway.socket() as connection:
        last = get(GET, b"connection: close")
        connection.sendall(chunks(ACCEPTED) + sized() + chunks(ACCEPTED) + NEXT + last)
        data = b""
        while part := connection.recv(65536):
            data += part
    statuses = [part[:3] for part in data.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [b"200", b"200", b"200", b"404", b"200"]


@pytest.mark.parametrize(("version", "waits"), [(b"1.1", True), (b"1.0", False)])
def test_who_expects_a_100_gets_it_before_the_body(gateway, version, waits):
    """RFC 9110, 10.1.1: a client of HTTP/1.0 never."""
    first = b"POST /v1/messages/count_tokens HTTP/" + version
    lines = [b"content-length: %d" % len(COUNTED), b"expect: 100-continue"]
    with gateway.socket() as connection:
        connection.sendall(head(*lines, first=first))
        if waits:
            assert connection.recv(65536) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(COUNTED)
        assert read_answer(connection).startswith(b"HTTP/1.1 200 ")


def test_no_100_for_a_body_that_is_refused(gateway):
    lines = [b"content-length: 99999999999", b"expect: 100-continue"]
    assert ask(gateway, head(*lines)).data.startswith(b"HTTP/1.1 413 ")


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(sized(body=COUNTED[:5]), id="length"),
        pytest.param(chunks(CHUNK[:9]), id="in-a-chunk"),
        pytest.param(chunks(CHUNK), id="before-the-last-chunk"),
        pytest.param(chunks(CHUNK + b"0\r\n"), id="before-the-trailers-end"),
        pytest.param(head(b"content-length: 5")[:-2], id="in-the-head"),
    ],
)
def test_a_cut_request_is_never_served(gateway, data):
    """RFC 9112, 8: incomplete; the client's half-close is its end."""
    noted = len(gateway.exchanges())
    with gateway.socket() as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        assert connection.recv(65536) == b""
    assert len(gateway.exchanges()) == noted


def test_http_1_0_gets_no_chunks(tmp_path):
    """RFC 9112, 6.1: a stream ends with the connection instead."""
    body = b'{"model":"m","max_tokens":9,"stream":true,"messages":[{"role":"user","content":"a"}]}'
    lines = [b"content-length: %d" % len(body), b"connection: keep-alive"]
    with starter(tmp_path) as start, start("turns: [{text: Hi.}]").socket() as connection:
        connection.sendall(head(*lines, first=b"POST /v1/messages HTTP/1.0") + body)
        data = b""
        while part := connection.recv(65536):
            data += part
    assert data.startswith(b"HTTP/1.1 200 ")
    assert b"transfer-encoding" not in data and b"\r\nconnection: close" in data
    assert data.partition(b"\r\n\r\n")[2].startswith(b"event: message_start\n")
    assert data.endswith(b"\n\n")


def test_the_record_says_what_a_refused_request_asked_for(gateway):
    noted = len(gateway.exchanges())
    ask(gateway, get(b"GET /v1/models/m?key=sk-secret HTTP/1.1", b"a : b"))
    row = gateway.exchanges(noted + 1)[noted]
    assert (row["method"], row["path"], row["status"]) == ("GET", "/v1/models/m", 400)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"\r\n" + get(GET, b"a: b"), 200, id="whole"),
        pytest.param(get(GET, b"a: b\nc: d"), 400, id="bare-lf"),
        pytest.param(get(GET, b"a: b\rc: d"), 400, id="bare-cr"),
        pytest.param(chunks(CHUNK + b"0\r\na: b\r\n\r\n"), 200, id="chunks"),
    ],
)
@pytest.mark.parametrize("piece", [1, 2, 3])
def test_pieces_are_read_as_the_whole_is(gateway, data, status, piece):
    with gateway.socket() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):
            for start in range(0, len(data), piece):
                connection.sendall(data[start : start + piece])
                time.sleep(0.0005)
        assert read_answer(connection).startswith(b"HTTP/1.1 %d " % status)
