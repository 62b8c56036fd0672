"""Server-sent events, as the Messages API streams them, from bytes that come in any pieces.

The format is that of the HTML standard, section 9.2: fields on lines, an empty line ends an event.
"""

import json

_LONGEST_BYTES = 64 * 2**20


class EventReader:
    """Takes pieces of a stream and gives the JSON object of each event that has become whole.

    What is no JSON object is passed over: a reader of a record must not fail for its content.
    """

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[dict]:
        """The events that end in this piece."""
        # A line may end in CR LF, and the two may come in different pieces.
        text = (self._rest + piece).replace(b"\r\n", b"\n")
        *whole, self._rest = text.split(b"\n\n")
        if len(self._rest) > _LONGEST_BYTES:
            self._rest = b""
        return [event for block in whole if (event := _event(block)) is not None]


def _event(block: bytes) -> dict | None:
    lines = [line[5:].strip() for line in block.split(b"\n") if line.startswith(b"data:")]
    if not lines:
        return None
    try:
        event = json.loads(b"\n".join(lines))
    except (ValueError, RecursionError):
        return None
    return event if isinstance(event, dict) else None
