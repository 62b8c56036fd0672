"""The client to a real endpoint, against servers on 127.0.0.1 that behave well and badly.

The endpoints, the TLS server and the proxy here are stand-ins of a few lines each.
"""

import asyncio
import base64
import contextlib
import gzip
import shutil
import socket
import ssl
import subprocess
import traceback
from dataclasses import dataclass

import pytest

from agentsweep.errors import ConfigError, InfraError
from agentsweep.gateway import upstream
from agentsweep.gateway.credentials import Credential
from agentsweep.gateway.upstream import (
    ANTHROPIC,
    KINDS,
    Upstream,
    UpstreamBroken,
    UpstreamUnreachable,
    check_base_url,
)

KEY = "sk-ant-api03-canary-6d1f"
CREDENTIAL = Credential("x-api-key", KEY)
PASSWORD = "canary-password"


def run(coroutine):
    """What a coroutine returns; a test that hangs fails."""
    return asyncio.run(asyncio.wait_for(coroutine, 20))


# Stand-ins


@dataclass
class Received:
    """A request as a stand-in saw it."""

    line: str
    headers: dict[str, str]
    body: bytes


async def receive(reader) -> Received | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    except asyncio.IncompleteReadError:
        return None
    line, *rest = head.strip().split("\r\n")
    headers = dict(header.split(": ", 1) for header in rest)
    headers = {name.lower(): value for name, value in headers.items()}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Received(line, headers, body)


class Endpoint:
    """Answers requests with the same bytes, or by a coroutine that is given the connection."""

    def __init__(self, answer):
        self._answer = answer
        self.requests: list[Received] = []
        self.connections = 0

    async def __call__(self, reader, writer):
        self.connections += 1
        with contextlib.closing(writer):
            while request := await receive(reader):
                self.requests.append(request)
                if callable(self._answer):
                    await self._answer(reader, writer)
                    return
                writer.write(self._answer)
                await writer.drain()


class Proxy:
    """Passes CONNECT and absolute URIs on to 127.0.0.1 and nowhere else, or refuses with `status`.
    A stand-in for a real proxy."""

    def __init__(self, status: int | None = None):
        self._status = status
        self.requests: list[Received] = []

    async def __call__(self, reader, writer):
        with contextlib.closing(writer):
            request = await receive(reader)
            if request is None:
                return
            self.requests.append(request)
            method, target, version = request.line.split(" ")
            if self._status:
                writer.write(http(self._status))
                await writer.drain()
                return
            place, _, path = target.removeprefix("http://").partition("/")
            port = int(place.rpartition(":")[2])
            there_reader, there = await asyncio.open_connection("127.0.0.1", port)
            if method == "CONNECT":
                writer.write(b"HTTP/1.1 200 Established\r\n\r\n")
            else:
                lines = [f"{method} /{path} {version}"]
                lines += [f"{name}: {value}" for name, value in request.headers.items()]
                there.write("\r\n".join([*lines, "", ""]).encode() + request.body)
            await asyncio.gather(copy(reader, there), copy(there_reader, writer))


async def copy(reader, writer):
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
    writer.close()


@contextlib.asynccontextmanager
async def serving(handler, tls: ssl.SSLContext | None = None):
    """A server on 127.0.0.1 for these connections; gives its port."""
    server = await asyncio.start_server(handler, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


@contextlib.asynccontextmanager
async def upstream_of(handler, credential=CREDENTIAL, environ=None, path="", tls=None):
    """An Upstream and the server behind it."""
    scheme = "http" if tls is None else "https"
    async with serving(handler, tls) as port:
        url = f"{scheme}://127.0.0.1:{port}{path}"
        async with Upstream(url, credential, environ or {}) as client:
            yield client


def http(status: int, body: bytes = b"", **headers: str) -> bytes:
    head = [f"HTTP/1.1 {status} Any", f"content-length: {len(body)}"]
    head += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*head, "", ""]).encode() + body


def sends(*parts: bytes):
    """A stand-in that sends these bytes after a request and closes the connection."""

    async def answer(reader, writer):
        for part in parts:
            writer.write(part)
        await writer.drain()

    return Endpoint(answer)


async def ask(client, method="POST", path="/v1/messages", headers=(), body=b"{}"):
    """Status, headers and body of one exchange."""
    async with client.open(method, path, dict(headers), body) as answer:
        return answer.status, answer.headers, b"".join([c async for c in answer.chunks()])


def ask_once(handler, *, credential=CREDENTIAL, environ=None, tls=None, path="", **more):
    async def asking():
        async with upstream_of(handler, credential, environ, path, tls) as client:
            return await ask(client, **more)

    return run(asking())


def refusal(kind: str, coroutine) -> str:
    """The sentence of an UpstreamUnreachable; neither it nor its traceback holds a secret."""
    with pytest.raises(UpstreamUnreachable) as caught:
        run(coroutine)
    assert caught.value.kind == kind
    assert kind in KINDS
    return sentence_of(caught.value)


