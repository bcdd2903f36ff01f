"""Text that is shown on a terminal cannot control it."""

from __future__ import annotations

import io
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.display import terminal
from waterflowd.ctl.display.fitting import width
from waterflowd.ctl.display.terminal import clean_line, duration_text
from waterflowd.ctl.options import print_json, print_json_list


@given(st.text())
def test_escaped_text_never_moves_the_cursor(text: str) -> None:
    """Control characters and direction marks are removed from any text, and harmless text is unchanged."""
    cleaned = escape_for_display(text)
    assert not any(ord(character) < 32 or 0x7F <= ord(character) < 0xA0 for character in cleaned)
    assert not set(cleaned) & set("\u202a\u202e\u2066\u2069\u2028\u2029")
    assert escape_for_display(cleaned) == cleaned


@pytest.mark.parametrize(
    ("line", "plain", "colored"),
    [
        ("a\tb", "a\tb", "a\tb"),
        ("\x1b[31mred", "red", "\x1b[31mred\x1b[0m"),
        ("\x1b]0;title\x07x", "\\x1b]0;title\\x07x", "\\x1b]0;title\\x07x"),
        ("\x1b[2J\x1b[1;1H", "\\x1b[2J\\x1b[1;1H", "\\x1b[2J\\x1b[1;1H"),
        ("50%\r100%", "50%\\r100%", "50%\\r100%"),
        ("\x9b31m", "\\x9b31m", "\\x9b31m"),
        ("\x1b]8;;http://x\x1b\\y", "\\x1b]8;;http://x\\x1b\\y", "\\x1b]8;;http://x\\x1b\\y"),
        ("\u202eevil", "\\u202eevil", "\\u202eevil"),
    ],
)
def test_log_lines_keep_tabs_and_colours_and_nothing_else(line: str, plain: str, colored: str) -> None:
    """Titles, links, cursor moves and carriage returns are escaped; colours end with their line."""
    assert clean_line(line, has_colors=False) == plain
    assert clean_line(line, has_colors=True) == colored


@given(st.text(), st.dictionaries(st.text(), st.text(), max_size=3))
def test_json_on_a_terminal_is_json_and_harmless(name: str, rest: dict[str, str]) -> None:
    """The output parses to the same value and contains no control character except newlines."""
    rows = [{"name": name, **rest}, {"name": "x"}]
    with pytest.MonkeyPatch.context() as patch:
        out = io.StringIO()
        patch.setattr(sys, "stdout", out)
        print_json(rows)
        lines = out.getvalue().splitlines(keepends=True)
        assert [json.loads(line) for line in lines] == rows
        out = io.StringIO()
        patch.setattr(sys, "stdout", out)
        print_json_list(rows)
        print_json_list([])
    assert out.getvalue().endswith("\n[]\n")
    assert json.loads(out.getvalue().removesuffix("[]\n")) == rows
    assert all(character.isprintable() or character == "\n" for character in out.getvalue())


@pytest.mark.parametrize(
    ("milliseconds", "text"),
    [(0, "0ms"), (-5, "0ms"), (999, "999ms"), (1_000, "1.0s"), (59_999, "60.0s"), (60_000, "1m00s"), (3_600_000, "1h00m"),
     (90_000_000, "1d01h")],
)  # fmt: skip
def test_durations_are_short(milliseconds: int, text: str) -> None:
    """At most two units are shown."""
    assert duration_text(milliseconds) == text


def test_colours_follow_the_terminal_and_no_color(monkeypatch: pytest.MonkeyPatch) -> None:
    """With `NO_COLOR`, a dumb terminal or a pipe, no colours are used."""
    monkeypatch.setattr(terminal, "is_terminal", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert terminal.has_colors()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not terminal.has_colors()
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not terminal.has_colors()


def test_wide_and_coloured_text_keeps_columns_straight() -> None:
    """Columns are aligned by the width that a terminal shows."""
    assert width("ab") == 2
    assert width("日本") == 4
    assert width("\x1b[31mab\x1b[0m") == 2
    assert width("e\u0301") == 1
