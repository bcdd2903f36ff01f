"""The workflow language: from the bytes of a file to a plan, or to all its errors.

    bytes ─reading─▶ document ─models.validation─▶ models ─building─▶ plan
                        │                                      │
                        └────────────── reporting ─────────────┴─▶ diagnostics ─▶ text

| package | holds |
|---|---|
| `reading` | the YAML reader: a document whose parts know their positions |
| `models` | the models of the language, with types, limits, descriptions and examples |
| `building` | what is checked across a file (needs, ids, expressions, nodes, called files), and the plan |
| `reporting` | codes, diagnostics and how they are shown |
| `reference` | the pages of docs/reference and the JSON Schema for editors, rendered from the models |

Other files of the same revision (reusable workflows, composite steps) are compiled in the same way, within one compilation
that holds them and enforces the limits for all of them.

Rules of the package: pure (no file, clock, socket, thread). The same content under the same path gives the same plan bytes.
Whatever the content is, the result is a plan or diagnostics, never an exception. Each limit is checked in one place: size,
nesting and aliases in `reading`, jobs and steps in `building`, expressions in `waterflowd.expr`.

Importing the package is cheap: pydantic and PyYAML are loaded by the first compilation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from waterflowd.dsl.reporting.diagnostics import Compiled, Diagnostic, Severity
from waterflowd.dsl.reporting.rendering import render_diagnostic

if TYPE_CHECKING:
    from waterflowd.dsl.compile import MissingFiles

__all__ = ["Compiled", "Diagnostic", "Severity", "compile_from_files", "compile_workflow", "render_diagnostic"]


def compile_workflow(
    path: str, content: bytes, files: Callable[[str], bytes | None] | Mapping[str, bytes | None] | None = None
) -> Compiled:
    """Compiles the file at `path` of its repository; never raises because of its content.

    `files` gives the content of another file of the same revision by its path from the root, None if it does not exist.
    Without `files`, a file that uses others is an error that says so.
    """
    from waterflowd.dsl import compile as compiler

    return compiler.compile_workflow(path, content, files)


def compile_from_files(path: str, content: bytes, files: Mapping[str, bytes | None]) -> Compiled | MissingFiles:
    """The same if the other files must be fetched first: the result, or the files that `files` must have for one."""
    from waterflowd.dsl import compile as compiler

    return compiler.compile_from_files(path, content, files)
