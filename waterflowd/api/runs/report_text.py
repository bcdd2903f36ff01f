"""Reports as Markdown and as CSV.

Rules of this file: values come from servers, so they must not become markup, HTML or formulas where the text is used.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from typing import Literal, TypeAlias

from waterflow_agent.display import escape_for_display
from waterflowd.api.runs import reports
from waterflowd.engine.state.runs import Job
from waterflowd.expr import to_text
from waterflowd.model.reports import Cell
from waterflowd.time_slices import Work

Format: TypeAlias = Literal["markdown", "csv"]
MEDIA_TYPES: dict[Format, str] = {"markdown": "text/markdown", "csv": "text/csv"}
ENDINGS: dict[Format, str] = {"markdown": "md", "csv": "csv"}

#: Rows that are made before the event loop continues: a millisecond.
_ROWS = 32
_MARKUP = re.compile(r"[\\`*\[\]<>|~]|(?<!\w)_|_(?!\w)")
_NUMBER = re.compile(r"[+-]?[0-9]+([.,][0-9]+)*%?")
_FORMULA = frozenset("=+-@")


def render(job: Job, form: Format) -> Work[str]:
    """The report of a job, as it is now, as text that ends with a newline."""
    # Rendering may be interrupted, and the run may change meanwhile.
    table = _table(job)
    return _joined(_markdown(job, table) if form == "markdown" else _csv(table))


def _joined(pieces: Iterator[str]) -> Work[str]:
    found: list[str] = []
    for number, piece in enumerate(pieces):
        found.append(piece)
        if number % _ROWS == 0:
            yield
    return "".join(found)


def _table(job: Job) -> list[list[Cell]]:
    """The headings, then the rows. The last column is why a row has not succeeded, or lacks values."""
    assert job.plan.report is not None
    columns = list(job.plan.report.columns)
    table: list[list[Cell]] = [[reports.subject_of(job).capitalize(), "Result", *columns, "Note"]]
    for row in reports.rows_of(job):
        values = row.report.values if row.report is not None else {}
        cells = [values.get(heading, "") for heading in columns]
        table.append([reports.name_of(row), reports.result_of(row).value, *cells, reports.note_of(row)])
    return table


def _csv(table: list[list[Cell]]) -> Iterator[str]:
    for row in table:
        line = io.StringIO()
        csv.writer(line).writerow([_without_formula(cell) for cell in row])
        yield line.getvalue()


def _without_formula(cell: Cell) -> str:
    """The text of a cell; spreadsheets would compute one that begins with `=` and the like, unless it is quoted."""
    text = escape_for_display(to_text(cell))
    is_formula = isinstance(cell, str) and text[:1] in _FORMULA and not _NUMBER.fullmatch(text)
    return f"'{text}" if is_formula else text


def _markdown(job: Job, table: list[list[Cell]]) -> Iterator[str]:
    headings, *rows = table
    # Without any note, the column is left out.
    end = len(headings) if any(row[-1] for row in rows) else -1
    yield f"### {_without_markup(reports.title_of(job))}\n\n"
    yield _markdown_row(headings[:end])
    yield "|" + " --- |" * len(headings[:end]) + "\n"
    for row in rows:
        yield _markdown_row(row[:end])
    if not rows:
        yield f"\n{_without_markup(job.reason.text)}\n"


def _markdown_row(cells: list[Cell]) -> str:
    return f"| {' | '.join(map(_without_markup, cells))} |\n"


def _without_markup(cell: Cell) -> str:
    return _MARKUP.sub(r"\\\g<0>", escape_for_display(to_text(cell)).replace("&", "&amp;"))
