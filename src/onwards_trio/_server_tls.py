"""How connections from clients are secured, with certificates that may be renewed at any time."""

import logging
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import trio

from onwards_trio._watch import INTERVAL, WatchedFile

_log = logging.getLogger("onwards.tls")


class ServerTls:
    """How connections from clients are secured; all files are PEM. Raises `OSError`, which `ssl.SSLError` is, too.

    key: None if the certificate's file holds it. client_ca: clients have to show a certificate that one of these
    authorities has signed.
    """

    def __init__(self, certificate: Path, key: Path | None = None, client_ca: Path | None = None) -> None:
        self._certificate = certificate
        self._key = key
        self._client_ca = client_ca
        self._files = [WatchedFile(path) for path in (certificate, key, client_ca) if path is not None]
        self._changed()
        self.context = self._load()
        """For the connections that come now."""

    async def watch(self, reloaded: Callable[[], None] = lambda: None) -> None:
        """Take what the files hold into use whenever they changed, and tell. Never returns."""
        while True:
            await trio.sleep(INTERVAL)
            if await trio.to_thread.run_sync(self._changed, abandon_on_cancel=True):
                self.reload()
                reloaded()

    def reload(self) -> None:
        """Take what the files hold into use. If it is no good, log that; what was before stays in use."""
        try:
            self.context = self._load()
        except OSError as error:
            _log.error("%s: TLS not reloaded: %s", self._certificate, error.strerror or error)
        else:
            _log.info("%s: TLS reloaded", self._certificate)

    def _changed(self) -> bool:
        found = False
        for file in self._files:
            with suppress(OSError):  # gone, perhaps to be replaced
                found |= file.changed()
        return found

    def _load(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.options |= ssl.OP_NO_RENEGOTIATION
        try:
            context.load_cert_chain(self._certificate, self._key)
        except ssl.SSLError as error:
            what = "a certificate and its private key are wanted"
            raise OSError(error.errno, what, str(self._certificate)) from error
        if self._client_ca is not None:
            context.load_verify_locations(self._client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
        context.set_alpn_protocols(["http/1.1"])
        return context
