"""Feeds the codecs: bytes in, cut in any way, all events out."""

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import strategies as st

from onwards_trio._wire import ClientCodec, Malformed, RequestHead, ResponseHead, ServerCodec, Signal
from onwards_trio._wire._choose import NAMES, Codecs, codecs

BOTH = [codecs(name) for name in NAMES]
with_each_codec = pytest.mark.parametrize("http", BOTH, ids=NAMES)

Event = RequestHead | ResponseHead | bytes | Signal | Malformed


def drain(codec: ServerCodec | ClientCodec) -> list[Event]:
    """All events that are there; data in one piece, since its cuts follow those of the input."""
    events: list[Event] = []
    while True:
        event = codec.next_event()
        if isinstance(event, bytes) and events and isinstance(events[-1], bytes):
            events[-1] += event
        else:
            events.append(event)
        if isinstance(event, Signal | Malformed):
            return events


def feed(codec: ServerCodec | ClientCodec, pieces: Iterable[bytes]) -> list[Event]:
    """The events of one message that comes in these pieces."""
    events: list[Event] = [Signal.NEED_DATA]
    for piece in pieces:
        codec.receive(piece)
        if events[-1] is Signal.NEED_DATA:
            new = drain(codec)
            events[-1:] = []
            if events and isinstance(events[-1], bytes) and isinstance(new[0], bytes):
                events[-1] += new.pop(0)
            events += new
    return events


def serve(*pieces: bytes) -> list[Event]:
    """What a server makes of this, whichever parser it has."""
    return agreed([feed(http.server(), pieces) for http in BOTH])


def asked(method: str = "GET", http: Codecs = BOTH[0]) -> ClientCodec:
    codec = http.client()
    codec.request(method, b"/", [(b"host", b"provider")], b"")
    return codec


def answer(*pieces: bytes, method: str = "GET") -> list[Event]:
    """What a client makes of this, whichever parser it has."""
    return agreed([feed(asked(method, http), pieces) for http in BOTH])


def agreed(found: list[list[Event]]) -> list[Event]:
    """Both parsers have to find the same; what exactly is wrong they may see differently."""
    first, second = ([_verdict(event) for event in events] for events in found)
    assert first == second
    return found[0]


def _verdict(event: Event) -> object:
    return (Malformed, event.status, event.truncated) if isinstance(event, Malformed) else event


def split(data: bytes, cuts: Iterable[int]) -> list[bytes]:
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    return [data[start:end] for start, end in pairwise(places)]


def each_byte(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


HOST = b"Host: gateway\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"

# Where to cut a message.
CUTS = st.lists(st.integers(0, 400), max_size=12)
