"""The record of what an agent and its model said to each other: one line for each exchange."""

import codecs
import json
import os
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from agentsweep.errors import InfraError
from agentsweep.gateway.messages_api import Message, Usage
from agentsweep.tally import Tally


@dataclass
class Exchange:
    """One request and its answer, as a line of api.jsonl.

    Times ending in `_ns` are CLOCK_MONOTONIC, in `_utc_ns` CLOCK_REALTIME; first_byte_ns is None
    when nothing was answered. status is the HTTP status that was sent, or None. kind: `main`,
    `subagent`, `side` (what the client asks for its own purposes, such as a summary) or `other`.
    turn: how many turns of this conversation were answered before, from 0; turn_id: the id of the
    scenario's turn, where it has one; retry: how often this turn was asked for before. Sizes are
    those of the bodies, decoded and without HTTP framing. queued_ns: how long the gateway held the
    request back because of the run's budget, None where it did not get that far.

    events: the body of the answer as it went, in pieces: [offset_ns, text], the offset from
    start_ns. A piece is what was sent at once: one event of a stream, some, or a part of one; a
    character is never cut. With it an exchange can be replayed. recorded: in a replay, what the
    recording says that each tool call of this turn gave (`replay.RecordedCall`), with its first
    answer.

    refused: the gateway itself said no, and no model was asked. requests: how many requests the
    line stands for: one, but for those that are only counted (`ExchangeLog`).
    """

    seq: int
    start_ns: int
    start_utc_ns: int
    method: str
    path: str
    first_byte_ns: int | None = None
    end_ns: int | None = None
    end_utc_ns: int | None = None
    kind: str = "other"
    agent_id: str | None = None
    model: str | None = None
    stream: bool | None = None
    status: int | None = None
    error: str | None = None
    retry: int = 0
    turn: int | None = None
    turn_id: str | None = None
    request_sha256: str | None = None
    request_bytes: int = 0
    response_bytes: int = 0
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    message_id: str | None = None
    stop_reason: str | None = None
    queued_ns: int | None = None
    recorded: list[dict[str, Any]] | None = None
    refused: bool = False
    requests: int = 1
    events: list[tuple[int, str]] = field(default_factory=list)

    def keep(self, parts: Iterable[tuple[int, bytes]]) -> None:
        """Take over the pieces of an answer, with the times at which they went (monotonic)."""
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.response_bytes = 0
        for sent_ns, part in parts:
            self.response_bytes += len(part)
            self.events.append((sent_ns - self.start_ns, decoder.decode(part)))

    def note(self, message: Message) -> None:
        """Say what was answered; of whole messages only, so that a sum over exchanges counts each
        answer once."""
        self.message_id = message.id
        self.stop_reason = message.stop_reason
        self.count(message.usage)

    def usage(self) -> Usage:
        """The tokens of the answer, 0 where nothing was said of them."""
        return Usage(**{field: getattr(self, field) or 0 for field in Usage.__dataclass_fields__})

    def count(self, usage: Usage) -> None:
        """Take over the tokens of an answer."""
        for name, value in asdict(usage).items():
            setattr(self, name, value)


class Attempts:
    """How often each turn was asked for."""

    def __init__(self) -> None:
        self._made: Counter[tuple[object, ...]] = Counter()

    def count(self, exchange: Exchange, *turn: object) -> None:
        """Count an exchange as one more attempt at a turn, whatever names that turn."""
        exchange.retry = self._made[turn]
        self._made[turn] += 1


# What a client chooses of a line: no request's text is worth more of the record than this.
_METHOD_CHARS, _NAME_CHARS, _PATH_CHARS = 32, 256, 1024
# So many lines for requests that no model answered; more of them are counted.
SINGLE_LINES = 1000


class ExchangeLog:
    """Appends exchanges to a file, each with one write(2), so that a reader and a crash see whole
    lines only. After a failure (a full disk) the run goes on and `failed` says why.

    `count` is the number of lines. What a request says of itself is cut, and requests for which no
    model was asked have lines of their own up to SINGLE_LINES. Beyond, a line without a path stands
    for as many as its `requests` says, of one status and error.
    """

    def __init__(self, path: Path):
        self.path = path
        self.failed: str | None = None
        self.count = 0
        self._unasked = 0
        self._counted: dict[tuple[int | None, str | None], _Counted] = {}
        self.tally = Tally()
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise InfraError(f"log: {path} cannot be written: {error.strerror}") from None

    def close(self) -> None:
        for counted in self._counted.values():
            self._put_count(counted)
        os.close(self._file)

    def write(self, exchange: Exchange, unasked: bool = False) -> None:
        """Stamp the end of the exchange and write it down; unasked where no model was asked."""
        exchange.end_ns, exchange.end_utc_ns = time.monotonic_ns(), time.time_ns()
        if unasked:
            self._unasked += 1
            if self._unasked > SINGLE_LINES:
                self._count_only(exchange)
                return
        exchange.method = exchange.method[:_METHOD_CHARS]
        exchange.path = _cut(exchange.path, _PATH_CHARS)
        for name in ("agent_id", "model", "message_id", "stop_reason"):
            if (value := getattr(exchange, name)) is not None:
                setattr(exchange, name, _cut(value, _NAME_CHARS))
        self._put(exchange)

    def _count_only(self, exchange: Exchange) -> None:
        """One more that gets no line of its own."""
        key = (exchange.status, exchange.error)
        counted = self._counted.setdefault(key, _Counted())
        counted.total += 1
        if counted.line is None:
            counted.line = Exchange(
                seq=exchange.seq,
                start_ns=exchange.start_ns,
                start_utc_ns=exchange.start_utc_ns,
                method="",
                path="",
                status=exchange.status,
                error=exchange.error,
                refused=exchange.refused,
                requests=0,
            )
        line = counted.line
        line.requests += 1
        line.request_bytes += exchange.request_bytes
        line.response_bytes += exchange.response_bytes
        line.end_ns, line.end_utc_ns = exchange.end_ns, exchange.end_utc_ns
        # As many lines as the number has bits: of a gateway that is killed half is known.
        if 2 * line.requests > counted.total:
            self._put_count(counted)

    def _put_count(self, counted: "_Counted") -> None:
        if counted.line is not None:
            self._put(counted.line)
            counted.line = None

    def _put(self, exchange: Exchange) -> None:
        line = json.dumps(asdict(exchange)).encode() + b"\n"
        try:
            written = os.write(self._file, line)
        except OSError as error:
            self.failed = f"log: {self.path}: {error.strerror}; exchanges are missing from it"
            return
        self.tally.add(line[:written])
        if written != len(line):
            self.failed = f"log: {self.path}: the disk is full; exchanges are missing from it"
        self.count += 1


@dataclass
class _Counted:
    """How many requests of a kind have no line of their own, and the line for the last of them."""

    total: int = 0
    line: Exchange | None = None


def _cut(text: str, chars: int) -> str:
    """A text's beginning, and how many characters it had where some are missing."""
    return text if len(text) <= chars else f"{text[:chars]}… ({len(text)} characters)"
