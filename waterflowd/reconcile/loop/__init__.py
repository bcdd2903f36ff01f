"""The part of reconciling that does I/O: it reads through a source, compiles through a port, and records through another.

`repository` is the loop of one repository; `workflow_files` compiles its files and `plan_cache` keeps their plans. `scheduler`
starts scheduled runs, and `workflow_run_triggers` starts runs that follow other runs. `webhook_names` knows which workflow owns
a webhook. `reconciler` runs all of these for each configured repository.
"""

from waterflowd.reconcile.loop.reconciler import Reconciler
from waterflowd.reconcile.loop.repository import LoopPorts, RepositoryLoop

__all__ = ["LoopPorts", "Reconciler", "RepositoryLoop"]
