"""The kinds of values in a config: what each accepts, and what is said about the rest."""

import re

import pytest

from onwards_core import Secret, Snapshot, load_config
from tests.core.config_support import complaint, encoded, loaded, problems, provider

URL = "http://h"


class TestSingleValues:
    @pytest.mark.parametrize(
        ("value", "shown"),
        [
            ("x", '"x"'),
            ("1", '"1"'),
            (True, "true"),
            (1.0, "1.0"),
            (-1, "-1"),
            (None, "null"),
            ([1], "a list"),
            ({}, "an object"),
        ],
    )
    def test_weight(self, value, shown):
        """An integer that is not negative; nothing is coerced."""
        assert complaint(weight=value) == f"expected an integer ≥ 0, got {shown}"

    def test_the_largest_integer(self):
        """Integers end where those of other programs end."""
        assert loaded(weight=2**63 - 1).weight == 2**63 - 1
        assert complaint(weight=2**63) == "expected an integer ≤ 9223372036854775807, got 9223372036854775808"

    @pytest.mark.parametrize("value", [0, -1, "1", True, None, [], 1.5])
    @pytest.mark.parametrize("field", ["rate_limit.burst_size", "concurrency_limit.max_concurrent_requests"])
    def test_positive_integers(self, field, value):
        """At least 1; only `burst_size` may be null."""
        name, part = field.split(".")
        config = provider(**{name: {"requests_per_second": 1, part: value} if name == "rate_limit" else {part: value}})
        if value is None and part == "burst_size":
            assert load_config(encoded(config)).targets["a"].rate_limit.burst_size is None
        else:
            [problem] = problems(config)
            assert problem.startswith(f"targets.a.{field}: expected an integer ≥ 1, got ")

    @pytest.mark.parametrize("value", [1e-9, 0.2, 1, 10**299, 1.5e300])
    def test_rates(self, value):
        """Any number above 0 that a limit can be made of."""
        config = load_config(encoded(provider(rate_limit={"requests_per_second": value})))
        assert config.targets["a"].rate_limit.requests_per_second == float(value)
        Snapshot.compile(config, hash_key=bytes(16))

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("0", "a number > 0, got 0"),
            ("-0.5", "a number > 0, got -0.5"),
            ('"1"', 'a number > 0, got "1"'),
            ("true", "a number > 0, got true"),
            ("null", "a number > 0, got null"),
            ("1e-310", "a finite number ≥ 1e-09, got 1e-310"),
            ("1e999", "a finite number ≥ 1e-09, got Infinity"),
        ],
    )
    def test_no_rates(self, text, expected):
        """Nothing else is a rate."""
        raw = b'{"targets": {"a": {"url": "http://h", "rate_limit": {"requests_per_second": %s}}}}' % text.encode()
        assert problems(raw) == [f"targets.a.rate_limit.requests_per_second: expected {expected}"]

    @pytest.mark.parametrize("value", [0, 6, 9, 60, 99, 600, 5000, -5, "5", True, 5.0, None])
    def test_status_patterns(self, value):
        """A status, or its first digits; nothing that could never match one."""
        [problem] = problems({"targets": {"a": {"providers": [], "fallback": {"on_status": [5, value]}}}})
        assert problem.startswith("targets.a.fallback.on_status[1]: expected a status (100 to 599) or its first")

    @pytest.mark.parametrize("value", [0, 1, "true", "", None, []])
    def test_booleans(self, value):
        """Only true and false are."""
        assert complaint(http2=value).startswith("expected true or false, got ")

    @pytest.mark.parametrize("value", ["random", "PRIORITY", 1, None, ["priority"], {}])
    def test_strategy(self, value):
        """Another strategy is told which ones there are."""
        [problem] = problems({"targets": {"a": {"providers": [], "strategy": value}}})
        assert problem.startswith('targets.a.strategy: expected "weighted_random" or "priority" or ')

    def test_texts(self):
        """A text is any, but of whole characters: half ones can be escaped in JSON and never be sent."""
        assert loaded(onwards_model="").onwards_model == ""
        assert complaint(onwards_model=3) == "expected a string, got 3"
        assert complaint(onwards_model="\ud800") == r'expected a string of whole characters, got "\ud800"'
        [problem] = problems({"targets": {"\udc00": {"url": URL}}})
        assert problem == r'targets["\udc00"]: expected a string of whole characters, got "\udc00"'

    def test_long_values_are_cut(self):
        """A problem stays readable, whatever the value."""
        assert complaint(weight="x" * 1000) == f'expected an integer ≥ 0, got "{"x" * 59}…'

    def test_problems_are_single_lines(self):
        """Nothing from the file can start a line of its own, or move a terminal's cursor."""
        [problem] = problems({"targets": {"a\n\x1b[2J": {"url": URL, "weight": "x\n\x1b[2J"}}})
        assert problem.isprintable()


