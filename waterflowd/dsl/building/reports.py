"""Builds the reports of jobs: a list of outputs becomes columns with the values of these outputs."""

from __future__ import annotations

from collections.abc import Mapping

from waterflow_agent.display import quote
from waterflowd.dsl import models
from waterflowd.dsl.building.compilation import SourceFile
from waterflowd.dsl.building.contexts import Availability
from waterflowd.dsl.building.expressions import ExpressionChecker
from waterflowd.dsl.models.report import HEADING_CHARACTERS_MAX
from waterflowd.dsl.reading.tree import Path
from waterflowd.dsl.reporting import codes
from waterflowd.dsl.reporting.values import as_text, describe
from waterflowd.model.plan import Json, ReportPlan
from waterflowd.model.wording import did_you_mean, listed

#: Headings of the columns that every report has.
_OWN = ("server", "instance", "result", "note")
_NO_SECRETS = "a report is recorded and shown, so a secret cannot be a part of it"


class ReportBuilder:
    """Builds the reports of one file."""

    def __init__(self, source: SourceFile, expressions: ExpressionChecker) -> None:
        self._source = source
        self._expressions = expressions

    def build(
        self, path: Path, report: models.Report, outputs: Mapping[str, str], available: Availability
    ) -> ReportPlan:
        """The report at `path` of a job with these outputs."""
        at: Path = (*path, "columns")
        if isinstance(report.columns, list):
            columns = self._outputs(at, report.columns, outputs)
        else:
            columns = self._columns(at, report.columns, available.without_secrets(_NO_SECRETS))
        return ReportPlan(title=report.title or "", columns=columns)

    def _outputs(self, path: Path, names: list[Json], outputs: Mapping[str, str]) -> dict[str, str]:
        """Columns for outputs of the job. Their values have been checked there."""
        known = {name.lower(): name for name in outputs}
        columns: dict[str, str] = {}
        for position, item in enumerate(names):
            # `report: [a]` has no key `columns`.
            at = (*path, position) if self._source.document.existing(path) == path else (*path[:-1], position)
            name = as_text(item)
            found = known.get(name.lower()) if isinstance(name, str) else None
            if not isinstance(name, str):
                text, hint = f"expected the name of an output of this job, not {describe(item)}", ""
            elif found is None:
                text = f"this job has no output {quote(name)}"
                hint = did_you_mean(name, known.values()) or _known(outputs)
            elif found in columns:
                text, hint = f"the column {quote(found)} is already used", "remove it"
            else:
                self._check_heading(at, found, columns)
                columns[found] = outputs[found]
                continue
            self._source.at_value(at, codes.WRONG_VALUE, text, hint)
        return columns

    def _columns(self, path: Path, values: Mapping[str, Json], available: Availability) -> dict[str, str]:
        columns: dict[str, str] = {}
        for heading, value in values.items():
            at = (*path, heading)
            self._check_heading(at, heading, columns)
            text = as_text(value)
            if isinstance(text, str) and text.strip():
                columns[heading] = text
                self._expressions.text(at, text, available)
            else:
                hint = "for example ${{ steps.ID.outputs.NAME }}"
                self._source.at_value(at, codes.WRONG_VALUE, f"expected text, not {describe(value)}", hint)
        return columns

    def _check_heading(self, path: Path, heading: str, earlier: Mapping[str, str]) -> None:
        lowered = heading.lower()
        same = next((other for other in earlier if other.lower() == lowered), None)
        if same is not None:
            text, hint = f"the heading {quote(heading)} is already used, as {quote(same)}", "use another heading"
        elif lowered in _OWN:
            text = f"{quote(heading)} is the heading of a column that every report has"
            hint = "remove it, or use another heading"
        elif not heading.strip() or not heading.isprintable() or len(heading) > HEADING_CHARACTERS_MAX:
            text = (
                f"the heading {quote(heading)} must have 1 to {HEADING_CHARACTERS_MAX} characters that can be printed"
            )
            hint = "use a shorter heading"
        else:
            return
        self._source.at_key(path, codes.WRONG_VALUE, text, hint)


def _known(outputs: Mapping[str, str]) -> str:
    return f"known outputs: {listed(outputs)}" if outputs else "add it under outputs of this job"
