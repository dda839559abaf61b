"""Inputs that arrive in pieces: the first bytes of what a fuzzer makes say where to cut the rest."""

from tests.trio.wire_support import split

_CUTS = 3
PREFIX = 2 * _CUTS
"""How many bytes say where to cut, two for each place."""


def in_pieces(data: bytes) -> tuple[bytes, list[bytes]]:
    """An input's message, whole and in pieces."""
    message = data[PREFIX:]
    numbers = [int.from_bytes(data[at : at + 2]) for at in range(0, PREFIX, 2)]
    return message, split(message, [number % (len(message) + 1) for number in numbers])
