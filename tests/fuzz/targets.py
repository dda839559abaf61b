"""What is fuzzed: one function for each kind of input, which raises if a promise about it is broken."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

from tests.fuzz.core_targets import config, json_body, multipart, request_target, sse
from tests.fuzz.gateway_target import gateway
from tests.fuzz.wire_targets import request, response

TARGETS: dict[str, Callable[[bytes], None]] = {
    "request": request,
    "response": response,
    "gateway": gateway,
    "sse": sse,
    "json_body": json_body,
    "multipart": multipart,
    "request_target": request_target,
    "config": config,
}
CORPUS = Path(__file__).parent / "corpus"


@cache
def corpus(target: str) -> list[bytes]:
    """What is known to lead to different places in the code. Files with a name were written, the others found."""
    return [path.read_bytes() for path in sorted((CORPUS / target).iterdir())]


@cache
def words(target: str) -> list[bytes]:
    """The words and signs in its corpus."""
    found = {word for text in corpus(target) for word in re.findall(rb"[\w-]+|\r\n|[^\w]", text)}
    return sorted(word for word in found if len(word) < 40)
