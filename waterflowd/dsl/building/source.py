"""One file that is being compiled: its path, its tree, and the report that belongs to it.

A compilation looks at several files when a job calls a workflow or a step is made of steps; each error stands in the
report of the file that it is in.
"""

from __future__ import annotations

from dataclasses import dataclass

from waterflowd.dsl.reading.tree import Document, Path
from waterflowd.dsl.reporting.report import Report


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """A file with its tree and its report."""

    path: str
    document: Document
    report: Report

    def at_key(self, path: Path, code: str, message: str, suggestion: str = "") -> None:
        """Reports an error at the key that stands at `path`."""
        self.report.add(self.document.key_start(path), code, message, suggestion)

    def at_value(self, path: Path, code: str, message: str, suggestion: str = "") -> None:
        """Reports an error at the value that stands at `path`."""
        self.report.add(self.document.value_start(path), code, message, suggestion)

    def warn_key(self, path: Path, code: str, message: str, suggestion: str = "") -> None:
        """Warns at the key that stands at `path`."""
        self.report.warn(self.document.key_start(path), code, message, suggestion)

    def warn_value(self, path: Path, code: str, message: str, suggestion: str = "") -> None:
        """Warns at the value that stands at `path`."""
        self.report.warn(self.document.value_start(path), code, message, suggestion)

    def line(self, path: Path) -> int:
        """The line of the value at `path`, from 1."""
        return self.document.lines.position(self.document.value_start(path))[0]

    def key_line(self, path: Path) -> int:
        """The line of the key at `path`, from 1."""
        return self.document.lines.position(self.document.key_start(path))[0]
