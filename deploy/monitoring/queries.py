"""What rules and panels ask Prometheus, by the names that the program's own table of metrics has."""

import re
from typing import Final

from onwards_trio._metric_definitions import BY_NAME

# By Prometheus, beside the labels of the definitions.
TARGET_LABELS: Final = ("job", "instance")

NOT_TRIED: Final = "refused_locally|circuit_open|paused"
"""Outcomes of attempts at which the provider was left out."""
NOT_TO_BLAME: Final = f"ok|{NOT_TRIED}|no_memory|no_resources|status_4(0[04-69]|[13-9].|2[0-8])"
"""Outcomes of attempts for which a provider can't be blamed: it was not tried, or the request was wrong. Of 4xx, 401
and 403 are about our credential, 408 and 429 about the provider; the status page has it so too."""
FAILED: Final = "provider_error|broken"
"""Outcomes of exchanges that are not as they should be, and not by the client's fault, nor because of a limit."""
SERVED: Final = f"ok|{FAILED}"
"""Outcomes of exchanges that count for the service level."""


class Metrics:
    """Their full names, for one `--metrics-prefix`."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix

    def __call__(self, name: str, matchers: str = "") -> str:
        """A selector. Raises `KeyError` for a metric or a label that the program does not have."""
        definition = BY_NAME[name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum")]
        for matcher in filter(None, matchers.split(",")):
            label = re.match(r"\w+", matcher)
            if label is None or label[0] not in definition.labels + TARGET_LABELS:
                raise KeyError(f"{name} has no label for {matcher}")
        return f"{self._prefix}_{name}" + (f"{{{matchers}}}" if matchers else "")
