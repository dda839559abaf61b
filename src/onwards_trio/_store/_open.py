"""The store that the config names, ready to be used."""

import os
import secrets
import socket

from onwards_core import ConfigError, Gateway, LeasedLedger, LeaseTerms, OnLoss, StateConfig
from onwards_trio._channel import Channel
from onwards_trio._store._embedded import PATIENCE, ParentStore
from onwards_trio._store._keeper import Keeper


def lease_terms(state: StateConfig | None) -> LeaseTerms:
    """For this process, under a name that tells people where it runs and that no other has. None: a worker whose
    parent has the store, with nothing to configure."""
    name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
    if state is None:
        return LeaseTerms(name)
    return LeaseTerms(name, state.lease_seconds, local=state.on_loss is OnLoss.LOCAL, share_load=state.share_load)


def keeper(gateway: Gateway, state: StateConfig) -> Keeper:
    """For a gateway with `lease_terms`, and a URL. Raises `ConfigError` where the library is missing."""
    try:
        from onwards_trio._store._redis import RedisStore  # noqa: PLC0415  # only who uses it has to have it
    except ImportError:
        raise ConfigError(("state: needs the extra redis, as in pip install onwards[redis]",)) from None
    ledger = gateway.ledger
    assert isinstance(ledger, LeasedLedger)  # since it has terms
    return Keeper(ledger, RedisStore(state), lambda: gateway.snapshot.digest)


def keeper_of_worker(gateway: Gateway, channel: Channel) -> Keeper:
    """The same, for a worker whose parent has the store."""
    ledger = gateway.ledger
    assert isinstance(ledger, LeasedLedger)
    return Keeper(ledger, ParentStore(channel), lambda: gateway.snapshot.digest, PATIENCE)