def sentence_of(error: Exception) -> str:
    sentence = str(error)
    assert "\n" not in sentence
    for text in (sentence, repr(error), *traceback.format_exception(error)):
        assert "canary" not in text
    return sentence


async def failing(handler, **more):
    async with upstream_of(handler, **more) as client:
        await ask(client)


@contextlib.contextmanager
def closed_port():
    """A port on which nobody listens, and which nobody else can take."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@dataclass
class Authority:
    """A certificate authority of the tests' own: its certificate, a directory of it, and servers'
    contexts for 127.0.0.1 and for another name."""

    certificate: str
    folder: str
    server: ssl.SSLContext
    misnamed: ssl.SSLContext


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("ca")

    def openssl(*arguments):
        done = subprocess.run(
            ["openssl", *arguments],
            cwd=folder,
            check=True,
            capture_output=True,
            text=True,
            encoding="utf-8",
        )
        return done.stdout

    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    ca = ("-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=a test's authority")
    openssl("req", "-x509", *new_key, *ca)
    contexts = []
    for name in ("IP:127.0.0.1", "DNS:elsewhere.example"):
        (folder / "names").write_text(f"subjectAltName={name}\n", encoding="utf-8")
        openssl("req", *new_key, "-keyout", "key", "-out", "asked", "-subj", "/CN=server")
        by_ca = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial")
        openssl("x509", "-req", "-in", "asked", *by_ca, "-extfile", "names", "-out", "cert.pem")
        contexts.append(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        contexts[-1].load_cert_chain(folder / "cert.pem", folder / "key")
    hashed = folder / "hashed"
    hashed.mkdir()
    digest = openssl("x509", "-in", "ca.pem", "-noout", "-hash").strip()
    shutil.copy(folder / "ca.pem", hashed / f"{digest}.0")
    return Authority(str(folder / "ca.pem"), str(hashed), *contexts)


# An answer


def test_the_first_chunk_is_there_before_the_second_is_sent():
    async def exchange():
        first_seen = asyncio.Event()

        async def answer(reader, writer):
            writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n")
            writer.write(b"5\r\nfirst\r\n")
            # A client that waits for the end waits for ever.
            await first_seen.wait()
            writer.write(b"6\r\nsecond\r\n0\r\n\r\n")
            await writer.drain()

        chunks = []
        async with (
            upstream_of(Endpoint(answer)) as client,
            client.open("POST", "/v1/messages", {}, b"{}") as got,
        ):
            assert got.status == 200
            async for chunk in got.chunks():
                chunks.append(chunk)
                first_seen.set()
        return chunks

    assert run(exchange()) == [b"first", b"second"]


def test_the_status_is_there_before_the_body():
    async def exchange():
        status_seen = asyncio.Event()

        async def answer(reader, writer):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\n")
            await status_seen.wait()
            writer.write(b"body")
            await writer.drain()

        async with (
            upstream_of(Endpoint(answer)) as client,
            client.open("POST", "/", {}, b"") as got,
        ):
            status_seen.set()
            return [chunk async for chunk in got.chunks()]

    assert run(exchange()) == [b"body"]


@pytest.mark.parametrize("status", [200, 302, 400, 401, 407, 429, 500, 529])
def test_a_status_comes_as_it_is(status):
    endpoint = Endpoint(http(status, b'{"a": 1}', retry_after="7", location="/there"))
    got, headers, body = ask_once(endpoint)
    assert (got, body) == (status, b'{"a": 1}')
    assert headers == {"retry-after": "7", "location": "/there"}
    assert len(endpoint.requests) == 1


def test_headers_that_are_for_us_only_are_not_handed_back():
    endpoint = Endpoint(
        http(
            200,
            **{
                "Content-Type": "text/event-stream",
                "request-id": "req_1",
                "x-note": "caf\xe9",
                "connection": "close, X-Hop",
                "x-hop": "1",
                "keep-alive": "timeout=5",
                "proxy-authenticate": "Basic",
                "upgrade": "h2c",
                "trailer": "x",
                "te": "x",
                "set-cookie": "a=b",
                "anthropic-organization-id": "org",
                "x-echo": f"key={KEY};",
                "x-coded": KEY.encode().hex(),
                f"x-{KEY.upper()}": "1",
            },
        )
    )
    endpoint._answer = endpoint._answer.decode().encode("latin-1")
    endpoint._answer = endpoint._answer.replace(b"request-id: req_1", b"A: 1\r\na: 2")
    assert ask_once(endpoint)[1] == {
        "content-type": "text/event-stream",
        "a": "1, 2",
        "x-note": "caf\xe9",
    }


def test_an_answer_that_is_compressed_all_the_same_is_decoded():
    endpoint = Endpoint(http(200, gzip.compress(b"hello"), content_encoding="gzip"))
    status, headers, body = ask_once(endpoint)
    assert (status, headers, body) == (200, {}, b"hello")
    assert endpoint.requests[0].headers["accept-encoding"] == "identity"


def test_a_coding_that_nobody_here_knows_is_refused():
    endpoint = Endpoint(http(200, b"??", content_encoding="br"))
    assert "compressed its answer" in refusal("protocol", failing(endpoint))


@pytest.mark.parametrize(
    ("answer", "before", "said"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\npart", b"part", "broke off"),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n",
            b"part",
            "broke off",
        ),
        (
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n%s\r\n"
            % KEY.encode(),
            b"part",
            "broke off",
        ),
        (http(200, b"not gzip", content_encoding="gzip"), b"", "not valid gzip"),
    ],
)
def test_an_answer_that_breaks_off(answer, before, said):
    async def exchange():
        got = b""
        async with (
            upstream_of(sends(answer)) as client,
            client.open("POST", "/", {}, b"") as opened,
        ):
            with pytest.raises(UpstreamBroken) as caught:
                async for chunk in opened.chunks():
                    got += chunk
        return got, sentence_of(caught.value)

    got, sentence = run(exchange())
    assert got == before
    assert said in sentence


# A request


def test_a_request_arrives_as_it_was_but_for_the_credential():
    endpoint = Endpoint(http(200))
    sent = {
        "user-agent": "claude-cli/2.1.330",
        "x-claude-code-session-id": "s-1",
        "anthropic-beta": "one",
        "content-type": "application/json",
        "x-note": "caf\xe9",
        # What must not go on.
        "host": "localhost",
        "x-api-key": "token-of-the-run",
        "Authorization": "Bearer token-of-the-run",
        "cookie": "token-of-the-run",
        "proxy-authorization": "token-of-the-run",
        "connection": "close, X-Hop",
        "x-hop": "token-of-the-run",
        "te": "trailers",
        "trailer": "x",
        "upgrade": "h2c",
        "keep-alive": "timeout=5",
        "transfer-encoding": "chunked",
        "content-encoding": "gzip",
        "content-length": "99",
        "accept-encoding": "gzip, br",
        "expect": "100-continue",
    }
    ask_once(endpoint, headers=sent, body=b'{"x": "\xc3\xa9"}', path="/anthropic/")
    (request,) = endpoint.requests
    assert request.line == "POST /anthropic/v1/messages HTTP/1.1"
    assert request.headers.pop("host").startswith("127.0.0.1:")
    assert request.headers == {
        "user-agent": "claude-cli/2.1.330",
        "x-claude-code-session-id": "s-1",
        "anthropic-beta": "one",
        "content-type": "application/json",
        "x-note": "caf\xe9",
        "content-length": "11",
        "accept-encoding": "identity",
        "x-api-key": KEY,
    }
    assert request.body == b'{"x": "\xc3\xa9"}'


@pytest.mark.parametrize(
    ("credential", "added"),
    [
        (None, {}),
        (CREDENTIAL, {"x-api-key": KEY}),
        (Credential("bearer", KEY), {"authorization": f"Bearer {KEY}"}),
        (
            Credential("bearer", "sk-ant-oat01-x"),
            {
                "authorization": "Bearer sk-ant-oat01-x",
                "anthropic-beta": "one,oauth-2025-04-20",
            },
        ),
    ],
)
def test_the_clients_own_secrets_never_go_on(credential, added):
    endpoint = Endpoint(http(200))
    sent = {"x-api-key": "run", "authorization": "Bearer run", "anthropic-beta": "one"}
    ask_once(endpoint, credential=credential, headers=sent, method="GET", body=b"")
    (request,) = endpoint.requests
    del request.headers["host"]
    assert request.headers == {"anthropic-beta": "one", "accept-encoding": "identity", **added}
    client = Upstream("https://127.0.0.1", credential, {})
    once = client.request_headers(sent)
    assert client.request_headers(once) == once == request.headers


@pytest.mark.parametrize("base", ["", "/", "/anthropic", "/anthropic/", "/a/b"])
def test_the_path_of_base_url_goes_before_the_requests(base):
    endpoint = Endpoint(http(200))
    ask_once(endpoint, path=base, **{"method": "GET"})
    expected = f"{base.rstrip('/')}/v1/messages"
    assert endpoint.requests[0].line == f"GET {expected} HTTP/1.1"


def test_a_query_goes_on():
    async def exchange(endpoint):
        async with upstream_of(endpoint) as client:
            await ask(client, path="/v1/messages?beta=true&x=a%20b%2F")

    endpoint = Endpoint(http(200))
    run(exchange(endpoint))
    assert endpoint.requests[0].line == "POST /v1/messages?beta=true&x=a%20b%2F HTTP/1.1"


def test_connections_are_kept_and_a_closed_one_is_replaced():
    async def exchange(endpoint):
        async with upstream_of(endpoint) as client:
            return [(await ask(client))[0] for _ in range(3)]

    kept, closed = Endpoint(http(200)), sends(http(201))
    assert run(exchange(kept)) == [200] * 3
    assert kept.connections == 1
    assert run(exchange(closed)) == [201] * 3
    assert closed.connections == 3


def test_cookies_of_the_endpoint_are_not_sent_back():
    async def exchange(endpoint):
        async with upstream_of(endpoint) as client:
            await ask(client)
            await ask(client)

    endpoint = Endpoint(http(200, set_cookie="a=b; Path=/"))
    run(exchange(endpoint))
    assert "cookie" not in endpoint.requests[1].headers


def test_passwords_from_netrc_are_not_sent(tmp_path, monkeypatch):
    (tmp_path / "netrc").write_text(
        "machine 127.0.0.1 login me password canary\n", encoding="utf-8"
    )
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    endpoint = Endpoint(http(200))
    ask_once(endpoint, credential=None)
    assert "authorization" not in endpoint.requests[0].headers


@pytest.mark.parametrize(
    ("path", "headers", "said"),
    [
        ("/\x00", {}, "a path that HTTP does not allow"),
        ("/", {"x-note": "canary\n"}, "a header that HTTP does not allow"),
        ("/", {"a b": "canary"}, "a header that HTTP does not allow"),
    ],
)
def test_what_cannot_be_a_request_is_refused(path, headers, said):
    async def exchange():
        async with upstream_of(Endpoint(http(200))) as client:
            await ask(client, path=path, headers=headers)

    assert said in refusal("protocol", exchange())


def test_a_path_begins_with_a_slash():
    with pytest.raises(ValueError, match="must begin with /"):
        run(ask(Upstream("https://127.0.0.1", CREDENTIAL, {}), path=".example.org/"))


def test_an_answer_is_waited_for_as_long_as_the_cli_does():
    timeouts = Upstream("https://127.0.0.1", CREDENTIAL, {})._timeouts
    assert timeouts == {"connect": 30, "read": None, "write": None, "pool": None}


@pytest.mark.parametrize("begun", [False, True])
@pytest.mark.parametrize("encrypted", [False, True])
def test_who_is_cancelled_closes_the_connection(begun, encrypted, request):
    more = {}
    if encrypted:
        authority = request.getfixturevalue("authority")
        more = {
            "tls": authority.server,
            "environ": {"NODE_EXTRA_CA_CERTS": authority.certificate},
        }

    async def exchange():
        arrived, gone, chunk_seen = asyncio.Event(), asyncio.Event(), asyncio.Event()

        async def answer(reader, writer):
            arrived.set()
            if begun:
                writer.write(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n")
            with contextlib.suppress(OSError):
                assert await reader.read() == b""
            gone.set()

        async def consume():
            async with client.open("POST", "/", {}, b"{}") as got:
                async for _ in got.chunks():
                    chunk_seen.set()

        async with upstream_of(Endpoint(answer), **more) as client:
            consumer = asyncio.create_task(consume())
            await (chunk_seen if begun else arrived).wait()
            assert not gone.is_set()
            consumer.cancel()
            with pytest.raises(asyncio.CancelledError):
                await consumer
            # The client itself lives on.
            await asyncio.wait_for(gone.wait(), 2)

    run(exchange())


def test_who_leaves_early_closes_the_connection():
    async def exchange():
        gone = asyncio.Event()

        async def answer(reader, writer):
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx")
            assert await reader.read() == b""
            gone.set()

        async with upstream_of(Endpoint(answer)) as client:
            async with client.open("POST", "/", {}, b"{}") as got:
                assert got.status == 200
            await asyncio.wait_for(gone.wait(), 2)

    run(exchange())


# No answer


def test_a_refused_connection():
    async def exchange(port):
        async with Upstream(f"http://127.0.0.1:{port}", CREDENTIAL, {}) as client:
            await ask(client)

    with closed_port() as port:
        sentence = refusal("connect", exchange(port))
    assert f"http://127.0.0.1:{port} cannot be reached (Connection refused)" in sentence
    assert "check base_url" in sentence


def test_none_of_several_addresses_answers(monkeypatch):
    async def addresses(loop, host, port, **more):
        kind = (socket.AF_INET, socket.SOCK_STREAM, 6, "")
        return [(*kind, (f"127.0.0.{n}", port)) for n in (1, 2)]

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", addresses)

    async def exchange(port):
        async with Upstream(f"https://model.example:{port}", CREDENTIAL, {}) as client:
            await ask(client)

    with closed_port() as port:
        sentence = refusal("connect", exchange(port))
    assert f"https://model.example:{port} cannot be reached (Connection refused)" in sentence


def test_a_name_that_is_not_known(monkeypatch):
    async def unknown(*arguments, **more):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", unknown)

    async def exchange():
        async with Upstream("https://model.example:8443", CREDENTIAL, {}) as client:
            await ask(client)

    sentence = refusal("connect", exchange())
    assert "the name of https://model.example:8443 cannot be resolved (Name or service" in sentence


def test_a_connection_that_is_reset_without_an_answer():
    async def reset(reader, writer):
        # SO_LINGER with a time of 0: close(2) sends a reset.
        linger = (1).to_bytes(4, "little") + bytes(4)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()

    sentence = refusal("connect", failing(Endpoint(reset)))
    assert "broke the connection off before an answer came" in sentence


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
        b"220 mail.example ESMTP\r\n\r\n",
        b"\x15\x03\x03\x00\x02\x02\x46",
        # What a library says of these quotes them.
        KEY.encode() + b" 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: %s\r\n\r\n" % KEY.encode(),
    ],
)
def test_a_server_that_does_not_speak_http(said):
    assert "does not speak HTTP" in refusal("protocol", failing(sends(said)))


def test_a_connection_that_takes_too_long(monkeypatch):
    """A TLS server that never says anything: accepting is the kernel's work."""
    monkeypatch.setattr(upstream, "CONNECT_TIMEOUT_S", 0.1)

    async def exchange():
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen()
            url = f"https://127.0.0.1:{listening.getsockname()[1]}"
            async with Upstream(url, CREDENTIAL, {}) as client:
                await ask(client)

    assert "cannot be reached within 0.1 s" in refusal("timeout", exchange())


