"""Which parser reads HTTP/1.1: httptools where it is installed, as it is with CPython, else h11."""

from collections.abc import Callable
from importlib.util import find_spec
from typing import Final

import attrs

from onwards_trio._wire import ClientCodec, ServerCodec

NAMES: Final = ("httptools", "h11")


@attrs.frozen
class Codecs:
    """Make a codec for each connection."""

    server: Callable[[int, int], ServerCodec]
    """For heads of at most so many bytes and fields."""
    client: Callable[[], ClientCodec]


def codecs(name: str | None = None) -> Codecs:
    """Those of one of `NAMES`, by default of the first that is installed. Raises `ImportError`."""
    if name == "h11" or (name is None and find_spec("httptools") is None):
        from onwards_trio._wire._h11 import H11ClientCodec, H11ServerCodec  # noqa: PLC0415  # only if it is used

        return Codecs(H11ServerCodec, H11ClientCodec)
    from onwards_trio._wire._httptools import HttptoolsClientCodec, HttptoolsServerCodec  # noqa: PLC0415  # may be missing

    return Codecs(HttptoolsServerCodec, HttptoolsClientCodec)
