"""An index of runs for filters: columns in memory, made from the rows of the log.

Rules of this file:

- It is behind the log: made when somebody first filters runs, in time slices, and continued with what the feed has announced
  when somebody filters again. No commit waits for it. When more than `PENDING_MAX` runs have changed since the last search, it
  is dropped, and the next search makes it again.
- It proposes runs, and their rows in the log decide: a row is read and compared with the filter before it is shown.
- A row takes about 90 bytes. `ROWS_MAX` rows are kept, the newest ones; `DISTINCT_MAX` workflows, principals, refs, and lists
  of groups or servers are told apart.
"""

from __future__ import annotations

import logging
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable
from zlib import crc32

import msgspec

from waterflowd import ports
from waterflowd.host.feed import Feed
from waterflowd.model.ids import RUN_ID_LENGTH, RunId, StreamName
from waterflowd.model.records import RunCounts, RunFilter, RunSummary, TriggerKind
from waterflowd.model.statuses import FAILURES, Conclusion, Status
from waterflowd.time_slices import Work

logger = logging.getLogger("waterflow.api")

ROWS_MAX = 1_000_000
#: Workflows, principals, refs, lists of groups and of servers; further ones share a number, and their rows are compared one by
#: one.
DISTINCT_MAX = 20_000
#: Runs that have changed since the last search.
PENDING_MAX = 20_000
#: Rows that are read from the log at a time: a millisecond or two.
_ROWS = 250
#: Younger rows that one that is recorded late moves.
_MOVED_MAX = 1_000
#: Rows of a column that are compared before the work can be interrupted.
_PIECE = 4_096

_STATES: list[Status | Conclusion] = [Status.QUEUED, Status.WAITING, Status.RUNNING, *Conclusion]
#: A removed run, which stays in the columns until the index is made again.
_REMOVED = len(_STATES)
_STATE_CODES = {state.value: code for code, state in enumerate(_STATES)}
_TRIGGER_CODES = {kind: code for code, kind in enumerate(TriggerKind)}
#: Characters of a revision for which there is a column of bytes.
_BEGINNING = 2
#: The first bytes of a revision, in its column.
_REVISION_BYTES = 8
_OTHERS = 0


class _Workflow(msgspec.Struct, frozen=True):
    repository: str | None
    path: str
    name: str


class _Column:
    """The numbers of values, the rows that have each, and the values themselves."""

    def __init__(self) -> None:
        self.numbers = array("I")
        self.rows: list[array[int]] = [array("I")]
        self.values: dict[object, int] = {}

    def append(self, value: object) -> None:
        """The value of the next row."""
        number = self._number(value)
        self.rows[number].append(len(self.numbers))
        self.numbers.append(number)

    def _number(self, value: object) -> int:
        number = self.values.get(value)
        if number is None:
            number = _OTHERS
            if len(self.values) < DISTINCT_MAX:
                number = self.values[value] = len(self.rows)
                self.rows.append(array("I"))
        return number

    def replace(self, index: int, value: object) -> None:
        """The value of a row has changed."""
        before, rows = self.numbers[index], self.rows
        if self.values.get(value, _OTHERS) == before:
            return
        number = self._number(value)
        rows[before].pop(bisect_left(rows[before], index))
        rows[number].insert(bisect_left(rows[number], index), index)
        self.numbers[index] = number

    def truncate(self, size: int) -> None:
        """Removes the rows from this index on."""
        for number in self.numbers[size:]:
            self.rows[number].pop()
        del self.numbers[size:]

    def reverse(self) -> Work[None]:
        """The last row becomes the first."""
        last = len(self.numbers) - 1
        self.numbers.reverse()
        for rows in self.rows:
            rows.reverse()
            for begin in range(0, len(rows), _PIECE):
                rows[begin : begin + _PIECE] = array("I", (last - row for row in rows[begin : begin + _PIECE]))
                yield


