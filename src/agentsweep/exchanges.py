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
from agentsweep.messages_api import Message, Usage


@dataclass
class Exchange:
    """One request and its answer, as a line of api.jsonl.

    Times ending in `_ns` are CLOCK_MONOTONIC, in `_utc_ns` CLOCK_REALTIME; first_byte_ns is None
    when nothing was answered. status is the HTTP status that was sent, or None. kind: `main`,
    `subagent`, `side` (what the client asks for its own purposes, such as a summary) or `other`.
    turn: how many turns of this conversation were answered before, from 0; turn_id: the id of the
    scenario's turn, where it has one; retry: how often this turn was asked for before. Sizes are
    those of the bodies, decoded and without HTTP framing.

    events: the body of the answer as it went, in pieces: [offset_ns, text], the offset from
    start_ns. A piece is what was sent at once: one event of a stream, some, or a part of one; a
    character is never cut. With it an exchange can be replayed. recorded: in a replay, what the
    recording says that each tool call of this turn gave (`replay.RecordedCall`), with its first
    answer.
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
    recorded: list[dict[str, Any]] | None = None
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
        self._made: Counter[tuple] = Counter()

    def count(self, exchange: Exchange, *turn: object) -> None:
        """Count an exchange as one more attempt at a turn, whatever names that turn."""
        exchange.retry = self._made[turn]
        self._made[turn] += 1


class ExchangeLog:
    """Appends exchanges to a file, each with one write(2), so that a reader and a crash see whole
    lines only. After a failure (a full disk) the run goes on and `failed` says why."""

    def __init__(self, path: Path):
        self.path = path
        self.failed: str | None = None
        self.count = 0
        try:
            self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise InfraError(f"log: {path} cannot be written: {error.strerror}") from None

    def close(self) -> None:
        os.close(self._file)

    def write(self, exchange: Exchange) -> None:
        """Stamp the end of the exchange and write it down."""
        exchange.end_ns, exchange.end_utc_ns = time.monotonic_ns(), time.time_ns()
        line = json.dumps(asdict(exchange)).encode() + b"\n"
        try:
            written = os.write(self._file, line)
        except OSError as error:
            self.failed = f"log: {self.path}: {error.strerror}; exchanges are missing from it"
            return
        if written != len(line):
            self.failed = f"log: {self.path}: the disk is full; exchanges are missing from it"
        self.count += 1
