"""How the command line shows the errors of a workflow file."""

from __future__ import annotations

from waterflowd.ctl.failures import diagnostic_text
from waterflowd.dsl import compile_workflow, render_diagnostic
from waterflowd.dsl.reporting.diagnostics import as_row


def test_an_error_reads_the_same_from_the_api_and_from_the_compiler() -> None:
    """Both use one renderer: the row of a 422 gives the compiler's own lines."""
    [error] = compile_workflow(
        "w.yml", b"jobs:\n  a:\n    runs-on: web\n    steps:\n      - rnu: x\n      \n"
    ).diagnostics[:1]

    assert diagnostic_text(as_row(error)) == render_diagnostic(error)


def test_hostile_errors_are_escaped_and_unknown_formats_are_printed() -> None:
    """A daemon of another version, or a proxy in between, may answer anything."""
    row = {"code": "WF1", "path": "a\x1b[31m.yml", "line": 1, "column": 1, "message": "x\x07", "new": "field"}

    assert "\x1b" not in diagnostic_text(row)
    assert "\x07" not in diagnostic_text(row)
    assert diagnostic_text({"odd": "\x1b"}) == diagnostic_text({"odd": "\x1b"}).replace("\x1b", "")