# Certificates


def test_an_unknown_authority_is_not_trusted(authority):
    sentence = refusal("tls", failing(Endpoint(http(200)), tls=authority.server))
    assert "is not trusted (unable to get local issuer certificate)" in sentence
    assert "NODE_EXTRA_CA_CERTS" in sentence


@pytest.mark.parametrize(
    ("variable", "place"),
    [
        ("NODE_EXTRA_CA_CERTS", "certificate"),
        ("REQUESTS_CA_BUNDLE", "certificate"),
        ("REQUESTS_CA_BUNDLE", "folder"),
        ("SSL_CERT_FILE", "certificate"),
        ("SSL_CERT_DIR", "folder"),
    ],
)
def test_an_authority_that_the_host_names_is_trusted(authority, variable, place):
    environ = {variable: getattr(authority, place)}
    assert ask_once(Endpoint(http(200)), tls=authority.server, environ=environ)[0] == 200


def test_one_of_the_folders_in_a_list_may_be_missing(authority):
    environ = {"SSL_CERT_DIR": f"/nonexistent:{authority.folder}"}
    assert ask_once(Endpoint(http(200)), tls=authority.server, environ=environ)[0] == 200


@pytest.mark.slow
def test_only_what_is_asked_for_is_taken_away(authority, monkeypatch):
    """SSL_CERT_FILE and SSL_CERT_DIR each replace one half of the system's store; additions
    replace nothing."""
    paths = ssl.get_default_verify_paths()._replace(
        openssl_cafile=authority.certificate, openssl_capath="/nonexistent"
    )
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)
    other = authority.folder + "/../other.pem"
    openssl = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=other"]
    subprocess.run(
        [*openssl, "-keyout", "/dev/null", "-out", other], check=True, capture_output=True
    )

    def ask_with(**environ):
        return ask_once(Endpoint(http(200)), tls=authority.server, environ=environ)[0]

    assert ask_with() == 200
    assert ask_with(NODE_EXTRA_CA_CERTS=other) == 200
    assert ask_with(SSL_CERT_DIR=authority.folder + "/..") == 200
    with pytest.raises(UpstreamUnreachable, match="not trusted"):
        ask_with(SSL_CERT_FILE=other)


