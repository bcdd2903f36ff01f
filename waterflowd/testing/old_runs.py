"""Fills a log with completed runs of the past, many at a time, for tests and measurements of retention.

Rules of this file: rows, trigger keys, plans and the number of events are those of real runs of one job with two steps; the
events themselves are of typical size, and only the first one is the one that its position needs. Such a run can be listed and
removed, but not shown.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from waterflowd.engine import events
from waterflowd.model import ids
from waterflowd.model.reasons import Reason, ReasonCode
from waterflowd.model.records import Batch, RunSummary, StreamAppend, Trigger, TriggerKind
from waterflowd.model.statuses import Conclusion, Outcome, Status

EVENTS = 14
#: Runs in one transaction.
_AT_ONCE = 500
_REASON = Reason(code=ReasonCode.STARTED, text="the step was started on web-01")


class _Log(Protocol):
    def append_blocking(self, batch: Batch) -> int: ...


def old_run(number: int, at: int) -> ids.RunId:
    """The id of the run with this number, which began at this time."""
    return ids.run_id(at, number)


def fill(
    log: _Log,
    count: int,
    *,
    first_at: int,
    every_ms: int,
    workflows: int = 10,
    fails_every: int = 5,
    prefix: str = "push/shop/",
) -> None:
    """Adds `count` completed runs, one every `every_ms`; every `fails_every`-th one has failed.

    Their trigger keys are `prefix` and a number.
    """
    numbers = [0] * workflows
    batch = Batch()
    for number in range(count):
        workflow = number % workflows
        numbers[workflow] += 1
        conclusion = Conclusion.FAILURE if number % fails_every == 0 else Conclusion.SUCCESS
        at = first_at + number * every_ms
        trigger = Trigger(kind=TriggerKind.PUSH, by="Ada", key=f"{prefix}{number}", ref="refs/heads/main")
        _add(batch, _summary(old_run(number, at), numbers[workflow], f"w{workflow}.yml", at, trigger, conclusion))
        if len(batch.summaries) == _AT_ONCE or number == count - 1:
            batch.counters = {f"shop:w{index}.yml": latest for index, latest in enumerate(numbers)}
            log.append_blocking(batch)
            batch = Batch()


def _summary(run: ids.RunId, number: int, path: str, at: int, trigger: Trigger, conclusion: Conclusion) -> RunSummary:
    return RunSummary(
        id=run,
        number=number,
        name=path,
        path=path,
        repository="shop",
        revision="0" * 40,
        trigger=trigger,
        status=Status.COMPLETED,
        conclusion=conclusion,
        reason=_REASON,
        created_at=at,
        started_at=at,
        completed_at=at + 1_000,
        seq=EVENTS,
    )


def _add(batch: Batch, row: RunSummary) -> None:
    plan_hash, key = f"plan of {row.path}", row.trigger.key
    history = list(_events(row.created_at, plan_hash, row.trigger, row.number))
    batch.appends.append(StreamAppend(stream=ids.run_stream(row.id), expected=0, at=row.created_at, events=history))
    batch.summaries.append(row)
    if key is not None:
        batch.keys[key] = row.id
    batch.plans[plan_hash] = plan_hash.encode() * 50
    batch.plan_uses.append(plan_hash)


def _events(at: int, plan_hash: str, trigger: Trigger, number: int) -> Iterator[Any]:
    yield events.RunCreated(
        at=at, plan_hash=plan_hash, number=number, trigger=trigger, deadline_at=at + 3_600_000, reason=_REASON
    )
    for position in range(1, EVENTS):
        yield events.AttemptFinished(
            at=at + position,
            job=ids.JobId("deploy"),
            step=ids.StepId("restart"),
            attempt=ids.AttemptNo(1),
            outcome=Outcome.SUCCESS,
            exit_code=0,
            started_at=at,
            finished_at=at + position,
            output_bytes=1200,
            reason=_REASON,
        )
