"""The scripted model: answers conversations as a scenario says.

Which turn a request asks for follows from the request alone: the ids of the tool calls that it
holds lead through the script, and their results decide at branches. A retried request therefore
gets the same answer, whoever asks and however often. Only faults (which count attempts) and
conversations whose beginning was replaced by a summary need a memory.
"""

import asyncio
import base64
import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from agentsweep.gateway import messages_api
from agentsweep.gateway.exchanges import Attempts, Exchange
from agentsweep.gateway.http_messages import Reply, Request
from agentsweep.gateway.local_model import JSON_HEADERS, STREAM_HEADERS, LocalModel
from agentsweep.gateway.messages_api import Message, MessagesRequest, Usage
from agentsweep.gateway.script import Fault, Pace, Scenario, Script, Turn

EXHAUSTED = "scenario_exhausted"
_EXHAUSTED_TEXT = "The scenario has no further turn for this conversation."
# In the form in which the client looks for it; asked for a summary without, it asks once more.
_SIDE_TEXT = "<summary>The conversation so far followed its scenario; the work goes on.</summary>"

_ERROR_SAID = {
    429: "This request would exceed the rate limit (scripted fault).",
    529: "Overloaded (scripted fault).",
}


# Whose conversation it is: session, agent or opening, script.
Who = tuple[str | None, str | None, str]


@dataclass(frozen=True)
class Place:
    """A turn of a script and how many turns of the conversation came before it."""

    turn: Turn
    step: int


@dataclass(frozen=True)
class Plan:
    """What to answer to one request, and how."""

    message: Message
    pace: Pace
    fault: Fault | None = None


