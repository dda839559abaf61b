"""One process's side of shared limits, and exchanges that have to wait for the store."""

from random import Random

import pytest

from onwards_core import (
    Acquire,
    Acquired,
    BodyRead,
    Gateway,
    LeasedLedger,
    LeaseTerms,
    Respond,
    SendUpstream,
    UpstreamFailed,
    UpstreamResponded,
    Wait,
    WaitOver,
)
from onwards_core._health import Health
from onwards_core._lease_calls import MOST, Absence, Beat, HoldPermits, Pace, TakeTokens, TokensTaken
from onwards_core._lease_store import KEPT, LeaseStore
from onwards_core._ledger import Claim, Limit, Permit, Rate, Refusal
from onwards_core._lent import Tokens
from tests.core.gateway_support import chat, error_code, pool, snapshot
from tests.core.lease_support import PERMITS, RATE, Talker, in_touch, ledger


def shared_gateway(targets) -> tuple[Gateway, Talker]:
    gateway = Gateway(snapshot(targets), random=Random(1), terms=LeaseTerms("p"))
    assert isinstance(gateway.ledger, LeasedLedger)
    talker = Talker(gateway.ledger)
    talker.talk(0.0)
    return gateway, talker


ONE = {"concurrency_limit": {"max_concurrent_requests": 1}}


# The ledger


def test_refuses_before_the_store_was_heard():
    """Who never heard from the store does not know how much others take: nothing is let through."""
    new = ledger()
    assert new.acquire([RATE, PERMITS], 0.0) == Refusal("service_unavailable", 1.0, "rate")
    assert new.acquire([PERMITS], 0.0) == Refusal("service_unavailable", 1.0, "permits")
    assert new.next_look() < 0.0


def test_a_claim_is_decided_when_the_store_has_answered():
    """What is not at hand is asked for, once for all that wait; what is refused takes nothing."""
    talker = in_touch()
    first, second, third = (talker.ledger.acquire([PERMITS], 0.1) for _ in range(3))
    assert isinstance(first, Claim)
    assert [type(call) for call in talker.talk(0.1)] == [HoldPermits]
    assert isinstance(first.outcome, Permit)
    assert isinstance(second.outcome, Permit)
    assert third.outcome == Refusal("concurrency_limit_exceeded", 1.0, "permits")
    assert talker.ledger.permits_out("permits") == 2
    assert talker.ledger.acquire([PERMITS], 0.1) == Refusal("concurrency_limit_exceeded", 1.0, "permits")
    first.outcome.release()
    assert isinstance(talker.ledger.acquire([PERMITS], 0.1), Permit)


def test_of_several_limits_all_or_none_are_taken():
    """A token that was granted to a request which another limit refuses goes back."""
    talker = in_touch()
    held = talker.ledger.acquire([PERMITS], 0.1), talker.ledger.acquire([PERMITS], 0.1)
    talker.talk(0.1)
    other = Limit("permits", RATE.rate, permits=2)
    claim = talker.ledger.acquire([RATE, other], 0.2)
    talker.talk(0.2)
    assert claim.outcome == Refusal("concurrency_limit_exceeded", 1.0, "permits")
    returned = {call.bucket: call.returned for call in talker.talk(0.2) if isinstance(call, TakeTokens)}
    assert returned == {RATE.bucket: 1, other.bucket: 1}
    assert all(isinstance(each.outcome, Permit) for each in held)


def test_the_rate_refuses_first_and_longest():
    """Of several refusals that of a rate is told, with the longest wait."""
    talker = in_touch()
    slow = Limit("slow", Rate.per_second(0.1, 1))
    both = Limit("both", Rate.per_second(1, 1), permits=1)
    taken = talker.ledger.acquire([slow, both], 0.1)
    talker.talk(0.1)
    assert isinstance(taken.outcome, Permit)
    refused = talker.ledger.acquire([slow, both], 0.2)
    talker.talk(0.2)
    assert refused.outcome.code == "rate_limit"
    assert refused.outcome.retry_after == pytest.approx(9.9)
    assert talker.ledger.refusal([slow, both], 1.2).retry_after == pytest.approx(8.9)


