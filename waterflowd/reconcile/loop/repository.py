"""The loop of one repository: read the refs, apply what changed, set the conditions, wait for the next reason to read.

Rules of this file:

- Level-triggered: a reconciliation compares the current refs with what the log says was applied. Its cause (a hint of the
  watcher, the interval, a `sync`, a retry) makes no difference, and a lost hint only costs time.
- The update of a ref is one transaction: the facts of its files and the runs that it starts. What is not in the log has not
  happened; after a failed transaction the state is folded from the log again.
- A ref that cannot be read does not delay the others, nor does a file with errors delay the other files, and no failure here
  affects another repository.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence

from waterflow_agent.backoff import Backoff
from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected, Retryable, Stalled, WaterflowError
from waterflowd.model.records import StartRequest
from waterflowd.reconcile import codes, diff, events, ref_updates, refs, triggers
from waterflowd.reconcile.conditions import ConditionType
from waterflowd.reconcile.events import FileApplied
from waterflowd.reconcile.loop.live_repository import LiveRepository
from waterflowd.reconcile.loop.plan_recovery import PlanRecovery
from waterflowd.reconcile.loop.ports import LoopPorts
from waterflowd.reconcile.loop.workflow_files import WorkflowFiles
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.reconcile.source import Refs, Revision, Source

#: Without a watcher the refs are read this often, unless the interval is shorter.
_UNWATCHED_INTERVAL_S = 2.0
_BACKOFF = Backoff(first_s=0.5, max_s=60.0)
_STALLED_INTERVAL_MAX_S = 600.0
#: How long a `sync` waits for another daemon that leads the repository, and how often it looks.
_LEADER_S, _LEADER_POLL_S = 30.0, 0.2

_logger = logging.getLogger("waterflow.reconcile")


class RepositoryLoop:
    """Keeps one repository applied. `run` is its task; everything else is called from the same event loop.

    With several daemons, one leads, and the others follow.
    """

    def __init__(self, settings: RepositorySettings, source: Source, ports: LoopPorts) -> None:
        self.settings = settings
        self.repository = LiveRepository(settings, ports)
        self._source = source
        self._ports = ports
        self._files = WorkflowFiles(settings.name, source, ports.compiler, ports.plans)
        self._wake = asyncio.Event()
        self.plan_recovery = PlanRecovery(self.repository, self._files, ports.plans, ports.clock, self._wake.set)
        self._sync_waiters: list[asyncio.Future[None]] = []
        self._failures = 0
        #: Fields of every line of the daemon's own log.
        self._log_fields = {"repository": settings.name}

    async def run(self) -> None:
        """Leads until it is cancelled, and closes."""
        try:
            await self.lead()
        finally:
            await self.close()

    async def lead(self) -> None:
        """Applies what changes until it is cancelled. Only one daemon leads a repository."""
        await self._repeat(self._reconcile)

    async def follow(self) -> None:
        """Reads the repository until it is cancelled, and leaves it to the leader to apply what changes."""
        await self._repeat(self._observe)

    async def close(self) -> None:
        """Closes the source; pending `sync` calls fail."""
        waiters, self._sync_waiters = self._sync_waiters, []
        _settle(waiters, _closing(self.settings.name))
        await self._source.close()

    async def _repeat(self, reconcile: Callable[[], Awaitable[None]]) -> None:
        while True:
            self._wake.clear()
            # A plan that a run needs does not wait for a remote that hangs.
            await self.plan_recovery.compile_requested()
            waiters, self._sync_waiters = self._sync_waiters, []
            failure = await self._guarded(reconcile, waiters)
            _settle(waiters, failure or self.repository.suspension())
            self.repository.notify()
            await self.plan_recovery.compile_requested()
            await self._pause(failure)

    def request_reconciliation(self) -> None:
        """Asks for a reconciliation as soon as possible."""
        self._wake.set()

    async def sync(self) -> None:
        """Returns when the current refs, or newer ones, are applied; raises what prevented it."""
        suspension = self.repository.suspension()
        if suspension is not None:
            raise suspension
        until = time.monotonic() + _LEADER_S
        while True:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._sync_waiters.append(waiter)
            self._wake.set()
            try:
                return await waiter
            except Retryable as error:
                if error.code != codes.NOT_APPLIED_YET or time.monotonic() > until:
                    raise
            await asyncio.sleep(_LEADER_POLL_S)

    async def suspend(self, by: str) -> None:
        """Ignores pushes until `resume`; survives restarts. Idempotent."""
        if not self.repository.state.is_suspended:
            await self.repository.record(events.RepositorySuspended(at=self._ports.clock.now(), by=by))
            self._show_suspended()

    async def resume(self, by: str) -> None:
        """Reconciles again, at once. Idempotent."""
        if self.repository.state.is_suspended:
            await self.repository.record(events.RepositoryResumed(at=self._ports.clock.now(), by=by))
            text = "resumed: what was pushed meanwhile is being read"
            self.repository.set_condition(ConditionType.APPLIED, None, "resumed", text)
            self._wake.set()

    # Reconciliation

    async def _guarded(
        self, reconcile: Callable[[], Awaitable[None]], waiters: Sequence[asyncio.Future[None]]
    ) -> WaterflowError | None:
        """A reconciliation whose failure is shown in the conditions and returned."""
        try:
            await self.repository.fold()
            await reconcile()
        except asyncio.CancelledError:
            # They wait for the next leader, or for the end of the daemon.
            self._sync_waiters += waiters
            raise
        except WaterflowError as error:
            failure = error
        except Exception as error:
            # The supervision point of repositories: an internal error in one of them must not end the others' loops.
            _logger.exception("repository %s: reconciliation failed", self.settings.name, extra=self._log_fields)
            text = f"internal error: {type(error).__name__}: {escape_for_display(str(error))}"
            failure = Stalled(codes.INTERNAL, text)
        else:
            self._failures = 0
            return None
        self._failures += 1
        self._show_failure(failure)
        return failure

    async def _reconcile(self) -> None:
        repository = self.repository
        if repository.state.is_suspended:
            self._show_suspended()
            return
        found = await self._source.refs()
        if repository.state.is_suspended:
            # It was suspended while a slow remote was being read.
            self._show_suspended()
            return
        await self._record_empty(found)
        watched = refs.watched(found, self.settings.refs)
        repository.refs_were_read({ref: found.object_ids[ref] for ref in watched})
        await self._record_removed(found)
        is_first_push = repository.state.was_empty and not repository.state.has_refs
        failures: list[WaterflowError] = []
        for ref in watched:
            try:
                await self._update_ref(ref, found.object_ids[ref], is_first_push)
            except WaterflowError as error:
                # The state may be behind the log now, and the next ref must be compared with the current one.
                await repository.fold()
                failures.append(error)
        if not failures and self.settings.refs and repository.state.patterns != self.settings.refs:
            await repository.record(events.RefsWatched(at=self._ports.clock.now(), patterns=self.settings.refs))
        self._show(found, watched)
        if failures:
            raise failures[0]

    async def _observe(self) -> None:
        """Reads the refs, so that this daemon has the files of what the leader applies.

        Raises `Retryable` WF532 while the leader has not applied them.
        """
        repository = self.repository
        if repository.state.is_suspended:
            self._show_suspended()
            return
        found = await self._source.refs()
        await self._record_empty(found)
        watched = refs.watched(found, self.settings.refs)
        repository.refs_were_read({ref: found.object_ids[ref] for ref in watched})
        self._show(found, watched)
        self.plan_recovery.count_again()
        for ref in watched:
            applied = repository.state.refs.get(ref)
            if applied is None or applied.is_removed or applied.object_id != found.object_ids[ref]:
                if repository.progress.attempted.get(ref) == found.object_ids[ref]:
                    # The leader has not noticed by itself.
                    await self._ports.ask_leader(self.settings.name)
                repository.update_is_attempted(ref, found.object_ids[ref])
                text = f"{ref} has changed; the daemon that leads the repository has not applied it yet"
                raise Retryable(codes.NOT_APPLIED_YET, text)

    async def _record_empty(self, found: Refs) -> None:
        """Records that the repository was empty when it was first read, before anything shows that it was read."""
        state = self.repository.state
        if not found.object_ids and not state.was_empty and not state.has_refs:
            await self.repository.record(events.EmptyRepositorySeen(at=self._ports.clock.now()))

    async def _record_removed(self, found: Refs) -> None:
        known = self.repository.state.refs.values()
        removed = [ref for ref in known if not ref.is_removed and ref.ref not in found.object_ids]
        if removed:
            now = self._ports.clock.now()
            facts = (events.RefRemoved(at=now, ref=ref.ref, commit=ref.commit) for ref in removed)
            await self.repository.record(*facts)

    async def _update_ref(self, ref: str, object_id: str, is_first_push: bool) -> None:
        """Applies the update of one ref, if it changed."""
        state = self.repository.state
        recorded = state.refs.get(ref)
        before = recorded if recorded is not None and not recorded.is_forgotten else None
        if before is not None and not before.is_removed and object_id == before.object_id:
            return
        self.repository.update_is_attempted(ref, object_id)
        is_created = before is None and bool(self.settings.refs) and state.patterns == self.settings.refs
        # A new ref changes what differs from the default ref.
        base = before or (self.repository.default_ref() if is_created else None)
        revision = await self._source.revision(object_id, base.tree if base else None, self.settings.paths)
        tree = revision.commit.tree
        is_unchanged = await self._files.unchanged_in(tree, revision.files, state)
        difference = diff.difference(before.files if before else {}, revision.files, is_unchanged)
        applied = await self._files.apply(tree, difference.files, state, is_unchanged)
        update = triggers.RefUpdate(
            ref=ref,
            number=recorded.update_number + 1 if recorded else 1,
            is_first_seen=before is None and not (is_first_push or is_created),
            changes=revision.changes,
            files=triggers.new_files(ref, applied, before, base),
        )
        await self._commit(update, revision, object_id, ref_updates.file_changes(difference, applied))

    async def _commit(
        self, update: triggers.RefUpdate, revision: Revision, object_id: str, changes: ref_updates.FileChanges
    ) -> None:
        """Records the update and starts its runs, in one transaction."""
        name = self.settings.name
        repository = self.repository
        before = repository.state.refs.get(update.ref)
        files = before.files if before else {}
        # Many files with many patterns over many paths take seconds, during which the event loop must stay free.
        started = await asyncio.to_thread(ref_updates.started, update, files, changes)
        started = [file for file in started if not repository.access_errors(file)]
        if repository.is_default(update.ref):
            started = [file for file in started if not self._ports.webhooks.errors_after(name, file, changes)]
        previous = before.commit if before and not before.is_forgotten else None
        push = ref_updates.push_of(name, update, previous, revision.commit, object_id)
        starts: list[StartRequest] = []
        refused: list[FileApplied] = []
        for file in started:
            plan = await self.plan_recovery.plan_to_start(file)
            if isinstance(plan, FileApplied):
                refused.append(plan)
            else:
                starts.append(ref_updates.start_request(plan, file.path, update, revision, push))
        changes = ref_updates.with_files(changes, refused)
        facts = ref_updates.facts(self._ports.clock.now(), update, revision, push, changes)
        if repository.handled_runs_seq is not None and repository.is_default(update.ref):
            # Runs that completed before this update were handled with the files as they were.
            facts.append(events.CompletedRunsHandled(at=self._ports.clock.now(), seq=repository.handled_runs_seq))
        await repository.apply(facts, starts)
        _logger.info(
            "%s %s updated to %s, runs started: %d",
            name,
            escape_for_display(update.ref),
            revision.commit.id[:12],
            len(starts),
            extra=self._log_fields,
        )

    # Waiting

    async def _pause(self, failure: WaterflowError | None) -> None:
        """Waits for a reason to reconcile again."""
        interval_s = self.settings.interval_ms / 1_000
        watching = self._source.watch_status()
        if watching.is_remote:
            # The repositories of one server are fetched one after the other, not all at the same moment.
            interval_s *= 0.9 + 0.2 * self._ports.random()
        if failure is None and await self.plan_recovery.compile_missing():
            interval_s = 0.0
        elif isinstance(failure, Stalled):
            if watching.is_remote:
                # A server may lock out clients that keep trying a wrong token.
                slower_s = Backoff(interval_s, _STALLED_INTERVAL_MAX_S).delay_s(self._failures)
                interval_s = max(interval_s, slower_s)
        elif failure is not None:
            asked_s = failure.after_s if isinstance(failure, Retryable | Rejected) else 0.0
            interval_s = max(_BACKOFF.delay_s(self._failures), asked_s) * (0.75 + 0.5 * self._ports.random())
        elif not watching.is_watching and not watching.is_remote:
            interval_s = min(interval_s, _UNWATCHED_INTERVAL_S)
        hint = asyncio.ensure_future(self._source.wait_for_change(interval_s))
        wake = asyncio.ensure_future(self._wake.wait())
        try:
            await asyncio.wait((hint, wake), return_when=asyncio.FIRST_COMPLETED)
        finally:
            hint.cancel()
            wake.cancel()
            await asyncio.gather(hint, wake, return_exceptions=True)

    # Conditions

    def _show(self, found: Refs, watched: Sequence[str]) -> None:
        repository = self.repository
        self._show_watching()
        if not watched:
            text = refs.nothing_watched(found, self.settings.refs)
            repository.set_condition(ConditionType.APPLIED, not found.object_ids, "no-ref", text)
        elif (first := repository.state.refs.get(watched[0])) is not None:
            text = f"{watched[0]} is applied at {first.commit[:12]}"
            repository.set_condition(ConditionType.APPLIED, True, "applied", text)
        else:
            repository.set_condition(ConditionType.APPLIED, False, "not-applied", f"{watched[0]} is not applied")
        broken = {
            path for ref in repository.watched() for path, file in ref.files.items() if repository.errors(file.newest)
        }
        if broken:
            some = ", ".join(sorted(broken)[:3]) + (", ..." if len(broken) > 3 else "")
            text = f"workflow files with errors: {len(broken)} ({some})"
            repository.set_condition(ConditionType.FILES_VALID, False, "files-broken", text)
        else:
            repository.set_condition(ConditionType.FILES_VALID, True, "files-valid", "no workflow file has errors")

    def _show_watching(self) -> None:
        watching = self._source.watch_status()
        self.repository.set_condition(ConditionType.WATCHING, watching.is_watching, watching.code, watching.text)

    def _show_failure(self, failure: WaterflowError) -> None:
        type_ = ConditionType.FETCHED if failure.code in codes.NOT_FETCHED else ConditionType.APPLIED
        self.repository.set_condition(type_, False, failure.code, failure.text)
        self._show_watching()
        if failure.code != codes.NOT_APPLIED_YET:
            _logger.warning("repository %s: %s", self.settings.name, failure, extra=self._log_fields)

    def _show_suspended(self) -> None:
        text = "suspended: pushes are ignored until `resume`"
        self.repository.set_condition(ConditionType.APPLIED, False, codes.SUSPENDED, text)
        self.repository.set_condition(ConditionType.FETCHED, True, "suspended", text)


def _closing(name: str) -> Retryable:
    text = f'repository "{name}" is no longer read: it was changed or removed, or the daemon is stopping; try again'
    return Retryable(codes.NOT_THERE, text)


def _settle(waiters: Iterable[asyncio.Future[None]], failure: WaterflowError | None) -> None:
    for waiter in waiters:
        if waiter.done():
            continue
        if failure is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(failure)
            # Retrieved here, because the caller may be gone: asyncio would report an error that nobody has seen.
            waiter.exception()
