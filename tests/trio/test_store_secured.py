"""Stores behind TLS, passwords and sentinels: who is trusted, who is refused, and what becomes of a dead primary."""

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
import trustme

from onwards_core._lease_calls import Beat, HoldPermits
from onwards_trio._store import StoreError
from onwards_trio._store._redis import RedisStore
from tests.trio.store_support import StoreServer, free_port, needs_redis, store_server, watched_servers
from tests.trio.test_store_redis import config

pytestmark = [needs_redis, pytest.mark.filterwarnings("ignore:Unclosed <MemoryObject:ResourceWarning")]

LEASE = 10_000_000
BEAT = Beat("one", LEASE, 0, "")
HOLD = HoldPermits("limit", 5, "one", 1, 0, 3, 0, LEASE, 0)


@pytest.fixture(autouse=True)
def streams_of_coredis() -> Iterator[None]:
    """It leaves some open where a connection failed."""
    yield
    gc.collect()


@pytest.fixture
def certificates(authority: trustme.CA, tmp_path: Path) -> Path:
    certificate = authority.issue_cert("127.0.0.1")
    certificate.private_key_pem.write_to_path(tmp_path / "key.pem")
    certificate.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    return tmp_path


def secured(server: StoreServer, password: str = "p%40ss%3Aword", **more) -> RedisStore:
    return RedisStore(config(f"rediss://:{password}@127.0.0.1:{server.tls_port}", **more))


async def test_tls_and_password(certificates: Path, authority: trustme.CA) -> None:
    """Trusted by the system's authorities, or by the one that is named."""
    with store_server(certificates / "store", password="p@ss:word", tls=certificates) as server:
        pem = authority.cert_pem.bytes().decode()
        for store in (secured(server), secured(server, tls={"ca": pem})):
            async with store.connected() as talk:
                assert (await talk([BEAT, HOLD]))[1].granted in (3, 0)


async def refused(store: RedisStore) -> str:
    with pytest.raises(StoreError) as caught:
        async with store.connected() as talk:
            await talk([BEAT])
    return str(caught.value)


async def test_who_is_refused(certificates: Path, authority: trustme.CA) -> None:
    """A server that another authority vouches for, or that has another name; and we, with a wrong password. Nothing
    secret is told."""
    with store_server(certificates / "store", password="p@ss:word", tls=certificates) as server:
        assert "ertificate" in await refused(secured(server, tls={"ca": trustme.CA().cert_pem.bytes().decode()}))
        localhost = RedisStore(config(f"rediss://:p%40ss%3Aword@localhost:{server.tls_port}"))
        assert "ertificate" in await refused(localhost)
        assert "wrong" not in await refused(secured(server, "wrong"))
        assert await refused(RedisStore(config(f"redis://:p%40ss%3Aword@127.0.0.1:{server.tls_port}")))


async def _when_it_is_back(store: RedisStore, calls: list[Beat | HoldPermits]) -> list[object]:
    with trio.fail_after(20):
        while True:
            try:
                async with store.connected() as talk:
                    return await talk(calls)
            except StoreError:
                await trio.sleep(0.05)


@pytest.mark.parametrize("is_secured", [False, True])
async def test_sentinels(certificates: Path, is_secured: bool) -> None:
    """They tell where the primary is, also when the first of them is gone or talks nonsense; after it has died, what it
    knew is found in the replica."""
    secrets = {"password": "servers", "sentinel_password": "sentinels", "tls": certificates} if is_secured else {}
    with watched_servers(certificates, **secrets) as (primary, replica, sentinel):
        places = f"127.0.0.1:{free_port()},127.0.0.1:{sentinel.tls_port if is_secured else sentinel.port}"
        more = {"sentinel_master": "limits"}
        if is_secured:
            places = f":servers@{places}"
            more["sentinel_password"] = "sentinels"
        store = RedisStore(config(f"{'rediss' if is_secured else 'redis'}://{places}", **more))
        async with store.connected() as talk:
            assert (await talk([BEAT, HOLD]))[1].granted == 3
            replica.wait_for(primary.ask("DBSIZE"), "DBSIZE")
            primary.kill()
            with pytest.raises(StoreError):
                await talk([BEAT])
        other = HoldPermits("limit", 5, "two", 1, 0, 3, 0, LEASE, 0)
        found = await _when_it_is_back(store, [BEAT, other])
        assert found[1].granted == 2
        sentinel.kill()
        assert "no sentinel" in await refused(store)
        wrong = RedisStore(config(f"redis://{places}", sentinel_master="another"))
        assert "no sentinel" in await refused(wrong)
