"""Reads the secrets of attempts at the gateway, and waits while a source is being read."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from waterflow_agent.attempts import AttemptId
from waterflow_agent.errors import Rejected, Retryable
from waterflow_agent.wire.messages import Task
from waterflowd.dispatch import lowering
from waterflowd.model.ids import AgentId
from waterflowd.model.reasons import Reason, ReasonCode, reason

Found = TypeVar("Found")


async def _not_recorded(draft: lowering.Draft, agent: AgentId) -> None:
    """Without an audit trail."""


class Secrets(msgspec.Struct, frozen=True, kw_only=True):
    """How secrets are read here."""

    read: lowering.ReadSecret = lowering.no_secret
    missing: lowering.MissingSecrets = lowering.all_missing
    #: Records which secrets an agent is sent; they are sent only when it has returned.
    record_use: Callable[[lowering.Draft, AgentId], Awaitable[None]] = _not_recorded


class SecretReader:
    """See the module's docstring."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._has_changed = asyncio.Event()
        self._delays: dict[AttemptId, Reason] = {}

    def delay(self, attempt: AttemptId) -> Reason | None:
        """Why the secrets of an attempt cannot be read yet; None if it does not wait for them."""
        return self._delays.get(attempt)

    def changed(self) -> None:
        """A secret was read, or could not be read."""
        self._has_changed.set()
        self._has_changed = asyncio.Event()

    async def obstacle(self, attempt: AttemptId, request: lowering.SecretRequest | None) -> Reason | None:
        """Why the attempt's secrets prevent a slot for good; None when all have a value."""
        if request is None:
            return None
        try:
            missing = await self._settled(attempt, lambda: self._secrets.missing(request))
        except Rejected as error:
            return reason(ReasonCode.SECRET_UNREADABLE, str(error), error=error.code)
        if not missing:
            return None
        text = f"no source has the secret {', '.join(missing)}; set it in the daemon's secrets"
        return reason(ReasonCode.SECRET_MISSING, text, secrets=list(missing))

    async def fill(self, draft: lowering.Draft, agent: AgentId, instance: str) -> Task:
        """The task of a draft for an instance of its agent, once its secrets are read, and their use is in the audit trail."""
        attempt = draft.task.key.attempt
        task = await self._settled(attempt, lambda: lowering.fill(draft, instance, self._secrets.read))
        await self._secrets.record_use(draft, agent)
        return task

    async def _settled(self, attempt: AttemptId, call: Callable[[], Found]) -> Found:
        """What `call` returns once no secret is being read any longer."""
        try:
            while True:
                has_changed = self._has_changed
                try:
                    return call()
                except Retryable as error:
                    self._delays[attempt] = reason(ReasonCode.SECRET_WAITING, error.text)
                await has_changed.wait()
        finally:
            self._delays.pop(attempt, None)
