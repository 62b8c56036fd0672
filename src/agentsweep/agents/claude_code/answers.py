"""Which records of a session are one answer of the model, and which only repeat one.

An answer is written as several records, one a block, that share its message id. The id alone does
not identify it: some servers and proxies give one id to several answers. The id of the request
does. Where the file has none, an answer ends with the next record of the user, because the model
speaks again only after that.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from agentsweep.agents.claude_code.records import (
    Message,
    ToolCall,
    Usage,
    as_text,
    read_other_usage,
)
from agentsweep.agents.claude_code.versions import version_tuple

# Between these versions tools start while their message is still being written, so that their
# results stand between its blocks, and the CLI does not yet note its own request.
_RESULTS_WITHIN = ((2, 1, 160), (2, 1, 300))
# With no time there may be very many equal blocks; a few tell enough.
_MOST_EQUAL = 16


@dataclass(slots=True)
class Origin:
    """Where a record came from: its agent as written, or its place in an unnamed inline chain.

    key: the agent's id, True for all unnamed inline chains, None for the main conversation.
    """

    agent_id: str | None
    chain_uuid: str | None = None
    key: str | bool | None = field(init=False, compare=False)

    def __post_init__(self) -> None:
        self.key = self.agent_id if self.chain_uuid is None else True


@dataclass(slots=True, eq=False)
class Use:
    """A tool call as it was asked for, with the records that say so; `tool_id` as written."""

    tool_id: str
    call: ToolCall
    answer: "Draft"
    number: int
    order_ns: int
    origin: Origin
    uuids: list[str]


@dataclass(slots=True, eq=False)
class Block:
    """What is kept of a content block to recognise a copy of it.

    file, speaker, uuid: where it was read: number of the file, `Origin.key`, its record.
    """

    utc_ns: int | None
    kind: str
    content: object
    file: int
    speaker: str | bool | None
    uuid: str | None
    use: Use | None = None
    _token: tuple[object, ...] | None = None

    @property
    def token(self) -> tuple[object, ...]:
        """Equal for two that are one block, written twice: a copy keeps its time."""
        if self._token is None:
            told = json.dumps(self.content, sort_keys=True, default=repr)
            self._token = (self.utc_ns, self.kind, told)
        return self._token

    def is_elsewhere(self, other: "Block", roots: dict[str, str | None]) -> bool:
        """Whether the two lie in two conversations, so that one may be a copy of the other."""
        if (self.file, self.speaker) != (other.file, other.speaker):
            return True
        mine, its = (roots.get(block.uuid or "") for block in (self, other))
        return mine is not None and its is not None and mine != its


@dataclass(slots=True, eq=False)
class Draft:
    """An assistant message of which some records have been read.

    request: the id of its request, where one is known. number, order_ns: its first record's place;
    last_number, last_uuid: its last record. twins: calls with copies of them in other records.
    """

    message: Message
    request: str | None
    number: int
    order_ns: int
    last_number: int
    last_uuid: str | None = None
    uuids: list[str] = field(default_factory=list)
    origins: list[Origin] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    twins: list[tuple[Use, Use]] = field(default_factory=list)
    _by_token: dict[tuple[object, ...], list[Block]] = field(default_factory=dict)
    _indexed: int = 0
    _known_origins: set[tuple[object, ...]] = field(default_factory=set)

    def blocks_like(self, block: Block) -> list[Block]:
        """Its blocks that are equal to this one, in their order."""
        for own in self.blocks[self._indexed :]:
            self._by_token.setdefault(own.token, []).append(own)
        self._indexed = len(self.blocks)
        return self._by_token.get(block.token, [])

    def add_origin(self, origin: Origin) -> None:
        """A record of it came from there."""
        key = (origin.agent_id, origin.chain_uuid)
        if key not in self._known_origins:
            self._known_origins.add(key)
            self.origins.append(origin)

    @property
    def uses(self) -> Iterator[Use]:
        """The calls of its blocks, in their order."""
        return (block.use for block in self.blocks if block.use is not None)

    def all_uses(self) -> Iterator[Use]:
        yield from self.uses
        yield from (twin for _, twin in self.twins)

    def made_uses(self) -> list[Use]:
        """The calls that were made: a copy in another sub-agent was made there, too, but one of
        the main conversation, which a fork begins with, was not made again. The message gets them
        in the order of its blocks."""
        if not self.twins:
            made = list(self.uses)
            self.message.calls = [use.call for use in made]
            return made
        by_agent = {id(use): {use.origin.agent_id: use} for use in self.uses}
        for first, twin in self.twins:
            known = by_agent[id(first)].setdefault(twin.origin.agent_id, twin)
            if known is not twin:
                known.uuids += twin.uuids
        made = []
        self.message.calls = []
        for copies in by_agent.values():
            first = next(iter(copies.values()))
            if None in copies and len(copies) > 1:
                main = copies[None]
                main.uuids += [u for use in copies.values() if use is not main for u in use.uuids]
                copies = {None: main}
            made += copies.values()
            self.message.calls.append(copies.get(self.message.agent_id, first).call)
        return made


class Answers:
    """The answers of a session, found record by record: `find`, then `note` for each of them."""

    def __init__(self) -> None:
        self.drafts: list[Draft] = []
        self.owners: dict[str, Draft] = {}  # by the uuid of a record
        self._by_request: dict[tuple[str, str], Draft] = {}
        self._open: dict[object, Draft] = {}  # the last one of each conversation in this file
        self._heard: dict[object, int] = {}  # the last user record of each

    def begin_file(self) -> None:
        self._open.clear()
        self._heard.clear()

    def heard(self, origin: Origin, number: int) -> None:
        """A user record of this conversation was read: what the model says next is new."""
        self._heard[origin.key] = number

    def find(
        self,
        identity: str,
        request: str | None,
        usage: Usage,
        origin: Origin,
        parent: object,
        utc_ns: int | None,
        version: object,
    ) -> Draft | None:
        """The answer that a record goes on with; None where it begins one."""
        if request is not None:
            draft = self._by_request.get((identity, request))
            if draft is not None:
                return draft
        before = self.owners.get(parent) if type(parent) is str else None
        opened = self._open.get(origin.key)
        if before is None and (opened is None or opened.message.id != identity):
            return None
        for draft in (before, opened):
            if draft is None or draft.message.id != identity:
                continue
            if request is not None and draft.request is not None:
                # A model that was asked again does not answer within the same millisecond.
                if utc_ns is None or utc_ns != draft.message.last_utc_ns:
                    continue
                if self._heard.get(origin.key, -1) > draft.last_number:
                    continue
            if _contradict(usage, draft.message.usage):
                continue
            heard = self._heard.get(origin.key, -1)
            if draft is before or heard < draft.last_number or _within(usage, draft, version):
                return draft
        return None

    def note(self, draft: Draft, origin: Origin) -> None:
        """The record that was read last belongs to this answer."""
        if draft.request is not None and draft.last_number <= draft.number:
            self._by_request[draft.message.id, draft.request] = draft
        self._open[origin.key] = draft
        draft.add_origin(origin)

    def merge_copies(self, roots: dict[str, str | None]) -> None:
        """Take away the answers that only repeat another one under other ids of their request.

        A fork, or a session that was resumed, begins with a copy. It lies in another file, is
        another agent's, or hangs on another root, and its blocks keep their times. `roots` has the
        root of a record where that is known.
        """
        groups: dict[str, list[Draft]] = {}
        for draft in self.drafts:
            groups.setdefault(draft.message.id, []).append(draft)
        gone: set[int] = set()
        for group in groups.values():
            if len(group) > 1:
                gone |= _merge(group, roots)
        if gone:
            self.drafts = [draft for draft in self.drafts if id(draft) not in gone]


def _merge(group: list[Draft], roots: dict[str, str | None]) -> set[int]:
    """Merge the copies among the answers under one id; the ids of those that were merged."""
    index: dict[tuple[object, ...], list[Draft]] = {}
    gone: set[int] = set()
    # The fullest first, so that a part becomes part of the whole; else in the order of reading.
    for draft in sorted(group, key=lambda one: (-len(one.blocks), one.number)):
        if not draft.blocks:
            continue
        first = draft.blocks[0]
        for known in index.get(first.token, ())[:_MOST_EQUAL]:
            pairs = _pairs(draft, known, roots)
            if pairs is not None:
                _take_over(known, draft, pairs)
                gone.add(id(draft))
                break
        else:
            for token in dict.fromkeys(block.token for block in draft.blocks):
                index.setdefault(token, []).append(draft)
    return gone


def _pairs(
    part: Draft, whole: Draft, roots: dict[str, str | None]
) -> list[tuple[Block, Block]] | None:
    """Each block of an answer with the one that it is a copy of; None where one is of its own."""
    left: dict[tuple[object, ...], list[Block]] = {}  # the last one first
    made = []
    for block in part.blocks:
        same = left.get(block.token)
        if same is None:
            same = left[block.token] = whole.blocks_like(block)[::-1]
        some = range(len(same) - 1, max(-1, len(same) - 1 - _MOST_EQUAL), -1)
        place = next((i for i in some if same[i].is_elsewhere(block, roots)), None)
        if place is None:
            return None
        made.append((block, same.pop(place)))
    return made


def _take_over(whole: Draft, part: Draft, pairs: list[tuple[Block, Block]]) -> None:
    whole.message.records += part.message.records
    whole.message.record_output_tokens += part.message.record_output_tokens
    for origin in part.origins:
        whole.add_origin(origin)
    whole.uuids += part.uuids
    usage = part.message.usage
    if usage is not None and better(usage, whole.message.usage):
        whole.message.usage = usage
    kept: dict[int, Use] = {}
    for block, known in pairs:
        # Equal blocks are both calls, or neither is.
        if known.use is not None and block.use is not None:
            kept[id(block.use)] = known.use
            block.use.answer = whole
            whole.twins.append((known.use, block.use))
    for first, twin in part.twins:
        twin.answer = whole
        whole.twins.append((kept[id(first)], twin))


def content_of(kind: str, block: dict[str, Any]) -> object:
    """What a content block is recognised by; a long text by its hash."""
    if kind == "tool_use":
        return (block.get("id"), block.get("name"), block.get("input"))
    if kind in ("text", "thinking"):
        text = block.get(kind)
        return hash(text) if type(text) is str else text
    return block


def better(usage: Usage, than: Usage | None) -> bool:
    """Whether this record of a message has its usage more finally than another record of it."""
    if than is None:
        return True
    return (usage.output_final, usage.output_tokens, usage.total) > (
        than.output_final,
        than.output_tokens,
        than.total,
    )


def request_of(record: dict[str, Any]) -> str | None:
    """The id of the request that a record answers: the API's, else the CLI's own."""
    request = record.get("requestId")
    if type(request) is str and request:
        return request
    return as_text(record.get("requestRef")) or None


def _contradict(one: Usage, other: Usage | None) -> bool:
    """Whether both are final and differ, as those of one answer never do."""
    if other is None or not (one.output_final and other.output_final):
        return False
    return _numbers(one) != _numbers(other)


def _within(usage: Usage, draft: Draft, version: object) -> bool:
    """Whether the record may go on with an answer after a result of one of its own calls."""
    if not usage.output_final or not usage.total or draft.message.usage is None:
        return False
    number = version_tuple(version) if type(version) is str else None
    low, high = _RESULTS_WITHIN
    known = number is not None and low <= number < high
    return known and _numbers(usage) == _numbers(draft.message.usage)


def _numbers(usage: Usage) -> tuple[int, ...]:
    return (
        usage.input_tokens,
        usage.output_tokens,
        usage.cache_read_input_tokens,
        usage.cache_creation_input_tokens,
    )


def add_record(message: Message, content: dict[str, Any], usage: Usage, utc_ns: int | None) -> None:
    """What one more record of a message says of the whole."""
    message.records += 1
    if utc_ns is not None:
        if message.first_utc_ns is None or utc_ns < message.first_utc_ns:
            message.first_utc_ns = utc_ns
        if message.last_utc_ns is None or utc_ns > message.last_utc_ns:
            message.last_utc_ns = utc_ns
    if better(usage, message.usage):
        message.usage = usage
        message.other_usage = read_other_usage(content) or message.other_usage
    message.stop_reason = message.stop_reason or as_text(content.get("stop_reason"))
