"""Diagnostics: the errors and warnings of a file, as records that the CLI, the API and the log share."""

from __future__ import annotations

from enum import Enum

import msgspec


class Severity(Enum):
    """Whether a diagnostic prevents a plan."""

    #: The file has no plan.
    ERROR = "error"
    #: The file has a plan, but probably not the intended one.
    WARNING = "warning"


class Diagnostic(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One error or warning of a workflow file. Lines and columns are 1-based, columns count characters."""

    #: Stable, `WF1xx`.
    code: str
    path: str
    line: int
    column: int
    #: What is wrong, what was found and what is expected.
    message: str
    #: The source line, shortened around the position when it is long, with control characters escaped.
    snippet: str = ""
    #: Column in `snippet` that a caret points at, 1-based.
    caret: int = 0
    #: What to do: `did you mean "build"?`, or the lines to write.
    suggestion: str = ""
    severity: Severity = Severity.ERROR


def as_row(diagnostic: Diagnostic) -> dict[str, str | int]:
    """The diagnostic as one entry of `errors[]`: what the API answers and the CLI prints as JSON.

    It has every field, `severity` only for a warning; `help` is the section of the documentation about the code.
    """
    row: dict[str, str | int] = msgspec.to_builtins(diagnostic)
    empty: dict[str, str | int] = {"snippet": "", "caret": 0, "suggestion": ""}
    return {**row, **{name: row.get(name, value) for name, value in empty.items()}, "help": help_of(diagnostic.code)}


def help_of(code: str) -> str:
    """The page of the documentation about a code: a path in the project, with an anchor for codes of the language."""
    return f"docs/reference/diagnostics.md#{code.lower()}" if code.startswith("WF1") else "docs/errors.md"


def from_row(row: object) -> Diagnostic:
    """The diagnostic of a row. Raises `msgspec.ValidationError` for anything else; unknown fields are ignored."""
    return msgspec.convert(row, Diagnostic)


class Compiled(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a compilation: the bytes of a plan, or errors. Never both, never neither."""

    plan: bytes | None
    #: Errors, including those of other files that it uses, each with its own path.
    diagnostics: list[Diagnostic]
    warnings: list[Diagnostic] = []
    #: Paths of the other files that were looked for, whether they exist or not: a change of one means to compile again.
    files: list[str] = []
