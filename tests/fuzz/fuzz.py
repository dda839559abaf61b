"""Looks for inputs that break a promise, guided by what each of them leads to in the code.

    python tests/fuzz/fuzz.py TARGET [--seconds 600]
    python tests/fuzz/fuzz.py TARGET --merge

Inputs that lead to new places in the code are kept in `build/fuzz/TARGET`; `--merge` moves the fewest of them that lead
everywhere into the corpus. One that breaks a promise is written to `build/fuzz`, and its traceback to standard error;
give its path as the last argument to see it again. Other arguments are passed to libFuzzer.
"""

import argparse
import logging
import sys
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[2]
FOUND = ROOT / "build" / "fuzz"
LONGEST = 2048
"""Bytes of an input."""

sys.path[:0] = [str(ROOT / "src"), str(ROOT)]
# The tests and the parsers that they compare with too: they lead on where the gateway's own parser is in C.
with atheris.instrument_imports(
    include=["onwards_core", "onwards_trio", "tests", "h11", "python_multipart", "json", "email"]
):
    from tests.fuzz.targets import CORPUS, TARGETS, words


def main() -> None:
    parser = argparse.ArgumentParser(description="Fuzz one kind of input.")
    parser.add_argument("target", choices=TARGETS)
    parser.add_argument("--seconds", type=int, default=600, metavar="N", help="how long (default: 600)")
    parser.add_argument("--merge", action="store_true", help="add to the corpus what was found, and fuzz no more")
    options, libfuzzer = parser.parse_known_args()
    target = options.target

    logging.disable()
    found = FOUND / target
    found.mkdir(parents=True, exist_ok=True)
    if options.merge:
        libfuzzer += ["-merge=1", "-set_cover_merge=1", "-use_counters=0", str(CORPUS / target), str(found)]
    elif not libfuzzer:
        dictionary = found.with_suffix(".dict")
        dictionary.write_text("".join(map(_entry, words(target))))
        libfuzzer = [f"-max_total_time={options.seconds}", f"-dict={dictionary}", f"-max_len={LONGEST}"]
        libfuzzer += ["-print_final_stats=1", str(found), str(CORPUS / target)]  # what is found goes to the first
    # LibFuzzer starts itself anew, with arguments of its own, to merge.
    command = f"{sys.executable} {__file__} {target}"
    atheris.Setup([command, f"-artifact_prefix={FOUND}/{target}-", *libfuzzer], TARGETS[target])
    atheris.Fuzz()


def _entry(word: bytes) -> str:
    return '"' + "".join(map(r"\x{:02x}".format, word)) + '"\n'


if __name__ == "__main__":
    main()
