"""Measure what attackers get: `python benchmarks/reliability.py`. See docs/reliability.md."""

import asyncio
import itertools
import multiprocessing
import os
import random
import resource
import socket
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from gateways import Running, onwards, pinned, ready, stub
from load import Measured, Requests
from messages import ALIAS, CLIENT_KEY, HOST, request

SLOW = 2000
UNREAD = 500  # answers of 1 MB, which no buffer of the system holds
SECONDS = 20.0


async def main() -> None:
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    cores = sorted(os.sched_getaffinity(0))
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        opened.enter_context(pinned({cores[-1]}))
        provider = opened.enter_context(stub(None, None))
        with pinned({cores[0]}):
            gateway = opened.enter_context(onwards(provider, folder))
        await ready(gateway)
        await _slow_peers(gateway)
        _timing(gateway)


async def _slow_peers(gateway: Running) -> None:
    """A client at 100 requests a second, alone and beside connections that do as little as they can."""
    async with Requests(gateway.port, request(ALIAS), 4) as load:
        await load.run(1.0)
        alone = await load.run(SECONDS, per_second=100)
        before = gateway.memory()
        dripping = multiprocessing.get_context("fork").Process(target=_drip, args=(gateway.port,), daemon=True)
        dripping.start()
        unread = [_ask_and_leave_unread(gateway.port) for _ in range(UNREAD)]
        await asyncio.sleep(5.0)  # until all buffers are full
        beside = await load.run(SECONDS, per_second=100)
        after = gateway.memory()
        dripping.kill()
        for connection in unread:
            connection.close()
    print(f"alone: {_delays(alone)}")
    print(f"beside {SLOW} connections with a byte each 10 s and {UNREAD} answers that nobody reads: {_delays(beside)}")
    median, p99 = (beside.quantile(part) / alone.quantile(part) for part in (0.5, 0.99))
    print(f"median {median:.2f} ×, p99 {p99:.2f} ×")
    print(f"memory: {before / 1e6:.0f} MB, then {after / 1e6:.0f} MB")


def _delays(measured: Measured) -> str:
    return f"p50 {measured.quantile(0.5) * 1e3:.2f} ms, p99 {measured.quantile(0.99) * 1e3:.2f} ms"


def _drip(port: int) -> None:
    """Connections whose heads never end; those that are closed are opened anew. In a process of its own, since what
    it takes to open them is not to disturb the client that is measured."""
    message = b"POST / HTTP/1.1\r\nx: "
    connections: list[socket.socket] = []
    for turn in itertools.count():
        while len(connections) < SLOW:
            connections.append(socket.create_connection((HOST, port)))
        for connection in list(connections):
            try:
                connection.send(message[turn : turn + 1] or b"x")
            except OSError:
                connections.remove(connection)
                connection.close()
            time.sleep(10 / SLOW)


def _ask_and_leave_unread(port: int) -> socket.socket:
    connection = socket.socket()
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.connect((HOST, port))
    connection.send(request(ALIAS, answer_size=1_000_000))
    return connection


def _timing(gateway: Running) -> None:
    """Wrong keys that share all but their last character with a right one, and wrong keys that share nothing.

    The latter twice, so that there is a difference of none beside it.
    """
    right = CLIENT_KEY.encode()
    keys = {"shared": right[:-1] + b"#", "other": b"#" * len(right), "other again": b"#" * len(right)}
    messages = {name: request(ALIAS).replace(right, key) for name, key in keys.items()}
    delays: dict[str, list[int]] = {name: [] for name in keys}
    chosen = random.Random(1)
    with socket.create_connection((HOST, gateway.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(90_000):
            name = chosen.choice(list(keys))
            started = time.perf_counter_ns()
            connection.sendall(messages[name])
            answer = connection.recv(65536)
            delays[name].append(time.perf_counter_ns() - started)
            assert b" 403 " in answer
    # The slowest are those that the system interrupted.
    kept = {name: sorted(values)[: int(len(values) * 0.9)] for name, values in delays.items()}
    means = {name: statistics.fmean(values) for name, values in kept.items()}
    for name in ("shared", "other again"):
        error = sum(statistics.variance(kept[each]) / len(kept[each]) for each in (name, "other")) ** 0.5
        print(
            f"a wrong key ({name}) takes {means[name] / 1e3:.2f} µs, another one {means['other'] / 1e3:.2f} µs: a "
            f"difference of {means[name] - means['other']:.0f} ns, with a standard error of {error:.0f} ns"
        )


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
