"""The repository is self-contained: it mentions no path of a developer's machine and no package index."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from tests.tidy import sources

#: Folders on a developer's machine. A path inside another one (`<data-dir>/work/...`) does not count.
_PRIVATE_PATH = re.compile(r"(?<![\w>}*.~-])/(?:work|root|home/\w+|Users/\w+)/")
#: Package indexes are configured on each machine. The text is split, so that this file does not match itself.
_REGISTRIES = re.compile(
    r"|".join(
        [
            r"\bpypi\." + "org",
            "python" + "hosted",
            r"registry\.npm" + "js",
            r"deb\.debian\." + "org",
            "--index" + "-url",
        ]
    )
)

#: File: pattern that is allowed there, and why.
EXCEPTIONS: dict[str, tuple[re.Pattern[str], str]] = {
    "tests/unit/agent/nodes/test_shell.py": (_PRIVATE_PATH, "a made-up workspace that nothing is read from"),
}


def findings(path: str, text: str) -> list[str]:
    """Returns each location in a text that mentions a path of a machine or a package index."""
    fine = EXCEPTIONS.get(path, (None, ""))[0]
    patterns = [pattern for pattern in (_PRIVATE_PATH, _REGISTRIES) if pattern is not fine]
    return [
        f"{path}:{number}: {found.group()}"
        for number, line in enumerate(text.splitlines(), 1)
        for pattern in patterns
        for found in pattern.finditer(line)
    ]


def test_no_file_names_a_machine_or_a_package_index() -> None:
    """Neither a developer's path nor the host name of a package index occurs in any file."""
    found = [
        finding
        for file in sources.files()
        for finding in findings(str(file.relative_to(sources.ROOT)), sources.text_of(file))
    ]
    assert not found, "\n".join(["", *found])


@pytest.mark.parametrize(
    "text",
    [
        "open('/ro" + "ot/x')",
        "see /wo" + "rk/main",
        "/ho" + "me/ada/x",
        "https://py" + "pi.org/simple",
    ],
)
def test_forbidden_text_is_found(text: str) -> None:
    """Each pattern finds its example."""
    assert findings("made/up.md", text)


@pytest.mark.parametrize("text", ["<data-dir>/work/<run>", "{folder}/root/x", "~/work/ops"])
def test_harmless_text_is_not_found(text: str) -> None:
    """The patterns ignore other paths and words."""
    assert not findings("made/up.md", text)


def test_the_checkout_itself_is_not_named() -> None:
    """No file contains the path of the folder that it is in."""
    here = f"{sources.ROOT}/"
    found = [str(file) for file in sources.files() if here in sources.text_of(file)]
    assert not found


def _tests_of(file: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(file.read_text("utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node for node in ast.walk(tree) if isinstance(node, kinds) and node.name.startswith("test_")]


def test_every_test_has_a_docstring() -> None:
    """The name states the claim, and the docstring explains it."""
    found = [
        f"{file.relative_to(sources.ROOT)}:{node.lineno}: {node.name} has no docstring"
        for file in sorted((sources.ROOT / "tests").rglob("test_*.py"))
        for node in _tests_of(file)
        if not ast.get_docstring(node)
    ]
    assert not found, "\n".join(["", *found])
