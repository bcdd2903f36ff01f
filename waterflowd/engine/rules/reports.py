"""The values of a job in its report, evaluated when all its steps have ended.

Rules of this file: a report never changes how a job ends. A value that cannot be evaluated is missing, and the row says why.
A value is one line of limited length, so that any reader can show it in a table.
"""

from __future__ import annotations

from collections.abc import Mapping

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected
from waterflowd import expr
from waterflowd.engine.state.runs import Job, Run
from waterflowd.expr.json_text import Problem, to_json
from waterflowd.model.reports import Cell, ReportCells
from waterflowd.model.statuses import Conclusion

#: Characters of a value: what fits into a cell of a table.
CELL_LENGTH_MAX = 500
#: Characters of all values of a run, the same as for summaries.
REPORTS_LENGTH_MAX = 4 << 20
_PROBLEM_LENGTH_MAX = 300
#: Beyond this, readers of JSON round whole numbers.
_EXACT_MAX = 1 << 53


def cells(run: Run, job: Job, env: expr.Env) -> ReportCells | None:
    """The values of the job; None if it has no report, or if none of its steps ran."""
    plan = job.plan.report
    if plan is None or not _has_run(job):
        return None
    values: dict[str, Cell] = {}
    problem = ""
    for heading, text in plan.columns.items():
        try:
            cell = cell_of(_value(text, env))
        except (Rejected, Problem) as error:
            problem = problem or escape_for_display(f"{heading}: {error.text}", _PROBLEM_LENGTH_MAX)
            continue
        if cell is not None and cell != "":
            values[heading] = cell
    found = ReportCells(values=values, problem=problem)
    if run.report_length + found.length > REPORTS_LENGTH_MAX:
        return ReportCells(problem="not kept: the reports of this run have reached 4 MiB")
    return found


def _has_run(job: Job) -> bool:
    """Whether a step ran. Otherwise texts around expressions without values would look like results."""
    return job.agent is not None or any(step.outcome is Conclusion.SUCCESS for step in job.steps)


def _value(text: str, env: expr.Env) -> expr.Value:
    """The value of a column; null if the text has expressions and none of them has a value."""
    template = expr.parse_template(text)
    values = [expr.evaluate(part.node, env) for part in template.expressions]
    if values and all(value is None or value == "" for value in values):
        return None
    return template.render(env)


def cell_of(value: expr.Value) -> Cell | None:
    """The value as a cell of a table: a number that is exact in any reader, a boolean, or one line of limited length.

    Raises `Problem` for a list or mapping that is too large.
    """
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int | float) and abs(value) <= _EXACT_MAX:
        return value
    text = to_json(value) if isinstance(value, Mapping | list | tuple) else expr.to_text(value)
    # Lines and runs of spaces become one space: `df` and the like align their output.
    words = " ".join(text[: 4 * CELL_LENGTH_MAX].split())
    return escape_for_display(words, CELL_LENGTH_MAX)
