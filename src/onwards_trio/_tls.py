"""How connections to providers are secured."""

import os
import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from onwards_core import Secret, TlsConfig


@lru_cache(maxsize=64)
def provider_context(tls: TlsConfig | None, *protocols: str) -> ssl.SSLContext:
    """For connections to providers, offering these protocols. Raises `ssl.SSLError` for PEM texts that are no good.

    None: trusts what the system trusts. Cached, because to read all that takes as long as a hundred requests.
    """
    tls = tls or TlsConfig()
    context = ssl.create_default_context(cadata=tls.ca.reveal() if tls.ca else None)
    context.options |= ssl.OP_NO_RENEGOTIATION  # A send would have to wait for something to read.
    if tls.insecure_skip_verification:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.certificate:
        with _readable(tls.certificate, *([tls.key] if tls.key else [])) as path:
            context.load_cert_chain(path)
    context.set_alpn_protocols(protocols)
    return context


@contextmanager
def _readable(*texts: Secret) -> Iterator[str]:
    """The path of a file that holds these texts, which OpenSSL wants; not on a disk, where that is possible."""
    data = "\n".join(text.reveal() for text in texts).encode()
    if hasattr(os, "memfd_create"):
        with os.fdopen(os.memfd_create("pem"), "wb") as file:
            file.write(data)
            file.flush()
            yield f"/proc/self/fd/{file.fileno()}"
    else:
        with tempfile.NamedTemporaryFile() as file:
            file.write(data)
            file.flush()
            yield file.name
