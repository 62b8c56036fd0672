"""Bodies that came packed: unpacked piece by piece, within bounds."""

import asyncio
import zlib
from collections.abc import Callable

from agentsweep.gateway.http_head import BODY_LIMIT_BYTES, Refused, too_large

# JSON packs to a tenth. What unpacks to more than this times its size was made to do so; small
# bodies may, since they cost nothing.
_UNPACKED_RATIO = 100
_UNPACKED_FREELY_BYTES = 1024 * 1024
# Work on a body goes on for so many bytes before others have their turn.
_SLICE_BYTES = 256 * 1024


async def unpack(body: bytes, coding: str, hold: Callable[[int], None]) -> bytes:
    """The body without its content-encoding; Refused where it has another one, or is too large.

    hold is told of each piece's bytes before they are kept, and may refuse them.
    """
    coding = coding.lower()
    if coding in ("", "identity") or not body:
        return body
    if coding not in ("gzip", "x-gzip", "deflate"):
        raise Refused(415, f"content-encoding {coding[:64]} is not supported; send gzip")
    limit = min(BODY_LIMIT_BYTES, max(_UNPACKED_FREELY_BYTES, len(body) * _UNPACKED_RATIO))
    # 32 added to the window size: zlib recognises gzip and zlib heads by itself.
    decoder = zlib.decompressobj(32 + zlib.MAX_WBITS)
    decoded = bytearray()
    rest = memoryview(body)
    try:
        while rest and not decoder.eof:
            packed, rest = bytes(rest[:_SLICE_BYTES]), rest[_SLICE_BYTES:]
            while packed and not decoder.eof:
                piece = decoder.decompress(packed, _SLICE_BYTES)
                if len(decoded) + len(piece) > limit:
                    raise too_large(limit)
                hold(len(piece))
                decoded += piece
                packed = decoder.unconsumed_tail
                await asyncio.sleep(0)
    except zlib.error:
        raise Refused(400, f"the body is not valid {coding}") from None
    if not decoder.eof:
        raise Refused(400, f"the body is not valid {coding}")
    return bytes(decoded)
