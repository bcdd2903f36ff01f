"""The use of secrets, for the audit trail: which names an attempt is sent, and to which server."""

from __future__ import annotations

from waterflowd.access.events import SecretsUsed
from waterflowd.dispatch.lowering import Draft
from waterflowd.model.ids import AgentId


def secret_uses(draft: Draft, agent: AgentId, server: str, now: int) -> list[SecretsUsed]:
    """The fact that the secrets of an attempt are sent to an agent on this server; empty if its step has none."""
    request, attempt = draft.secrets, draft.task.key.attempt
    names = sorted({name for name in request.names.values() if name is not None}) if request is not None else []
    if not names:
        return []
    return [
        SecretsUsed(
            at=now,
            by=f"run {attempt.run}",
            names=tuple(names),
            run=attempt.run,
            part=f"{attempt.job}/{attempt.step}",
            attempt=attempt.number,
            agent=agent,
            server=server,
        )
    ]
