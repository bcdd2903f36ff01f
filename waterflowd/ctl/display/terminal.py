"""Terminal output: escaping, colours, glyphs, times and tables.

Rules of this file: text from outside passes `escape_for_display` (names, reasons) or `clean_line` (log lines). Control
characters and characters that change the direction of text are escaped, so that no text can move the cursor, set the title or
imitate something else. The only escape sequences of a log line that remain are colours, on a terminal with colours.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import click

from waterflow_agent.display import escape_for_display, shorten
from waterflowd.ctl.display import fitting
from waterflowd.ctl.display.fitting import width

_SGR = re.compile(r"\x1b\[[0-9;:]{0,40}m")

#: Enough of a fingerprint to tell agents apart in a table; `--json` has all of it.
_FINGERPRINT_LENGTH = 20

#: Glyph, its replacement where the encoding is not Unicode, and its colour.
_GLYPHS = {
    "success": ("✓", "ok", "green"),
    "failure": ("✗", "FAIL", "red"),
    "timed-out": ("⏱", "TIME", "red"),
    "lost": ("?", "LOST", "red"),
    "cancelled": ("⊘", "CANC", "yellow"),
    "skipped": ("–", "skip", "bright_black"),
    "running": ("●", "run", "cyan"),
    "waiting": ("◌", "wait", "yellow"),
    "queued": ("·", "-", "bright_black"),
    "completed": ("✓", "ok", "green"),
}


def clean_line(text: str, *, has_colors: bool) -> str:
    """Return a log line in which everything but tabs and, with `has_colors`, colours is escaped."""
    pieces: list[str] = []
    position = 0
    is_colored = False
    for match in _SGR.finditer(text):
        pieces.append(_escape_but_tabs(text[position : match.start()]))
        if has_colors:
            pieces.append(match[0])
            is_colored = True
        position = match.end()
    pieces.append(_escape_but_tabs(text[position:]))
    return "".join(pieces) + ("\x1b[0m" if is_colored else "")


def without_colors(text: str) -> str:
    """Return the text without colours."""
    return _SGR.sub("", text)


def _escape_but_tabs(text: str) -> str:
    return "\t".join(escape_for_display(part) for part in text.split("\t"))


def short_fingerprint(text: str) -> str:
    """Return the text escaped, with only the beginning of a fingerprint."""
    return escape_for_display(shorten(text, _FINGERPRINT_LENGTH) if text.startswith("SHA256:") else text)


def is_terminal() -> bool:
    """Return whether standard output is a terminal."""
    return sys.stdout.isatty()


def terminal_columns() -> int | None:
    """Return the width of the terminal; None if standard output is not one."""
    return shutil.get_terminal_size().columns if is_terminal() else None


def has_colors() -> bool:
    """Return whether to use colours: on a terminal, unless `NO_COLOR` is set."""
    return is_terminal() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def style(text: str, color: str | None = None, *, is_bold: bool = False) -> str:
    """Return the text in a colour, if colours are used."""
    return click.style(text, fg=color, bold=is_bold or None) if has_colors() else text


def glyph(status: str, conclusion: str | None) -> str:
    """Return one sign for the state of a run, job or step."""
    sign, ascii_sign, color = _GLYPHS.get(conclusion or status, ("?", "?", "white"))
    return style(glyph_of(sign, ascii_sign), color)


def glyph_of(sign: str, ascii_sign: str) -> str:
    """Return the sign, or its replacement where the encoding of standard output is not Unicode."""
    # While a tree is redrawn, rich replaces standard output by an object without an encoding.
    encoding = getattr(sys.stdout, "encoding", None) or getattr(sys.__stdout__, "encoding", None) or "ascii"
    is_unicode = encoding.lower().replace("-", "") in ("utf8", "utf16", "utf32")
    return sign if is_unicode else ascii_sign


def now_ms() -> int:
    """Return the time of this machine, which is only used for durations of what is still running."""
    return time.time_ns() // 1_000_000


def millis(text: str | None) -> int | None:
    """Return the milliseconds of an RFC 3339 time from the API."""
    return round(datetime.fromisoformat(text).timestamp() * 1000) if text else None


def duration_text(milliseconds: int) -> str:
    """Return a duration as text: `120ms`, `3.4s`, `2m05s`, `1h02m` or `3d04h`."""
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
    """Return the duration until completion or `now_ms`; empty if it has not started."""
    begin = millis(started)
    end = millis(completed) if completed else now_ms
    return duration_text(end - begin) if begin is not None and end is not None else ""


#: How the daemon's sentences end that say when something happens by itself: with the duration at the time of the decision.
_NEXT = re.compile(r"\bnext (attempt|try|batch) in [0-9][0-9a-z ]*\Z")


def counted_down(text: str, due: str | None, now_ms: int) -> str:
    """Return a sentence that ends with when something is due, with the time that is left now."""
    due_ms = millis(due)
    if due_ms is None:
        return text
    left_s = -((now_ms - due_ms) // 1_000)
    left = f"in {left_s}s" if left_s < 60 else f"in {duration_text(left_s * 1_000)}"
    return _NEXT.sub(lambda match: f"next {match[1]} {left if left_s > 0 else 'now'}", text)


def time_text(text: str | None) -> str:
    """Return a time from the API in the time zone of this machine, to the second, with its name."""
    return datetime.fromisoformat(text).astimezone().strftime("%Y-%m-%d %H:%M:%S %Z") if text else ""


class TimeCell(NamedTuple):
    """A time for a table, and how it is written where there is little space."""

    full: str
    short: str

    def __str__(self) -> str:
        return self.full


def cell_time(text: str | None) -> TimeCell:
    """Return a time from the API for a column whose heading names the time zone (`zone_name`)."""
    if not text:
        return TimeCell("", "")
    at = datetime.fromisoformat(text).astimezone()
    today = datetime.now(at.tzinfo)
    short = "%H:%M:%S" if at.date() == today.date() else "%m-%d %H:%M" if at.year == today.year else "%Y-%m-%d"
    return TimeCell(at.strftime("%Y-%m-%d %H:%M:%S"), at.strftime(short))


def zone_name() -> str:
    """Return the name of this machine's time zone, for headings."""
    return datetime.now().astimezone().strftime("%Z")


