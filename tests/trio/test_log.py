"""Log lines leave by themselves: nothing waits for whoever should read them."""

import json
import logging
import os
import re
import signal
from http.client import HTTPConnection
from pathlib import Path
from queue import Queue

import pytest

from onwards_core import Request
from onwards_core._body import parse_body
from onwards_trio import _log
from onwards_trio._log import _Queued, logging_to
from tests.trio.program_support import read_until, running


def test_lines_arrive_in_order_and_as_a_whole(monkeypatch) -> None:
    """All of them by the time that it is over, whatever characters are in them."""
    monkeypatch.setattr(logging.root, "handlers", [])  # xdist has no way to pass on what pytest's would keep.
    reader, writer = os.pipe()
    with logging_to(writer, "INFO"):
        for number in range(50):
            logging.getLogger("some").info("line %d \ud800", number)
        logging.getLogger("some").debug("not wanted")
    os.close(writer)
    with os.fdopen(reader) as file:
        lines = file.read().splitlines()
    assert [re.sub(r"^.* INFO some: ", "", line) for line in lines] == [f"line {n} \\ud800" for n in range(50)]


def test_clients_write_no_lines() -> None:
    """A malformed form is its sender's matter: the parser's warning about it stays out."""
    request = Request("POST", b"/", [(b"content-type", b"multipart/form-data; boundary=b")], b"--b\r\n\0:\r\n")
    reader, writer = os.pipe()
    with logging_to(writer, "DEBUG"):
        assert isinstance(parse_body(request, 128), str)
    os.close(writer)
    with os.fdopen(reader) as file:
        assert file.read() == ""


def test_what_does_not_fit_is_counted() -> None:
    """And said when there is room again."""
    handler = _Queued(Queue(2))

    def log(text: str) -> None:
        handler.emit(logging.LogRecord("some", logging.INFO, "", 0, text, None, None))

    for number in range(5):
        log(str(number))
    assert [handler.queue.get(), handler.queue.get()] == ["0", "1"]
    log("5")
    assert [handler.queue.get(), handler.queue.get()] == ["3 log lines were dropped", "5"]


def test_an_end_does_not_wait_for_a_full_pipe(monkeypatch) -> None:
    """Neither one that stops the writer in the middle of a line, nor one behind which the queue is full."""
    monkeypatch.setattr(_log, "FAREWELL", 0.01)
    monkeypatch.setattr(_log, "QUEUE_LIMIT", 3)
    reader, writer = os.pipe()
    with logging_to(writer, "INFO"):
        for _ in range(20):
            logging.getLogger("some").info("x" * 50_000)
    os.close(reader)  # Now the writer's thread gets an error, and ends.


@pytest.mark.parametrize(("style", "who"), [("json", "worker 1: "), ("auto", "")])
def test_json(style: str, who: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For programs that read it, as what is not a terminal: a line an object, whatever the message holds."""
    monkeypatch.setattr(logging.root, "handlers", [])
    reader, writer = os.pipe()
    with logging_to(writer, "INFO", style, who):
        logging.getLogger("some").warning("two\nlines \ud800 %s", '"')
    os.close(writer)
    with os.fdopen(reader) as written:
        line = json.loads(written.read())
    assert line.pop("time").endswith("+00:00")
    expected = {"level": "warning", "logger": "some", "message": 'two\nlines \\ud800 "'}
    assert line == {**expected, **({"process": "worker 1"} if who else {})}


def test_a_file_that_takes_nothing_is_no_error() -> None:
    """A full disk."""
    with Path("/dev/full").open("w") as full, logging_to(full.fileno(), "INFO"):
        logging.getLogger("some").info("lost")


def test_a_pipe_that_nobody_empties_stops_nothing(tmp_path: Path) -> None:
    """Far more lines than it holds: requests are answered, and the end comes when it is told to."""
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"targets": {"m": {"url": "http://127.0.0.1:9/"}}}))
    address = ["--host", "127.0.0.1", "-p", "0", "--no-metrics", "--log-level", "debug"]
    with running("serve", "-f", config, *address) as process:
        port = int(re.search(r"http://127\.0\.0\.1:(\d+)", read_until(process, "listening on"))[1])
        connection = HTTPConnection("127.0.0.1", port, timeout=20)
        for _ in range(3000):
            connection.request("GET", "/v1/models")
            assert connection.getresponse().read()
        connection.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
