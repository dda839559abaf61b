"""What the package offers."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import onwards_trio

SOURCE = Path(onwards_trio.__file__).read_text()


def test_public_names():
    """Each public name can be had, from the module that the table says, and the type checker finds it there, too."""
    assert onwards_trio.__all__ == sorted(onwards_trio._MODULES)
    for name, module in onwards_trio._MODULES.items():
        assert callable(getattr(onwards_trio, name))
        assert re.search(rf"from onwards_trio\.{re.escape(module)} import .*\b{name}\b", SOURCE)


def test_other_names():
    """A name that is not there is the usual error."""
    with pytest.raises(AttributeError, match="module 'onwards_trio' has no attribute 'Sever'"):
        onwards_trio.Sever  # noqa: B018 - looked up for its error


@pytest.mark.parametrize(("command", "spared"), [("--help", "onwards_core"), ("schema", "trio"), ("check", "trio")])
def test_what_a_command_does_not_import(command, spared, tmp_path):
    """Commands that serve nothing do not wait for the import of what serves."""
    config = tmp_path / "config.json"
    config.write_text('{"targets": {}}')
    words = [command, "-f", str(config)] if command == "check" else [command]
    code = (
        "import sys\n"
        "from onwards_trio._cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit:\n"
        "    pass\n"
        f"assert {spared!r} not in sys.modules\n"
    )
    run = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
