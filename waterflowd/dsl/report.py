"""The errors of one file as they are found, and their places.

Rules of this file: a check reports and goes on, so that a person sees all errors at once. A place is an offset in the
text until the end; then the errors are sorted by it, said once each, and at most `ERRORS_MAX` are shown.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from waterflowd.dsl import codes
from waterflowd.dsl.diagnostics import Diagnostic
from waterflowd.dsl.places import snippet
from waterflowd.dsl.tree import Lines

#: More than anybody repairs before looking again.
ERRORS_MAX = 100


class Report:
    """Collects the errors of a file; truthy when there are any."""

    def __init__(self) -> None:
        self._found: dict[tuple[int, str, str], str] = {}

    def add(self, offset: int, code: str, message: str, suggestion: str = "") -> None:
        """Records an error at an offset of the text; a repetition changes nothing."""
        self._found.setdefault((offset, code, message), suggestion)

    def has_within(self, start: int, end: int) -> bool:
        """Whether an error lies in this part of the text, so that what is missing there need not be said again."""
        return any(start <= offset < end for offset, _, _ in self._found)

    def __bool__(self) -> bool:
        return bool(self._found)

    def diagnostics(self, path: str, lines: Lines) -> list[Diagnostic]:
        """The errors in the order of the file, the last one saying how many more there are."""
        found = sorted(self._found.items())
        shown = [_diagnostic(path, lines, *key, suggestion) for key, suggestion in found[:ERRORS_MAX]]
        if len(found) > ERRORS_MAX:
            offset = found[ERRORS_MAX][0][0]
            message = f"{len(found) - ERRORS_MAX} more errors from here on are not shown"
            shown.append(_diagnostic(path, lines, offset, codes.MORE_ERRORS, message, "repair the ones above first"))
        return shown


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


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The suggestion for a misspelt name: `did you mean "build"?`, or empty when nothing is close."""
    spelled = {candidate.lower(): candidate for candidate in known}
    found = difflib.get_close_matches(name.lower()[:64], spelled, n=1, cutoff=0.6)
    return f'did you mean "{spelled[found[0]]}"?' if found else ""
