"""The status in figures and words."""

import pytest

from onwards_trio._status_data import (
    SLOT,
    SLOTS,
    Bucket,
    ConfigStatus,
    Limits,
    PoolStatus,
    ProviderStatus,
    ReloadStatus,
    Status,
    Trouble,
    latency_step,
)
from onwards_trio._status_view import _REASONS, reason_text, view

AT = 1_000_003.0
NOW = int(AT // SLOT)  # the slot that began three seconds ago


def status(*pools: PoolStatus, troubles: tuple[Trouble, ...] = (), **values: object) -> Status:
    defaults = {
        "at": AT,
        "started": 0.0,
        "version": "1",
        "draining": False,
        "in_flight": 0,
        "config": ConfigStatus(["d"], 0.0),
        "keys": [],
    }
    return Status(**{**defaults, "pools": list(pools), "troubles": list(troubles), **values})


def pool(*providers: ProviderStatus, alias: str = "a", **exchanges: Bucket) -> PoolStatus:
    """Exchanges by how many slots ago they ended: `ago_1`."""
    series = {NOW - int(name.removeprefix("ago_")): bucket for name, bucket in exchanges.items()}
    return PoolStatus(alias, Limits(), list(providers), series)


def provider(name: str = "x", ago: int = 0, done: int = 0, failed: int = 0, **values: object) -> ProviderStatus:
    return ProviderStatus(name, Limits(), attempts={NOW - ago: Bucket(done, failed)} if done else {}, **values)


def attempt(reason: str = "status_503", *, provider: str = "x", last: float = AT, then: str | None = "y") -> Trouble:
    return Trouble(
        kind="attempt", alias="a", key=None, provider=provider, reason=reason, by=None, then=then, count=1, last=last
    )


class TestStates:
    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ({}, "idle"),
            ({"done": 5}, "ok"),
            ({"done": 5, "ago": SLOTS - 1}, "ok"),
            ({"done": 5, "ago": SLOTS}, "idle"),
            ({"done": 10, "failed": 2}, "failing"),
            ({"done": 10, "failed": 2, "ago": 2}, "failing"),
            ({"done": 10, "failed": 2, "ago": 3}, "ok"),
            ({"done": 11, "failed": 2}, "ok"),
            ({"done": 1, "failed": 1}, "ok"),
            ({"circuit": "open", "open_until": AT + 5}, "open"),
            ({"circuit": "trial", "done": 9, "failed": 9}, "trial"),
            ({"paused_until": AT + 5}, "paused"),
            ({"paused_until": AT + 5, "done": 9, "failed": 9}, "failing"),
        ],
    )
    def test_providers(self, values, expected) -> None:
        """What fails now counts, within fifteen seconds; one failure among many, or alone, makes no bad provider."""
        [found] = view(status(pool(provider(**values)))).pools[0].providers
        assert found.state == expected
        assert (found.until is not None) == (expected in ("open", "paused"))

    @pytest.mark.parametrize(
        ("providers", "exchanges", "expected"),
        [
            ((provider(),), None, ("idle", "ok")),
            ((provider(done=5),), Bucket(5), ("ok", "ok")),
            ((provider(done=5, failed=5), provider("y", done=5)), Bucket(5), ("degraded", "degraded")),
            ((provider(done=5, failed=5),), Bucket(5, 5), ("down", "down")),
            ((), Bucket(5, 5), ("down", "down")),
            ((provider(),), Bucket(0, 0, 5), ("ok", "ok")),
        ],
    )
    def test_pools(self, providers, exchanges, expected) -> None:
        """What clients get decides: a provider that fails degrades its pool, errors make it one that is down."""
        found = view(status(pool(*providers, **({"ago_0": exchanges} if exchanges else {}))))
        assert (found.pools[0].state, found.state) == expected