def test_a_stock_follows_demand():
    """Who had many requests lately need not ask for each; what is not used is returned."""
    talker = in_touch()
    fast = Limit("fast", Rate.per_second(1000))
    now, asked = 0.1, 0
    for _ in range(205):
        now += 0.001
        found = talker.ledger.acquire([fast], now)
        if talker.ledger._due:
            asked += any(isinstance(call, TakeTokens) for call in talker.talk(now))
        assert isinstance(found, Permit) or isinstance(found.outcome, Permit)
    assert asked < 60
    assert talker.ledger.tokens_left(fast, now) > 0
    assert talker.ledger.next_look() <= now + 0.02
    calls = talker.talk(now + 0.04)
    assert sum(call.returned for call in calls if isinstance(call, TakeTokens)) > 0
    assert talker.ledger.tokens_left(fast, now + 0.04) == 0
    tokens = Tokens.of(fast.rate, 0.0)
    tokens.put_in_stock(1, 50_000, 0.0, 0.05)
    tokens.give_up_old(0.06)
    assert tokens.unused is None
    assert talker.ledger.tokens_left(PERMITS, now) is None
    assert talker.ledger.tokens_left(Limit("other", fast.rate), now) == 0
    claim = talker.ledger.acquire([fast], now + 0.05)
    calls = talker.ledger.collect(now + 0.05)
    talker.ledger.replied([talker.store.apply(call, round(now * 1e6) + 50_000) for call in calls], now + 0.05)
    assert isinstance(claim.outcome, Permit)


def test_what_got_too_old_on_its_way_is_asked_for_again():
    """A reply may take so long that a stock which the claim counted on is over: it waits for the next one."""
    talker = in_touch()
    fast = Limit("fast", Rate.per_second(1000))
    tokens = talker.ledger._tokens.setdefault(fast.bucket, Tokens.of(fast.rate, 0.1))
    tokens.put_in_stock(1, 150_000, 0.1, 0.15)
    tokens.put_back(1, 150_000)
    tokens.put_back(2, 140_000)
    assert tokens.unused == (3, 140_000)
    both = talker.ledger.acquire([fast, PERMITS], 0.12)
    calls = talker.ledger.collect(0.12)
    talker.ledger.replied([talker.store.apply(call, 160_000) for call in calls], 0.16)
    assert both.outcome is None
    talker.talk(0.16)
    assert isinstance(both.outcome, Permit)


def test_a_withdrawn_claim_takes_nothing():
    """A client that leaves while its request waits leaves nothing behind, before the answer or after it."""
    talker = in_touch()
    early, late = talker.ledger.acquire([PERMITS], 0.1), talker.ledger.acquire([PERMITS], 0.1)
    early.withdraw()
    talker.talk(0.1)
    assert early.outcome is None
    assert isinstance(late.outcome, Permit)
    late.withdraw()
    assert talker.ledger.permits_out() == 0
    under_way = talker.ledger.acquire([RATE], 0.2)
    calls = talker.ledger.collect(0.2)
    under_way.withdraw()
    talker.ledger.replied([talker.store.apply(call, 200_000) for call in calls], 0.2)
    assert under_way.outcome is None


def test_a_claim_outlives_a_broken_connection():
    """When the connection broke, the same is asked again, and a sign of life before it."""
    talker = in_touch()
    claims = [talker.ledger.acquire([limit], 0.1) for limit in (RATE, PERMITS)]
    talker.ledger.collect(0.1)
    talker.ledger.interrupted(0.1)
    assert [type(call) for call in talker.talk(0.11)] == [Beat, TakeTokens, HoldPermits]
    assert all(isinstance(claim.outcome, Permit) for claim in claims)


