"""What is promised about webhooks (G6), compared with the log: each delivery starts one run.

Rules of this file: the payload of a request holds a number that identifies what happened at the sender. A request
without an id and a time is the same delivery in one time window and the next one, as docs/webhooks.md says.
"""

from __future__ import annotations

from collections import defaultdict

from tests.simulator.environment import Environment
from tests.simulator.triggered import HOOK, Triggered
from waterflowd.engine import events as run_events
from waterflowd.model.ids import RunId, run_stream
from waterflowd.model.records import Batch


class DeliveryChecker:
    """The checker of webhooks."""

    def __init__(self, environment: Environment, repository: Triggered) -> None:
        self._environment = environment
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
        path = self._environment.shadows[run].plan.path
        self._expect(path == HOOK, f"{run} of {path} is started for a hook of {HOOK}")
        is_named = self._repository.is_hooked(event.revision or "")
        self._expect(is_named, f"{run} is of {event.revision}, where no good file has the hook")

    def answered(self, number: int, run: RunId) -> None:
        """A delivery was confirmed to its sender with this run."""
        runs = [known for _, known in self._runs[number]]
        self._expect(run in runs, f"delivery {number} is answered with {run}, and has started {runs}")
        key = self._environment.shadows[run].trigger.key if run in runs else None
        if key is not None:
            self._environment.observer.start_acknowledged(key, run)

    def what_is_open(self) -> str:
        """Returns an empty text, because the senders themselves are asked."""
        return ""

    def _expect(self, is_kept: object, text: str) -> None:
        self._environment.expect(is_kept, f"G6: {text}")


def _is_same(one: str, other: str) -> bool:
    """Returns whether two ids of one request mean one delivery: ids with a time window also match the next window."""
    head, _, window = one.rpartition("-")
    other_head, _, other_window = other.rpartition("-")
    if not head.startswith("sha256-") or head != other_head:
        return one == other
    return abs(int(window) - int(other_window)) <= 1
