"""Metrics of what this daemon has decided, and the driver has made durable, since the daemon started."""

from __future__ import annotations

from collections import Counter

from waterflowd.engine import events
from waterflowd.model.records import Batch


class RunMetrics:
    """Running totals of runs; read them at any time."""

    def __init__(self) -> None:
        #: Runs started, by kind of trigger.
        self.started: Counter[str] = Counter()
        #: Runs completed, by conclusion.
        self.completed: Counter[str] = Counter()

    def add_event(self, event: events.RunEvent) -> None:
        """Counts one event of a run."""
        match event:
            case events.RunCreated():
                self.started[event.trigger.kind] += 1
            case events.RunCompleted():
                self.completed[event.conclusion.value] += 1


class CommitMetrics(RunMetrics):
    """Running totals; read them at any time."""

    def __init__(self) -> None:
        super().__init__()
        self.commits = 0
        #: Total seconds that batches waited for the disk.
        self.commit_s = 0.0
        self.events = 0

    def add(self, batch: Batch, took_s: float) -> None:
        """Counts one durable batch."""
        self.commits += 1
        self.commit_s += took_s
        for append in batch.appends:
            self.events += len(append.events)
            if append.expected == 0 and isinstance(append.events[0], events.RunCreated):
                self.started[append.events[0].trigger.kind] += 1
        for row in batch.summaries:
            if row.conclusion is not None:
                self.completed[row.conclusion.value] += 1
