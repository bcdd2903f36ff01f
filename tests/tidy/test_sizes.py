"""The report of the largest modules and functions finds what exceeds a limit. The sizes themselves never fail a test."""

from __future__ import annotations

import pytest

from tests.tidy import sizes
from tests.tidy.sources import Source


def _file(text: str) -> tuple[Source, ...]:
    return (Source(module="made.up", path="made/up.py", text=text),)


def test_modules_and_functions_are_reported_one_line_past_the_limit() -> None:
    """A size equal to the limit is not reported."""
    function = "def f():\n" + "    x = 1\n" * sizes.FUNCTION_LINES
    assert list(sizes.large_functions(_file(function))) == [(sizes.FUNCTION_LINES + 1, "made/up.py:1 f")]
    assert not list(sizes.large_functions(_file(function.removesuffix("    x = 1\n"))))
    assert list(sizes.large_modules(_file("x = 1\n" * (sizes.MODULE_LINES + 1))))
    assert not list(sizes.large_modules(_file("x = 1\n" * sizes.MODULE_LINES)))


@pytest.mark.parametrize(
    ("text", "is_reported"),
    [
        ("class C:\n    def f(self, a, b, c, d, e, f, g, h): ...", True),
        ("def f(a, b, c, d, *, e, f, g, h): ...", True),
        ("class C:\n    def f(self, a, b, c, d, e, f, g): ...", False),
        ("@main.command()\ndef f(a, b, c, d, e, f, g, h): ...", False),
        ("def test_f(a, b, c, d, e, f, g, h): ...", False),
    ],
)
def test_long_parameter_lists_are_reported(text: str, is_reported: bool) -> None:
    """Options of commands and fixtures of tests are passed by name and do not count."""
    assert bool(list(sizes.long_parameter_lists(_file(text)))) is is_reported


def test_folders_are_reported() -> None:
    """A folder's `__init__` does not count as a module."""
    files = tuple(
        Source(module=f"a.m{number}", path=f"a/m{number}.py", text="") for number in range(sizes.FOLDER_MODULES + 1)
    )
    package = Source(module="a", path="a/__init__.py", text="", is_package=True)
    assert list(sizes.large_folders((*files, package))) == [(sizes.FOLDER_MODULES + 1, "a")]
    assert not list(sizes.large_folders((*files[1:], package)))
