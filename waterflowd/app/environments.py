"""The policies of configured environments, as the engine uses them."""

from __future__ import annotations

from collections.abc import Sequence

from waterflowd.app.config import EnvironmentTable
from waterflowd.engine import events
from waterflowd.model.plan import JobPlan, Plan
from waterflowd.model.records import StartRequest
from waterflowd.reconcile import refs


class Environments:
    """The configured environments."""

    def __init__(self, configured: Sequence[EnvironmentTable]) -> None:
        self._configured = {item.name: item for item in configured}

    def replace(self, configured: Sequence[EnvironmentTable]) -> None:
        """Other environments for the runs that start from now on."""
        self._configured = {item.name: item for item in configured}

    def policies(self, request: StartRequest, plan: Plan) -> dict[str, events.Policy]:
        """The policies for a run, by the name of each environment that its jobs may use."""
        if not self._configured:
            return {}
        names = _names(plan.jobs)
        # An expression may evaluate to the name of any environment.
        selected = self._configured if any("${{" in name for name in names) else names & self._configured.keys()
        return {name: _policy(self._configured[name], request.trigger.ref) for name in sorted(selected)}


def _names(jobs: Sequence[JobPlan]) -> set[str]:
    found = {job.environment.name for job in jobs if job.environment is not None}
    for job in jobs:
        if job.call is not None:
            found |= _names(job.call.jobs)
    return found


def _policy(item: EnvironmentTable, ref: str | None) -> events.Policy:
    return events.Policy(
        approvers=item.approvers,
        minimum=max(item.minimum, 0 if item.self_approval and not item.approvers else 1),
        may_approve_own=item.self_approval,
        unattended=events.Unattended(item.unattended),
        is_ref_allowed=not item.refs or (ref is not None and refs.is_selected(ref, item.refs)),
        vars=item.vars,
    )
