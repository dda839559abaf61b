"""What makes a value of an option's text, or says what was expected instead."""

import argparse
import os
import re
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any, get_args


def switch(text: str) -> bool:
    try:
        return {"true": True, "false": False}[text.lower()]
    except KeyError:
        raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}") from None


def level(text: str) -> str:
    if text.lower() not in ("debug", "info", "warning", "error"):
        raise argparse.ArgumentTypeError(f"expected debug, info, warning or error, got {text!r}")
    return text.upper()


def log_format(text: str) -> str:
    if text not in ("auto", "text", "json"):
        raise argparse.ArgumentTypeError(f"expected auto, text or json, got {text!r}")
    return text


def codec(text: str) -> str:
    if text not in ("httptools", "h11"):
        raise argparse.ArgumentTypeError(f"expected httptools or h11, got {text!r}")
    if find_spec(text) is None:
        raise argparse.ArgumentTypeError(f"{text} is not installed")
    return text


def server_limits() -> dict[str, Callable[[str], Any]]:
    """The fields of the config's `server`, and what makes a value of a text."""
    import attrs

    from onwards_core import ServerConfig
    from onwards_core._values import Kind

    def conversion(kind: Kind) -> Callable[[str], Any]:
        def convert(text: str) -> Any:
            try:
                return kind.parse(float(text) if kind.schema["type"] == "number" else int(text))
            except ValueError as error:
                raise argparse.ArgumentTypeError(str(error)) from None

        return convert

    found = {}
    for field in attrs.fields(ServerConfig):
        annotated = next(each for each in (field.type, *get_args(field.type)) if hasattr(each, "__metadata__"))
        found[field.name] = conversion(annotated.__metadata__[0])
    return found


def pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE, got {text!r}")
    return name, value


def failure(text: str) -> tuple[str, str]:
    from onwards_trio._stand_in import understood_outcome

    provider, outcome = pair(text)
    try:
        return provider, understood_outcome(outcome)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{error}, got {outcome!r}") from None


def behaviour(text: str) -> tuple[str, object]:
    from onwards_trio._simulate import Behaviour
    from onwards_trio._stand_in import understood_outcome

    kinds = {
        "latency": number(0.0, 3600.0),
        "duration": number(0.0, 3600.0),
        "fail": number(0.0, 1.0),
        "status": understood_outcome,
        "concurrency": count,
    }
    provider, values = pair(text)
    try:
        found = dict(part.split(":", 1) for part in values.split(","))
        return provider, Behaviour(**{name: kinds[name](value) for name, value in found.items()})  # type: ignore[arg-type]
    except (KeyError, ValueError) as error:
        expected = "latency, duration, fail, status or concurrency, each with a colon and a value"
        raise argparse.ArgumentTypeError(f"expected {expected}, got {values!r}") from error


def workers(text: str) -> int:
    if text == "auto":
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 1000:
        raise argparse.ArgumentTypeError(f"expected auto or a number from 1 to 1000, got {text!r}")
    return int(text)


def count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) <= 10_000_000:
        raise argparse.ArgumentTypeError(f"expected a number from 1 to 10000000, got {text!r}")
    return int(text)


def prefix(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z_:][A-Za-z0-9_:]*", text):
        raise argparse.ArgumentTypeError(f"expected letters, digits and underscores, got {text!r}")
    return text


def port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise argparse.ArgumentTypeError(f"expected a port from 0 to 65535, got {text!r}")
    return int(text)


def status(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 400 <= int(text) <= 599):
        raise argparse.ArgumentTypeError(f"expected a status from 400 to 599, got {text!r}")
    return int(text)


def number(least: float, most: float) -> Callable[[str], float]:
    def number(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = float("nan")
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"expected a number from {least:g} to {most:g}, got {text!r}")
        return value

    return number
