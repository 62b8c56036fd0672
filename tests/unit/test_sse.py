"""Events come out whole, wherever their bytes were cut."""

import pytest
from timing import LIMIT, growth

from agentsweep.sse import EventReader

STREAM = (
    b'event: message_start\ndata: {"type":"message_start","n":"\xc3\xa4"}\n\n'
    b": a comment\n\n"
    b'event: ping\r\ndata: {"type":"ping"}\r\n\r\n'
    b'data: {"type":\ndata: "two lines"}\n\n'
    b"data: no json\n\ndata: [1]\n\n"
    b'data: {"type":"message_stop"}\n\ndata: {"type":"cut'
)
EVENTS = ["message_start", "ping", "two lines", "message_stop"]


@pytest.mark.parametrize("size", [1, 2, 3, 7, len(STREAM)])
def test_pieces_of_any_size_give_the_same_events(size):
    reader, found = EventReader(), []
    for start in range(0, len(STREAM), size):
        found += reader.feed(STREAM[start : start + size])
    assert [event["type"] for event in found] == EVENTS
    assert found[0]["n"] == "\u00e4"


def test_an_event_is_given_with_the_piece_that_ends_it():
    reader = EventReader()
    assert reader.feed(b'data: {"type":"a"}\n') == []
    assert reader.feed(b"\n") == [{"type": "a"}]


@pytest.mark.slow
def test_a_long_event_in_small_pieces_is_read_once():
    """Not once for each of them."""

    def reading(pieces):
        def read():
            reader = EventReader()
            for _ in range(pieces):
                assert reader.feed(b"x" * 100) == []

        return read

    assert growth(reading, 40_000) < LIMIT


def test_a_carriage_return_between_two_pieces_belongs_to_its_line_end():
    reader = EventReader()
    assert reader.feed(b'data: {"a": 1}\r') == []
    assert reader.feed(b"\n\r") == []
    assert reader.feed(b'\ndata: {"b":\rdata: 2}\n\n') == [{"a": 1}]
    assert reader.feed(b'data: {"c": 3}\n\n') == [{"c": 3}]
