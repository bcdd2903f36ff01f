"""Senders of webhooks: they repeat signed requests until they are answered, and sometimes afterwards.

Rules of this file: a request is the same, byte for byte, however often it is sent. Its payload holds a number that
identifies what happened at the sender, so the checker knows from the log alone what each run was started for.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import random

from tests.simulator.calendar import HOOK_WINDOW_S
from tests.simulator.checks.webhooks import DeliveryChecker
from tests.simulator.environment import Environment
from tests.simulator.outside.repository import MAIN
from tests.simulator.people import PATIENCE_S
from tests.simulator.triggered import HOOK_NAME, HOOK_SECRET, Triggered
from waterflow_agent.errors import Rejected, Retryable


class _Request:
    """A request and its sender's knowledge about it."""

    def __init__(self, number: int, *, wall_s: int, has_id: bool, is_timed: bool) -> None:
        self.number = number
        self.wall_s = wall_s if is_timed else None
        #: Whether it has no id and no time, so that it counts as another delivery much later.
        self.is_bare = not (has_id or is_timed)
        self.body = json.dumps({"number": number}).encode()
        self.headers: dict[str, str] = {}
        signed = self.body
        if has_id:
            self.headers["x-waterflow-delivery"] = f"delivery-{number}"
        if is_timed:
            self.headers["x-waterflow-timestamp"] = str(wall_s)
            signed = f"{wall_s}.{self.headers.get('x-waterflow-delivery', '')}.".encode() + self.body
        digest = hmac.new(HOOK_SECRET.encode(), signed, hashlib.sha256).hexdigest()
        self.headers["x-hub-signature-256"] = f"sha256={digest}"
        #: How many answers it waits for, each for one time it was sent.
        self.wanted = 1


class Senders:
    """The people, or programs, that send requests."""

    def __init__(
        self, environment: Environment, dice: random.Random, repository: Triggered, deliveries: DeliveryChecker
    ) -> None:
        self._environment = environment
        self._dice = dice
        self._repository = repository
        self._deliveries = deliveries
        self._requests: list[_Request] = []
        self._due = dice.choice((2, 4, 6))

    def begin(self) -> None:
        """Starts sending."""
        for _ in range(self._due):
            self._environment.loop.outside(self._dice.uniform(0.5, 22.0), self._send)

    def what_is_open(self) -> str:
        """Describes the requests that wait for an answer; empty if none does."""
        waiting = [request.number for request in self._requests if request.wanted > 0]
        return f"G6: no answer to the deliveries {waiting}" if waiting or len(self._requests) < self._due else ""

    def _send(self) -> None:
        has_id, is_timed = self._dice.random() < 0.35, self._dice.random() < 0.3
        wall_s = self._environment.wall_ms() // 1000
        request = _Request(len(self._requests), wall_s=wall_s, has_id=has_id, is_timed=is_timed)
        request.wanted = self._dice.choice((1, 2, 3))
        self._requests.append(request)
        self._ask(request)

    def _ask(self, request: _Request) -> None:
        environment = self._environment
        if request.wanted <= 0:
            return
        if environment.daemon is not None:
            environment.loop.spawn(
                environment.daemon.process, self._deliver(request), f"sender of delivery {request.number}"
            )
        # Sometimes it does not wait for the answer to the previous one.
        patience_s = 0.05 if self._dice.random() < 0.15 else self._dice.uniform(0.3, PATIENCE_S)
        environment.loop.outside(patience_s, self._ask, request)

    async def _deliver(self, request: _Request) -> None:
        environment = self._environment
        assert environment.daemon is not None, "it is its own task"
        service = environment.daemon.webhooks
        assert service is not None, "a daemon of this simulation has a repository with a hook"
        call = service.verify(HOOK_NAME, request.headers, request.body)
        if call is None:
            self._refused(request)
            return
        try:
            row, _ = await service.start(call, json.loads(request.body))
        except Retryable:
            return
        except Rejected as error:
            environment.expect(error.status in (404, 409), f"a delivery was refused: {error}")
            self._give_up_if_in_vain(request)
            return
        environment.note(f"sender: delivery {request.number} is run {row.id[-6:]}")
        request.wanted -= 1
        self._deliveries.answered(request.number, row.id)

    def _refused(self, request: _Request) -> None:
        """The webhook is unknown, or the request is too old."""
        environment = self._environment
        if request.wall_s is not None and abs(environment.wall_ms() // 1000 - request.wall_s) > HOOK_WINDOW_S:
            request.wanted = 0
            return
        is_known = self._deliveries.is_hooked
        environment.expect(
            not is_known, f"the delivery {request.number} is genuine, its hook is there, and it is refused"
        )
        self._give_up_if_in_vain(request)

    def _give_up_if_in_vain(self, request: _Request) -> None:
        tip = self._repository.tip(MAIN)
        if self._environment.healed_at is not None and (tip is None or not self._repository.is_hooked(tip)):
            request.wanted = 0
