"""A store that was away from all, or from one alone, and what that means for everybody."""

import attrs
import hypothesis.strategies as st
import pytest
from hypothesis import given

from onwards_core._beats import LeaseTerms
from onwards_core._health import Health
from onwards_core._lease_calls import Beat, Beaten, HoldPermits, Pace, TakeTokens, TokensTaken
from onwards_core._lease_store import LeaseStore, silence
from onwards_core._leases import LeasedLedger
from onwards_core._ledger import Limit, Permit, Rate, Refusal
from tests.core.lease_support import PERMITS, RATE, Talker, in_touch, ledger

LEASE = 10_000_000
GRACE = 2_000_000
MS = 1_000


class Told:
    """A store and its processes, which all are well until 10 s."""

    def __init__(self, *processes: str) -> None:
        self.store = LeaseStore("store")
        self.marks: dict[str, str] = {}
        for at in range(8_000, 10_001, 500):
            for process in processes:
                self.beat(process, at)

    def beat(self, process: str, at: int, *, knew: str = "store", answered: bool = True, said: bool = True) -> Beaten:
        """at: milliseconds. answered: whether it gets the answer."""
        heard = self.marks.get(process)
        call = Beat(process, LEASE, GRACE, "", knew, heard, said) if heard else Beat(process, LEASE, GRACE, "")
        reply = self.store.apply(call, at * MS)
        assert isinstance(reply, Beaten)
        if answered:
            self.marks[process] = reply.mark
        return reply


def test_one_that_was_out_alone_goes_on_at_once():
    """Others had answers meanwhile, so what it used by itself is its own affair. Nobody is held back."""
    told = Told("p", "q")
    for at in range(10_500, 20_001, 500):
        assert told.beat("q", at).opens_in == 0
    assert told.beat("p", 20_100).opens_in == 0


NEW = "a process that is new"
PACE = Pace.of(Rate.per_second(100, 10))


# The last answer that anybody told of was that of 9.5 s; `p` knows of a later one.
@pytest.mark.parametrize(("first", "latest"), [("p", 11_500), (NEW, 11_000), ("permits", 11_000), ("tokens", 11_000)])
@pytest.mark.parametrize("away", [False, True])
def test_the_first_who_calls_finds_that_it_was_away(first, latest, away):
    """Whoever that is: one that noticed nothing, one that is new, or a call that was waiting for long."""
    told = Told("p", "q")
    at = latest + away
    if first == "permits":
        reply = told.store.apply(HoldPermits("i", 5, "p", 1, 0, 2, 0, LEASE, GRACE), at * MS)
        assert (reply.granted, reply.opens_in) == ((0, GRACE) if away else (2, 0))
    elif first == "tokens":
        assert told.store.apply(TakeTokens("b", PACE, wanted=2), at * MS).granted == (0 if away else 2)
    else:
        reply = told.beat(first, at)
        assert (reply.opens_in, reply.permits_in) == ((GRACE, GRACE) if away else (0, 0))
    for process in ("p", "q"):
        assert told.beat(process, at + 100).opens_in == (GRACE - 100 * MS if away else 0)


ASKED = HoldPermits("i", 5, "p", 1, 0, 5, 0, LEASE, GRACE)


def test_what_a_silent_one_was_lent_stays_its_own_for_a_lease():
    """From when the store is back, as it could not be heard before."""
    told = Told("p", "silent")
    told.store.apply(attrs.evolve(ASKED, process="silent", wanted=2), 10_000 * MS)
    for at in range(15_000, 26_000, 500):
        assert told.beat("p", at).permits_in == max(0, 17_000 - at) * MS
        found = told.store.apply(attrs.evolve(ASKED, turn=at), at * MS)
        assert found.granted == (0 if at < 17_000 else 3 if at < 25_000 else 5)


@pytest.mark.parametrize(("at", "permits_in"), [(16_500, GRACE), (16_501, LEASE)])
def test_permits_wait_where_shares_of_them_may_have_been_used(at, permits_in):
    """Nobody uses more than it was lent before a lease is over."""
    told = Told("p", "q")
    assert told.beat("p", at).permits_in == permits_in


