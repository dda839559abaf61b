"""What is recorded of an exchange."""

from onwards_core import Attempt, Record


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
