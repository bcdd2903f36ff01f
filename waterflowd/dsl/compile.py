"""The way of a file: bytes, text, tree, models, plan. Errors of all stages that could be reached come back together."""

from __future__ import annotations

from waterflowd.dsl import build, reader, validation
from waterflowd.dsl.bounds import CONTENT_BYTES_MAX, oversized
from waterflowd.dsl.diagnostics import Compiled
from waterflowd.dsl.report import Report, TooMany
from waterflowd.dsl.tree import Lines
from waterflowd.model import plan


def compile_workflow(path: str, content: bytes) -> Compiled:
    """Compiles the file that stands at `path` of its repository. Pure: equal arguments give equal bytes."""
    if len(content) > CONTENT_BYTES_MAX:
        return Compiled(plan=None, diagnostics=[oversized(path, len(content))])
    report = Report()
    try:
        text = reader.decode(content, report)
    except reader.Unreadable:
        return _failed(path, Lines(reader.prefix(content)), report)
    try:
        document = reader.read(text, report)
    except (reader.Unreadable, TooMany):
        return _failed(path, Lines(text), report)
    try:
        workflow = validation.validate(document, report)
        built = build.build(path, workflow, document, report) if workflow is not None else None
    except TooMany:
        built = None
    if built is None or report:
        return _failed(path, document.lines, report)
    return Compiled(plan=plan.encode(built), diagnostics=[])


def _failed(path: str, lines: Lines, report: Report) -> Compiled:
    return Compiled(plan=None, diagnostics=report.diagnostics(path, lines))
