"""Holds the documentation to what the program does: every config, command and link in it."""

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import attrs
import jsonschema
import pytest

import onwards_core
import onwards_trio
from onwards_core import ServerConfig, _snapshot, json_schema, load_config
from onwards_trio._cli import _parser
from onwards_trio._import import from_litellm
from onwards_trio._metric_definitions import DEFINITIONS

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(language: str) -> list:
    """Each fenced block of a language, named after its page and line."""
    found = []
    for page in PAGES:
        text = page.read_text()
        for block in re.finditer(rf"^( *)```{language}\n(.*?)^ *```$", text, re.DOTALL | re.MULTILINE):
            line = text.count("\n", 0, block.start()) + 1
            found.append(pytest.param(block[2], id=f"{page.name}:{line}"))
    return found


def secret(kind: str, name: str) -> str:
    """What stands in for those that the examples keep elsewhere."""
    if name.endswith((".pem", ".key")):
        what = "PRIVATE KEY" if name.endswith(".key") else "CERTIFICATE"
        return f"-----BEGIN {what}-----\nAAAA\n-----END {what}-----"
    return f"secret of {kind} {name}"


@pytest.mark.parametrize("text", blocks("json"))
def test_each_config_is_valid(text):
    """Every JSON block is a config that the schema accepts and that loads without a warning."""
    raw = text.encode()
    jsonschema.Draft202012Validator(json_schema()).validate(json.loads(raw))
    assert load_config(raw, secret).warnings == ()


def onwards_commands() -> list:
    commands = []
    for block in blocks("sh"):
        for line in block.values[0].replace("\\\n", " ").splitlines():
            if line.startswith("onwards "):
                words = shlex.split(line.partition(">")[0])
                commands.append(pytest.param(words[1:], id=f"{block.id} {words[1]}"))
    return commands


@pytest.mark.parametrize("words", onwards_commands())
def test_each_command_is_understood(words):
    """Every `onwards` command line in a page parses. What the commands do is tested with the command line."""
    assert callable(_parser().parse_args(words).run)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_link_leads_somewhere(page):
    """Links between pages name a file that exists, and a heading in it."""
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text()):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        linked = (page.parent / file).resolve() if file else page
        assert linked.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.*)$", linked.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h).strip().lower().replace(" ", "-") for h in headings}, target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_file_exists(page):
    """The files of the project that commands and text name are there."""
    for name in re.findall(r"(?<![\w./-])(?:benchmarks|deploy|docs|requirements|tests)/[\w/.-]*\w", page.read_text()):
        assert (ROOT / name).exists() or name == "benchmarks/results", name


def test_the_embedding_example_does_what_it_says(tmp_path):
    """The page's Python block prints the text block after it."""
    page = (ROOT / "docs" / "embedding.md").read_text()
    code, output = re.search(r"```python\n(.*?)```\n\n```text\n(.*?)```", page, re.DOTALL).groups()
    (tmp_path / "example.py").write_text(code)
    run = subprocess.run([sys.executable, tmp_path / "example.py"], capture_output=True, text=True, check=True)
    assert run.stdout == output


def test_the_litellm_example_is_converted_as_shown():
    """The page's YAML block becomes its JSON block, and its text block is what is told of the rest."""
    page = (ROOT / "docs" / "migrating-litellm.md").read_text()
    theirs, ours, notes = re.search(
        r"```yaml\n(.*?)```.*?```json\n(.*?)```.*?```text\n(.*?)```", page, re.DOTALL
    ).groups()
    assert from_litellm(theirs.encode(), {}) == (json.loads(ours), notes.splitlines())


SECTIONS = {
    "Pool": "PoolConfig",
    "Provider": "ProviderConfig",
    "Target": "TargetConfig",
    "Rate limit": "RateLimit",
    "Concurrency limit": "ConcurrencyLimit",
    "Fallback": "FallbackConfig",
    "Backoff": "BackoffConfig",
    "Health": "HealthConfig",
    "Probe": "ProbeConfig",
    "Affinity": "AffinityConfig",
    "Routing rule": "RoutingRule",
    "Routing action": "RoutingAction",
    "Auth": "AuthConfig",
    "Key definition": "KeyDefinition",
    "Timeouts": "TimeoutsConfig",
    "TLS": "TlsConfig",
    "HTTP pool": "HttpPoolConfig",
    "Server": "ServerConfig",
    "State": "StateConfig",
}


@pytest.mark.parametrize(("heading", "name"), SECTIONS.items())
def test_the_reference_has_every_field(heading, name):
    """The configuration reference lists exactly the fields of each class (a target: those that a provider lacks)."""
    page = (ROOT / "docs" / "configuration.md").read_text()
    section = page.partition(f"### {heading}\n")[2].partition("\n#")[0]
    fields = {field.name for field in attrs.fields(getattr(onwards_core, name))}
    if name == "TargetConfig":
        fields -= {field.name for field in attrs.fields(onwards_core.ProviderConfig)}
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == fields


