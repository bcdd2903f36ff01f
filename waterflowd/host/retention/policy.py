"""Which runs, and the output of which runs, are removed.

Rules of this file: pure. Rows of runs come newest first, and what is decided about a row depends only on newer ones. An open
run stays, and so do the newest run and the newest successful run of each workflow. Nothing that ended less than `GRACE_MS` ago
is removed: until then its agents, subscribers and repeated triggers may still ask for it.
"""

from __future__ import annotations

import msgspec

from waterflowd.model.records import RemovalRule, RunSummary
from waterflowd.model.statuses import FAILURES, Conclusion

#: A day: longer than any session, or retry of a trigger, that counts on a run.
GRACE_MS = 24 * 3_600_000
#: Workflows that are told apart; runs of further ones stay.
WORKFLOWS_MAX = 20_000


class Retention(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept; None: everything."""

    run_max_age_ms: int | None = None
    #: For runs that failed, instead of the others; None: as for all runs.
    failed_run_max_age_ms: int | None = None
    runs_per_workflow: int | None = None
    output_max_age_ms: int | None = None
    output_max_bytes: int | None = None

    @property
    def removes_runs(self) -> bool:
        """Whether a rule removes runs."""
        return not self.run_max_age_ms is self.failed_run_max_age_ms is self.runs_per_workflow is None

    @property
    def removes_output(self) -> bool:
        """Whether a rule removes output of runs that stay."""
        return not self.output_max_age_ms is self.output_max_bytes is None


class _Workflow:
    """What was seen of a workflow so far."""

    __slots__ = ("counted", "has_good", "has_newest")

    def __init__(self) -> None:
        self.has_newest = self.has_good = False
        #: Runs that count for `runs_per_workflow`.
        self.counted = 0


class Selection:
    """Decides about the runs of all workflows, newest first."""

    def __init__(self, retention: Retention, now: int) -> None:
        self._retention = retention
        self._now = now
        self._workflows: dict[tuple[str, str], _Workflow] = {}

    def is_settled(self, row: RunSummary) -> bool:
        """Whether the run ended long enough ago."""
        return row.completed_at is not None and self._now - row.completed_at >= GRACE_MS

    def rule(self, row: RunSummary) -> RemovalRule | None:
        """The rule that removes the run; None if it stays. Call it once for each row, newest first."""
        workflow = self._workflow(row)
        if workflow is None:
            return None
        is_kept = not workflow.has_newest
        workflow.has_newest = True
        if row.conclusion is Conclusion.SUCCESS and not workflow.has_good:
            workflow.has_good = is_kept = True
        is_failed, failed_age = row.conclusion in FAILURES, self._retention.failed_run_max_age_ms
        if not is_failed or failed_age is None:
            workflow.counted += 1
        if is_kept or not self.is_settled(row):
            return None
        if is_failed and failed_age is not None:
            return RemovalRule.FAILED_RUN_AGE if self._is_older(row, failed_age) else None
        if self._is_older(row, self._retention.run_max_age_ms):
            return RemovalRule.RUN_AGE
        count_max = self._retention.runs_per_workflow
        return RemovalRule.RUN_COUNT if count_max is not None and workflow.counted > count_max else None

    def output_rule(self, row: RunSummary) -> RemovalRule | None:
        """The rule of age that removes the output of a run that stays."""
        is_old = self.is_settled(row) and self._is_older(row, self._retention.output_max_age_ms)
        return RemovalRule.OUTPUT_AGE if is_old else None

    def _is_older(self, row: RunSummary, age_ms: int | None) -> bool:
        return age_ms is not None and row.completed_at is not None and self._now - row.completed_at > age_ms

    def _workflow(self, row: RunSummary) -> _Workflow | None:
        key = (row.repository or "", row.path)
        workflow = self._workflows.get(key)
        if workflow is None and len(self._workflows) < WORKFLOWS_MAX:
            workflow = self._workflows[key] = _Workflow()
        return workflow
