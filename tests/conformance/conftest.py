"""Both gateways, and providers for them.

A case that takes `gateway` runs against the Trio program and against the asyncio example. One that takes
`trio_gateway` runs against the first only, and says why.
"""

from collections.abc import Callable, Iterator

import pytest

from tests.conformance.support.process import Gateway, Process
from tests.conformance.support.provider import Provider


@pytest.fixture(scope="session")
def process_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Process]]:
    """The process of a kind, which is started when it is first asked for. It must have met no fault in the end."""
    processes: dict[str, Process] = {}

    def get(kind: str) -> Process:
        if kind not in processes or not processes[kind].running:
            options = ["--no-watch"] if kind == "trio" else []
            processes[kind] = Process(kind, tmp_path_factory.mktemp(kind), {"targets": {}}, *options)
        return processes[kind]

    yield get
    for process in processes.values():
        process.stop()


def _session(process: Process) -> Iterator[Gateway]:
    lines = len(process.output)
    with Gateway(process) as gateway:
        yield gateway
    assert process.running
    print(process.output[lines:])  # Shown for a test that failed.


@pytest.fixture(params=["trio", "asyncio"])
def gateway(request: pytest.FixtureRequest, process_of: Callable[[str], Process]) -> Iterator[Gateway]:
    yield from _session(process_of(request.param))


@pytest.fixture
def trio_gateway(process_of: Callable[[str], Process]) -> Iterator[Gateway]:
    yield from _session(process_of("trio"))


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


@pytest.fixture
def second() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


@pytest.fixture
def third() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider
