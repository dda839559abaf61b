"""Permits and rates over any course of exchanges, failures, cancellations and reloads."""

from collections.abc import Sequence
from typing import Any, get_args

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from onwards_core import (
    Action,
    BodyCollected,
    CollectBody,
    Event,
    Exchange,
    FailureReason,
    Pool,
    Respond,
    SendUpstream,
    UpstreamFailed,
    UpstreamResponded,
)
from onwards_core._ledger import Limit, Rate
from tests.core.gateway_support import chat, error_code, gateway, snapshot
from tests.core.slow_limits import SECOND, SlowLedger

RATES = st.none() | st.fixed_dictionaries(
    {"requests_per_second": st.sampled_from([0.1, 1, 3, 1000]), "burst_size": st.sampled_from([1, 2, 5])}
)
CONCURRENCY = st.none() | st.fixed_dictionaries({"max_concurrent_requests": st.integers(1, 3)})
LIMITS: dict[str, st.SearchStrategy[Any]] = {"rate_limit": RATES, "concurrency_limit": CONCURRENCY}
PROVIDERS = st.fixed_dictionaries(
    {"url": st.sampled_from(["http://a/", "http://b/"]), "sanitize_response": st.booleans(), **LIMITS}
)
POOLS = st.fixed_dictionaries(
    {
        "providers": st.lists(PROVIDERS, max_size=3),
        "strategy": st.sampled_from(["priority", "weighted_random"]),
        "fallback": st.none()
        | st.fixed_dictionaries({"enabled": st.booleans(), "on_status": st.just([5]), "on_rate_limit": st.booleans()}),
        **LIMITS,
    }
)
CONFIGS = st.fixed_dictionaries(
    {
        "targets": st.fixed_dictionaries({}, optional={"m": POOLS, "n": POOLS}),
        "key_definitions": st.fixed_dictionaries(
            {}, optional={"team": st.fixed_dictionaries({"key": st.just("sk-team"), **LIMITS})}
        ),
    }
)


@attrs.define(eq=False)
class Open:
    """An exchange, and what the model says of it."""

    exchange: Exchange
    pool: Pool | None
    """None: refused."""
    refusal: str | None
    held: list[str]
    """Identities of key and pool."""
    provider: list[str] = attrs.field(factory=list)
    """The identity of the provider that was tried last."""
    action: Action | None = None
    attempts: int = 0


