"""What outlives each request and each config: the gateway, which admits requests under its current snapshot."""

from random import Random

from onwards_core._actions import Respond, SendUpstream
from onwards_core._admission import check, screen
from onwards_core._attempts import Upkeep
from onwards_core._beats import LeaseTerms
from onwards_core._events import Request
from onwards_core._exchange import Exchange
from onwards_core._health import Health, Trial
from onwards_core._leases import LeasedLedger
from onwards_core._ledger import Ledger
from onwards_core._record import Record
from onwards_core._request import upstream_headers, upstream_target
from onwards_core._snapshot import Pool, Provider, Snapshot
from onwards_core._strategies import Balancer


class Gateway:
    """Admits requests under its current snapshot.

    Assign `snapshot` to reload: the next request meets the new one, and what is counted stays counted.

    terms: those of the processes that limits are shared with; see `LeasedLedger` for what has to be done then.
    """

    def __init__(self, snapshot: Snapshot, *, random: Random, terms: LeaseTerms | None = None) -> None:
        self.snapshot = snapshot
        self.health = Health(self._others)
        self.ledger = Ledger() if terms is None else LeasedLedger(terms, self.health)
        self.upkeep = Upkeep(self.ledger, self.health, Balancer(), random)

    def admit(
        self,
        request: Request,
        now: float,
        record: Record | None = None,
        *,
        upkeep: Upkeep | None = None,
        kind: type[Exchange] = Exchange,
    ) -> Exchange:
        """Check a request and take the permits of its key and pool.

        Always gives an exchange, to be used as a context manager; the only action of a refused one is the refusal.
        `now`: seconds on a monotonic clock, the same clock for all calls. `record`: that of this request, to be
        filled in; a new one by default. `upkeep` and `kind`: other than the gateway's own, for who records or replays.
        """
        record = record or Record.of(request, now)
        upkeep = upkeep or self.upkeep
        admission = check(request, record, self.snapshot, upkeep.ledger, now)
        return kind(request, record, admission, upkeep)

    def probe(self, pool: Pool, provider: Provider) -> SendUpstream:
        """The request that asks how a provider is, of a pool with a `probe`. Say what came of it to `probed`."""
        assert pool.probe is not None
        request = Request("GET", pool.probe.path.encode("ascii"), [])
        headers = upstream_headers(request, provider, b"", identity_encoding=False)
        target = upstream_target(provider.url.path, request.target)
        return SendUpstream(provider, request.method, target, headers, b"")

    def probed(self, pool: Pool, provider: Provider, *, ok: bool, now: float) -> None:
        """A failure counts as one of a request. A success is the trial that closes a circuit whose cool-down is over;
        otherwise it says nothing, since what it asks for is not what clients want."""
        assert pool.health is not None
        admitted = self.health.admits(provider.identity, now)
        trial = admitted if isinstance(admitted, Trial) else None
        if admitted and not ok:
            others = [each.identity for each in pool.providers if each is not provider]
            self.health.failed(provider.identity, others, pool.health, now, trial=trial)
        elif trial is not None:
            self.health.succeeded(provider.identity, now)

    def _others(self, identity: str) -> list[str]:
        """The rest of a provider's pool."""
        for pool in self.snapshot.pools.values():
            identities = [provider.identity for provider in pool.providers]
            if identity in identities:
                identities.remove(identity)
                return identities
        return []

    def prune(self, now: float) -> None:
        """Forget what no longer counts. To be called now and then."""
        self.ledger.prune(now)
        self.health.prune(now)
        self.upkeep.balancer.prune(now)

    def screen(self, head: Request, now: float, record: Record | None = None) -> Respond | None:
        """The answer to a request that need not be read any further: `head` is all of it but the body.

        None: read the body, then `admit` it. Takes no permits. `record`: that of a refused request, to be filled in.
        """
        return screen(head, record or Record.of(head, now), self.snapshot, self.ledger, now)
