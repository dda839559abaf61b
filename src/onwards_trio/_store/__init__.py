"""Limits that several processes share: where they are kept, and the task that talks to that place."""

from onwards_trio._store._keeper import Keeper
from onwards_trio._store._protocol import Store, StoreError

__all__ = ["Keeper", "Store", "StoreError"]