class RunIndex:
    """The index of one log."""

    def __init__(self, journal: ports.Journal, feed: Feed) -> None:
        self._journal = journal
        self._feed = feed
        self._is_watching = False
        self._pending: set[RunId] = set()
        self.is_ready = False
        self._clear()

    def _clear(self) -> None:
        self._ids = bytearray()
        self._states = bytearray()
        self._triggers = bytearray()
        self._beginnings = bytearray()
        self._created = array("Q")
        self._revisions = array("Q")
        self._workflows = _Column()
        self._principals = _Column()
        self._refs = _Column()
        self._groups = _Column()
        self._servers = _Column()
        self._is_whole = True

    def __len__(self) -> int:
        return len(self._states)

    @property
    def oldest(self) -> RunId | None:
        """The run before which the index knows nothing; None if it knows all."""
        return None if self._is_whole or not len(self) else self._id(0)

    def _note(self, stream: StreamName) -> None:
        """The stream has new events. Called for each commit, so it does next to nothing."""
        if stream.startswith("run/"):
            self._pending.add(RunId(stream[4:]))
            if len(self._pending) > PENDING_MAX:
                self._drop()

    def _drop(self) -> None:
        self._feed.unwatch(self._note)
        self._is_watching = self.is_ready = False
        self._pending = set()
        self._clear()

    def build(self) -> Work[None]:
        """Makes the index. Rows come newest first, and the columns are oldest first."""
        self._drop()
        # Before anything is read, so that what becomes durable meanwhile is noted.
        self._feed.watch(self._note)
        self._is_watching = True
        before: RunId | None = None
        while len(self) < ROWS_MAX:
            rows, before = self._journal.runs(RunFilter(), before=before, limit=_ROWS)
            for row in rows:
                self._append(row)
            if before is None:
                break
            yield
        self._is_whole = before is None
        for column in (self._states, self._triggers, self._beginnings, self._created, self._revisions):
            column.reverse()
            yield
        ids, size = self._ids, len(self)
        self._ids = bytearray()
        for index in range(size - 1, -1, -1):
            self._ids += ids[index * RUN_ID_LENGTH : (index + 1) * RUN_ID_LENGTH]
            if index % _PIECE == 0:
                yield
        for values in (self._workflows, self._principals, self._refs, self._groups, self._servers):
            yield from values.reverse()
        self.is_ready = self._is_watching

    def _append(self, row: RunSummary) -> None:
        self._ids += row.id.encode()
        self._states.append(_state(row))
        self._triggers.append(_TRIGGER_CODES[row.trigger.kind])
        self._beginnings.append(_beginning(row.revision or ""))
        self._created.append(row.created_at)
        self._revisions.append(_revision(row.revision or ""))
        self._workflows.append(_Workflow(row.repository, row.path, row.name))
        self._principals.append(row.trigger.author)
        self._refs.append(row.trigger.ref)
        self._groups.append(row.groups)
        self._servers.append(row.servers)

    def _id(self, index: int) -> RunId:
        return _id(self._ids, index)

    def _position(self, run: RunId) -> int:
        """How many rows are older than the run."""
        return bisect_left(range(len(self)), run, key=self._id)

    def _catch_up(self) -> Work[None]:
        """Continues the index with what has changed. Another search may do the same between two pieces."""
        for number, run in enumerate(sorted(self._pending), 1):
            self._pending.discard(run)
            self._update(run)
            if number % _ROWS == 0:
                yield

    def _update(self, run: RunId) -> None:
        row = self._journal.run(run)
        index = self._position(run)
        if row is None:
            if index < len(self) and self._id(index) == run:
                self._states[index] = _REMOVED
            return
        if index < len(self) and self._id(index) == run:
            self._states[index] = _state(row)
            self._groups.replace(index, row.groups)
            self._servers.replace(index, row.servers)
            return
        if not index and not self._is_whole:
            # Older than everything that the index keeps.
            return
        if len(self) - index > _MOVED_MAX:
            logger.warning("run %s was recorded long after younger ones; the index of runs is made again", run)
            self._drop()
            return
        # Usually the newest run. A run that waited for its files may be recorded after a younger one, which moves up.
        newer = [self._id(number) for number in range(index, len(self))]
        self._truncate(index)
        self._append(row)
        for other in newer:
            following = self._journal.run(other)
            assert following is not None
            self._append(following)

    def _truncate(self, size: int) -> None:
        """Removes the rows from this index on."""
        del self._ids[size * RUN_ID_LENGTH :]
        for column in (self._states, self._triggers, self._beginnings, self._created, self._revisions):
            del column[size:]
        for values in (self._workflows, self._principals, self._refs, self._groups, self._servers):
            values.truncate(size)

    def search(
        self, selected: RunFilter, *, before: RunId | None, limit: int
    ) -> Work[tuple[list[RunSummary], RunId | None]]:
        """The newest selected rows older than `before`, and where to continue; None at the end."""
        yield from self._catch_up()
        if not self.is_ready:
            return [], before
        end = len(self) if before is None else self._position(before)
        # The index may be dropped meanwhile.
        ids = self._ids
        flags = yield from self._flags(selected)
        is_proposed = _revision_check(selected, self._revisions)
        found: list[RunSummary] = []
        examined = 0
        index = end
        while (index := flags.rfind(1, 0, index)) >= 0:
            examined += 1
            if examined % _PIECE == 0:
                yield
            if not is_proposed(index):
                continue
            row = self._journal.run(_id(ids, index))
            if row is None or not selected.matches(row):
                continue
            if len(found) == limit:
                return found, found[-1].id
            found.append(row)
        return found, self.oldest

    def count(self, selected: RunFilter) -> Work[RunCounts]:
        """How many runs are selected, by state."""
        yield from self._catch_up()
        flags = yield from self._flags(selected)
        if selected.revision is not None or self._has_others(selected):
            flags = yield from self._compared(selected, flags)
        counts: dict[str, int] = {}
        for state, code in _STATE_CODES.items():
            number = _both(flags, _where(self._states[: len(flags)], {code})).count(1)
            if number:
                counts[state] = number
            yield
        return RunCounts(counts=counts, total=sum(counts.values()), has_more=not self._is_whole)

    def _has_others(self, selected: RunFilter) -> bool:
        """Whether the columns propose rows that may not be selected."""
        used = (
            (self._workflows, _workflow_check(selected)),
            (self._principals, selected.by),
            (self._refs, selected.ref),
            (self._groups, selected.group),
            (self._servers, selected.server),
        )
        return any(wanted is not None and column.rows[_OTHERS] for column, wanted in used)

    def _compared(self, selected: RunFilter, flags: bytes) -> Work[bytes]:
        """A byte for each row: 1 for those of the proposed ones that are selected."""
        is_proposed, compared, ids = _revision_check(selected, self._revisions), bytearray(len(flags)), self._ids
        index, examined = len(flags), 0
        while (index := flags.rfind(1, 0, index)) >= 0:
            examined += 1
            if is_proposed(index):
                row = self._journal.run(_id(ids, index))
                compared[index] = row is not None and selected.matches(row)
                examined += _PIECE // _ROWS
            if examined >= _PIECE:
                examined = 0
                yield
        return bytes(compared)

    def _flags(self, selected: RunFilter) -> Work[bytes]:
        """A byte for each row: 1 for those that all columns but that of revisions propose."""
        size = len(self)
        # Rows are in the order of their creation.
        begin = 0 if selected.since_at is None else bisect_left(self._created, selected.since_at)
        end = size if selected.until_at is None else bisect_right(self._created, selected.until_at)
        flags = bytes(begin) + b"\1" * (max(begin, end) - begin) + bytes(size - max(begin, end))
        states = _states(selected)
        if states is None:
            states = set(range(_REMOVED))
        if len(states) < _REMOVED or self._states.find(_REMOVED) >= 0:
            flags = _both(flags, _where(self._states[:size], states))
        if selected.trigger is not None:
            code = _TRIGGER_CODES.get(TriggerKind(selected.trigger)) if selected.trigger in [*TriggerKind] else None
            flags = _both(flags, _where(self._triggers[:size], set() if code is None else {code}))
        if selected.revision is not None and len(selected.revision) >= _BEGINNING:
            flags = _both(flags, _where(self._beginnings[:size], {_beginning(selected.revision)}))
        is_workflow = _workflow_check(selected)
        if is_workflow is not None:
            numbers = [number for value, number in self._workflows.values.items() if is_workflow(value)]
            flags = _both(flags, (yield from _rows(self._workflows, numbers, size)))
        for column, wanted in ((self._principals, selected.by), (self._refs, selected.ref)):
            if wanted is not None:
                number = column.values.get(wanted)
                flags = _both(flags, (yield from _rows(column, [] if number is None else [number], size)))
        for column, name in ((self._groups, selected.group), (self._servers, selected.server)):
            if name is not None:
                flags = _both(flags, (yield from _rows(column, _with(column, name), size)))
        return flags


