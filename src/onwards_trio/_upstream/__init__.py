"""Transports: how a request reaches a provider and its answer comes back.

`_direct` speaks HTTP/1.1 over connections of its own, `_httpcore` does HTTP/2 and upstream proxies, `Transports`
chooses between them.
"""

from onwards_trio._upstream._choose import Transports
from onwards_trio._upstream._protocol import Answer, Transport, UpstreamError

__all__ = ["Answer", "Transport", "Transports", "UpstreamError"]
