"""Cuts a stream of server-sent events into events, however its bytes arrive.

Works on bytes throughout: the delimiters are ASCII, so a character that was cut in half does no harm.
Every byte is looked at once; only the event under way is kept.
"""

from typing import Final

MAX_EVENT: Final = 1024 * 1024
"""The longest event in bytes, line ends included (`\\r\\n` counts as one)."""

_BOM = b"\xef\xbb\xbf"


class Framer:
    """Call `feed` for each piece that arrived, then `finish` if the stream ended properly.

    Each returns what is complete now, in order: an event's data (its `data:` lines, joined with newlines), or
    None for a comment line. Events without data and all other fields are left out.
    """

    def __init__(self) -> None:
        self.failed = False
        """True once an event became longer than `MAX_EVENT`: nothing more can be framed."""
        self._data: list[bytes] = []  # of the event under way
        self._line = bytearray()  # what came of an unfinished line
        self._size = 0  # of the event's finished lines
        self._after_cr = False
        self._at_start = True

    def feed(self, data: bytes) -> list[bytes | None]:
        found: list[bytes | None] = []
        for line in self._finished_lines(data):
            if not line:
                if event := b"\n".join(self._data):
                    found.append(event)
                self._data.clear()
                self._size = 0
                continue
            self._size += len(line) + 1
            if self._size > MAX_EVENT:
                self.failed = True
                return found
            name, _, value = line.partition(b":")
            if name == b"data":
                self._data.append(value.removeprefix(b" "))
            elif not name:
                found.append(None)
        self.failed = self._size + len(self._line) > MAX_EVENT
        return found

    def finish(self) -> list[bytes | None]:
        """The last event, if its provider left out the empty line after it."""
        return self.feed(b"\n\n")

    def _finished_lines(self, data: bytes) -> list[bytes]:
        # A \r ends its line at once, without waiting for a \n that may follow it: the event may be complete, and
        # the next byte may come much later.
        if self._after_cr and data:
            self._after_cr = False
            data = data.removeprefix(b"\n")
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")

        lines = data.split(b"\n")
        rest = lines.pop()
        if lines:
            if self._line:
                lines[0] = bytes(self._line) + lines[0]
                self._line.clear()
            if self._at_start:
                self._at_start = False
                if lines[0].startswith(_BOM):
                    lines[0] = lines[0].removeprefix(_BOM)
                    self._size = len(_BOM)
        self._line += rest
        return lines
