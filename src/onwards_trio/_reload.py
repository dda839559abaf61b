"""Keeps a gateway under the config that its file holds."""

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from time import time
from types import MappingProxyType
from typing import Any

import attrs
import trio

from onwards_core import ConfigError, Gateway
from onwards_trio._load import load_snapshot
from onwards_trio._watch import INTERVAL, WatchedFile

_log = logging.getLogger("onwards.config")

# In a thread, because a file may be slow. If the program ends, it does not wait for that.
_aside = partial(trio.to_thread.run_sync, abandon_on_cancel=True)


@attrs.frozen
class Reload:
    """One attempt to put a changed config in force."""

    at: float
    """Seconds of Unix time."""
    problems: tuple[str, ...]
    """Why the config from before stayed in force; none if it worked. Nothing in them is secret."""


class Reloader:
    """Run `watch` in a task, and call `reload` whenever a reload is wanted at once.

    server: as for `load_snapshot`. reloaded: called when another config is in force.

    To be made before the gateway's first snapshot is loaded, so that no change falls between.
    """

    def __init__(
        self,
        path: Path,
        hash_key: bytes,
        server: Mapping[str, Any] = MappingProxyType({}),
        reloaded: Callable[[], None] = lambda: None,
    ) -> None:
        self._reloaded = reloaded
        self.last: Reload | None = None
        self.loaded = time()
        """When the config in force was loaded, in seconds of Unix time."""
        self.counts = {"ok": 0, "failed": 0}
        """How many reloads went how."""
        self._path = path
        self._server = server
        self._hash_key = hash_key
        self._file = WatchedFile(path)
        self._missing = False
        self._one_at_a_time = trio.Lock()
        with suppress(OSError):  # The first load says why it can't be read.
            self._file.changed()

    async def watch(self, gateway: Gateway) -> None:
        """Reload whenever the file changed. Never returns."""
        while True:
            await trio.sleep(INTERVAL)
            if await _aside(self._changed):
                await self.reload(gateway)

    async def reload(self, gateway: Gateway) -> None:
        """Put the file's config in force, as a whole. If it can't be, log why; the old one stays."""
        async with self._one_at_a_time:
            try:
                snapshot = await _aside(load_snapshot, self._path, self._hash_key, self._server)
            except ConfigError as error:
                self._note(*map(str, error.problems))
                for problem in error.problems:
                    _log.error("%s: %s", self._path, problem)
                _log.error("config not reloaded: the one from before stays in force")
            except OSError as error:
                self._note(f"{self._path}: {error.strerror}")
                _log.error("config not reloaded: %s: %s", self._path, error.strerror)
                self._file.forget()  # It is gone again: should it come back, it is new.
            else:
                self.loaded = self._note().at
                gateway.snapshot = snapshot
                gateway.prune(trio.current_time())
                _log.info("config reloaded, targets: %d", len(snapshot.pools))
                self._reloaded()

    def _note(self, *problems: str) -> Reload:
        self.counts["failed" if problems else "ok"] += 1
        self.last = Reload(time(), problems)
        return self.last

    def _changed(self) -> bool:
        """Whether the file holds something else than the last time it was looked at. A missing one did not change."""
        try:
            changed = self._file.changed()
        except OSError as error:
            if not self._missing:
                _log.warning("%s: %s; the config stays in force", self._path, error.strerror)
            self._missing = True
            return False
        self._missing = False
        return changed
