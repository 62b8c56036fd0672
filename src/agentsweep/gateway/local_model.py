"""What every model that answers from this host has in common: it counts by sizes, and has no list
of models."""

import json
import urllib.parse
from typing import Any

from agentsweep.gateway import messages_api
from agentsweep.gateway.exchanges import Exchange
from agentsweep.gateway.http_messages import Reply, Request
from agentsweep.gateway.messages_api import BadRequest

JSON_HEADERS = {"content-type": "application/json"}
STREAM_HEADERS = {
    "content-type": "text/event-stream; charset=utf-8",
    "cache-control": "no-cache",
}


class LocalModel:
    """Answers what is no conversation."""

    async def count_tokens(self, request: Request, exchange: Exchange, reply: Reply) -> None:
        """An estimate from the request's size."""
        try:
            exchange.input_tokens = messages_api.count_tokens(request.body)
        except BadRequest as error:
            await refuse(400, str(error), exchange, reply)
            return
        await send_json(200, {"input_tokens": exchange.input_tokens}, reply)

    async def models(self, request: Request, exchange: Exchange, reply: Reply) -> None:
        """It plays whatever model it is asked for, so it knows each and lists none."""
        name = urllib.parse.unquote(request.path.removeprefix("/v1/models").strip("/"))
        if name:
            entry = {
                "type": "model",
                "id": name,
                "display_name": name,
                "created_at": "1970-01-01T00:00:00Z",
            }
            await send_json(200, entry, reply)
            return
        none = {"data": [], "has_more": False, "first_id": None, "last_id": None}
        await send_json(200, none, reply)

    def progress(self) -> dict[str, Any]:
        """Nothing to say."""
        return {}

    def end(self) -> None:
        """Nothing goes on for a client that has left."""


async def send_json(status: int, content: dict[str, Any], reply: Reply) -> None:
    await reply.send(status, JSON_HEADERS, json.dumps(content).encode())


async def refuse(status: int, said: str, exchange: Exchange, reply: Reply) -> None:
    """An error in the API's form, said by the gateway itself."""
    exchange.refused = True
    exchange.error = messages_api.error_type(status)
    await reply.send(status, JSON_HEADERS, messages_api.error_body(status, said))
