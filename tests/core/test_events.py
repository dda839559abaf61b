"""What goes into an exchange and comes out: values that keep secrets to themselves."""

import pytest

from onwards_core import BodyCollected, Request, Respond, SendUpstream, StreamThrough, UpstreamFailed, UpstreamResponded
from tests.core.gateway_support import snapshot

SECRET = [(b"x", b"secret")]
PROVIDER = snapshot({"m": {"url": "http://p/", "onwards_key": "secret", "proxy": "http://u:secret@h:1/"}}).pools["m"]


@pytest.mark.parametrize(
    "value",
    [
        Request("POST", b"/?key=secret", SECRET, b"secret"),
        UpstreamResponded(200, SECRET),
        UpstreamFailed("reset"),
        BodyCollected(b"secret"),
        SendUpstream(PROVIDER.providers[0], "POST", b"/", SECRET, b"secret"),
        StreamThrough(200, SECRET, None),
        Respond(400, SECRET, b"{}"),
    ],
)
def test_silent(value: object) -> None:
    """Their reprs hold no header and no body of a client or a provider."""
    assert "secret" not in repr(value)
    assert "secret" not in repr(PROVIDER)


def test_request_repr() -> None:
    """A request is told in a log by what is not secret."""
    assert repr(Request("POST", b"/", SECRET, b"abc")) == "<Request POST with 1 headers and 3 bytes>"
