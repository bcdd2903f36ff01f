"""Diagnostics: what is wrong with a file, where, and what to do, as one record that the CLI, the API and the log share."""

from __future__ import annotations

from enum import Enum

import msgspec


class Severity(Enum):
    """How bad it is."""

    #: There is no plan.
    ERROR = "error"
    #: There may be a plan, and it is hardly what was meant.
    WARNING = "warning"


class Diagnostic(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One error or warning of a workflow file. Lines and columns are 1-based, columns count characters."""

    #: Stable, `WF1xx`.
    code: str
    path: str
    line: int
    column: int
    #: What was found and what was expected, in one sentence.
    message: str
    #: The source line, cut around the place when it is long; control characters are shown escaped.
    snippet: str = ""
    #: Column in `snippet` that a caret points at, 1-based.
    caret: int = 0
    #: What to do: `did you mean "build"?`, or the lines to write.
    suggestion: str = ""
    severity: Severity = Severity.ERROR


def as_row(diagnostic: Diagnostic) -> dict[str, str | int]:
    """The diagnostic as one entry of `errors[]`: what the API answers and the CLI prints as JSON.

    Every field stands in it, `severity` only in that of a warning; `help` is the place in the documentation that tells more.
    """
    row: dict[str, str | int] = msgspec.to_builtins(diagnostic)
    empty: dict[str, str | int] = {"snippet": "", "caret": 0, "suggestion": ""}
    return {**row, **{name: row.get(name, value) for name, value in empty.items()}, "help": help_of(diagnostic.code)}


def help_of(code: str) -> str:
    """Where the documentation tells more of a code: a path in the project, with an anchor for those of the language."""
    return f"docs/reference/diagnostics.md#{code.lower()}" if code.startswith("WF1") else "docs/errors.md"


def from_row(row: object) -> Diagnostic:
    """The diagnostic that a row is. Raises `msgspec.ValidationError` for anything else; unknown fields are left out."""
    return msgspec.convert(row, Diagnostic)


class Compiled(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a file: the bytes of a plan, or why there is none. Never both, never neither."""

    plan: bytes | None
    #: Errors, those of other files that it uses included, each with its own path.
    diagnostics: list[Diagnostic]
    warnings: list[Diagnostic] = []
    #: Paths of the other files that were looked for, whether they exist or not: a change of one means to compile again.
    files: list[str] = []
