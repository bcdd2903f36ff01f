"""Reports as tables on a terminal; one that is too wide has a line for each value instead."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from waterflow_agent.display import escape_for_display
from waterflowd.ctl.display import fitting
from waterflowd.ctl.display.terminal import glyph, localized, style, table, terminal_columns, wrapped

_MISSING = "-"


def print_report(report: dict[str, Any]) -> None:
    """Print the title and the rows of a report as the API returns it."""
    click.echo(style(wrapped(f"report of {_titled(report)}", 2), is_bold=True))
    headings = [report["rows_of"].capitalize(), "Result", *map(escape_for_display, report["columns"])]
    rows = [_cells(report, row) for row in report["rows"]]
    notes = [escape_for_display(localized(row["note"])) for row in report["rows"]]
    if _is_too_wide(headings, rows):
        for line in _lists(headings, rows, notes):
            click.echo(line)
        return
    reason = escape_for_display(localized(report["reason"]["text"]))
    table(headings, rows, notes=notes, empty=f"  no rows: {reason}")


def _titled(report: dict[str, Any]) -> str:
    job, title = escape_for_display(report["job"]), escape_for_display(report["title"])
    counts = ", ".join(f"{number} {word}" for word, number in report["counts"].items())
    return f"{job if title == job else f'{job}: {title}'}{f' ({counts})' if counts else ''}"


def _cells(report: dict[str, Any], row: dict[str, Any]) -> list[str]:
    result = row["conclusion"] or row["status"]
    values = row["values"] or {}
    cells = [_text(values[heading]) if heading in values else _MISSING for heading in report["columns"]]
    return [escape_for_display(row["name"]), f"{glyph(row['status'], row['conclusion'])} {result}", *cells]


def _text(value: object) -> str:
    return ("true" if value else "false") if isinstance(value, bool) else escape_for_display(str(value))


def _is_too_wide(headings: list[str], rows: list[list[str]]) -> bool:
    columns = terminal_columns()
    if columns is None:
        return False
    widths = fitting.column_widths(headings, rows, columns, ())
    return sum(widths) + 2 * (len(widths) - 1) > columns


def _lists(headings: list[str], rows: list[list[str]], notes: list[str]) -> Iterator[str]:
    """Yield each row as its name and result, and a line for each value."""
    size = max(map(fitting.width, headings[2:]))
    for (name, result, *values), note in zip(rows, notes, strict=True):
        yield style(name, is_bold=True) + f"  {result}"
        for heading, value in zip(headings[2:], values, strict=True):
            padded = heading + " " * (size - fitting.width(heading))
            yield wrapped(f"  {padded}  {value}", size + 4)
        if note:
            yield wrapped(f"  {note}", 4)
