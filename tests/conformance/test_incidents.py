"""`serve --record` and `replay`: what the core was told in exchanges that ended badly, and the same again."""

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.support.client import Client
from tests.conformance.support.process import Gateway, Process
from tests.conformance.support.provider import EVENTS, JSON, Call, Provider
from tests.conformance.support.wire import BrokenOff

MARK = "sk-SECRET-0123456789"
ON = {"enabled": True, "on_status": [429, 5]}
ROLE = b'data: {"choices": [{"delta": {"role": "assistant"}}]}\n\n'
CONTENT = b'data: {"choices": [{"delta": {"content": "x"}}]}\n\n'


@pytest.fixture
def recording(tmp_path: Path) -> Iterator[Gateway]:
    """A gateway that keeps what goes badly in a folder `kept`."""
    (tmp_path / "kept").mkdir()
    process = Process("trio", tmp_path, {"targets": {}}, "--no-watch", "--record", str(tmp_path / "kept"))
    with Gateway(process) as gateway:
        yield gateway
    process.stop()


def replayed(gateway: Gateway, recording: Path) -> tuple[int, str]:
    """Exit code and output of the command."""
    command = [sys.executable, "-m", "onwards_trio", "replay", str(recording), "-f", str(gateway.process.config)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    return run.returncode, run.stdout + run.stderr


def stopped(gateway: Gateway) -> list[Path]:
    """What was kept, once the program has ended."""
    gateway.process.stop()
    return sorted(gateway.process.config.parent.joinpath("kept").iterdir())


def _fails(*calls: Callable[[Call], None]) -> Callable[[list[Provider], Client], None]:
    def play(providers: list[Provider], client: Client) -> None:
        for provider, act in zip(providers, calls, strict=False):
            act(provider.call())
        try:
            answer = client.answer()
            assert answer.status >= 500 or b"error" in answer.body
        except BrokenOff:
            pass

    return play


def _busy(call: Call) -> None:
    call.respond(503, MARK.encode(), [JSON, ("x-secret", MARK)])


def _close(call: Call) -> None:
    call.close()


def _error_event(call: Call) -> None:
    call.start(200, [EVENTS])
    call.send_chunk(ROLE + b'data: {"error": {"code": 503, "message": "%b"}}\n\n' % MARK.encode())
    call.finish()


def _empty(call: Call) -> None:
    call.start(200, [EVENTS])
    call.finish()


def _break(call: Call) -> None:
    call.start(200, [EVENTS])
    call.send_chunk(CONTENT)
    call.close()


def _nonsense(call: Call) -> None:
    call.respond(200, b"<html>" + MARK.encode())


def _rest(call: Call) -> None:
    call.respond(503, fields=[JSON, ("retry-after-ms", "30")])


BACKOFF = {**ON, "backoff": {"initial_ms": 20}, "max_attempts": 3}
CASES: list[tuple[dict[str, Any], Callable[[list[Provider], Client], None]]] = [
    ({}, _fails(_busy, _close)),
    ({}, _fails(_error_event, _error_event)),
    ({}, _fails(_empty, _close)),
    ({}, _fails(_close, _break)),
    ({"sanitize_response": True}, _fails(_nonsense, _nonsense)),
    ({"sanitize_response": True}, _fails(_error_event, _break)),
    ({"strategy": "weighted_random", "fallback": {"enabled": False}}, None),  # type: ignore[list-item]
    ({"stream_keepalive_secs": 0.02}, _fails(_close, _close)),
    ({"request_timeout_secs": 0.05}, _fails(lambda _: None, _busy)),
]


@pytest.mark.parametrize(("pool", "play"), CASES)
def test_incidents_are_replayed(
    recording: Gateway,
    provider: Provider,
    second: Provider,
    pool: dict[str, Any],
    play: Callable[[list[Provider], Client], None] | None,
) -> None:
    """Whatever went wrong: the same actions come out of it, and no secret went into the file."""
    providers = [{"url": each.url, "onwards_key": MARK} for each in (provider, second)]
    target = {"strategy": "priority", "fallback": ON, "keys": [MARK], **pool, "providers": providers}
    if play is None:
        target["providers"] = []
    recording.configure({"model": target})
    client = recording.connect()
    client.request(key=MARK, stream=True, text=MARK, fields=[("x-mark", MARK)])
    if play is None:
        assert client.answer().status == 503
    else:
        play([provider, second], client)
    [kept] = stopped(recording)
    assert MARK not in kept.read_text()
    code, text = replayed(recording, kept)
    assert (code, "RECORDING HAS" in text, "STOPS" in text) == (0, False, False), text


def test_waits_are_replayed(recording: Gateway, provider: Provider) -> None:
    """Backoff with its chance, and a rest that a provider asked for."""
    recording.configure({"model": {"fallback": BACKOFF, "providers": [{"url": provider.url}]}})
    client = recording.connect()
    client.request()
    for act in (_busy, _rest, _busy):
        act(provider.call())
    assert client.answer().status == 503
    [kept] = stopped(recording)
    code, text = replayed(recording, kept)
    assert code == 0, text
    assert text.count(" s Wait") == 2
    assert text.count(" s   UpstreamResponded 503") == 3


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux")
def test_disk_full(recording: Gateway, provider: Provider) -> None:
    """The log says so, nothing half-written stays, and clients notice nothing; later ones are kept again."""
    recording.configure({"model": {"providers": [{"url": provider.url}]}})

    def fails() -> None:
        client = recording.connect()
        client.request()
        _busy(provider.call())
        assert client.answer().status == 503

    pid = recording.process.pid
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (100, most))
    fails()
    recording.process.wait_for("an incident could not be kept")
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (most, most))
    fails()
    [kept] = stopped(recording)
    assert replayed(recording, kept)[0] == 0


def test_what_went_well_is_not_kept(recording: Gateway, provider: Provider) -> None:
    """Nor what only the client got wrong."""
    recording.configure({"model": {"providers": [{"url": provider.url}]}})
    assert recording.through(provider)[1].status == 200
    assert recording.ask("other").status == 404
    assert stopped(recording) == []


def test_another_config(recording: Gateway, provider: Provider, second: Provider) -> None:
    """Is told; and what would happen with it now."""
    recording.configure({"model": {"strategy": "priority", "providers": [{"url": provider.url}], "fallback": ON}})
    client = recording.connect()
    client.request()
    _busy(provider.call())
    assert client.answer().status == 503
    [kept] = stopped(recording)
    recording.process.write({"targets": {"model": {"providers": [{"url": provider.url}], "sanitize_response": True}}})
    code, text = replayed(recording, kept)
    assert code == 1
    assert "THE CONFIG IS ANOTHER ONE" in text
    assert "THE RECORDING HAS StreamThrough 503" in text
    recording.process.write({"targets": {"model": {"providers": []}}})
    code, text = replayed(recording, kept)
    assert (code, "THE RECORDING HAS" in text or "STOPS HERE" in text) == (1, True)


@pytest.mark.parametrize("text", ["", "{}", "[]", json.dumps({"request": {}, "notes": []})])
def test_no_recording(recording: Gateway, tmp_path: Path, text: str) -> None:
    """Another file is told to be none."""
    (tmp_path / "other.json").write_text(text)
    code, said = replayed(recording, tmp_path / "other.json")
    assert (code, "no recording of an exchange" in said) == (1, True)