def test_a_certificate_of_another_name_is_not_trusted(authority):
    environ = {"NODE_EXTRA_CA_CERTS": authority.certificate}
    handler = Endpoint(http(200))
    sentence = refusal("tls", failing(handler, tls=authority.misnamed, environ=environ))
    assert "not valid for '127.0.0.1'" in sentence
    assert handler.requests == []


def test_https_to_a_server_that_speaks_no_tls():
    async def plain(reader, writer):
        writer.write(http(400))
        writer.close()

    async def exchange():
        async with (
            serving(plain) as port,
            Upstream(f"https://127.0.0.1:{port}", CREDENTIAL, {}) as client,
        ):
            await ask(client)

    assert "failed to agree on TLS" in refusal("tls", exchange())


@pytest.mark.parametrize(
    "variable", ["SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE"]
)
def test_a_wrong_certificate_file_is_named(tmp_path, variable):
    (tmp_path / "empty.pem").write_text("nothing\n", encoding="utf-8")
    for name, said in (
        ("missing.pem", "cannot be read (No such file or directory)"),
        ("empty.pem", "holds no certificate that can be read"),
    ):
        with pytest.raises(ConfigError) as caught:
            Upstream(ANTHROPIC, CREDENTIAL, {variable: str(tmp_path / name)})
        assert f"{variable}: {tmp_path / name} {said}" in sentence_of(caught.value)


