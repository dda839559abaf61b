"""Measure the gateway beside a direct call and other gateways: `python benchmarks/run.py`.

The gateway under measurement has one core, generator and provider stub have another. All that is compared was measured
in one run, in turns, since the same machine is another one an hour later. See docs/performance.md.
"""

import argparse
import asyncio
import json
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from gateways import HERE, PEERS, find, pinned, stub
from scenarios import CPU, Case, Setting
from scenarios import SCENARIOS as ALONE
from sharing import SHARING

SCENARIOS = ALONE | SHARING
_REFERENCE = "nginx"
_TOLERANCE = 1.15


def main() -> int:
    arguments = _parser().parse_args()
    if sys.platform != "linux":
        return _refuse("CPU time of other processes is read from /proc, which Linux has")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return _refuse("two cores are needed: one for the gateway, one for what drives it")
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))
    peers = [peer for peer in arguments.peers if find(peer)]
    for peer in sorted(set(arguments.peers) - set(peers)):
        _say(f"skipped: {peer}, which is not installed; see benchmarks/peers/README.md")

    started = time.monotonic()
    cases = asyncio.run(_measure(arguments, peers, cores, most_files))
    report = {
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}, {len(cores)} cores",
        "seconds": round(time.monotonic() - started),
        "cases": [
            {"scenario": case.scenario, "case": case.case, "gateway": case.gateway, "runs": case.runs} for case in cases
        ],
        "ratios": {f"{', '.join(key)} / {against}": ratio for key, (ratio, against) in ratios(cases).items()},
    }
    _say("")
    print(table(cases))
    _write(arguments.out, report, cases)
    if arguments.check:
        return _check(report["ratios"], json.loads(arguments.check.read_text())["ratios"])
    return 0


def _write(folder: Path, report: dict[str, Any], cases: list[Case]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    try:
        from chart import draw
    except ImportError:
        _say("skipped: the chart, which needs matplotlib")
    else:
        draw(cases, folder / "results.svg")
    _say(f"results are in {folder}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only",
        type=_some_of(SCENARIOS),
        default=list(SCENARIOS),
        metavar="NAMES",
        help=f"some of {', '.join(SCENARIOS)} (all)",
    )
    parser.add_argument(
        "--with",
        dest="peers",
        type=_some_of(PEERS),
        default=list(PEERS),
        metavar="NAMES",
        help=f"gateways to compare with, some of {', '.join(PEERS)} (all that are installed)",
    )
    parser.add_argument("--runs", type=int, default=3, help="of each measurement (%(default)s)")
    parser.add_argument("--seconds", type=float, default=0.15, help="of each run (%(default)s)")
    parser.add_argument("--scale", type=float, default=1.0, help="of numbers of connections (%(default)s)")
    parser.add_argument(
        "--out",
        type=Path,
        default=HERE / "results",
        metavar="FOLDER",
        help="for results.json and results.svg (%(default)s)",
    )
    parser.add_argument(
        "--check",
        type=Path,
        metavar="FILE",
        help="fail if a ratio is 15 % worse than in this file, an earlier results.json",
    )
    return parser


def _some_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """Reads names that are separated by commas."""

    def read(text: str) -> list[str]:
        names = [name for name in text.split(",") if name]
        for name in names:
            if name not in known:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(known)}")
        return names

    return read


async def _measure(arguments: argparse.Namespace, peers: list[str], cores: list[int], most_files: int) -> list[Case]:
    cases: list[Case] = []
    with tempfile.TemporaryDirectory() as folder, pinned({cores[1]}):
        certificate, authority = _certificate(Path(folder))
        with stub(certificate, authority) as provider:
            setting = Setting(
                stub=provider,
                folder=Path(folder),
                peers=peers,
                runs=arguments.runs,
                seconds=arguments.seconds,
                scale=arguments.scale,
                core={cores[0]},
                two_cores={cores[0], cores[-1]},
                most_files=most_files,
                progress=_progress,
                say=_say,
            )
            for name in arguments.only:
                cases += await SCENARIOS[name](setting)
    return cases


def _certificate(folder: Path) -> tuple[Path, Path] | tuple[None, None]:
    """One for the stub, and the authority to verify it by."""
    try:
        import trustme
    except ImportError:
        _say("skipped: TLS, which needs the library trustme")
        return None, None
    authority = trustme.CA()
    certificate, trusted = folder / "stub.pem", folder / "authority.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(certificate))
    authority.cert_pem.write_to_path(str(trusted))
    return certificate, trusted


def ratios(cases: list[Case]) -> dict[tuple[str, str, str], tuple[float, str]]:
    """CPU time beside the reference's, and which that is: nginx in the same case or else, where a scenario is ours
    alone, its first case. Other figures are not steady enough to be held to."""
    found = {}
    for case in cases:
        others = [other for other in cases if other.scenario == case.scenario and CPU in other.runs[0]]
        same = [other for other in others if (other.case, other.gateway) == (case.case, _REFERENCE)]
        alone = len({other.gateway for other in others}) == 1
        reference = next(iter(same or (others if alone else [])), None)
        if reference and reference is not case and CPU in case.runs[0]:
            against = reference.gateway if same else reference.case
            # Run by run: what was measured in the same second met the same machine.
            pairs = zip(case.runs, reference.runs, strict=True)
            ratio = statistics.median(run[CPU] / other[CPU] for run, other in pairs)
            found[case.scenario, case.case, case.gateway] = (round(ratio, 2), against)
    return found


def table(cases: list[Case]) -> str:
    """One line for each case and gateway: medians, with the spread of the runs behind the first figure."""
    compared = ratios(cases)
    lines = [
        "| scenario | case | gateway | medians, and spread of the first | CPU |",
        "| --- | --- | --- | --- | --- |",
    ]
    for case in cases:
        first, *others = case.runs[0]
        values = [run[first] for run in case.runs]
        figures = [f"{_figure(case.median(first))} {first} ({_figure(min(values))} to {_figure(max(values))})"]
        figures += [f"{_figure(case.median(figure))} {figure}" for figure in others]
        ratio, against = compared.get((case.scenario, case.case, case.gateway), (0.0, ""))
        beside = f"{ratio:.3g} × {against}" if against else ""
        lines.append(f"| {case.scenario} | {case.case} | {case.gateway} | {', '.join(figures)} | {beside} |")
    return "\n".join(lines)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _check(now: dict[str, float], before: dict[str, float]) -> int:
    worse = {
        name: (before[name], ratio)
        for name, ratio in now.items()
        if name in before and ratio > before[name] * _TOLERANCE
    }
    for name, (old, new) in worse.items():
        _say(f"worse: {name}: {old} × before, {new} × now")
    return 1 if worse else 0


def _progress(what: str) -> None:
    end = "\r" if sys.stderr.isatty() else "\n"
    print(f"{what:<78}", end=end, file=sys.stderr, flush=True)


def _say(what: str) -> None:
    print(what, file=sys.stderr)


def _refuse(why: str) -> int:
    _say(f"nothing was measured: {why}")
    return 2


if __name__ == "__main__":
    sys.exit(main())
