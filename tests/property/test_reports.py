"""Reports whatever servers say: one line for each value, and tables that keep their shape."""

from __future__ import annotations

import csv
import io
import re

from hypothesis import given
from hypothesis import strategies as st

from waterflow_agent.display import ELLIPSIS
from waterflowd.api.runs import report_text
from waterflowd.engine.rules import reports
from waterflowd.expr import Value
from waterflowd.model.ids import JobId
from waterflowd.model.reports import Cell, ReportCells
from waterflowd.testing.scenario import Scenario
from waterflowd.time_slices import finish

#: Everything that JSON can hold, with any characters.
VALUES: st.SearchStrategy[Value] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)
CELLS: st.SearchStrategy[Cell] = VALUES.map(reports.cell_of).map(lambda cell: "" if cell is None else cell)
WORKFLOW = "jobs: {a: {runs-on: web, report: {columns: {A: x, B: y}}, steps: [{run: x}]}}"
_UNESCAPED_PIPE = re.compile(r"(?<!\\)(?:\\\\)*\|")


@given(VALUES)
def test_a_value_is_a_number_a_boolean_or_one_line(value: Value) -> None:
    """Nothing in it moves a cursor, ends a row or fills a screen."""
    cell = reports.cell_of(value)
    if isinstance(cell, str):
        assert len(cell) <= reports.CELL_LENGTH_MAX
        assert cell == " ".join(cell.split()) or cell.endswith(ELLIPSIS)
        assert not any(character in cell for character in "\n\r\x1b\u202e")
    else:
        assert cell is None or isinstance(cell, bool) or abs(cell) <= 1 << 53


@given(CELLS, CELLS)
def test_a_table_keeps_its_shape(first: Cell, second: Cell) -> None:
    """Each row has as many cells as there are headings, in Markdown and in CSV; no cell begins a formula."""
    scenario = Scenario(WORKFLOW)
    scenario.play("connect web-1 web\nstart\nfinish a/1")
    job = scenario.run.jobs_by_id[JobId("a")]
    job.report = ReportCells(values={"A": first, "B": second})
    *_, headings, line, row = finish(report_text.render(job, "markdown")).splitlines()
    assert [len(_UNESCAPED_PIPE.findall(text)) for text in (headings, line, row)] == [5, 5, 5]
    names, cells = csv.reader(io.StringIO(finish(report_text.render(job, "csv")), newline=""))
    assert len(names) == len(cells) == 5
    for text, cell in zip(cells[2:4], (first, second), strict=True):
        if isinstance(cell, str):
            assert not text.startswith(("=", "@"))