def fields_in_use(loaded: Any, raw: Any) -> Iterator[tuple[str, str]]:
    """Classes of the config, and the names of those of their fields that an example sets."""
    if attrs.has(type(loaded)) and isinstance(raw, dict):
        for name in raw.keys() & attrs.fields_dict(type(loaded)).keys():
            yield type(loaded).__name__, name
            yield from fields_in_use(getattr(loaded, name), raw[name])
    elif isinstance(loaded, dict):
        for name, value in loaded.items():
            yield from fields_in_use(value, raw[name])
    elif isinstance(loaded, list):
        for value, part in zip(loaded, raw, strict=True):
            yield from fields_in_use(value, part)


def test_every_field_has_an_example():
    """In one of the pages, where `test_each_config_is_valid` loads it. (A target is also a provider.)"""
    used = {
        (name.replace("TargetConfig", "ProviderConfig") if field != "keys" else name, field)
        for block in blocks("json")
        for name, field in fields_in_use(load_config(block.values[0].encode(), secret), json.loads(block.values[0]))
    }
    named = {(name, field.name) for name in SECTIONS.values() for field in attrs.fields(getattr(onwards_core, name))}
    named = {(name, field) for name, field in named if name != "TargetConfig" or field == "keys"}
    assert named - used == set()


def test_the_embedding_page_has_every_action():
    """With what is to be done for it."""
    page = (ROOT / "docs" / "embedding.md").read_text()
    actions = {action.__name__ for action in get_args(onwards_core.Action)}
    assert set(re.findall(r"^\| `(\w+)` \|", page.partition("## The actions")[2], re.MULTILINE)) == actions


def test_the_tests_that_show_how_safe_it_is_exist():
    """Whatever the threat model names as its evidence is there."""
    named = set(re.findall(r"`((?:tests|\.ci)/[^`]+)`", (ROOT / "SECURITY.md").read_text()))
    assert len(named) > 10
    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_the_command_line_page_has_every_option():
    """Each option of each subcommand is in the page, and the page has no other."""
    page = (ROOT / "docs" / "command-line.md").read_text()
    commands = next(action for action in _parser()._actions if action.choices).choices
    options = {
        option
        for parser in commands.values()
        for action in parser._actions
        for option in action.option_strings
        if option.startswith("--") and option != "--help"
    }
    assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", page)) == options


def test_the_metrics_page_has_every_metric():
    """Its table is the program's own."""
    page = (ROOT / "docs" / "metrics.md").read_text()
    for it in DEFINITIONS:
        labels = ", ".join(f"`{label}`" for label in it.labels)
        assert f"| `onwards_{it.name}` | {it.kind} | {labels} | {it.help} | {it.question} |\n" in page
    assert page.count("| `onwards_") == len(DEFINITIONS)


@pytest.mark.parametrize("package", [onwards_core, onwards_trio], ids=lambda package: package.__name__)
def test_the_architecture_page_has_every_module(package):
    """The table of a package's modules names each of them once, and no other."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    section = page.partition(f"\n## `{package.__name__}`")[2].partition("\n## ")[0]
    cells = re.findall(r"^\| (`_.*?) \|", section, re.MULTILINE)
    named = [name for cell in cells for name in re.findall(r"`(.+?)`", cell)]
    folder = Path(package.__file__).parent
    modules = {file.relative_to(folder).with_suffix("") for file in folder.rglob("*.py")}
    paths = {str(module.parent if module.name == "__init__" else module) for module in modules}
    assert sorted(named) == sorted(paths - {".", "__main__"})


def test_the_sizes_and_times_are_those_of_the_program():
    """The table of sizes and times has the numbers of the constants that rule them."""
    page = (ROOT / "docs" / "errors.md").read_text()
    rows = dict(re.findall(r"^\| (.+?) \| (\d.*?) \|", page.partition("## Sizes and times")[2], re.MULTILINE))
    limits = ServerConfig()
    assert rows == {
        "a request's head": f"{limits.head_bytes // 1024} KiB, {limits.head_fields} fields",
        "a request's body": f"{limits.body_bytes // 1024**2} MiB",
        "a client's pause between requests": f"{limits.idle_timeout_secs:g} s",
        "a request's head on its way": f"{limits.head_timeout_secs:g} s",
        "a client's pause within a request's body": f"{limits.body_timeout_secs:g} s",
        "connecting to a provider": f"{_snapshot.CONNECT_TIMEOUT:g} s",
        "a provider's pause within an answer's body": f"{_snapshot.IDLE_TIMEOUT:g} s",
    }