def _with(column: _Column, name: str) -> list[int]:
    """The numbers of those lists of names that have this one, or have too many names to list them."""
    return [number for names, number in column.values.items() if not isinstance(names, tuple) or name in names]


def _id(ids: bytearray, index: int) -> RunId:
    return RunId(ids[index * RUN_ID_LENGTH : (index + 1) * RUN_ID_LENGTH].decode())


def _rows(column: _Column, numbers: Iterable[int], size: int) -> Work[bytes]:
    """A byte for each row: 1 for those with one of these numbers, and for values that have none."""
    flags = bytearray(size)
    for number in (_OTHERS, *numbers):
        rows = column.rows[number]
        for begin in range(0, len(rows), _PIECE):
            for row in rows[begin : begin + _PIECE]:
                if row < size:
                    flags[row] = 1
            yield
    return bytes(flags)


def _both(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one, "little") & int.from_bytes(other, "little")).to_bytes(len(one), "little")


def _where(column: bytes | bytearray, codes: set[int]) -> bytes:
    return bytes(column).translate(bytes(code in codes for code in range(256)))


def _states(selected: RunFilter) -> set[int] | None:
    """The codes of the states that the filter permits; None: all."""
    found: set[int] | None = None
    words = selected.words
    if words:
        found = {
            code
            for name, code in _STATE_CODES.items()
            if name in words or (Status.COMPLETED.value in words and isinstance(_STATES[code], Conclusion))
        }
    if selected.has_failed:
        failed = {_STATE_CODES[conclusion.value] for conclusion in FAILURES}
        found = failed if found is None else found & failed
    return found


