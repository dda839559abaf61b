"""The answers that the gateway gives in its own name.

Two more can't be brought about from outside: a 504, as no deadline is short enough to be waited for, and a 500, which
needs a bug; for that see `test_secrets`.
"""

from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance.support.process import Gateway
from tests.conformance.support.provider import Provider
from tests.conformance.support.wire import Message

_INVALID, _LIMIT, _INTERNAL = "invalid_request_error", "rate_limit_error", "internal_error"


def _rate(gateway: Gateway, provider: Provider) -> Message:
    assert gateway.through(provider, "rated")[1].status == 200
    return gateway.ask("rated")


def _concurrency(gateway: Gateway, provider: Provider) -> Message:
    client = gateway.connect()
    client.request("busy")
    call = provider.call()
    answer = gateway.ask("busy")
    call.respond()
    client.answer()
    return answer


def _too_large(gateway: Gateway, provider: Provider) -> Message:
    client = gateway.connect()
    client.send(b"POST /v1/files HTTP/1.1\r\nHost: g\r\nContent-Length: 100000000000\r\n\r\n")
    return client.answer()


def _too_large_in_chunks(gateway: Gateway, provider: Provider) -> Message:
    client = gateway.connect()
    client.send(b"POST /v1/files HTTP/1.1\r\nHost: g\r\nTransfer-Encoding: chunked\r\n\r\n")
    for _ in range(64):
        client.send_chunk(b"x" * 1024 * 1024)
    client.send(b"1\r\nx")
    return client.answer()


def _malformed(gateway: Gateway, provider: Provider) -> Message:
    client = gateway.connect()
    client.send(b"this is not HTTP\r\n\r\n")
    return client.answer()


def _no_answer(gateway: Gateway, provider: Provider) -> Message:
    client = gateway.connect()
    client.request("open")
    provider.call().close()
    return client.answer()


_Cause = Callable[[Gateway, Provider], Message]

_TABLE: list[tuple[int, str, str, str | None, _Cause]] = [
    (400, "bad_request", _INVALID, "model", lambda gateway, _: gateway.ask(None)),
    (400, "bad_request", _INVALID, None, _malformed),
    (401, "unauthenticated", _INVALID, None, lambda gateway, _: gateway.ask("closed")),
    (403, "forbidden", _INVALID, None, lambda gateway, _: gateway.ask("closed", key="sk-wrong")),
    (404, "model_not_found", _INVALID, "model", lambda gateway, _: gateway.ask("unknown")),
    (413, "payload_too_large", _INVALID, None, _too_large),
    (413, "payload_too_large", _INVALID, None, _too_large_in_chunks),
    (429, "rate_limit", _LIMIT, None, _rate),
    (429, "concurrency_limit_exceeded", _LIMIT, None, _concurrency),
    (502, "bad_gateway", _INTERNAL, None, _no_answer),
    (503, "service_unavailable", _INTERNAL, None, lambda gateway, _: gateway.ask("empty")),
]


@pytest.mark.parametrize(("status", "code", "type", "param", "cause"), _TABLE)
def test_each_error(
    gateway: Gateway, provider: Provider, status: int, code: str, type: str, param: str | None, cause: _Cause
) -> None:
    """OpenAI's envelope as JSON, with a message that helps the caller and names nothing behind the gateway."""
    behind: dict[str, Any] = {"url": provider.url + "INTERNAL", "onwards_model": "INTERNAL", "onwards_key": "INTERNAL"}
    gateway.configure(
        {
            "open": behind,
            "closed": {**behind, "keys": ["sk-INTERNAL"]},
            "empty": {"providers": []},
            "rated": {**behind, "rate_limit": {"requests_per_second": 0.001}},
            "busy": {**behind, "concurrency_limit": {"max_concurrent_requests": 1}},
        }
    )
    answer = cause(gateway, provider)
    assert answer.status == status
    assert answer.head.get("content-type") == "application/json"
    assert set(answer.json()) == {"error"}
    error = answer.json()["error"]
    assert (error["code"], error["type"], error["param"]) == (code, type, param)
    assert set(error) == {"message", "type", "param", "code"}
    assert len(error["message"]) > 10
    for hidden in (b"INTERNAL", b"127.0.0.1", str(provider.port).encode()):
        assert hidden not in answer.body
