"""An in-memory `ports.Journal`, which passes the same contract tests as the real log.

Rules of this file: the same results and errors as the store, immediately and without threads. In addition, tests can delay
commits (`hold`, `release`), let the next ones fail (`fail_next`), and restart from the durable state or from any earlier
commit, as after a crash (`reopened`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from itertools import islice
from typing import Any, Protocol

from waterflow_agent.errors import Stalled, WaterflowError
from waterflowd.model.ids import RunId, StreamName, run_stream
from waterflowd.model.records import Batch, Record, Removal, RemovedOutput, RemovedRun, RunFilter, RunSummary
from waterflowd.model.statuses import Status
from waterflowd.testing.awaiting import Immediate

#: The same limit as the store's.
RUNS_EXAMINED_MAX = 1_000


class EventCodec(Protocol):
    """Encodes and decodes events, like the store's codec."""

    schema: int
    encode: Callable[[Any], bytes]

    def decode(self, stream: StreamName, position: int, schema: int, body: bytes) -> Any:
        """The event in `body`."""
        ...


class MemoryLog:
    """A log in memory. With a codec every event is encoded, so that values that cannot be stored fail in tests too."""

    def __init__(self, codec: EventCodec | None = None, *, generation: int = 1) -> None:
        self._codec = codec
        self._generation = generation
        self._streams: dict[StreamName, list[Record]] = {}
        #: By sequence; None for a removed one.
        self._records: list[Record | None] = []
        self._plans: dict[str, bytes] = {}
        self._summaries: dict[RunId, RunSummary] = {}
        self._open: set[RunId] = set()
        self._keys: dict[str, RunId] = {}
        self._counters: dict[str, int] = {}
        self._plan_uses: Counter[str] = Counter()
        self._removed: dict[RunId, RemovedRun] = {}
        self._outputless: dict[RunId, RemovedOutput] = {}
        self._removing: set[RunId] = set()
        self._faults: list[WaterflowError] = []
        self._poison: Stalled | None = None
        self._held: list[tuple[Batch, asyncio.Future[int]]] = []
        self._is_holding = False
        #: Every batch that was committed, in order.
        self.commits: list[Batch] = []
        #: What the store says after a full disk; set it to test admission.
        self.is_disk_low = False

    @property
    def generation(self) -> int:
        """Increases by one with each `reopened`."""
        return self._generation

    @property
    def last_seq(self) -> int:
        """Global sequence of the newest durable record."""
        return len(self._records)

    @property
    def last_at(self) -> int:
        """The log's time of the newest durable record in ms."""
        return next((record.at for record in reversed(self._records) if record is not None), 0)

    def append(self, batch: Batch) -> Awaitable[int]:
        """Commits the batch immediately, or at the next `release` while commits are held."""
        self._check()
        if self._is_holding:
            future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            self._held.append((batch, future))
            return future
        try:
            return Immediate(self._commit(batch))
        except WaterflowError as error:
            return Immediate(0, error)

    def append_blocking(self, batch: Batch) -> int:
        """Commits the batch; returns the last global sequence."""
        self._check()
        return self._commit(batch)

    def hold(self) -> None:
        """Delays commits until `release`."""
        self._is_holding = True

    def release(self, count: int | None = None) -> int:
        """Commits the first `count` delayed batches, or all and ends the delay; returns their number."""
        if count is None:
            self._is_holding = False
        going = self._held[:count]
        del self._held[:count]
        for batch, future in going:
            try:
                result = self._commit(batch)
            except WaterflowError as error:
                if not future.done():
                    future.set_exception(error)
            else:
                if not future.done():
                    future.set_result(result)
        return len(going)

    def fail_next(self, *errors: WaterflowError) -> None:
        """The next commits fail with these errors, one each; after a `Stalled` WF303 every call does."""
        self._faults += errors

    def reopened(self, commits: int | None = None) -> MemoryLog:
        """The log after a crash: the first `commits` batches (default: all), with the next generation."""
        log = MemoryLog(self._codec, generation=self._generation + 1)
        for batch in self.commits[:commits]:
            log.append_blocking(batch)
        return log

    def head(self, stream: StreamName) -> int:
        """Position of the stream's newest durable event."""
        self._check()
        return len(self._streams.get(stream, ()))

    def read(self, stream: StreamName, first: int = 1, limit: int | None = None) -> list[Record]:
        """Durable records of a stream from position `first` on."""
        self._check()
        if self._is_hidden(stream):
            return []
        start = max(first, 1) - 1
        return self._streams.get(stream, [])[start : None if limit is None else start + max(limit, 0)]

    def feed(self, after_seq: int, limit: int) -> list[Record]:
        """Durable records of all streams with a sequence above `after_seq`, in order."""
        self._check()
        following = (record for record in self._records[max(after_seq, 0) :] if record is not None)
        return list(islice((record for record in following if not self._is_hidden(record.stream)), max(limit, 0)))

    def plan(self, plan_hash: str) -> bytes | None:
        """The plan with this hash."""
        self._check()
        return self._plans.get(plan_hash)

    def open_runs(self) -> Iterator[RunId]:
        """Runs that are not completed, oldest first."""
        self._check()
        return iter(sorted(self._open))

    def run(self, run: RunId) -> RunSummary | None:
        """The row of one run."""
        self._check()
        return self._summaries.get(run)

    def runs(self, selected: RunFilter, *, before: RunId | None, limit: int) -> tuple[list[RunSummary], RunId | None]:
        """A page of rows, newest first, and the start of the next page."""
        self._check()
        rest = [run for run in sorted(self._summaries, reverse=True) if before is None or run < before]
        page: list[RunSummary] = []
        examined = 0
        while examined < min(len(rest), RUNS_EXAMINED_MAX) and len(page) < limit:
            summary = self._summaries[rest[examined]]
            examined += 1
            if selected.matches(summary):
                page.append(summary)
        if examined == len(rest):
            return page, None
        return page, rest[examined - 1] if examined else before

    def runs_by_prefix(self, prefix: str, limit: int) -> list[RunId]:
        """Ids that begin with `prefix`, oldest first."""
        self._check()
        prefix = prefix.upper()
        return [run for run in sorted(self._summaries) if run.startswith(prefix)][:limit]

    def run_for_key(self, key: str) -> RunId | None:
        """The run that a trigger key started."""
        self._check()
        return self._keys.get(key)

    def counter(self, name: str) -> int:
        """Value of a counter."""
        self._check()
        return self._counters.get(name, 0)

    def removal(self, run: RunId, *, events_max: int, output_bytes_max: int) -> Removal:
        """The next piece of a run to remove; output is kept elsewhere."""
        self._check()
        records = self._streams.get(run_stream(run), [])
        taken = records[max(len(records) - events_max, 0) :]
        is_whole = not events_max or len(taken) == len(records)
        return Removal(run=run, events=len(taken), bytes=len(taken), is_whole=is_whole, detail=len(records))

    def unfinished_removals(self) -> list[tuple[RunId, bool]]:
        """Runs of which a part is still to be removed."""
        self._check()
        return [(run, False) for run in sorted(self._removing)]

    def removed_run(self, run: RunId) -> RemovedRun | None:
        """What is remembered of a removed run."""
        self._check()
        return self._removed.get(run)

    def removed_runs(self, after: RunId | None, limit: int) -> list[RemovedRun]:
        """What is remembered of removed runs, by ascending id."""
        self._check()
        return [self._removed[run] for run in sorted(self._removed) if after is None or run > after][:limit]

    def removed_output(self, run: RunId) -> RemovedOutput | None:
        """When and why the run's output was removed."""
        self._check()
        return self._outputless.get(run)

    def _is_hidden(self, stream: StreamName) -> bool:
        return bool(self._removing) and stream[4:] in self._removing

    def _remove(self, removal: Removal, memory: RemovedRun) -> None:
        run, stream = removal.run, run_stream(removal.run)
        if run not in self._removing:
            if memory.trigger_key is not None and self._keys.get(memory.trigger_key) == run:
                del self._keys[memory.trigger_key]
            self._summaries.pop(run, None)
            self._outputless.pop(run, None)
            self._removed[run] = memory
        for _ in range(removal.events):
            record = self._streams[stream].pop()
            self._records[record.seq - 1] = None
            if record.position == 1:
                plan_hash = getattr(record.event, "plan_hash", "")
                self._plan_uses[plan_hash] -= 1
                if not self._plan_uses[plan_hash]:
                    self._plans.pop(plan_hash, None)
        if removal.is_whole:
            self._streams.pop(stream, None)
            self._removing.discard(run)
        else:
            self._removing.add(run)

    def _check(self) -> None:
        if self._poison is not None:
            raise Stalled(self._poison.code, self._poison.text)

    def _commit(self, batch: Batch) -> int:
        self._check()
        if self._faults:
            error = self._faults.pop(0)
            if isinstance(error, Stalled) and error.code == "WF303":
                self._poison = error
            raise error
        self._refuse_if_wrong(batch)
        for append in batch.appends:
            records = self._streams.setdefault(append.stream, [])
            for event in append.events:
                position = len(records) + 1
                stored = self._through_bytes(append.stream, position, event)
                record = Record(
                    seq=len(self._records) + 1, stream=append.stream, position=position, at=append.at, event=stored
                )
                records.append(record)
                self._records.append(record)
        for removal, memory in batch.removed_runs:
            self._remove(removal, memory)
        for removal, trace in batch.removed_output:
            self._outputless[removal.run] = trace
        self._plan_uses.update(batch.plan_uses)
        for plan_hash, plan in batch.plans.items():
            self._plans.setdefault(plan_hash, plan)
        for summary in batch.summaries:
            self._summaries[summary.id] = summary
            if summary.status is Status.COMPLETED:
                self._open.discard(summary.id)
            else:
                self._open.add(summary.id)
        self._keys.update(batch.keys)
        self._counters.update(batch.counters)
        self.commits.append(batch)
        return len(self._records)

    def _refuse_if_wrong(self, batch: Batch) -> None:
        if (batch.removed_runs or batch.removed_output) and not batch.appends:
            raise ValueError(
                "a removal needs a record in the same transaction, so that the newest one is never removed"
            )
        for removal, _ in batch.removed_runs:
            if removal.run in self._open:
                raise Stalled("WF301", f"run {removal.run} is open and cannot be removed")
            if len(self._streams.get(run_stream(removal.run), ())) != removal.detail:
                raise Stalled("WF301", f"run {removal.run} has new events; read it again first")
        for key, run in batch.keys.items():
            held = self._keys.get(key, run)
            if held != run:
                raise Stalled("WF301", f'the trigger key "{key}" already started run {held}')
        heads: dict[StreamName, int] = {}
        for append in batch.appends:
            position = heads.get(append.stream, len(self._streams.get(append.stream, ())))
            if position != append.expected:
                raise Stalled(
                    "WF301",
                    f"the log of {append.stream} ends at event {position}, not at {append.expected}; read it again first",
                )
            heads[append.stream] = position + len(append.events)

    def _through_bytes(self, stream: StreamName, position: int, event: Any) -> Any:
        if self._codec is None:
            return event
        return self._codec.decode(stream, position, self._codec.schema, self._codec.encode(event))
