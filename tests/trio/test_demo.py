"""The demo, as a user meets it."""

import json
import re
import shlex
import signal
import urllib.request

import pytest

from tests.trio.program_support import read_until, running


@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM])
def test_demo(stop):
    """The answer comes although the first provider fails, the printed curl line and the status page work, and a signal
    ends it well."""
    with running("demo") as process:
        printed = read_until(process, "^  curl ")
        assert 'You said: "Is anybody there?".' in printed
        assert re.search(r"status 200.*\n  1\. \S+#1: status_503 after .* ms\n  2\. \S+#2: ok after", printed)

        _, _, url, _, body = shlex.split(printed.splitlines()[-1])
        assert "content" in json.loads(body)["messages"][0]
        with urllib.request.urlopen(url, body.encode(), timeout=10) as answer:
            assert answer.headers["content-type"] == "text/event-stream"
            assert answer.read().endswith(b"data: [DONE]\n\n")
        assert "#1: status_503" in read_until(process, "#2: ok")

        page = re.search(r"status page.*: (http://\S+)", printed)[1]
        with urllib.request.urlopen(page, timeout=10) as told:
            assert b"127.0.0.1#1" in told.read()
        with urllib.request.urlopen(f"{page}metrics", timeout=10) as told:
            assert b'onwards_fallbacks_total{alias="demo"} 2.0' in told.read()

        process.send_signal(stop)
        rest = process.stdout.read()
        assert process.wait() == 0
        assert "Traceback" not in rest


def test_request_that_no_provider_gets():
    """A request for an unknown model shows its status, and no attempt."""
    with running("demo") as process:
        url = shlex.split(read_until(process, "^  curl ").splitlines()[-1])[2]
        with pytest.raises(urllib.error.HTTPError, match="404") as refusal:
            urllib.request.urlopen(url, b'{"model": "other"}', timeout=10)
        refusal.value.close()
        assert "status 404" in read_until(process, "attempts:$")
