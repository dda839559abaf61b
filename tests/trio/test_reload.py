"""Keeping a gateway under the config that its file holds."""

import json
import logging
import os
import threading
from pathlib import Path
from random import Random

import pytest
import trio
import trio.testing

from onwards_core import Gateway
from onwards_trio import _reload, _watch
from onwards_trio._load import load_snapshot
from onwards_trio._reload import Reloader

HASH_KEY = bytes(16)
DEADLINE = 30.0  # seconds for what takes milliseconds, so that a mistake does not hang


class Log(logging.Handler):
    """What is logged about the config, also from other threads, to be awaited."""

    def __init__(self) -> None:
        super().__init__()
        self._send, self._receive = trio.open_memory_channel[str](100)

    def emit(self, record: logging.LogRecord) -> None:
        line = f"{record.levelname} {record.getMessage()}"
        if trio.lowlevel.in_trio_run():
            self._send.send_nowait(line)
        else:
            trio.from_thread.run_sync(self._send.send_nowait, line)

    async def next(self) -> str:
        """The next line."""
        with trio.fail_after(DEADLINE):
            return await self._receive.receive()

    @property
    def is_empty(self) -> bool:
        """Whether there is no further line."""
        return self._receive.statistics().current_buffer_used == 0


@pytest.fixture
def log():
    logger = logging.getLogger("onwards.config")
    handler = Log()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(logging.NOTSET)


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(config("first"))
    return path


def config(*aliases: str) -> str:
    """A config file's contents."""
    return json.dumps({"targets": {alias: {"url": "http://h"} for alias in aliases}})


class Watched:
    """A gateway, and what keeps it under its file."""

    def __init__(self, path: Path) -> None:
        self.reloader = Reloader(path, HASH_KEY)
        self.gateway = Gateway(load_snapshot(path, HASH_KEY), random=Random(1))

    @property
    def aliases(self) -> list[str]:
        return list(self.gateway.snapshot.pools)

    def changed(self) -> bool:
        """Look at the file once, as the watching task does."""
        return self.reloader._changed()

    async def reload(self) -> None:
        await self.reloader.reload(self.gateway)


@pytest.fixture
async def watched(path, nursery, monkeypatch):
    """A gateway whose file is watched, more often than usual."""
    monkeypatch.setattr(_reload, "INTERVAL", 0.001)
    watched = Watched(path)
    nursery.start_soon(watched.reloader.watch, watched.gateway)
    return watched


