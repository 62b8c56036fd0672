"""Server-sent events, as the Messages API streams them, from bytes that come in any pieces.

The format is that of the HTML standard, section 9.2: fields on lines, an empty line ends an event.
"""

from typing import Any

from agentsweep import untrusted

_LONGEST_BYTES = 64 * 2**20


class EventReader:
    """Takes pieces of a stream and gives the JSON object of each event that has become whole.

    What is no JSON object is passed over: a reader of a record must not fail for its content.
    """

    def __init__(self) -> None:
        # Not bytes, which would be copied for each piece of a long event.
        self._rest = bytearray()
        self._held = b""

    def feed(self, piece: bytes) -> list[dict[str, Any]]:
        """The events that end in this piece."""
        # A line may end in CR LF, and the two may come in different pieces.
        piece = self._held + piece
        self._held = b"\r" if piece.endswith(b"\r") else b""
        looked = max(0, len(self._rest) - 1)
        self._rest += piece.removesuffix(b"\r").replace(b"\r\n", b"\n")
        whole: list[bytes] = []
        if self._rest.find(b"\n\n", looked) >= 0:
            *whole, rest = bytes(self._rest).split(b"\n\n")
            self._rest = bytearray(rest)
        if len(self._rest) > _LONGEST_BYTES:
            self._rest.clear()
        return [event for block in whole if (event := _event(block)) is not None]


def _event(block: bytes) -> dict[str, Any] | None:
    lines = [line[5:].strip() for line in block.split(b"\n") if line.startswith(b"data:")]
    if not lines:
        return None
    try:
        event = untrusted.loads(b"\n".join(lines))
    except ValueError:
        return None
    return event if isinstance(event, dict) else None
