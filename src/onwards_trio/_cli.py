"""The command line.

Exit codes: 0 for success, 1 for a config or a system that does not allow it, 2 for wrong usage. What only one
subcommand needs is imported there, so that the others start quickly.
"""

import argparse
import os
import sys
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from onwards_trio import _cli_types as of

_T = TypeVar("_T")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand and return the exit code. Raises `SystemExit` for wrong usage, as argparse does."""
    words = sys.argv[1:] if argv is None else list(argv)
    if words[:1] == ["_worker"]:  # what `serve --workers` starts
        from onwards_trio._worker_process import work

        return work(int(words[1]))
    args = _parser(serving=words[:1] == ["serve"]).parse_args(words)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        return run(args)
    except KeyboardInterrupt:
        return 128 + 2  # as shells report it; what is meant to be ended like this has its own way to do so
    except Exception as error:
        problems = _problems(_innermost(error), args)
        if not problems:
            raise
        return _fail(problems)


def _problems(error: Exception, args: argparse.Namespace) -> list[str]:
    """What a user is to be told, for errors that a traceback would not explain any better."""
    from onwards_core import ConfigError

    if isinstance(error, ConfigError):
        return [f"{args.targets}: {problem}" for problem in error.problems]
    if isinstance(error, OSError):
        return [f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)]
    return []


def _innermost(error: Exception) -> Exception:
    """The error itself, where Trio's nurseries have wrapped it."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error


def _fail(problems: Iterable[str]) -> int:
    _tell(problems)
    return 1


def _tell(problems: Iterable[str]) -> None:
    for problem in problems:
        print(f"onwards: {problem}", file=sys.stderr)


# --- subcommands


def _serve(args: argparse.Namespace) -> int:
    import trio

    from onwards_trio._access import metrics_key
    from onwards_trio._log import logging_to
    from onwards_trio._options import Options
    from onwards_trio._serve import serve

    if args.record is not None and not args.record.is_dir():
        return _fail([f"{args.record}: no folder to keep incidents in"])
    try:
        key = metrics_key(args.metrics_key) if args.metrics_key else None
    except ValueError as error:
        return _fail([f"--metrics-key: {error}"])
    options = Options(
        config=args.targets,
        host=args.host,
        port=args.port,
        watch=args.watch,
        metrics=args.metrics,
        metrics_host=args.metrics_host,
        metrics_port=args.metrics_port,
        metrics_key=key,
        metrics_prefix=args.metrics_prefix,
        http_codec=args.http_codec,
        tls_cert=args.tls_cert,
        tls_key=args.tls_key,
        tls_client_ca=args.tls_client_ca,
        server={name: value for name in of.server_limits() if (value := getattr(args, f"server_{name}")) is not None},
        record=args.record,
        access_log=args.access_log,
        drain_delay=args.drain_delay,
        drain_seconds=args.drain_seconds,
        workers=args.workers,
        log_format=args.log_format,
    )
    with logging_to(sys.stderr.fileno(), args.log_level, args.log_format):
        trio.run(serve, options)
    return 0


def _check(args: argparse.Namespace) -> int:
    from onwards_trio._check import table
    from onwards_trio._load import load_file

    config = load_file(args.targets)
    if config.warnings:
        return _fail(f"{args.targets}: {warning}" for warning in config.warnings)
    print(table(config))
    return 0


def _explain(args: argparse.Namespace) -> int:
    import json

    from onwards_core import Snapshot
    from onwards_trio._explain import Question, asking, explain, simulated_table
    from onwards_trio._load import load_file
    from onwards_trio._simulate import Plan, simulate

    if args.provider and not args.simulate:
        return _fail(["--provider is for --simulate; --fail says what comes of an attempt of one request"])
    if args.fail and args.simulate:
        return _fail(["--fail is for one request; with --simulate, --provider says how many attempts fail"])
    snapshot = Snapshot.compile(load_file(args.targets), hash_key=bytes(16))
    question = Question(args.model, args.path, args.key, dict(args.label), dict(args.fail))
    explanation = explain(snapshot, question)
    pool = explanation.pool
    known = {provider.label for provider in pool.providers} if pool else set()
    if pool and (unknown := sorted({*question.fails, *dict(args.provider)} - known)):
        return _fail(f"{pool.alias} has no provider {name}; it has {', '.join(sorted(known))}" for name in unknown)
    if not args.simulate or pool is None:
        print(json.dumps(explanation.as_json(), indent=2) if args.json else explanation.as_text())
        return _fail(["nothing to simulate: no such request gets as far as a provider"]) if args.simulate else 0
    snapshot, make_request = asking(snapshot, question)
    plan = Plan(args.simulate, args.rate, args.seed, dict(args.provider))
    outcome = simulate(snapshot, pool.alias, plan, make_request)
    print(json.dumps(outcome.as_json(), indent=2) if args.json else simulated_table(outcome))
    return 0


