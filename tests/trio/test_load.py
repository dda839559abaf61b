"""Config files with the secrets that they point to."""

import json
import logging
import os
from pathlib import Path

import pytest
import trustme

from onwards_core import ConfigError, Secret
from onwards_trio._load import SECRET_LIMIT, load_file, load_snapshot


@pytest.fixture
def folder(tmp_path):
    """A folder for config files that is not the one in which the program runs."""
    (tmp_path / "etc").mkdir()
    return tmp_path / "etc"


def config_file(folder: Path, key: str, **fields) -> Path:
    """A config file whose only provider has this key."""
    path = folder / "config.json"
    path.write_text(json.dumps({"targets": {"a": {"url": "http://h", "onwards_key": key, **fields}}}))
    return path


def key_in(path: Path) -> str:
    """The provider's key, resolved."""
    key = load_file(path).targets["a"].onwards_key
    assert isinstance(key, Secret)
    return key.reveal()


def problem_with(path: Path) -> str:
    """The only problem of a file."""
    with pytest.raises(ConfigError) as caught:
        load_file(path)
    assert caught.value.__context__ is None
    [problem] = caught.value.problems
    return problem


class TestSecrets:
    def test_from_the_environment(self, folder, monkeypatch):
        """`${env:NAME}` is what the variable holds when the file is loaded."""
        path = config_file(folder, "${env:ONWARDS_TEST_KEY}")
        for key in ("sk-1", "sk-2"):
            monkeypatch.setenv("ONWARDS_TEST_KEY", key)
            assert key_in(path) == key

    def test_variable_that_is_not_set(self, folder, monkeypatch):
        """The problem names the variable."""
        monkeypatch.delenv("ONWARDS_TEST_KEY", raising=False)
        assert problem_with(config_file(folder, "${env:ONWARDS_TEST_KEY}")) == (
            "targets.a.onwards_key: expected a secret in ${env:ONWARDS_TEST_KEY}, "
            "got none: the environment variable ONWARDS_TEST_KEY is not set"
        )

    def test_from_a_file_beside(self, folder):
        """A relative path is relative to the config file's folder."""
        (folder / "secrets").mkdir()
        (folder / "secrets" / "key").write_text("sk-1")
        assert key_in(config_file(folder, "${file:secrets/key}")) == "sk-1"

    def test_from_a_file_elsewhere(self, folder, tmp_path):
        """An absolute path is one."""
        (tmp_path / "key").write_text("sk-1")
        assert key_in(config_file(folder, f"${{file:{tmp_path / 'key'}}}")) == "sk-1"

    @pytest.mark.parametrize("ending", [b"", b"\n", b"\r\n"])
    def test_final_newline(self, folder, ending):
        """One newline at the end is the editor's, not the secret's."""
        (folder / "key").write_bytes(b"sk-1" + ending)
        assert key_in(config_file(folder, "${file:key}")) == "sk-1"

    @pytest.mark.parametrize("contents", [b"sk-1\n\n", b"sk-1 \n", b"sk-1\nsk-2", b" sk-1"])
    def test_more_than_a_secret(self, folder, contents):
        """Other white space around it, or a second line, is a mistake."""
        (folder / "key").write_bytes(contents)
        problem = problem_with(config_file(folder, "${file:key}"))
        assert problem.startswith("targets.a.onwards_key: expected a secret in ${file:key} that is able to stand in")
        assert "sk-" not in problem

    @pytest.mark.parametrize("contents", [b"", b"\n"])
    def test_empty_file(self, folder, contents):
        """An empty file holds no secret."""
        (folder / "key").write_bytes(contents)
        assert problem_with(config_file(folder, "${file:key}")).endswith("got an empty string")

    def test_missing_file(self, folder):
        """The problem has the path that was tried, and the reason."""
        assert problem_with(config_file(folder, "${file:key}")).endswith(
            f"got none: cannot read {folder / 'key'}: No such file or directory"
        )

    def test_name_that_no_file_can_have(self, folder):
        """The system's reason is passed on."""
        assert problem_with(config_file(folder, "${file:" + "x" * 300 + "}")).endswith(": File name too long")

    def test_folder(self, folder):
        """A folder is no secret."""
        assert problem_with(config_file(folder, "${file:.}")).endswith("is not a regular file")

    def test_pipe(self, folder):
        """A pipe, which might never end, is not even opened."""
        os.mkfifo(folder / "pipe")
        assert problem_with(config_file(folder, "${file:pipe}")).endswith("is not a regular file")

    def test_size(self, folder):
        """A file that is too large holds something else."""
        path = config_file(folder, "${file:key}")
        (folder / "key").write_bytes(b"k" * SECRET_LIMIT)
        assert key_in(path) == "k" * SECRET_LIMIT
        (folder / "key").write_bytes(b"k" * SECRET_LIMIT + b"\n")
        assert problem_with(path).endswith("is too large for a secret")

    def test_not_a_text(self, folder):
        """Bytes that are no text are not shown."""
        (folder / "key").write_bytes(b"sk-1\xff")
        problem = problem_with(config_file(folder, "${file:key}"))
        assert problem.endswith("is not a text in UTF-8")
        assert "sk-1" not in problem