def test_empty_variables_are_as_good_as_none():
    names = ("HTTPS_PROXY", "ALL_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS")
    made = Upstream(ANTHROPIC, CREDENTIAL, dict.fromkeys(names, ""))
    assert made._proxy is None
    assert made.base_url == ANTHROPIC


# Proxies


async def through(proxy, handler, variables, tls=None, userinfo="", **environ):
    """One exchange where these variables name the proxy; what it saw as request lines."""
    async with serving(proxy) as port:
        address = f"http://{userinfo}127.0.0.1:{port}"
        environ |= dict.fromkeys(variables, address)
        async with upstream_of(handler, environ=environ, tls=tls) as client:
            assert (await ask(client))[0] == 200
            return client.base_url.rpartition("/")[2], [seen.line for seen in proxy.requests]


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_a_proxy_for_http(variable):
    """Also for a server on 127.0.0.1: which hosts go without is for NO_PROXY to say."""
    endpoint = Endpoint(http(200))
    place, seen = run(through(Proxy(), endpoint, [variable]))
    assert seen == [f"POST http://{place}/v1/messages HTTP/1.1"]
    assert endpoint.requests[0].body == b"{}"


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"])
def test_a_proxy_for_https_sees_no_request(authority, variable):
    proxy = Proxy()
    ca = {"NODE_EXTRA_CA_CERTS": authority.certificate}
    place, seen = run(through(proxy, Endpoint(http(200)), [variable], authority.server, **ca))
    assert seen == [f"CONNECT {place} HTTP/1.1"]
    assert KEY not in repr(proxy.requests)


