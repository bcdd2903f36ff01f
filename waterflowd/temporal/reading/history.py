"""The history of runs and repositories on Temporal; other streams are in the daemon's own log, which `others` reads.

Rules of this file: the facts of a run are in its event history, its row is in the memo of its latest execution. Lists come from
Temporal's visibility, which is a second or two late, and which the readable search attributes narrow down; the row decides.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator
from itertools import islice
from typing import Any

from temporalio.api.common.v1 import Memo
from temporalio.client import Client, WorkflowExecution

from waterflow_agent.errors import Retryable, Stalled
from waterflowd import ports
from waterflowd.model.codec import UnreadableError
from waterflowd.model.ids import RunId, StreamName, is_run_id, run_stream
from waterflowd.model.records import Record, RunCounts, RunFilter, RunSummary
from waterflowd.temporal import run_turns
from waterflowd.temporal.reading import terminated_runs
from waterflowd.temporal.reading.stream_reader import (
    RUNS,
    EndedError,
    NotFoundError,
    StreamReader,
    bound,
    reported,
    stalled_text,
)
from waterflowd.temporal.repositories.streams import RepositoryStreams
from waterflowd.temporal.workflow import messages

logger = logging.getLogger("waterflow.temporal")

#: Runs with an unreadable row that are remembered, so that each is reported once.
UNREADABLE_MAX = 1_000
#: Rows that one list examines. They arrive in the order of their executions' starts, and are sorted by id here.
ROWS_EXAMINED_MAX = 1_000
#: How long a reader waits before it asks a cluster again that did not answer.
RETRY_S = 1.0
#: Output is announced by this daemon; what ends a run may be recorded by another one.
OUTPUT_WAIT_S = 2.0

#: Values that a query can contain without quoting.
_PLAIN = re.compile(r"[\w./@:+-]{1,200}", re.ASCII)


class TemporalHistory:
    """Implements `ports.History`."""

    def __init__(self, client: Client, others: ports.History, repositories: RepositoryStreams) -> None:
        self._client = client
        self._others = others
        self._repositories = repositories
        self.streams = StreamReader(client)
        self._unreadable: OrderedDict[str, None] = OrderedDict()

    async def read(self, stream: StreamName, first: int = 1, limit: int | None = None) -> list[Record]:
        """See the port."""
        if (repository := self._repositories.of_stream(stream)) is not None:
            return list(islice(repository.ledger.read(max(first, 1)), limit))
        if not _is_run(stream):
            return await self._others.read(stream, first, limit)
        stored = await self.streams.read(stream)
        facts = terminated_runs.facts(stored) if stored is not None else ()
        begin = max(first, 1) - 1
        selected = facts[begin : None if limit is None else begin + limit]
        return [_record(stream, begin + index, fact) for index, fact in enumerate(selected, 1)]

    async def head(self, stream: StreamName) -> int:
        """See the port."""
        if (repository := self._repositories.of_stream(stream)) is not None:
            return repository.ledger.count
        if not _is_run(stream):
            return await self._others.head(stream)
        stored = await self.streams.read(stream)
        return len(terminated_runs.facts(stored)) if stored is not None else 0

    async def follow(self, stream: StreamName, after: int) -> AsyncIterator[Record]:
        """See the port."""
        if (repository := self._repositories.of_stream(stream)) is not None:
            while True:
                change = repository.next_change
                for record in repository.ledger.read(after + 1):
                    after = record.position
                    yield record
                await change.wait()
        if not _is_run(stream):
            async for record in self._others.follow(stream, after):
                yield record
            return
        while True:
            position = 0
            try:
                async for facts in self.streams.follow(stream):
                    for fact in facts:
                        position += 1
                        if position > after:
                            after = position
                            yield _record(stream, position, fact)
            except EndedError:
                break
            except (Retryable, NotFoundError):
                pass
            # The stream has continued as a new execution, or cannot be read at the moment.
            await asyncio.sleep(RETRY_S)
        # Of a terminated run, the end has not been seen yet.
        for record in await self.read(stream, after + 1):
            yield record
        # Nothing follows, and the port says that this never ends.
        await asyncio.Event().wait()

    async def output_grew(self, run: RunId) -> None:
        """See the port."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(OUTPUT_WAIT_S):
                await self._others.output_grew(run)

    async def plan(self, plan_hash: str) -> bytes | None:
        """See the port."""
        return self.streams.plan(plan_hash) or await self._others.plan(plan_hash)

    async def run(self, run: RunId) -> RunSummary | None:
        """See the port."""
        try:
            with reported():
                found = await self._client.get_workflow_handle(run_stream(run)).describe()
        except NotFoundError:
            return None
        return await self._row(found, found.raw_description.workflow_execution_info.memo)

    async def stalled(self, run: RunId) -> str:
        """Why the run is stalled; empty if it is not, or if there is no such run."""
        stream = run_stream(run)
        try:
            with reported():
                found = await self._client.get_workflow_handle(stream).describe()
        except NotFoundError:
            return ""
        return await stalled_text(self._client, stream, found.raw_description.workflow_execution_info.memo)

    async def runs(
        self, selected: RunFilter, *, before: RunId | None = None, limit: int
    ) -> tuple[list[RunSummary], RunId | None]:
        """See the port."""
        rows = await self._search(_query(selected))
        found = [row for row in rows if (before is None or row.id < before) and selected.matches(row)]
        found.sort(key=lambda row: row.id, reverse=True)
        page = found[:limit]
        return page, page[-1].id if len(found) > len(page) else None

    async def count_runs(self, selected: RunFilter) -> RunCounts:
        """See the port. Only the newest `ROWS_EXAMINED_MAX` are counted."""
        rows = await self._search(_query(selected))
        counts = Counter((row.conclusion or row.status).value for row in rows if selected.matches(row))
        return RunCounts(counts=dict(counts), total=sum(counts.values()), has_more=len(rows) >= ROWS_EXAMINED_MAX)

    async def open_runs(self, limit: int) -> list[RunSummary]:
        """See the port."""
        rows = await self._search(f"{RUNS} AND ExecutionStatus = 'Running'")
        return sorted(rows, key=lambda row: row.id)[:limit]

    async def count_open(self, repository: str | None = None) -> int:
        """How many runs are open, a moment late; of one repository if it is given."""
        query = f"{RUNS} AND ExecutionStatus = 'Running'"
        if repository is not None:
            query += f" AND WaterflowRepository = '{repository}'" if _PLAIN.fullmatch(repository) else ""
        with reported():
            return (await self._client.count_workflows(query)).count

    async def runs_by_prefix(self, prefix: str, limit: int) -> list[RunId]:
        """See the port."""
        upper = prefix.upper()
        if not upper.isalnum() or not upper.isascii():
            return []
        query = f"WorkflowType = '{messages.WORKFLOW_TYPE}' AND WorkflowId STARTS_WITH '{run_turns.PREFIX}{upper}'"
        found: dict[RunId, None] = {}
        with reported():
            async for execution in self._client.list_workflows(query, limit=ROWS_EXAMINED_MAX):
                run = execution.id.removeprefix(run_turns.PREFIX)
                if is_run_id(run):
                    found[RunId(run)] = None
        return sorted(found)[:limit]

    async def run_for_key(self, key: str, repository: str | None) -> RunId | None:
        """See the port."""
        return self._repositories.of(repository).ledger.run_for_key(key)

    async def _search(self, query: str) -> list[RunSummary]:
        found: dict[RunId, RunSummary] = {}
        with reported():
            async for execution in self._client.list_workflows(query, limit=ROWS_EXAMINED_MAX):
                row = await self._listed_row(execution)
                # An execution that has just been continued may be listed beside the next one.
                if row is not None and (row.id not in found or found[row.id].seq < row.seq):
                    found[row.id] = row
        return list(found.values())

    async def _listed_row(self, execution: WorkflowExecution) -> RunSummary | None:
        """None for a run that has no row here; one that cannot be read is left out, so that lists show the others."""
        try:
            return await self._row(execution, execution.raw_info.memo)
        except Stalled as error:
            if execution.id not in self._unreadable:
                self._unreadable[execution.id] = None
                if len(self._unreadable) > UNREADABLE_MAX:
                    self._unreadable.popitem(last=False)
                logger.error("%s is missing in lists: %s", execution.id, error.text)
            return None

    async def _row(self, execution: WorkflowExecution, memo: Memo) -> RunSummary | None:
        """Raises `Stalled` WF810 or WF401 for a row that cannot be read."""
        payload = memo.fields.get(run_turns.ROW_MEMO)
        if payload is None:
            return None
        try:
            [content] = await bound(self._client, execution.id).decode([payload], [bytes])
            row: RunSummary = run_turns.ROWS.unpack(content)
        except UnreadableError as error:
            raise error.stalled(f"the row of {execution.id}") from error
        except (KeyError, RuntimeError, TypeError) as error:
            # Temporal's client has no type of its own for a payload that the codec has refused.
            text = (
                f"the row of {execution.id} was changed, or no daemon has sealed it; its event history is not affected"
            )
            raise Stalled("WF810", text) from error
        return terminated_runs.row(row, execution)


def _is_run(stream: StreamName) -> bool:
    return stream.startswith(run_turns.PREFIX)


def _record(stream: StreamName, position: int, fact: bytes) -> Record:
    found = run_turns.FACTS.unpack(stream, fact)
    return Record(seq=position, stream=stream, position=position, at=found.at, event=found.event)


def _query(selected: RunFilter) -> str:
    """The part of a filter that Temporal can search for; the rows are filtered again."""
    parts = [RUNS, "ExecutionStatus != 'ContinuedAsNew'"]
    exact: dict[str, Any] = {
        "WaterflowPath": selected.path,
        "WaterflowRepository": selected.repository,
        "WaterflowTrigger": selected.trigger,
    }
    parts += [f"{name} = '{value}'" for name, value in exact.items() if value is not None and _PLAIN.fullmatch(value)]
    words = sorted(selected.words)
    if words and all(_PLAIN.fullmatch(word) for word in words):
        either = [f"{name} = '{word}'" for word in words for name in ("WaterflowStatus", "WaterflowConclusion")]
        # Of a terminated run they say what they said before.
        parts.append(f"({' OR '.join([*either, terminated_runs.QUERY])})")
    return " AND ".join(parts)