class TestFile:
    @pytest.mark.parametrize("load", [load_file, lambda path: load_snapshot(path, bytes(16))])
    def test_missing(self, load, tmp_path):
        """Without a file there is nothing to complain of but that."""
        with pytest.raises(FileNotFoundError):
            load(tmp_path / "none.json")

    def test_snapshot(self, folder, caplog):
        """The compiled config reports the file's age; what is odd in it is logged with its name."""
        path = config_file(folder, "sk-1", wieght=1)
        os.utime(path, (1_700_000_000.9, 1_600_000_000.9))
        snapshot = load_snapshot(path, bytes(16))
        assert snapshot.created == 1_600_000_000
        assert list(snapshot.pools) == ["a"]
        warning = f"{path}: targets.a.wieght: unknown field; the nearest known one is weight"
        assert caplog.record_tuples == [("onwards.config", logging.WARNING, warning)]


class TestTls:
    def test_settings_from_files(self, folder):
        """Relative to the config's folder, for pools and providers."""
        authority = trustme.CA()
        authority.cert_pem.write_to_path(folder / "ca.pem")
        own = authority.issue_cert("client@example.org")
        own.private_key_and_cert_chain_pem.write_to_path(folder / "own.pem")
        tls = {"ca": "${file:ca.pem}", "certificate": "${file:own.pem}", "key": "${file:own.pem}"}
        path = folder / "config.json"
        targets = {
            "a": {"tls": tls, "providers": [{"url": "https://h"}, {"url": "https://i", "tls": {}}]},
            "b": [{"url": "https://h", "tls": tls}],
        }
        path.write_text(json.dumps({"targets": targets}))
        pool = load_snapshot(path, bytes(16)).pools["a"]
        assert pool.providers[0].tls.ca.reveal() == authority.cert_pem.bytes().decode().rstrip()
        assert pool.providers[1].tls.ca is None

    @pytest.mark.parametrize(
        ("name", "contents", "problem"),
        [
            ("ca", "x", "expected a secret in ${file:pem} that is a PEM text with a certificate, got another string"),
            ("key", "x", "expected a secret in ${file:pem} that is a PEM text with a key, got another string"),
            ("ca", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n", "OpenSSL refuses the tls settings: "),
        ],
    )
    def test_what_is_no_certificate(self, folder, name, contents, problem):
        (folder / "pem").write_text(contents)
        assert problem in problem_with(config_file(folder, "k", tls={name: "${file:pem}"}))

    def test_no_verification_is_warned_of(self, folder, caplog):
        path = config_file(folder, "k", tls={"insecure_skip_verification": True})
        with caplog.at_level(logging.WARNING, "onwards.config"):
            load_snapshot(path, bytes(16))
        assert "targets.a: providers may be anyone, their certificates are not verified" in caplog.text