class TestHeaders:
    @pytest.mark.parametrize("name", ["", "a b", "a:", "é", "a\n", 3, None])
    def test_names(self, name):
        """Header names are RFC 9110's tokens."""
        if name is None:
            assert loaded(upstream_auth_header_name=None).upstream_auth_header_name is None
        else:
            assert complaint(upstream_auth_header_name=name).startswith("expected a header's name, got ")

    @pytest.mark.parametrize("name", ["Host", "content-length", "Transfer-Encoding", "connection", "upgrade", "TE"])
    def test_reserved_names_of_requests(self, name):
        """A credential can't take the place of what frames or routes a request."""
        assert complaint(upstream_auth_header_name=name) == f'expected a header that may be set, got "{name}"'

    @pytest.mark.parametrize("name", ["Content-Length", "transfer-encoding", "Connection", "keep-alive", "Trailer"])
    def test_reserved_names_of_responses(self, name):
        """An answer's framing is not for a config to set."""
        [problem] = problems(provider(response_headers={name: "x"}))
        path = f"targets.a.response_headers.{name}"
        assert problem == f'{path}: expected a header that may be set, got "{name}"'

    @pytest.mark.parametrize("value", ["a\r\nb: c", "\0", "\x7f", "€", "\x85", 3, None])
    @pytest.mark.parametrize("field", ["response_headers", "upstream_auth_header_prefix"])
    def test_values(self, field, value):
        """A header's value can't end it, and has to fit into Latin-1. As it may hold a credential, it is not shown."""
        if field == "upstream_auth_header_prefix" and value is None:
            return
        [problem] = problems(provider(**{field: {"x": value} if field == "response_headers" else value}))
        assert problem.startswith(f"targets.a.{field}")
        assert re.search(
            "got (a number|null)$" if not isinstance(value, str) else "got one with other characters$", problem
        )

    def test_blanks_around_values(self):
        """They are not part of a header's value, and would only be refused later; a prefix may end with one."""
        target = loaded(response_headers={"x": " \ta b\t ", "y": "  "}, upstream_auth_header_prefix=" Token\t ")
        assert target.response_headers == {"x": "a b", "y": ""}
        assert target.upstream_auth_header_prefix == "Token\t "


