"""The loop of one repository: look, apply what update, say how it stands, wait for the next reason to look.

Rules of this file:

- Level-triggered: a look compares the refs as they are with what the log says was applied. Why it happens (a hint of the
  watcher, the interval, somebody's `sync`, a retry) makes no difference, and a lost hint costs time only.
- A movement is one transaction: the facts of the files and the runs that it starts. What the log does not hold has not
  happened; after a failed transaction the state is folded from the log again.
- A ref that cannot be read does not hold up the others, a file with errors does not hold up the other files, and whatever
  goes wrong here stays in this repository.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

from waterflow_agent.backoff import Backoff
from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected, Retryable, Stalled, WaterflowError
from waterflowd.dsl.reporting import codes as dsl_codes
from waterflowd.dsl.reporting.diagnostics import Diagnostic
from waterflowd.model.ids import repository_stream
from waterflowd.model.records import StartRequest
from waterflowd.ports import Clock, Compiler, Feed, Log, Runs
from waterflowd.reconcile import codes, diff, events, ref_updates, refs, state, triggers
from waterflowd.reconcile.conditions import Conditions, ConditionType
from waterflowd.reconcile.events import FileApplied
from waterflowd.reconcile.loop.plan_cache import PlanCache
from waterflowd.reconcile.loop.webhook_registry import WebhookRegistry
from waterflowd.reconcile.loop.workflow_files import WorkflowFiles
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.reconcile.source import Refs, Revision, Source

#: Files that are compiled again between two looks after a restart.
_RESTOCK_AT_ONCE = 16
#: Without a watcher the refs are read this often, if the interval is not shorter still.
_UNWATCHED_INTERVAL_S = 2.0
#: How long whoever needs a plan at once waits for it.
_PLAN_WAIT_S = 10.0
_BACKOFF = Backoff(first_s=0.5, max_s=60.0)
_STALLED_INTERVAL_MAX_S = 600.0

_logger = logging.getLogger("waterflow.reconcile")


@dataclass(frozen=True, kw_only=True)
class LoopPorts:
    """What the loops of all repositories share."""

    log: Log
    runs: Runs
    compiler: Compiler
    clock: Clock
    plans: PlanCache
    #: A number from 0 to 1, for jitter.
    random: Callable[[], float]
    #: The names of webhooks, which the repositories share.
    webhooks: WebhookRegistry = field(default_factory=WebhookRegistry)
    #: Tells when there are new records, for workflows that start after others; without it they are looked for now and then.
    feed: Feed | None = None
    #: The wall clock in ms, for schedules and signatures alone: it may jump.
    wall: Callable[[], int] = lambda: time.time_ns() // 1_000_000


class Progress(msgspec.Struct, kw_only=True):
    """How far the looks came, for people; not logged."""

    fetched_at: int | None = None
    #: Where the watched refs stood at the last look, the default one first.
    fetched: dict[str, str] = {}
    #: The objects whose movement was tried last, by ref.
    attempted: dict[str, str] = {}


class RepositoryLoop:
    """Keeps one repository applied. `run` is its task; everything else is called from the same event loop."""

    def __init__(self, settings: RepositorySettings, source: Source, ports: LoopPorts) -> None:
        self.settings = settings
        self.stream = repository_stream(settings.name)
        #: Fields of every line of the daemon's own log.
        self._about = {"repository": settings.name}
        self.state = state.RepositoryState(name=settings.name, refs={})
        self.conditions = Conditions(ports.clock.now())
        self.progress = Progress(fetched={}, attempted={})
        self._source = source
        self._ports = ports
        self._files = WorkflowFiles(source, ports.compiler, ports.plans)
        self._wake = asyncio.Event()
        self._waiters: list[asyncio.Future[None]] = []
        self._failures = 0
        #: The state holds the facts of the log up to this position.
        self._position = 0
        #: Set when the state has changed, for the schedules, who clear it before they look.
        self.changed = asyncio.Event()
        #: The same for who follows the repository's runs.
        self.is_news = asyncio.Event()
        #: How far the completed runs of the log are handled; None while nothing follows them.
        self.handled_runs_seq: int | None = None
        ports.webhooks.watch(self)
        #: Plans that somebody needs now, whatever a look says.
        self._wanted: dict[str, tuple[str, FileApplied]] = {}
        self._plan_waiters: list[asyncio.Future[None]] = []
        #: Refs and files whose plans a restart has lost; None until they were counted.
        self._missing: deque[tuple[str, FileApplied]] | None = None

    async def run(self) -> None:
        """Runs until it is cancelled; then the source is closed and whoever waits for a `sync` is told."""
        try:
            while True:
                self._wake.clear()
                # Whoever needs a plan does not wait for a remote that hangs.
                await self._compile_wanted()
                waiters, self._waiters = self._waiters, []
                failure = await self._guarded_look(waiters)
                _settle(waiters, failure or self._suspension())
                self._tell()
                await self._compile_wanted()
                await self._pause(failure)
        finally:
            _settle(self._waiters, Retryable(codes.NOT_THERE, "the daemon is stopping"))
            await self._source.close()

    def request_plan(self, ref: str, file: FileApplied) -> None:
        """Asks for the plan of a good file that is neither in memory nor in the log."""
        if self._missing is not None and (ref, file) not in self._missing:
            self._missing.append((ref, file))
            self._wake.set()

    def want_plan(self, ref: str, file: FileApplied) -> None:
        """Asks for the plan of a good file at once, even if the repository cannot be looked at; `changed` tells of it."""
        if file.path not in self._wanted:
            self._wanted[file.path] = (ref, file)
            self._wake.set()

    def request_look(self) -> None:
        """Asks for a look as soon as possible."""
        self._wake.set()

    async def sync(self) -> None:
        """Returns when the refs as they are now, or newer, are applied; raises what kept it from that."""
        suspension = self._suspension()
        if suspension is not None:
            raise suspension
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._wake.set()
        await waiter

    def _suspension(self) -> Rejected | None:
        """Why nobody can have the refs applied now; also for who waited when somebody suspended the repository."""
        if not self.state.is_suspended:
            return None
        text = f'the repository "{self.settings.name}" is suspended: resume it first'
        return Rejected(codes.SUSPENDED, text, status=409)

    async def suspend(self, by: str) -> None:
        """Stops looking until `resume`; survives restarts. Idempotent."""
        if not self.state.is_suspended:
            await self._record(events.RepositorySuspended(at=self._ports.clock.now(), by=by))
            self._show_suspended()

    async def resume(self, by: str) -> None:
        """Looks again, at once. Idempotent."""
        if self.state.is_suspended:
            await self._record(events.RepositoryResumed(at=self._ports.clock.now(), by=by))
            self._wake.set()

    def watched(self) -> list[state.RefState]:
        """The applied state of the watched refs, the default one first."""
        known = (self.state.refs.get(ref) for ref in self.progress.fetched or self.state.refs)
        return [ref for ref in known if ref is not None and not ref.is_removed]

    def default_ref(self) -> state.RefState | None:
        """The ref whose schedules count, and whose workflows are started by hand; None when there is none."""
        return next(iter(self.watched()), None)

    def _is_default(self, ref: str) -> bool:
        """Whether the ref is the default one, or will be once it is applied."""
        first = next(iter(self.progress.fetched), None)
        return ref == first if first is not None else ref == (held.ref if (held := self.default_ref()) else None)

    async def plan(self, ref: state.RefState, file: FileApplied) -> bytes:
        """The plan of a good file, made again if a restart has lost it; `Retryable` WF513 when that takes too long."""
        plan = self._ports.plans.get(file.plan_hash or "")
        if plan is None:
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._plan_waiters.append(waiter)
            self.want_plan(ref.ref, file)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_PLAN_WAIT_S):
                    await waiter
            plan = self._ports.plans.get(file.plan_hash or "")
        if plan is None:
            text = f'the workflow "{escape_for_display(file.path)}" is compiled again after a restart; try again in a moment'
            raise Retryable(codes.PLAN_NOT_READY, text, after_s=_PLAN_WAIT_S)
        return plan

    # One look

    async def _guarded_look(self, waiters: Sequence[asyncio.Future[None]]) -> WaterflowError | None:
        """A look whose failure is shown and given back."""
        try:
            self.fold()
            await self._look()
        except asyncio.CancelledError:
            _settle(waiters, Retryable(codes.NOT_THERE, "the daemon is stopping"))
            raise
        except WaterflowError as error:
            failure = error
        except Exception as error:
            # The supervision point of repositories: a fault met in one of them must not end the others' loops.
            _logger.exception("repository %s: a look failed", self.settings.name, extra=self._about)
            failure = Stalled(
                codes.INTERNAL, f"a fault in Waterflow: {type(error).__name__}: {escape_for_display(str(error))}"
            )
        else:
            self._failures = 0
            return None
        self._failures += 1
        self._show_failure(failure)
        return failure

    def _tell(self) -> None:
        self.changed.set()
        self.is_news.set()

    def fold(self) -> None:
        """Brings the state to where the log is, which is where a transaction has put it, even one that seemed to fail."""
        for record in self._ports.log.read(self.stream, self._position + 1):
            state.evolve(self.state, record.event, record.seq)
            self._position = record.position
            self._tell()

    async def _look(self) -> None:
        if self.state.is_suspended:
            self._show_suspended()
            return
        found = await self._source.refs()
        if self.state.is_suspended:
            # Somebody did it while a slow remote was being asked.
            self._show_suspended()
            return
        watched = refs.watched(found, self.settings.refs)
        self.progress.fetched = {ref: found.object_ids[ref] for ref in watched}
        self.progress.fetched_at = self._ports.clock.now()
        self._set(ConditionType.FETCHED, True, "fetched", "the refs were read")
        if not found.object_ids and not self.state.was_empty and not self.state.refs:
            await self._record(events.EmptyRepositorySeen(at=self._ports.clock.now()))
        await self._record_removed(found)
        is_first_push = self.state.was_empty and not self.state.refs
        failures: list[WaterflowError] = []
        for ref in watched:
            try:
                await self._follow(ref, found.object_ids[ref], is_first_push)
            except WaterflowError as error:
                # The state may be behind the log now, so the next ref of this look must not be judged by it.
                self.fold()
                failures.append(error)
        if not failures and self.settings.refs and self.state.patterns != self.settings.refs:
            await self._record(events.RefsWatched(at=self._ports.clock.now(), patterns=self.settings.refs))
        self._show(found, watched)
        if failures:
            raise failures[0]

    async def _record_removed(self, found: Refs) -> None:
        gone = [ref for ref in self.state.refs.values() if not ref.is_removed and ref.ref not in found.object_ids]
        if gone:
            now = self._ports.clock.now()
            await self._record(*(events.RefRemoved(at=now, ref=ref.ref, commit=ref.commit) for ref in gone))

    async def _follow(self, ref: str, tip: str, is_first_push: bool) -> None:
        """Applies the movement of one ref, if it update."""
        before = self.state.refs.get(ref)
        if before is not None and not before.is_removed and tip == before.tip:
            return
        self.progress.attempted[ref] = tip
        is_created = before is None and bool(self.settings.refs) and self.state.patterns == self.settings.refs
        # What is new on a new ref is what the default one does not have.
        base = before or (self.default_ref() if is_created else None)
        revision = await self._source.revision(tip, base.tree if base else None, self.settings.paths)
        tree = revision.commit.tree
        stands = await self._files.standing(tree, revision.files, self.state)
        difference = diff.difference(before.files if before else {}, revision.files, stands)
        applied = await self._files.applied(tree, difference.files, self.state, stands)
        update = triggers.RefUpdate(
            ref=ref,
            number=before.update_number + 1 if before else 1,
            is_first_sight=before is None and not (is_first_push or is_created),
            changes=revision.changes,
            files=triggers.new_files(ref, applied, before, base),
        )
        changes = ref_updates.file_changes(difference, applied)
        await self._commit(update, revision, tip, changes)

    async def _commit(
        self, update: triggers.RefUpdate, revision: Revision, tip: str, changes: ref_updates.FileChanges
    ) -> None:
        """Appends the movement and starts its runs, in one transaction."""
        name = self.settings.name
        before = self.state.refs.get(update.ref)
        files = before.files if before else {}
        # Many files with many patterns over many paths are seconds of work; the loop goes on meanwhile.
        begun = await asyncio.to_thread(ref_updates.started, update, files, changes, self.settings)
        if self._is_default(update.ref):
            begun = [file for file in begun if not self._ports.webhooks.errors_after(self, file, changes)]
        shared = ref_updates.pushed(name, update, before.commit if before else None, revision.commit, tip)
        starts: list[StartRequest] = []
        refused: list[FileApplied] = []
        for file in begun:
            plan = await self._plan(file)
            if isinstance(plan, FileApplied):
                refused.append(plan)
            else:
                starts.append(ref_updates.start_request(plan, file.path, update, revision, shared))
        changes = ref_updates.with_files(changes, refused)
        facts = ref_updates.facts(self._ports.clock.now(), update, revision, shared, changes)
        if self.handled_runs_seq is not None and self._is_default(update.ref):
            # What completed before was judged by the files as they were.
            facts.append(events.CompletedRunsHandled(at=self._ports.clock.now(), seq=self.handled_runs_seq))
        await self.apply(facts, starts)
        where = f"{name} {escape_for_display(update.ref)}"
        _logger.info("%s moved to %s, runs started: %d", where, revision.commit.id[:12], len(starts), extra=self._about)

    async def apply(self, facts: Sequence[events.Fact], starts: Sequence[StartRequest]) -> None:
        """Records facts and starts runs in one transaction; then the state holds them."""
        await self._ports.runs.apply(self.stream, facts, starts)
        self.fold()

    async def _record(self, *facts: events.Fact) -> None:
        await self._ports.runs.record(self.stream, facts)
        self.fold()

    # Files and plans

    async def _plan(self, file: FileApplied) -> bytes | FileApplied:
        """The plan of a good file, or what it became now if it had to be compiled again and is good no more."""
        plan = self._ports.plans.get(file.plan_hash or "")
        if plan is not None:
            return plan
        refused = await self._files.again([file])
        return refused[0] if refused else self._ports.plans.get(file.plan_hash or "") or b""

    async def _restock(self) -> bool:
        """Compiles a few files whose plans a restart has lost; True when there may be more of them."""
        if self._missing is None:
            files = [(ref.ref, file.newest) for ref in self.watched() for file in ref.files.values()]
            plans = self._ports.plans
            self._missing = deque(item for item in files if item[1].plan_hash and plans.get(item[1].plan_hash) is None)
        if not self._missing or self.state.is_suspended:
            return False
        ref, _ = self._missing[0]
        batch: list[FileApplied] = []
        # One that cannot be read now is not tried again here; whoever starts it asks for it.
        while self._missing and self._missing[0][0] == ref and len(batch) < _RESTOCK_AT_ONCE:
            batch.append(self._missing.popleft()[1])
        return await self._is_compiled(ref, batch) and bool(self._missing)

    async def _compile_wanted(self) -> None:
        wanted, self._wanted = self._wanted, {}
        waiters, self._plan_waiters = self._plan_waiters, []
        for ref, file in wanted.values():
            if self._ports.plans.get(file.plan_hash or "") is None:
                await self._is_compiled(ref, [file])
        _settle(waiters, None)
        if wanted:
            self._tell()

    async def _is_compiled(self, ref: str, files: Sequence[FileApplied]) -> bool:
        """Compiles good files again and records those that are good no more. False when that cannot be done now."""
        try:
            refused = self._still_newest(ref, await self._files.again(files))
            if refused:
                now = self._ports.clock.now()
                await self._record(events.FilesApplied(at=now, ref=ref, files=refused))
        except WaterflowError as error:
            _logger.warning(
                "repository %s: plans are not compiled again yet: %s", self.settings.name, error, extra=self._about
            )
            return False
        return True

    def _still_newest(self, ref: str, files: Iterable[FileApplied]) -> tuple[FileApplied, ...]:
        """Those that a movement has not replaced since they were found missing, and that the compiler did judge."""
        held = self.state.refs[ref].files
        return tuple(
            file
            for file in files
            if file.path in held
            and held[file.path].newest.blob == file.blob
            # A compiler that was killed says nothing against a file that was good before.
            and all(error.code != dsl_codes.COMPILER_STOPPED for error in file.errors)
        )

    # Waiting

    async def _pause(self, failure: WaterflowError | None) -> None:
        """Waits for a reason to look again."""
        interval_s = self.settings.interval_ms / 1_000
        watching = self._source.watching()
        if watching.is_remote:
            # Repositories of one server are asked one after the other, not all in the same moment.
            interval_s *= 0.9 + 0.2 * self._ports.random()
        if failure is None and await self._restock():
            interval_s = 0.0
        elif isinstance(failure, Stalled):
            if watching.is_remote:
                # A server may lock out whoever knocks with a wrong token again and again.
                slower_s = Backoff(interval_s, _STALLED_INTERVAL_MAX_S).delay_s(self._failures)
                interval_s = max(interval_s, slower_s)
        elif failure is not None:
            asked_s = failure.after_s if isinstance(failure, Retryable) else 0.0
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

    def _set(self, type_: ConditionType, is_true: bool, code: str, text: str) -> None:
        self.conditions.set(type_, is_true, code, text, self._ports.clock.now())

    def _show(self, found: Refs, watched: Sequence[str]) -> None:
        watching = self._source.watching()
        self._set(ConditionType.WATCHING, watching.is_watching, watching.code, watching.text)
        if not watched:
            self._set(
                ConditionType.APPLIED, not found.object_ids, "no-ref", refs.nothing_watched(found, self.settings.refs)
            )
        else:
            first = self.state.refs.get(watched[0])
            at = f"{watched[0]} is applied at {first.commit[:12]}" if first else f"{watched[0]} is not applied"
            self._set(ConditionType.APPLIED, first is not None, "applied" if first else "not-applied", at)
        broken = [path for ref in self.watched() for path, file in ref.files.items() if self.errors(file.newest)]
        if broken:
            some = ", ".join(sorted(set(broken))[:3]) + (", ..." if len(set(broken)) > 3 else "")
            text = f"workflow files with errors: {len(set(broken))} ({some})"
            self._set(ConditionType.FILES_VALID, False, "files-broken", text)
        else:
            self._set(ConditionType.FILES_VALID, True, "files-valid", "no workflow file has errors")

    def errors(self, file: FileApplied) -> tuple[Diagnostic, ...]:
        """Everything that keeps the file from being started: its own errors, groups that it may not use, a hook's name."""
        return file.errors or ref_updates.group_errors(file, self.settings) or self._ports.webhooks.errors(self, file)

    def _show_failure(self, failure: WaterflowError) -> None:
        is_reading = failure.code in codes.NOT_FETCHED
        self._set(ConditionType.FETCHED if is_reading else ConditionType.APPLIED, False, failure.code, failure.text)
        watching = self._source.watching()
        self._set(ConditionType.WATCHING, watching.is_watching, watching.code, watching.text)
        _logger.warning("repository %s: %s", self.settings.name, failure, extra=self._about)

    def _show_suspended(self) -> None:
        text = "the repository is suspended: nothing is looked at"
        self._set(ConditionType.APPLIED, False, codes.SUSPENDED, text)
        self._set(ConditionType.FETCHED, True, "suspended", text)


def _settle(waiters: Iterable[asyncio.Future[None]], failure: WaterflowError | None) -> None:
    for waiter in waiters:
        if waiter.done():
            continue
        if failure is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(failure)
