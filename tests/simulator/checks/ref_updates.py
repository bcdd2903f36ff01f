"""What is promised about triggers (G6), compared with the log: every ref update is noticed, and starts its files once.

Rules of this file: what a ref update should start is derived from the truth alone (the repository's commits and the
history of its refs), never from what the loop says about files. Where people cannot know either (two refs pushed one
after the other before an empty repository is first read), both answers are right.
"""

from __future__ import annotations

from typing import Any

from tests.simulator.environment import Environment
from tests.simulator.outside.repository import MAIN, SOURCE_FILE, Repository, changed, kind
from waterflowd.engine import events as run_events
from waterflowd.model.ids import RunId, repository_stream
from waterflowd.model.records import Batch
from waterflowd.reconcile import events


class _Followed:
    """A ref as the log knows it."""

    def __init__(self) -> None:
        self.number = 0
        #: The earliest index in the ref's history at which it can have been read.
        self.index = -1
        self.commit: str | None = None
        #: The files of the newest applied commit, even after the ref was removed.
        self.files: dict[str, bytes] = {}


class RefUpdateChecker:
    """The checker of ref updates (G6) for one repository."""

    def __init__(self, environment: Environment, repository: Repository) -> None:
        self._environment = environment
        self._repository = repository
        self.forget()

    def forget(self) -> None:
        """Starts afresh, because the log is empty."""
        self._refs: dict[str, _Followed] = {}
        self._was_empty = False
        #: All watched refs are recorded: one that appears later is new.
        self._is_complete = False
        #: When the first ref was recorded.
        self._first_at: float | None = None
        self._facts = 0
        #: A backup was restored, and the repository has not been resumed yet.
        self.is_held = False
        self.started: dict[tuple[str, int, str], RunId] = {}

    def committed(self, batch: Batch) -> None:
        """A batch is durable: the repository's facts and the runs in it belong together."""
        stream = repository_stream(self._repository.settings.name)
        facts = [fact for append in batch.appends if append.stream == stream for fact in append.events]
        self._facts += len(facts)
        must: set[tuple[str, str]] = set()
        may: set[tuple[str, str]] = set()
        for fact in facts:
            self._environment.events[type(fact).__name__] += 1
            if isinstance(fact, events.RevisionApplied):
                starts, is_certain = self._moved(self._repository, fact)
                may |= starts
                must |= starts if is_certain else set()
            elif isinstance(fact, events.RefRemoved):
                self._removed(self._repository, fact)
            elif isinstance(fact, events.EmptyRepositorySeen):
                self._was_empty = True
            elif isinstance(fact, events.RepositoryResumed):
                self.is_held = False
            elif isinstance(fact, events.RefsWatched):
                self._is_complete = True
        created = self._created(batch)
        self._expect(
            not created or not self.is_held, f"a restored backup starts {sorted(created)} before a person says so"
        )
        self._expect(must <= created, f"a ref update did not start {sorted(must - created)}")
        self._expect(created <= may, f"started without a ref update: {sorted(created - may)}")

    def _created(self, batch: Batch) -> set[tuple[str, str]]:
        created: set[tuple[str, str]] = set()
        for append in batch.appends:
            first = append.events[0] if append.expected == 0 and append.stream.startswith("run/") else None
            if not isinstance(first, run_events.RunCreated) or first.trigger.kind != "push":
                continue
            if first.repository != self._repository.settings.name:
                continue
            ref, run = first.trigger.ref or "", RunId(append.stream[4:])
            path = self._environment.shadows[run].plan.path
            followed = self._refs.get(ref)
            self._expect(followed is not None and followed.commit == first.revision, f"{run} is of another commit")
            number = followed.number if followed is not None else 0
            known = self.started.setdefault((ref, number, path), run)
            self._expect(known == run, f"update {number} of {ref} started {path} as {known} and {run}")
            self._expect((path, ref) not in created, f"one transaction starts {path} twice")
            created.add((path, ref))
        return created

    def _moved(self, repository: Repository, fact: events.RevisionApplied) -> tuple[set[tuple[str, str]], bool]:
        """Returns what the ref update starts, and whether that is certain."""
        is_new = fact.ref not in self._refs
        followed = self._refs.setdefault(fact.ref, _Followed())
        name = f"update {fact.update_number} of {fact.ref}"
        self._expect(fact.update_number == followed.number + 1, f"{name} follows {followed.number}")
        self._expect(fact.commit != followed.commit, f"{name} does not change the ref")
        indexes = [
            position for position, (_, commit) in enumerate(repository.history[fact.ref]) if commit == fact.commit
        ]
        later = [position for position in indexes if position > followed.index]
        self._expect(later, f"{name} goes back to where the ref was before")
        files = repository.commits[fact.commit].files
        before, is_certain = followed.files, True
        if is_new:
            first, is_certain = self._first_sight(repository, fact.ref, self._environment.seconds(fact.at))
            before = files if first is None else first
        starts = {
            (path, fact.ref) for path in files if path != SOURCE_FILE and _is_meant(path, fact.ref, before, files)
        }
        if is_new and first is None:
            starts = set()
        followed.number, followed.commit, followed.files = fact.update_number, fact.commit, files
        followed.index = later[0] if later else followed.index
        return starts, is_certain

    def _first_sight(self, repository: Repository, ref: str, seen_at: float) -> tuple[dict[str, bytes] | None, bool]:
        """Returns the files that a new ref is compared with (None if it starts nothing), and whether that is certain."""
        if self._is_complete:
            # It was created later: what the other ref does not have is new.
            others = [one for name, one in self._refs.items() if name != ref and one.commit is not None]
            return (others[0].files if others else {}), True
        came = repository.history[ref][0][0]
        if self._first_at is None:
            self._first_at = seen_at
            return ({}, True) if self._was_empty else (None, True)
        # It was pushed to an empty repository together with another ref or right after it, so the result is uncertain.
        is_open = self._was_empty and came <= self._first_at
        return ({}, False) if is_open else (None, True)

    def _removed(self, repository: Repository, fact: events.RefRemoved) -> None:
        followed = self._refs.get(fact.ref)
        if followed is None:
            self._expect(False, f"{fact.ref} is removed and was never seen")
            return
        history = repository.history[fact.ref]
        removed = [position for position in range(followed.index + 1, len(history)) if history[position][1] is None]
        self._expect(removed, f"{fact.ref} is recorded as removed, but was not")
        followed.commit = None
        followed.index = removed[0] if removed else followed.index

    def synced(self, requested: dict[str, int]) -> None:
        """A sync was confirmed: the refs at the time of the request, or newer ones, must be applied."""
        repository = self._repository
        for ref, position in requested.items():
            states = [commit for _, commit in repository.history[ref][position:]]
            self._expect(self._applied(ref) in states, f"{ref} is confirmed as applied, but is not")

    def is_current(self) -> bool:
        """Returns whether the log has the current refs."""
        repository = self._repository
        is_seen = all(self._applied(ref) == repository.tip(ref) for ref in repository.watched())
        return is_seen and all(ref in repository.tips() for ref in self._refs if self._applied(ref) is not None)

    def daemon_crashed(self) -> None:
        """Checks that what was recorded of the repository still exists."""
        head = self._environment.memory.head(repository_stream(self._repository.settings.name))
        self._expect(head == self._facts, f"{head} facts of the repository are left of {self._facts}")

    def what_is_open(self) -> str:
        """Describes the difference between the refs and the log."""
        refs = {
            ref: (self._applied(ref), self._repository.tip(ref)) for ref in {**self._repository.history, **self._refs}
        }
        return f"G6: refs are not as they are applied: {refs}"

    def _applied(self, ref: str) -> str | None:
        return self._refs[ref].commit if ref in self._refs else None

    def _expect(self, is_kept: object, text: str) -> None:
        self._environment.expect(is_kept, f"G6: {text}")


def _is_meant(path: str, ref: str, before: dict[str, Any], after: dict[str, Any]) -> bool:
    """Returns whether a change between these files starts the one at `path`, according to its first word."""
    says = kind(after[path])
    if says == "change":
        return bool(before.get(path) != after[path])
    if says == "source":
        return SOURCE_FILE in changed(before, after)
    return says == "push" or (says == "main" and ref == MAIN)
