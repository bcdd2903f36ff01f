"""What a terminal is shown: text made harmless, colours, glyphs, durations, tables.

Rules of this file: text from outside passes `clean` (names, reasons) or `clean_line` (log lines). Control characters are
shown escaped, and so are the characters that turn the direction of text, so that nothing can move the cursor, set the title,
or look like something else. Of a log line's own escapes only colours stay, and only on a terminal with colours.
"""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Sequence
from datetime import datetime

import click

from waterflow_agent.display import escape_for_display

_SGR = re.compile(r"\x1b\[[0-9;:]{0,40}m")

GLYPHS = {
    "success": ("✓", "green"),
    "failure": ("✗", "red"),
    "timed-out": ("⏱", "red"),
    "lost": ("?", "red"),
    "cancelled": ("⊘", "yellow"),
    "skipped": ("–", "bright_black"),
    "running": ("●", "cyan"),
    "waiting": ("◌", "yellow"),
    "queued": ("·", "bright_black"),
    "completed": ("✓", "green"),
}
_ASCII_GLYPHS = {
    "success": "ok", "failure": "FAIL", "timed-out": "TIME", "lost": "LOST", "cancelled": "CANC", "skipped": "skip",
    "running": "run", "waiting": "wait", "queued": "-", "completed": "ok",
}  # fmt: skip


def clean_line(text: str, *, has_colors: bool) -> str:
    """A log line: tabs stay, colours stay where there are any, everything else harmful is escaped."""
    pieces: list[str] = []
    position = 0
    is_colored = False
    for found in _SGR.finditer(text):
        pieces.append(_clean_but_tabs(text[position : found.start()]))
        if has_colors:
            pieces.append(found[0])
            is_colored = True
        position = found.end()
    pieces.append(_clean_but_tabs(text[position:]))
    return "".join(pieces) + ("\x1b[0m" if is_colored else "")


def _clean_but_tabs(text: str) -> str:
    return "\t".join(escape_for_display(part) for part in text.split("\t"))


def is_terminal() -> bool:
    """Whether somebody looks at standard output."""
    return sys.stdout.isatty()


def has_colors() -> bool:
    """Whether colours may be used: on a terminal, unless `NO_COLOR` is set."""
    return is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def style(text: str, color: str | None = None, *, is_bold: bool = False) -> str:
    """`text` in a colour, where there are colours."""
    return click.style(text, fg=color, bold=is_bold or None) if has_colors() else text


def glyph(status: str, conclusion: str | None) -> str:
    """One sign for how something stands."""
    word = conclusion or status
    sign, color = GLYPHS.get(word, ("?", "white"))
    # While a tree is redrawn, rich stands in for standard output and tells no encoding.
    encoding = getattr(sys.stdout, "encoding", None) or getattr(sys.__stdout__, "encoding", None) or "ascii"
    if encoding.lower().replace("-", "") not in ("utf8", "utf16", "utf32"):
        sign = _ASCII_GLYPHS.get(word, "?")
    return style(sign, color)


def millis(text: str | None) -> int | None:
    """Milliseconds of an RFC 3339 time from the API."""
    return round(datetime.fromisoformat(text).timestamp() * 1000) if text else None


def duration_text(milliseconds: int) -> str:
    """`120ms`, `3.4s`, `2m05s`, `1h02m`, `3d04h`."""
    milliseconds = max(0, milliseconds)
    if milliseconds < 1_000:
        return f"{milliseconds}ms"
    seconds = milliseconds // 1000
    if seconds < 60:
        return f"{milliseconds / 1000:.1f}s"
    if seconds < 3_600:
        return f"{seconds // 60}m{seconds % 60:02d}s"
    if seconds < 86_400:
        return f"{seconds // 3600}h{seconds % 3600 // 60:02d}m"
    return f"{seconds // 86_400}d{seconds % 86_400 // 3600:02d}h"


def span_text(started: str | None, completed: str | None, now_ms: int | None = None) -> str:
    """How long something took, or has taken until `now_ms`; empty when it has not begun."""
    begin = millis(started)
    end = millis(completed) if completed else now_ms
    return duration_text(end - begin) if begin is not None and end is not None else ""


def time_text(text: str | None) -> str:
    """A time of the API in local time, to the second."""
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S") if text else ""


def width(text: str) -> int:
    """Columns that `text` takes, colours left out."""
    plain = _SGR.sub("", text)
    return sum(
        0 if unicodedata.combining(character) else 2 if unicodedata.east_asian_width(character) in "WF" else 1
        for character in plain
    )


def table(headings: Sequence[str], rows: Sequence[Sequence[object]], *, empty: str) -> None:
    """Prints rows under headings; cells that are styled already must be clean. `empty` is printed when there are no rows."""
    if not rows:
        click.echo(empty)
        return
    cells = [[str(cell) for cell in row] for row in rows]
    widths = [max(width(row[column]) for row in (list(headings), *cells)) for column in range(len(headings))]
    click.echo(style(_row(headings, widths), is_bold=True))
    for row in cells:
        click.echo(_row(row, widths))


def _row(row: Sequence[str], widths: Sequence[int]) -> str:
    padded = [cell + " " * (size - width(cell)) for cell, size in zip(row, widths, strict=True)]
    return "  ".join(padded).rstrip()
