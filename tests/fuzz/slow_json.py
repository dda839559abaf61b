"""JSON by the standard library's reader in Python: unlike one in C, it shows a fuzzer the way into the grammar."""

import json
import json.decoder
import json.scanner
from typing import Any


class Pairs(list[tuple[str, Any]]):
    """An object with all its members, also those whose names stand there twice."""


class _Decoder(json.JSONDecoder):
    def __init__(self) -> None:
        super().__init__(object_pairs_hook=Pairs)
        self.parse_string = json.decoder.py_scanstring
        self.scan_once = json.scanner.py_make_scanner(self)


def decoded(raw: bytes) -> Any:
    """What a text says; `...` if it is no JSON. Bytes that are not UTF-8 are taken for characters of their own."""
    try:
        return _Decoder().decode(raw.decode("utf-8", "surrogateescape"))
    except (ValueError, RecursionError):
        return ...
