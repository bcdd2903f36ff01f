"""Vague names, and markers for unfinished work."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import pytest

from tests.tidy import sources
from tests.tidy.sources import Source

#: Names of modules that do not describe their content.
NOUNLESS = frozenset({"util", "utils", "helper", "helpers", "common", "base", "manager", "managers", "misc"})
#: Split, so that this file does not match itself.
_LATER = re.compile(r"\b(" + "|".join(["TO" + "DO", "FIX" + "ME", "X" * 3]) + r")\b")
_UNFINISHED = "NotImplemented" + "Error"


def findings(source: Source) -> Iterator[str]:
    """Returns what is wrong with a module's name, its text, and the names that it uses."""
    parts = set(re.split(r"[._]", source.module))
    if nounless := parts & NOUNLESS:
        yield f"{source.path}: a module called {', '.join(sorted(nounless))}: a noun is missing"
    for number, line in enumerate(source.text.splitlines(), 1):
        if word := _LATER.search(line):
            yield f"{source.path}:{number}: {word.group()}: do it, or write why it is left out"
    for found in sources.imports(source):
        if found.is_in("unittest.mock", "mock", "pytest_mock"):
            yield f"{source.path}:{found.line}: {found.name}: fakes stand in waterflowd.testing and obey the contract"
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Name) and node.id == _UNFINISHED:
            yield f"{source.path}:{node.lineno}: {_UNFINISHED}: a stub"


def test_names_are_descriptive_and_nothing_is_unfinished() -> None:
    """Every Python file of the repository is checked, including tests and benchmarks."""
    found = [finding for source in sources.python_files() for finding in findings(source)]
    assert not found, "\n".join(["", *found])


def test_no_text_file_has_a_marker_for_unfinished_work() -> None:
    """Documentation, examples and scripts have no such markers either."""
    others = [file for file in sources.files() if file.suffix != ".py"]
    found = [f"{file}: {word.group()}" for file in others if (word := _LATER.search(sources.text_of(file)))]
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize(
    ("module", "text"),
    [
        ("waterflowd.utils", ""),
        ("waterflowd.api.helpers.time", ""),
        ("waterflowd.run_manager", ""),
        ("waterflowd.runs", "# TO" + "DO: later"),
        ("waterflowd.runs", "x = 1  # FIX" + "ME"),
        ("tests.unit.test_runs", "from unittest import mock"),
        ("tests.unit.test_runs", "from unittest.mock import patch"),
        ("waterflowd.runs", f"def f():\n    raise {_UNFINISHED}"),
    ],
)
def test_a_bad_name_is_found(module: str, text: str) -> None:
    """Each rule finds a violation."""
    assert list(findings(Source(module=module, path="made/up.py", text=text)))
