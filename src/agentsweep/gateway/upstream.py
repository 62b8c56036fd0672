"""The client to the real model endpoint: passes one request on and hands the answer out as it
comes. It knows HTTP, the host's proxies and certificates, and nothing of the Messages API.

Proxies follow the usual variables, and which hosts go without one is for NO_PROXY alone to say:
a server on 127.0.0.1 is reached through HTTP_PROXY too unless NO_PROXY names it.
"""

import asyncio
import contextlib
import ipaddress
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import SplitResult, urlsplit

import httpx2

from agentsweep.errors import ConfigError, InfraError
from agentsweep.gateway.credentials import ANTHROPIC as ANTHROPIC
from agentsweep.gateway.credentials import Credential

KINDS = ("connect", "tls", "timeout", "protocol", "proxy")
CONNECT_TIMEOUT_S = 30
PROBE_TIMEOUT_S = 10

# RFC 9110, section 7.6.1; with these goes all that begins with `proxy-`, and what `connection`
# names.
_HOP_BY_HOP = {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"}
_NOT_SENT_ON = {
    "host",
    "content-length",
    "content-encoding",
    "expect",
    "authorization",
    "x-api-key",
    "cookie",
}
_NOT_HANDED_BACK = {
    "content-length",
    "content-encoding",
    "set-cookie",
    "anthropic-organization-id",
}
# What httpx2 decodes without further packages; it hands others on as they are.
_CODINGS = {"", "identity", "gzip", "deflate"}
_EXTRA_CERTIFICATES = ("NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE")


class UpstreamUnreachable(Exception):
    """No answer came. `kind` is one of KINDS; the message is one sentence without a secret."""

    def __init__(self, kind: str, sentence: str):
        super().__init__(sentence)
        self.kind = kind


class UpstreamBroken(Exception):
    """An answer began and did not come to its end; the message is one sentence."""


class Answer:
    """An answer as it comes: `status`, and `headers` that can be handed to the client (lower-case
    names, without what belongs to this connection, this account or the secret)."""

    def __init__(self, response: httpx2.Response, secrets: tuple[bytes, ...], where: str):
        self.status = response.status_code
        self.headers = _answer_headers(response, secrets)
        self._response = response
        self._where = where

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body, decoded, in the pieces in which it arrives; raises UpstreamBroken."""
        try:
            async for chunk in self._response.aiter_bytes():
                yield chunk
        except httpx2.DecodingError:
            coding = self._response.headers["content-encoding"]
            raise UpstreamBroken(f"{self._where} sent a body that is not valid {coding}") from None
        except (httpx2.HTTPError, OSError):
            raise UpstreamBroken(f"{self._where} broke off in the middle of an answer") from None


class Upstream:
    """One endpoint and the connections to it, between `async with` and its end.

    environ: where proxies and certificates are looked up. Raises ConfigError when one of them is
    wrong, or base_url is.
    """

    def __init__(
        self,
        base_url: str,
        credential: Credential | None,
        environ: Mapping[str, str] = os.environ,
    ):
        problem = check_base_url(base_url, sends_credential=credential is not None)
        if problem:
            raise ConfigError(f"base_url: {problem}")
        self.base_url = base_url.rstrip("/")
        self._credential = credential
        url = urlsplit(self.base_url)
        self._host = url.hostname
        self._origin = f"{url.scheme}://{url.netloc}"
        self._proxy = _find_proxy(url, environ)
        self._where = self._origin
        if self._proxy:
            self._where += f" (through the proxy {self._proxy.place} of {self._proxy.variable})"
            if credential and url.scheme == "http" and not self._proxy.is_loopback:
                raise ConfigError(
                    f"{self._proxy.variable}: the key would go to the proxy {self._proxy.place} in "
                    f"plain text on its way to {self._origin}; add {self._host} to NO_PROXY"
                )
        context = _tls_context(environ)
        # The CLI has its own time-outs for answers, and tries again by itself.
        self._timeouts = httpx2.Timeout(None, connect=CONNECT_TIMEOUT_S).as_dict()
        # Without a client around it, which would follow redirects, keep cookies, read ~/.netrc, and
        # take its time for all that.
        self._transport = httpx2.AsyncHTTPTransport(
            verify=context,
            proxy=self._proxy.for_httpx(context) if self._proxy else None,
            trust_env=False,
            limits=httpx2.Limits(max_connections=None),
        )

    async def __aenter__(self) -> "Upstream":
        await self._transport.__aenter__()
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self._transport.aclose()

    async def probe(self) -> None:
        """Find out whether something at base_url speaks HTTP, before anything is spent.

        Sends no credential; whatever status comes is fine. Raises InfraError with one sentence.
        """
        headers = {"user-agent": "agentsweep", "accept-encoding": "identity"}
        try:
            async with asyncio.timeout(PROBE_TIMEOUT_S):
                response = await self._send("HEAD", "/", headers, b"")
                await response.aclose()
        except TimeoutError:
            raise InfraError(
                f"{self._where} gave no answer within {PROBE_TIMEOUT_S} s; check base_url and the "
                "network"
            ) from None
        except UpstreamUnreachable as error:
            raise InfraError(str(error)) from None

    def request_headers(self, client_headers: Mapping[str, str]) -> dict[str, str]:
        """What is passed on of a client's headers, with the credential in the place of its own.

        Doing it twice changes nothing, so that `open` can do it in any case.
        """
        sent = {n: v for n, v in _end_to_end(client_headers).items() if n not in _NOT_SENT_ON}
        sent["accept-encoding"] = "identity"
        if self._credential:
            sent |= self._credential.headers(sent)
        return sent

    @contextlib.asynccontextmanager
    async def open(
        self, method: str, path_and_query: str, headers: Mapping[str, str], body: bytes = b""
    ) -> AsyncIterator[Answer]:
        """Send a client's request on; its answer, once the status is there.

        Raises UpstreamUnreachable when none comes. Leaving before the answer's end, also by being
        cancelled, closes the connection.
        """
        response = await self._send(method, path_and_query, self.request_headers(headers), body)
        try:
            coding = response.headers.get("content-encoding", "").lower()
            if coding not in _CODINGS:
                raise UpstreamUnreachable(
                    "protocol", f"{self._where} compressed its answer, though it was told not to"
                )
            secrets = self._credential.secrets if self._credential else ()
            yield Answer(response, secrets, self._where)
        finally:
            await response.aclose()

    async def _send(
        self, method: str, path_and_query: str, headers: dict[str, str], body: bytes
    ) -> httpx2.Response:
        if not path_and_query.startswith("/"):
            raise ValueError("a request's path must begin with /")
        encoded = [(n.encode("latin-1"), v.encode("latin-1")) for n, v in headers.items()]
        try:
            request = httpx2.Request(
                method,
                self.base_url + path_and_query,
                headers=encoded,
                content=body,
                extensions={"timeout": self._timeouts},
            )
            if not request.url.raw_path.endswith(path_and_query.encode("latin-1")):
                # Dot segments were taken out: it would be another path than the one that was asked.
                raise httpx2.InvalidURL(path_and_query)
            response = await self._transport.handle_async_request(request)
        except httpx2.InvalidURL:
            raise UpstreamUnreachable(
                "protocol", f"a request to {self._where} has a path that HTTP does not allow"
            ) from None
        except (httpx2.HTTPError, OSError) as error:
            raise self._unreachable(error) from None
        if response.status_code == 407 and self._proxy:
            await response.aclose()
            raise self._refused_by_proxy(self._proxy, "407")
        return response

    # What went wrong, in words. No text of an exception gets into them: it could quote a header.

    def _unreachable(self, error: Exception) -> UpstreamUnreachable:
        if isinstance(error, httpx2.ProxyError) and self._proxy:
            # httpx2 gives the status of the proxy's answer as the beginning of a text.
            return self._refused_by_proxy(self._proxy, str(error)[:3])
        if isinstance(error, httpx2.TimeoutException):
            return UpstreamUnreachable(
                "timeout",
                f"{self._where} cannot be reached within {CONNECT_TIMEOUT_S} s; check base_url, "
                "the network, and whether a proxy is needed (HTTPS_PROXY)",
            )
        if isinstance(error, httpx2.LocalProtocolError):
            return UpstreamUnreachable(
                "protocol", f"a request to {self._where} has a header that HTTP does not allow"
            )
        cause = next((e for e in _causes(error) if isinstance(e, OSError) and e.errno), None)
        if isinstance(cause, ssl.SSLError):
            return self._tls_failed(cause)
        if isinstance(error, httpx2.ConnectError):
            return self._not_connected(cause)
        if isinstance(error, httpx2.RemoteProtocolError):
            # One type for both, since many a server that speaks something else just hangs up.
            return UpstreamUnreachable(
                "protocol",
                f"{self._where} closed the connection without an HTTP answer, or does not speak "
                "HTTP; check base_url",
            )
        return UpstreamUnreachable(
            "connect", f"{self._where} broke the connection off before an answer came"
        )

    def _tls_failed(self, error: ssl.SSLError) -> UpstreamUnreachable:
        if isinstance(error, ssl.SSLCertVerificationError):
            said = (
                f"the certificate of {self._where} is not trusted ({error.verify_message}); where "
                "a private authority signs, name its certificate's file in NODE_EXTRA_CA_CERTS"
            )
        else:
            said = f"{self._where} failed to agree on TLS ({error.reason}); check base_url"
        return UpstreamUnreachable("tls", said)

    def _not_connected(self, cause: OSError | None) -> UpstreamUnreachable:
        if self._proxy:
            kind, place, mend = "proxy", f"the proxy {self._proxy.place}", self._proxy.variable
        else:
            kind, place, mend = "connect", self._where, "base_url"
        if isinstance(cause, socket.gaierror):
            said = f"the name of {place} cannot be resolved ({cause.strerror})"
        elif cause is not None and cause.errno is not None:
            said = f"{place} cannot be reached ({os.strerror(cause.errno)})"
        else:
            said = f"{place} cannot be reached"
        return UpstreamUnreachable(kind, f"{said}; check {mend} and the network")

    def _refused_by_proxy(self, proxy: "_Proxy", status: str) -> UpstreamUnreachable:
        return UpstreamUnreachable(
            "proxy",
            f"the proxy {proxy.place} refused the way to {self._origin} (status {status}); check "
            f"{proxy.variable}, or name {self._host} in NO_PROXY",
        )


def check_base_url(text: str, sends_credential: bool) -> str | None:
    """What is wrong with a base_url, or None. The sentence never quotes it: whoever wrote a
    password into it should not find that in a log as well."""
    try:
        url = urlsplit(text)
        host, _ = url.hostname or "", url.port
    except ValueError:
        return "is not a URL; write it like https://host:port/path"
    if not re.fullmatch("[!-~]*", text):
        return "has a space or a character that is not printable ASCII; remove it"
    if url.scheme not in ("http", "https"):
        return "must begin with https:// or http://"
    if "@" in url.netloc:
        return (
            "must not hold a user name or a password; give the secret as agents.<name>.credential"
        )
    if "?" in text or "#" in text:
        return "must end with its path; remove what follows ? or #"
    if not _is_host(host):
        return "names no host; write it like https://host:port/path"
    if url.scheme == "http" and sends_credential and not _is_loopback(host):
        return (
            "must begin with https://, because http:// would show the key to the network; to send "
            "none, set agents.<name>.credential to none"
        )
    return None


def _is_host(text: str) -> bool:
    is_number = ":" in text or re.fullmatch("[0-9.]+", text)
    is_plain = re.fullmatch("[a-z0-9._:-]+", text) is not None
    return is_plain and (not is_number or _address(text) is not None)


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return address.is_loopback if address else host == "localhost"


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


# Headers


def _end_to_end(headers: Mapping[str, str]) -> dict[str, str]:
    """The headers that are not for one connection only, with lower-case names."""
    lower = {name.lower(): value for name, value in headers.items()}
    named = {name.strip().lower() for name in lower.get("connection", "").split(",")}
    return {
        name: value
        for name, value in lower.items()
        if name not in _HOP_BY_HOP | named and not name.startswith("proxy-")
    }


def _answer_headers(response: httpx2.Response, secrets: tuple[bytes, ...]) -> dict[str, str]:
    joined: dict[str, str] = {}
    for raw_name, raw_value in response.headers.raw:
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        joined[name] = f"{joined[name]}, {value}" if name in joined else value
    # Names come in whatever case.
    lowered = [secret.lower() for secret in secrets]
    return {
        name: value
        for name, value in _end_to_end(joined).items()
        if name not in _NOT_HANDED_BACK
        and not any(secret in value.encode("latin-1") for secret in secrets)
        and not any(secret in name.encode("latin-1") for secret in lowered)
    }


# Proxies


@dataclass(frozen=True, repr=False)
class _Proxy:
    """An HTTP proxy and the variable that names it; `place` is its host and port, for messages,
    because `url` may hold a password."""

    variable: str
    url: str
    place: str
    is_tls: bool
    is_loopback: bool

    def for_httpx(self, context: ssl.SSLContext) -> httpx2.Proxy:
        return httpx2.Proxy(self.url, ssl_context=context if self.is_tls else None)


def _find_proxy(url: SplitResult, environ: Mapping[str, str]) -> _Proxy | None:
    """The proxy for a URL: that of its scheme, else that for all; lower case goes first."""
    names = (f"{url.scheme}_proxy", f"{url.scheme}_proxy".upper(), "all_proxy", "ALL_PROXY")
    variable = next((name for name in names if environ.get(name)), None)
    if variable is None or _is_exempt(url, environ.get("no_proxy") or environ.get("NO_PROXY", "")):
        return None
    text = environ[variable]
    if "://" not in text:
        text = f"http://{text}"
    try:
        proxy = urlsplit(text)
        host, _ = proxy.hostname or "", proxy.port
    except ValueError:
        host = ""
    if (
        not _is_host(host)
        or proxy.scheme not in ("http", "https")
        or not re.fullmatch("[!-~]+", text)
        # This may be the rest of a password with a / or # in it, whose beginning is now the host.
        or proxy.path.strip("/")
        or "?" in text
        or "#" in text
    ):
        raise ConfigError(
            f"{variable}: not the URL of an HTTP proxy; write http://host:port, with special "
            "characters of a password as %XX (SOCKS is not supported)"
        )
    place = proxy.netloc.rpartition("@")[2]
    return _Proxy(variable, text, place, proxy.scheme == "https", _is_loopback(host))


def _is_exempt(url: SplitResult, no_proxy: str) -> bool:
    """Whether NO_PROXY names a URL's host: `*`, a domain and all below it (a leading dot makes no
    difference), an address or a network such as 10.0.0.0/8, each perhaps with a port."""
    host, port = url.hostname or "", url.port or {"http": 80, "https": 443}[url.scheme]
    for entry in no_proxy.lower().replace(",", " ").split():
        name, number = _split_port(entry)
        name = name.strip("[]").removeprefix("*.").lstrip(".")
        if entry == "*":
            return True
        if number not in (None, port):
            continue
        if host == name or host.endswith(f".{name}") or _is_in_network(host, name):
            return True
    return False


def _split_port(entry: str) -> tuple[str, int | None]:
    """`host:port` in two; an IPv6 address has a port only behind brackets."""
    found = re.fullmatch(r"([^:]+|\[.+\]):([0-9]+)", entry)
    return (found[1], int(found[2])) if found else (entry, None)


def _is_in_network(host: str, network: str) -> bool:
    address = _address(host)
    try:
        return address is not None and address in ipaddress.ip_network(network, strict=False)
    except ValueError:
        return False


# Certificates


def _tls_context(environ: Mapping[str, str]) -> ssl.SSLContext:
    """Who is trusted: the system's store, where SSL_CERT_FILE and SSL_CERT_DIR each replace one
    half of it as OpenSSL has it, and what NODE_EXTRA_CA_CERTS and REQUESTS_CA_BUNDLE add.

    Not left to OpenSSL, which looks into the process's environment, overlooks wrong names, and
    has no additions.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    usual = ssl.get_default_verify_paths()
    for variable, path in (
        ("SSL_CERT_FILE", usual.openssl_cafile),
        ("SSL_CERT_DIR", usual.openssl_capath),
    ):
        if environ.get(variable):
            _trust(context, variable, environ[variable])
        elif Path(path).exists():
            _trust(context, variable, path)
    for variable in _EXTRA_CERTIFICATES:
        if environ.get(variable):
            _trust(context, variable, environ[variable])
    return context


def _trust(context: ssl.SSLContext, variable: str, path: str) -> None:
    """Add a file of certificates, or a directory of them (SSL_CERT_DIR: some, with colons)."""
    try:
        if any(Path(part).is_dir() for part in path.split(":")):
            context.load_verify_locations(capath=path)
        else:
            context.load_verify_locations(cafile=path)
    except ssl.SSLError:
        raise ConfigError(
            f"{variable}: {path} holds no certificate that can be read; name a file in PEM form, "
            "or unset it"
        ) from None
    except OSError as error:
        raise ConfigError(
            f"{variable}: {path} cannot be read ({error.strerror}); name a file of certificates in "
            "PEM form, or unset it"
        ) from None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An exception and all that lead to it, the nearest first."""
    yield error
    below = error.__cause__ or error.__context__
    if below is not None:
        yield from _causes(below)
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from _causes(part)
