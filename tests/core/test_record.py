"""What is recorded of an exchange."""

import pytest

from onwards_core import Attempt, Outcome, Record, Verdict


def test_a_new_record() -> None:
    """Nothing is known at first but the request; records share no list of attempts."""
    one, other = Record("GET", b"/v1/x", 5.0), Record("GET", b"/v1/x", 5.0)
    assert (one.method, one.path, one.started) == ("GET", b"/v1/x", 5.0)
    assert (one.alias, one.key, one.status, one.first_byte, one.ended, one.outcome) == (None,) * 6
    assert (one.attempts, one.bytes_sent) == ([], 0)
    one.attempts.append(Attempt("p", 6.0))
    assert other.attempts == []
    assert (one.attempts[0].ended, one.attempts[0].outcome) == (None, None)


def test_pieces_of_a_stream_are_timed() -> None:
    """The first and the last one; the times between go to the bucket whose bound they do not exceed."""
    record = Record("POST", b"/v1/x", 5.0)
    record.count_event(6.0)
    assert (record.first_event, record.last_event, record.gaps) == (6.0, 6.0, None)
    for now in (6.25, 6.5, 106.5):
        record.count_event(now)
    assert (record.first_event, record.last_event) == (6.0, 106.5)
    assert record.gaps is not None
    bounds = (*Record.GAP_SECONDS, float("inf"))
    assert dict(zip(bounds, record.gaps, strict=True)) == dict.fromkeys(bounds, 0) | {0.3: 2, float("inf"): 1}


@pytest.mark.parametrize(
    ("outcome", "status", "code", "verdict"),
    [
        ("ok", 200, None, "ok"),
        ("ok", 302, None, "ok"),
        ("broken", 200, None, "broken"),
        ("broken", None, None, "broken"),
        ("client_gone", None, None, "client_gone"),
        ("client_gone", 429, "rate_limit", "client_gone"),
        ("ok", 500, "internal_error", "broken"),
        ("ok", 401, "unauthenticated", "refused"),
        ("ok", 403, "forbidden", "refused"),
        ("ok", 429, "rate_limit", "refused"),
        ("ok", 429, "concurrency_limit_exceeded", "refused"),
        ("ok", 503, "overloaded", "refused"),
        ("ok", 503, "service_unavailable", "refused"),
        ("ok", 400, "bad_request", "client_error"),
        ("ok", 404, "model_not_found", "client_error"),
        ("ok", 413, "payload_too_large", "client_error"),
        ("ok", 502, "bad_gateway", "provider_error"),
        ("ok", 504, "gateway_timeout", "provider_error"),
        ("ok", 503, None, "provider_error"),
        ("ok", 401, None, "provider_error"),  # our credential
        ("ok", 429, None, "provider_error"),
        ("ok", 400, None, "client_error"),
        ("ok", 422, None, "client_error"),
    ],
)
def test_what_became_of_it(outcome: Outcome, status: int | None, code: str | None, verdict: Verdict) -> None:
    """Whose doing it was if it failed; a code is that of an error of the gateway's own."""
    record = Record("POST", b"/v1/x", 5.0, status=status, outcome=outcome)
    record.answered(code)
    assert record.verdict == verdict
    assert record.refused_by == ("server" if code == "overloaded" else None)
