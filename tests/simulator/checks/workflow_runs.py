"""What is promised about `workflow_run` (G6), compared with the log: one start for each completed run, and finite
chains.

Rules of this file: which files react to a completed run is derived from the truth alone: the files of the commit that
is applied at that point of the log. A file that still reacts to it must be started; one that did and has changed since
may be started, and no other file.
"""

from __future__ import annotations

from tests.simulator.calendar import BEGAN_AT
from tests.simulator.environment import Environment
from tests.simulator.triggered import Triggered
from waterflowd.engine import events as run_events
from waterflowd.model import chains
from waterflowd.model.ids import RunId, repository_stream, run_stream
from waterflowd.model.plan import WorkflowRunTrigger
from waterflowd.model.records import Batch
from waterflowd.reconcile import events

#: Maximum length of a chain of runs that start one another, from docs/workflows.md.
CHAIN_MAX = 5


class WorkflowRunChecker:
    """The checker of `workflow_run`."""

    def __init__(self, environment: Environment, repository: Triggered) -> None:
        self._environment = environment
        self._repository = repository
        self._stream = repository_stream(repository.settings.name)
        self.forget()

    def forget(self) -> None:
        """Starts afresh, because the log is empty."""
        #: What the newest versions react to, by path, and the last versions without errors.
        self._asking: dict[str, WorkflowRunTrigger] = {}
        self._good: dict[str, WorkflowRunTrigger] = {}
        self._depths: dict[RunId, int] = {}
        #: Completed runs and the files that reacted to them; those that must still start, and those that have started.
        self._asked: set[tuple[RunId, str]] = set()
        self._pending: set[tuple[RunId, str]] = set()
        self._started: dict[tuple[RunId, str], RunId] = {}
        self._suspended_at: int | None = None

    def committed(self, batch: Batch, *, is_news: bool = True) -> None:
        """Checks a batch that is durable and applied to the shadow runs."""
        created: list[RunId] = []
        marks: list[events.CompletedRunsHandled] = []
        for append in batch.appends:
            for event in append.events:
                if isinstance(event, events.CompletedRunsHandled):
                    marks.append(event)
                elif append.stream == self._stream:
                    self._fact(event)
                elif isinstance(event, run_events.RunCreated) and event.repository == self._repository.settings.name:
                    run = RunId(append.stream.removeprefix(run_stream(RunId(""))))
                    self._created(run, event)
                    created += [run] if event.trigger.kind == chains.AFTER else []
                elif isinstance(event, run_events.RunCompleted):
                    self._completed(RunId(append.stream.removeprefix(run_stream(RunId("")))))
        if created:
            self._expect(
                marks, f"{created} are started, and their transaction does not say how far the log was followed"
            )
            suspended_at = self._suspended_at if is_news else None
            # A start that was already in progress when the repository was suspended appears in the log after the
            # suspension.
            is_held = suspended_at is not None and any(suspended_at < mark.at - BEGAN_AT for mark in marks)
            self._expect(not is_held, f"{created} are started while their repository is suspended")

    def _fact(self, fact: events.Fact) -> None:
        if isinstance(fact, events.RepositorySuspended):
            self._suspended_at = self._environment.now_ms
        elif isinstance(fact, events.RepositoryResumed):
            self._suspended_at = None
        elif isinstance(fact, events.RevisionApplied):
            repository = self._repository
            files = {
                path: text for path, text in repository.commits[fact.commit].files.items() if path in repository.paths
            }
            found = {path: repository.triggers(path, text) for path, text in files.items()}
            self._asking = {
                path: triggers.workflow_run
                for path, triggers in found.items()
                if triggers is not None and triggers.workflow_run is not None
            }
            broken = {path for path, triggers in found.items() if triggers is None}
            self._good = {path: asks for path, asks in self._good.items() if path in broken} | self._asking
            self._pending = {(run, path) for run, path in self._pending if self._is_asked(self._asking.get(path), run)}

    def _created(self, run: RunId, event: run_events.RunCreated) -> None:
        if event.trigger.kind != chains.AFTER:
            self._depths[run] = 0
            return
        about, path = event.trigger.payload[chains.AFTER], self._environment.shadows[run].plan.path
        earlier = RunId(about["id"])
        name = f"{run} of {path} after {earlier}"
        known = self._started.setdefault((earlier, path), run)
        self._expect(known == run, f"{earlier} has started {path} as {known} and {run}")
        self._expect((earlier, path) in self._asked, f"{name}: the file did not match when that run completed")
        self._pending.discard((earlier, path))
        depth = self._depths[run] = self._depths[earlier] + 1
        self._expect(about["depth"] == depth <= CHAIN_MAX, f"{name} is number {depth} of a chain, as {about['depth']}")
        files = self._repository.commits[event.revision or ""].files
        triggers = self._repository.triggers(path, files[path]) if path in files else None
        is_asked = triggers is not None and self._is_asked(triggers.workflow_run, earlier)
        self._expect(is_asked, f"{name}: the file has no matching trigger")

    def _completed(self, run: RunId) -> None:
        if self._environment.shadows[run].repository != self._repository.settings.name:
            return
        is_last = self._depths[run] >= CHAIN_MAX
        for path, asks in self._good.items():
            if self._is_asked(asks, run) and path != self._environment.shadows[run].plan.path and not is_last:
                self._asked.add((run, path))
                if path in self._asking:
                    self._pending.add((run, path))

    def _is_asked(self, asks: WorkflowRunTrigger | None, run: RunId) -> bool:
        shadow = self._environment.shadows[run]
        if asks is None or shadow.plan.path not in asks.workflows or shadow.conclusion is None:
            return False
        return not asks.conclusions or shadow.conclusion.value in asks.conclusions

    def what_is_open(self) -> str:
        """Describes what must start and has not; empty if there is nothing."""
        return f"G6: not triggered: {sorted(self._pending)}" if self._pending else ""

    def _expect(self, is_kept: object, text: str) -> None:
        self._environment.expect(is_kept, f"G6: {text}")