class TestWatch:
    async def test_written_in_place(self, watched, path, log):
        """As most editors and `>` do."""
        path.write_text(config("second", "third"))
        while "ERROR" in (line := await log.next()):
            pass  # It may be seen while it is empty.
        assert line == "INFO config reloaded, targets: 2"
        assert watched.aliases == ["second", "third"]

    async def test_renamed_over(self, watched, path, log):
        """As careful editors do, time and again."""
        for number in range(3):
            new = path.with_suffix(".new")
            new.write_text(config(f"number-{number}"))
            new.rename(path)
            assert await log.next() == "INFO config reloaded, targets: 1"
            assert watched.aliases == [f"number-{number}"]

    async def test_symlink_swapped(self, tmp_path, nursery, monkeypatch, log):
        """As Kubernetes does with a ConfigMap: the file is behind a link in a folder that is a link."""
        for version in ("1", "2"):
            (tmp_path / version).mkdir()
            (tmp_path / version / "config.json").write_text(config(f"version-{version}"))
        (tmp_path / "data").symlink_to("1")
        (tmp_path / "config.json").symlink_to("data/config.json")
        monkeypatch.setattr(_reload, "INTERVAL", 0.001)
        watched = Watched(tmp_path / "config.json")
        nursery.start_soon(watched.reloader.watch, watched.gateway)
        assert watched.aliases == ["version-1"]
        (tmp_path / "new").symlink_to("2")
        (tmp_path / "new").rename(tmp_path / "data")
        assert await log.next() == "INFO config reloaded, targets: 1"
        assert watched.aliases == ["version-2"]

    async def test_half_written(self, watched, path, log):
        """A file that is seen while it is being written ends up as the config that it becomes."""
        whole = config("second")
        path.write_text(whole[:20])
        while "not reloaded" not in (line := await log.next()):
            assert line.startswith(f"ERROR {path}: line 1 column ")
        assert watched.aliases == ["first"]
        with path.open("a") as file:
            file.write(whole[20:])
        while "ERROR" in (line := await log.next()):
            pass
        assert line == "INFO config reloaded, targets: 1"
        assert watched.aliases == ["second"]

    async def test_gone_for_a_while(self, watched, path, log):
        """Without a file the old config stays, until there is one again."""
        path.unlink()
        assert await log.next() == f"WARNING {path}: No such file or directory; the config stays in force"
        assert watched.aliases == ["first"]
        new = path.with_suffix(".new")
        new.write_text(config("second"))
        new.rename(path)
        assert await log.next() == "INFO config reloaded, targets: 1"
        assert watched.aliases == ["second"]

    async def test_gone_between_look_and_load(self, watched, path, log):
        """A file that was gone when it was to be loaded is loaded when it comes back, even as it was."""
        away = path.with_suffix(".away")
        path.rename(away)
        assert (await log.next()).startswith("WARNING")
        await watched.reload()
        assert await log.next() == f"ERROR config not reloaded: {path}: No such file or directory"
        away.rename(path)
        assert await log.next() == "INFO config reloaded, targets: 1"


class TestChanged:
    async def test_same_contents(self, path, log):
        """A file that was only touched, or written anew with what was in it, did not change."""
        watched = Watched(path)
        assert not watched.changed()
        path.touch()
        assert not watched.changed()
        path.rename(path.with_suffix(".old"))
        path.write_text(config("first"))
        assert not watched.changed()

    async def test_each_change_once(self, path):
        """A change is one until it was seen."""
        watched = Watched(path)
        path.write_text(config("second"))
        assert watched.changed()
        assert not watched.changed()

    async def test_quick_writes_of_one_length(self, path):
        """Writes that follow each other within a tick of the file system's clock are all seen."""
        watched = Watched(path)
        for number in range(100, 200):
            path.write_text(config(f"number-{number}"))
            assert watched.changed()

    @pytest.mark.parametrize(("tick", "read"), [(-1.0, False), (1e9, True)])
    async def test_settled_file_is_not_read(self, path, monkeypatch, tick, read):
        """A file is read again as long as a second write could have left its status as it is, and then no more."""
        monkeypatch.setattr(_watch, "_TICK", tick)
        watched = Watched(path)
        assert not watched.changed()
        reads = []
        monkeypatch.setattr(Path, "read_bytes", lambda path: reads.append(path) or config("first").encode())
        assert not watched.changed()
        assert bool(reads) is read

    async def test_gone(self, path, log):
        """That the file is gone is said once, each time."""
        watched = Watched(path)
        for _ in range(2):
            path.unlink()
            assert not watched.changed()
            assert not watched.changed()
            assert await log.next() == f"WARNING {path}: No such file or directory; the config stays in force"
            assert log.is_empty
            path.write_text(config("first"))
            assert not watched.changed()

    async def test_pipe(self, tmp_path, log):
        """A config that comes through a pipe is read once, and not watched."""
        pipe = tmp_path / "pipe"
        os.mkfifo(pipe)
        writer = threading.Thread(target=pipe.write_text, args=[config("piped")], daemon=True)
        writer.start()
        watched = Watched(pipe)
        writer.join()
        assert watched.aliases == ["piped"]
        assert not watched.changed()
        assert log.is_empty