@pytest.mark.parametrize("local", [True, False])
def test_claims_are_decided_when_the_store_is_lost(local):
    """Whatever waits gets its answer: by our own share, or a refusal."""
    talker = in_touch(local=local)
    asked = talker.ledger.acquire([RATE], 0.1)
    talker.ledger.collect(0.1)
    waiting = talker.ledger.acquire([PERMITS], 0.1)
    talker.ledger.lost(0.15)
    assert asked.outcome.code == ("rate_limit" if local else "service_unavailable")
    assert waiting.outcome.code == ("concurrency_limit_exceeded" if local else "service_unavailable")
    assert isinstance(talker.ledger.acquire([RATE], 1.69), Refusal)
    assert isinstance(talker.ledger.acquire([RATE], 1.71), Permit) == local
    for second in range(2, 11):
        talker.ledger.awake(second)
    assert isinstance(talker.ledger.acquire([PERMITS], 10.25), Refusal)  # by our clock, which may be fast
    assert isinstance(talker.ledger.acquire([PERMITS], 10.26), Permit) == local
    talker.ledger.prune(10.26)


def test_claims_that_came_while_the_store_was_asked_are_decided_when_it_holds_back():
    """A store that turns out to have lost its data gives nothing; nobody waits for it."""
    talker = in_touch()
    talker.store = LeaseStore()
    talker.ledger.acquire([RATE], 2.0)
    calls = talker.ledger.collect(2.0)
    late = talker.ledger.acquire([PERMITS], 2.0)
    talker.ledger.replied([talker.store.apply(call, 2_000_000) for call in calls], 2.0)
    assert late.outcome == Refusal("concurrency_limit_exceeded", 1.0, "permits")
    assert not talker.ledger.in_touch(3.9)
    assert talker.ledger.in_touch(4.1)


def test_other_processes_get_what_one_has_too_much_of():
    """Where somebody was refused, permits are given back as soon as they are not in use."""
    talker = in_touch()
    other = Talker(LeasedLedger(LeaseTerms("q"), Health()), talker.store)
    other.talk(0.05)
    held = [talker.ledger.acquire([PERMITS], 0.1) for _ in range(2)]
    talker.talk(0.1)
    refused = other.ledger.acquire([PERMITS], 0.2)
    other.talk(0.2)
    assert refused.outcome.code == "concurrency_limit_exceeded"
    talker.talk(1.1)  # learns of it
    held[0].outcome.release()
    assert talker.ledger._due
    talker.talk(1.15)
    granted = other.ledger.acquire([PERMITS], 1.2)
    other.talk(1.2)
    assert isinstance(granted.outcome, Permit)


def test_prune_forgets_what_is_as_good_as_new():
    """Neither idle limits nor permits that went back take memory."""
    talker = in_touch()
    claims = [talker.ledger.acquire([limit], 0.1) for limit in (RATE, PERMITS)]
    talker.talk(0.1)
    for claim in claims:
        claim.outcome.release()
    for tick in range(3, 60):
        talker.talk(tick / 10)
    talker.ledger.prune(6.0)
    assert not talker.ledger._tokens
    assert not talker.ledger._permits


def test_an_answer_to_another_question_is_a_bug():
    """A store that mixes its answers up is not listened to."""
    talker = in_touch()
    talker.ledger.acquire([PERMITS], 0.1)
    talker.ledger.collect(0.1)
    with pytest.raises(RuntimeError, match="something else"):
        talker.ledger.replied([TokensTaken(0, 1, 0, 0)], 0.1)


def test_a_process_without_a_place_has_no_share():
    """Who heard from the store only while it held everything back takes no share of what others have."""
    new = Talker(ledger(), LeaseStore())
    new.ledger.acquire([PERMITS], 0.0)
    new.talk(0.0)
    assert new.ledger.acquire([PERMITS, RATE], 0.1) == Refusal("service_unavailable", 1.0, "permits")
    assert new.ledger._permits["permits"].count == 0


