"""What RFC 9112 asks of a server, for requests that nobody sends by mistake.

Each goes through a real socket to a real gateway. What follows a refused request on its connection
is never read as another one.
"""

import re
import socket

import pytest
from gateway_client import TOKEN, starter

KEY = b"x-api-key: %s\r\n" % TOKEN.encode()
HOST = b"host: x\r\n"
COUNT = b"POST /v1/messages/count_tokens HTTP/1.1\r\n" + HOST + KEY
CHUNKED = COUNT + b"transfer-encoding: chunked\r\n\r\n"
MORE = b"GET /smuggled HTTP/1.1\r\n" + HOST + KEY + b"\r\n"
GET = b"GET /v1/models/a HTTP/1.1\r\n"

# Why, what is sent, the status of the answer. All of them end the connection.
REFUSED = {
    # Two lengths, section 6.3
    "both framings": (COUNT + b"content-length: 2\r\ntransfer-encoding: chunked\r\n\r\n", 400),
    "both framings, chunked first": (
        COUNT + b"transfer-encoding: chunked\r\ncontent-length: 2\r\n\r\n",
        400,
    ),
    "two lengths": (COUNT + b"content-length: 2\r\ncontent-length: 40\r\n\r\n{}", 400),
    "a list of two lengths": (COUNT + b"content-length: 2, 40\r\n\r\n{}", 400),
    "a length with a sign": (COUNT + b"content-length: +2\r\n\r\n{}", 400),
    "a negative length": (COUNT + b"content-length: -2\r\n\r\n{}", 400),
    "a hexadecimal length": (COUNT + b"content-length: 0x2\r\n\r\n{}", 400),
    "a length with an underscore": (COUNT + b"content-length: 1_0\r\n\r\n{}", 400),
    "a length in other digits": (COUNT + "content-length: \u00b2\r\n\r\n{}".encode("latin-1"), 400),
    "an empty length": (COUNT + b"content-length:\r\n\r\n{}", 400),
    "a length that no body has": (COUNT + b"content-length: 999999999999\r\n\r\n", 413),
    # Codings, sections 6.1 and 7
    "chunked twice": (COUNT + b"transfer-encoding: chunked, chunked\r\n\r\n0\r\n\r\n", 400),
    "chunked in two lines": (
        COUNT + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    "identity and chunked": (COUNT + b"transfer-encoding: identity, chunked\r\n\r\n", 501),
    "chunked, then another": (COUNT + b"transfer-encoding: chunked, gzip\r\n\r\n", 501),
    "nearly chunked": (COUNT + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    "quoted": (COUNT + b'transfer-encoding: "chunked"\r\n\r\n0\r\n\r\n', 501),
    "with a vertical tab": (COUNT + b"transfer-encoding:\x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "chunked in HTTP/1.0": (
        b"POST / HTTP/1.0\r\n" + KEY + b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        400,
    ),
    # Chunks, section 7.1
    "a size with a sign": (CHUNKED + b"+1d\r\n", 400),
    "a negative size": (CHUNKED + b"-1\r\n", 400),
    "a size with a prefix": (CHUNKED + b"0x1d\r\n", 400),
    "a size with an underscore": (CHUNKED + b"1_0\r\n", 400),
    "a blank before the size": (CHUNKED + b" 2\r\n{}\r\n0\r\n\r\n", 400),
    "a blank behind the size": (CHUNKED + b"2 \r\n{}\r\n0\r\n\r\n", 400),
    "no size": (CHUNKED + b"\r\n", 400),
    "an extension alone": (CHUNKED + b";a=b\r\n", 400),
    "a size of more digits than a number has": (CHUNKED + b"0" * 17 + b"2\r\n{}", 400),
    "a size that wraps around": (CHUNKED + b"10000000000000002\r\n{}", 400),
    "a chunk larger than any body": (CHUNKED + b"FFFFFFFFFF\r\n", 413),
    "a chunk that goes on": (CHUNKED + b"1\r\n{}\r\n0\r\n\r\n", 400),
    "a chunk without its end": (CHUNKED + b"2\r\n{}0\r\n\r\n", 400),
    "a lone CR in an extension": (CHUNKED + b"2;a=\rb\r\n{}\r\n0\r\n\r\n", 400),
    "a line of chunks that ends with LF": (CHUNKED + b"2\n{}\r\n0\r\n\r\n", 400),
    "a trailer without a colon": (CHUNKED + b"2\r\n{}\r\n0\r\nno colon\r\n\r\n", 400),
    "a trailer that is another request": (CHUNKED + b"2\r\n{}\r\n0\r\n" + MORE, 400),
    "trailers longer than a head": (CHUNKED + b"0\r\n" + b"a: b\r\n" * 20_000, 431),
    # Headers, sections 5 and 2.2
    "a blank before a colon": (COUNT + b"content-length : 2\r\n\r\n{}", 400),
    "a tab before a colon": (COUNT + b"content-length\t: 2\r\n\r\n{}", 400),
    "a folded header": (COUNT + b"a: b\r\n c\r\n\r\n", 400),
    "a fold at the start": (GET + b" host: x\r\n" + KEY + b"\r\n", 400),
    "no colon": (GET + HOST + b"no colon\r\n\r\n", 400),
    "no name": (GET + HOST + b": a\r\n\r\n", 400),
    "a name with a blank": (GET + HOST + b"a b: c\r\n\r\n", 400),
    "a name that is not ASCII": (GET + HOST + b"\xe4: c\r\n\r\n", 400),
    "a NUL": (GET + HOST + b"a: b\x00c\r\n\r\n", 400),
    "a control character": (GET + HOST + b"a: b\x01c\r\n\r\n", 400),
    "a lone CR": (GET + HOST + b"a: b\rc: d\r\n\r\n", 400),
    "lines that end with LF": (GET.replace(b"\r", b"") + b"host: x\n\n", 400),
    "one line that ends with LF": (GET + b"host: x\na: b\r\n\r\n", 400),
    "too many lines": (GET + HOST + b"a: b\r\n" * 129 + b"\r\n", 431),
    "a head that is too long": (GET + HOST + b"a: " + b"b" * 70_000 + b"\r\n\r\n", 431),
    # Host, section 3.2
    "no Host": (GET + KEY + b"\r\n", 400),
    "no Host in a later version": (GET.replace(b"1.1", b"1.2") + KEY + b"\r\n", 400),
    "two Hosts": (GET + HOST + b"host: y\r\n" + KEY + b"\r\n", 400),
    "a Host that is none": (GET + b"host: a/b@c\r\n" + KEY + b"\r\n", 400),
    # The request line, section 3
    "HTTP/0.9": (b"GET /v1/models/a\r\n\r\n", 400),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "another protocol": (b"GET / SPDY/3\r\n\r\n", 400),
    "a version in lower case": (b"GET / http/1.1\r\n" + HOST + b"\r\n", 400),
    "a version of two digits": (b"GET / HTTP/1.10\r\n" + HOST + b"\r\n", 400),
    "two blanks": (b"GET  / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a tab": (b"GET\t/\tHTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a blank in the target": (b"GET /a b HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a control character in the target": (b"GET /a\x7f HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a target that is not ASCII": (b"GET /\xff HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a target that is no path": (b"GET v1/models HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a method that is none": (b"GE{T / HTTP/1.1\r\n" + HOST + b"\r\n", 400),
    "a line that is too long": (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n" + HOST + b"\r\n", 414),
    "no HTTP at all": (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", 400),
}

# What is unusual and allowed; the last asks for the end of the connection.
SERVED = {
    "one length twice": (COUNT + b"content-length: 2\r\ncontent-length: 2\r\n\r\n{}", 200),
    "one length in a list": (COUNT + b"content-length: 2, 2\r\n\r\n{}", 200),
    "leading zeros": (COUNT + b"content-length: 002\r\n\r\n{}", 200),
    "chunked in capitals": (COUNT + b"Transfer-Encoding: CHUNKED\r\n\r\n2\r\n{}\r\n0\r\n\r\n", 200),
    "an extension": (CHUNKED + b'2;a="b"\r\n{}\r\n0\r\n\r\n', 200),
    "a blank before an extension": (CHUNKED + b"2 ; a=b\r\n{}\r\n0\r\n\r\n", 200),
    "a trailer": (CHUNKED + b"2\r\n{}\r\n0\r\nx-a: b\r\n\r\n", 200),
    "no blank behind a colon": (GET + HOST + b"x-api-key:%s\r\n\r\n" % TOKEN.encode(), 200),
    "blanks behind a colon": (GET + HOST + b"x-api-key: \t %s \r\n\r\n" % TOKEN.encode(), 200),
    "an empty value": (GET + HOST + KEY + b"a:\r\n\r\n", 200),
    "a value that is not ASCII": (GET + HOST + KEY + b"a: \xe4\r\n\r\n", 200),
    "an empty Host": (GET + b"host:\r\n" + KEY + b"\r\n", 200),
    "a Host with a port": (GET + b"host: [::1]:80\r\n" + KEY + b"\r\n", 200),
    "a later minor version": (GET.replace(b"1.1", b"1.2") + HOST + KEY + b"\r\n", 200),
    "the absolute form": (b"GET http://x/v1/models/a HTTP/1.1\r\n" + HOST + KEY + b"\r\n", 200),
    "empty lines before it": (b"\r\n\r\n" + GET + HOST + KEY + b"\r\n", 200),
    "an upgrade that is not taken": (
        GET + HOST + KEY + b"connection: upgrade\r\nupgrade: websocket\r\n\r\n",
        200,
    ),
    "a method that nobody knows": (b"BREW / HTTP/1.1\r\n" + HOST + KEY + b"\r\n", 404),
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory):
    with starter(tmp_path_factory.mktemp("gateway")) as start:
        yield start("turns: [{text: Hello.}]")


def answers(gateway, sent: bytes) -> list[int]:
    """The statuses of all answers until the server ends the connection."""
    got = b""
    with gateway.socket() as connection:
        connection.settimeout(60)
        connection.sendall(sent)
        while part := connection.recv(65536):
            got += part
    return [int(status) for status in re.findall(rb"HTTP/1\.1 (\d{3}) ", got)]


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_http_is_refused_and_nothing_after_it_is_read(gateway, name):
    sent, status = REFUSED[name]
    seen = len(gateway.exchanges())
    assert answers(gateway, sent + MORE) == [status]
    (row,) = gateway.exchanges(seen + 1)[seen:]
    assert (row["status"], row["message_id"]) == (status, None)
    assert row["path"] != "/smuggled"


@pytest.mark.parametrize("name", SERVED)
def test_what_is_unusual_and_allowed_is_served(gateway, name):
    sent, status = SERVED[name]
    end = GET + HOST + KEY + b"connection: close\r\n\r\n"
    assert answers(gateway, sent + end) == [status, 200]


def test_a_client_of_http_1_0_waits_for_no_continue(gateway):
    head = b"POST /v1/messages/count_tokens HTTP/1.0\r\n" + KEY
    assert answers(gateway, head + b"expect: 100-continue\r\ncontent-length: 2\r\n\r\n{}") == [200]


@pytest.mark.parametrize(
    "sent", [GET + HOST, COUNT + b"content-length: 20\r\n\r\n{", CHUNKED + b"5\r\n{"]
)
def test_a_request_that_is_cut_off_is_none(gateway, sent):
    seen = len(gateway.exchanges())
    with gateway.socket() as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        connection.settimeout(60)
        assert connection.recv(65536) == b""
    assert answers(gateway, GET + HOST + KEY + b"connection: close\r\n\r\n") == [200]
    rows = gateway.exchanges(seen + 1)[seen:]
    assert [row["path"] for row in rows] == ["/v1/models/a"]


def test_no_text_of_a_request_is_in_the_answer(gateway):
    """It may be a key that was put into the wrong place."""
    with gateway.socket() as connection:
        connection.settimeout(60)
        connection.sendall(GET + HOST + b"sk-secret-1234\r\n\r\n")
        got = b""
        while part := connection.recv(65536):
            got += part
    assert got.startswith(b"HTTP/1.1 400 ")
    assert b"secret" not in got
