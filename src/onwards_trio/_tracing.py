"""Whether there are traces. Imports OpenTelemetry only if there are."""

import logging
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onwards_trio._traces import Traces

_log = logging.getLogger("onwards")


def traces() -> "Traces | None":
    """As the `OTEL_*` environment variables want it: there are if an endpoint is named, and nothing says otherwise."""

    def setting(name: str) -> str:
        return os.environ.get(f"OTEL_{name}", "").strip()

    def of_traces(name: str) -> str:
        return setting(f"EXPORTER_OTLP_TRACES_{name}") or setting(f"EXPORTER_OTLP_{name}")

    if not of_traces("ENDPOINT") or setting("SDK_DISABLED").lower() == "true":
        return None
    if (setting("TRACES_EXPORTER") or "otlp") != "otlp":
        return None
    if (protocol := of_traces("PROTOCOL") or "http/protobuf") != "http/protobuf":
        _log.warning("no traces: OTEL_EXPORTER_OTLP_PROTOCOL is %r, and only http/protobuf is spoken here", protocol)
        return None
    try:
        from onwards_trio._traces import Traces  # noqa: PLC0415  # That takes long, and needs an extra.
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("opentelemetry"):
            raise
        _log.warning("no traces, though an endpoint is named: that needs pip install 'onwards[otel]'")
        return None
    return Traces()
