"""A short run of each fuzz target, guided by grammars and by the corpus; `fuzz.py` makes long ones."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.grammars import GRAMMARS
from tests.fuzz.targets import TARGETS, corpus, words

with_each_target = pytest.mark.parametrize("target", TARGETS)


@with_each_target
def test_the_corpus(target: str) -> None:
    """Holds for all that fuzzers found; what once broke a promise is among it."""
    for data in corpus(target):
        TARGETS[target](data)


def test_the_corpus_of_the_codecs() -> None:
    """What was found for them alone also reaches providers as the same requests with both."""
    for data in corpus("request"):
        TARGETS["gateway"](data)


@with_each_target
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_any_bytes(target: str, data: st.DataObject) -> None:
    """Holds for whatever arrives."""
    TARGETS[target](data.draw(st.binary(max_size=200)))


@with_each_target
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_what_the_grammar_allows(target: str, data: st.DataObject) -> None:
    """Holds for what is right, or nearly."""
    TARGETS[target](data.draw(GRAMMARS[target]))


@with_each_target
@given(data=st.data())
@settings(max_examples=30, deadline=None)
def test_damaged(target: str, data: st.DataObject) -> None:
    """Holds for the corpus with some bytes replaced, left out, or joined by words from elsewhere in it."""
    message = data.draw(st.sampled_from(corpus(target)))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(message)))
        left_out = data.draw(st.integers(0, 8))
        put_in = data.draw(st.sampled_from([b"", *words(target)]) | st.binary(max_size=2))
        message = message[:start] + put_in + message[start + left_out :]
    TARGETS[target](message)
