"""Reports the largest modules, functions, parameter lists and folders: `python -m tests.tidy.sizes`, part of `make check`.

The limits are a reason to take a second look, never a reason to distort code, so exceeding one is not a failure.
"""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath

from tests.tidy import sources
from tests.tidy.sources import Source

#: Limits: lines of a module and of a function, parameters, modules in a folder.
MODULE_LINES, FUNCTION_LINES, PARAMETERS, FOLDER_MODULES = 600, 70, 7, 20
#: The parameters of commands and routes are options and query parameters, which are never passed by position.
_ENTRY_POINTS = frozenset({"command", "group", "get", "post", "put", "delete"})

_Function = ast.FunctionDef | ast.AsyncFunctionDef


def large_modules(files: tuple[Source, ...]) -> Iterator[tuple[int, str]]:
    """Returns the modules with more than `MODULE_LINES` lines: size and path."""
    for source in files:
        lines = source.text.count("\n")
        if lines > MODULE_LINES:
            yield lines, source.path


def large_functions(files: tuple[Source, ...]) -> Iterator[tuple[int, str]]:
    """Returns the functions with more than `FUNCTION_LINES` lines: size and location."""
    for source, function in _functions(files):
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        if lines > FUNCTION_LINES:
            yield lines, f"{source.path}:{function.lineno} {function.name}"


def long_parameter_lists(files: tuple[Source, ...]) -> Iterator[tuple[int, str]]:
    """Returns the functions with more than `PARAMETERS` parameters, except tests, commands and routes: count and location."""
    for source, function in _functions(files):
        arguments = function.args
        names = [one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        count = len([name for name in names if name not in ("self", "cls")])
        if count > PARAMETERS and not function.name.startswith("test_") and not _is_entry_point(function):
            yield count, f"{source.path}:{function.lineno} {function.name}"


def large_folders(files: tuple[Source, ...]) -> Iterator[tuple[int, str]]:
    """Returns the folders with more than `FOLDER_MODULES` modules: count and path."""
    counts = Counter(str(PurePosixPath(source.path).parent) for source in files if not source.is_package)
    yield from ((count, folder) for folder, count in counts.items() if count > FOLDER_MODULES)


def _functions(files: tuple[Source, ...]) -> Iterator[tuple[Source, _Function]]:
    for source in files:
        for node in ast.walk(source.tree):
            if isinstance(node, _Function):
                yield source, node


def _is_entry_point(function: _Function) -> bool:
    called = [node.func if isinstance(node, ast.Call) else node for node in function.decorator_list]
    return any(isinstance(node, ast.Attribute) and node.attr in _ENTRY_POINTS for node in called)


def report() -> str:
    """Returns the largest of each kind, the largest first; empty if nothing exceeds a limit."""
    everything = sources.python_files()
    sections = (
        (f"modules of more than {MODULE_LINES} lines", large_modules(everything)),
        (f"functions of more than {FUNCTION_LINES} lines", large_functions(everything)),
        (f"functions of more than {PARAMETERS} parameters", long_parameter_lists(everything)),
        (f"folders of more than {FOLDER_MODULES} modules", large_folders(everything)),
    )
    lines: list[str] = []
    for title, found in sections:
        rows = sorted(found, reverse=True)
        if rows:
            lines += [f"{title}: {len(rows)}", *(f"  {size:5} {location}" for size, location in rows[:10])]
    return "\n".join(lines)


if __name__ == "__main__":
    print(report())