def _replay(args: argparse.Namespace) -> int:
    from onwards_core import Snapshot
    from onwards_trio._load import load_with_digest
    from onwards_trio._replay import replay

    config, digest = load_with_digest(args.targets)
    snapshot = Snapshot.compile(config, hash_key=bytes(16))
    try:
        replayed = replay(args.recording, snapshot, digest)
    except ValueError as error:
        return _fail([f"{args.recording}: {error}"])
    print("\n".join(replayed.lines))
    return 0 if replayed.same else 1


def _schema(_: argparse.Namespace) -> int:
    import json

    from onwards_core import json_schema

    print(json.dumps(json_schema(), indent=2))
    return 0


def _hash_key(_: argparse.Namespace) -> int:
    from hashlib import sha256

    key = sys.stdin.buffer.read().removesuffix(b"\n").removesuffix(b"\r")
    if not key:
        return _fail(["there is no key on standard input"])
    print(f"sha256:{sha256(key).hexdigest()}")
    return 0


def _import(args: argparse.Namespace) -> int:
    import json

    try:
        from onwards_trio._import import from_litellm
    except ModuleNotFoundError as error:
        if error.name != "yaml":
            raise
        return _fail(["this needs PyYAML: pip install 'onwards[import]'"])
    config, notes = from_litellm(args.targets.read_bytes(), os.environ)
    print(json.dumps(config, indent=2))
    _tell(f"{args.targets}: {note}" for note in notes)
    return 0


def _top(args: argparse.Namespace) -> int:
    try:
        from onwards_trio import _top as top
    except ModuleNotFoundError as error:
        if error.name != "rich":
            raise
        return _fail(["this needs rich: pip install 'onwards[top]'"])
    from rich.console import Console

    from onwards_trio._access import metrics_key

    console = Console()
    try:
        key = metrics_key(args.key) if args.key else None
        (top.show_once if args.once or not console.is_terminal else top.watch)(args.url, key, console)
    except ValueError as error:
        return _fail([f"--key: {error}"])
    except top.NoStatus as error:
        return _fail([str(error)])
    return 0


def _mock_provider(args: argparse.Namespace) -> int:
    from onwards_trio._mock import MockOptions, run_mock

    options = MockOptions(
        host=args.host,
        port=args.port,
        latency=args.latency,
        tokens_per_second=args.tokens_per_second,
        fail_rate=args.fail_rate,
        fail_status=args.fail_status,
        seed=args.seed,
    )
    return _until_signal(partial(run_mock, options))


def _demo(_: argparse.Namespace) -> int:
    from onwards_trio._demo import demo

    return _until_signal(demo)


def _until_signal(program: Callable[[], Awaitable[None]]) -> int:
    """Run it until SIGINT or SIGTERM, which are its proper end."""
    import signal

    import trio

    async def main() -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(program)
                await anext(signals)
                nursery.cancel_scope.cancel()

    trio.run(main)
    return 0


# --- usage


