"""What metrics read when they are collected, which costs no request anything."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from onwards_core import Record
from onwards_trio._metrics import Sample, Source, http_labels


def requests(under_way: Callable[[], Iterable[Record]]) -> Source:
    """under_way: the records of the requests that are being answered now."""

    def read() -> Iterator[Sample]:
        records = list(under_way())
        for labels, count in Counter(map(http_labels, records)).items():
            yield "http_requests_pending", labels, count
        for alias, count in Counter(record.alias for record in records).items():
            if alias is not None:
                yield "model_inflight", (alias,), count

    return read
