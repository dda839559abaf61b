"""Whether a file holds something else than before.

First its status is compared, then, if that changed, a hash of its contents. That costs nothing, and sees files that
are written in place, renamed over, or swapped by a symlink further up, alike.
"""

import hashlib
import stat
import time
from pathlib import Path
from typing import Final

INTERVAL: Final = 0.25
"""Seconds between two looks."""

_TICK: Final = 2.0  # seconds: the coarsest clock of a file system in use


class WatchedFile:
    """To be made before the file is loaded first, so that no change falls between."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._status: tuple[int, ...] | None = None
        self._contents: bytes | None = None

    def changed(self) -> bool:
        """Whether it differs from the last time that this was called. Raises `OSError` if it can't be read."""
        found = self._path.stat()
        status = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        # A pipe can be read once, and that is for the first load.
        if status == self._status or not stat.S_ISREG(found.st_mode):
            return False
        contents = hashlib.sha256(self._path.read_bytes()).digest()
        # Two writes within a tick of the file system's clock can look alike.
        self._status = status if time.time() - found.st_ctime > _TICK else None
        changed = contents != self._contents
        self._contents = contents
        return changed

    def forget(self) -> None:
        """Let whatever is found next be new."""
        self._status = self._contents = None
