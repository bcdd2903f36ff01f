"""The audit trail of what is done through the API."""

from __future__ import annotations

from waterflowd.api.access import Principal
from waterflowd.api.access_events import ActionTaken
from waterflowd.api.services import Services
from waterflowd.model.ids import AUDIT


async def note(
    services: Services, principal: Principal, what: str, target: str, **facts: str | int | bool | list[str] | None
) -> None:
    """Records who did what to what; durable when it returns."""
    fact = ActionTaken(at=services.clock.now(), by=principal.name, what=what, target=target, facts=facts)
    await services.runs.record(AUDIT, [fact])
