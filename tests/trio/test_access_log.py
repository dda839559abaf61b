"""The access log: what it says, and what it does not hold up."""

import json
import os
import re
import resource
import select
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from onwards_core import Attempt, Record, Usage
from onwards_trio import _access_log
from onwards_trio._access_log import AccessLog, entry
from tests.trio.program_support import read_until, running

LOGROTATE = shutil.which("logrotate", path=f"{os.environ['PATH']}:/usr/sbin")
DOCS = Path(__file__).parents[2] / "docs" / "access-log.md"
RECORD = Record(
    "POST",
    b"/v1/chat/completions",
    100.0,
    alias="m",
    key="team",
    attempts=[Attempt("a", 100.0, 100.25, "status_503", "r-1"), Attempt("b", 100.25, None, None)],
    status=200,
    usage=Usage(1, 2, 3),
    request_id="id",
    client="192.0.2.7",
    first_content=100.75,
    first_byte=100.5,
    ended=101.0,
    bytes_sent=7,
    outcome="ok",
)


def said(record: Record) -> dict[str, Any]:
    """What a line says of it."""
    line: dict[str, Any] = json.loads(msgspec.json.encode(entry(record, 0.25)))
    return line


def test_what_a_line_says() -> None:
    """Times are seconds since the request; what is not known is null."""
    assert said(RECORD) == {
        "time": "1970-01-01T00:00:00.250000Z",
        "request_id": "id",
        "trace_id": None,
        "client": "192.0.2.7",
        "method": "POST",
        "endpoint": "/v1/chat/completions",
        "alias": "m",
        "key": "team",
        "status": 200,
        "outcome": "ok",
        "code": None,
        "refused_by": None,
        "attempts": [
            {"provider": "a", "outcome": "status_503", "started_seconds": 0, "seconds": 0.25, "response_id": "r-1"},
            {"provider": "b", "outcome": None, "started_seconds": 0.25, "seconds": None, "response_id": None},
        ],
        "input_tokens": 1,
        "output_tokens": 2,
        "cached_tokens": 3,
        "bytes": 7,
        "seconds": 1.0,
        "first_byte_seconds": 0.5,
        "first_event_seconds": None,
        "first_content_seconds": 0.75,
    }


def test_the_page_has_each_field() -> None:
    """And no other one."""
    found = said(RECORD)
    page = DOCS.read_text()
    named = {name for row in re.findall(r"^\| (`.*?) \|", page, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)}
    assert named == found.keys() | found["attempts"][0].keys()
    example = json.loads(page.partition("```text")[2].partition("```")[0])
    assert (list(example), list(example["attempts"][0])) == (list(found), list(found["attempts"][0]))


def test_lines_are_written_in_the_end(tmp_path: Path) -> None:
    """In order, below what the file held before, and in the new file once the old one was moved."""
    path = tmp_path / "access.log"
    path.write_text("before\n")
    with AccessLog(path) as log:
        log.observe(RECORD)
        log.observe(RECORD)
    before, *lines = path.read_text().splitlines()
    assert (before, [json.loads(line)["alias"] for line in lines]) == ("before", ["m", "m"])
    with AccessLog(path) as log:
        path.rename(tmp_path / "old")
        log.reopen()
        log.observe(RECORD)
    assert len(path.read_text().splitlines()) == 1
    assert log.dropped == 0


def test_where_the_new_file_cannot_be_opened(tmp_path: Path) -> None:
    """The log goes on in the old one."""
    path = tmp_path / "folder" / "access.log"
    path.parent.mkdir()
    with AccessLog(path) as log:
        path.parent.rename(tmp_path / "moved")
        log.reopen()
        log.observe(RECORD)
    assert len((tmp_path / "moved" / "access.log").read_text().splitlines()) == 1


@contextmanager
def room_for(size: int) -> Iterator[None]:
    """A file gets no larger than that, as on a disk that is full."""
    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)


