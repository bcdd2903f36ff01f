"""The part of reconciling that does I/O: reads through a source, compiles through a port, and records through another.

`repository` is the loop of one repository, `reconciler` runs one per configured repository, `shelf` keeps compiled plans,
`desk` shows everything to the API.
"""

from waterflowd.reconcile.loop.desk import RepositoryDesk
from waterflowd.reconcile.loop.reconciler import Reconciler
from waterflowd.reconcile.loop.repository import LoopPorts, RepositoryLoop

__all__ = ["LoopPorts", "Reconciler", "RepositoryDesk", "RepositoryLoop"]
