"""Webhooks: senders that repeat signed requests until they are answered, and sometimes afterwards, and what they are
promised.

Rules of this file: a request is the same, byte for byte, however often it is sent. Its payload holds a number that
identifies what happened at the sender, so the checker knows from the log alone what each run was started for: one run
per delivery. A request without an id and a time is the same delivery in one time window and the next one, as
docs/webhooks.md says.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import random
from collections import defaultdict
from typing import TYPE_CHECKING

from tests.simulator.calendar import HOOK_WINDOW_S
from tests.simulator.outside.repository import MAIN
from tests.simulator.people import PATIENCE_S
from tests.simulator.triggered import HOOK, HOOK_NAME, HOOK_SECRET, Triggered
from waterflow_agent.errors import Rejected, Retryable
from waterflowd.engine import events as run_events
from waterflowd.model.ids import RunId, run_stream
from waterflowd.model.records import Batch

if TYPE_CHECKING:
    from tests.simulator.world import World


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

    def __init__(self, world: World, dice: random.Random, repository: Triggered) -> None:
        self._world = world
        self._dice = dice
        self._repository = repository
        self._requests: list[_Request] = []
        self._due = dice.choice((2, 4, 6))

    def begin(self) -> None:
        """Starts sending."""
        for _ in range(self._due):
            self._world.loop.outside(self._dice.uniform(0.5, 22.0), self._send)

    def what_is_open(self) -> str:
        """Describes the requests that wait for an answer; empty if none does."""
        waiting = [request.number for request in self._requests if request.wanted > 0]
        return f"G6: nobody answers the deliveries {waiting}" if waiting or len(self._requests) < self._due else ""

    def _send(self) -> None:
        has_id, is_timed = self._dice.random() < 0.35, self._dice.random() < 0.3
        wall_s = self._world.wall_ms() // 1000
        request = _Request(len(self._requests), wall_s=wall_s, has_id=has_id, is_timed=is_timed)
        request.wanted = self._dice.choice((1, 2, 3))
        self._requests.append(request)
        self._ask(request)

    def _ask(self, request: _Request) -> None:
        world = self._world
        if request.wanted <= 0:
            return
        if world.daemon is not None:
            world.loop.spawn(world.daemon.process, self._deliver(request), f"sender of delivery {request.number}")
        # Sometimes it does not wait for the answer to the previous one.
        patience_s = 0.05 if self._dice.random() < 0.15 else self._dice.uniform(0.3, PATIENCE_S)
        world.loop.outside(patience_s, self._ask, request)

    async def _deliver(self, request: _Request) -> None:
        world = self._world
        assert world.daemon is not None, "it is its own task"
        service = world.daemon.webhooks
        assert service is not None, "a daemon of this world has a repository with a hook"
        call = service.verify(HOOK_NAME, request.headers, request.body)
        if call is None:
            self._refused(request)
            return
        try:
            row, _ = await service.start(call, json.loads(request.body))
        except Retryable:
            return
        except Rejected as error:
            world.checks.expect(error.status in (404, 409), f"a delivery was refused: {error}")
            self._give_up_if_in_vain(request)
            return
        world.note(f"sender: delivery {request.number} is run {row.id[-6:]}")
        request.wanted -= 1
        assert world.checks.deliveries is not None, "the world has them"
        world.checks.deliveries.answered(request.number, row.id)

    def _refused(self, request: _Request) -> None:
        """The webhook is unknown, or the request is too old."""
        world = self._world
        if request.wall_s is not None and abs(world.wall_ms() // 1000 - request.wall_s) > HOOK_WINDOW_S:
            request.wanted = 0
            return
        assert world.checks.deliveries is not None, "the world has them"
        is_known = world.checks.deliveries.is_hooked
        world.checks.expect(
            not is_known, f"the delivery {request.number} is genuine, its hook is there, and it is refused"
        )
        self._give_up_if_in_vain(request)

    def _give_up_if_in_vain(self, request: _Request) -> None:
        tip = self._repository.tip(MAIN)
        if self._world.healed_at is not None and (tip is None or not self._repository.is_hooked(tip)):
            request.wanted = 0


class Deliveries:
    """The checker of webhooks."""

    def __init__(self, world: World, repository: Triggered) -> None:
        self._world = world
        self._repository = repository
        self.forget()

    def forget(self) -> None:
        """Starts afresh, because the log is empty."""
        #: The runs of each delivery by its number, with the id that the delivery had.
        self._runs: dict[int, list[tuple[str, RunId]]] = defaultdict(list)
        #: Whether a file defines the webhook, according to the log.
        self.is_hooked = False

    def committed(self, batch: Batch, *, is_news: bool = True) -> None:
        """Checks a batch that is durable and applied to the shadow runs."""
        del is_news
        for append in batch.appends:
            for event in append.events:
                if isinstance(event, run_events.RunCreated) and event.trigger.kind == "webhook":
                    self._created(RunId(append.stream.removeprefix(run_stream(RunId("")))), event)
        commit = self._repository.applied(batch)
        if commit is not None:
            # A broken file keeps its webhook, so this commit alone does not tell whether there is one.
            self.is_hooked = self._repository.is_hooked(commit)

    def _created(self, run: RunId, event: run_events.RunCreated) -> None:
        number, delivery = event.trigger.payload["number"], event.trigger.payload["webhook"]["delivery"]
        for earlier, known in self._runs[number]:
            self._expect(not _is_same(earlier, delivery), f"delivery {number} ({delivery}) starts {known} and {run}")
        self._runs[number].append((delivery, run))
        path = self._world.checks.shadows[run].plan.path
        self._expect(path == HOOK, f"{run} of {path} is started for a hook of {HOOK}")
        is_named = self._repository.is_hooked(event.revision or "")
        self._expect(is_named, f"{run} is of {event.revision}, where no good file has the hook")

    def answered(self, number: int, run: RunId) -> None:
        """A sender was told that this run belongs to its delivery."""
        runs = [known for _, known in self._runs[number]]
        self._expect(run in runs, f"delivery {number} is answered with {run}, and has started {runs}")
        key = self._world.checks.shadows[run].trigger.key if run in runs else None
        if key is not None:
            self._world.checks.start_acknowledged(key, run)

    def what_is_open(self) -> str:
        """Returns an empty text, because the senders themselves are asked."""
        return ""

    def _expect(self, is_kept: object, text: str) -> None:
        self._world.checks.expect(is_kept, f"G6: {text}")


def _is_same(one: str, other: str) -> bool:
    """Returns whether two ids of one request mean one delivery: ids with a time window also match the next window."""
    head, _, window = one.rpartition("-")
    other_head, _, other_window = other.rpartition("-")
    if not head.startswith("sha256-") or head != other_head:
        return one == other
    return abs(int(window) - int(other_window)) <= 1