class TestSecrets:
    def test_shown_by_nothing(self):
        """A secret is shown by `reveal` only."""
        secret = Secret("hush")
        assert secret.reveal() == "hush"
        assert "hush" not in f"{secret} {secret!r} {secret!s:>30} {[secret]}"

    def test_compared_by_text(self):
        """Secrets are equal if their texts are, and to nothing else."""
        assert Secret("a") == Secret("a")
        assert len({Secret("a"), Secret("a"), Secret("b")}) == 2
        assert Secret("a") != "a"

    def test_references(self):
        """A reference is resolved, once, with its kind and its name."""
        asked = []

        def resolve(kind, name):
            asked.append((kind, name))
            return f"the {name}"

        config = provider(onwards_key="${env:KEY}", keys=["${file:/run/my keys/a:b}", "plain"])
        target = load_config(encoded(config), resolve).targets["a"]
        assert target.onwards_key == Secret("the KEY")
        assert target.keys == [Secret("the /run/my keys/a:b"), Secret("plain")]
        assert sorted(asked) == [("env", "KEY"), ("file", "/run/my keys/a:b")]

    @pytest.mark.parametrize(
        ("failure", "reason"),
        [
            (LookupError("it is not set"), "it is not set"),
            (KeyError("X"), "X"),
            (FileNotFoundError(2, "No such file", "/x"), "No such file"),
            (OSError("broken"), "broken"),
        ],
    )
    def test_unresolved(self, failure, reason):
        """Where there is no secret, the resolver's reason is the problem."""

        def resolve(kind, name):
            raise failure

        [problem] = problems(provider(onwards_key="${env:X}"), resolve)
        assert problem == f"targets.a.onwards_key: expected a secret in ${{env:X}}, got none: {reason}"

    def test_none_by_default(self):
        """Without a resolver nothing is looked up."""
        assert complaint(onwards_key="${env:HOME}") == (
            "expected a secret in ${env:HOME}, got none: secrets of env are not available here"
        )

    def test_mistakes_of_the_resolver(self):
        """What a resolver raises beside what it may is no problem of the config."""

        def resolve(kind, name):
            raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            load_config(encoded(provider(onwards_key="${env:X}")), resolve)

    @pytest.mark.parametrize(
        "text", ["${env:}", "${HOME}", "${ENV:X}", "Bearer ${env:X}", "${env:X} ", "${file:a\0}", "${"]
    )
    def test_half_references(self, text):
        """What looks like a reference and is none would be sent as it is, so it is refused."""
        assert complaint(onwards_key=text) == "expected ${env:NAME} or ${file:PATH} alone, got another string"

    @pytest.mark.parametrize("text", ["a\nb", "a\r", "\0", "€", " a", "a\t"])
    def test_provider_keys(self, text):
        """A provider's key has to fit into a header, also when it comes from elsewhere."""
        assert complaint(onwards_key=text).endswith("got another string")
        [problem] = problems(provider(onwards_key="${file:k}"), lambda kind, name: text)
        assert problem == (
            "targets.a.onwards_key: expected a secret in ${file:k} that is able to stand in a header, "
            "without spaces around it, got another string"
        )

    @pytest.mark.parametrize("text", ["a\nb", " a", "\x85", "sha256:abc", "sha256:" + "g" * 64, "sha256:" + "0" * 65])
    def test_client_keys(self, text):
        """A client's key is one that a client can send, or a hash of the right form."""
        assert complaint(keys=[text]).endswith("got another string")

    def test_hashed_client_keys(self):
        """A hash is kept as it is written."""
        hashed = "sha256:" + "0aF" * 21 + "0"
        assert loaded(keys=[hashed, "schlüssel"]).keys == [Secret(hashed), Secret("schlüssel")]

    def test_empty(self):
        """An empty string is no secret, wherever it comes from."""
        assert complaint(keys=[""]) == "expected a secret, got an empty string"
        [problem] = problems(provider(onwards_key="${env:X}"), lambda kind, name: "")
        assert problem == "targets.a.onwards_key: expected a secret in ${env:X}, got an empty string"

    def test_no_credential(self):
        """An empty `onwards_key` is one that is left out."""
        assert loaded(onwards_key="").onwards_key is None


class TestRanges:
    @pytest.mark.parametrize("value", [0, 0.009, 1.1, "1", True, []])
    def test_shares(self, value):
        """A share is a number from 0.01 to 1."""
        [problem] = problems({"targets": {"a": {"providers": [], "health": {"failure_rate": value}}}})
        assert problem.startswith("targets.a.health.failure_rate: expected a number from 0.01 to 1, got ")

    @pytest.mark.parametrize("value", ["", "v1", "/a b", "/\u00e9", 3, None])
    def test_paths(self, value):
        """A path is absolute, and plain ASCII."""
        [problem] = problems({"targets": {"a": {"providers": [], "health": {"probe": {"path": value}}}}})
        assert problem.startswith("targets.a.health.probe.path: expected an absolute path, got ")
