"""Leads repositories: carries out their activity `keep`, whose body is the loop of the repository.

Rules of this file:

- A daemon that carries out `keep` begins a term, and leads until the activity is taken from it or the term has ended. Its loop,
  schedules and triggers begin anew with each term, so nothing that was decided in an earlier one is recorded in a later one.
- While it does not lead a repository, it follows it: it reads the refs, for its own mirror, and compiles the plans.
- The leader starts decided runs whose daemon has ended before it could.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import timedelta

from temporalio import activity
from temporalio.client import Client
from temporalio.exceptions import ApplicationError
from temporalio.worker import Worker

from waterflow_agent.errors import WaterflowError
from waterflowd.reconcile.loop import Reconciler
from waterflowd.temporal import orders, workers
from waterflowd.temporal.received_orders import read
from waterflowd.temporal.repositories.ledger import DecidedRun
from waterflowd.temporal.repositories.streams import RepositoryStream, RepositoryStreams

_logger = logging.getLogger("waterflow.temporal")

HEARTBEAT_S = 3.0
#: How often the leader looks for decided runs that nobody has started.
SWEEP_S = 30.0
#: More repositories than a daemon has.
_REPOSITORIES_MAX = 1_000
_RETRY_S = 2.0


class Leadership:
    """Leads and follows the repositories of one daemon."""

    def __init__(
        self,
        client: Client,
        streams: RepositoryStreams,
        reconciler: Reconciler,
        daemon: str,
        start: Callable[[DecidedRun], Awaitable[object]],
    ) -> None:
        """`daemon` names it to people; `start` starts a decided run, also once more."""
        self._client = client
        self._streams = streams
        self._reconciler = reconciler
        self._daemon = daemon
        self._start = start
        #: What follows a repository, by its name.
        self._following: dict[str, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Follows or leads all repositories until it is cancelled."""
        worker = Worker(
            self._client,
            task_queue=orders.REPOSITORIES_QUEUE,
            activities=[self.keep],
            max_concurrent_activities=_REPOSITORIES_MAX,
            max_heartbeat_throttle_interval=timedelta(seconds=HEARTBEAT_S),
            default_heartbeat_throttle_interval=timedelta(seconds=HEARTBEAT_S),
            graceful_shutdown_timeout=timedelta(0),
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                for name in self._reconciler.loops:
                    self._follow(name)
                    tasks.create_task(self._watch(self._streams.of(name)), name=f"changes of repository {name}")
                tasks.create_task(workers.run(worker), name="leadership")
        finally:
            for task in self._following.values():
                task.cancel()
            await asyncio.gather(*self._following.values(), return_exceptions=True)
            await self._reconciler.close()

    def _follow(self, name: str) -> None:
        loop = self._reconciler.loops.get(name)
        if loop is not None:
            self._following[name] = asyncio.create_task(loop.follow(), name=f"follow repository {name}")

    async def _watch(self, stream: RepositoryStream) -> None:
        """Folds what other daemons have recorded."""
        loop = self._reconciler.loops[stream.name]
        requests = 0
        while True:
            change, position = stream.next_change, loop.repository.position
            await loop.repository.fold()
            is_requested = stream.ledger.requests != requests
            requests = stream.ledger.requests
            if is_requested if stream.term is not None else loop.repository.position != position:
                loop.request_reconciliation()
            await change.wait()

    @activity.defn(name=orders.KEEP)
    async def keep(self, content: bytes) -> None:
        """Leads a repository until another daemon does."""
        order = read(content, orders.KeepOrder)
        name = order.repository
        if name and name not in self._reconciler.loops:
            text = f"the configuration of daemon {self._daemon} has no repository {name}"
            raise ApplicationError(text, type="not-configured")
        stream = self._streams.of(name)
        try:
            stream.term = await stream.lead(self._daemon)
            _logger.info("leads repository %s from now on (term %d)", name, stream.term, extra={"repository": name})
            await self._lead(stream, stream.term)
        except WaterflowError as error:
            raise ApplicationError(error.text, type=error.code) from error
        finally:
            stream.term = None

    async def _lead(self, stream: RepositoryStream, term: int) -> None:
        name = stream.name
        following = self._following.pop(name, None)
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        work = [self._beat(), self._sweep(stream), self._until_replaced(stream, term)]
        if name in self._reconciler.loops:
            work.append(self._reconciler.lead(name))
        tasks = [asyncio.create_task(each) for each in work]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
            self._follow(name)
            _logger.info("no longer leads repository %s", name, extra={"repository": name})
        for error in ended:
            if isinstance(error, Exception):
                raise error

    @staticmethod
    async def _beat() -> None:
        while True:
            activity.heartbeat()
            await asyncio.sleep(HEARTBEAT_S)

    @staticmethod
    async def _until_replaced(stream: RepositoryStream, term: int) -> None:
        while stream.ledger.term == term:
            await stream.next_change.wait()
        raise ApplicationError(f"daemon {stream.ledger.leader} leads repository {stream.name} now", type="replaced")

    async def _sweep(self, stream: RepositoryStream) -> None:
        """Starts what was decided and perhaps not started, and records what has been."""
        while True:
            try:
                started = []
                for decided in list(stream.ledger.unstarted.values()):
                    await self._start(decided)
                    started.append(decided.run)
                await stream.runs_are_started(started)
            except WaterflowError as error:
                _logger.warning("repository %s: decided runs are delayed: %s", stream.name, error)
            await asyncio.sleep(SWEEP_S)
