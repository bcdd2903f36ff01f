"""The documentation mentions everything that a user can write, type, call or encounter. A failure lists what is missing."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import re
from collections.abc import Iterator

import click
import msgspec
import pytest
from starlette.routing import Route

import waterflow_agent.cli
import waterflow_agent.config
import waterflowd.app.cli
import waterflowd.app.config
from tests.tidy import sources
from waterflowd.api import routes
from waterflowd.ctl.main import cli as waterflowctl
from waterflowd.dsl import models

_CODE = re.compile(r"\bWF[0-9]{3}\b")
_PARAMETER = re.compile(r"\{[^}]*\}")


def _page(name: str) -> str:
    file = sources.ROOT / "docs" / name
    return file.read_text("utf-8") if file.exists() else ""


def _report(page: str, missing: list[str]) -> str:
    return "\n".join(["", f"docs/{page} does not name:", *(f"  {name}" for name in missing)])


# Error codes ----------------------------------------------------------------------------------------------------------


def _codes_in_code() -> dict[str, str]:
    """Returns each error code and one location where it is used, ignoring docstrings."""
    codes: dict[str, str] = {}
    for source in sources.shipped():
        docstrings = {id(node) for node in _docstrings(source.tree)}
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
                codes.update((code, f"{source.path}:{node.lineno}") for code in _CODE.findall(node.value))
    return codes


def _docstrings(tree: ast.Module) -> Iterator[ast.Constant]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield node.value


def _codes_on_page() -> list[str]:
    return re.findall(r"^\| (WF[0-9]{3}) \|", _page("errors.md"), re.MULTILINE)


def test_every_error_code_has_a_row() -> None:
    """The row in docs/errors.md has the cause and the next action."""
    found = _codes_in_code()
    missing = [f"{code} ({found[code]})" for code in sorted(found.keys() - set(_codes_on_page()))]
    assert not missing, _report("errors.md", missing)


def test_every_row_is_about_an_existing_code_and_unique() -> None:
    """A code that is no longer used must be removed from the page."""
    rows = _codes_on_page()
    assert sorted(rows) == sorted(set(rows))
    assert not set(rows) - _codes_in_code().keys()


# Configuration --------------------------------------------------------------------------------------------------------


def _keys(table: type, prefix: str = "") -> Iterator[str]:
    for field in msgspec.structs.fields(table):
        kinds = [field.type, *getattr(field.type, "__args__", ())]
        inner = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, msgspec.Struct)), None)
        if inner is None:
            yield f"{prefix}{field.encode_name}"
        else:
            yield from _keys(inner, f"{prefix}{field.encode_name}.")


@pytest.mark.parametrize(
    ("prefix", "table"), [("waterflowd: ", waterflowd.app.config.Config), ("agent: ", waterflow_agent.config.Config)]
)
def test_every_configuration_key_is_described(prefix: str, table: type) -> None:
    """In docs/configuration.md it is written as `key` or `table.key`, or as a line of TOML."""
    text = _page("configuration.md")
    missing = []
    for key in _keys(table):
        last = re.escape(key.rpartition(".")[2])
        if not re.search(rf"`(?:[a-z-]+\.)*{last}`|^#? ?{last} = ", text, re.MULTILINE):
            missing.append(prefix + key)
    assert not missing, _report("configuration.md", missing)


# Commands -------------------------------------------------------------------------------------------------------------


def _commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    """Returns a command with its full name, and all of its subcommands."""
    yield name, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for inner in command.list_commands(context):
            found = command.get_command(context, inner)
            assert found is not None
            yield from _commands(found, f"{name} {inner}")


@pytest.mark.parametrize(
    ("name", "root"),
    [
        ("waterflowctl", waterflowctl),
        ("waterflowd", waterflowd.app.cli.main),
        ("waterflow-agent", waterflow_agent.cli.main),
    ],
)
def test_every_command_and_option_is_described(name: str, root: click.Command) -> None:
    """docs/commands.md has each command with its full name, and each option as it is typed."""
    text = _page("commands.md")
    missing = []
    for full_name, command in _commands(root, name):
        if not re.search(rf"(?<![\w-]){re.escape(full_name)}(?![\w-])", text):
            missing.append(full_name)
        options = [parameter for parameter in command.params if isinstance(parameter, click.Option)]
        for option in {spelling for parameter in options for spelling in parameter.opts}:
            if not re.search(rf"(?<![\w-]){re.escape(option)}(?![\w-])", text):
                missing.append(f"{full_name} {option}")
    assert not missing, _report("commands.md", sorted(missing))


# The API --------------------------------------------------------------------------------------------------------------


def _routes() -> set[tuple[str, str]]:
    """Returns method and path of every route, without the names of parameters, which the page may choose."""
    modules = [
        importlib.import_module(found.name) for found in pkgutil.walk_packages(routes.__path__, f"{routes.__name__}.")
    ]
    found = {
        (method, _PARAMETER.sub("{}", route.path))
        for module in modules
        if hasattr(module, "router")
        for route in module.router.routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD", "OPTIONS"}
    }
    # The application itself serves its description.
    return {*found, ("GET", "/openapi.json")}


def test_routes_are_found() -> None:
    """The test below must not pass because it found no routes."""
    assert {("GET", "/health"), ("POST", "/v1/runs"), ("GET", "/v1/runs/{}")} <= _routes()


def test_every_route_is_described() -> None:
    """docs/api.md has the method and the path on one line."""
    lines = [_PARAMETER.sub("{}", line) for line in _page("api.md").splitlines()]
    missing = [
        f"{method} {path}"
        for method, path in sorted(_routes())
        if not any(method in line and re.search(rf"{re.escape(path)}(?![\w/{{-])", line) for line in lines)
    ]
    assert not missing, _report("api.md", missing)


# The language ---------------------------------------------------------------------------------------------------------


def _models(model: type[models.LanguageModel] = models.LanguageModel) -> Iterator[type[models.LanguageModel]]:
    for inner in model.__subclasses__():
        yield inner
        yield from _models(inner)


def test_every_key_of_the_language_is_described() -> None:
    """docs/workflows.md mentions it as `key`."""
    text = _page("workflows.md")
    missing = [
        models.named(model, key)
        for model in _models()
        for key in models.keys(model)
        if not re.search(rf"`(?:[a-z_-]+\.)*{re.escape(key)}(?:: [^`]*)?`", text)
    ]
    assert not missing, _report("workflows.md", missing)


# Guarantees -----------------------------------------------------------------------------------------------------------


def _named_tests(text: str) -> list[str]:
    return re.findall(r"`([a-z0-9_/]+\.py(?:::\w+)?)`", text)


def _fault_table() -> list[list[str]]:
    """Returns the cells of each row of the table of faults."""
    _, _, table = _page("developers/proofs.md").partition("\n## Faults")
    rows = [line for line in table.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]] for row in rows[1:]]


@pytest.mark.parametrize("page", ["developers/proofs.md", "developers/bugs.md"])
def test_every_named_test_exists(page: str) -> None:
    """A guarantee whose test was removed or renamed would have no proof."""
    named = _named_tests(_page(page))
    missing = []
    for name in sorted(set(named)):
        path, _, function = name.partition("::")
        file = sources.ROOT / "tests" / path
        text = file.read_text("utf-8") if file.exists() else ""
        if not text or not re.search(rf"^(?:async )?def {function}\(" if function else "", text, re.MULTILINE):
            missing.append(name)
    assert len(named) > 5
    assert not missing, "\n".join(["", f"docs/{page} names tests that do not exist:", *missing])


def test_every_fault_names_its_tests_or_none() -> None:
    """Every row of the table of faults is complete, and a missing test is stated explicitly."""
    rows = _fault_table()
    assert len(rows) >= 25
    for row in rows:
        assert len(row) == 5, row
        fault, promise, mechanism, tests, seen = row
        assert all((fault, promise, mechanism, seen)), row
        assert _named_tests(tests) or tests == "none: not proven", fault


# Architecture ---------------------------------------------------------------------------------------------------------


def test_every_file_that_the_architecture_names_exists() -> None:
    """ARCHITECTURE.md names modules by the end of their path, such as `host/driver.py`, or `step.py` in a table of a folder."""
    text = (sources.ROOT / "ARCHITECTURE.md").read_text("utf-8")
    paths = ["/" + str(file.relative_to(sources.ROOT)) for file in sources.files()]
    named = set(re.findall(r"`([a-z_/]+(?:\.py|/))`", text)) - {"journal/", "runner/", "trees/", "output/", "work/"}
    assert len(named) > 60
    missing = [name for name in sorted(named) if not any(_names(name, path) for path in paths)]
    assert not missing, "\n".join(["", "ARCHITECTURE.md names files that do not exist:", *missing])


def _names(name: str, path: str) -> bool:
    return f"/{name}" in path if name.endswith("/") else path.endswith(f"/{name}")
