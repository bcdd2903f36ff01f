"""The loop that makes a file valid: compile, edit where there are errors, compile again.

Rules of this file: a file gets a bounded number of rounds. If errors remain, the file is refused with the first one. The
warnings of the last round become findings.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from waterflowd.dsl import Compiled, compile_workflow
from waterflowd.dsl.reading import reader
from waterflowd.dsl.reading.tree import Document, Path, Scalar, Sequence
from waterflowd.dsl.reading.tree import Mapping as MappingNode
from waterflowd.dsl.reporting.diagnostics import Diagnostic
from waterflowd.dsl.reporting.report import DiagnosticReport
from waterflowd.importers.findings import DECIDE, Imported
from waterflowd.importers.validity.positions import parts
from waterflowd.importers.validity.repairs import Repairs, sentence_of
from waterflowd.importers.validity.text_edits import Edit, EditedText, Editor

#: Each round repairs all errors that it sees; each part takes at most three rounds, and a round shows at most 100 errors.
_ROUNDS_MAX = 60
_NO_EVENTS = (
    "nothing here starts this workflow by itself; to run it for every push, write push instead of workflow_dispatch"
)

#: Returns the content of another file of the repository by its path.
Reader = Callable[[str], bytes | None]


@dataclass(frozen=True, kw_only=True)
class Target:
    """The file that is written, and what its repairs need."""

    #: Path of the written file from the root of the repository.
    path: str
    #: Path of the source, for findings.
    source: str
    group: str
    read: Reader
    #: The lines of the text are those of the source, so findings can name them.
    has_source_lines: bool = True
    compile: Callable[[str, bytes, Reader], Compiled] = compile_workflow
    #: Why other files cannot be used, by their paths.
    reasons: Mapping[str, str] = field(default_factory=dict)


def make_valid(text: EditedText, target: Target, imported: Imported) -> bool:
    """Edit the text until it validates; False if it cannot, which is recorded as a refusal."""
    repairs = Repairs(target.group)
    for _ in range(_ROUNDS_MAX):
        if document := _document(text.text):
            _keep_events(text, document, target, imported)
        compiled = target.compile(target.path, text.text.encode(), target.read)
        if not compiled.diagnostics:
            _report_warnings(compiled, text, target, imported)
            return True
        before = text.text
        _repair(text, compiled.diagnostics, repairs, target, imported)
        if text.text == before:
            break
    first = compiled.diagnostics[0]
    line = text.origin(first.line - 1) if target.has_source_lines and first.path == target.path else first.line
    imported.refuse(target.source, f"line {line}: {sentence_of(first)}")
    return False


def _document(text: str) -> Document | None:
    report = DiagnosticReport()
    try:
        return reader.read(text, report)
    except reader.Unreadable:
        return None


def _repair(
    text: EditedText, diagnostics: list[Diagnostic], repairs: Repairs, target: Target, imported: Imported
) -> None:
    """Repair what the errors of this round are about; of several in one step, the first decides."""
    document = _document(text.text)
    if document is None:
        return
    edits: list[Edit] = []
    seen: set[Path] = set()
    for diagnostic in diagnostics:
        place = None if diagnostic.path == target.path else _user_of(document, diagnostic.path)
        if diagnostic.path != target.path and place is None:
            continue
        reason = "" if place is None else target.reasons.get(diagnostic.path) or _elsewhere(diagnostic)
        chosen = repairs.choose(document, diagnostic, place, reason)
        if chosen is None:
            continue
        unit = chosen.path[:4] if chosen.path[2:3] == ("steps",) else chosen.path[:3]
        if unit in seen or any(_overlap(edit, other) for edit in chosen.edits for other in edits):
            continue
        seen.add(unit)
        repairs.applied(chosen)
        edits += chosen.edits
        line = text.origin(chosen.edits[0].first) if target.has_source_lines else 0
        if chosen.is_decision:
            imported.decide(target.source, line, chosen.sentence)
        else:
            imported.change(target.source, line, chosen.sentence)
    text.apply(edits)


def _elsewhere(diagnostic: Diagnostic) -> str:
    return f"this cannot be used: {diagnostic.path}:{diagnostic.line}: {sentence_of(diagnostic)}"


def _overlap(edit: Edit, other: Edit) -> bool:
    return not (edit.last < other.first or other.last < edit.first)


def _user_of(document: Document, path: str) -> Path | None:
    """Return the path of the `uses` that refers to another file of the repository."""
    for part in parts(document.root):
        if part.path[-1:] == ("uses",) and isinstance(part.node, Scalar):
            used = part.node.text.removeprefix("./").removeprefix("$/").rstrip("/")
            if path == used or path.rpartition("/")[0] == used:
                return part.path
    return None


def _keep_events(text: EditedText, document: Document, target: Target, imported: Imported) -> None:
    """Make a workflow whose events have all been removed one that is started by hand; without events, pushes would start it."""
    entry = document.root.entries.get("on") if isinstance(document.root, MappingNode) else None
    if entry is None:
        return
    node = entry.value
    is_empty = (isinstance(node, Scalar) and node.value is None) or (
        isinstance(node, MappingNode | Sequence) and not (node.entries if isinstance(node, MappingNode) else node.items)
    )
    if not is_empty:
        return
    editor = Editor(document)
    line = editor.first_line(("on",))
    comment = imported.decide(target.source, text.origin(line) if target.has_source_lines else 0, _NO_EVENTS)
    assert comment.startswith(DECIDE)
    edit = editor.replace_value(("on",), {"workflow_dispatch": None}, comment, is_old_kept=False)
    if edit is not None:
        text.apply([edit])


def _report_warnings(compiled: Compiled, text: EditedText, target: Target, imported: Imported) -> None:
    for warning in compiled.warnings:
        if warning.path == target.path:
            line = text.origin(warning.line - 1) if target.has_source_lines else 0
            imported.warn(target.source, line, f"{sentence_of(warning)} [{warning.code}]")
