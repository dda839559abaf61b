"""What a process asks of the store of limits that it shares with others, and what it gets to hear.

Times are whole microseconds, those of the store's clock unless said otherwise. Each number is below 2**53, so that a
store that counts in doubles counts exactly.
"""

from typing import Final, TypeAlias

import attrs

from onwards_core._ledger import Rate

MOST: Final = 2**50
"""The longest time, 35 years, and the largest number."""
LISTED: Final = 10
"""How many configs are told apart, and how many of those that have one are named: a fleet may be large."""


@attrs.frozen
class Pace:
    """A rate in whole numbers: `n` tokens cost `n * time / tokens` microseconds, rounded up."""

    time: int
    tokens: int
    slack: int
    """How far in the future the moment may be at which the bucket is full again."""

    @classmethod
    def of(cls, rate: Rate) -> "Pace":
        slack = min(rate.slack // 1000, MOST)
        if rate.interval < 1_000_000 and slack < MOST // 1000:
            return cls(rate.interval, 1000, slack)
        return cls(min(-(-rate.interval // 1000), MOST), 1, slack)

    def cost(self, tokens: int) -> int:
        return -(-tokens * self.time // self.tokens)

    def affordable(self, time: int) -> int:
        """For how many tokens so much time is enough."""
        return time * self.tokens // self.time


@attrs.frozen
class TakeTokens:
    """Take tokens out of a rate's bucket: some for requests that wait, and a stock of them for those that come."""

    bucket: str
    pace: Pace
    wanted: int
    """As many as there are, up to this."""
    stock: int = 0
    """More, if all that is wanted was there."""
    lifetime: int = 0
    """After which nobody uses the stock any more."""
    returned: int = 0
    """Tokens that were taken earlier and won't be used."""
    returned_from: int = 0
    """When those were taken; of a stock, when its lifetime ends. From then on they lose their worth as time passes."""
    owed: int = 0
    """The time that tokens cost which were used without asking, while the store was away."""
    owed_since: int = 0
    """Since when."""
    owed_until: int = 0
    """Until when. At most an empty bucket is left then: more can't have been used."""


@attrs.frozen
class TokensTaken:
    now: int
    granted: int
    stocked: int
    wait: int
    """How long it takes until there is a token; 0 if all that was wanted was there."""


@attrs.frozen
class HoldPermits:
    """Say how many permits the process holds, and take more. They come back `lease` after the last call."""

    identity: str
    limit: int
    process: str
    turn: int
    """Counts the process's calls. One that arrives late is not heard."""
    holds: int
    """All that the process has by its own account. It counts, also beyond the limit."""
    wanted: int
    stock: int
    """More, if all that is wanted was there."""
    lease: int
    grace: int
    """As for `Beat`. Whoever holds permits, or asks for some, has heard a store."""


@attrs.frozen
class PermitsHeld:
    now: int
    granted: int
    """Of those wanted."""
    stocked: int
    contended: bool
    """Whether somebody did not get what was wanted, within the last second."""
    opens_in: int
    """How long nobody gets any: the store does not know what others hold."""
    over: int
    """By how much all together are beyond the limit: it became lower, or a process came back that was taken for dead.
    So many permits are not to be used again."""


@attrs.frozen
class Absence:
    """Why a provider is left out, and for how long from now."""

    kind: str
    """`open`: its circuit. `paused`: it asked for it."""
    identity: str
    time: int


@attrs.frozen
class Load:
    """How many requests are under way at a provider."""

    identity: str
    count: int


@attrs.frozen
class InForce:
    """A config, and who has it."""

    config: str
    count: int
    """Of processes."""
    processes: tuple[str, ...]
    """The oldest of them, at most `LISTED`. None where all have the same config."""


@attrs.frozen
class Beat:
    """A sign of life."""

    process: str
    lease: int
    """After which the process is taken for dead, if it gives no other. 0: it ends now."""
    grace: int
    """How long the store is to hold everything back if it was away, or has lost its data: everybody says within that
    time what is held. 0: it does not ask whether it was away."""
    config: str
    """What tells its config from others."""
    knew: str = ""
    """The store that it heard last. Another one: this one does not know all permits that are lent. Empty: none."""
    heard: str = ""
    """The `mark` of the last answer that it got from there."""
    said: bool = True
    """Whether it has said since then which permits it holds, or did not have to."""
    absences: tuple[Absence, ...] = ()
    loads: tuple[Load, ...] = ()
    """Its own."""


@attrs.frozen
class Beaten:
    now: int
    store: str
    """Another one: the store has lost its data."""
    mark: str
    """Tells the store when it gave this answer. Who tells it shows that the store was there then."""
    processes: int
    rank: int
    """Among them, by age. 0 as well for one that ends."""
    opens_in: int
    """How long to hold everything back; 0: not at all."""
    permits_in: int
    """How long nobody gets a permit: at least as long. Who is silent may hold some that the store does not know of."""
    configs: int
    """How many different ones the processes have."""
    in_force: tuple[InForce, ...]
    """Which those are, the commonest first, at most `LISTED`."""
    absences: tuple[Absence, ...]
    loads: tuple[Load, ...]
    """Of all others together."""


Call: TypeAlias = TakeTokens | HoldPermits | Beat
Reply: TypeAlias = TokensTaken | PermitsHeld | Beaten