def clock_text(at_ms: int) -> str:
    """Return the time of day of this machine, with the name of its time zone."""
    return datetime.fromtimestamp(at_ms / 1000).astimezone().strftime("%H:%M:%S %Z")


#: A time in UTC as reasons and problems of the daemon have it.
_UTC_TIME = re.compile(r"\b\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?Z")


def localized(text: str) -> str:
    """Return a sentence of the daemon with its times in the time zone of this machine, as everything else on the screen."""

    def local(match: re.Match[str]) -> str:
        try:
            return time_text(match[0])
        except ValueError:
            return match[0]

    return _UTC_TIME.sub(local, text)


def _is_command(line: str) -> bool:
    """Whether the line is a command to copy, which is never broken."""
    return without_colors(line).lstrip().startswith("next: ")


def wrapped(text: str, indent: int) -> str:
    """Return the text in lines that fit the terminal, broken at spaces; further lines are indented. Unchanged elsewhere.

    A line that begins with `next: ` is not broken.
    """
    columns = terminal_columns()
    if columns is None:
        return text
    lines: list[str] = []
    for line in text.split("\n"):
        lines += [line] if _is_command(line) else fitting.broken(line, columns, indent)
    return "\n".join(lines)


def fits(rows: Sequence[Sequence[object]]) -> bool:
    """Return whether a table of these rows, headings included, fits the terminal. Elsewhere all do."""
    needed = sum(2 + max(width(str(cell)) for cell in column) for column in zip(*rows, strict=True)) - 2
    columns = terminal_columns()
    return columns is None or needed <= columns


#: Headings of columns that are never broken: what commands take, and expressions.
_WHOLE = frozenset({"RUN", "ID", "FINGERPRINT", "CRON"})


def table(
    headings: Sequence[str],
    rows: Sequence[Sequence[object]],
    *,
    empty: str,
    notes: Sequence[str] | None = None,
    optional: Sequence[str] = (),
) -> None:
    """Print rows under headings, or `empty` if there are none. Styled cells must be escaped already.

    On a terminal that is too narrow, times are short, `optional` columns are left out in order, which the last line says, and
    long cells are broken into several lines; ids are kept whole. Below each row is its note, unless that is empty.
    """
    if not rows:
        click.echo(wrapped(empty, 2))
        return
    columns = terminal_columns() or sys.maxsize
    is_narrow = not fits([headings, *rows])
    cells = [[cell.short if is_narrow and isinstance(cell, TimeCell) else str(cell) for cell in row] for row in rows]
    kept = fitting.kept_columns(headings, cells, columns, _WHOLE, optional)
    shown, cells = [headings[index] for index in kept], [[row[index] for index in kept] for row in cells]
    widths = fitting.column_widths(shown, cells, columns, _WHOLE)
    for line in fitting.row_lines(shown, widths):
        click.echo(style(line, is_bold=True))
    for row, note in zip(cells, notes or [""] * len(cells), strict=True):
        for line in fitting.row_lines(row, widths):
            click.echo(line)
        if note:
            click.echo(wrapped(f"  {note}", 4))
    if len(kept) < len(headings):
        left_out = ", ".join(heading for index, heading in enumerate(headings) if index not in kept)
        click.echo(style(wrapped(f"(not shown in {columns} columns: {left_out}; --json has all)", 1), "bright_black"))
