"""A store that is empty: where it lost its data, those who are silent may hold permits that it does not know."""

import pytest

from onwards_core._beats import LeaseTerms
from onwards_core._health import Health
from onwards_core._lease_calls import Beat, HoldPermits
from onwards_core._lease_store import LeaseStore
from onwards_core._leases import LeasedLedger
from onwards_core._ledger import Limit, Permit, Refusal
from tests.core.lease_support import PERMITS, RATE, Talker, in_touch

LEASE = 10_000_000
GRACE = 2_000_000


def beat(process: str, knew: str = "", heard: str = "0") -> Beat:
    return Beat(process, LEASE, GRACE, "", knew, heard)


def asked(talker: Talker, limit: Limit, now: float) -> object:
    """What becomes of a request."""
    outcome = talker.ledger.acquire([limit], now)
    if isinstance(outcome, Permit | Refusal):
        return outcome
    talker.talk(now)
    return outcome.outcome


def test_where_all_are_new_it_opens_soon():
    """Nobody can have been lent anything: a first start is quick, for rates and for permits."""
    store = LeaseStore()
    talkers = [Talker(LeasedLedger(LeaseTerms(name), Health()), store) for name in "pq"]
    for at in (0.0, 1.0, 1.9):
        for talker in talkers:
            talker.talk(at)
    assert not talkers[0].ledger.in_touch(1.95)
    for talker in talkers:
        talker.talk(2.0)
        assert isinstance(asked(talker, PERMITS, 2.1), Permit)
        assert isinstance(asked(talker, RATE, 2.1), Permit)


def test_who_knew_another_store_gets_no_permit_for_a_lease():
    """What it was lent it goes on using, and rates go on after a moment."""
    talker = in_touch()
    held = asked(talker, PERMITS, 0.5)
    assert isinstance(held, Permit)
    talker.store = LeaseStore()
    talker.talk(1.0)
    assert not talker.ledger.in_touch(2.9)
    for at in (2.0, 3.0):
        talker.talk(at)
    assert talker.ledger.in_touch(3.1)
    assert isinstance(asked(talker, RATE, 3.1), Permit)
    refused = Refusal("concurrency_limit_exceeded", 1.0, "permits")
    for second in range(3, 11):
        assert asked(talker, PERMITS, second + 0.2) == refused
        assert not any(isinstance(call, HoldPermits) and call.wanted for call in talker.talk(second + 0.3))
    held.release()
    assert isinstance(asked(talker, PERMITS, 10.5), Permit)
    assert asked(talker, PERMITS, 10.5) == refused
    assert isinstance(asked(talker, PERMITS, 11.1), Permit)


def test_what_is_not_in_use_stays_lent_until_permits_can_be_had_again():
    """Given back, nobody could have it for the rest of the lease."""
    talker = in_touch()
    permits = [asked(talker, Limit("permits", permits=40), 0.5) for _ in range(10)]
    talker.store = LeaseStore()
    talker.talk(1.0)
    for permit in permits:
        permit.release()
    counts = {}
    for tick in range(11, 130):
        talker.talk(tick / 10)
        counts[tick] = talker.ledger._permits["permits"].count
    assert counts[100] >= 10
    assert counts[129] < 10


def test_whoever_asks_for_permits_first_has_known_another_store():
    """It may hear of the loss that way, before its next sign of life."""
    store = LeaseStore()
    assert store.apply(HoldPermits("i", 5, "p", 1, 3, 1, 0, LEASE, GRACE), 100).opens_in == LEASE
    told = store.apply(beat("new"), 200)
    assert (told.opens_in, told.permits_in) == (GRACE - 100, LEASE - 100)
    talker = in_touch()
    talker.store = LeaseStore()
    claim = talker.ledger.acquire([PERMITS], 0.2)
    talker.talk(0.2)
    assert claim.outcome == Refusal("concurrency_limit_exceeded", 1.0, "permits")
    assert asked(talker, PERMITS, 9.9) == claim.outcome


@pytest.mark.parametrize(("at", "permits_in"), [(1, LEASE - 1), (3_000_000, LEASE - 3_000_000), (LEASE + 1, 0)])
def test_who_comes_late_and_knew_another_store_stops_what_is_left(at, permits_in):
    """Whether the store, where all were new until then, gives out permits already or not: from the first call on it is
    a lease. Said again, or after that, it changes nothing."""
    store = LeaseStore()
    assert store.apply(beat("new"), 0).permits_in == GRACE
    name = mark = store.apply(beat("new", "0"), 0).store
    assert name == "0"
    for then in range(0, at, 500_000):
        mark = store.apply(beat("new", name, mark), then).mark
    store.apply(beat("late", "another"), at)
    told = store.apply(beat("new", name), at)
    assert (told.permits_in, told.opens_in) == (permits_in, max(0, GRACE - at))
    assert store.apply(HoldPermits("i", 5, "new", 1, 0, 1, 0, LEASE, GRACE), at).granted == (permits_in == 0)
    assert store.apply(beat("late", "another"), at + 1).permits_in == max(0, permits_in - 1)


def test_what_is_over_is_not_told_to_another_store():
    """Others have it, which a store that has lost its data could not know."""
    talker = in_touch()
    permits = [asked(talker, PERMITS, 0.5) for _ in range(2)]
    other = HoldPermits("permits", 2, "other", 1, 2, 0, 0, LEASE, GRACE)
    talker.store.apply(other, 600_000)
    talker.talk(1.6)
    permits[0].release()
    talker.store = LeaseStore()
    calls = [call for call in talker.talk(1.7) if isinstance(call, HoldPermits)]
    assert [call.holds for call in calls] == [1]
    permits[1].release()
    refused = Refusal("concurrency_limit_exceeded", 1.0, "permits")
    assert talker.ledger.acquire([PERMITS], 1.8) == refused
    talker.talk(2.7)
    assert talker.ledger._permits["permits"].count == 0


def test_who_was_taken_for_dead_uses_nothing_again_before_all_have_said_what_they_hold():
    """What runs on counts, but others were given the same, which a new store does not know yet."""
    talker = in_touch()
    permits = [asked(talker, PERMITS, 0.5) for _ in range(2)]
    talker.store = LeaseStore()
    calls = [call for call in talker.talk(20.0) if isinstance(call, HoldPermits)]
    assert [call.holds for call in calls] == [2]
    permits[0].release()
    for second in range(21, 31):
        assert isinstance(talker.ledger.acquire([PERMITS], second - 0.9), Refusal)
        talker.talk(second)
    assert isinstance(asked(talker, PERMITS, 31.1), Permit)
