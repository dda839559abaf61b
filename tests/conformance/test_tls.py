"""Providers over TLS, which are verified against what the system trusts."""

import ssl
from collections.abc import Iterator

import pytest
import trustme

from tests.conformance.support.process import Gateway, Process
from tests.conformance.support.provider import Provider

_CA = trustme.CA()


def _provider(authority: trustme.CA, name: str) -> Provider:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return Provider(context)


@pytest.fixture(scope="module", params=["trio", "asyncio"])
def trusting(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """A gateway on a system that trusts one authority."""
    folder = tmp_path_factory.mktemp("tls")
    _CA.cert_pem.write_to_path(str(folder / "ca.pem"))
    with Process(request.param, folder, {"targets": {}}, env={"SSL_CERT_FILE": str(folder / "ca.pem")}) as process:
        yield process


@pytest.fixture
def gateway(trusting: Process) -> Iterator[Gateway]:
    with Gateway(trusting) as gateway:
        yield gateway


def test_verified_provider(gateway: Gateway) -> None:
    """A provider with the right certificate is reached, over and over, and streams."""
    with _provider(_CA, "localhost") as provider:
        gateway.configure({"model": {"url": provider.url}})
        client = gateway.connect()
        for _ in range(2):
            client.request()
            call = provider.call()
            assert call.head.get("host") == f"localhost:{provider.port}"
            call.start()
            client.head()
            call.send_chunk(b"data: 1\n\n")
            client.expect(b"data: 1\n\n")
            call.finish()
            assert client.read_body() == b""


@pytest.mark.parametrize(("authority", "name"), [(trustme.CA(), "localhost"), (_CA, "other.example")])
def test_provider_that_can_not_be_verified(
    gateway: Gateway, second: Provider, authority: trustme.CA, name: str
) -> None:
    """A provider whose certificate is from nobody known, or for another name, gets no request; the next one does."""
    with _provider(authority, name) as provider:
        providers = [{"url": provider.url}, {"url": second.url}]
        gateway.configure({"model": {"strategy": "priority", "providers": providers, "fallback": {"enabled": True}}})
        client = gateway.connect()
        client.request()
        with pytest.raises(ssl.SSLError):
            provider.call()
        second.call().respond()
        assert client.answer().status == 200
