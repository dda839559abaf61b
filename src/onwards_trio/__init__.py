"""The gateway as a server on Trio: `python -m onwards_trio`.

To embed it, run `serve`, or put a server together:

    async with Transports() as transport:
        server = Server(forward(gateway, transport), observe=print)
        await server.serve(await open_listeners("127.0.0.1", 3000))
"""

from onwards_trio._connection import Handler
from onwards_trio._drive import forward
from onwards_trio._reply import Reply
from onwards_trio._serve import Options, serve
from onwards_trio._server import Server, open_listeners
from onwards_trio._upstream import Answer, Transport, Transports, UpstreamError
from onwards_trio._upstream._direct import DirectTransport

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
