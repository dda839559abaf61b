"""What a client sends, all the way to the request for the provider: the same with both codecs, and for each reader."""

import json
import socket
from contextlib import suppress
from random import Random

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from onwards_core import Gateway, HeaderFields, Record, SendUpstream, Snapshot, load_config
from onwards_trio._connection import Connection, Service
from onwards_trio._drive import forward, screening
from onwards_trio._tcp import TcpStream
from onwards_trio._wire import RequestHead, Signal
from onwards_trio._wire._choose import Codecs
from onwards_trio._wire._guard import FIELD_LIMIT, HEAD_LIMIT
from tests.fuzz.cutting import in_pieces
from tests.trio.gateway_support import Scripted, ScriptedTransport
from tests.trio.wire_support import BOTH, serve

_CONFIG = {
    "targets": {
        "m": {"url": "http://plain.test/v1"},
        "r": {"url": "http://renaming.test", "onwards_model": "real", "onwards_key": "provider-key"},
        "k": {"url": "http://guarded.test/v1/", "keys": ["client-key"], "upstream_auth_header_name": "X-Key"},
    }
}
_SNAPSHOT = Snapshot.compile(load_config(json.dumps(_CONFIG).encode()), hash_key=b"k" * 32)


@attrs.frozen
class _Outcome:
    sent: list[SendUpstream]
    """The requests that reached providers."""
    statuses: list[int | None]
    """Of the answers to the client."""


def gateway(data: bytes) -> None:
    """The requests on one connection, one after the other."""
    message, pieces = in_pieces(data)
    in_one, *others = trio.run(_with_both, message, pieces)
    for other in others:
        # A refusal may come before what is wrong further down has arrived, and then another answer than to the whole.
        assert other.sent == in_one.sent
    assert others[0].statuses == others[1].statuses
    for sent in in_one.sent:
        _check_reading(sent)


async def _with_both(message: bytes, pieces: list[bytes]) -> list[_Outcome]:
    """In one piece with one codec, then in pieces with both."""
    return [await _outcome(BOTH[0], [message]), *[await _outcome(http, pieces) for http in BOTH]]


async def _outcome(http: Codecs, pieces: list[bytes]) -> _Outcome:
    """What becomes of a client's connection on which these pieces arrive, one after the other."""
    transport = ScriptedTransport(Scripted(steps=(b"{}",)))
    core = Gateway(_SNAPSHOT, random=Random(1))
    records: list[Record] = []
    ours, theirs = socket.socketpair()
    connection = Connection(
        TcpStream(ours),
        http.server(HEAD_LIMIT, FIELD_LIMIT),
        Service(forward(core, transport), screening(core), observe=records.append),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(connection.run)
        with theirs, suppress(BrokenPipeError, ConnectionResetError):  # It may have been refused by now.
            for piece in pieces:
                theirs.sendall(piece)
                await wait_all_tasks_blocked()
    statuses = [record.status for record in records]
    assert 500 not in statuses  # which is our own fault
    return _Outcome([_without_id(sent) for sent in transport.requests], statuses)


def _without_id(sent: SendUpstream) -> SendUpstream:
    """An id that is new is another one each time."""
    return attrs.evolve(sent, headers=[field for field in sent.headers if field[0] != b"x-request-id"])


def _check_reading(sent: SendUpstream) -> None:
    """Whichever codec writes it, whoever reads it reads one request, with just this in it."""
    length = [int(value) for name, value in sent.headers if name == b"content-length"]
    head = RequestHead(
        method=sent.method,
        target=sent.target,
        headers=HeaderFields([field for field in sent.headers if field[0] != b"content-length"]),
        http_1_0=False,
        content_length=length[0] if length else None,
        expects_continue=False,
    )
    for http in BOTH:
        written = http.client().request(sent.method, sent.target, sent.headers, sent.body)
        assert serve(written) == [head, *([sent.body] if sent.body else []), Signal.END]
