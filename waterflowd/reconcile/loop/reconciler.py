"""The loops, schedulers and triggers of all watched repositories."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable

from waterflow_agent.display import quote
from waterflow_agent.errors import Rejected, WaterflowError
from waterflowd.reconcile import codes
from waterflowd.reconcile.loop.ports import LoopPorts
from waterflowd.reconcile.loop.repository import RepositoryLoop
from waterflowd.reconcile.loop.scheduler import Scheduler
from waterflowd.reconcile.loop.workflow_run_triggers import WorkflowRunTriggers
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.reconcile.source import Source


class Reconciler:
    """Runs the tasks of each repository. An error in one repository does not affect the others."""

    def __init__(
        self,
        repositories: Iterable[RepositorySettings],
        open_source: Callable[[RepositorySettings], Source],
        ports: LoopPorts,
    ) -> None:
        """Raises what `open_source` raises, such as `Rejected` for a URL that is not supported."""
        self.ports = ports
        self._open_source = open_source
        self.loops: dict[str, RepositoryLoop] = {}
        self.schedulers: dict[str, Scheduler] = {}
        self.workflow_run_triggers: dict[str, WorkflowRunTriggers] = {}
        #: None until `run`.
        self._group: asyncio.TaskGroup | None = None
        self._leading: dict[str, asyncio.Task[None]] = {}
        for settings in repositories:
            self._add(settings)

    def _add(self, settings: RepositorySettings) -> None:
        name = settings.name
        loop = self.loops[name] = RepositoryLoop(settings, self._open_source(settings), self.ports)
        self.schedulers[name] = Scheduler(loop.repository, loop.plan_recovery, self.ports)
        ends = self.ports.ends_of(name)
        if ends is not None:
            self.workflow_run_triggers[name] = WorkflowRunTriggers(
                loop.repository, loop.plan_recovery, self.ports, ends
            )

    async def run(self) -> None:
        """Leads all repositories until it is cancelled, and returns when all tasks have ended and all sources are closed."""
        try:
            async with asyncio.TaskGroup() as self._group:
                for name in self.loops:
                    self._lead(name)
                # Without repositories it must keep running, because its supervisor treats an end as a failure.
                await asyncio.Event().wait()
        finally:
            self._group = None
            await self.close()

    def _lead(self, name: str) -> None:
        if self._group is not None:
            self._leading[name] = self._group.create_task(self.lead(name), name=f"repository {name}")

    async def watch(self, settings: RepositorySettings) -> None:
        """Watches one more repository. What the log says of it is known on return.

        Raises what `open_source` raises, and then nothing has changed.
        """
        self._add(settings)
        with contextlib.suppress(WaterflowError):
            # The loop folds again, and shows what prevents it.
            await self.loops[settings.name].repository.fold()
        self._lead(settings.name)

    async def unwatch(self, name: str) -> None:
        """Ends the tasks of a repository, so that nothing more starts for it. Idempotent."""
        task = self._leading.pop(name, None)
        if task is not None:
            task.cancel()
            await asyncio.wait([task])
        loop = self.loops.pop(name, None)
        self.schedulers.pop(name, None)
        self.workflow_run_triggers.pop(name, None)
        if loop is not None:
            self.ports.webhooks.unregister(loop.repository)
            await loop.close()

    async def lead(self, name: str) -> None:
        """Applies what changes in a repository, and starts its runs, until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.loops[name].lead(), name=f"loop of {name}")
            tasks.create_task(self.schedulers[name].run(), name=f"schedules of {name}")
            if name in self.workflow_run_triggers:
                tasks.create_task(self.workflow_run_triggers[name].run(), name=f"workflow_run triggers of {name}")

    async def close(self) -> None:
        """Closes all sources."""
        for loop in self.loops.values():
            await loop.close()

    def loop(self, name: str) -> RepositoryLoop:
        """The loop of a repository; `Rejected` WF604 (404) for an unknown name."""
        loop = self.loops.get(name)
        if loop is None:
            known = ", ".join(self.loops) or "none"
            text = f"unknown repository {quote(name)}; known: {known}"
            raise Rejected(codes.NOT_FOUND, text, where="name", status=404)
        return loop

    def default_ref(self, name: str) -> str | None:
        """The full name of a repository's default branch; None if there is none, or no such repository."""
        loop = self.loops.get(name)
        default = loop.repository.default_ref() if loop is not None else None
        return default.ref if default is not None else None

    async def sync(self, name: str) -> str | None:
        """Waits until the current refs are applied; returns the default ref's commit, or None without refs."""
        loop = self.loop(name)
        await loop.sync()
        default = loop.repository.default_ref()
        return default.commit if default is not None else None