class TestWords:
    def test_all_is_well(self) -> None:
        found = view(status(pool(provider(done=5), ago_0=Bucket(5))))
        assert (found.headline, found.problems, found.state) == ("All is well", [], "ok")

    def test_a_provider_fails(self) -> None:
        """The headline names it and says what that means for clients; the problem says why."""
        bad, good = provider(done=9, failed=9), provider("y", done=9)
        found = view(status(pool(bad, good, ago_0=Bucket(9)), troubles=(attempt(),)))
        assert found.headline == "x is not well; clients get answers from others"
        assert found.problems == ["x (a) is failing, 100 % of its attempts: it answered 503"]

    def test_nobody_else(self) -> None:
        """It promises no answers from others where there are none."""
        found = view(status(pool(provider(circuit="open"), provider("y", circuit="open"))))
        assert found.headline == "x, y are not well"

    def test_clients_get_errors(self) -> None:
        """That is what comes first."""
        found = view(status(pool(provider(done=9, failed=9), ago_0=Bucket(9, 9)), troubles=(attempt("connect"),)))
        assert found.headline == "Clients of a get errors"
        assert found.problems == [
            "Clients of a get errors, 100 % of all answers",
            "x (a) is failing, 100 % of its attempts: it can't be reached",
        ]

    def test_each_state(self) -> None:
        providers = [
            provider("w", paused_until=AT + 1),
            provider("x", circuit="open"),
            provider("y", circuit="trial"),
            provider("z", done=1),
        ]
        found = view(status(pool(*providers), troubles=(attempt("reset"),)))
        assert found.headline == "w, x, y are not well; clients get answers from others"
        assert found.problems == [
            "x (a) is out of service: it closed the connection",
            "y (a) is on trial: the next request decides whether it is well again",
            "w (a) has asked for a pause",
        ]

    def test_many(self) -> None:
        """A headline has room for three names."""
        names = ["p", "q", "r", "s", "t"]
        found = view(status(pool(*(provider(name, circuit="open") for name in names))))
        assert found.headline == "p, q, r and 2 more are not well"

    def test_the_config(self) -> None:
        """A reload that failed, and processes that differ."""
        config = ConfigStatus(["d", "e"], 1.0, ReloadStatus(2.0, ["targets: bad"]))
        found = view(status(config=config))
        assert (found.state, found.headline) == ("degraded", found.problems[0])
        assert found.problems == [
            "The last reload failed; the config from before stays in force",
            "Not all processes have the same config in force",
        ]
        assert (found.config.reloaded, found.config.problems) == (2.0, ["targets: bad"])

    @pytest.mark.parametrize(
        ("trouble", "expected"),
        [
            (attempt(), "status_503"),
            (attempt(last=AT - 61), None),
            (attempt(provider="y"), None),
            (attempt("circuit_open"), None),
        ],
    )
    def test_why(self, trouble, expected) -> None:
        """What went wrong at the provider itself, also shortly after it has recovered."""
        found = view(status(pool(provider(done=9)), troubles=(trouble,))).pools[0].providers[0]
        assert (found.reason, found.text) == (expected, expected and "answered 503")

    def test_troubles(self) -> None:
        """Each as a sentence: who, what, and what came next; or which limit refused it."""
        refusal = Trouble(
            kind="refusal", alias="a", key="k", provider=None, reason="rate_limit", by="key", then=None, count=3
        )
        found = view(status(troubles=(attempt(), attempt("embedded_429", then=None), refusal))).troubles
        assert [each.text for each in found] == [
            "x answered 503; then y was tried",
            "x answered 200 with an error 429 in it",
            "Too many requests (key limit)",
        ]

    def test_each_reason_has_words(self) -> None:
        """All that the core and the transport may say; what comes later is shown as it is."""
        from typing import get_args

        from onwards_core import _errors, _events

        reasons = {*get_args(_events.FailureReason), "empty", "circuit_open", "paused", "refused_locally", "overloaded"}
        assert reasons <= set(_REASONS)
        assert {code for code in _errors._CATALOGUE if _errors._CATALOGUE[code][0] < 500} <= set(_REASONS)
        assert reason_text("something_new") == "something_new"


class TestFigures:
    def test_rate(self) -> None:
        """Of the last full slot and the one that has just begun."""
        found = view(status(pool(ago_0=Bucket(6), ago_1=Bucket(10), ago_2=Bucket(99)))).exchanges
        assert found.per_second == 2.0

    def test_shares(self) -> None:
        """Of the last minute; without requests there is none."""
        found = view(status(pool(ago_0=Bucket(10, 1), ago_11=Bucket(10, 2), ago_12=Bucket(99, 99))))
        assert found.exchanges.failed == 0.15
        assert view(status()).exchanges.failed is None

    def test_latencies(self) -> None:
        """Half were as quick as the median, 95 of 100 as quick as the other."""
        latencies = {latency_step(seconds): count for seconds, count in ((0.1, 50), (1.0, 45), (10.0, 5))}
        found = view(status(pool(ago_0=Bucket(100, 0, 0, latencies)))).exchanges
        assert found.median == pytest.approx(0.1, rel=0.11)
        assert found.p95 == pytest.approx(1.0, rel=0.11)
        assert view(status()).exchanges.median is None

    def test_history(self) -> None:
        """Five minutes, the oldest first."""
        newest, oldest = Bucket(3, 1, 0, {latency_step(1.0): 2}), Bucket(7)
        found = view(status(pool(ago_0=newest, **{f"ago_{SLOTS - 1}": oldest}))).exchanges.history
        assert len(found.done) == len(found.failed) == len(found.median) == SLOTS == 300 // SLOT
        assert (found.done[0], found.done[-1], found.failed[-1]) == (7, 3, 1)
        assert found.median[0] is None
        assert found.median[-1] == pytest.approx(1.0, rel=0.11)

    def test_the_sum(self) -> None:
        """Of all pools, and of what belongs to none."""
        found = view(status(pool(ago_0=Bucket(1)), pool(alias="b", ago_0=Bucket(2)), others={NOW: Bucket(0, 0, 4)}))
        assert (found.exchanges.history.done[-1], found.exchanges.refused) == (3, 4)

    def test_limits(self) -> None:
        """As short as can be read."""
        it = PoolStatus("a", Limits(1, 2, 3.14159, 4, 1 / 3), [])
        assert view(status(it)).pools[0].limits == Limits(1, 2, 3.14, 4, 0.333333)