def test_the_nearest_variable_names_the_proxy():
    with closed_port() as port:
        others = {"ALL_PROXY": f"http://127.0.0.1:{port}", "HTTPS_PROXY": "http://127.0.0.1:1"}
        _, seen = run(through(Proxy(), Endpoint(http(200)), ["HTTP_PROXY"], **others))
        assert len(seen) == 1
        others = {"HTTP_PROXY": f"http://127.0.0.1:{port}"}
        _, seen = run(through(Proxy(), Endpoint(http(200)), ["http_proxy"], **others))
        assert len(seen) == 1


def test_the_process_environment_is_not_looked_at_beside_the_one_given(monkeypatch):
    with closed_port() as port:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("all_proxy", f"http://127.0.0.1:{port}")
        assert ask_once(Endpoint(http(200)))[0] == 200


def test_a_proxy_that_is_spoken_to_in_tls(authority):
    async def exchange(proxy):
        async with serving(proxy, authority.server) as port:
            environ = {
                "HTTP_PROXY": f"https://127.0.0.1:{port}",
                "NODE_EXTRA_CA_CERTS": authority.certificate,
            }
            async with upstream_of(Endpoint(http(200)), environ=environ) as client:
                return (await ask(client))[0]

    proxy = Proxy()
    assert run(exchange(proxy)) == 200
    assert len(proxy.requests) == 1


def test_a_proxy_gets_its_password_and_nobody_else():
    proxy, endpoint = Proxy(), Endpoint(http(200))
    run(through(proxy, endpoint, ["HTTP_PROXY"], userinfo=f"me:{PASSWORD}%2F@"))
    given = proxy.requests[0].headers["proxy-authorization"]
    assert base64.b64decode(given.removeprefix("Basic ")).decode() == f"me:{PASSWORD}/"


@pytest.mark.parametrize("spelling", ["NO_PROXY", "no_proxy"])
def test_no_proxy(spelling):
    _, seen = run(
        through(Proxy(), Endpoint(http(200)), ["HTTP_PROXY"], **{spelling: "a.example,127.0.0.1"})
    )
    assert seen == []


