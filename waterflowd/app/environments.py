"""Environments: what the configuration asks of jobs that enter one, as the engine takes it."""

from __future__ import annotations

from collections.abc import Sequence

from waterflowd.app.config import Environment
from waterflowd.engine import events
from waterflowd.model.plan import JobPlan, Plan
from waterflowd.model.records import StartRequest
from waterflowd.reconcile import refs


class Environments:
    """The configured environments."""

    def __init__(self, configured: Sequence[Environment]) -> None:
        self._configured = {item.name: item for item in configured}

    def policies(self, request: StartRequest, plan: Plan) -> dict[str, events.Policy]:
        """What is asked of this run, by the name of each environment that it may enter."""
        if not self._configured:
            return {}
        names = _names(plan.jobs)
        wanted = self._configured if any("${{" in name for name in names) else names & self._configured.keys()
        return {name: _policy(self._configured[name], request.trigger.ref) for name in sorted(wanted)}


def _names(jobs: Sequence[JobPlan]) -> set[str]:
    found = {job.environment.name for job in jobs if job.environment is not None}
    for job in jobs:
        if job.call is not None:
            found |= _names(job.call.jobs)
    return found


def _policy(item: Environment, ref: str | None) -> events.Policy:
    return events.Policy(
        approvers=item.approvers,
        minimum=max(item.minimum, 1 if item.approvers else 0),
        may_approve_own=item.self_approval,
        is_ref_allowed=not item.refs or (ref is not None and refs.is_selected(ref, item.refs)),
        vars=item.vars,
    )
