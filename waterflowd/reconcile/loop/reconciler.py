"""The loops, schedulers and triggers of all configured repositories."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from waterflow_agent.display import quote
from waterflow_agent.errors import Rejected
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
        repositories: Sequence[RepositorySettings],
        open_source: Callable[[RepositorySettings], Source],
        ports: LoopPorts,
    ) -> None:
        """Raises what `open_source` raises, such as `Rejected` for a URL that is not supported."""
        self.loops = {
            settings.name: RepositoryLoop(settings, open_source(settings), ports) for settings in repositories
        }
        self.schedulers = {
            name: Scheduler(loop.repository, loop.plan_recovery, ports) for name, loop in self.loops.items()
        }
        self.workflow_run_triggers = {
            name: WorkflowRunTriggers(loop.repository, loop.plan_recovery, ports, ends)
            for name, loop in self.loops.items()
            if (ends := ports.ends_of(name)) is not None
        }
        self.ports = ports

    async def run(self) -> None:
        """Leads all repositories until it is cancelled, and returns when all tasks have ended and all sources are closed."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for name in self.loops:
                    tasks.create_task(self.lead(name), name=f"repository {name}")
                # Without repositories it must keep running, because its supervisor treats an end as a failure.
                await asyncio.Event().wait()
        finally:
            await self.close()

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

    async def sync(self, name: str) -> str | None:
        """Waits until the current refs are applied; returns the default ref's commit, or None without refs."""
        loop = self.loop(name)
        await loop.sync()
        default = loop.repository.default_ref()
        return default.commit if default is not None else None