def lost_at(now: float) -> LeasedLedger:
    talker = in_touch()
    while talker.ledger.next_look() < now:
        talker.talk(talker.ledger.next_look())
    talker.ledger.collect(now)
    talker.ledger.lost(now)
    return talker.ledger


@pytest.mark.parametrize("seconds", [1.9, 2.1])
def test_who_was_stopped_for_long_has_no_share(seconds):
    """Others may have met in a new store meanwhile, and divide the limits without it. It has one again when it has been
    in touch for long enough for the others to know."""
    away = lost_at(5.0)
    away.acquire([RATE], 5.1)
    granted = away.acquire([RATE], 5.0 + seconds)
    assert isinstance(granted, Permit) == (seconds < 2)
    away.awake(5.0 + seconds)
    for second in range(7, 17):
        away.awake(second)
    refused = Refusal("service_unavailable", 1.0, "permits")
    granted = away.acquire([PERMITS], 16.0)
    assert isinstance(granted, Permit) if seconds < 2 else granted == refused
    assert isinstance(away.acquire([RATE], 16.0), Permit) == (seconds < 2)


@pytest.mark.parametrize("seconds", [2.4, 2.6])
def test_who_is_new_has_a_share_when_the_others_know(seconds):
    """The first one to hear of it when it is in touch; a store that is lost before leaves it without."""
    others = in_touch()
    new = Talker(LeasedLedger(LeaseTerms("q"), Health()), others.store)
    for at in (0.0, 0.5, 1.0, 1.5, 2.0, seconds):
        new.talk(at)
    new.ledger.lost(seconds)
    new.ledger.acquire([RATE], seconds)
    assert isinstance(new.ledger.acquire([RATE], seconds + 1.6), Permit) == (seconds > 2.5)


def test_shares_together_are_no_more_than_one():
    """Two meet in a new store while a third is stopped, which then continues when the store is away again: those two
    have all there is."""
    store = LeaseStore("one")
    limit = Limit("permits", permits=6)
    talkers = [Talker(LeasedLedger(LeaseTerms(name), Health()), store) for name in "pqr"]
    for tick in range(10):
        for talker in talkers:
            talker.talk(tick / 2)
    second = LeaseStore("another")
    for talker in talkers[:2]:
        talker.store = second
    for tick in range(10, 16):
        for talker in talkers[:2]:
            talker.talk(tick / 2)
    for talker in talkers:
        talker.ledger.lost(8.0)
    for tick in range(16, 40):
        for talker in talkers:
            talker.ledger.awake(tick / 2)
    counts = [sum(isinstance(talker.ledger.acquire([limit], 19.6), Permit) for _ in range(9)) for talker in talkers]
    assert counts == [3, 3, 0]


# The store


def test_pace_is_exact_in_whole_numbers():
    """However slow or fast a rate is, its numbers stay below what doubles hold exactly."""
    for rate in (Rate.per_second(1e-9), Rate.per_second(1e9), Rate.per_second(3, 10**9), Rate.per_second(3000)):
        pace = Pace.of(rate)
        assert pace.time * 2 <= MOST * 2
        assert pace.slack * pace.tokens <= MOST
        assert pace.cost(pace.affordable(pace.slack)) <= pace.slack


def test_the_store_forgets():
    """What is as good as new is not kept."""
    store = LeaseStore("store")
    store.apply(TakeTokens("b", Pace.of(Rate.per_second(1)), 1), 0)
    store.apply(HoldPermits("i", 1, "p", 1, 0, 2, 0, 10, 0), 0)
    store.prune(KEPT + 2_000_000)
    assert not store._full_at
    assert not store._permits
    assert not store._refused_at


# Exchanges


