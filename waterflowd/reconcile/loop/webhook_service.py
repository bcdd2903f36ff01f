"""What the API asks about webhooks: is a request genuine, and the run that it starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected
from waterflowd.api.services import HookCall
from waterflowd.model.records import RunSummary
from waterflowd.reconcile import codes, webhooks
from waterflowd.reconcile.loop.repository import LoopPorts
from waterflowd.reconcile.loop.webhook_names import Holder


class HookDesk:
    """Implements `api.services.HooksDesk`."""

    def __init__(self, ports: LoopPorts, secret: Callable[[str], str | None]) -> None:
        self._ports = ports
        self._secret = secret

    def call(self, name: str, headers: Mapping[str, str], body: bytes) -> HookCall | None:
        """See the protocol."""
        held = self._ports.hooks.holder(name)
        hook = held.file.hook if held is not None else None
        secret = self._secret(hook.secret) if hook is not None else None
        wall_s = self._ports.wall() // 1_000
        if not webhooks.is_genuine(secret, headers, body, wall_s) or held is None:
            return None
        delivery = webhooks.delivery(headers, body, wall_s)
        if delivery is None:
            text = "the delivery's id is 1 to 128 letters, digits, `-`, `_` and `:`"
            raise Rejected("WF605", text, where="X-Waterflow-Delivery")
        return HookCall(name=name, path=held.path, repository=held.loop.settings.name, delivery=delivery)

    async def start(self, call: HookCall, payload: Any) -> tuple[RunSummary, bool]:
        """See the protocol."""
        known = self._known(call)
        if known is not None:
            return known, False
        held, plan = await self._planned(call)
        event = webhooks.event_of(payload, call.name, call.delivery)
        request = webhooks.start_request(plan, call.repository, held.ref, call.name, call.delivery, event)
        return await self._ports.runs.start(request), True

    async def _planned(self, call: HookCall) -> tuple[Holder, bytes]:
        """The file as it is now, and its plan, which takes a while: somebody may push or suspend meanwhile."""
        while True:
            held = self._usable(call)
            seen = held.ref.commit, held.file.newest
            plan = await held.loop.plan(held.ref, held.file.newest)
            held = self._usable(call)
            if (held.ref.commit, held.file.newest) == seen:
                return held, plan

    def _known(self, call: HookCall) -> RunSummary | None:
        for key in webhooks.trigger_keys(call.repository, call.name, call.delivery):
            run = self._ports.log.run_for_key(key)
            if run is not None:
                return self._ports.log.run(run)
        return None

    def _usable(self, call: HookCall) -> Holder:
        """The file whose webhook it is. Raises `Rejected` while it starts nothing."""
        held = self._ports.hooks.holder(call.name)
        if held is None or (held.path, held.loop.settings.name) != (call.path, call.repository):
            # It went away between the signature and the start; whoever sends again learns what is there now.
            raise Rejected(codes.NOT_FOUND, "there is no such webhook any more", status=404)
        if held.loop.state.is_suspended:
            text = f'the repository "{call.repository}" is suspended: resume it first'
            raise Rejected(codes.SUSPENDED, text, status=409)
        errors = held.loop.errors(held.file.newest)
        if errors:
            text = f'the workflow "{escape_for_display(held.path)}" has errors at {held.ref.commit[:7]}: {errors[0].message}'
            raise Rejected(codes.BROKEN_WORKFLOW, text, status=409)
        return held