@pytest.mark.parametrize("missing", [1, 2, 20])
def test_a_line_that_was_cut(tmp_path: Path, missing: int) -> None:
    """The next one begins on a line of its own, and only those that are not whole are counted as lost."""
    path = tmp_path / "access.log"
    log = AccessLog(path)
    for _ in range(3):
        log.observe(RECORD)
    first, second, _ = log._lines
    with room_for(len(first) + len(second) - missing):
        log.write_waiting()
        log.write_waiting()
        lost = 1 if missing == 1 else 2
        assert log.dropped == lost
        log.observe(RECORD)
        log.write_waiting()
    assert log.dropped == lost + 1
    assert path.read_bytes() == (first + second)[:-missing]
    log.observe(RECORD)
    with log:
        pass
    assert log.dropped == lost + 1
    assert path.read_bytes().startswith(first + second[:-missing] + b"\n{")
    assert json.loads(path.read_bytes().splitlines()[2])["alias"] == "m"
    assert path.read_bytes().endswith(b"}\n")


def test_a_pipe_of_several_processes(tmp_path: Path) -> None:
    """Gets no more at once than it keeps together, and whole lines, so that none is mixed with another process's."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    log = AccessLog(pipe)
    other = os.open(pipe, os.O_WRONLY)
    written = []
    real = os.write

    def write(file: int, data: bytes) -> int:
        written.append(len(data))
        return real(file, data)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_access_log.os, "write", write)
        for _ in range(40):
            log.observe(RECORD)
        log.write_waiting()
    assert max(written) <= select.PIPE_BUF
    assert len(written) < 40
    found = os.read(reader, 65536)
    assert [json.loads(line)["alias"] for line in found.splitlines()] == ["m"] * 40
    for file in (reader, other):
        os.close(file)
    with log:
        pass


def test_lost_lines_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a full disk, and those for which there is no room."""
    with AccessLog(Path("/dev/full")) as log:
        log.observe(RECORD)
    assert log.dropped == 1
    monkeypatch.setattr(_access_log, "LINES", 2)
    waiting = AccessLog(Path("/dev/null"))
    for _ in range(5):
        waiting.observe(RECORD)
    assert waiting.dropped == 3
    with waiting:
        pass


@pytest.mark.skipif(not LOGROTATE, reason="logrotate is not installed")
def test_logrotate(tmp_path: Path) -> None:
    """With the rules of the page it moves the file away, and the program goes on in a new one."""
    config, path, rules = tmp_path / "config.json", tmp_path / "access.log", tmp_path / "logrotate.conf"
    config.write_text('{"targets": {}}')
    words = ["serve", "-f", config, "--host", "127.0.0.1", "-p", "0", "--no-metrics", "--no-watch"]
    with running(*words, "--access-log", path) as process:
        read_until(process, "listening on")
        [text] = re.findall(r"```text\n(/var/log.*?)```", DOCS.read_text(), re.DOTALL)
        text = text.replace("/var/log/onwards/access.log", str(path))
        rules.write_text(text.replace("systemctl reload onwards", f"kill -HUP {process.pid}"))
        rules.chmod(0o644)  # It reads none that others might have written.
        path.write_text("before\n")
        rotate = [str(LOGROTATE), "--force", "--state", str(tmp_path / "state"), str(rules)]
        done = subprocess.run(rotate, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        read_until(process, "config reloaded")
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    assert path.with_name("access.log.1").read_text() == "before\n"
    assert path.read_text() == ""


def test_the_program_writes_it(tmp_path: Path) -> None:
    """A refusal leaves a line with the id that its answer carried; SIGHUP begins a new file."""
    config, path = tmp_path / "config.json", tmp_path / "access.log"
    config.write_text('{"targets": {}}')
    words = [
        "serve",
        "-f",
        config,
        "--host",
        "127.0.0.1",
        "-p",
        "0",
        "--no-metrics",
        "--no-watch",
        "--access-log",
        path,
    ]
    with running(*words) as process:
        printed = read_until(process, "listening on")
        url = re.search(r"listening on (http://[\d.:]+)", printed)
        assert url
        path.rename(tmp_path / "old")
        process.send_signal(signal.SIGHUP)
        read_until(process, "config reloaded")
        request = urllib.request.Request(f"{url[1]}/v1/files/x", headers={"x-request-id": "mine-1"})
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request)
        assert refused.value.headers["x-request-id"] == "mine-1"
        refused.value.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
    line = json.loads(path.read_text())
    assert (line["request_id"], line["status"], line["outcome"]) == ("mine-1", 400, "client_error")
    assert line["client"] == "127.0.0.1"
