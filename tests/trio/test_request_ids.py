"""What requests are called: by clients, by the gateway and by providers."""

import re

import pytest
import trio

from onwards_core import HeaderFields, Record, Request, SendUpstream, StreamThrough, UpstreamResponded
from onwards_core._request import request_id
from onwards_trio._connection import Connection, Service
from onwards_trio._drive import forward
from onwards_trio._wire._h11 import H11ServerCodec
from tests.trio.gateway_support import JSON, Client, Scripted, ScriptedTransport, gateway, pool, post, tcp_pair


@pytest.mark.parametrize(
    ("sent", "taken"),
    [
        (b"abc-1_2.3:4/5+6=7@8~9", "abc-1_2.3:4/5+6=7@8~9"),
        (b"a" * 128, "a" * 128),
        (b"a" * 129, None),
        (b"", None),
        (b"a b", None),
        (b'a"b', None),
        (b"a\x1b[2J", None),
        ("ä".encode(), None),
    ],
)
def test_what_is_taken(sent: bytes, taken: str | None) -> None:
    """Only what can break out of no header, log line or terminal."""
    assert request_id(HeaderFields([(b"x", b"1"), (b"x-request-id", sent)])) == taken


def test_none() -> None:
    """Without the header there is no id."""
    assert request_id(HeaderFields([(b"x", b"1")])) is None


@pytest.mark.parametrize("given", [b"theirs", None])
def test_providers_get_the_one_of_the_record(given: bytes | None) -> None:
    """Once, whatever the client sent; and what the provider calls it stays with the attempt."""
    at = gateway(m=pool("one"))
    headers = [*JSON, *([(b"x-request-id", given)] if given else [])]
    request = Request("POST", b"/v1/chat/completions", headers, b'{"model": "m"}')
    record = Record.of(request, 0.0)
    record.request_id = "ours"
    with at.admit(request, 0.0, record) as exchange:
        action = exchange.begin(0.0)
        assert isinstance(action, SendUpstream)
        assert [value for name, value in action.headers if name == b"x-request-id"] == [b"ours"]
        answer = exchange.feed(UpstreamResponded(200, [*JSON, (b"x-request-id", b"req_1")]), 1.0)
    assert isinstance(answer, StreamThrough)
    assert b"x-request-id" not in dict(answer.headers)
    assert record.attempts[0].response_id == "req_1"


def test_a_credential_in_its_place() -> None:
    """A provider that takes its credential there gets that, and an echo of it gets into no record."""
    provider = {"url": "http://p/", "onwards_key": "sk-1", "upstream_auth_header_name": "X-Request-ID"}
    at = gateway(m={"providers": [{**provider, "upstream_auth_header_prefix": ""}]})
    record = Record("POST", b"/v1/chat/completions", 0.0, request_id="ours")
    request = Request("POST", b"/v1/chat/completions", JSON, b'{"model": "m"}')
    with at.admit(request, 0.0, record) as exchange:
        action = exchange.begin(0.0)
        assert isinstance(action, SendUpstream)
        assert [value for name, value in action.headers if name == b"x-request-id"] == [b"sk-1"]
        exchange.feed(UpstreamResponded(200, [*JSON, (b"x-request-id", b"sk-1")]), 1.0)
    assert record.attempts[0].response_id is None


@pytest.mark.parametrize(
    ("bytes_sent", "status"),
    [
        (post(headers="x-request-id: mine\r\n"), 200),
        (post("unknown", headers="x-request-id: mine\r\n"), 404),
        (post(), 200),
        (post(headers="x-request-id: a b\r\n"), 200),
        (b"nonsense\r\n\r\n", 400),
    ],
)
async def test_each_answer_carries_one(bytes_sent: bytes, status: int) -> None:
    """The client's, or a new one; it is the one in the record."""
    records: list[Record] = []
    transport = ScriptedTransport(Scripted(200, (b"{}",), [*JSON, (b"x-request-id", b"theirs")]))
    ours, theirs = tcp_pair()
    service = Service(forward(gateway(m=pool("one")), transport), observe=records.append)
    async with trio.open_nursery() as nursery, theirs:
        nursery.start_soon(Connection(ours, H11ServerCodec(), service).run)
        answer = await Client(theirs).ask(bytes_sent)
    given = answer.headers[b"x-request-id"].decode()
    assert answer.status == status
    assert given == "mine" if b"mine" in bytes_sent else re.fullmatch("[0-9a-f]{32}", given)
    assert [record.request_id for record in records] == [given]
