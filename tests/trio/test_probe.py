"""Probes: who is asked when, and what comes of it."""

import pytest
import trio
import trio.testing

from onwards_core import SendUpstream
from onwards_core._health import CircuitState
from onwards_trio._probe import Prober
from tests.trio.gateway_support import Scripted, ScriptedTransport, gateway

HEALTH = {
    "consecutive_failures": 1,
    "cooldown_secs": 10,
    "probe": {"path": "/up", "interval_secs": 4, "timeout_secs": 2},
}
POOL = {"providers": [{"url": "http://a"}, {"url": "http://b"}], "health": HEALTH}


class Transport(ScriptedTransport):
    """Answers by provider: a status, or silence."""

    def __init__(self, **answers: int | None) -> None:
        super().__init__(Scripted(200, (), []))
        self.answers = answers
        self.seen: list[tuple[float, str, bytes]] = []

    async def send(self, request: SendUpstream):
        self.seen.append((trio.current_time(), request.provider.label, request.target))
        status = self.answers[request.provider.label]
        if status is None:
            await trio.sleep_forever()
        self._answers = [Scripted(status, (), [])]
        return await super().send(request)


async def states(at, transport: Transport, *moments: float) -> list[list[CircuitState]]:
    """The circuits of all providers of `m` at these moments."""
    found = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Prober(at, transport).run)
        for moment in moments:
            await trio.sleep_until(moment)
            identities = [provider.identity for provider in at.snapshot.pools["m"].providers]
            found.append([at.health.state(identity, moment) for identity in identities])
        nursery.cancel_scope.cancel()
    return found


CLOSED, OPEN = CircuitState.CLOSED, CircuitState.OPEN


@pytest.mark.parametrize("status", [500, 404, None])
async def test_a_failing_probe_opens_the_circuit(status: int | None, autojump_clock) -> None:
    """Whether it is refused or not answered in time; each provider is asked at its interval."""
    transport = Transport(a=status, b=200)
    [[first, second]] = await states(gateway(m=POOL), transport, 3.0)
    assert (first, second) == (OPEN, CLOSED)
    assert sorted((at, label) for at, label, _ in transport.seen) == [(0.0, "a"), (0.0, "b")]
    assert {target for *_, target in transport.seen} == {b"/up"}


async def test_a_good_probe_closes_it_after_the_cooldown(autojump_clock) -> None:
    """So that no client's request has to be the trial."""
    transport = Transport(a=500, b=200)
    at = gateway(m=POOL)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Prober(at, transport).run)
        await trio.sleep(1)
        transport.answers["a"] = 204
        identity = at.snapshot.pools["m"].providers[0].identity
        await trio.sleep(8.5)
        assert at.health.state(identity, trio.current_time()) is OPEN
        await trio.sleep(3)
        assert at.health.state(identity, trio.current_time()) is CLOSED
        nursery.cancel_scope.cancel()


async def test_probes_follow_reloads(autojump_clock) -> None:
    """Who is no longer in the config is not asked any more, and who is new is asked soon."""
    transport = Transport(a=200, b=200, c=200)
    at = gateway(m={"url": "http://a"})
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Prober(at, transport).run)
        await trio.sleep(1.5)
        assert transport.seen == []
        at.snapshot = gateway(m={**POOL, "providers": [{"url": "http://c"}]}).snapshot
        await trio.sleep(1)
        at.snapshot = gateway(m={"url": "http://a"}).snapshot
        await trio.sleep(9)
        nursery.cancel_scope.cancel()
    assert [label for _, label, _ in transport.seen] == ["c"]
