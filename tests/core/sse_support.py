"""Server-sent events, by a slow definition that sees the whole stream at once."""

import re


def defined(stream: bytes) -> list[bytes | None]:
    """The events of a finished stream, by definition."""
    found: list[bytes | None] = []
    data: list[bytes] = []
    for line in [*re.split(b"\r\n|\n|\r", re.sub(b"^\xef\xbb\xbf", b"", stream)), b""]:
        if match := re.fullmatch(b"data(?:: ?(.*))?", line, re.DOTALL):
            data.append(match[1] or b"")
        elif line[:1] == b":":
            found.append(None)
        elif line == b"":
            found += [b"\n".join(data)] if any(data) or len(data) > 1 else []
            data = []
    return found
