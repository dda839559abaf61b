"""What a store of shared limits has to be able to do."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol, TypeAlias

from onwards_core._lease_calls import Call, Reply


class StoreError(Exception):
    """The store can't be reached, or answers something that makes no sense. Its text is for the log."""


Talk: TypeAlias = Callable[[Sequence[Call]], Awaitable[list[Reply]]]
"""Carries out all calls, in one go where it can, and gives their replies. Raises `StoreError`."""


class Store(Protocol):
    """Where limits are kept."""

    def connected(self) -> AbstractAsyncContextManager[Talk]:
        """A connection, for as long as the context lasts. Raises `StoreError`."""
        ...
