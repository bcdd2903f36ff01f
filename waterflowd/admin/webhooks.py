"""Webhooks: checks a request's signature and starts the run of its delivery."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected
from waterflowd.admin.ports import WebhookRequest
from waterflowd.model.records import RunSummary
from waterflowd.reconcile import codes, webhooks
from waterflowd.reconcile.loop.ports import LoopPorts
from waterflowd.reconcile.loop.repository import RepositoryLoop
from waterflowd.reconcile.loop.webhook_registry import WebhookOwner


class SignedWebhookService:
    """Implements `admin.ports.WebhookService`."""

    def __init__(
        self, ports: LoopPorts, loops: Mapping[str, RepositoryLoop], secret: Callable[[str], str | None]
    ) -> None:
        self._ports = ports
        self._loops = loops
        self._secret = secret

    def verify(self, name: str, headers: Mapping[str, str], body: bytes) -> WebhookRequest | None:
        """See the protocol."""
        owner = self._ports.webhooks.owner(name)
        webhook = owner.file.webhook if owner is not None else None
        secret = self._secret(webhook.secret) if webhook is not None and owner is not None else None
        if (
            webhook is not None
            and owner is not None
            and self._ports.access.webhook_refusal(owner.repository, webhook.secret)
        ):
            secret = None
        wall_s = self._ports.wall() // 1_000
        if not webhooks.is_genuine(secret, headers, body, wall_s) or owner is None:
            return None
        delivery = webhooks.delivery(headers, body, wall_s)
        if delivery is None:
            text = "the delivery id is invalid: use 1 to 128 letters, digits, `-`, `_` or `:`"
            raise Rejected("WF605", text, where="X-Waterflow-Delivery")
        return WebhookRequest(name=name, path=owner.path, repository=owner.repository, delivery=delivery)

    async def start(self, request: WebhookRequest, payload: Any) -> tuple[RunSummary, bool]:
        """See the protocol."""
        earlier = await self._earlier_run(request)
        if earlier is not None:
            return earlier, False
        owner, plan = await self._plan(request)
        event = webhooks.event_of(payload, request.name, request.delivery)
        start = webhooks.start_request(plan, request.repository, owner.ref, request.name, request.delivery, event)
        return await self._ports.runs.start(start), True

    async def _plan(self, request: WebhookRequest) -> tuple[WebhookOwner, bytes]:
        """The workflow's current file and its plan. Loading the plan takes a while, so the file is checked again."""
        while True:
            owner = self._owner(request)
            plan = await self._loops[owner.repository].plan_recovery.plan(owner.ref, owner.file.newest)
            current = self._owner(request)
            if (current.ref.commit, current.file.newest) == (owner.ref.commit, owner.file.newest):
                return current, plan

    async def _earlier_run(self, request: WebhookRequest) -> RunSummary | None:
        for key in webhooks.trigger_keys(request.repository, request.name, request.delivery):
            run = await self._ports.history.run_for_key(key, request.repository)
            if run is not None:
                return await self._ports.history.run(run)
        return None

    def _owner(self, request: WebhookRequest) -> WebhookOwner:
        """The file that owns the webhook. Raises `Rejected` if it cannot start a run now."""
        owner = self._ports.webhooks.owner(request.name)
        if owner is None or (owner.path, owner.repository) != (request.path, request.repository):
            # The webhook was removed after the signature was checked; a repeated delivery gets the current answer.
            raise Rejected(codes.NOT_FOUND, "this webhook no longer exists", status=404)
        repository = self._loops[owner.repository].repository
        suspension = repository.suspension()
        if suspension is not None:
            raise suspension
        errors = repository.errors(owner.file.newest)
        if errors:
            text = (
                f'workflow "{escape_for_display(owner.path)}" has errors at {owner.ref.commit[:7]}: {errors[0].message}'
            )
            raise Rejected(codes.BROKEN_WORKFLOW, text, status=409)
        return owner
