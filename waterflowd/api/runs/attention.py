"""What needs a person now: decisions, failures, and parts of the system that do not work.

Rules of this file:

- Approvals come first, by the time at which they are due; then what is lost or held, failures, stalled runs, agents and keys,
  repositories and files, the disk.
- A failure is listed while it is the newest result of its workflow on its ref. A later success clears it.
- An answer costs a bounded time: it looks at `OPEN_RUNS_MAX` open runs and at the `RECENT_MAX` newest ones, and lists
  `OF_KIND_MAX` items of each kind.
"""

from __future__ import annotations

import asyncio
from collections import Counter

from waterflowd.api.runs.run_lookup import readable_run
from waterflowd.api.schemas.attention import AttentionAction, AttentionItem, AttentionKind, AttentionSchema
from waterflowd.api.schemas.runs import RunSummarySchema
from waterflowd.api.services import Services
from waterflowd.api.timestamps import timestamp
from waterflowd.engine.rules import approvals
from waterflowd.engine.state.blocks import Step
from waterflowd.engine.state.runs import Job
from waterflowd.model.records import RunFilter, RunSummary, TriggerKind
from waterflowd.model.statuses import FAILURES, Conclusion, Status

OPEN_RUNS_MAX = 200
#: Rows that are looked at for failures: 3 ms of the log's time.
RECENT_MAX = 1_000
OF_KIND_MAX = 100
_KINDS: tuple[AttentionKind, ...] = (
    "approval",
    "lost",
    "held",
    "failed",
    "stalled",
    "agent",
    "key",
    "repository",
    "file",
    "disk",
)
_DECISIVE = FAILURES | {Conclusion.SUCCESS}
_NEVER = 1 << 62


class _Found:
    """The items so far, by kind, and when they are due."""

    def __init__(self) -> None:
        self._items: dict[AttentionKind, list[tuple[int, AttentionItem]]] = {kind: [] for kind in _KINDS}
        self.counts: Counter[str] = Counter()

    def add(
        self,
        kind: AttentionKind,
        reason: str,
        *actions: AttentionAction,
        since: int | None = None,
        due_at: int | None = None,
        row: RunSummary | None = None,
        place: str | None = None,
        name: str | None = None,
        streak: int = 0,
    ) -> None:
        self.counts[kind] += 1
        if len(self._items[kind]) >= OF_KIND_MAX:
            return
        item = AttentionItem(
            kind=kind,
            since=timestamp(since),
            due_at=timestamp(due_at),
            run=RunSummarySchema.of(row) if row is not None else None,
            place=place,
            name=name,
            reason=reason,
            streak=streak,
            actions=list(actions),
        )
        # The newest of the others is first: it is what somebody has just been told about.
        self._items[kind].append((due_at or _NEVER if kind == "approval" else -(since or 0), item))

    def items(self) -> list[AttentionItem]:
        """In the order of the list."""
        return [item for kind in _KINDS for _, item in sorted(self._items[kind], key=lambda pair: pair[0])]


async def attention(services: Services) -> AttentionSchema:
    """What needs a person now."""
    found = _Found()
    statuses = await _open_runs(services, found)
    await _failures(services, found)
    for run_id, text in services.reader.stalled().items():
        found.add("stalled", text, row=await services.history.run(run_id))
    _agents(services, found)
    await _repositories(services, found)
    full = services.reader.read_only_text()
    if full is not None:
        found.add("disk", full)
    return AttentionSchema(items=found.items(), counts=dict(found.counts), open=statuses)


async def _open_runs(services: Services, found: _Found) -> dict[str, int]:
    rows = await services.history.open_runs(OPEN_RUNS_MAX)
    for row in rows:
        if row.status is Status.QUEUED:
            continue
        run = await readable_run(services, row.id)
        if run is None:
            continue
        for job, step, approval in approvals.pending(run):
            part = step if step is not None else job
            since = step.started_at if step is not None else job.ready_at
            found.add(
                "approval",
                part.reason.text,
                "approve",
                "reject",
                since=since,
                due_at=approval.due_at,
                row=row,
                place=_place(job, step),
            )
        for job in run.jobs:
            for step in job.active_steps():
                if step.is_held:
                    found.add(
                        "held", step.reason.text, "cancel", since=step.started_at, row=row, place=_place(job, step)
                    )
        # Reading a run may have meant to fold its whole log.
        await asyncio.sleep(0)
    return dict(Counter(row.status.value for row in rows))


async def _failures(services: Services, found: _Found) -> None:
    rows, _ = await services.history.runs(RunFilter(), limit=RECENT_MAX)
    #: The newest result of each workflow on each ref, with the failures in a row so far; None after a success.
    newest: dict[tuple[str | None, str, str | None], RunSummary] = {}
    streaks: Counter[tuple[str | None, str, str | None]] = Counter()
    ended: set[tuple[str | None, str, str | None]] = set()
    for row in rows:
        key = (row.repository, row.path, row.trigger.ref)
        # The failure of a child run is one of its parent.
        if row.conclusion not in _DECISIVE or row.trigger.kind is TriggerKind.PARENT_RUN or key in ended:
            continue
        if row.conclusion is Conclusion.SUCCESS:
            ended.add(key)
            continue
        newest.setdefault(key, row)
        streaks[key] += 1
    for key, row in newest.items():
        place = row.first_failure.part if row.first_failure is not None else None
        kind: AttentionKind = "lost" if row.conclusion is Conclusion.LOST else "failed"
        actions: tuple[AttentionAction, ...] = ("rerun-failed", "rerun")
        found.add(kind, row.reason.text, *actions, since=row.completed_at, row=row, place=place, streak=streaks[key])


def _agents(services: Services, found: _Found) -> None:
    for agent in services.agents.rows():
        if agent.alarm or not (agent.is_connected or agent.is_drained):
            found.add("agent", agent.alarm or agent.text, "revoke-agent", since=agent.seen_at, name=agent.name)
    for pending in services.agents.pending():
        groups = ", ".join(pending.groups) or "no group"
        text = f"{pending.hostname or pending.name} waits for approval, for {groups}"
        found.add("key", text, "approve-agent", "revoke-agent", since=pending.requested_at, name=pending.fingerprint)


async def _repositories(services: Services, found: _Found) -> None:
    for row in services.repositories.status():
        if not row.is_ready:
            found.add("repository", row.text, "sync-repository", since=row.fetched_at, name=row.name)
    for definition in await services.repositories.definitions():
        if not definition.is_ready:
            first = definition.errors[0] if definition.errors else None
            text = definition.text
            if first is not None:
                text = f"{first.path}:{first.line}:{first.column} {first.message}"
            found.add("file", text, name=f"{definition.repository}/{definition.path}")


def _place(job: Job, step: Step | None) -> str:
    return job.id if step is None else f"{job.id}/{step.id}"