def test_nobody_is_given_a_permit_before_all_have_said_what_they_hold():
    """That is certain of those that know that it was away. Who is new holds nothing."""
    told = Told("p", "q")
    told.beat(NEW, 20_000)
    for process in ("p", "q"):
        told.beat(process, 20_100)
        assert told.beat(process, 20_200, said=False).permits_in == LEASE - 200 * MS
    assert told.beat("p", 20_300).permits_in == LEASE - 300 * MS
    assert told.beat("q", 20_400).permits_in == GRACE - 400 * MS
    for at in (21_000, 21_500):
        told.beat("p", at)
    assert told.store.apply(ASKED, 21_999 * MS).granted == 0
    assert told.store.apply(attrs.evolve(ASKED, turn=2), 22_000 * MS).granted == 5


def test_who_stays_silent_is_waited_for_until_its_lease_is_over():
    """It may hold permits that nobody knows of; rates go on meanwhile. If it ends, or says what it holds, that is
    that."""
    for until, ends in ((30_000, False), (25_000, False), (25_000, True)):
        told = Told("p", "silent")
        for at in range(20_000, 31_000, 500):
            if at == until and ends:
                told.store.apply(Beat("silent", 0, GRACE, "", "store", told.marks["silent"]), at * MS)
            elif at == until < 30_000:
                told.beat("silent", at)
                told.beat("silent", at)
            beaten = told.beat("p", at)
            assert beaten.permits_in == (max(0, 30_000 - at) * MS if at < until else 0)
            assert beaten.opens_in == max(0, 22_000 - at) * MS
            assert beaten.processes == (1 if at >= until and (ends or until == 30_000) else 2)


def test_calls_that_are_not_answered_in_time_show_nothing():
    """A store that is slow hears everybody, but everybody goes on by itself."""
    told = Told("p", "q")
    for at in (10_500, 11_000):
        for process in ("p", "q"):
            assert told.beat(process, at, answered=False).opens_in == 0
    assert told.beat("p", 11_502, answered=False).opens_in == GRACE


@pytest.mark.parametrize(("knew", "mark"), [("another", "10900000"), ("store", "99000000")])
def test_answers_of_another_store_or_clock_show_nothing(knew, mark):
    """What is told of a time that has not come yet was another server's, and shows no more than the call itself."""
    told = Told("p", "q")
    told.marks["p"] = mark
    told.beat("p", 10_900, knew=knew, answered=False)
    assert told.beat("q", 12_401).opens_in == GRACE


def test_one_without_others_goes_on_at_once_also_from_a_store_that_was_away():
    """It knows itself what it used."""
    told = Told("p")
    assert told.beat("p", 20_000).opens_in == 0
    assert told.beat("p", 20_500).opens_in == 0


def test_a_store_that_is_away_again_and_again():
    """It is found out each time, also before it opened: all have to be heard in one go."""
    told = Told("p", "q")
    assert told.beat("p", 15_000, answered=False).opens_in == GRACE
    assert told.beat("p", 16_501, answered=False).opens_in == GRACE
    for at in range(17_000, 18_501, 500):
        assert told.beat("q", at).opens_in == 18_501_000 - at * MS


def test_buckets_are_empty_when_the_store_was_away_from_all():
    """What one of them used by itself may never be heard, if it is stopped or was killed."""
    told = Told("p", "silent")
    assert told.beat("p", 15_000).opens_in == GRACE
    for bucket in ("used before", "new"):
        wish = TakeTokens(bucket, PACE, wanted=5, stock=5)
        for at in range(15_500, 17_000, 500):
            told.beat("p", at)
        assert told.store.apply(wish, 17_000 * MS) == TokensTaken(17_000 * MS, 0, 0, 10 * MS)
        assert told.store.apply(wish, 17_020 * MS) == TokensTaken(17_020 * MS, 2, 0, 10 * MS)
    for at in range(17_000, 30_001, 500):
        told.beat("p", at)
    assert told.store.apply(TakeTokens("used before", PACE, wanted=20), 30_000 * MS).granted == 10


def test_who_ends_is_waited_for_by_nobody():
    """Others are held back only where somebody is left who may have used something."""
    told = Told("p", "q")
    assert told.store.apply(Beat("p", 0, GRACE, ""), 10_100 * MS).processes == 1
    assert told.beat(NEW, 12_000).opens_in == GRACE
    for process in ("q", NEW):
        told.store.apply(Beat(process, 0, GRACE, ""), 12_100 * MS)
    assert told.beat("r", 30_000).opens_in == 0


