"""Removes runs and output by the rules of retention, a bounded piece at a time, while the daemon works.

Rules of this file:

- A round looks at the rows of all runs, newest first, and then removes what it has found, oldest first. One transaction removes
  at most `EVENTS_MAX` events and about `OUTPUT_BYTES_MAX` of output, together with its entry in the audit trail.
- Steps come first: a piece waits while the driver has work, for `YIELD_S_MAX` at most, so that it also progresses under load.
  After each piece it pauses: for as long as it took, or `BUSY_PAUSES` times as long while there is other work.
- Files are removed after the transaction that says so. What a crash leaves behind is removed by the next round.
- A run that cannot be removed, because it is damaged for example, is reported and left alone until the daemon restarts.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from itertools import islice

import msgspec

from waterflow_agent.errors import Retryable, WaterflowError
from waterflowd import ports
from waterflowd.access.events import ActionTaken
from waterflowd.host.driver import Driver
from waterflowd.host.retention.policy import Retention, Selection
from waterflowd.model.ids import RunId
from waterflowd.model.records import RemovalRule, RemovedOutput, RemovedPiece, RemovedRun, RunFilter, RunSummary

logger = logging.getLogger("waterflow.host")

#: Between two rounds, in s.
PERIOD_S = 600.0
#: After a start, before the first round, in s: agents and clients come back first.
FIRST_S = 30.0
#: Events in one piece beside other work: a millisecond of the event loop's time, and one of the writer's.
EVENTS_MAX = 128
#: The same while there is no other work, so that a flush of the disk removes more.
IDLE_EVENTS_MAX = 1_024
#: Output in one piece, in bytes.
OUTPUT_BYTES_MAX = 256 << 10
#: Runs in one piece.
RUNS_MAX = 100
#: Rows that are examined at a time: a millisecond.
_ROWS = 100
#: Runs that one round removes: their ids are in memory. The next round follows at once.
FOUND_MAX = 100_000
#: How long a piece waits for the driver to have no work, in s.
YIELD_S_MAX = 0.05
#: Pauses after a piece as multiples of its time.
BUSY_PAUSES = 9
_PAUSE_S_MIN = 0.001
#: Workflows in one audit entry.
_WORKFLOWS_SHOWN = 5
#: Runs whose size is measured for a preview.
_MEASURED_MAX = 200
#: The name in the audit trail for a removal that the daemon began by itself.
BY_RULES = "retention"


class Found(msgspec.Struct, kw_only=True):
    """What a rule would remove of a workflow."""

    rule: RemovalRule
    repository: str | None
    path: str
    runs: int = 0
    events: int = 0
    #: About; measured on some of the runs.
    bytes: int = 0


class Progress(msgspec.Struct, kw_only=True):
    """What was removed since the daemon started."""

    runs: int = 0
    outputs: int = 0
    events: int = 0
    bytes: int = 0
    rounds: int = 0
    #: The end of the newest round, in ms.
    round_ended_at: int | None = None
    is_running: bool = False
    #: Runs that could not be removed.
    failed: int = 0


class _Item(msgspec.Struct, frozen=True):
    """A run to remove, or to remove the output of."""

    run: RunId
    rule: RemovalRule

    @property
    def is_output(self) -> bool:
        return self.rule in (RemovalRule.OUTPUT_AGE, RemovalRule.OUTPUT_SIZE)


#: Rule, repository and path.
_Key = tuple[RemovalRule, str | None, str]


class Pruner:
    """See the file's docstring."""

    def __init__(
        self,
        retention: Retention,
        journal: ports.Journal,
        outputs: ports.LocalOutputLogs,
        driver: Driver,
        clock: ports.Clock,
    ) -> None:
        self.retention = retention
        self.progress = Progress()
        self._journal = journal
        self._outputs = outputs
        self._driver = driver
        self._clock = clock
        self._wake = asyncio.Event()
        self._by = BY_RULES
        self._failed: set[RunId] = set()
        #: Whether the driver did anything else during the last pause.
        self._has_other_work = True

    async def run(self) -> None:
        """Removes what the rules say, forever."""
        await self._wait(FIRST_S)
        while True:
            is_whole = True
            try:
                is_whole = await self.round()
            except (WaterflowError, OSError) as error:
                # Damage, or a full or broken disk: everything else continues, and the next round tries again.
                logger.error("retention: the round ended early, and is repeated later: %s", error)
            await self._wait(PERIOD_S if is_whole else 0.0)

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    def start_now(self, by: str) -> None:
        """Begins a round, as soon as the current one has ended, in the name of a principal."""
        self._by = by
        self._wake.set()

    async def round(self) -> bool:
        """One round; False if it has found more than it can remember."""
        self.progress.is_running = True
        try:
            await self._finish_unfinished()
            found: deque[_Item] = deque(maxlen=FOUND_MAX)
            oldest: deque[RunId] = deque(maxlen=FOUND_MAX)
            total = 0
            if self.retention.removes_runs or self.retention.removes_output:
                total = await self._examine(found, oldest)
            await self._remove([item for item in reversed(found) if not item.is_output])
            await self._remove([item for item in reversed(found) if item.is_output])
            await self._remove_until_small(oldest)
            await self._remove_files()
            self.progress.rounds += 1
            self.progress.round_ended_at = self._clock.now()
            return total <= len(found)
        finally:
            self._by = BY_RULES
            self.progress.is_running = False

    async def preview(self) -> list[Found]:
        """What a round would remove now, by rule and workflow; the largest first."""
        found: deque[_Item] = deque(maxlen=FOUND_MAX)
        oldest: deque[RunId] = deque(maxlen=FOUND_MAX)
        rows: dict[_Key, Found] = {}
        measured: Counter[_Key] = Counter()

        sample: list[tuple[_Key, _Item]] = []

        def note(item: _Item, summary: RunSummary) -> None:
            key = (item.rule, summary.repository, summary.path)
            row = rows.setdefault(key, Found(rule=item.rule, repository=summary.repository, path=summary.path))
            row.runs += 1
            row.events += 0 if item.is_output else summary.seq
            if len(sample) < _MEASURED_MAX and measured[key] < _MEASURED_MAX // 10:
                measured[key] += 1
                sample.append((key, item))

        await self._examine(found, oldest, note)
        for item in await self._beyond_size(oldest):
            summary = self._journal.run(item.run)
            if summary is not None:
                note(item, summary)
        sizes: Counter[_Key] = Counter()
        for key, item in sample:
            with contextlib.suppress(WaterflowError):
                sizes[key] += self._size(item)
            await asyncio.sleep(0)
        for key, row in rows.items():
            row.bytes = sizes[key] * row.runs // max(measured[key], 1)
        return sorted(rows.values(), key=lambda row: (-row.runs, row.rule, row.repository or "", row.path))

    def _size(self, item: _Item) -> int:
        size = self._outputs.run_bytes(item.run)
        if not item.is_output:
            size += self._journal.removal(item.run, events_max=IDLE_EVENTS_MAX, output_bytes_max=1 << 30).bytes
            # The removal counts the output in the log again.
            size -= self._journal.removal(item.run, events_max=0, output_bytes_max=1 << 30).bytes
        return size

    # Selection --------------------------------------------------------------------------------------------------------

    async def _examine(
        self,
        found: deque[_Item],
        oldest: deque[RunId],
        note: Callable[[_Item, RunSummary], None] = lambda item, row: None,
    ) -> int:
        """Looks at all rows; returns how many runs and outputs are to be removed. The deques keep the oldest of them."""
        selection, total = Selection(self.retention, self._clock.now()), 0
        before: RunId | None = None
        while True:
            began = time.perf_counter()
            rows, before = self._journal.runs(RunFilter(), before=before, limit=_ROWS)
            for row in rows:
                rule = selection.rule(row)
                if rule is None and self.retention.removes_output and selection.is_settled(row):
                    if self._journal.removed_output(row.id) is not None:
                        continue
                    rule = selection.output_rule(row)
                    if rule is None:
                        oldest.append(row.id)
                    elif not self._outputs.run_bytes(row.id):
                        rule = None
                if rule is not None and row.id not in self._failed:
                    total += 1
                    found.append(_Item(row.id, rule))
                    note(found[-1], row)
            if before is None:
                return total
            await self._pause(time.perf_counter() - began)

    async def _beyond_size(self, oldest: Iterable[RunId]) -> list[_Item]:
        """The oldest runs, whose output makes the total larger than permitted."""
        limit = self.retention.output_max_bytes
        if limit is None:
            return []
        surplus = await asyncio.to_thread(self._outputs.stored_bytes) - limit
        chosen: list[_Item] = []
        for number, run in enumerate(sorted(oldest), 1):
            if surplus <= 0:
                break
            size = self._outputs.run_bytes(run)
            if size and run not in self._failed:
                chosen.append(_Item(run, RemovalRule.OUTPUT_SIZE))
                surplus -= size
            if number % _ROWS == 0:
                await self._pause(_PAUSE_S_MIN)
        return chosen

    async def _remove_until_small(self, oldest: Iterable[RunId]) -> None:
        await self._remove(await self._beyond_size(oldest))

    # Removal ----------------------------------------------------------------------------------------------------------

    async def _finish_unfinished(self) -> None:
        """Removes the rest of what an earlier process has begun."""
        for run, is_output in self._journal.unfinished_removals():
            while any(run == other for other, _ in self._journal.unfinished_removals()) and run not in self._failed:
                await self._remove_piece([self._unfinished(run, is_output=is_output)])
            await self._remove_files_of(run)

    def _unfinished(self, run: RunId, *, is_output: bool) -> tuple[RunId, RemovedRun | RemovedOutput]:
        known = self._journal.removed_output(run) if is_output else self._journal.removed_run(run)
        if known is None:
            rule = RemovalRule.OUTPUT_AGE if is_output else RemovalRule.RUN_AGE
            at = self._clock.now()
            known = (
                RemovedOutput(at=at, rule=rule)
                if is_output
                else RemovedRun(id=run, at=at, rule=rule, number=0, name="", path="")
            )
        return run, known

    async def _remove(self, items: Sequence[_Item]) -> None:
        """Removes runs, or output of runs, in this order."""
        waiting = {item.run: item for item in items}
        while waiting:
            chunk = [(item.run, self._memory(item)) for item in islice(waiting.values(), RUNS_MAX)]
            gone = [run for run, memory in chunk if memory is None]
            known = [(run, memory) for run, memory in chunk if memory is not None]
            for run in gone + (await self._remove_piece(known) if known else []):
                del waiting[run]
                await self._remove_files_of(run)

    def _memory(self, item: _Item) -> RemovedRun | RemovedOutput | None:
        """What is to be remembered; None if the run, or its output, was removed meanwhile."""
        row, at = self._journal.run(item.run), self._clock.now()
        if item.is_output:
            is_begun = row is None or self._journal.removed_output(item.run) is not None
            is_left = is_begun and (item.run, True) in self._journal.unfinished_removals()
            return RemovedOutput(at=at, rule=item.rule) if not is_begun or is_left else None
        if row is None:
            # A run of several pieces is remembered from the first one on.
            is_left = (item.run, False) in self._journal.unfinished_removals()
            return self._journal.removed_run(item.run) if is_left else None
        return RemovedRun(
            id=row.id,
            at=at,
            rule=item.rule,
            number=row.number,
            name=row.name,
            path=row.path,
            repository=row.repository,
            trigger_key=row.trigger.key,
        )

    async def _remove_piece(self, chunk: Sequence[tuple[RunId, RemovedRun | RemovedOutput]]) -> list[RunId]:
        """Removes as much of the first of these as one transaction may; returns those of which nothing is left."""
        await self._driver.until_idle(YIELD_S_MAX)
        began = time.perf_counter()
        try:
            removed = await self._driver.remove(lambda: self._read(chunk), self._audit_entry)
        except Retryable:
            raise
        except WaterflowError as error:
            run = chunk[0][0]
            logger.error("retention: run %s cannot be removed: %s", run, error, extra={"run": run})
            self._failed.add(run)
            self.progress.failed += 1
            return [run]
        if not removed:
            # It has just got new events. The next round looks at it again.
            return [chunk[0][0]]
        for removal, memory in removed:
            self.progress.events += removal.events
            self.progress.bytes += removal.bytes
            if removal.is_whole:
                self.progress.runs += isinstance(memory, RemovedRun)
                self.progress.outputs += isinstance(memory, RemovedOutput)
        await self._pause(time.perf_counter() - began)
        return [removal.run for removal, _ in removed if removal.is_whole]

    def _read(self, chunk: Sequence[tuple[RunId, RemovedRun | RemovedOutput]]) -> list[RemovedPiece]:
        """The next pieces to remove, as many as one transaction may. Called when the driver makes its batch."""
        taken: list[RemovedPiece] = []
        events_max = EVENTS_MAX if self._has_other_work else IDLE_EVENTS_MAX
        events = size = 0
        for run, memory in chunk:
            if taken and (events >= events_max or size >= OUTPUT_BYTES_MAX):
                break
            is_run = isinstance(memory, RemovedRun)
            try:
                removal = self._journal.removal(
                    run, events_max=events_max - events if is_run else 0, output_bytes_max=OUTPUT_BYTES_MAX
                )
            except WaterflowError:
                if not taken:
                    raise
                # It is the first one of the next piece, which fails alone.
                break
            if taken and not removal.is_whole:
                # It has a transaction for itself, or as few as possible.
                break
            taken.append((removal, memory))
            events, size = events + removal.events, size + removal.bytes
            if not removal.is_whole:
                break
        return taken

    def _audit_entry(self, taken: Sequence[RemovedPiece]) -> ActionTaken:
        rules = Counter(memory.rule.value for _, memory in taken)
        workflows = Counter(
            f"{memory.repository or ''}:{memory.path}" for _, memory in taken if isinstance(memory, RemovedRun)
        )
        is_run = isinstance(taken[0][1], RemovedRun)
        return ActionTaken(
            at=self._clock.now(),
            by=self._by,
            what="remove-runs" if is_run else "remove-output",
            target=taken[0][0].run if len(taken) == 1 else f"{taken[0][0].run} and {len(taken) - 1} more",
            facts={
                "runs": len(taken),
                "events": sum(removal.events for removal, _ in taken),
                "bytes": sum(removal.bytes for removal, _ in taken),
                "rules": [f"{rule}={count}" for rule, count in rules.items()],
                "workflows": [f"{name}={count}" for name, count in workflows.most_common(_WORKFLOWS_SHOWN)],
                "unfinished": not taken[-1][0].is_whole,
            },
        )

    async def _remove_files(self) -> None:
        """Removes files that a crash, or a backup, has kept from being removed."""
        for run in self._outputs.runs_with_files():
            if self._journal.run(run) is None or self._journal.removed_output(run) is not None:
                await self._remove_files_of(run)
            else:
                await asyncio.sleep(0)

    async def _remove_files_of(self, run: RunId) -> None:
        self._outputs.forget(run)
        if self._outputs.has_files(run) and not await asyncio.to_thread(self._outputs.remove_files, run):
            logger.info("retention: a backup is in progress; files of run %s are removed later", run)

    # Time -------------------------------------------------------------------------------------------------------------

    async def _pause(self, took_s: float) -> None:
        """Leaves most of the time to other work, if there is any."""
        before = self._driver.metrics.commits
        await asyncio.sleep(max(took_s, _PAUSE_S_MIN))
        self._has_other_work = self._driver.is_busy or self._driver.metrics.commits != before
        if self._has_other_work:
            await asyncio.sleep((BUSY_PAUSES - 1) * max(took_s, _PAUSE_S_MIN))