class ScriptedModel(LocalModel):
    """Plays one scenario for one run. latency_scale multiplies every pause of the scenario that
    stands for the model's work; hangs and retry-after are not scaled."""

    def __init__(self, scenario: Scenario, latency_scale: float = 1.0):
        self.scenario = scenario
        self.latency_scale = latency_scale
        self._attempts = Attempts()
        self._salts: dict[Who, str] = {}
        self._twins: Counter[str] = Counter()
        self._resume: dict[Who, Place | None] = {}

    async def answer(
        self,
        read: Callable[[], MessagesRequest],
        request: Request,
        exchange: Exchange,
        reply: Reply,
    ) -> None:
        """Answer a request for a message; what the answer is goes into the exchange."""
        asked = read()
        plan = self.plan(asked, exchange)
        request_id = _digest("req", plan.message.id, str(exchange.retry))
        await _perform(plan, asked, exchange, reply, request_id)

    def plan(self, request: MessagesRequest, exchange: Exchange) -> Plan:
        """Decide; separate from the answering, which takes time."""
        script = self._script(request)
        subagent = request.agent_id is not None or (script is not None and script.marker)
        exchange.kind = "subagent" if subagent else "main"
        if request.summary == "wanted":
            if script is not None:
                # The summary takes the place of the tool calls that say where we are.
                self._resume[_conversation(request, script)] = self._place(request, script)
            return self._side(request, exchange)
        if script is not None and not request.tools and script.turns[0].tools:
            # A conversation whose script calls tools offers some: this is the client's own errand.
            return self._side(request, exchange)
        place = self._place(request, script) if script is not None else None
        if place is None:
            exchange.error = EXHAUSTED
            self._attempts.count(exchange, request.sha256)
            return self._plain(request, exchange, _EXHAUSTED_TEXT)
        assert script is not None
        self._attempts.count(exchange, *_conversation(request, script), place.step)
        exchange.turn, exchange.turn_id = place.step, place.turn.id
        message = self._message(request, script, place)
        fault = place.turn.fault
        if fault is not None and not fault.hits(exchange.retry):
            fault = None
        return Plan(message, self._scaled(place.turn.pace), fault)

    # Where a conversation is

    def _script(self, request: MessagesRequest) -> Script | None:
        """The script of a conversation: a sub-agent's by its marker, else the main one.

        A sub-agent without a known marker has none; it must not act out the main script.
        """
        for script in self.scenario.subagents:
            if script.marker is not None and any(script.marker in t for t in request.opening):
                return script
        known = self._salts.keys() if request.agent_id is not None else ()
        for script in self.scenario.subagents:
            # After a summary the marker may be gone, but the agent is known by its id.
            if (request.session_id, request.agent_id, script.name) in known:
                return script
        return None if request.agent_id is not None else self.scenario.main

    def _place(self, request: MessagesRequest, script: Script) -> Place | None:
        """The turn that is asked for; None where the conversation left the script or it is over."""
        conversation = _conversation(request, script)
        salt = self._salt(request, script)
        place = Place(script.turns[0], 0)
        if request.summary == "given" and conversation in self._resume:
            resumed = self._resume[conversation]
            if resumed is None:
                return None
            place = resumed
        called, answered = set(request.tool_calls), set()
        while called.intersection(calls := _tool_ids(self.scenario, salt, place)):
            answered.update(calls)
            results = [request.results[call] for call in calls if call in request.results]
            following = place.turn.next_index(results)
            place = Place(script.turns[following], place.step + 1)
        strange = request.summary is None and called - answered
        # A text alone is no whole answer where the turn calls tools: its stream was cut off.
        over = request.ended and not (place.turn.tools or request.cut_off)
        return None if over or strange else place

    def _salt(self, request: MessagesRequest, script: Script) -> str:
        """What makes the ids of one conversation its own, and the same in every run.

        Sub-agents of one script are told apart by their prompts, because they ask in no certain
        order; those with the same prompt by their order, which then makes no difference.
        """
        if script.marker is None:
            return script.name
        key = _conversation(request, script)
        if key not in self._salts:
            prompt = next((text for text in request.opening if script.marker in text), "")
            kind = _digest("prompt", script.name, prompt)
            self._salts[key] = f"{kind}#{self._twins[kind]}"
            self._twins[kind] += 1
        return self._salts[key]

    # What is said there

    def _message(self, request: MessagesRequest, script: Script, place: Place) -> Message:
        turn, salt = place.turn, self._salt(request, script)
        identity = _identity(self.scenario, salt, place)
        content: list[dict[str, Any]] = []
        if turn.thinking:
            signature = hashlib.sha512(f"{identity}/{turn.thinking}".encode()).digest()
            content.append(
                {
                    "type": "thinking",
                    "thinking": turn.thinking,
                    "signature": base64.b64encode(signature).decode(),
                }
            )
        if turn.text:
            content.append({"type": "text", "text": turn.text})
        for call, tool in zip(_tool_ids(self.scenario, salt, place), turn.tools, strict=True):
            content.append({"type": "tool_use", "id": call, "name": tool.name, "input": tool.input})
        usage = _estimate(request, tuple(content))
        return Message(
            # The client keeps what it has of a message that was cut off, under that message's id.
            id=_digest("msg", identity, "again" if request.cut_off or request.ended else "first"),
            model=request.model,
            content=tuple(content),
            stop_reason="tool_use" if turn.tools else "end_turn",
            usage=replace(usage, **turn.usage),
        )

    def _side(self, request: MessagesRequest, exchange: Exchange) -> Plan:
        exchange.kind = "side"
        self._attempts.count(exchange, request.sha256)
        return self._plain(request, exchange, _SIDE_TEXT)

    def _plain(self, request: MessagesRequest, exchange: Exchange, text: str) -> Plan:
        """A text of our own, said without delay."""
        content = ({"type": "text", "text": text},)
        name = _digest("msg", self.scenario.sha256, request.sha256)
        message = Message(name, request.model, content, "end_turn", _estimate(request, content))
        return Plan(message, Pace())

    def _scaled(self, pace: Pace) -> Pace:
        return replace(
            pace,
            latency_s=pace.latency_s * self.latency_scale,
            chunk_s=pace.chunk_s * self.latency_scale,
        )


def _conversation(request: MessagesRequest, script: Script) -> Who:
    """Who is speaking. CLIs that send no agent id have their sub-agents told apart by prompt."""
    if script.marker is not None and request.agent_id is None:
        # By a hash: this is kept for the whole run, and an opening may have millions of bytes.
        return (request.session_id, _digest("opening", *request.opening), script.name)
    return (request.session_id, request.agent_id, script.name)


def _identity(scenario: Scenario, salt: str, place: Place) -> str:
    return f"{scenario.sha256}/{salt}/{place.step}/{place.turn.number}"


