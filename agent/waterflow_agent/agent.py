"""The composition of an agent, and its life: the only module that names every part.

Order at the start: the data directory and its lock, the keys, the enrollment if there was none, the journal, the runner and
what it holds, and only then the link. Order at the end: the link, the runner's connection (the runner and its steps stay),
the journal.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from waterflow_agent import enrollment, keys, machine
from waterflow_agent.checkout.file_requests import FileRequests
from waterflow_agent.checkout.service import CheckoutService
from waterflow_agent.checkout.tree_store import TreeStore
from waterflow_agent.config import Config
from waterflow_agent.errors import Stalled
from waterflow_agent.execution.desk import Desk
from waterflow_agent.execution.process_steps import ProcessSteps
from waterflow_agent.execution.runner_client import RunnerClient
from waterflow_agent.execution.step_directories import StepDirectories
from waterflow_agent.execution.working_directories import WorkingDirectories
from waterflow_agent.keys import KeyPair
from waterflow_agent.nodes.own.catalog import NodeCatalog
from waterflow_agent.session.link import Link
from waterflow_agent.state import secret_store, status
from waterflow_agent.state.journal import Journal
from waterflow_agent.state.ledger import Ledger
from waterflow_agent.state.secret_store import SecretStore

logger = logging.getLogger(__name__)

#: How often the status file and the working directories are looked at.
STATUS_S = 1.0
SWEEP_S = 60.0
#: How often the own nodes of this server are looked at, and how long the first look may keep it from connecting.
NODES_S = 1.0
NODES_FIRST_S_MAX = 20.0


class Agent:
    """One agent. `run` lives until it is cancelled, `stop` is called, or something makes it impossible to go on."""

    def __init__(self, config: Config, environment: Mapping[str, str] | None = None) -> None:
        self._config = config
        self._environment = os.environ if environment is None else environment
        self._data_dir = Path(config.data_dir)
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """Ends `run` in good order; the steps go on under the runner."""
        self._stop.set()

    async def run(self) -> None:
        """Raises what makes it impossible to go on: `Rejected` and `Stalled` need a person."""
        prepare_data_dir(self._data_dir)
        journal = Journal(self._data_dir / "journal")
        try:
            pair = keys.load_or_create(self._data_dir)
            server = await self._unless_stopped(self._find_server(pair))
            if server is not None:
                await self._serve(journal, pair, server)
        finally:
            journal.close()

    async def _find_server(self, pair: KeyPair) -> enrollment.Server:
        server = enrollment.load(self._data_dir)
        if server is None:
            settings = enrollment.enrollment_settings(self._config, self._environment)
            logger.info("this agent's key is %s", pair.fingerprint)
            server = await enrollment.enroll(self._config, settings, pair)
        return server

    async def _serve(self, journal: Journal, pair: KeyPair, server: enrollment.Server) -> None:
        runner_dir = self._data_dir / "runner"
        runner_dir.mkdir(mode=0o700, exist_ok=True)
        supervisor = RunnerClient(runner_dir, starts_runner=self._config.runner == "own")
        workspaces = WorkingDirectories(self._data_dir / "work")
        directories = StepDirectories(self._data_dir / "steps", workspaces.discard)
        steps = ProcessSteps(supervisor, workspaces, directories, self._environment)
        steps.agent_name = server.name
        ledger = Ledger(boot_id=machine.boot_id(), instance=os.urandom(8).hex(), slots=self._config.slots)
        book = SecretStore(secret_store.place(self._data_dir, self._environment))
        store = TreeStore(self._data_dir / "trees", self._config.cache_mb << 20, workspaces.discard)
        checkouts = CheckoutService(store, FileRequests(lambda wanted: link.send(wanted)), workspaces)
        catalog = NodeCatalog(self._config.node_path, self._environment)
        desk = Desk(
            config=self._config,
            ledger=ledger,
            journal=journal,
            steps=steps,
            checkouts=checkouts,
            book=book,
            catalog=catalog,
        )
        desk.restore(*journal.read())
        link = Link(
            endpoint=self._config.server or server.work_endpoint,
            server_key=server.server_key,
            keys=pair,
            desk=desk,
            new_token=lambda: os.urandom(16).hex(),
        )
        desk.link = link
        is_stocked = asyncio.Event()
        tasks: list[asyncio.Future[None]] = [
            asyncio.create_task(self._listen(supervisor, desk), name="runner-reports"),
            asyncio.create_task(self._stock(catalog, link, desk, is_stocked), name="nodes"),
            asyncio.create_task(self._talk(link, desk, is_stocked), name="link"),
            asyncio.create_task(self._show(pair, server, link, desk, catalog), name="status"),
            asyncio.create_task(self._sweep(workspaces, desk), name="workspaces"),
            desk.failure,
        ]
        try:
            await self._until_stopped(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await desk.close()
            await supervisor.close()

    async def _listen(self, supervisor: RunnerClient, desk: Desk) -> None:
        await supervisor.connect()
        while batch := await supervisor.receive():
            desk.on_reports(batch)

    async def _stock(self, catalog: NodeCatalog, link: Link, desk: Desk, is_stocked: asyncio.Event) -> None:
        while True:
            await catalog.refresh()
            is_stocked.set()
            if desk.is_outdated:
                # Nothing happens while no session is open; the next look comes soon enough.
                link.greet_again()
            await asyncio.sleep(NODES_S)

    async def _talk(self, link: Link, desk: Desk, is_stocked: asyncio.Event) -> None:
        await desk.settled.wait()
        with contextlib.suppress(TimeoutError):
            # So that a server that comes back is not taken for one without its nodes.
            await asyncio.wait_for(is_stocked.wait(), NODES_FIRST_S_MAX)
        await link.run()
        # The daemon wants no session with this agent: what runs goes on, and a person has to look.
        logger.error("not connecting again: %s", link.state)
        await self._stop.wait()

    async def _show(
        self, pair: KeyPair, server: enrollment.Server, link: Link, desk: Desk, catalog: NodeCatalog
    ) -> None:
        shown: status.Status | None = None
        while True:
            now = msgspec.structs.replace(self._status(pair, server, link, desk), nodes=catalog.reported)
            if shown is None or _without_time(now) != _without_time(shown):
                try:
                    status.write(self._data_dir, now)
                except OSError as error:
                    logger.warning("cannot write the status: %s", error)
                shown = now
            await asyncio.sleep(STATUS_S)

    def _status(self, pair: KeyPair, server: enrollment.Server, link: Link, desk: Desk) -> status.Status:
        return status.Status(
            pid=os.getpid(),
            process_started=status.process_started(os.getpid()),
            at=time.time_ns() // 1_000_000,
            name=server.name,
            fingerprint=pair.fingerprint,
            server=link.endpoint,
            is_connected=link.is_open,
            link=link.state,
            groups=desk.groups or server.groups,
            slots=self._config.slots,
            attempts=desk.attempts(),
        )

    async def _sweep(self, workspaces: WorkingDirectories, desk: Desk) -> None:
        await desk.settled.wait()
        while True:
            runs = {entry.key.run for entry in desk.ledger}
            workspaces.retire_unused(runs, time.monotonic())
            await asyncio.to_thread(workspaces.empty_trash)
            await asyncio.sleep(SWEEP_S)

    async def _unless_stopped(self, work: Coroutine[None, None, enrollment.Server]) -> enrollment.Server | None:
        task = asyncio.create_task(work, name="enrollment")
        try:
            await self._until_stopped([task])
            return task.result() if task.done() else None
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _until_stopped(self, tasks: Sequence[asyncio.Future[Any]]) -> None:
        """Waits for `stop` or the first task that ends; raises what it ended with."""
        stopping = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            done, _ = await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            stopping.cancel()


def prepare_data_dir(path: Path) -> None:
    """Makes the data directory, or takes other users' permissions on it away. Raises `Stalled` WF317 when it cannot be used."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if path.stat().st_mode & 0o077:
            os.chmod(path, 0o700)
    except OSError as error:
        text = (
            f"data-dir {path} cannot be used: {error.strerror}; make it for the agent's user, or name another directory"
        )
        raise Stalled("WF317", text) from error


def _without_time(shown: status.Status) -> status.Status:
    return msgspec.structs.replace(shown, at=0)
