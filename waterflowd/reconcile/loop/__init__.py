"""The part of reconciling that does I/O: it reads through a source, compiles through a port, and records through another.

`live_repository` holds the state of one repository and announces changes; `repository` is the loop that keeps it applied,
`workflow_files` compiles its files, `plan_cache` keeps their plans, and `plan_recovery` compiles lost plans again. `scheduler`
starts scheduled runs, `workflow_run_triggers` starts runs after other runs, and `webhook_registry` knows which file owns a
webhook. `child_workflows` compiles the workflows that steps start. `reconciler` runs all of this for each repository.
"""

from waterflowd.reconcile.loop.ports import LoopPorts
from waterflowd.reconcile.loop.reconciler import Reconciler
from waterflowd.reconcile.loop.repository import RepositoryLoop

__all__ = ["LoopPorts", "Reconciler", "RepositoryLoop"]