def _parser(*, serving: bool = True) -> argparse.ArgumentParser:
    """serving: whether `serve` gets its flags for the config's `server`, for which the core has to be imported."""
    parser = argparse.ArgumentParser(prog="onwards", description="A gateway for OpenAI-compatible APIs.")
    parser.add_argument("--version", action=_Version, help="print the version and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    _serve_usage(commands, limits=of.server_limits() if serving else {})

    check = _command(commands, "check", _check, "validate a config file and show what it means")
    _setting(check, "-f", "--targets", type=Path, metavar="FILE", help="the config file", required=True)

    told = _command(commands, "explain", _explain, "tell what a request would meet, without sending anything")
    _setting(told, "-f", "--targets", type=Path, metavar="FILE", help="the config file", required=True)
    told.add_argument("--model", required=True, help="what the client asks for")
    told.add_argument("--path", default="/v1/chat/completions", help="where to (%(default)s)")
    told.add_argument("--key", help="the client's key (none)")
    told.add_argument(
        "--label",
        type=of.pair,
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="a label of the client's key",
    )
    told.add_argument(
        "--fail",
        type=of.failure,
        action="append",
        default=[],
        metavar="PROVIDER=OUTCOME",
        help="what comes of an attempt: a status, connect, timeout, reset, empty, embedded_429, ...",
    )
    told.add_argument("--simulate", type=of.count, metavar="N", help="run so many requests on a virtual clock")
    told.add_argument(
        "--provider",
        type=of.behaviour,
        action="append",
        default=[],
        metavar="PROVIDER=...",
        help="how it behaves then: latency:0.2,duration:1,fail:0.05,status:503,concurrency:10",
    )
    told.add_argument("--rate", type=of.number(0.001, 1e6), default=10.0, help="requests per second (%(default)g)")
    told.add_argument("--seed", type=int, default=0, help="determines all chance (%(default)s)")
    told.add_argument("--json", action="store_true", help="for programs")

    again = _command(commands, "replay", _replay, "run a recorded exchange through the core again")
    again.add_argument("recording", type=Path, metavar="FILE", help="a file of serve --record")
    _setting(again, "-f", "--targets", type=Path, metavar="CONFIG", help="the config file", required=True)

    top = _command(commands, "top", _top, "show live in the terminal how a running gateway is")
    _setting(top, "--url", default="http://127.0.0.1:9090", help="its metrics port (%(default)s)")
    _setting(top, "--key", "--metrics-key", metavar="KEY", help="its metrics key, as for serve (none)")
    top.add_argument("--once", action="store_true", help="print it once, as for a pipe")

    _command(commands, "schema", _schema, "print the JSON Schema of config files")

    _command(commands, "hash-key", _hash_key, "turn a client's key, read from standard input, into its hash")

    imported = _command(commands, "import", _import, "convert another gateway's config; tell what has no place in ours")
    imported.add_argument("format", choices=["litellm"], help="whose it is")
    imported.add_argument("targets", type=Path, metavar="FILE", help="its config file")

    mock = _command(commands, "mock-provider", _mock_provider, "run a stand-in for a provider")
    mock.add_argument("--host", default="127.0.0.1", help="the address to listen on (%(default)s)")
    mock.add_argument("-p", "--port", type=of.port, default=8000, help="the port, 0 for any (%(default)s)")
    mock.add_argument("--latency", type=of.number(0.0, 3600.0), default=0.0, help="seconds before each answer (none)")
    mock.add_argument("--tokens-per-second", type=of.number(0.001, 1e9), help="the pace of answers (no pause)")
    mock.add_argument("--fail-rate", type=of.number(0.0, 1.0), default=0.0, help="the part of requests to fail (0)")
    mock.add_argument("--fail-status", type=of.status, default=503, help="the status of those (%(default)s)")
    mock.add_argument("--seed", type=int, default=0, help="determines texts and failures (%(default)s)")

    _command(commands, "demo", _demo, "show a request that survives a failing provider")
    return parser


def _serve_usage(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", limits: Mapping[str, Callable[[str], Any]]
) -> None:
    serve = _command(commands, "serve", _serve, "run the gateway")
    _setting(serve, "-f", "--targets", type=Path, metavar="FILE", help="the config file", required=True)
    _setting(serve, "--host", default="0.0.0.0", help="the address to listen on (%(default)s)")  # noqa: S104 - what a server is for
    _setting(serve, "-p", "--port", type=of.port, default=3000, help="the port to listen on, 0 for any (%(default)s)")
    _switch(serve, "-w", "--watch", help="reload the config file when it changes (on)")
    _switch(serve, "-m", "--metrics", help="serve metrics and health routes (on)")
    _setting(serve, "--metrics-host", default="127.0.0.1", metavar="HOST", help="the address for those (%(default)s)")
    _setting(
        serve, "--metrics-port", type=of.port, default=9090, metavar="PORT", help="the port for those (%(default)s)"
    )
    _setting(
        serve,
        "--metrics-key",
        metavar="KEY",
        help="what has to be shown there; ${file:PATH} and ${env:NAME} keep it from lists of processes (nothing)",
    )
    _setting(
        serve,
        "--metrics-prefix",
        type=of.prefix,
        default="onwards",
        metavar="PREFIX",
        help="what metric names begin with (%(default)s)",
    )
    _setting(serve, "--tls-cert", type=Path, metavar="FILE", help="serve HTTPS with this certificate chain (HTTP)")
    _setting(serve, "--tls-key", type=Path, metavar="FILE", help="its private key (in the same file)")
    _setting(
        serve,
        "--tls-client-ca",
        type=Path,
        metavar="FILE",
        help="admit only clients with a certificate that was signed by one of these (all)",
    )
    _setting(
        serve,
        "--http-codec",
        type=of.codec,
        metavar="NAME",
        help="what reads HTTP: httptools or h11 (the first of them that is installed)",
    )
    _setting(
        serve,
        "--drain-delay",
        type=of.number(0.0, float("inf")),
        default=0.0,
        metavar="SECONDS",
        help="how long to serve on at shutdown, but not be ready (%(default)g)",
    )
    _setting(
        serve,
        "--drain-seconds",
        type=of.number(0.0, float("inf")),
        default=30.0,
        metavar="SECONDS",
        help="how long requests under way may take at shutdown (%(default)g)",
    )
    _setting(
        serve,
        "--workers",
        type=of.workers,
        default=1,
        metavar="N",
        help="how many processes serve clients; auto: one per core (%(default)s)",
    )
    for name, convert in limits.items():
        flag = f"--server-{name.replace('_', '-')}"
        _setting(serve, flag, type=convert, metavar="NUMBER", help=f"instead of the config's server.{name}")
    _setting(
        serve, "--access-log", type=Path, metavar="FILE", help="log each exchange there, - for standard output (off)"
    )
    _setting(serve, "--record", type=Path, metavar="DIR", help="keep exchanges that ended badly there (off)")
    _setting(
        serve,
        "--log-format",
        type=of.log_format,
        default="auto",
        metavar="FORMAT",
        help="text, json, or auto: text on a terminal, else json (%(default)s)",
    )
    _setting(
        serve,
        "--log-level",
        type=of.level,
        default="info",
        metavar="LEVEL",
        help="the least important messages to log: debug, info, warning or error (%(default)s)",
    )


class _Version(argparse.Action):
    """Looks the version up only when it is asked for: that takes longer than all other parsing."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(nargs=0, default=argparse.SUPPRESS, **settings)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"onwards {version('onwards')}")
        parser.exit()


def _command(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], int],
    help: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=help, description=f"{help[0].upper()}{help[1:]}.")
    parser.set_defaults(run=run)
    return parser


class _EnvironmentValue(str):
    """What stood in an environment variable, remembering which, so that errors can name it."""

    __slots__ = ("variable",)
    variable: str


def _setting(parser: argparse.ArgumentParser, *names: str, help: str, required: bool = False, **settings: Any) -> None:
    """An option that may also stand in an environment variable named after it; the command line goes first."""
    variable = "ONWARDS_" + names[-1].lstrip("-").replace("-", "_").upper()
    text = os.environ.get(variable)
    if text:
        value = _EnvironmentValue(text)
        value.variable = variable
        settings["default"] = value
    settings["type"] = _naming_the_variable(settings.get("type", str))
    parser.add_argument(*names, required=required and not text, help=f"{help} [{variable}]", **settings)


def _naming_the_variable(convert: Callable[[str], _T]) -> Callable[[str], _T]:
    def converted(text: str) -> _T:
        try:
            return convert(text)
        except argparse.ArgumentTypeError as error:
            if isinstance(text, _EnvironmentValue):
                raise argparse.ArgumentTypeError(f"{text.variable}: {error}") from None
            raise

    return converted


def _switch(parser: argparse.ArgumentParser, short: str, name: str, help: str) -> None:
    """On by default; `--NAME`, `--NAME true`, `--NAME false` or `--no-NAME`, of which the last one counts."""
    _setting(parser, short, name, type=of.switch, nargs="?", const=True, default=True, metavar="true|false", help=help)
    parser.add_argument(f"--no-{name[2:]}", dest=name[2:], action="store_const", const=False, help="switch that off")
