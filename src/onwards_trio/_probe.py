"""Asks providers how they are, where the config wants that: `health.probe`."""

import trio

from onwards_core import Gateway, Pool, Provider
from onwards_trio._upstream import Transport, UpstreamError

_LONGEST_NAP = 1.0  # seconds, after which a reload may have changed what there is to do


class Prober:
    """Call `run` in a task of its own. It goes by the gateway's snapshot of the moment."""

    def __init__(self, gateway: Gateway, transport: Transport) -> None:
        self._gateway = gateway
        self._transport = transport
        self._due: dict[str, float] = {}
        """By the provider's identity, in Trio's time."""

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                now = trio.current_time()
                due = {}
                for pool, provider, interval in self._all():
                    at = self._due.get(provider.identity, now)
                    if at <= now:
                        nursery.start_soon(self._probe, pool, provider)
                        at = now + interval
                    due[provider.identity] = at
                self._due = due
                await trio.sleep_until(min([now + _LONGEST_NAP, *due.values()]))

    def _all(self) -> list[tuple[Pool, Provider, float]]:
        return [
            (pool, provider, pool.probe.interval_secs)
            for pool in self._gateway.snapshot.pools.values()
            if pool.probe is not None
            for provider in pool.providers
        ]

    async def _probe(self, pool: Pool, provider: Provider) -> None:
        assert pool.probe is not None
        ok = False
        with trio.move_on_after(pool.probe.timeout_secs):
            try:
                answer = await self._transport.send(self._gateway.probe(pool, provider))
            except UpstreamError:
                pass
            else:
                ok = answer.status < 400
                await answer.aclose()
        self._gateway.probed(pool, provider, ok=ok, now=trio.current_time())
