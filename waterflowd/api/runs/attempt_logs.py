"""The output log of one attempt, found by the names that clients send."""

from __future__ import annotations

from typing import NamedTuple

from waterflow_agent.errors import Rejected
from waterflowd.api.runs.run_lookup import find_job, find_step, read_run
from waterflowd.api.services import Services
from waterflowd.engine.state.blocks import Attempt
from waterflowd.model.ids import AttemptId, RunId
from waterflowd.model.records import CUT_STREAM


class AttemptLog(NamedTuple):
    """The output log of an attempt, and the attempt as it was when the log was found."""

    name: AttemptId
    attempt: Attempt


async def find_log(services: Services, run: RunId, job: str, step: str, number: int | None) -> AttemptLog | None:
    """The log of an attempt, by default the newest one; None for a step that has none yet. `Rejected` 404 for other names."""
    owner = find_job(await read_run(services, run), job)
    found = find_step(owner, step)
    attempts = found.attempts if found is not None else []
    if number is None:
        number = len(attempts)
    if found is None or not attempts:
        return None
    if not 1 <= number <= len(attempts):
        text = f"attempt {number} not found; {job}/{step} has attempts 1 to {len(attempts)}"
        raise Rejected("WF604", text, where="attempt", status=404)
    attempt = attempts[number - 1]
    return AttemptLog(AttemptId(run, owner.id, found.id, attempt.number), attempt)


async def is_complete(services: Services, name: AttemptId, attempt: Attempt, size: int) -> bool:
    """Whether nothing more will be added to the log, which had so many bytes after the attempt was read."""
    if attempt.finished_at is None:
        return False
    if size >= attempt.output_bytes:
        return True
    last = await services.outputs.read(name, size - 1, 1) if size else []
    return bool(last) and last[-1].stream == CUT_STREAM
