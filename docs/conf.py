"""How Sphinx makes a site of these pages. They are plain Markdown, and can be read without it."""

import re
import sys
from pathlib import Path

from sphinx.application import Sphinx

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

import pictures  # noqa: E402 - found there

import onwards_core  # noqa: E402 - the same

pictures.draw(HERE / "_pictures")

project = "onwards"
author = "the authors of onwards"
extensions = ["autoapi.extension", "myst_parser"]
exclude_patterns = ["_pictures"]

suppress_warnings = [
    "misc.highlighting_failure",  # the lexer of PromQL does not know names with colons
    "autoapi.python_import_resolution",  # it does not see what is imported for type checkers alone
]

html_theme = "furo"
html_title = "onwards"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False

myst_heading_anchors = 4

autoapi_dirs = ["../src/onwards_core"]
autoapi_options = ["imported-members", "members", "undoc-members"]
autoapi_root = "api"
autoapi_add_toctree_entry = False
autoapi_member_order = "groupwise"
autoapi_python_class_content = "class"

default_role = "py:obj"  # of backticks in docstrings

nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!onwards_core\.).*")]  # Python's own names, and those that are not public


def setup(app: Sphinx) -> None:
    app.connect("source-read", adapt)


def adapt(app: Sphinx, page: str, source: list[str]) -> None:
    """What reads well in the repository, or in the code, and not in the site."""
    text = re.sub(r"\[([^]]*)\]\(\.\./[^)]*\)", r"\1", source[0])  # links to files that are not in the site
    source[0] = re.sub(r"\bonwards_core\._\w+\.(\w+)", public_name, text) if page.startswith("api/") else text


def public_name(name: re.Match[str]) -> str:
    """Where everyone gets it from, instead of where it is made."""
    return f"onwards_core.{name[1]}" if name[1] in onwards_core.__all__ else name[1]
