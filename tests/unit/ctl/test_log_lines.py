"""Lines of output that a script has marked with workflow commands, as `waterflowctl` shows them."""

from __future__ import annotations

from typing import Any

import pytest

from waterflowd.ctl.display import marked_lines, terminal
from waterflowd.ctl.display.log_lines import shown


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("plain \x1b[31mred\x1b[0m", "plain red"),
        ("##[error]a.py:3: broken", "Error: a.py:3: broken"),
        ("##[warning]\x1b]0;title\x07", "Warning: \\x1b]0;title\\x07"),
        ("##[notice]", "Notice: "),
        ("##[debug]x=1", "Debug: x=1"),
        ("##[endgroup]", None),
        ("::add-mask::***", None),
        ("x ##[error]y", "x ##[error]y"),
        ("##[section]x", "##[section]x"),
    ],
)
def test_marked_lines_have_a_label(line: str, text: str | None) -> None:
    """Without colours the label alone says what it is; the text of a marked line is escaped like any other."""
    assert shown(line) == text


def test_marks_have_colours_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error is red, a group is bold, and a plain line keeps its own colours."""
    monkeypatch.setattr(terminal, "is_terminal", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert shown("##[error]x") == "\x1b[31mError: x\x1b[0m"
    assert (shown("##[group]Build") or "").startswith("\x1b[1m")
    assert shown("\x1b[32mgreen") == "\x1b[32mgreen\x1b[0m"


def _run(**marked: list[str]) -> dict[str, Any]:
    """Returns a run with a job whose steps have marked these lines."""
    steps = [{"id": name, "attempts": [{"annotations": lines}], "blocks": []} for name, lines in marked.items()]
    return {"id": "01RUN", "jobs": [{"id": "a", "steps": [*steps, {"id": "old", "attempts": [{}], "blocks": []}]}]}


def test_marked_lines_are_listed_with_the_run() -> None:
    """By step, in the order of the file; a part lists its own."""
    run = _run(make=["##[error]a.c:3: broken", "##[notice]\x1b[31mfine"], quiet=[], test=["##[warning]slow"])
    make = ["marked by a/make", "  Error: a.c:3: broken", "  Notice: fine"]
    test = ["marked by a/test", "  Warning: slow"]

    assert list(marked_lines.lines(run)) == [*make, *test]
    job = run["jobs"][0]
    assert list(marked_lines.part_lines(job, job["steps"][0])) == make
    assert list(marked_lines.part_lines(job, None)) == [*make, *test]


def test_a_run_with_many_marked_lines_shows_the_first() -> None:
    """The rest is counted, with the command that shows it."""
    run = _run(one=[f"##[error]{number}" for number in range(15)], two=["##[error]x"] * 10, three=["##[error]y"] * 3)

    *shown_lines, more, command = marked_lines.lines(run)

    assert len(shown_lines) == 2 + 20
    assert (more, command) == ("... and 8 more marked lines", "  next: waterflowctl logs 01RUN")