class TestReload:
    async def test_at_once(self, path, log):
        """A reload puts in force what the file holds now, whether that was seen to change or not."""
        watched = Watched(path)
        before = watched.gateway.snapshot
        await watched.reload()
        assert await log.next() == "INFO config reloaded, targets: 1"
        assert watched.gateway.snapshot is not before
        assert watched.aliases == ["first"]

    async def test_secrets_are_read_again(self, path, log):
        """A secret's new value comes with the next reload, although the config file is as it was."""
        secret = path.with_name("key")
        secret.write_text("sk-1")
        path.write_text('{"targets": {"a": {"url": "http://h", "onwards_key": "${file:key}"}}}')
        watched = Watched(path)
        secret.write_text("sk-2")
        await watched.reload()
        assert watched.gateway.snapshot.pools["a"].providers[0].credential == b"Bearer sk-2"

    async def test_bad_file(self, path, log):
        """A file with mistakes is logged with all of them, but without what may be a secret; the old config stays."""
        watched = Watched(path)
        before = watched.gateway.snapshot
        path.write_text('{"targets": {"a": {"url": "http://h", "weight": "x", "onwards_key": ["hush"]}, "b": "hush"}}')
        await watched.reload()
        assert [await log.next() for _ in range(4)] == [
            f"ERROR {path}: targets.a.onwards_key: expected a string, got a list",
            f'ERROR {path}: targets.a.weight: expected an integer ≥ 0, got "x"',
            f"ERROR {path}: targets.b: expected an object or a list of objects, got a string",
            "ERROR config not reloaded: the one from before stays in force",
        ]
        assert watched.gateway.snapshot is before

    async def test_unreadable_file(self, path, log):
        """A file that can't be read is logged in a line; the old config stays."""
        watched = Watched(path)
        path.unlink()
        path.mkdir()
        assert not watched.changed()
        await watched.reload()
        assert await log.next() == f"ERROR config not reloaded: {path}: Is a directory"
        assert watched.aliases == ["first"]

    async def test_warnings(self, path, log):
        """What is odd in the new file is logged."""
        watched = Watched(path)
        path.write_text('{"targets": {}, "tragets": {}}')
        await watched.reload()
        assert await log.next() == f"WARNING {path}: tragets: unknown field; the nearest known one is targets"
        assert await log.next() == "INFO config reloaded, targets: 0"

    async def test_several_at_once(self, path, log):
        """Reloads that are asked for at the same time happen one after the other, and the last file wins."""
        watched = Watched(path)
        async with trio.open_nursery() as nursery:
            for number in range(5):
                path.write_text(config(f"number-{number}"))
                nursery.start_soon(watched.reload)
        assert [await log.next() for _ in range(5)] == ["INFO config reloaded, targets: 1"] * 5
        assert watched.aliases == ["number-4"]

    async def test_nothing_waits_for_a_hanging_file(self, path):
        """A reload that hangs in the file system does not keep the program from ending."""
        watched = Watched(path)
        path.unlink()
        os.mkfifo(path)
        with trio.fail_after(DEADLINE):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watched.reload)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        with path.open("w"):
            pass  # lets the thread end


async def test_what_became_of_it(path, monkeypatch) -> None:
    """It is told how the last reload went and when, and since when the config in force holds."""
    monkeypatch.setattr(_reload, "time", lambda: next(times))
    times = iter([100.0, 200.0, 300.0, 400.0])
    watched = Watched(path)
    assert (watched.reloader.loaded, watched.reloader.last) == (100.0, None)
    path.write_text('{"targets": {"x": 1}}')
    await watched.reload()
    failed = watched.reloader.last
    assert (failed.at, watched.reloader.loaded) == (200.0, 100.0)
    [problem] = failed.problems
    assert problem.startswith("targets.x: expected ")
    path.write_text(config("second"))
    await watched.reload()
    assert (watched.reloader.last, watched.reloader.loaded) == (_reload.Reload(300.0, ()), 300.0)
    path.unlink()
    await watched.reload()
    assert watched.reloader.last == _reload.Reload(400.0, (f"{path}: No such file or directory",))
