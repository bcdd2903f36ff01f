"""How the location of a diagnostic is displayed."""

from __future__ import annotations

from waterflowd.dsl import Diagnostic, render_diagnostic
from waterflowd.dsl.reporting.snippets import SNIPPET_CHARACTERS_MAX, snippet, width


def test_a_diagnostic_is_shown_with_its_line_and_a_caret() -> None:
    """The format is the documented one."""
    diagnostic = Diagnostic(
        code="WF104",
        path="workflows/deploy.yml",
        line=14,
        column=12,
        message='unknown job "biuld" in needs',
        snippet="    needs: biuld",
        caret=12,
        suggestion='did you mean "build"?',
    )
    assert render_diagnostic(diagnostic) == (
        'workflows/deploy.yml:14:12: error WF104: unknown job "biuld" in needs\n'
        "  14 |     needs: biuld\n"
        '     |            ^ did you mean "build"?'
    )


def test_a_suggestion_of_several_lines_is_below_the_caret() -> None:
    """The suggested lines keep their own indentation."""
    diagnostic = Diagnostic(
        code="WF128", path="w.yml", line=3, column=1, message="m", snippet="x", caret=1, suggestion="env:\n  A: 1"
    )
    assert render_diagnostic(diagnostic).splitlines()[2:] == ["    | ^", "      env:", "        A: 1"]


def test_a_diagnostic_without_a_location_has_no_caret() -> None:
    """A file that was never read has no line to show."""
    diagnostic = Diagnostic(code="WF130", path="w.yml", line=1, column=1, message="m", suggestion="try again")
    assert render_diagnostic(diagnostic) == "w.yml:1:1: error WF130: m\n  try again"


def test_colour_does_not_change_the_text() -> None:
    """Without the escape sequences the text is the same."""
    diagnostic = Diagnostic(code="WF104", path="w", line=1, column=1, message="m", snippet="x", caret=1, suggestion="s")
    displayed = render_diagnostic(diagnostic, colour=True)
    for code in ("\x1b[1m", "\x1b[31m", "\x1b[36m", "\x1b[0m"):
        assert code in displayed
        displayed = displayed.replace(code, "")
    assert displayed == render_diagnostic(diagnostic)


def test_a_long_line_is_truncated_around_the_error() -> None:
    """The caret still points at the right character."""
    line = "a" * 5_000 + "X" + "b" * 5_000
    text, caret = snippet(line, 5_001)
    assert text[caret - 1] == "X"
    assert len(text) <= SNIPPET_CHARACTERS_MAX + 2
    assert text.startswith("…")
    assert text.endswith("…")


def test_control_characters_are_escaped() -> None:
    """Escapes, tabs and direction marks cannot reach a terminal, and the caret is moved accordingly."""
    text, caret = snippet("\t\x1b\u202eX", 4)
    assert text == "\\t\\x1b\\u202eX"
    assert text[caret - 1] == "X"


def test_a_message_cannot_smuggle_escapes() -> None:
    """The path, the message and the suggestion are all escaped."""
    diagnostic = Diagnostic(
        code="WF104", path="\x1b]0;x\x07", line=1, column=1, message="\x1b[2J", snippet="", caret=1, suggestion="\x1b[H"
    )
    assert "\x1b" not in render_diagnostic(diagnostic)


def test_a_caret_counts_wide_characters_twice() -> None:
    """The caret is aligned below Chinese characters too."""
    assert width("部署: x") == 7
    assert width("e\u0301") == 1
