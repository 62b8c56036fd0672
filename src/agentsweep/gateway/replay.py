"""The replayed model: gives a recorded session's answers to the CLI that asks again.

Which turn is asked for follows from the conversation that the request holds, never from the order
in which requests come: the ids of tool calls are those of the recording and lead through it, and a
sub-agent is known by the prompt that it was started with. A request that comes again therefore
gets the same answer again. Where the recording has no answer, all conversations are brought to an
end, and `progress` says at which turn the run left its recording.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from agentsweep.gateway import messages_api
from agentsweep.gateway.exchanges import Attempts, Exchange
from agentsweep.gateway.http_messages import Reply, Request
from agentsweep.gateway.local_model import JSON_HEADERS, STREAM_HEADERS, LocalModel
from agentsweep.gateway.messages_api import Message, MessagesRequest, Usage
from agentsweep.gateway.recording import Conversation, Recording

DIVERGED = "diverged"
# Far more than a client tries again: a conversation that goes round in a circle.
_MOST_RETRIES = 50
# Tools that have another name in other versions of the CLI, and the same arguments.
SUCCESSORS = {"Task": "Agent", "Agent": "Task"}

# In the form in which the client looks for it; asked for a summary without, it asks once more.
_SIDE_TEXT = "<summary>The conversation so far is a recording; the replay goes on.</summary>"


@dataclass(frozen=True)
class Answer:
    """What to say to one request: a message and its events, each with the seconds after which it
    goes, counted from the request's first byte. place: conversation and turn, None for what is
    not in the recording."""

    message: Message
    events: tuple[tuple[float, dict[str, Any]], ...]
    place: tuple[str, int] | None = None


class ReplayModel(LocalModel):
    """Plays one recording for one run. latency_scale multiplies the recorded model time."""

    def __init__(self, recording: Recording, latency_scale: float = 1.0):
        self.recording = recording
        self.latency_scale = latency_scale
        self._places = {
            call.id: (conversation, index)
            for conversation in recording.conversations
            for index, turn in enumerate(conversation.turns)
            for call in turn.calls
        }
        self._agents: dict[tuple[str | None, ...], Conversation] = {}
        self._resume: dict[str, int] = {}
        self._attempts = Attempts()
        self._played: set[tuple[str, int]] = set()
        self._diverged: dict[str, Any] | None = None

    async def answer(
        self,
        read: Callable[[], MessagesRequest],
        request: Request,
        exchange: Exchange,
        reply: Reply,
    ) -> None:
        """Answer a request for a message at the recorded pace."""
        asked = read()
        answer = self.plan(asked, exchange)
        await _perform(answer, asked.stream, request.start_ns, reply)
        exchange.note(answer.message)
        if answer.place is not None:
            self._played.add(answer.place)

    def plan(self, asked: MessagesRequest, exchange: Exchange) -> Answer:
        """Decide; separate from the answering, which takes time."""
        conversation = self._conversation(asked)
        is_main = conversation is self.recording.main
        exchange.kind = "main" if is_main else "subagent"
        if self._diverged is not None:
            return self._ending(asked, exchange, self._diverged["reason"])
        if conversation is None:
            return self._leave(
                asked, exchange, 1, "a sub-agent", "the recording has no such sub-agent"
            )
        index = self._index(asked, conversation)
        if asked.summary == "wanted":
            # The summary takes the place of the tool calls that say where we are.
            self._resume[conversation.name] = index or 0
            return self._side(asked, exchange)
        if not asked.tools and conversation.turns[0].calls:
            # A conversation that calls tools offers some: this is the client's own errand.
            return self._side(asked, exchange)
        if index is None:
            return self._leave(
                asked,
                exchange,
                len(asked.said) + 1,
                conversation.name,
                "the conversation holds tool calls that the recording has not",
            )
        if index >= len(conversation.turns):
            return self._leave(
                asked,
                exchange,
                index + 1,
                conversation.name,
                f"the recording ends after turn {len(conversation.turns)} there, and the agent "
                "asks for another",
            )
        return self._turn(asked, exchange, conversation, index)

    def progress(self) -> dict[str, Any]:
        """Under `replay`: how much there is, how much was played, where the run left the recording.

        turns and turns_played count every conversation. unplayed: the first one that was not played
        to its end, the main one before others: conversation, turn (the next one, from 1) and turns;
        None when all were. diverged: None, or conversation, turn and reason.
        """
        conversations = self.recording.conversations
        summary = {
            "source_kind": self.recording.kind,
            "turns": sum(len(c.turns) for c in conversations),
            "turns_played": len(self._played),
            "calls": sum(len(turn.calls) for c in conversations for turn in c.turns),
            "tools": sorted(self.recording.tools),
            "unrecorded_subagents": sum(not c.recorded for c in conversations),
            "unplayed": next(filter(None, map(self._rest, conversations)), None),
            "diverged": self._diverged,
        }
        return {"replay": summary}

    def _rest(self, conversation: Conversation) -> dict[str, Any] | None:
        for index in range(len(conversation.turns)):
            if (conversation.name, index) not in self._played:
                turns = len(conversation.turns)
                return {"conversation": conversation.name, "turn": index + 1, "turns": turns}
        return None

    # Where a conversation is

    def _conversation(self, asked: MessagesRequest) -> Conversation | None:
        """Which recorded conversation this one is; None for an unknown sub-agent."""
        key = (asked.session_id, asked.agent_id)
        if asked.agent_id is not None and key in self._agents:
            return self._agents[key]
        known = [self._places[call] for call in asked.tool_calls if call in self._places]
        if known and asked.agent_id is None:
            return known[0][0]
        found = self._by_prompt(asked)
        if asked.agent_id is None:
            # CLIs that send no agent id have their sub-agents told apart by prompt alone.
            return found or self.recording.main
        if found is None and known:
            found = known[0][0]
        if found is not None:
            self._agents[key] = found
        return found

    def _by_prompt(self, asked: MessagesRequest) -> Conversation | None:
        """The sub-agent with this prompt. Of several with the same one the first that no other
        agent has taken: nothing tells them apart when they start."""
        taken = set(map(id, self._agents.values()))
        exact = [
            conversation
            for conversation in self.recording.subagents
            if conversation.prompt is not None
            and any(text.strip() == conversation.prompt.strip() for text in asked.opening)
        ]
        free = [conversation for conversation in exact if id(conversation) not in taken]
        return next(iter(free or exact), None)

    def _index(self, asked: MessagesRequest, conversation: Conversation) -> int | None:
        """How many turns of the conversation lie behind the request; None where it holds calls of
        another one."""
        index = self._resume.get(conversation.name, 0) if asked.summary == "given" else 0
        for number, calls in enumerate(asked.said, start=1):
            if calls:
                places = [self._places[call] for call in calls if call in self._places]
                here = [place for owner, place in places if owner is conversation]
                if not here and asked.summary is None:
                    return None
                index = max([index, *(place + 1 for place in here)])
            elif index < len(conversation.turns) and not conversation.turns[index].calls:
                # Of a text that was cut off the client asks for the rest.
                cut_off = asked.cut_off and number == len(asked.said)
                index += not cut_off
        return index

    # What is said there

    def _turn(
        self, asked: MessagesRequest, exchange: Exchange, conversation: Conversation, index: int
    ) -> Answer:
        turn = conversation.turns[index]
        self._attempts.count(exchange, conversation.name, index)
        if exchange.retry > _MOST_RETRIES:
            reason = f"the agent asked for this turn {exchange.retry} times"
            return self._leave(asked, exchange, index + 1, conversation.name, reason)
        exchange.turn = index
        names = {call.id: _name_now(call.name, asked.tools) for call in turn.calls}
        if exchange.retry == 0:
            exchange.recorded = [
                call.as_dict()
                | {"sent_name": names[call.id], "offered": names[call.id] in asked.tools}
                for call in turn.calls
            ]
        return Answer(
            replace(turn.message, content=tuple(_renamed(b, names) for b in turn.message.content)),
            tuple(
                (offset_s * self.latency_scale, _renamed_event(event, names))
                for offset_s, event in turn.events
            ),
            (conversation.name, index),
        )

    def _side(self, asked: MessagesRequest, exchange: Exchange) -> Answer:
        exchange.kind = "side"
        self._attempts.count(exchange, asked.sha256)
        return _plain(asked, _SIDE_TEXT)

    def _leave(
        self, asked: MessagesRequest, exchange: Exchange, turn: int, where: str, reason: str
    ) -> Answer:
        self._diverged = {"turn": turn, "conversation": where, "reason": reason}
        return self._ending(asked, exchange, reason)

    def _ending(self, asked: MessagesRequest, exchange: Exchange, reason: str) -> Answer:
        exchange.error = DIVERGED
        self._attempts.count(exchange, asked.sha256)
        return _plain(asked, f"The replay ends here: {reason}.")


def _name_now(recorded: str, offered: frozenset[str]) -> str:
    """The name under which the present CLI has a tool; the recorded one where it has none, which
    it then answers with an error of its own."""
    successor = SUCCESSORS.get(recorded)
    return successor if recorded not in offered and successor in offered else recorded


def _renamed(block: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    # Events of an endpoint may have a call without an id.
    identity = block.get("id") if block.get("type") == "tool_use" else None
    name = names.get(identity) if isinstance(identity, str) else None
    return block if name is None else block | {"name": name}


def _renamed_event(event: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    block = event.get("content_block")
    if not isinstance(block, dict) or (made := _renamed(block, names)) == block:
        return event
    return event | {"content_block": made}


def _plain(asked: MessagesRequest, text: str) -> Answer:
    """A text of our own, said without delay."""
    content = ({"type": "text", "text": text},)
    usage = Usage(asked.input_tokens, messages_api.output_tokens(content))
    message = Message(f"msg_{asked.sha256[:24]}", asked.model, content, "end_turn", usage)
    events = [messages_api.start_event(message), *messages_api.block_events(0, content[0], 4096)]
    return Answer(message, tuple((0.0, e) for e in [*events, *messages_api.end_events(message)]))


async def _perform(answer: Answer, stream: bool, start_ns: int, reply: Reply) -> None:
    if not stream:
        await _until(start_ns, answer.events[-1][0])
        await reply.send(200, JSON_HEADERS, messages_api.message_body(answer.message))
        return
    await reply.start(200, STREAM_HEADERS)
    piece, piece_s = b"", answer.events[0][0]
    for offset_s, event in answer.events:
        if offset_s > piece_s:
            await _until(start_ns, piece_s)
            await reply.write(piece)
            piece, piece_s = b"", offset_s
        piece += messages_api.encode(event)
    await _until(start_ns, piece_s)
    await reply.write(piece)
    await reply.finish()


async def _until(start_ns: int, offset_s: float) -> None:
    left_s = offset_s - (time.monotonic_ns() - start_ns) / 1e9
    if left_s > 0:
        await asyncio.sleep(left_s)
