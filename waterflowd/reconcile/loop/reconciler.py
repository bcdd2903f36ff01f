"""The loops of all configured repositories, each a task of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected
from waterflowd.reconcile import codes
from waterflowd.reconcile.loop.repository import LoopPorts, RepositoryLoop
from waterflowd.reconcile.loop.scheduler import Scheduler
from waterflowd.reconcile.loop.workflow_run_triggers import WorkflowRunTriggers
from waterflowd.reconcile.settings import RepositorySettings
from waterflowd.reconcile.source import Source


class Reconciler:
    """Runs one loop for each repository. A loop survives whatever goes wrong in its repository, and so do the others."""

    def __init__(
        self,
        repositories: Sequence[RepositorySettings],
        open_source: Callable[[RepositorySettings], Source],
        ports: LoopPorts,
    ) -> None:
        """Raises what `open_source` raises, such as `Rejected` for a url that is not built yet."""
        self.loops = {
            settings.name: RepositoryLoop(settings, open_source(settings), ports) for settings in repositories
        }
        self.schedulers = {name: Scheduler(loop, ports) for name, loop in self.loops.items()}
        self.workflow_run_triggers = {name: WorkflowRunTriggers(loop, ports) for name, loop in self.loops.items()}
        self.ports = ports

    async def run(self) -> None:
        """Runs until it is cancelled, and returns when all loops have ended and all sources are closed."""
        async with asyncio.TaskGroup() as tasks:
            for name, loop in self.loops.items():
                tasks.create_task(loop.run(), name=f"repository {name}")
                tasks.create_task(self.schedulers[name].run(), name=f"schedules of {name}")
            for name, follower in self.workflow_run_triggers.items():
                tasks.create_task(follower.run(), name=f"followers of {name}")
            # Without repositories it runs too: whoever supervises it takes an end for a failure.
            await asyncio.Event().wait()

    def loop(self, name: str) -> RepositoryLoop:
        """The loop of a repository; `Rejected` WF604 (404) for an unknown name."""
        loop = self.loops.get(name)
        if loop is None:
            known = ", ".join(self.loops) or "none"
            text = f'there is no repository "{escape_for_display(name, 60)}"; there are: {known}'
            raise Rejected(codes.NOT_FOUND, text, where="name", status=404)
        return loop

    async def sync(self, name: str) -> str | None:
        """Waits until the refs as they are now are applied, and gives the default ref's commit; None without refs."""
        loop = self.loop(name)
        await loop.sync()
        return next((ref.commit for ref in loop.watched()), None)
