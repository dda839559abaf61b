"""Undoes a body's `content-encoding`, piece by piece and in bounded memory."""

import zlib
from collections.abc import Iterator
from typing import Final

MAX_DECODED: Final = 16 * 1024 * 1024
"""The most bytes that one `Decoder.feed` gives."""

_PIECE = 64 * 1024


class CannotDecode(Exception):
    """The encoding is not supported, or the data is corrupt or decodes to too much."""


class Decoder:
    """Decodes gzip (with any number of members) or deflate (with zlib's header, or without as some send it).

    `gzip`: which of the two.
    """

    def __init__(self, *, gzip: bool) -> None:
        self._gzip = gzip
        self._member: zlib._Decompress | None = None

    @property
    def complete(self) -> bool:
        """Whether the data may end here."""
        return self._member is None or self._member.eof

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` decodes to, in pieces of at most 64 KiB; to be read to its end. Raises `CannotDecode`."""
        total = 0
        # zlib copies the input that it has not used yet, for each piece and each member: keep that small.
        for start in range(0, len(data), _PIECE):
            for piece in self._decode(data[start : start + _PIECE]):
                total += len(piece)
                if total > MAX_DECODED:
                    raise CannotDecode("decodes to too much")
                yield piece

    def _decode(self, data: bytes) -> Iterator[bytes]:
        full = False
        # Even with its input used up, a member may hold more output when it has filled a whole piece.
        while data or full:
            if self._member is None or (data and self._member.eof):
                self._member = self._next_member(data)
            try:
                piece = self._member.decompress(data, _PIECE)
            except zlib.error:
                raise CannotDecode("corrupt data") from None
            if piece:
                yield piece
            full = len(piece) == _PIECE
            data = self._member.unconsumed_tail or self._member.unused_data

    def _next_member(self, data: bytes) -> "zlib._Decompress":
        if self._gzip:
            return zlib.decompressobj(16 + zlib.MAX_WBITS)
        if self._member is not None:
            raise CannotDecode("data after the end")
        # The low half of zlib's first byte is its method, 8. No encoder begins bare deflate with that.
        has_header = data[0] & 0x0F == 8
        return zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)


def decoder(content_encoding: bytes | None) -> Decoder | None:
    """A new decoder for a body with this `content-encoding`; None if there is nothing to undo.

    Raises `CannotDecode` for every encoding but gzip and deflate, and for several at once.
    """
    match (content_encoding or b"").strip().lower():
        case b"" | b"identity":
            return None
        case b"gzip" | b"x-gzip":
            return Decoder(gzip=True)
        case b"deflate":
            return Decoder(gzip=False)
    raise CannotDecode("unsupported content-encoding")


def decoded(body: bytes, content_encoding: bytes | None) -> bytes:
    """A whole body without its `content-encoding`, at most 16 MiB. Raises `CannotDecode`."""
    decode = decoder(content_encoding)
    if decode is not None:
        body = b"".join(decode.feed(body))
        if not decode.complete:
            raise CannotDecode("ends too early")
    if len(body) > MAX_DECODED:
        raise CannotDecode("decodes to too much")
    return body
