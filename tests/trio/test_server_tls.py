"""HTTPS for clients, by the program itself: certificates, their renewal, and who is not let in."""

import json
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trustme

from tests.trio.program_support import read_until, running


class Secured:
    """A gateway that speaks HTTPS."""

    def __init__(self, process: object, port: int, folder: Path, authority: trustme.CA) -> None:
        self.process = process
        self.port = port
        self.folder = folder
        self.authority = authority

    def renew(self) -> None:
        certificate = self.authority.issue_cert("127.0.0.1")
        new = self.folder / "new.pem"
        certificate.private_key_and_cert_chain_pem.write_to_path(str(new))
        new.replace(self.folder / "server.pem")

    def connect(self, shown: trustme.LeafCert | None = None, newest: ssl.TLSVersion | None = None) -> ssl.SSLSocket:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        if shown:
            shown.configure_cert(context)
        if newest:
            context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, newest
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=20)
        try:
            return context.wrap_socket(plain, server_hostname="127.0.0.1")
        except BaseException:
            plain.close()
            raise


def ask(connection: socket.socket, headers: bytes = b"") -> bytes:
    """The body of an answer with a length."""
    connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: h\r\n%b\r\n" % headers)
    got = b""
    while b"\r\n\r\n" not in got:
        got += connection.recv(65536)
    head, _, body = got.partition(b"\r\n\r\n")
    length = int(re.search(rb"content-length: (\d+)", head)[1])
    while len(body) < length:
        body += connection.recv(65536)
    return body


@contextmanager
def secured(folder: Path, *options: object) -> Iterator[Secured]:
    authority = trustme.CA()
    config = folder / "config.json"
    config.write_text(json.dumps({"targets": {"m": {"url": "http://127.0.0.1:9/"}}}))
    gateway = Secured(None, 0, folder, authority)
    gateway.renew()
    address = ["--host", "127.0.0.1", "-p", "0", "--metrics-port", "0"]
    with running("serve", "-f", config, *address, "--tls-cert", folder / "server.pem", *options) as process:
        gateway.process = process
        gateway.port = int(
            re.search(r"listening on https://127\.0\.0\.1:(\d+)", read_until(process, "listening on"))[1]
        )
        yield gateway


def test_serves_https(tmp_path: Path) -> None:
    """Several requests on a connection, and an end that is told from a cut."""
    with secured(tmp_path) as gateway, gateway.connect() as client:
        for _ in range(3):
            assert json.loads(ask(client))["data"][0]["id"] == "m"
        ask(client, b"Connection: close\r\n")
        assert client.recv(1) == b""


def test_who_does_not_speak_tls_disturbs_nobody(tmp_path: Path) -> None:
    """Plain HTTP, nonsense, and a version that is too old end their own connection."""
    with secured(tmp_path) as gateway:
        for nonsense in (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"\x16\x03\x01\x00\x05hello", b""):
            with socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as plain:
                plain.sendall(nonsense)
                plain.shutdown(socket.SHUT_WR)
                with suppress(ConnectionResetError):
                    while plain.recv(1000):
                        pass
        with pytest.warns(DeprecationWarning, match="TLSv1"), pytest.raises((ssl.SSLError, ConnectionError)):
            gateway.connect(newest=ssl.TLSVersion.TLSv1_1)
        with gateway.connect() as client:
            assert ask(client)


def test_a_renewed_certificate_is_shown_to_new_connections(tmp_path: Path) -> None:
    """Those that are open stay; one that can't be used is refused, and the old one stays."""
    with secured(tmp_path) as gateway, gateway.connect() as old:
        before = old.getpeercert()["serialNumber"]
        gateway.renew()
        read_until(gateway.process, "TLS reloaded")
        with gateway.connect() as new:
            renewed = new.getpeercert()["serialNumber"]
            assert renewed != before
            assert ask(new)
        assert ask(old)
        (tmp_path / "server.pem").write_text("no certificate")
        read_until(gateway.process, "TLS not reloaded: a certificate and its private key are wanted")
        with gateway.connect() as new:
            assert new.getpeercert()["serialNumber"] == renewed


def test_client_certificates(tmp_path: Path) -> None:
    """Only who shows one of the right authority gets an answer."""
    clients, strangers = trustme.CA(), trustme.CA()
    clients.cert_pem.write_to_path(str(tmp_path / "clients.pem"))
    with secured(tmp_path, "--tls-client-ca", tmp_path / "clients.pem") as gateway:
        with gateway.connect(clients.issue_cert("alice@example.org")) as known:
            assert ask(known)
        for shown in (None, strangers.issue_cert("mallory@example.org")):
            # With TLS 1.3 the client is done with its handshake before it is judged.
            with pytest.raises((ssl.SSLError, ConnectionError, AssertionError)), gateway.connect(shown) as unknown:
                unknown.sendall(b"GET /v1/models HTTP/1.1\r\nHost: h\r\n\r\n")
                assert unknown.recv(1) != b""


@pytest.mark.parametrize(
    ("contents", "problem"),
    [(None, "No such file or directory"), ("x", "a certificate and its private key are wanted")],
)
def test_a_certificate_that_cannot_be_used(tmp_path: Path, contents: str | None, problem: str) -> None:
    """The program says which and why, in one line, and ends."""
    (tmp_path / "config.json").write_text('{"targets": {}}')
    if contents:
        (tmp_path / "server.pem").write_text(contents)
    with running("serve", "-f", tmp_path / "config.json", "--tls-cert", tmp_path / "server.pem") as process:
        output, _ = process.communicate(timeout=20)
        assert process.returncode == 1
        assert problem in output
        assert "Traceback" not in output
