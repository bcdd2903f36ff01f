"""The part of reconciling that does I/O: reads through a source, compiles through a port, and records through another.

`repository` is the loop of one repository, `files` compiles its files, `shelf` keeps their plans; `timetable` starts what has a
schedule, `follower` what starts after other runs, `hookdesk` what a signed request starts (`hooknames`: whose hook it is).
`reconciler` runs them for each configured repository, `desk` shows everything to the API.
"""

from waterflowd.reconcile.loop.reconciler import Reconciler
from waterflowd.reconcile.loop.repository import LoopPorts, RepositoryLoop
from waterflowd.reconcile.loop.repository_admin import RepositoryDesk
from waterflowd.reconcile.loop.webhook_service import HookDesk

__all__ = ["HookDesk", "LoopPorts", "Reconciler", "RepositoryDesk", "RepositoryLoop"]