@pytest.mark.parametrize(
    ("url", "entries", "exempt"),
    [
        ("http://127.0.0.1:8000", "*", True),
        ("http://127.0.0.1:8000", "a.example, 127.0.0.1", True),
        ("http://127.0.0.1:8000", "a.example 127.0.0.1:8000", True),
        ("http://127.0.0.1:8000", "127.0.0.1:8001", False),
        ("http://127.0.0.1:8000", "127.0.0.0/8", True),
        ("http://127.0.0.1:8000", "10.0.0.0/8,localhost,.0.0.2", False),
        ("http://[::1]:8000", "::1", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://[::1]:8000", "[::1]:1,::2,127.0.0.1", False),
        ("http://localhost", "localhost:80", True),
        ("https://api.anthropic.com", "anthropic.com", True),
        ("https://api.anthropic.com", ".anthropic.com", True),
        ("https://api.anthropic.com", "*.Anthropic.com:443", True),
        ("https://api.anthropic.com", "thropic.com,com.example,api.anthropic.com:80", False),
        ("https://api.anthropic.com", "", False),
        ("https://api.anthropic.com", ", .,:443", False),
    ],
)
def test_entries_of_no_proxy(url, entries, exempt):
    """By a proxy that would be refused if it were looked at."""
    environ = {"ALL_PROXY": "ftp://proxy.example", "NO_PROXY": entries}
    context = contextlib.nullcontext() if exempt else pytest.raises(ConfigError)
    with context:
        Upstream(url, CREDENTIAL, environ)


@pytest.mark.parametrize(
    "address",
    [
        f"ftp://me:{PASSWORD}@proxy.example",
        f"socks5://me:{PASSWORD}@proxy.example:1080",
        f"http://me:{PASSWORD}@proxy.example:99999",
        f"http://me:{PASSWORD}@",
        f"http://me:{PASSWORD}@proxy example",
        f"http://me:{PASSWORD} @proxy.example",
        # Passwords that are not encoded: what comes before the sign is not the host.
        f"http://me:1#{PASSWORD}@proxy.example",
        f"http://me:1/{PASSWORD}@proxy.example",
        f"http://{PASSWORD}?me@proxy.example",
        "http://",
        "://",
    ],
)
@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "all_proxy"])
def test_a_wrong_proxy_is_named_and_not_shown(variable, address):
    with pytest.raises(ConfigError) as caught:
        Upstream(ANTHROPIC, CREDENTIAL, {variable: address})
    sentence = sentence_of(caught.value)
    assert sentence.startswith(f"{variable}: not the URL of an HTTP proxy; write http://host:port")


@pytest.mark.parametrize(
    ("address", "place"),
    [
        ("proxy.example:3128", "proxy.example:3128"),
        ("https://me:p%40@Proxy.example", "Proxy.example"),
        ("h", "h"),
    ],
)
def test_other_spellings_of_a_proxy(address, place):
    made = Upstream(ANTHROPIC, CREDENTIAL, {"HTTPS_PROXY": address})
    assert made._proxy.place == place


def test_a_key_does_not_go_to_a_proxy_in_plain_text():
    environ = {"HTTP_PROXY": f"http://me:{PASSWORD}@proxy.example:3128"}
    with pytest.raises(ConfigError) as caught:
        Upstream("http://127.0.0.1:8000", CREDENTIAL, environ)
    sentence = sentence_of(caught.value)
    assert "HTTP_PROXY: the key would go to the proxy proxy.example:3128 in plain" in sentence
    assert "add 127.0.0.1 to NO_PROXY" in sentence
    Upstream("http://127.0.0.1:8000", CREDENTIAL, environ | {"NO_PROXY": "127.0.0.1"})
    Upstream("http://127.0.0.1:8000", None, environ)
    Upstream(ANTHROPIC, CREDENTIAL, {"HTTPS_PROXY": environ["HTTP_PROXY"]})


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "https://127.0.0.1:9"])
def test_a_proxy_that_is_not_there(url):
    async def exchange(port):
        environ = {"ALL_PROXY": f"http://me:{PASSWORD}@127.0.0.1:{port}"}
        async with Upstream(url, CREDENTIAL, environ) as client:
            await ask(client)

    with closed_port() as port:
        sentence = refusal("proxy", exchange(port))
    assert f"the proxy 127.0.0.1:{port} cannot be reached (Connection refused)" in sentence
    assert "check ALL_PROXY" in sentence


@pytest.mark.parametrize(
    ("url", "status"), [("http://127.0.0.1:9", 407), (ANTHROPIC, 407), (ANTHROPIC, 503)]
)
def test_a_proxy_that_refuses(url, status):
    async def exchange():
        async with serving(Proxy(status)) as port:
            environ = {"ALL_PROXY": f"http://me:{PASSWORD}@127.0.0.1:{port}"}
            async with Upstream(url, CREDENTIAL, environ) as client:
                await ask(client)

    sentence = refusal("proxy", exchange())
    assert f"refused the way to {url} (status {status}); check ALL_PROXY" in sentence


def test_an_error_behind_a_proxy_says_that_there_is_one(authority):
    """Here the key of a certificate is that of an inspecting proxy, which nobody trusts."""

    async def exchange():
        async with serving(Proxy()) as port:
            environ = {"ALL_PROXY": f"http://me:{PASSWORD}@127.0.0.1:{port}"}
            await failing(Endpoint(http(200)), tls=authority.server, environ=environ)

    sentence = refusal("tls", exchange())
    assert "(through the proxy 127.0.0.1:" in sentence
    assert "of ALL_PROXY) is not trusted" in sentence


# The probe


async def probing(handler, **more):
    async with upstream_of(handler, **more) as client:
        await client.probe()


@pytest.mark.parametrize("status", [200, 302, 401, 404, 405, 500, 529])
def test_a_probe_takes_any_status_and_sends_no_credential(status):
    endpoint = Endpoint(http(status))
    run(probing(endpoint, path="/anthropic"))
    (request,) = endpoint.requests
    assert request.line == "HEAD /anthropic/ HTTP/1.1"
    assert request.headers.keys() == {"host", "user-agent", "accept-encoding"}