def test_an_exchange_waits_for_its_admission():
    """Key and pool come first; then the providers."""
    gateway, talker = shared_gateway({"m": pool("a", **ONE)})
    first, second = gateway.admit(chat(), 0.1), gateway.admit(chat(), 0.1)
    with first, second:
        action = first.begin(0.1)
        assert isinstance(action, Acquire)
        assert isinstance(second.begin(0.1), Acquire)
        talker.talk(0.1)
        assert isinstance(first.feed(Acquired(action.claim.outcome), 0.1), SendUpstream)
        refused = second.feed(Acquired(Refusal("concurrency_limit_exceeded", 1.0, "permits")), 0.1)
        assert isinstance(refused, Respond)
        assert error_code(refused) == "concurrency_limit_exceeded"
    assert gateway.ledger.permits_out() == 0


LIMITED = [{"url": "http://a/", **ONE}, {"url": "http://b/", **ONE}]
FALLS_BACK = {"strategy": "priority", "fallback": {"enabled": True, "on_rate_limit": True, "on_status": [5]}}
REFUSED = Acquired(Refusal("concurrency_limit_exceeded", 1.0, "permits"))


def begun(**settings):
    """An exchange that waits for its first provider."""
    gateway, talker = shared_gateway({"m": {"providers": LIMITED, **settings}})
    exchange = gateway.admit(chat(), 0.1)
    action = exchange.begin(0.1)
    assert isinstance(action, Acquire)
    talker.talk(0.1)
    return gateway, talker, exchange, action


def test_the_next_provider_is_tried_when_one_is_full():
    """A provider whose claim is refused is passed over; with nobody left it is a 429."""
    _, _, exchange, _ = begun(**FALLS_BACK)
    with exchange:
        assert isinstance(exchange.feed(REFUSED, 0.1), Acquire)
        end = exchange.feed(REFUSED, 0.1)
        assert isinstance(end, Respond)
        assert end.status == 429
    assert [attempt.outcome for attempt in exchange.record.attempts] == ["refused_locally"] * 2


def test_without_fallback_a_full_provider_is_the_end():
    """As in a process that is alone."""
    _, _, exchange, _ = begun(strategy="priority")
    with exchange:
        assert exchange.feed(REFUSED, 0.1).status == 429


@pytest.mark.parametrize(
    ("event", "status"), [(UpstreamFailed("reset"), 502), (UpstreamResponded(503, [(b"x", b"y")]), 503)]
)
def test_the_last_outcome_counts_when_the_next_provider_is_full(event, status):
    """The answer is what came of the last attempt, also if only the store knew that nobody else is free."""
    _, _, exchange, action = begun(**FALLS_BACK)
    with exchange:
        assert isinstance(exchange.feed(Acquired(action.claim.outcome), 0.1), SendUpstream)
        assert isinstance(exchange.feed(event, 0.2), Acquire)
        assert exchange.feed(REFUSED, 0.2).status == status


def test_an_answer_found_wanting_has_to_do_when_the_next_provider_is_full():
    """An empty stream is passed on if there is nobody else to ask."""
    _, _, exchange, action = begun(
        **{**FALLS_BACK, "fallback": {"enabled": True, "on_rate_limit": True, "on_status": [502]}}
    )
    with exchange:
        exchange.feed(Acquired(action.claim.outcome), 0.1)
        exchange.feed(UpstreamResponded(200, [(b"content-type", b"text/event-stream")]), 0.2)
        assert isinstance(exchange.feed(BodyRead(b"data: [DONE]\n\n", ended=True), 0.2), Acquire)
        assert exchange.feed(REFUSED, 0.2).data == b"data: [DONE]\n\n"


