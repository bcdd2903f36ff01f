"""The use of secrets, for the audit trail: which names an attempt is sent, and to which server."""

from __future__ import annotations

from waterflowd.access.events import SecretsUsed
from waterflowd.engine import Run, commands


def secret_uses(run: Run, command: commands.SendTask, now: int) -> list[SecretsUsed]:
    """The fact that the secrets of an attempt are sent; empty if its step has none."""
    job = run.jobs_by_id[command.job]
    step = job.steps_by_id[command.step]
    names = sorted({outer for name in step.plan.secrets if (outer := job.scope.secret(name)) is not None})
    if not names:
        return []
    attempt = step.attempts[command.attempt - 1]
    return [
        SecretsUsed(
            at=now,
            by=f"run {run.id}",
            names=tuple(names),
            run=run.id,
            part=f"{job.id}/{step.id}",
            attempt=command.attempt,
            agent=command.agent,
            server=attempt.agent_name,
        )
    ]