def test_a_probe_is_followed_by_requests():
    async def exchange(endpoint):
        async with upstream_of(endpoint) as client:
            await client.probe()
            return (await ask(client))[2]

    assert run(exchange(Endpoint(http(200, b"body")))) == b"body"


def probe_refusal(coroutine) -> str:
    with pytest.raises(InfraError) as caught:
        run(coroutine)
    return sentence_of(caught.value)


def test_a_probe_of_nothing():
    async def exchange(port):
        async with Upstream(f"http://127.0.0.1:{port}", CREDENTIAL, {}) as client:
            await client.probe()

    with closed_port() as port:
        sentence = probe_refusal(exchange(port))
    assert f"http://127.0.0.1:{port} cannot be reached (Connection refused)" in sentence


def test_a_probe_of_another_service():
    assert "does not speak HTTP" in probe_refusal(probing(sends(b"SSH-2.0-OpenSSH_9.2\r\n")))


def test_a_probe_of_an_untrusted_server(authority):
    sentence = probe_refusal(probing(Endpoint(http(200)), tls=authority.server))
    assert "is not trusted" in sentence


def test_a_probe_through_a_proxy_that_refuses():
    async def exchange():
        async with serving(Proxy(407)) as port:
            environ = {"HTTP_PROXY": f"http://me:{PASSWORD}@127.0.0.1:{port}"}
            await probing(Endpoint(http(200)), environ=environ)

    assert "status 407" in probe_refusal(exchange())


def test_a_probe_does_not_wait_for_ever(monkeypatch):
    monkeypatch.setattr(upstream, "PROBE_TIMEOUT_S", 0.1)

    async def silent(reader, writer):
        await reader.read()

    assert "gave no answer within 0.1 s" in probe_refusal(probing(Endpoint(silent)))


# base_url


@pytest.mark.parametrize(
    "url",
    [
        ANTHROPIC,
        "https://model.example:8443/anthropic/",
        "http://127.0.0.1:8000",
        "http://127.1.2.3",
        "http://localhost:8000/a",
        "http://[::1]:8000",
        "https://[2001:db8::1]",
        "https://10.0.0.1",
        "https://a_b-c.example",
    ],
)
def test_a_good_base_url(url):
    assert check_base_url(url, sends_credential=True) is None
    Upstream(url, CREDENTIAL, {}).request_headers({})


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("", "must begin with https://"),
        ("api.anthropic.com", "must begin with https://"),
        ("localhost:8000", "must begin with https://"),
        ("ftp://canary.example", "must begin with https://"),
        ("https://", "names no host"),
        ("https://:8000", "names no host"),
        ("https:///canary", "names no host"),
        ("https://999.1.1.1", "names no host"),
        ("http://127.1", "names no host"),
        ("http://127.0.0.1\\canary.example", "names no host"),
        ("https://[::1%25canary]", "names no host"),
        ("https://[v1.canary:1]", "names no host"),
        ("https://[::1", "is not a URL"),
        ("https://host:99999", "is not a URL"),
        ("https://host:canary", "is not a URL"),
        ("https://canary@host", "user name or a password"),
        ("https://me:canary@host", "user name or a password"),
        ("https://host/?canary", "follows ? or #"),
        ("https://host/#canary", "follows ? or #"),
        ("https://host?", "follows ? or #"),
        ("https://host/ canary", "not printable ASCII"),
        ("https://host\n", "not printable ASCII"),
        ("https://h\N{LATIN SMALL LETTER O WITH DIAERESIS}st", "not printable ASCII"),
    ],
)
@pytest.mark.parametrize("sends_credential", [False, True])
def test_a_bad_base_url(url, said, sends_credential):
    problem = check_base_url(url, sends_credential)
    assert said in problem
    assert "canary" not in problem
    with pytest.raises(ConfigError, match=r"^base_url: "):
        Upstream(url, CREDENTIAL if sends_credential else None, {})


@pytest.mark.parametrize(
    "url",
    ["http://model.example", "http://10.0.0.1:8000", "http://localhost.example", "http://[::2]"],
)
def test_a_key_does_not_go_over_a_network_in_plain_text(url):
    assert "would show the key to the network" in check_base_url(url, sends_credential=True)
    assert check_base_url(url, sends_credential=False) is None


# Out of sight


def test_no_representation_shows_a_secret():
    async def exchange():
        async with (
            upstream_of(Endpoint(http(200, b"x"))) as client,
            client.open("POST", "/", {}, b"{}") as answer,
        ):
            return [client, answer]

    environ = {"HTTPS_PROXY": f"http://me:{PASSWORD}@127.0.0.1:1"}
    for thing in [*run(exchange()), Upstream(ANTHROPIC, CREDENTIAL, environ)]:
        for text in (repr(thing), str(thing), repr(vars(thing))):
            assert "canary" not in text
