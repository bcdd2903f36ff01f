"""The daemon's in-memory state of all open runs. The driver owns it; every batch changes it.

Rules of this file: nothing here is authoritative. After a restart everything is rebuilt from the log (recovery.py).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from waterflow_agent.errors import Retryable
from waterflow_agent.wire import messages
from waterflowd.access.policy import AccessPolicy
from waterflowd.access.repository_quotas import RepositoryQuotas
from waterflowd.dispatch import lowering
from waterflowd.engine import Run, commands, events
from waterflowd.engine.rules import leases
from waterflowd.fleet.locks import Locks
from waterflowd.fleet.placement import Placement
from waterflowd.fleet.registry import Registry
from waterflowd.fleet.started_jobs import StartedJobs
from waterflowd.host.child_runs import ChildRunRegistry
from waterflowd.host.timers import Timers
from waterflowd.model.ids import RunId
from waterflowd.model.plan import Plan
from waterflowd.model.records import StartRequest

logger = logging.getLogger("waterflow.host")


async def _no_digests(repository: str, revision: str, calls: Sequence[str]) -> dict[str, str]:
    """Without repositories there are no files to hash."""
    return {}


class LiveState(msgspec.Struct, frozen=True, kw_only=True):
    """All open runs, and what the host keeps in memory for them."""

    runs: dict[RunId, Run]
    #: Stalled runs, with the reason.
    stalled: dict[RunId, str]
    placement: Placement
    #: Whether the driver hosts runs. Another engine assigns the slots of `placement` itself.
    hosts_runs: bool = True
    locks: Locks
    registry: Registry
    timers: Timers
    child_runs: ChildRunRegistry = msgspec.field(default_factory=ChildRunRegistry)
    #: Empty if the driver hosts no runs.
    started_jobs: StartedJobs = msgspec.field(default_factory=StartedJobs)
    fill: lowering.Fill = lowering.fill
    missing_secrets: lowering.MissingSecrets = lowering.all_missing
    #: Commands to repeat when a secret was read, or could not be read.
    awaiting_secrets: list[tuple[RunId, commands.RequestSlot | commands.SendTask]] = msgspec.field(default_factory=list)
    #: What jobs may use. Checked for each attempt, because some groups are known only then.
    access: AccessPolicy = msgspec.field(default_factory=AccessPolicy)
    #: How many runs and how much output each repository may have per hour.
    quotas: RepositoryQuotas = msgspec.field(default_factory=RepositoryQuotas)
    #: The results of these `hashFiles` calls for a commit of a repository.
    digests: Callable[[str, str, Sequence[str]], Awaitable[dict[str, str]]] = _no_digests
    #: Owner and name of a configured repository, as its address has them.
    full_name: Callable[[str], str] = lambda name: name
    #: The configured policies of the environments that a new run may enter.
    policies: Callable[[StartRequest, Plan], dict[str, events.Policy]] = lambda request, plan: {}
    #: Generation of the data directory: the epoch of new leases.
    epoch: int
    #: The lease of attempts that need one (engine/rules/leases.py).
    lease_ms: int = leases.LEASE_MS_MIN

    def offer(self, draft: lowering.Draft, command: commands.SendTask) -> messages.Offer | None:
        """The offer of an attempt; None while a secret is being read, in which case the offer is made later."""
        instance = self.placement.server(command.agent).instance
        try:
            return messages.Offer(self.fill(draft, instance))
        except Retryable:
            self.awaiting_secrets.append((draft.task.key.attempt.run, command))
            return None

    def stall(self, run: Run, error: Exception) -> None:
        """Removes a run that cannot continue without a person; the other runs are not affected."""
        logger.error("run %s is stalled; other runs continue", run.id, exc_info=error, extra={"run": run.id})
        self.stalled[run.id] = f"stalled after event {run.seq}: {error}"
        self.drop(run.id)

    def drop(self, run: RunId) -> None:
        """Removes a run with its slots, slot requests, locks, child runs, started jobs and timers."""
        self.runs.pop(run, None)
        self.timers.drop_run(run)
        self.placement.forget(run)
        self.locks.forget(run)
        self.child_runs.forget(run)
        self.started_jobs.forget(run)
