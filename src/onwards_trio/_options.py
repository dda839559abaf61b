"""What `onwards serve` is told on its command line."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import attrs

from onwards_core._values import Secret


@attrs.frozen
class Options:
    """What the command line says."""

    config: Path
    host: str = "0.0.0.0"  # noqa: S104 - what a server is for
    port: int = 3000
    """0: one that the system chooses; the log says which. This holds for `metrics_port`, too."""
    watch: bool = True
    """Whether to reload the config when its file changes. SIGHUP does that in any case."""
    metrics: bool = True
    """Whether to serve metrics and health."""
    metrics_host: str = "127.0.0.1"
    metrics_port: int = 9090
    metrics_key: Secret | None = None
    """What has to be shown for anything but health and readiness there. None: nothing."""
    metrics_prefix: str = "onwards"
    http_codec: str | None = None
    """`httptools` or `h11`; None: the first of them that is installed."""
    tls_cert: Path | None = None
    """The certificate chain to show to clients. None: they speak plain HTTP."""
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    """Who has to have signed the certificates that clients then have to show."""
    server: Mapping[str, Any] = MappingProxyType({})
    """Fields of the config's `server` that have other values than it says."""
    record: Path | None = None
    """The folder where exchanges that ended badly are kept. None: they are not."""
    access_log: Path | None = None
    """The file that gets a line for each exchange; `-`: standard output. None: there is none."""
    drain_delay: float = 0.0
    """How long to go on as before when the process has been told to stop, except that it says that it is not ready."""
    drain_seconds: float = 30.0
    """How long requests under way may take to finish after that."""
    log_format: str = "auto"
    """Of the log, for workers: `text`, `json`, or `auto`."""
    workers: int = 1
    """How many processes serve clients. With more than one, this process only looks after them."""