# A process's side


@given(st.floats(1, 3600))
def test_nobody_goes_on_by_itself_before_the_store_can_tell(lease):
    """Also where its clock is slow by a hundredth. Who missed a sign of life is not taken for out, and who is back
    after a pause holds its permits still."""
    terms = LeaseTerms("p", lease=lease)
    told = silence(round(terms.grace * 1e6)) / 1e6
    assert 2.9 * terms.beat < told < terms.pause * 0.99
    connecting, looking = 0.2, 0.1
    assert terms.beat + looking + terms.pause + connecting < terms.lease * 0.99


def test_of_a_bucket_with_fewer_tokens_than_processes_not_all_have_a_part():
    """The youngest is refused as by the rate."""
    store = LeaseStore("the store")
    talkers = [Talker(LeasedLedger(LeaseTerms(name), Health()), store) for name in "pq"]
    for beat in range(12):
        for talker in talkers:
            talker.talk(beat / 2)
    one = Limit("one", Rate.per_second(1, 1))
    for talker in talkers:
        lost(talker, 6.0).ledger.acquire([one], 6.0)
        talker.ledger.awake(8.0)
    assert [isinstance(talker.ledger.acquire([one], 8.1), Permit) for talker in talkers] == [True, False]


def lost(talker: Talker, at: float) -> Talker:
    talker.ledger.collect(at)
    talker.ledger.lost(at)
    return talker


def test_who_is_back_before_the_store_can_take_it_for_away_has_used_nothing():
    """So there is nothing to tell, and it is in touch at once."""
    talker = lost(in_touch(), 1.0)
    assert talker.ledger.away
    talker.ledger.acquire([RATE], 1.1)
    assert talker.ledger.acquire([RATE], 2.5) == Refusal("rate_limit", pytest.approx(0.05), "rate")
    calls = talker.talk(2.51)
    assert not any(isinstance(call, TakeTokens) and call.owed for call in calls)
    assert talker.ledger.in_touch(2.51)
    assert not talker.ledger.away
    assert not any(isinstance(call, TakeTokens) and call.owed for call in talker.talk(2.52))


def test_what_was_used_while_an_answer_was_under_way_is_told():
    """Up to the moment at which it is there."""
    talker = lost(in_touch(), 1.0)
    talker.ledger.acquire([RATE], 1.1)
    calls = talker.ledger.collect(2.0)
    replies = [talker.store.apply(call, 2_000_000) for call in calls]
    assert isinstance(talker.ledger.acquire([RATE], 2.6), Permit)
    talker.ledger.replied(replies, 3.0)
    (owing,) = [call for call in talker.talk(3.0) if isinstance(call, TakeTokens)]
    assert (owing.owed_since, owing.owed_until) == (0, 3_000_000)
    assert owing.owed >= 3_000_000


def test_what_is_held_was_said_when_the_store_has_answered_to_that():
    """Not before: a trip may be lost."""
    talker = in_touch()
    talker.store.apply(Beat("other", LEASE, GRACE, ""), 100_000)
    claim = talker.ledger.acquire([PERMITS], 0.2)
    talker.talk(0.2)
    assert isinstance(claim.outcome, Permit)

    def said(now: float) -> bool:
        (beat,) = [call for call in talker.talk(now) if isinstance(call, Beat)]
        return beat.said

    assert said(5.0)  # It does not know yet that the store was away.
    lost(talker, 5.01)
    assert not said(5.1)
    assert not any(isinstance(call, Beat) for call in talker.talk(5.2))
    assert said(5.7)


def test_who_ends_gives_back_what_it_has_and_is_gone():
    """What still runs counts until its lease is over. Who is out, or never was in touch, can tell nobody."""
    talker = in_touch()
    claims = [talker.ledger.acquire([PERMITS], 0.1) for _ in range(2)]
    talker.talk(0.1)
    claims[0].outcome.release()
    *holds, beat = talker.ledger.leave(0.2)
    assert [call.holds for call in holds] == [1]
    assert (beat.lease, talker.store.apply(beat, 200_000).processes) == (0, 0)
    assert lost(in_touch(), 1.0).ledger.leave(1.1) == ledger().leave(1.1) == []
