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