def test_closing_withdraws_what_is_waited_for():
    """A client that leaves while its exchange waits for a provider leaves nothing behind, no trial either."""
    gateway, talker, exchange, action = begun(**FALLS_BACK, health={"consecutive_failures": 1, "cooldown_secs": 1})
    with exchange:
        exchange.feed(Acquired(action.claim.outcome), 0.1)
        exchange.feed(UpstreamFailed("reset"), 0.2)
    exchange.close()
    with gateway.admit(chat(), 20) as later:
        assert isinstance(later.begin(20), Acquire)
    with gateway.admit(chat(), 20) as again:
        action = again.begin(20)
        assert isinstance(action, Acquire)
        talker.talk(20)
        assert again.feed(Acquired(action.claim.outcome), 20).provider.label == "a"
    assert gateway.ledger.permits_out() == 0


def test_those_left_out_are_tried_after_all_one_after_the_other():
    """Better one that may fail than none, also where the store has to be asked for each."""
    gateway, _, exchange, _ = begun(**FALLS_BACK)
    exchange.close()
    first, second = gateway.snapshot.pools["m"].providers
    gateway.health.heard([Absence("open", first.identity, 10**8), Absence("paused", second.identity, 10**8)], 0.2)
    policy = {"health": {"consecutive_failures": 1}}
    gateway.snapshot = snapshot({"m": {"providers": LIMITED, **FALLS_BACK, **policy}})
    with gateway.admit(chat(), 20) as exchange:
        assert isinstance(exchange.begin(20), Acquire)
        assert isinstance(exchange.feed(REFUSED, 20), Acquire)
        assert exchange.feed(REFUSED, 20).status == 429


def test_a_retry_after_a_wait_may_have_to_ask_too():
    """What came of the last attempt is the answer then as well."""
    _, _, exchange, action = begun(
        **{**FALLS_BACK, "fallback": {**FALLS_BACK["fallback"], "backoff": {"initial_ms": 10, "jitter": "none"}}}
    )
    with exchange:
        exchange.feed(Acquired(action.claim.outcome), 0.1)
        assert isinstance(exchange.feed(UpstreamFailed("reset"), 0.2), Wait)
        assert isinstance(exchange.feed(WaitOver(), 0.3), Acquire)
        assert exchange.feed(REFUSED, 0.3).status == 502


def test_a_late_call_is_not_heard():
    """What a process said before does not count any more when it has said something else since."""
    store = LeaseStore("store")
    new = HoldPermits("i", 5, "p", 2, 3, 0, 0, 10**7, 0)
    assert store.apply(new, 0).over == 0
    late = store.apply(HoldPermits("i", 5, "p", 1, 0, 1, 0, 10**7, 0), 1)
    assert late.granted == 0
    assert store.apply(HoldPermits("i", 5, "q", 1, 0, 5, 0, 10**7, 0), 2).granted == 2


def test_tokens_that_come_back_late_are_worth_nothing():
    """The bucket has filled up meanwhile: to put them in as well would let more through than the rate."""
    store = LeaseStore("store")
    pace = Pace.of(Rate.per_second(10, 5))
    assert store.apply(TakeTokens("b", pace, 5), 0).granted == 5
    assert store.apply(TakeTokens("b", pace, 5), 500_000).granted == 5
    assert store.apply(TakeTokens("b", pace, 5, returned=5, returned_from=0), 500_001).granted == 0
    assert store.apply(TakeTokens("b", pace, 5, returned=2, returned_from=500_000), 500_001).granted == 2


def test_permits_of_who_is_not_heard_any_more_are_free():
    """What a process holds counts until its lease is over, and not a microsecond longer."""
    store = LeaseStore("store")
    assert store.apply(HoldPermits("i", 5, "p", 1, 3, 4, 0, 1_000, 0), 0).granted == 2
    assert store.apply(HoldPermits("i", 5, "q", 1, 0, 1, 0, 1_000, 0), 999).granted == 0
    assert store.apply(HoldPermits("i", 5, "q", 2, 0, 9, 0, 1_000, 0), 1_000).granted == 5


