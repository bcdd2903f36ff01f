"""Answers the requests of agents for artifacts.

Rules of this file:

- An agent reads and writes only artifacts of a run of which it has an open attempt at that moment. The attempt names the run;
  a request cannot name another one, nor a block that is not part of one of the run's artifacts. For caches it names the
  repository and the refs (`caches/origins.py`).
- Each request has one answer, and no state is kept between requests: after a loss the agent asks again. Every action can be
  repeated.
- Disks are slow: one thread writes, and one reads. What waits for them is bounded, for each agent and in total; whatever
  exceeds that is answered at once, with a time to ask again. So artifacts take a bounded amount of memory.
- Steps come first: while some are in progress, blocks are spaced (`waterflowd/pacing.py`).
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable
from typing import TypeVar

from waterflow_agent.artifacts.content import BlockTable
from waterflow_agent.errors import Rejected, Stalled, WaterflowError
from waterflow_agent.wire import messages
from waterflowd import ports
from waterflowd.artifacts.blocks import scope_of
from waterflowd.artifacts.caches.origins import CacheOrigins
from waterflowd.artifacts.caches.requests import CacheRequests
from waterflowd.artifacts.metrics import ArtifactMetrics
from waterflowd.artifacts.records import ArtifactRecord
from waterflowd.artifacts.reruns import KeptArtifacts
from waterflowd.artifacts.storage import DirectoryStorage, Storage, StoreThreads
from waterflowd.artifacts.store import ArtifactStore
from waterflowd.model.ids import AgentId, AttemptId, RunId
from waterflowd.model.records import HeldAttempt
from waterflowd.pacing import Pacing

logger = logging.getLogger("waterflow.artifacts")

#: Concurrent requests of one agent: those of its session, and of the sessions that it replaced.
AGENT_REQUESTS_MAX = 4 * messages.ARTIFACT_REQUESTS_MAX
#: Of all agents: 64 MiB of blocks.
REQUESTS_MAX = 256
RETRY_MS = 500
#: What an attempt may store beyond the largest artifact: its index, and what another try sends again.
_ATTEMPT_SLACK_BYTES = 256 << 20
#: Attempts whose stored bytes are counted, and artifacts whose tables are in memory.
_ATTEMPTS_MAX, _TABLES_MAX = 4_096, 8
#: Digests in one list of artifacts: 1 MiB.
_LISTED_MAX = 32_768
_BLOCKS = messages.StoreBlock | messages.ReadBlock | messages.ReadCacheBlock
_NOT_OPEN = "the attempt that uses the artifact is not open on this server"
Result = TypeVar("Result")


class ArtifactServer:
    """See the file's docstring."""

    def __init__(
        self,
        attempts: ports.Attempts,
        link: ports.Link,
        clock: ports.Clock,
        store: ArtifactStore | None,
        kept: KeptArtifacts | None = None,
        caches: CacheRequests | None = None,
        origins: CacheOrigins | None = None,
        storage: Storage | None = None,
        pacing: Pacing | None = None,
    ) -> None:
        """Without a store, which only the log engine has, requests are refused, except for the origin of a run.

        `storage` has the blocks of artifacts, by default the store; those of caches are always in the store. Without `pacing`,
        transfers are as fast as they can be.
        """
        self._attempts = attempts
        self._link = link
        self._clock = clock
        self._store = store
        self._kept = kept
        self._caches = caches
        self._origins = origins
        self._open: Counter[AgentId] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._stored: OrderedDict[AttemptId, int] = OrderedDict()
        self._tables: OrderedDict[tuple[RunId, str], tuple[ArtifactRecord, BlockTable]] = OrderedDict()
        self.metrics = ArtifactMetrics()
        self._threads = StoreThreads() if storage is None else storage.threads
        self._directory = None if store is None else DirectoryStorage(store, self._threads)
        self._storage = self._directory if storage is None else storage
        self._pacing = pacing

    def requested(self, agent: AgentId, request: messages.ArtifactRequest) -> None:
        """An agent asks for something."""
        key = request.key
        if self._store is None and not isinstance(request.action, messages.FindCacheOrigin):
            self._answer_at_once(agent, request, "WF335", _unavailable(request.action))
            return
        try:
            held = self._attempts.find(agent, key.attempt)
        except WaterflowError as error:
            self._answer_at_once(agent, request, error.code, error.text, RETRY_MS)
            return
        if held is None or not held.is_open or not held.is_of(agent, key.epoch):
            # Usually the attempt has just ended.
            self._link.reject(agent, "WF219", _NOT_OPEN)
            self._answer_at_once(agent, request, "WF219", _NOT_OPEN)
            return
        if self._open[agent] >= AGENT_REQUESTS_MAX or len(self._tasks) >= REQUESTS_MAX:
            self._answer_at_once(agent, request, "WF219", "too many requests for artifacts are in progress", RETRY_MS)
            return
        self._open[agent] += 1
        task = asyncio.create_task(self._answer(agent, request, held, self._store), name="artifact for an agent")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def write(self, call: Callable[[], Result]) -> Result:
        """Runs a call in the thread that changes the store."""
        return await self._threads.write(call)

    async def read(self, call: Callable[[], Result]) -> Result:
        """Runs a call in a thread that reads the store."""
        return await self._threads.read(call)

    async def close(self) -> None:
        """Drops the requests in progress; what a thread is writing is written to its end."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._threads.close()

    def _answer_at_once(
        self, agent: AgentId, request: messages.ArtifactRequest, code: str, text: str, after_ms: int = 0
    ) -> None:
        self._send(agent, messages.ArtifactResponse(request.key, request.number, None, code, text, after_ms))

    def _send(self, agent: AgentId, response: messages.ArtifactResponse) -> None:
        if response.code:
            self.metrics.rejected[response.code] += 1
        self._link.send(agent, [response])

    async def _answer(
        self, agent: AgentId, request: messages.ArtifactRequest, held: HeldAttempt, store: ArtifactStore | None
    ) -> None:
        try:
            work = self._carry_out(request, held, store)
            if self._pacing is not None and isinstance(request.action, _BLOCKS):
                work = self._pacing.spaced(work)
            response = messages.ArtifactResponse(request.key, request.number, await work)
        except WaterflowError as error:
            response = messages.ArtifactResponse(request.key, request.number, None, error.code, error.text)
        except OSError as error:
            text = f"the daemon cannot use the artifact on its disk: {error.strerror}"
            logger.error("%s: %s", text, error, extra={"agent": agent, "run": request.key.attempt.run})
            response = messages.ArtifactResponse(request.key, request.number, None, "WF304", text)
        except Exception:
            # The supervision point per peer: a bug that one artifact triggers fails only the steps that use it.
            logger.exception("internal error in a request of %s", request.key, extra={"agent": agent})
            text = "internal error; see the daemon's log"
            response = messages.ArtifactResponse(request.key, request.number, None, "WF600", text)
        finally:
            self._open[agent] -= 1
            if not self._open[agent]:
                del self._open[agent]
        self._send(agent, response)

    def _carry_out(
        self, request: messages.ArtifactRequest, held: HeldAttempt, store: ArtifactStore | None
    ) -> Awaitable[messages.ArtifactResult]:
        name, action = held.name, request.action
        if isinstance(action, messages.FindCacheOrigin):
            return self._find_origin(held)
        storage = self._directory if _is_for_cache(action) else self._storage
        assert store is not None, "checked when the request arrived"
        assert storage is not None, "where the store is"
        scope = scope_of(held.repository, name.run)
        match action:
            case messages.BeginArtifact():
                return self._begin(storage, name, action)
            case messages.FindBlocks():
                return storage.find(scope, action, lambda size: self._allow(store, name, size))
            case messages.StoreBlock():
                return self._put(store, storage, name, scope, action)
            case messages.CommitArtifact():
                return self._commit(storage, name, scope, action)
            case messages.ListArtifacts():
                return self._list(store, name.run, action)
            case messages.ReadBlock():
                return self._read_block(store, storage, name.run, action)
            case messages.BeginCache() | messages.CommitCache() | messages.FindCache() | messages.ReadCacheBlock():
                assert self._caches is not None, "caches are where artifacts are"
                return self._caches.carry_out(held, action, self)

    async def _find_origin(self, held: HeldAttempt) -> messages.CacheOrigin:
        assert self._origins is not None, "every daemon has it"
        found = await self._origins.of(held)
        return messages.CacheOrigin(found.scope + found.source, found.refs)

    async def _begin(
        self, storage: Storage, name: AttemptId, action: messages.BeginArtifact
    ) -> messages.ArtifactAccepted:
        await self._keep(name.run)
        await storage.begin(name, action, self._clock.now())
        return messages.ArtifactAccepted()

    async def _put(
        self, store: ArtifactStore, storage: Storage, name: AttemptId, scope: str, action: messages.StoreBlock
    ) -> messages.ArtifactAccepted:
        self._allow(store, name, len(action.data))
        await storage.put(scope, action)
        self.metrics.transferred["received"] += len(action.data)
        return messages.ArtifactAccepted()

    def _allow(self, store: ArtifactStore, name: AttemptId, size: int) -> None:
        """Counts what an attempt stores; raises `Rejected` WF330 if that is more than the largest artifact."""
        stored = self._stored.get(name, 0) + size
        if stored > store.limits.artifact_bytes + _ATTEMPT_SLACK_BYTES:
            raise Rejected("WF330", "the step has sent more than an artifact may have (artifacts.artifact-max-bytes)")
        self._stored[name] = stored
        self._stored.move_to_end(name)
        if len(self._stored) > _ATTEMPTS_MAX:
            self._stored.popitem(last=False)

    async def _commit(
        self, storage: Storage, name: AttemptId, scope: str, action: messages.CommitArtifact
    ) -> messages.ArtifactAccepted:
        record = await storage.commit(name, scope, action, self._clock.now())
        self._stored.pop(name, None)
        self._tables.pop((name.run, record.name), None)
        logger.info(
            "artifact %s: %d files, %d bytes",
            record.name,
            record.files,
            record.size,
            extra={"run": name.run, "job": name.job, "step": name.step},
        )
        return messages.ArtifactAccepted()

    async def _list(self, store: ArtifactStore, run: RunId, action: messages.ListArtifacts) -> messages.ArtifactsListed:
        await self._keep(run)
        now = self._clock.now()
        found = await self.read(lambda: store.of_run(run, now))
        if action.name:
            named = [record for record in found if record.name == action.name]
            if not named:
                names = ", ".join(record.name for record in found[:10]) or "none"
                text = f'the run has no artifact "{action.name}" (it has: {names}); the job that stores it belongs in needs'
                raise Rejected("WF334", text)
            found = named
        if sum(len(record.table) + len(record.listing) for record in found) > _LISTED_MAX:
            raise Rejected(
                "WF330", "the run has too many large artifacts to list them together; fetch each by its name"
            )
        return messages.ArtifactsListed([_row(record) for record in found])

    async def _read_block(
        self, store: ArtifactStore, storage: Storage, run: RunId, action: messages.ReadBlock
    ) -> messages.BlockRead | messages.BlockAddresses:
        key = (run, action.name)
        known = self._tables.get(key)
        if known is None or known[0].digest != action.digest:
            now = self._clock.now()
            known = await self.read(lambda: _open(store, run, action, now))
            self._tables[key] = known
            if len(self._tables) > _TABLES_MAX:
                self._tables.popitem(last=False)
        else:
            self._tables.move_to_end(key)
        try:
            found = await storage.read(*known, action)
        except Stalled:
            # If the artifact was removed meanwhile, nothing is damaged; this says so.
            self._tables.pop(key, None)
            now = self._clock.now()
            await self.read(lambda: _open(store, run, action, now))
            raise
        if isinstance(found, messages.BlockRead):
            self.metrics.transferred["sent"] += len(found.data)
        return found

    async def _keep(self, run: RunId) -> None:
        if self._kept is not None:
            await self._kept.keep(run, self.write)


def _is_for_cache(action: messages.ArtifactAction) -> bool:
    return isinstance(action, messages.FindBlocks | messages.StoreBlock) and action.is_for_cache


def _unavailable(action: messages.ArtifactAction) -> str:
    if isinstance(action, messages.CacheAction):
        return "shared caches are not available on the Temporal engine; use scope: server"
    return "artifacts are not available on the Temporal engine; use the log engine, or file/transfer with s3://"


def _open(store: ArtifactStore, run: RunId, action: messages.ReadBlock, now: int) -> tuple[ArtifactRecord, BlockTable]:
    record = store.find(run, action.name, now)
    if record is None or record.digest != action.digest:
        raise Rejected("WF334", f'the artifact "{action.name}" was removed or replaced meanwhile')
    return record, store.table(record)


def _row(record: ArtifactRecord) -> messages.ArtifactRow:
    return messages.ArtifactRow(
        name=record.name,
        digest=record.digest,
        files=record.files,
        size=record.size,
        table=record.table,
        listing=record.listing,
    )