class Balance(RuleBasedStateMachine):
    """Each step is taken by a gateway and by a slow model of its limits, which have to agree on what is held, by whom,
    and on each refusal."""

    @initialize(config=CONFIGS, start=st.integers(0, 10**15))
    def begin_empty(self, config: dict[str, Any], start: int) -> None:
        self.at = start
        self.gateway = gateway(**config)
        self.slow = SlowLedger()
        self.open: list[Open] = []
        self.full_at: dict[tuple[str, Rate], int] = {}

    @property
    def now(self) -> float:
        return self.at / SECOND

    # What the world does

    @rule(nanoseconds=st.sampled_from([1, 10**6, SECOND // 3, SECOND, 10 * SECOND]))
    def time_passes(self, nanoseconds: int) -> None:
        self.at += nanoseconds

    @rule(config=CONFIGS, prune=st.booleans())
    def reload(self, config: dict[str, Any], prune: bool) -> None:
        self.gateway.snapshot = snapshot(**config)
        if prune:
            self.gateway.prune(self.now)
            self.full_at = {key: full_at for key, full_at in self.full_at.items() if full_at > self.at}

    @rule(alias=st.sampled_from("mn"), key=st.sampled_from([None, "sk-team", "sk-other"]), begin=st.booleans())
    def a_client_comes(self, alias: str, key: str | None, begin: bool) -> None:
        entry = Open(self.gateway.admit(chat(alias, key=key), self.now), *self._admitted(alias, key))
        self.open.append(entry)
        if begin:
            self._begin(entry)

    def _admitted(self, alias: str, key: str | None) -> tuple[Pool | None, str | None, list[str]]:
        """What is to come of a request by the model: its pool, or why it is refused; and what it holds."""
        current = self.gateway.snapshot
        pool = current.pools.get(alias)
        if pool is None:
            return None, "model_not_found", []
        if not pool.providers:
            return None, "service_unavailable", []
        limits = [pool.limit]
        if key == "sk-team" and current.key_limits:
            limits += [definition.limit for definition in current.key_limits.values()]
        refusal = self.slow.acquire(limits, self.at)
        if refusal:
            return None, refusal, []
        return pool, None, [limit.identity for limit in limits]

    @precondition(lambda self: self._waiting(type(None)))
    @rule(data=st.data())
    def a_driver_begins(self, data: st.DataObject) -> None:
        self._begin(data.draw(st.sampled_from(self._waiting(type(None)))))

    def _begin(self, entry: Open) -> None:
        self._took(entry, entry.exchange.begin(self.now))
        if entry.pool is None:
            assert isinstance(entry.action, Respond)
            assert error_code(entry.action) == entry.refusal

    @precondition(lambda self: self._waiting(SendUpstream, CollectBody))
    @rule(data=st.data(), status=st.sampled_from([200, 404, 500, 503]), reason=st.sampled_from(get_args(FailureReason)))
    def a_provider_answers(self, data: st.DataObject, status: int, reason: FailureReason) -> None:
        entry = data.draw(st.sampled_from(self._waiting(SendUpstream, CollectBody)))
        success: Event = BodyCollected(b'{"choices": []}')
        if isinstance(entry.action, SendUpstream):
            success = UpstreamResponded(status, [(b"content-type", b"application/json")])
        event = data.draw(st.sampled_from([success, success, UpstreamFailed(reason)]))
        self._took(entry, entry.exchange.feed(event, self.now))

    def _waiting(self, *actions: type) -> list[Open]:
        return [entry for entry in self.open if isinstance(entry.action, actions)]

    def _took(self, entry: Open, action: Action) -> None:
        """Follow an exchange through the attempts that it made: the model has to refuse those that it passed over."""
        entry.action = action
        for attempt in entry.exchange.record.attempts[entry.attempts :]:
            assert entry.pool is not None
            limit = self._limit(entry.pool, attempt.provider)
            refusal = self.slow.acquire([limit], self.at)
            assert (attempt.outcome == "refused_locally") == (refusal is not None)
            if refusal is None:
                self.slow.release(entry.provider)
                entry.provider = [limit.identity]
                assert isinstance(action, SendUpstream)
                assert action.provider.limit is limit
        entry.attempts = len(entry.exchange.record.attempts)

    @staticmethod
    def _limit(pool: Pool, label: str) -> Limit:
        (limit,) = (provider.limit for provider in pool.providers if provider.label == label)
        return limit

    # How exchanges end

    @precondition(lambda self: self.open)
    @rule(data=st.data(), twice=st.booleans())
    def an_exchange_is_closed(self, data: st.DataObject, twice: bool) -> None:
        entry = self._remove(data)
        with entry.exchange:
            pass
        if twice:
            entry.exchange.close()

    @precondition(lambda self: self.open)
    @rule(data=st.data())
    def an_exchange_is_dropped(self, data: st.DataObject) -> None:
        entry = self._remove(data)
        with pytest.warns(ResourceWarning, match="without being closed"):
            del entry.exchange

    def _remove(self, data: st.DataObject) -> Open:
        entry = self.open.pop(data.draw(st.integers(0, len(self.open) - 1)))
        self.slow.release(entry.held + entry.provider)
        return entry

    def teardown(self) -> None:
        for entry in getattr(self, "open", ()):
            entry.exchange.close()
        if hasattr(self, "gateway"):
            assert self.gateway.ledger.permits_out() == 0

    # What holds at any time

    @invariant()
    def permits_balance(self) -> None:
        """Each identity holds as many permits as the model says, and nobody else holds any."""
        ledger = self.gateway.ledger
        assert ledger._held == {identity: count for identity, count in self.slow.held.items() if count}
        assert ledger.permits_out() == self.slow.held.total()
        assert self.open or not ledger.permits_out()
        held: Sequence[str] = [identity for entry in self.open for identity in entry.held + entry.provider]
        assert ledger.permits_out() == len(held)

    @invariant()
    def rates_never_go_back(self) -> None:
        """What was spent is not given back: not by a failure, a cancellation or a reload."""
        found = self.gateway.ledger._full_at
        for key, full_at in self.full_at.items():
            assert found[key] >= full_at
        self.full_at = dict(found)


TestBalance = Balance.TestCase
TestBalance.settings = settings(max_examples=60, stateful_step_count=40)
