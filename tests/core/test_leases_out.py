"""Who was out, alone or with all others, and what that means for those who were not."""

import pytest

from onwards_core._beats import LeaseTerms
from onwards_core._health import Health
from onwards_core._lease_calls import Beat, Beaten, Pace, TakeTokens, TokensTaken
from onwards_core._lease_store import LeaseStore
from onwards_core._leases import LeasedLedger
from onwards_core._ledger import Limit, Permit, Rate, Refusal
from tests.core.lease_support import PERMITS, RATE, Talker, in_touch

LEASE = 10_000_000
GRACE = 2_000_000
MS = 1_000


class Told:
    """A store and its processes, which all are well until 10 s."""

    def __init__(self, *processes: str) -> None:
        self.store = LeaseStore("store")
        self.answered = dict.fromkeys(processes, 0)
        for second in range(8, 11):
            for process in processes:
                self.beat(process, second * 1000)

    def beat(self, process: str, at: int, out_for: int = 0) -> Beaten:
        """Times are milliseconds."""
        call = Beat(process, LEASE, out_for * MS, GRACE, "", "store", self.answered[process])
        reply = self.store.apply(call, at * MS)
        self.answered[process] = at * MS
        assert isinstance(reply, Beaten)
        return reply


def test_one_that_was_out_alone_is_back_when_another_has_had_an_answer():
    """That one is held back at no time. Its first sign of life tells what was before."""
    told = Told("p", "q")
    assert told.beat("p", 10_600, out_for=500).doubt
    assert told.beat("q", 11_000).opens_in == 0
    assert told.beat("p", 11_100, out_for=1000).doubt
    assert told.beat("q", 12_000).opens_in == 0
    back = told.beat("p", 12_100, out_for=2000)
    assert (back.doubt, back.opens_in) == (False, 0)
    assert told.beat("q", 13_000).opens_in == 0


def test_when_all_are_out_the_store_was_away():
    """As soon as the last of them says so, all hold back; also who heard before that nobody could tell."""
    told = Told("p", "q", "r")
    assert told.beat("p", 10_600, out_for=500).doubt
    assert told.beat("q", 10_700, out_for=500).doubt
    assert told.beat("r", 10_800, out_for=300).opens_in == GRACE
    back = told.beat("p", 11_100, out_for=1000)
    assert (back.doubt, back.opens_in) == (False, GRACE - 300 * MS)


def test_when_nobody_has_had_an_answer_for_long_the_store_was_away():
    """Who is silent may be out as well."""
    told = Told("p", "q")
    assert told.beat("p", 12_590, out_for=2499).doubt
    assert told.beat("p", 12_591, out_for=2500).opens_in == GRACE


def test_one_without_others_goes_on_at_once():
    """It knows itself what it used."""
    back = Told("p").beat("p", 20_000, out_for=9000)
    assert (back.doubt, back.opens_in) == (False, 0)


def test_of_a_bucket_with_fewer_tokens_than_processes_not_all_have_a_part():
    """The youngest is refused as by the rate."""
    store = LeaseStore("the store")
    talkers = [Talker(LeasedLedger(LeaseTerms(name), Health()), store) for name in "pq"]
    for second in range(6):
        for talker in talkers:
            talker.talk(second)
    one = Limit("one", Rate.per_second(1, 1))
    for talker in talkers:
        lost(talker, 6.0).ledger.acquire([one], 6.0)
    assert [isinstance(talker.ledger.acquire([one], 7.1), Permit) for talker in talkers] == [True, False]


def lost(talker: Talker, at: float) -> Talker:
    talker.ledger.collect(at)
    talker.ledger.lost(at)
    return talker


def beat_of(talker: Talker, now: float) -> Beat:
    (call,) = talker.ledger.collect(now)
    assert isinstance(call, Beat)
    return call


def test_who_is_back_within_a_moment_was_not_out():
    """As it has given out nothing."""
    talker = lost(in_touch(), 1.0)
    assert talker.ledger.away
    assert isinstance(talker.ledger.acquire([RATE], 1.2), Refusal)
    (call, *_) = talker.talk(1.24)
    assert call.out_for == 0
    assert talker.ledger.in_touch(1.24)
    assert not talker.ledger.away


def test_an_answer_that_comes_after_that_moment_does_not_count():
    """It went on by itself meanwhile, and has to say so."""
    talker = lost(in_touch(), 1.0)
    call = beat_of(talker, 1.1)
    assert call.out_for == 0
    talker.ledger.acquire([RATE], 1.1)
    assert isinstance(talker.ledger.acquire([RATE], 1.3), Permit)
    talker.ledger.replied([talker.store.apply(call, 1_200_000)], 1.3)
    assert talker.ledger.away
    assert talker.ledger.next_look() <= 1.3
    (call, *_) = talker.talk(1.3)
    assert call.out_for == 300_000
    assert talker.ledger.in_touch(1.3)


def test_who_can_not_tell_asks_again_and_goes_on_by_itself():
    """Half a beat later."""
    talker = in_touch()
    other = Beat("other", LEASE, 0, GRACE, "", "the store")
    talker.store.apply(other, 500_000)
    talker.ledger.acquire([PERMITS], 0.9)
    talker.talk(0.9)
    lost(talker, 1.0)
    talker.ledger.acquire([RATE], 1.0)
    assert talker.talk(2.0)[0].out_for == 1_000_000
    assert talker.ledger.away
    assert isinstance(talker.ledger.acquire([RATE], 2.1), Permit)
    assert talker.ledger.next_look() == pytest.approx(2.5)
    talker.store.apply(Beat("other", LEASE, 0, GRACE, "", "the store", 2_300_000), 2_400_000)
    talker.talk(2.5)
    assert talker.ledger.in_touch(2.5)


def test_after_a_connection_broke_each_moment_counts():
    """What is there again may be a server that was started anew, with less than it knew before."""
    talker = in_touch()
    talker.ledger.collect(1.0)
    talker.ledger.interrupted(1.0)
    lost(talker, 1.01)
    assert beat_of(talker, 1.06).out_for == 50_000


def test_buckets_are_empty_when_the_store_was_away_from_all():
    """What one of them used by itself may never be heard, if it is stopped or was killed."""
    told = Told("p", "silent")
    assert told.beat("p", 15_000, out_for=5000).opens_in == GRACE
    pace = Pace.of(Rate.per_second(100, 10))
    for bucket in ("used before", "new"):
        wish = TakeTokens(bucket, pace, wanted=5, stock=5)
        assert told.store.apply(wish, 17_000 * MS) == TokensTaken(17_000 * MS, 0, 0, 10 * MS)
        assert told.store.apply(wish, 17_020 * MS) == TokensTaken(17_020 * MS, 2, 0, 10 * MS)
    told.beat("p", 17_000)
    assert told.store.apply(TakeTokens("used before", pace, wanted=20), 30_000 * MS).granted == 10
