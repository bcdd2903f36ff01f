"""Sizes that a reader can hold: modules of 600 lines, functions of 70, seven parameters."""

from __future__ import annotations

import ast
from collections.abc import Iterator

import pytest

from tests.tidy import sources
from tests.tidy.sources import Source

MODULE_LINES_MAX = 600
FUNCTION_LINES_MAX = 70
PARAMETERS_MAX = 7

#: `path` or `path:function`, and why it may be larger.
EXCEPTIONS: dict[str, str] = {}

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def findings(source: Source) -> Iterator[tuple[str, str]]:
    """What is too large: the name for `EXCEPTIONS`, and a sentence."""
    lines = len(source.text.splitlines())
    if lines > MODULE_LINES_MAX:
        yield source.path, f"{source.path}: {lines} lines, more than {MODULE_LINES_MAX}"
    for node in ast.walk(source.tree):
        if isinstance(node, _Function):
            name = f"{source.path}:{node.name}"
            yield from ((name, f"{source.path}:{node.lineno}: {sentence}") for sentence in _too_large(source, node))


def _too_large(source: Source, node: _Function) -> Iterator[str]:
    lines = (node.end_lineno or node.lineno) - node.lineno + 1
    if lines > FUNCTION_LINES_MAX:
        yield f"{node.name} has {lines} lines, more than {FUNCTION_LINES_MAX}"
    parameters = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
    count = len([name for name in parameters if name not in ("self", "cls")])
    # The parameters of a command are its options, of a route its query, of a test its fixtures: nobody calls by position.
    is_called_by_name_only = node.name.startswith("test_") or any(_is_an_entry(item) for item in node.decorator_list)
    if count > PARAMETERS_MAX and not is_called_by_name_only:
        yield f"{node.name} has {count} parameters, more than {PARAMETERS_MAX}"


def _is_an_entry(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(called, ast.Attribute) and called.attr in ("command", "group", "get", "post", "put", "delete")


def test_nothing_is_too_large() -> None:
    """Modules, functions and parameter lists of the whole repository; exceptions have a reason."""
    found = [
        sentence for source in sources.python_files() for name, sentence in findings(source) if name not in EXCEPTIONS
    ]
    assert not found, "\n".join(["", *found])


def test_every_exception_is_needed() -> None:
    """An exception whose subject has shrunk or gone is removed."""
    names = {name for source in sources.python_files() for name, _ in findings(source)}
    assert set(EXCEPTIONS) <= names


@pytest.mark.parametrize(
    "text",
    [
        "x = 1\n" * (MODULE_LINES_MAX + 1),
        "def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX,
        "async def f():\n" + "    x = 1\n" * FUNCTION_LINES_MAX,
        "class C:\n    def f(self, a, b, c, d, e, f, g, h): ...",
        "def f(a, b, c, d, *, e, f, g, h): ...",
    ],
    ids=["module", "function", "coroutine", "parameters", "keywords"],
)
def test_what_is_too_large_is_found(text: str) -> None:
    """The limits bite one past the limit."""
    assert list(findings(Source(module="made.up", path="made/up.py", text=text)))


@pytest.mark.parametrize(
    "text",
    [
        "x = 1\n" * MODULE_LINES_MAX,
        "def f():\n" + "    x = 1\n" * (FUNCTION_LINES_MAX - 1),
        "class C:\n    def f(self, a, b, c, d, e, f, g): ...",
        "@main.command()\ndef f(a, b, c, d, e, f, g, h): ...",
        "@router.get('/')\ndef f(a, b, c, d, e, f, g, h): ...",
    ],
    ids=["module", "function", "parameters", "command", "route"],
)
def test_what_is_at_the_limit_is_fine(text: str) -> None:
    """The limits themselves are allowed."""
    assert not list(findings(Source(module="made.up", path="made/up.py", text=text)))
