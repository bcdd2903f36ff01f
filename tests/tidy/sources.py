"""The repository as the tidy tests see it: its files, its modules, and what a module imports."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
#: The parent folder of each distribution's package.
PACKAGE_ROOTS = {"waterflowd": ROOT, "waterflow_agent": ROOT / "agent"}
#: Generated files, which are never part of the repository. `.git` may be missing: a source archive has none.
_MADE = frozenset(
    {
        ".git",
        "__pycache__",
        "build",
        "dist",
        ".pytest_cache",
        ".mypy_cache",
        ".ruff_cache",
        ".hypothesis",
        "node_modules",
    }
)


@dataclass(frozen=True, kw_only=True)
class Source:
    """One Python file."""

    #: The dotted name for imports; a package's `__init__` has the package's name.
    module: str
    #: Relative to the root of the repository.
    path: str
    text: str
    is_package: bool = False

    @functools.cached_property
    def tree(self) -> ast.Module:
        """The parsed file."""
        return ast.parse(self.text, self.path)


@dataclass(frozen=True, kw_only=True)
class Import:
    """One name that a module imports. `from a import b` is `a.b`, because `b` may be a module."""

    name: str
    line: int

    def is_in(self, *packages: str) -> bool:
        """Returns whether the name is one of the packages, or inside one."""
        return is_in(self.name, *packages)

    @property
    def top(self) -> str:
        """The first component of the name."""
        return self.name.partition(".")[0]


def is_in(name: str, *packages: str) -> bool:
    """Returns whether a dotted name is one of the packages, or inside one."""
    return any(name == package or name.startswith(package + ".") for package in packages)


@functools.cache
def files() -> tuple[Path, ...]:
    """Returns every file that is not generated."""
    return tuple(sorted(_walk(ROOT)))


def _walk(folder: Path) -> Iterator[Path]:
    for entry in folder.iterdir():
        name = entry.name
        if name in _MADE or name.startswith(".venv") or name.endswith((".egg-info", ".pyc")) or entry.is_symlink():
            continue
        if entry.is_dir():
            yield from _walk(entry)
        elif entry.is_file() and not name.startswith(".coverage"):
            yield entry


@functools.cache
def modules(package: str) -> tuple[Source, ...]:
    """Returns the modules of one of the two packages."""
    return tuple(
        _source(file, PACKAGE_ROOTS[package]) for file in sorted((PACKAGE_ROOTS[package] / package).rglob("*.py"))
    )


@functools.cache
def shipped() -> tuple[Source, ...]:
    """Returns the modules of both packages."""
    return modules("waterflowd") + modules("waterflow_agent")


@functools.cache
def python_files() -> tuple[Source, ...]:
    """Returns every Python file of the repository."""
    others = [file for file in files() if file.suffix == ".py" and not _is_shipped(file)]
    return shipped() + tuple(_source(file, ROOT) for file in others)


def _is_shipped(file: Path) -> bool:
    return any((root / package) in file.parents for package, root in PACKAGE_ROOTS.items())


def _source(file: Path, root: Path) -> Source:
    parts = list(file.relative_to(root).with_suffix("").parts)
    is_package = parts[-1] == "__init__"
    return Source(
        module=".".join(parts[:-1] if is_package else parts),
        path=str(file.relative_to(ROOT)),
        text=file.read_text("utf-8"),
        is_package=is_package,
    )


def imports(source: Source) -> list[Import]:
    """Returns all imports, including those inside functions and for type checkers."""
    found: list[Import] = []
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            found += [Import(name=alias.name, line=node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            origin = _origin(source, node)
            found += [Import(name=f"{origin}.{alias.name}", line=node.lineno) for alias in node.names]
    return found


def _origin(source: Source, node: ast.ImportFrom) -> str:
    """Returns the absolute name of the module in a `from ... import`."""
    if not node.level:
        return node.module or ""
    parts = source.module.split(".")
    parts = parts[: len(parts) - node.level + source.is_package]
    return ".".join([*parts, *([node.module] if node.module else [])])


def text_of(file: Path) -> str:
    """Returns a file's text; empty if the file is not text."""
    try:
        return file.read_text("utf-8")
    except UnicodeDecodeError:
        return ""
