"""The secret that a live run uses: where it is read, how it authenticates, how it is kept out of
what is written."""

import base64
import functools
import html
import json
import os
import re
import shlex
import stat
import urllib.parse
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import dataclass

from agentsweep.errors import ConfigError

ANTHROPIC = "https://api.anthropic.com"
HEADERS = ("auto", "x-api-key", "bearer")
REDACTED = b"[redacted]"

# In the order in which they are looked for.
VARIABLES = ("ANTHROPIC_API_KEY", "ANTHROPIC_AUTH_TOKEN", "CLAUDE_CODE_OAUTH_TOKEN")
# What the CLI sends as a bearer, whatever it looks like.
_BEARER_REFERENCES = ("env:ANTHROPIC_AUTH_TOKEN", "env:CLAUDE_CODE_OAUTH_TOKEN")
_OAUTH_PREFIX = "sk-ant-oat"
_OAUTH_BETA = "oauth-2025-04-20"
_SHORTEST_SECRET = 12
_FILE_LIMIT_BYTES = 64 * 1024
_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_FORMS = "write env:NAME, file:/absolute/path or none"


@dataclass(frozen=True, repr=False)
class Credential:
    """A secret and the header that carries it: `kind` is `x-api-key` or `bearer`.

    The secret is printable ASCII without spaces; no representation shows it.
    """

    kind: str
    secret: str

    def __repr__(self) -> str:
        return f"Credential({self.kind})"

    @functools.cached_property
    def secrets(self) -> tuple[bytes, ...]:
        """What must not get into anything that is written: the secret, and `forms` of it.

        A word such as `EMPTY`, which local servers take for a key, is no secret: to blot it out
        would change what a model says.
        """
        return forms(self.secret.encode()) if len(self.secret) >= _SHORTEST_SECRET else ()

    def headers(self, sent: Mapping[str, str]) -> dict[str, str]:
        """The headers that authenticate a request whose client sent these (lower-case names).

        `anthropic-beta` is among them only where this credential needs a value in it, and then
        holds the client's values too.
        """
        if self.kind == "x-api-key":
            return {"x-api-key": self.secret}
        headers = {"authorization": f"Bearer {self.secret}"}
        if self.secret.startswith(_OAUTH_PREFIX):
            betas = [beta.strip() for beta in sent.get("anthropic-beta", "").split(",")]
            betas = [beta for beta in betas if beta not in ("", _OAUTH_BETA)]
            headers["anthropic-beta"] = ",".join([*betas, _OAUTH_BETA])
        return headers

    def to_message(self) -> dict[str, str]:
        """For the pipe to the gateway, and for nothing that is kept."""
        return {"kind": self.kind, "secret": self.secret}

    @classmethod
    def from_message(cls, message: object) -> "Credential":
        """Raises ConfigError for what `to_message` does not make."""
        if not isinstance(message, dict) or message.keys() != {"kind", "secret"}:
            raise ConfigError("credential: must be an object with kind and secret")
        kind, secret = message["kind"], message["secret"]
        if kind not in HEADERS[1:]:
            raise ConfigError(f"credential: kind: write {' or '.join(HEADERS[1:])}")
        if not isinstance(secret, str):
            raise ConfigError("credential: secret: write a text")
        return cls(kind, _checked(secret, "the secret", "send another one"))


def read(
    reference: str | None,
    base_url: str | None,
    header: str = "auto",
    environ: Mapping[str, str] = os.environ,
) -> Credential | None:
    """The credential behind a reference: `env:NAME`, `file:/path`, `none`, or None for the default.

    The default is the first of Anthropic's own variables that is set, and only for Anthropic's
    API (base_url None): a key must not go to another server unless somebody says so. No sentence
    quotes a reference or a secret, since one is easily written in the place of the other.
    """
    if header not in HEADERS:
        raise ConfigError(f"credential: its header is not known; write {', '.join(HEADERS)}")
    if reference == "none":
        return None
    if reference is None:
        if base_url is not None and base_url.rstrip("/") != ANTHROPIC:
            return None
        variable = next((name for name in VARIABLES if environ.get(name)), None)
        if variable is None:
            raise ConfigError(
                f"no key for the live model: set {VARIABLES[0]} (or {' or '.join(VARIABLES[1:])}"
                "), or agents.<name>.credential to env:NAME or file:/path"
            )
        reference = f"env:{variable}"
    source, _, place = reference.partition(":")
    if source == "env" and re.fullmatch(_NAME, place):
        secret = _from_variable(place, environ)
    elif source == "file" and place.startswith("/"):
        secret = _from_file(place)
    else:
        raise ConfigError(f"credential: not a reference to a secret; {_FORMS}")
    if header == "auto":
        bearer = secret.startswith(_OAUTH_PREFIX) or reference in _BEARER_REFERENCES
        header = "bearer" if bearer else "x-api-key"
    return Credential(header, secret)


def _from_variable(name: str, environ: Mapping[str, str]) -> str:
    secret = environ.get(name)
    if not secret:
        raise ConfigError(
            f"credential: the variable {name} is not set or empty; export it, or {_FORMS}"
        )
    return _checked(secret, f"the variable {name}", "set it to the secret alone")