def _workflow_check(selected: RunFilter) -> Callable[[object], bool] | None:
    """Whether runs of a workflow can be selected; None if the filter does not say anything about workflows."""
    if selected.name is None and selected.path is None and selected.repository is None and selected.text is None:
        return None

    def check(value: object) -> bool:
        assert isinstance(value, _Workflow)
        return selected.matches_workflow(value.repository, value.path, value.name)

    return check


def _revision_check(selected: RunFilter, revisions: array[int]) -> Callable[[int], bool]:
    """Whether the revision in a row can be selected."""
    prefix = (selected.revision or "").encode()[:_REVISION_BYTES]
    if not prefix:
        return lambda index: True
    lowest = int.from_bytes(prefix.ljust(_REVISION_BYTES, b"\0"))
    highest = int.from_bytes(prefix.ljust(_REVISION_BYTES, b"\xff"))
    return lambda index: lowest <= revisions[index] <= highest


def _state(row: RunSummary) -> int:
    return _STATE_CODES[(row.conclusion or row.status).value]


def _beginning(revision: str) -> int:
    """A byte for the first characters, so that most other revisions need not be compared."""
    return crc32(revision[:_BEGINNING].encode()) & 0xFF


def _revision(revision: str) -> int:
    return int.from_bytes(revision.encode()[:_REVISION_BYTES].ljust(_REVISION_BYTES, b"\0"))
