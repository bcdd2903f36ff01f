"""Compiled plans by hash: those in the history, and in memory those that no run has put there yet.

A restart loses the latter; `plan_recovery` compiles their files again. If a newer version of Waterflow then compiles a file to
a different plan, it is kept under the hash that the log knows until the file changes.
"""

from __future__ import annotations

from waterflowd.ports import History

#: About ten thousand plans of typical size.
_BYTES_MAX = 32 << 20


class PlanCache:
    """The plans of all repositories. A plan that does not fit into memory is compiled again when it is needed."""

    def __init__(self, history: History) -> None:
        self._history = history
        self._plans: dict[str, bytes] = {}
        self._bytes = 0
        #: Increases whenever a plan is added, for caches.
        self.version = 0

    async def get(self, plan_hash: str) -> bytes | None:
        """The plan, if it is in memory or in the history."""
        plan = self._plans.get(plan_hash)
        return plan if plan is not None else await self._history.plan(plan_hash)

    def put(self, plan_hash: str, plan: bytes) -> None:
        """Keeps a plan, and forgets the oldest ones when there are too many."""
        if plan_hash in self._plans:
            return
        self._plans[plan_hash] = plan
        self._bytes += len(plan)
        self.version += 1
        while self._bytes > _BYTES_MAX and len(self._plans) > 1:
            oldest = next(iter(self._plans))
            self._bytes -= len(self._plans.pop(oldest))
