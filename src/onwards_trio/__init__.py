"""The gateway as a server on Trio: `python -m onwards_trio`.

To embed it, run `serve`, or put a server together:

    async with Transports() as transport:
        server = Server(forward(gateway, transport), observe=print)
        await server.serve(await open_listeners("127.0.0.1", 3000))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onwards_trio._connection import Handler
    from onwards_trio._drive import forward
    from onwards_trio._options import Options
    from onwards_trio._reply import Reply
    from onwards_trio._serve import serve
    from onwards_trio._server import Server, open_listeners
    from onwards_trio._upstream import Answer, Transport, Transports, UpstreamError
    from onwards_trio._upstream._direct import DirectTransport
else:  # A type checker would take this to have any name.

    def __getattr__(name: str) -> Any:
        """Import what is asked for, so that `onwards --help` does not wait for the whole server."""
        if name not in _MODULES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


__all__ = [
    "Answer",
    "DirectTransport",
    "Handler",
    "Options",
    "Reply",
    "Server",
    "Transport",
    "Transports",
    "UpstreamError",
    "forward",
    "open_listeners",
    "serve",
]

_MODULES = {
    "Answer": "_upstream",
    "DirectTransport": "_upstream._direct",
    "Handler": "_connection",
    "Options": "_options",
    "Reply": "_reply",
    "Server": "_server",
    "Transport": "_upstream",
    "Transports": "_upstream",
    "UpstreamError": "_upstream",
    "forward": "_drive",
    "open_listeners": "_server",
    "serve": "_serve",
}
