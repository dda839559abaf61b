"""Content encodings: undone however the bytes arrive, refused when corrupt, bounded against bombs."""

import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from onwards_core._decoding import MAX_DECODED, CannotDecode, Decoder, decoded, decoder


def deflated(data: bytes, wbits: int) -> bytes:
    """What zlib itself makes of it, with the header that `wbits` stands for."""
    compressor = zlib.compressobj(wbits=wbits)
    return compressor.compress(data) + compressor.flush()


ENCODERS: dict[str, tuple[bytes, Callable[[bytes], bytes]]] = {
    "gzip": (b"gzip", gzip.compress),
    "zlib": (b"deflate", lambda data: deflated(data, zlib.MAX_WBITS)),
    "bare deflate": (b"deflate", lambda data: deflated(data, -zlib.MAX_WBITS)),
}


def new(content_encoding: bytes) -> Decoder:
    """A decoder for an encoding that needs one."""
    decode = decoder(content_encoding)
    assert decode is not None
    return decode


@given(parts=st.lists(st.binary(max_size=200), max_size=5), step=st.integers(min_value=1, max_value=50))
@example(parts=[], step=1)
def test_any_cut(parts: list[bytes], step: int) -> None:
    """Every encoding gives the original back, whole and in pieces, and tells a proper end from a cut."""
    data = b"".join(parts)
    for encoding, encode in ENCODERS.values():
        encoded = encode(data)
        assert b"".join(new(encoding).feed(encoded)) == data
        decode = new(encoding)
        decoded = b""
        for start in range(0, len(encoded), step):
            assert start == 0 or not decode.complete
            decoded += b"".join(decode.feed(encoded[start : start + step]))
        assert decoded == data
        assert decode.complete


@given(parts=st.lists(st.binary(max_size=100), min_size=2, max_size=5), step=st.integers(min_value=1, max_value=50))
def test_members(parts: list[bytes], step: int) -> None:
    """Gzip members follow each other, within a piece and across pieces."""
    encoded = b"".join(gzip.compress(part) for part in parts)
    decode = new(b"gzip")
    pieces = [encoded[start : start + step] for start in range(0, len(encoded), step)]
    assert b"".join(out for piece in pieces for out in decode.feed(piece)) == b"".join(parts)
    assert decode.complete


@pytest.mark.parametrize("size", [64 * 1024 - 1, 64 * 1024, 64 * 1024 + 1, 128 * 1024, 1_000_003])
def test_nothing_is_held_back(size: int) -> None:
    """What was flushed comes out at once, however much it is and wherever the pieces' borders fall."""
    compressor = zlib.compressobj(wbits=31)
    decode = new(b"gzip")
    for byte in b"x", b"y":
        flushed = compressor.compress(byte * size) + compressor.flush(zlib.Z_SYNC_FLUSH)
        pieces = list(decode.feed(flushed))
        assert b"".join(pieces) == byte * size
        assert max(map(len, pieces)) <= 64 * 1024
    assert not decode.complete


def test_nothing_is_held_back_at_any_cut() -> None:
    """However much one byte more stands for, all that can be decoded so far comes out."""
    encoded = deflated(bytes(150_000), zlib.MAX_WBITS)
    for end in range(len(encoded) + 1):
        expected = zlib.decompressobj().decompress(encoded[:end])
        assert b"".join(new(b"deflate").feed(encoded[:end])) == expected


def test_large_input() -> None:
    """Input that is longer than a piece, and that hardly compresses, comes out whole."""
    data = b"".join(zlib.crc32(bytes([n % 251, n // 251])).to_bytes(4, "big") for n in range(60_000))
    assert b"".join(new(b"gzip").feed(gzip.compress(data))) == data


@pytest.mark.parametrize("name", [None, b"", b"identity", b" Identity "])
def test_identity(name: bytes | None) -> None:
    """Without an encoding there is nothing to undo."""
    assert decoder(name) is None


@pytest.mark.parametrize("name", [b"GZIP", b" x-gzip ", b"Deflate"])
def test_names(name: bytes) -> None:
    """Names are read in any case, and the old one for gzip too."""
    encoded = zlib.compress(b"hello") if b"flate" in name else gzip.compress(b"hello")
    assert b"".join(new(name).feed(encoded)) == b"hello"


@pytest.mark.parametrize("name", [b"br", b"zstd", b"gzip, gzip", b"gzip, identity", b"compress", b"\xff"])
def test_unsupported(name: bytes) -> None:
    """Every other encoding, and more than one, is refused."""
    with pytest.raises(CannotDecode):
        decoder(name)


def test_corrupt() -> None:
    """Data that is not in its encoding is refused, and so is anything after its end but a gzip member."""
    for encoding, encode in ENCODERS.values():
        with pytest.raises(CannotDecode):
            list(new(encoding).feed(b"\xff\xff\xff\xff"))
        with pytest.raises(CannotDecode):
            list(new(encoding).feed(encode(b"hello") + b"rest"))


def test_what_comes_before_corrupt_data() -> None:
    """Whatever could be decoded is given out before the error is raised."""
    pieces = new(b"gzip").feed(gzip.compress(b"hello") + b"rest")
    assert next(pieces) == b"hello"
    with pytest.raises(CannotDecode):
        next(pieces)


def test_bomb() -> None:
    """One feed gives up to the limit in small pieces, and not a byte more."""
    largest = gzip.compress(bytes(MAX_DECODED))
    assert sum(map(len, new(b"gzip").feed(largest))) == MAX_DECODED
    given_out: list[int] = []
    bomb = new(b"gzip").feed(gzip.compress(bytes(10 * MAX_DECODED)))
    with pytest.raises(CannotDecode):
        given_out.extend(map(len, bomb))
    assert sum(given_out) <= MAX_DECODED
    assert max(given_out) <= 64 * 1024


def test_whole_bodies() -> None:
    """A whole body is decoded; a broken, cut or unknown encoding is none."""
    assert decoded(b"text", None) == b"text"
    assert decoded(gzip.compress(b"text"), b"gzip") == b"text"
    assert decoded(zlib.compress(b"text"), b"deflate") == b"text"
    for body, encoding in ((gzip.compress(b"text")[:-1], b"gzip"), (b"text", b"gzip"), (b"text", b"br")):
        with pytest.raises(CannotDecode):
            decoded(body, encoding)


def test_whole_bodies_are_bounded() -> None:
    """A body may have 16 MiB, by what it decodes to."""
    largest = b"x" * MAX_DECODED
    assert decoded(largest, None) == decoded(gzip.compress(largest), b"gzip") == largest
    for body, encoding in ((largest + b"x", None), (gzip.compress(largest + b"x"), b"gzip")):
        with pytest.raises(CannotDecode):
            decoded(body, encoding)
