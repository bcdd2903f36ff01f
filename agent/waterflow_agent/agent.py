"""The composition and life cycle of an agent: the only module that knows every part.

Order at the start: the data directory and its lock, the keys, the enrollment if necessary, the journal, the runner and the
attempts that it holds, and only then the link. While the disk is too full for one of these files, the agent waits. Order at the
end: the link, the connection to the runner, the journal. The runner and its steps keep running.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from waterflow_agent import durations, enrollment, keys, machine, token_file
from waterflow_agent.artifacts.relay import ArtifactRelay
from waterflow_agent.caches.server_entries import ServerEntries
from waterflow_agent.caches.service import ServerCaches
from waterflow_agent.checkout.file_requests import FileRequests
from waterflow_agent.checkout.service import CheckoutService
from waterflow_agent.checkout.tree_store import TreeStore
from waterflow_agent.clock import Clock
from waterflow_agent.config import Config, environment_of_agent, step_policy
from waterflow_agent.core import Core
from waterflow_agent.errors import Rejected, Retryable, Stalled
from waterflow_agent.execution.docker_engine import DockerEngineMonitor
from waterflow_agent.execution.job_containers import JobContainers
from waterflow_agent.execution.process_steps import ProcessSteps
from waterflow_agent.execution.runner_client import RunnerClient
from waterflow_agent.execution.sharing import UserCommands
from waterflow_agent.execution.step_directories import StepDirectories
from waterflow_agent.execution.step_policy import account_of
from waterflow_agent.execution.working_directories import WorkingDirectories
from waterflow_agent.keys import KeyPair
from waterflow_agent.nodes import shell
from waterflow_agent.nodes.own.catalog import NodeCatalog
from waterflow_agent.session.dealer import SocketFactory
from waterflow_agent.session.link import Link
from waterflow_agent.session.server_keys import ServerKeys
from waterflow_agent.state import installation, secret_store, status
from waterflow_agent.state.journal import DISK_FULL_ERRORS, Journal
from waterflow_agent.state.ledger import Ledger
from waterflow_agent.state.secret_store import SecretStore
from waterflow_agent.wire import messages

logger = logging.getLogger(__name__)

#: How often the status file is updated if needed, and how often unused working directories are deleted.
STATUS_S = 1.0
SWEEP_S = 60.0
#: How often the nodes and the Docker engine of this server are checked for changes, and how long the first checks may delay
#: the first connection.
CHANGES_S = 1.0
FIRST_S_MAX = 20.0
#: Between attempts to write what an agent needs to start on a full disk.
SPACE_RETRY_S = 2.0
#: What the daemon shows of an agent that is draining.
DRAINING = "draining until it is restarted"
#: Between attempts to start a step runner.
RUNNER_RETRY_S = 5.0


class RefusedByServer(Rejected):
    """The server does not accept this agent: another start without a change would fail again."""


class Agent:
    """One agent. `run` returns when it is cancelled or `stop` is called, or raises an error that it cannot recover from."""

    def __init__(self, config: Config, environment: Mapping[str, str] | None = None) -> None:
        self._config = config
        self._environment = os.environ if environment is None else environment
        self._data_dir = Path(config.data_dir)
        self._stop = asyncio.Event()
        self._journal: Journal | None = None
        self._is_draining = False
        self._enrolled: _EnrolledAgent | None = None

    def drain(self) -> None:
        """Starts nothing new from now on, until this process ends. Running steps continue. Tells the daemon at once."""
        self._is_draining = True
        if self._enrolled is not None:
            self._enrolled.announce_changes()

    def stop(self) -> None:
        """Ends `run` in an orderly way; the steps keep running under the runner."""
        self._stop.set()

    async def run(self) -> None:
        """Runs the agent. Raises `Rejected` and `Stalled` when a person has to do something."""
        try:
            agent = await self._unless_stopped(self._prepare())
            if agent is not None:
                await self._serve(agent)
        finally:
            if self._journal is not None:
                self._journal.close()

    async def _prepare(self) -> _EnrolledAgent:
        """Prepares everything that has to be on disk before the agent may connect; waits while the disk is full."""
        is_waiting = False
        while True:
            try:
                return await self._prepare_once()
            except OSError as error:
                if error.errno not in DISK_FULL_ERRORS:
                    raise
                if not is_waiting:
                    logger.error(
                        "the disk is full: this agent waits for space for its files in %s [WF302]", self._data_dir
                    )
                is_waiting = True
            await asyncio.sleep(SPACE_RETRY_S)

    async def _prepare_once(self) -> _EnrolledAgent:
        """Raises `OSError` when the disk is full. What exists by then is used the next time."""
        prepare_data_dir(self._data_dir)
        if self._journal is None:
            self._journal = Journal(self._data_dir / "journal")
        pair = keys.load_or_create(self._data_dir)
        # Before the enrollment, which is for this installation.
        identity = installation.load_or_create(self._data_dir)
        server = await self._find_server(pair)
        self._enrolled = _EnrolledAgent(
            self._config, self._environment, self._journal, pair, server, identity, lambda: self._is_draining
        )
        return self._enrolled

    async def _find_server(self, pair: KeyPair) -> enrollment.Server:
        server = enrollment.load(self._data_dir)
        if server is not None and self._config.join_token_file:
            await asyncio.to_thread(token_file.discard_spent, Path(self._config.join_token_file), server.spent_token)
        if server is None:
            settings = enrollment.enrollment_settings(self._config, self._environment)
            logger.info("this agent's key is %s", pair.fingerprint)
            server = await enrollment.enroll(
                self._config, settings, pair, lambda text: self._on_enrolling(settings, pair, text)
            )
        return server

    def _on_enrolling(self, settings: enrollment.EnrollmentSettings, pair: KeyPair, text: str) -> None:
        logger.info("%s", text)
        displayed = status.Status(
            pid=os.getpid(),
            process_started=status.process_started(os.getpid()),
            at=Clock().wall_ms(),
            name=self._config.name,
            fingerprint=pair.fingerprint,
            server=settings.endpoint,
            server_fingerprint=keys.fingerprint(settings.server_key),
            state="enrolling",
            is_connected=False,
            link=text,
            groups=self._config.groups,
            slots=self._config.slots,
            attempts=[],
        )
        with contextlib.suppress(OSError):
            # On a full disk the log has to do.
            status.write(self._data_dir, displayed)

    async def _serve(self, agent: _EnrolledAgent) -> None:
        tasks: list[asyncio.Future[None]] = [
            asyncio.create_task(agent.handle_reports(), name="runner-reports"),
            asyncio.create_task(agent.refresh_nodes(), name="nodes"),
            asyncio.create_task(agent.watch_docker_engine(), name="docker-engine"),
            asyncio.create_task(agent.keep_connected(), name="link"),
            asyncio.create_task(agent.keep_status(), name="status"),
            asyncio.create_task(agent.delete_unused_directories(), name="working-directories"),
            asyncio.create_task(agent.remove_containers(), name="job-containers"),
            agent.failure,
        ]
        try:
            await self._until_stopped(tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await agent.close()

    async def _unless_stopped(self, work: Coroutine[None, None, _EnrolledAgent]) -> _EnrolledAgent | None:
        task = asyncio.create_task(work, name="preparation")
        try:
            await self._until_stopped([task])
            return task.result() if task.done() else None
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _until_stopped(self, tasks: Sequence[asyncio.Future[Any]]) -> None:
        """Waits for `stop` or for the first task that ends. Raises the task's error."""
        stopping = asyncio.create_task(self._stop.wait(), name="stop")
        try:
            done, _ = await asyncio.wait({stopping, *tasks}, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            stopping.cancel()


def _server_caches(config: Config, clock: Clock) -> ServerCaches | None:
    """The caches of this server; None if it keeps none."""
    if not config.server_caches_mb:
        return None
    keep_ms = durations.parse(config.server_caches_keep)
    entries = ServerEntries(Path(config.data_dir) / "caches", config.server_caches_mb << 20, keep_ms)
    return ServerCaches(entries, clock)


class _EnrolledAgent:
    """The parts of an agent that has a server; its methods are the agent's tasks."""

    def __init__(
        self,
        config: Config,
        environment: Mapping[str, str],
        journal: Journal,
        pair: KeyPair,
        server: enrollment.Server,
        identity: str,
        is_draining: Callable[[], bool],
    ) -> None:
        """`identity` is the id of the installation. Raises `OSError` when a directory cannot be created."""
        self._config = config
        self._is_draining = is_draining
        self._pair = pair
        self._server = server
        self._data_dir = Path(config.data_dir)
        self._clock = Clock()
        runner_dir = self._data_dir / "runner"
        runner_dir.mkdir(mode=0o700, exist_ok=True)
        self._runner = RunnerClient(runner_dir, starts_runner=config.runner == "own")
        self._workspaces = workspaces = WorkingDirectories(
            self._data_dir / "work", self._clock, config.keep_failed_mb << 20
        )
        directories = StepDirectories(self._data_dir / "steps", workspaces.discard)
        #: Why there is no runner, or "".
        self._problem = ""
        self._commands = UserCommands(self._runner)
        self._policy = step_policy(config)
        environment = environment_of_agent(config, environment)
        # The link is made later; no step asks before.
        artifacts = ArtifactRelay(lambda request: self._link.send(request), _server_caches(config, self._clock))
        inherited = shell.inherited(environment)
        self._containers = JobContainers(workspaces, self._commands, inherited)
        self._docker = DockerEngineMonitor(
            self._commands, lambda: self._policy.accounts(self._runner.abilities), inherited, self._clock
        )
        self._has_looked_for_docker = asyncio.Event()
        self._steps = steps = ProcessSteps(
            self._runner, workspaces, directories, environment, self._policy, artifacts, self._containers
        )
        steps.agent_name = server.name
        self._nodes = NodeCatalog(config.node_path, environment)
        self._has_nodes = asyncio.Event()
        self._server_keys = ServerKeys(
            server.server_key, server.old_server_keys, wall_ms=self._clock.wall_ms, store=self._store_server_keys
        )
        self._link = Link(
            endpoint=config.server or server.work_endpoint,
            sockets=SocketFactory(pair),
            server_keys=self._server_keys,
            new_token=lambda: os.urandom(16).hex(),
            clock=self._clock,
        )
        store = TreeStore(self._data_dir / "trees", config.cache_mb << 20, workspaces.discard)
        self._core = Core(
            ledger=Ledger(boot_id=machine.boot_id(), instance=os.urandom(8).hex(), slots=config.slots),
            journal=journal,
            steps=steps,
            checkouts=CheckoutService(store, FileRequests(self._link.send), workspaces, self._commands),
            artifacts=artifacts,
            sender=self._link,
            secrets=SecretStore(secret_store.find_directory(self._data_dir, environment)),
            nodes=self._nodes,
            labels=config.labels,
            clock=self._clock,
            installation=identity,
            pause=lambda: DRAINING if is_draining() else "",
            docker=lambda: self._docker.found,
        )
        self._core.restore()

    def _store_server_keys(self, current: str, old: list[messages.OldServerKey]) -> None:
        server = self._server = msgspec.structs.replace(self._server, server_key=current, old_server_keys=old)
        enrollment.store(self._data_dir, server)

    @property
    def failure(self) -> asyncio.Future[None]:
        """See `Core.failure`."""
        return self._core.failure

    async def handle_reports(self) -> None:
        """Connects to the runner and handles its reports. A runner that cannot start, as on a full disk, is tried again."""
        while True:
            try:
                await self._runner.connect()
                break
            except Retryable as error:
                logger.error("%s; trying again in %.0f s", error, RUNNER_RETRY_S)
                self._problem = error.text
            await asyncio.sleep(RUNNER_RETRY_S)
        self._problem = ""
        while batch := await self._runner.receive():
            self._core.reports.on_reports(batch)

    async def refresh_nodes(self) -> None:
        """Looks for changes in the nodes of this server, and announces them to the daemon."""
        while True:
            await self._nodes.refresh()
            self._has_nodes.set()
            self.announce_changes()
            await asyncio.sleep(CHANGES_S)

    async def watch_docker_engine(self) -> None:
        """Keeps the report about the Docker engine up to date. Needs the step runner, which knows the users of steps."""
        await self._core.executor.is_settled.wait()
        while True:
            await self._docker.refresh()
            self._has_looked_for_docker.set()
            self.announce_changes()
            await asyncio.sleep(CHANGES_S)

    def announce_changes(self) -> None:
        """Opens a new session if the daemon does not know what this agent is now. Does nothing while none is open."""
        if self._core.session.is_outdated:
            self._link.restart_session()

    async def keep_connected(self) -> None:
        """Keeps a session with the daemon open, once the ledger is settled."""
        await self._core.executor.is_settled.wait()
        for text in self._policy.warnings(self._runner.abilities):
            logger.warning("%s", text)
        with contextlib.suppress(TimeoutError):
            # The first `Hello` should say everything, so that a restarted agent does not appear to have lost its nodes.
            async with asyncio.timeout(FIRST_S_MAX):
                await self._has_nodes.wait()
                await self._has_looked_for_docker.wait()
        end = await self._link.run(self._core.session)
        # Steps keep running under the runner until a person has looked at it.
        with contextlib.suppress(OSError):
            status.write(self._data_dir, self._status())
        raise RefusedByServer(end.code, f"{self._link.endpoint}: {end.text}; {self._next_step(end.code)}")

    def _next_step(self, code: str) -> str:
        if code != "WF212":
            return "this agent stops"
        file = self._data_dir / "server.json"
        return (
            f"this agent stops. To enroll it again, remove {file}, start it, and run `waterflowctl agents approve "
            f"{self._pair.fingerprint} --group GROUP`"
        )

    async def keep_status(self) -> None:
        """Keeps the status file up to date."""
        written: status.Status | None = None
        failure = ""
        while True:
            now = self._status()
            if written is None or _without_time(now) != _without_time(written):
                try:
                    status.write(self._data_dir, now)
                    written, failure = now, ""
                except OSError as error:
                    # Tried again every time, but logged once.
                    if str(error) != failure:
                        logger.warning("cannot write the status file: %s", error)
                    failure = str(error)
            await asyncio.sleep(STATUS_S)

    async def delete_unused_directories(self) -> None:
        """Deletes working directories that the daemon has forgotten, those that were kept long enough, and the trash."""
        await self._core.executor.is_settled.wait()
        while True:
            self._workspaces.retire_unused({entry.key.attempt.run for entry in self._core.ledger})
            self._steps.end_lost_jobs()
            await asyncio.to_thread(self._workspaces.kept.measure)
            self._workspaces.kept.prune()
            await self._remove_as_steps()
            await asyncio.to_thread(self._workspaces.empty_trash)
            await asyncio.sleep(SWEEP_S)

    async def remove_containers(self) -> None:
        """Removes the containers of jobs that have ended."""
        await self._core.executor.is_settled.wait()
        await self._containers.keep_removing(SWEEP_S, self._workspaces.discard)

    async def _remove_as_steps(self) -> None:
        """Removes what steps of other users have created in directories that are no longer needed."""
        for place, uid in self._workspaces.owned_by_steps():
            try:
                account = account_of(uid)
                error = await self._commands.remove(place, account) if account is not None else f"user {uid} is unknown"
            except Rejected as rejected:
                error = rejected.text
            if error:
                logger.warning("cannot remove all of %s yet: %s", place, error)

    async def close(self) -> None:
        """Ends the background work and the connection to the runner."""
        await self._core.close()
        await self._runner.close()

    def _warnings(self) -> list[str]:
        problems = [text for text in (self._problem, self._core.problem) if text]
        if self._core.executor.is_settled.is_set():
            problems += self._policy.warnings(self._runner.abilities)
        return problems

    def _status(self) -> status.Status:
        step_user, limits = self._policy.describe(self._runner.abilities)
        return status.Status(
            step_user=step_user,
            limits=limits,
            leftovers=self._runner.leftovers,
            warnings=self._warnings(),
            pid=os.getpid(),
            process_started=status.process_started(os.getpid()),
            at=self._clock.wall_ms(),
            name=self._server.name,
            fingerprint=self._pair.fingerprint,
            server=self._link.endpoint,
            server_fingerprint=keys.fingerprint(self._server_keys.current),
            state=self._link.state.value,
            is_connected=self._link.is_open,
            link=self._link.text,
            groups=self._core.session.groups or self._server.groups,
            slots=self._config.slots,
            attempts=self._core.attempts(),
            nodes=self._nodes.reported,
            docker=self._docker.found,
            # Not before the daemon knows it: a session that is open may still bring offers.
            is_draining=self._is_draining() and not (self._link.is_open and self._core.session.is_outdated),
        )


def prepare_data_dir(path: Path) -> None:
    """Creates the data directory, or removes other users' permissions on it.

    Raises `OSError` when the disk is full, otherwise `Stalled` WF317 when it cannot be used.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Steps of other users may enter it (0711), where the directories for them are.
        if path.stat().st_mode & 0o066:
            os.chmod(path, 0o700)
    except OSError as error:
        if error.errno in DISK_FULL_ERRORS:
            raise
        raise Stalled(
            "WF317",
            f"cannot use data-dir {path}: {error.strerror}; make it writable for the agent's user, or choose another directory",
        ) from error


def _without_time(written: status.Status) -> status.Status:
    return msgspec.structs.replace(written, at=0)
