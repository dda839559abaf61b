"""The program as a process of its own."""

import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress

DEADLINE = 30.0  # seconds until a program that hangs is killed


def run(*arguments, **environment):
    """Run the program to its end."""
    return subprocess.run(
        [sys.executable, "-m", "onwards_trio", *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=DEADLINE,
        check=False,
    )


@contextmanager
def running(*arguments, seconds=DEADLINE):
    """The program in the background, as a `Popen` with its output and errors in `stdout`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "onwards_trio", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    alarm = threading.Timer(seconds, process.kill)
    alarm.start()
    try:
        with process:
            try:
                yield process
            finally:
                end(process)
    finally:
        alarm.cancel()


def end(process):
    """End it as gently as it lets us: one that is killed can't tell which of its lines have run."""
    for _ in range(2):  # The second signal ends it at once.
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(2)
            return
    process.kill()


def read_until(process, pattern):
    """What it prints up to the first line that matches, with that line."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if re.search(pattern, line):
            return "".join(lines)
    raise AssertionError(f"ended without {pattern!r}:\n{''.join(lines)}")
