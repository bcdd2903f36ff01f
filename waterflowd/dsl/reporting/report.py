"""Collects the errors and warnings of one file, with their positions.

Rules of this file: checking continues after an error, so that a person sees all errors at once. Positions are offsets in the
text; at the end the errors are sorted, without duplicates, and at most `ERRORS_MAX` are shown. A warning does not prevent a
run; it is for certain mistakes only.
"""

from __future__ import annotations

import msgspec

from waterflowd.dsl.reading.tree import Lines
from waterflowd.dsl.reporting import codes
from waterflowd.dsl.reporting.diagnostics import Diagnostic, Severity
from waterflowd.dsl.reporting.snippets import snippet

#: More than people fix before validating again.
ERRORS_MAX = 100

#: Checking stops here, since each error costs a search for similar names. Repetitions are cheaper, but not free.
FOUND_MAX = 200
_ADDED_MAX = 5 * FOUND_MAX


class TooMany(Exception):
    """The report is full; checking stops."""


class DiagnosticReport:
    """Collects the errors and warnings of a file; truthy when there are errors."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, str, str], str] = {}
        self._warned: dict[tuple[int, str, str], str] = {}
        self._added = 0

    def add(self, offset: int, code: str, message: str, suggestion: str = "") -> None:
        """Records an error at an offset of the text; a repetition changes nothing. Raises TooMany once it is full."""
        self._found.setdefault((offset, code, message), suggestion)
        self._added += 1
        if self.is_full:
            raise TooMany

    def warn(self, offset: int, code: str, message: str, suggestion: str = "") -> None:
        """Records a warning; those beyond `ERRORS_MAX` are left out."""
        if self.takes_warnings:
            self._warned.setdefault((offset, code, message), suggestion)

    @property
    def takes_warnings(self) -> bool:
        """Whether a warning would be kept; look for what is expensive to find only then."""
        return len(self._warned) < ERRORS_MAX

    def has_within(self, start: int, end: int) -> bool:
        """Whether an error has been reported in this part of the text, so that another one would be noise."""
        return any(start <= offset < end for offset, _, _ in self._found)

    def __bool__(self) -> bool:
        return bool(self._found)

    @property
    def is_full(self) -> bool:
        """Whether checking has ended because of the number of errors."""
        return len(self._found) >= FOUND_MAX or self._added >= _ADDED_MAX

    def diagnostics(self, path: str, lines: Lines) -> list[Diagnostic]:
        """The errors in the order of the file; the last one says how many were left out."""
        found = sorted(self._found.items())
        reported = [_diagnostic(path, lines, *key, suggestion) for key, suggestion in found[:ERRORS_MAX]]
        if len(found) > ERRORS_MAX:
            offset = found[ERRORS_MAX][0][0]
            count = f"{len(found) - ERRORS_MAX} more"
            message = f"at least {count} errors are not shown" if self.is_full else f"{count} errors are not shown"
            reported.append(_diagnostic(path, lines, offset, codes.MORE_ERRORS, message, "fix the errors above first"))
        return reported

    def warnings(self, path: str, lines: Lines) -> list[Diagnostic]:
        """The warnings in the order of the file."""
        found = sorted(self._warned.items())
        reported = (_diagnostic(path, lines, *key, suggestion) for key, suggestion in found)
        return [msgspec.structs.replace(diagnostic, severity=Severity.WARNING) for diagnostic in reported]


def _diagnostic(path: str, lines: Lines, offset: int, code: str, message: str, suggestion: str) -> Diagnostic:
    line, column = lines.position(offset)
    text, caret = snippet(lines.line(line), column)
    return Diagnostic(
        code=code,
        path=path,
        line=line,
        column=column,
        message=message,
        snippet=text,
        caret=caret,
        suggestion=suggestion,
    )
