"""The config file, read with the secrets that it points to."""

import hashlib
import logging
import os
import ssl
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import attrs

from onwards_core import Config, ConfigError, PoolConfig, ProviderConfig, Snapshot, TlsConfig, load_config
from onwards_core._values import ResolveSecret
from onwards_trio._tls import provider_context

SECRET_LIMIT: Final = 1024 * 1024
"""Bytes of a file with a secret. What is longer holds something else."""

_log = logging.getLogger("onwards.config")


def load_file(path: Path) -> Config:
    """Read a config file. Raises `ConfigError` for what is wrong in it, `OSError` if it can't be read.

    Paths of secrets are relative to the file's folder.
    """
    return load_with_digest(path)[0]


def load_with_digest(path: Path) -> tuple[Config, str]:
    """The same, and what tells one config from another, whatever its secrets are at the moment."""
    raw = path.read_bytes()
    config = load_config(raw, secrets_beside(path.parent))
    problems = tuple(_tls_problems(config))
    if problems:
        raise ConfigError(problems)
    return config, hashlib.sha256(raw).hexdigest()


def load_snapshot(path: Path, hash_key: bytes, server: Mapping[str, Any] = MappingProxyType({})) -> Snapshot:
    """Read and compile a config file, and log what is odd about it. Raises as `load_file` does.

    server: fields of the config's `server` that have other values than it says.
    """
    created = int(path.stat().st_mtime)
    config, digest = load_with_digest(path)
    for warning in config.warnings:
        _log.warning("%s: %s", path, warning)
    for alias, tls in _tls_settings(config):
        if tls.insecure_skip_verification:
            _log.warning("%s: targets.%s: providers may be anyone, their certificates are not verified", path, alias)
    config = attrs.evolve(config, server=attrs.evolve(config.server, **server))
    return Snapshot.compile(config, hash_key=hash_key, created=created, digest=digest)


def secrets_beside(folder: Path) -> ResolveSecret:
    """Reads secrets that are kept elsewhere. Paths are relative to the folder."""

    def resolve(kind: str, name: str) -> str:
        if kind == "file":
            return _read_secret(folder / name)
        try:
            return os.environ[name]
        except KeyError:
            raise LookupError(f"the environment variable {name} is not set") from None

    return resolve


def _tls_problems(config: Config) -> Iterator[str]:
    """What is wrong with certificates and keys, which only OpenSSL can say."""
    for alias, tls in _tls_settings(config):
        try:
            provider_context(tls, "http/1.1")
        except ssl.SSLError as error:
            yield f"targets.{alias}: OpenSSL refuses the tls settings: {error.reason or error}"


def _tls_settings(config: Config) -> Iterator[tuple[str, TlsConfig]]:
    for alias, target in config.targets.items():
        parts: Sequence[PoolConfig | ProviderConfig] = target if isinstance(target, list) else [target]
        if isinstance(target, PoolConfig):
            parts = [target, *target.providers]
        for tls in dict.fromkeys(part.tls for part in parts):
            if tls is not None:
                yield alias, tls


def _read_secret(path: Path) -> str:
    try:
        # A pipe or a device might never end.
        path.stat()  # says why, where `is_file` only says no
        if not path.is_file():
            raise LookupError(f"{path} is not a regular file")
        with path.open("rb") as file:
            raw = file.read(SECRET_LIMIT + 1)
    except OSError as error:
        raise LookupError(f"cannot read {path}: {error.strerror}") from None
    if len(raw) > SECRET_LIMIT:
        raise LookupError(f"{path} is too large for a secret")
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise LookupError(f"{path} is not a text in UTF-8") from None
    return text.removesuffix("\n").removesuffix("\r")
