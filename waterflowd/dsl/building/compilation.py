"""One compilation: the files that it uses, and the limits that apply to all of them together.

Rules of this file: other files of the same revision are read through a callback, each once. A file that several jobs or steps
use is compiled once, but its steps count for every use, so that files which use each other cannot grow without bound.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

from waterflowd.dsl.reading import reader
from waterflowd.dsl.reading.size_limit import CONTENT_BYTES_MAX, oversized
from waterflowd.dsl.reading.tree import Document, Lines, Path
from waterflowd.dsl.reporting import codes
from waterflowd.dsl.reporting.diagnostics import Diagnostic
from waterflowd.dsl.reporting.report import DiagnosticReport, TooMany
from waterflowd.model.plan import NodePlan


@dataclass(frozen=True, slots=True, eq=False)
class SourceFile:
    """A file with its tree and its report."""

    path: str
    document: Document
    report: DiagnosticReport

    def at_key(self, path: Path, code: str, message: str, suggestion: str = "") -> None:
        """Reports an error at the key at `path`."""
        self.report.add(self.document.key_start(path), code, message, suggestion)

    def at_value(self, path: Path, code: str, message: str, suggestion: str = "") -> None:
        """Reports an error at the value at `path`."""
        self.report.add(self.document.value_start(path), code, message, suggestion)

    def warn_key(self, path: Path, code: str, message: str, suggestion: str = "") -> None:
        """Warns at the key at `path`."""
        self.report.warn(self.document.key_start(path), code, message, suggestion)

    def warn_value(self, path: Path, code: str, message: str, suggestion: str = "") -> None:
        """Warns at the value at `path`."""
        self.report.warn(self.document.value_start(path), code, message, suggestion)

    def line(self, path: Path) -> int:
        """The line of the value at `path`, from 1."""
        return self.document.lines.position(self.document.value_start(path))[0]

    def key_line(self, path: Path) -> int:
        """The line of the key at `path`, from 1."""
        return self.document.lines.position(self.document.key_start(path))[0]


#: Returns the content of a file of the same revision by its path from the root; None when it does not exist.
Reader = Callable[[str], bytes | None]

FILES_MAX = 100
#: Content of all files of one compilation.
BYTES_MAX = 4 * CONTENT_BYTES_MAX
#: The same with each file counted as often as it is used, since the plan holds it as often.
USED_BYTES_MAX = 16 * CONTENT_BYTES_MAX
JOBS_MAX = 1_000
STEPS_MAX = 10_000
PATH_CHARACTERS_MAX = 400
#: Files of own nodes, which go into the plan.
NODE_BYTES_MAX = 1 << 20

_Built = TypeVar("_Built")
#: How a `uses` begins that names a path of the repository. GitHub's `./` is a path of the job's directory; here both are
#: the same.
LOCAL = ("./", "$/")
_OUTSIDE = re.compile(r"[\x00-\x1f\x7f\\]")


def local_path(uses: str) -> str | None:
    """The path from the root of the repository that `./path`, or GitHub's `$/path`, names.

    None when it leaves the repository or is malformed.
    """
    if not uses.startswith(LOCAL) or len(uses) > PATH_CHARACTERS_MAX or _OUTSIDE.search(uses):
        return None
    parts = [part for part in uses[2:].split("/") if part not in ("", ".")]
    return "/".join(parts) if parts and ".." not in parts else None


@dataclass(slots=True, eq=False)
class _Opened:
    """A file whose errors are part of the result."""

    path: str
    lines: Lines
    report: DiagnosticReport


@dataclass(slots=True, eq=False)
class Compilation:
    """The files, counts and errors of one compilation."""

    read: Reader | None = None
    #: Content by path of the files that were looked up, in order.
    looked_for: dict[str, bytes | None] = field(default_factory=dict)
    #: Patterns of the calls of `hashFiles`; those of one call are joined by newlines.
    hashed: dict[str, None] = field(default_factory=dict)
    #: The repository's own nodes that were found, by name.
    nodes: dict[str, NodePlan] = field(default_factory=dict)
    _opened: list[_Opened] = field(default_factory=list)
    _refused: list[Diagnostic] = field(default_factory=list)
    _bytes: int = 0
    #: Content of the files that were built, counted once for each use; and the part of it that each file added.
    _used_bytes: int = 0
    _bytes_per_use: dict[str, int] = field(default_factory=dict)
    _steps: int = 0
    _jobs: int = 0

    @property
    def first(self) -> str:
        """Path of the file that is compiled."""
        return self._opened[0].path

    def find(self, path: str) -> bytes | None:
        """The content of another file of the revision."""
        if path not in self.looked_for:
            if self.read is None:
                return None
            if len(self.looked_for) >= FILES_MAX:
                self._refuse(path, f"the workflow uses more than {FILES_MAX} other files")
                return None
            self.looked_for[path] = self.read(path)
        return self.looked_for[path]

    def open(self, path: str, content: bytes) -> SourceFile | None:
        """The tree of a file; None when it is unreadable, which is reported under its own path."""
        if len(content) > CONTENT_BYTES_MAX:
            self._refused.append(oversized(path, len(content)))
            return None
        if not self._is_within_bounds(path, content):
            return None
        report = DiagnosticReport()
        try:
            text = reader.decode(content, report)
        except reader.Unreadable:
            self._opened.append(_Opened(path, Lines(reader.prefix(content)), report))
            return None
        try:
            document = reader.read(text, report)
        except (reader.Unreadable, TooMany):
            self._opened.append(_Opened(path, Lines(text), report))
            return None
        self._opened.append(_Opened(path, document.lines, report))
        return SourceFile(path, document, report)

    def build_file(
        self, path: str, open_files: list[str], build: Callable[[SourceFile], _Built | None]
    ) -> _Built | None:
        """What `build` makes of a file that was found; None when it has errors. Meanwhile `open_files` ends with the path."""
        content = self.find(path)
        assert content is not None
        source = self.open(path, content)
        if source is None:
            return None
        open_files.append(path)
        before = self._used_bytes
        self._used_bytes += len(content)
        try:
            built = build(source)
            self._bytes_per_use[path] = self._used_bytes - before
            return built
        except TooMany:
            # The file's own report is full; the files that use it are still checked.
            if not source.report.is_full:
                raise
            return None
        finally:
            open_files.pop()

    def take_node(self, node: NodePlan) -> bool:
        """Adds an own node to the plan; False when the plan would become too large."""
        size = sum(len(known.source) for known in self.nodes.values() if known.name != node.name)
        if size + len(node.source) > NODE_BYTES_MAX:
            return False
        self.nodes[node.name] = node
        return True

    def peek(self, path: str, content: bytes) -> SourceFile | None:
        """The tree of a file whose errors are not part of the result; None when it is unreadable."""
        if len(content) > CONTENT_BYTES_MAX or not self._is_within_bounds(path, content):
            return None
        report = DiagnosticReport()
        try:
            return SourceFile(path, reader.read(reader.decode(content, report), report), report)
        except (reader.Unreadable, TooMany):
            return None

    def _is_within_bounds(self, path: str, content: bytes) -> bool:
        self._bytes += len(content)
        if self._bytes <= BYTES_MAX:
            return True
        self._refuse(
            path, f"with this file, the workflow and the files it uses are larger than {BYTES_MAX:,} bytes in total"
        )
        return False

    def _refuse(self, path: str, message: str) -> None:
        refused = Diagnostic(
            code=codes.BOUND, path=path, line=1, column=1, message=message, suggestion="use fewer files"
        )
        if refused not in self._refused:
            self._refused.append(refused)

    def count(self, source: SourceFile, path: Path, *, steps: int = 0, jobs: int = 0, used_again: str = "") -> None:
        """Counts steps, jobs, and another use of a file; beyond a limit, reports an error at `path` and raises `TooMany`."""
        self._steps += steps
        self._jobs += jobs
        self._used_bytes += self._bytes_per_use.get(used_again, 0)
        if self._steps > STEPS_MAX:
            text = f"more than {STEPS_MAX:,} steps, including those of the files it uses"
        elif self._jobs > JOBS_MAX:
            text = f"more than {JOBS_MAX:,} jobs, including those of the files it uses"
        elif self._used_bytes > USED_BYTES_MAX:
            text = (
                f"the files that it uses have more than {USED_BYTES_MAX:,} bytes, counting each as often as it is used"
            )
        else:
            return
        source.at_key(path, codes.BOUND, text, "split it into several workflows")
        raise TooMany

    @property
    def errors(self) -> list[Diagnostic]:
        """The errors of all files, the first one's first."""
        found = [error for opened in self._opened for error in opened.report.diagnostics(opened.path, opened.lines)]
        return [*found, *self._refused]

    @property
    def warnings(self) -> list[Diagnostic]:
        """The warnings of all files."""
        return [error for opened in self._opened for error in opened.report.warnings(opened.path, opened.lines)]