def _tool_ids(scenario: Scenario, salt: str, place: Place) -> list[str]:
    identity = _identity(scenario, salt, place)
    return [_digest("toolu", identity, str(index)) for index in range(len(place.turn.tools))]


def _digest(prefix: str, *parts: str) -> str:
    return f"{prefix}_{hashlib.sha256('/'.join(parts).encode()).hexdigest()[:24]}"


def _estimate(request: MessagesRequest, content: tuple[dict[str, Any], ...]) -> Usage:
    return Usage(request.input_tokens, messages_api.output_tokens(content))


# Answering


async def _perform(
    plan: Plan, request: MessagesRequest, exchange: Exchange, reply: Reply, request_id: str
) -> None:
    fault = plan.fault
    if fault is not None and fault.kind == "hang_s":
        exchange.error = "hang"
        await asyncio.sleep(fault.value)
        reply.abort()
        return
    if fault is not None and fault.kind == "drop" and fault.value == "connect":
        exchange.error = "dropped"
        reply.abort()
        return
    await asyncio.sleep(plan.pace.latency_s)
    headers = {"request-id": request_id}
    if fault is not None and fault.kind == "status":
        await _fail(fault.value, fault.retry_after_s, exchange, reply, headers)
    elif request.stream:
        await _stream(plan, exchange, reply, headers)
    else:
        await _whole(plan, exchange, reply, headers)


async def _fail(
    status: int,
    retry_after_s: int | None,
    exchange: Exchange,
    reply: Reply,
    headers: dict[str, str],
) -> None:
    exchange.error = messages_api.error_type(status)
    if retry_after_s is not None:
        headers = {**headers, "retry-after": str(retry_after_s)}
    said = _ERROR_SAID.get(status, f"Status {status} (scripted fault).")
    body = messages_api.error_body(status, said, headers["request-id"])
    await reply.send(status, {**JSON_HEADERS, **headers}, body)


async def _stream(plan: Plan, exchange: Exchange, reply: Reply, headers: dict[str, str]) -> None:
    fault, pace = plan.fault, plan.pace
    if fault is not None and fault.kind == "malformed" and fault.value == "body":
        exchange.error = "malformed"
        await reply.send(200, {"content-type": "text/html", **headers}, b"<html>Not the API</html>")
        return
    parts = messages_api.stream_parts(plan.message, pace.chunk_chars)
    if fault is not None:
        parts = _spoiled(parts, fault, exchange)
    elif not pace.chunk_s:
        parts = [b"".join(parts)]
    await reply.start(200, {**STREAM_HEADERS, **headers})
    await reply.write(parts[0])
    for part in parts[1:]:
        await asyncio.sleep(pace.chunk_s)
        await reply.write(part)
    if fault is None:
        exchange.note(plan.message)
    if fault is not None and fault.kind == "drop":
        reply.truncate()
    else:
        await reply.finish()


def _spoiled(parts: list[bytes], fault: Fault, exchange: Exchange) -> list[bytes]:
    """The parts of a stream up to where its fault cuts it off."""
    if fault.kind == "drop":
        exchange.error = "dropped"
        middle = max(1, len(parts) // 2)
        return [*parts[:middle], parts[middle][: len(parts[middle]) // 2]]
    if fault.kind == "stream_error":
        exchange.error = fault.value
        return [parts[0], messages_api.error_event(fault.value, "Scripted fault.")]
    exchange.error = "malformed"
    return [parts[0], messages_api.broken_event()]


async def _whole(plan: Plan, exchange: Exchange, reply: Reply, headers: dict[str, str]) -> None:
    fault = plan.fault
    if fault is not None and fault.kind == "stream_error":
        status = 529 if fault.value == "overloaded_error" else 500
        await _fail(status, None, exchange, reply, headers)
        return
    body, cut_at = messages_api.message_body(plan.message), None
    if fault is not None and fault.kind == "malformed":
        exchange.error = "malformed"
        body = b"<html>Not the API</html>" if fault.value == "body" else body[: len(body) // 2]
    elif fault is not None:
        exchange.error = "dropped"
        cut_at = len(body) // 2
    else:
        exchange.note(plan.message)
    await reply.send(200, {**JSON_HEADERS, **headers}, body, cut_at)
    if cut_at is not None:
        reply.truncate()