def test_what_is_lent_ends_by_the_time_of_the_question():
    """An answer that takes long brings no more time: the store may have reckoned from the moment it was asked."""
    talker = in_touch()
    claim = talker.ledger.acquire([PERMITS], 0.1)
    calls = talker.ledger.collect(0.1)
    replies = [talker.store.apply(call, 100_000) for call in calls]
    talker.ledger.replied(replies, 5.0)
    assert isinstance(claim.outcome, Permit)
    claim.outcome.release()
    assert isinstance(talker.ledger.acquire([PERMITS], 9.9), Permit)
    assert isinstance(talker.ledger.acquire([PERMITS], 10.1), Claim)


def test_what_was_lent_and_is_over_is_not_counted_on():
    """A process that was stopped asks for all that it has not in use: others may have got that."""
    talker = in_touch()
    claims = [talker.ledger.acquire([PERMITS], 0.1) for _ in range(2)]
    talker.talk(0.1)
    claims[0].outcome.release()
    talker.ledger.acquire([PERMITS], 30.0)
    calls = [call for call in talker.ledger.collect(30.0) if isinstance(call, HoldPermits)]
    assert [(call.holds, call.wanted) for call in calls] == [(1, 1)]


def test_a_stock_that_is_enough_is_not_added_to():
    """Who is about to ask, and got enough meanwhile, does not."""
    talker = in_touch()
    talker.ledger._tokens[RATE.bucket] = Tokens.of(RATE.rate, 0.1)
    talker.ledger._due_tokens.add(RATE.bucket)
    assert talker.ledger.collect(0.2) == []


def test_a_newcomer_says_what_it_holds_to_a_store_that_holds_back():
    """Without a place among the others it claims no share beyond that."""
    new = Talker(ledger(), LeaseStore())
    new.talk(0.0)
    new.ledger.acquire([PERMITS], 0.1)
    new.ledger._due_permits.add("permits")
    (call,) = new.talk(0.2)
    assert (call.holds, call.wanted) == (0, 0)


def test_closing_withdraws_the_claim_of_the_pool_too():
    """A client that leaves before its pool's limit has room leaves nothing behind."""
    gateway, talker = shared_gateway({"m": {"providers": [{"url": "http://a/"}], **ONE}})
    with gateway.admit(chat(), 0.1) as exchange:
        action = exchange.begin(0.1)
        assert isinstance(action, Acquire)
    talker.talk(0.1)
    assert gateway.ledger.permits_out() == 0


def test_what_came_back_meanwhile_is_given_out_without_asking():
    """A claim for which there is room before anybody asked the store for it is not forgotten."""
    talker = in_touch()
    first, second = talker.ledger.acquire([PERMITS], 0.1), talker.ledger.acquire([PERMITS], 0.1)
    talker.talk(0.1)
    assert isinstance(first.outcome, Permit)
    assert isinstance(second.outcome, Permit)
    third = talker.ledger.acquire([PERMITS], 0.11)
    assert isinstance(third, Claim)
    first.outcome.release()
    assert talker.ledger.collect(0.12) == []
    assert isinstance(third.outcome, Permit)


def waits(trip: int) -> int:
    """How many of a thousand requests, one each millisecond, find nothing at hand: the store needs `trip` of those."""
    store, ledger = LeaseStore("the store"), LeasedLedger(LeaseTerms("one"), Health())
    limit = Limit("limit", Rate.per_second(100_000))
    waited, answers = 0, {}
    for at in range(2000):
        now = at / 1000
        if at in answers:
            ledger.replied(answers.pop(at), now)
        waited += at >= 1000 and isinstance(ledger.acquire([limit], now), Claim)
        if at < 1000:
            ledger.acquire([limit], now)
        if not answers and (calls := ledger.collect(now)):
            answers[at + trip] = [store.apply(call, at * 1000) for call in calls]
    return waited


def test_the_next_stock_is_fetched_in_time():
    """Hardly a request waits, though the store takes ten milliseconds to answer, or the process as long to hear it."""
    assert waits(1) == 0
    assert waits(10) < 20