def _from_file(path: str) -> str:
    cure = f"chmod 600 {shlex.quote(path)}"
    try:
        # Not to wait for a writer where the path is a pipe.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError(
            f"credential: {path} cannot be read: {error.strerror}; put the secret there as a file "
            f"of your own and {cure}"
        ) from None
    try:
        # Of what was opened, since the path may lead elsewhere a moment later.
        _check_file(path, os.fstat(descriptor), cure)
        data = os.read(descriptor, _FILE_LIMIT_BYTES + 1)
    finally:
        os.close(descriptor)
    rest = f"write the secret alone into it and {cure}"
    if len(data) > _FILE_LIMIT_BYTES:
        raise ConfigError(f"credential: {path} is larger than {_FILE_LIMIT_BYTES} bytes; {rest}")
    return _checked(data.decode("latin-1").rstrip("\r\n"), path, rest)


def _check_file(path: str, status: os.stat_result, cure: str) -> None:
    """Raises ConfigError for a file that may hold what others wrote, or show others the secret."""
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError(
            f"credential: {path} is not a regular file; put the secret into one and {cure}"
        )
    if status.st_uid not in (os.getuid(), 0):
        raise ConfigError(
            f"credential: {path} belongs to another user (uid {status.st_uid}); copy it to a file "
            f"of your own and {cure}"
        )
    if status.st_mode & 0o077:
        raise ConfigError(
            f"credential: {path} is open to other users (mode {status.st_mode & 0o777:04o}); run "
            f"{cure}"
        )


def _checked(secret: str, where: str, cure: str) -> str:
    """The secret, where it can be sent in a header; else ConfigError."""
    if not secret:
        raise ConfigError(f"credential: {where} is empty; {cure}")
    if "\n" in secret or "\r" in secret:
        raise ConfigError(f"credential: {where} has more than one line; {cure}")
    if not re.fullmatch("[!-~]+", secret):
        raise ConfigError(
            f"credential: {where} has a space or a character that is not printable ASCII; {cure}"
        )
    return secret


def variables(references: Iterable[str | None]) -> list[str]:
    """The variables that may hold a secret: Anthropic's own, and those that references name."""
    named = [reference or "" for reference in references]
    named = [reference.removeprefix("env:") for reference in named if reference.startswith("env:")]
    valid = [name for name in named if re.fullmatch(_NAME, name)]
    return list(dict.fromkeys([*VARIABLES, *valid]))


def forms(secret: bytes) -> tuple[bytes, ...]:
    """A secret as it is, and as programs write it who mean no harm: in hexadecimal, in base64
    wherever it lies in what is encoded, quoted for a URL, for HTML or for JSON, and in escapes
    alone.

    At either end of a text in base64 up to five bits of the secret stand in a character that holds
    bits of its neighbour, too; this character is not in the form.
    """
    text = secret.decode("latin-1")
    found = [secret, secret.hex().encode(), secret.hex().upper().encode()]
    for before in range(3):
        # Characters of six bits: from the first that has none of what stands before to the last
        # that has none of what comes behind.
        first, end = -(-before * 8 // 6), (before + len(secret)) * 8 // 6
        for alphabet in (b"+/", b"-_"):
            found.append(base64.b64encode(bytes(before) + secret, alphabet)[first:end])
    for safe in ("", "/"):
        quoted = urllib.parse.quote(text, safe=safe)
        found += [quoted.encode(), re.sub("%..", lambda of: of[0].lower(), quoted).encode()]
    found.append(html.escape(text).encode())
    found.append(json.dumps(text)[1:-1].encode())
    found.append(found[-1].replace(b"/", b"\\/"))
    for escape in (
        *("%{:02x}", "%{:02X}", "\\u{:04x}", "\\u{:04X}", "\\x{:02x}"),
        *("&#{};", "&#x{:x};", "&#x{:X};"),
    ):
        found.append("".join(map(escape.format, secret)).encode())
    return tuple(dict.fromkeys(found))


class Redactor:
    """Replaces secrets by REDACTED: in `whole` texts, or in one stream that is fed to it, whose
    chunks may cut a secret in two. Where secrets overlap, the leftmost and then the longest goes.
    """

    def __init__(self, secrets: Iterable[bytes]):
        self._secrets = sorted(set(secrets), key=len, reverse=True)
        if b"" in self._secrets:
            raise ValueError("an empty secret cannot be redacted")
        self._longest = max(map(len, self._secrets), default=0)
        self._firsts = {secret[0] for secret in self._secrets}
        # The longest comes first, and without any there is a pattern that matches nothing.
        self._pattern = re.compile(b"|".join(map(re.escape, self._secrets)) or b"(?!)")
        self._held = b""

    def whole(self, data: bytes) -> bytes:
        return self._pattern.sub(REDACTED, data)

    def feed(self, chunk: bytes) -> bytes:
        """What can leave now: all but an end that may be the beginning of a secret."""
        data = self._held + chunk
        parts, done = [], 0
        while True:
            begun = self._begun(data, done)
            found = self._pattern.search(data, done)
            if found is None or found.start() >= begun:
                break
            parts += [data[done : found.start()], REDACTED]
            done = found.end()
        self._held = data[begun:]
        return b"".join([*parts, data[done:begun]])

    async def over(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """A stream's chunks without the secrets; none of them empty."""
        async for chunk in chunks:
            if part := self.feed(chunk):
                yield part
        if part := self.end():
            yield part

    def end(self) -> bytes:
        """What was held back, when nothing more comes."""
        held, self._held = self._held, b""
        return self.whole(held)

    def _begun(self, data: bytes, start: int) -> int:
        """Where the longest end of the data that may still become a secret begins."""
        for at in range(max(start, len(data) - self._longest + 1), len(data)):
            if data[at] not in self._firsts:
                continue
            end = data[at:]
            if any(len(end) < len(secret) and secret.startswith(end) for secret in self._secrets):
                return at
        return len(data)
