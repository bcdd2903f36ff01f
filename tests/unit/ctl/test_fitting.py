"""Tables fit the terminal, and lose nothing."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from waterflowd.ctl.display.fitting import column_widths, kept_columns, row_lines, width, wrapped_cell

RUN = "01M8QHGRRQD6VKZKMCT3CV792P"
HEADINGS = ("RUN", "NAME", "TEXT")


def test_a_wide_table_is_broken_into_lines_with_whole_ids() -> None:
    """Long cells are continued below, at spaces or after punctuation."""
    rows = [(RUN, "workflows/nightly/backup-of-everything.yml", "what is written here is longer than the line")]
    widths = column_widths(HEADINGS, rows, 60, {"RUN"})
    lines = row_lines(rows[0], widths)
    assert max(map(width, lines)) <= 60
    assert lines[0].startswith(f"{RUN}  workflows/")
    assert "".join(line[28 : 28 + widths[1]].strip() for line in lines) == rows[0][1]


def test_a_table_that_fits_is_not_changed() -> None:
    """Every column has the width of its longest cell."""
    assert column_widths(HEADINGS, [(RUN, "a", "b")], 200, {"RUN"}) == [26, 4, 4]


def test_colours_are_on_each_line_of_a_cell() -> None:
    """So that a broken cell does not colour its neighbours."""
    assert wrapped_cell("\x1b[31mnot connected\x1b[0m", 9) == ["\x1b[31mnot\x1b[0m", "\x1b[31mconnected\x1b[0m"]


def test_an_id_in_a_longer_text_stays_whole() -> None:
    """People copy it. The column has space for it, and what is before it is on another line."""
    cell = f"run={RUN}"
    widths = column_widths(("WHO", "DETAILS"), [("x" * 60, cell)], 50, ())
    assert widths[1] == 26
    assert wrapped_cell(cell, 26) == ["run=", RUN]


def test_words_are_broken_where_a_reader_expects_it() -> None:
    """After punctuation, also near the beginning of a word, but not after the dot of a hidden file."""
    assert wrapped_cell("agent-connected", 13) == ["agent-", "connected"]
    assert wrapped_cell("ops:.waterflow/workflows/a.yml", 13) == ["ops:", ".waterflow/", "workflows/", "a.yml"]
    assert wrapped_cell("host.example.org", 13) == ["host.example.", "org"]
    assert wrapped_cell("unbreakable", 6) == ["unbrea", "kable"]


def test_a_column_is_as_wide_as_its_words_where_there_is_space() -> None:
    """The heading is broken before a word is, and words only where nothing else makes the table fit."""
    headings, rows = ("NAME", "STATUS", "SINCE (UTC)"), [("build-runner", "its connection is closed", "11:22:33")]
    assert column_widths(headings, rows, 50, ()) == [12, 24, 8]
    assert column_widths(headings, rows, 30, ()) == [8, 10, 8]
    assert column_widths(headings, rows, 28, ()) == [8, 8, 8]


def test_optional_columns_are_left_out_until_the_others_are_easy_to_read() -> None:
    """The first one first. None is where everything fits, and others stay whatever happens."""
    headings, rows = ("RUN", "NAME", "NOTE", "BY"), [(RUN, "a" * 20, "much more text than there is space for", "Ada")]
    assert kept_columns(headings, rows, 200, {"RUN"}, ("NOTE", "BY")) == [0, 1, 2, 3]
    assert kept_columns(headings, rows, 60, {"RUN"}, ("NOTE", "BY")) == [0, 1, 3]
    assert kept_columns(headings, rows, 40, {"RUN"}, ("NOTE", "BY")) == [0, 1]


@given(st.text(st.sampled_from("abc /.-é漢 "), max_size=60), st.integers(2, 20))
def test_no_line_is_too_long_and_nothing_is_lost(text: str, columns: int) -> None:
    """Apart from spaces at which a text is broken."""
    lines = wrapped_cell(text, columns)
    assert all(width(line) <= columns for line in lines)
    assert re.sub(" +", "", "".join(lines)) == re.sub(" +", "", text)
