"""The examples are what newcomers copy: each compiles, is listed and is explained; the configuration files have every key."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

import waterflow_agent.config
import waterflowd.app.config
from waterflowd import dsl

EXAMPLES = Path(__file__).parents[2] / "examples"
WORKFLOWS = sorted(EXAMPLES.glob("*.yml"))


def _read(path: str) -> bytes | None:
    """Reads a file that an example uses; the example's folder is the root of the repository."""
    file = EXAMPLES / path
    return file.read_bytes() if file.is_file() else None


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_an_example_compiles(file: Path) -> None:
    """It compiles without errors and warnings."""
    compiled = dsl.compile_workflow(file.name, file.read_bytes(), _read)
    assert [dsl.render_diagnostic(found) for found in (*compiled.diagnostics, *compiled.warnings)] == []
    assert compiled.plan is not None


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.name)
def test_an_example_has_a_comment_and_a_row(file: Path) -> None:
    """It starts with a comment, and has a row in the table."""
    assert file.read_text("utf-8").startswith("# ")
    assert f"| [{file.name}]({file.name}) |" in (EXAMPLES / "README.md").read_text("utf-8")


def test_the_table_lists_only_existing_files() -> None:
    """Every link on the page leads to a file."""
    linked = re.findall(r"\]\(([^)#]+)\)", (EXAMPLES / "README.md").read_text("utf-8"))
    assert linked
    assert all((EXAMPLES / name).exists() for name in linked)


def _keys(table: type) -> Iterator[str]:
    for field in msgspec.structs.fields(table):
        kinds = [field.type, *getattr(field.type, "__args__", ())]
        inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, msgspec.Struct)), None)
        yield field.encode_name
        yield from _keys(inner) if inner is not None else ()


def _with_every_key(name: str) -> str:
    """Returns the file with all commented-out keys enabled."""
    return re.sub(r"^#(?=\[|[a-z-]+ = )", "", (EXAMPLES / name).read_text("utf-8"), flags=re.MULTILINE)


@pytest.mark.parametrize(
    ("name", "table"),
    [("waterflowd.toml", waterflowd.app.config.Config), ("agent.toml", waterflow_agent.config.Config)],
)
def test_a_configuration_file_has_every_key(name: str, table: type) -> None:
    """Each key is either set or commented out."""
    text = _with_every_key(name)
    prefix = r"^(?:\[+(?:[a-z-]+\.)*)?"
    missing = [key for key in _keys(table) if not re.search(rf"{prefix}{re.escape(key)}(?: = |\])", text, re.MULTILINE)]
    assert not missing


def test_the_daemon_s_configuration_file_is_valid(tmp_path: Path) -> None:
    """It is valid as it is and with everything enabled; the commented-out values are the defaults."""
    switched_on = tmp_path / "waterflowd.toml"
    switched_on.write_text(_with_every_key("waterflowd.toml"))
    plain = waterflowd.app.config.load(EXAMPLES / "waterflowd.toml", environment={})
    full = waterflowd.app.config.load(switched_on, environment={})
    assert full.agents.address
    # The only channel that is commented out as a whole; its keys have their default values.
    assert full.notify == (waterflowd.app.config.NotifyTable(name="ops"),)
    # The only key without a default value that the file could show.
    agents = msgspec.structs.replace(full.agents, address="")
    assert plain == msgspec.structs.replace(full, agents=agents, notify=())


def test_the_agent_s_configuration_file_is_valid(tmp_path: Path) -> None:
    """It is valid as it is and with everything enabled."""
    plain = waterflow_agent.config.load(EXAMPLES / "agent.toml", environment={})
    assert plain.join_token_file
    settings = tomllib.loads(_with_every_key("agent.toml"))
    switched_on = tmp_path / "agent.toml"
    switched_on.write_text(re.sub('"the 40 characters[^"]*"', f'"{"k" * 40}"', _with_every_key("agent.toml")))
    full = waterflow_agent.config.load(switched_on, environment={})
    assert full.labels == settings["labels"]
    assert (full.slots, full.data_dir, full.runner) == (plain.slots, plain.data_dir, plain.runner)
