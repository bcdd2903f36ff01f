"""Secrets that take time: in some simulations the daemon has to read something before a task can leave.

Rules of this file: the product's own reading code runs on the simulation's time; only the sources are made up. No plan of a
simulation names a secret, so none is filled in. What this tests is that offers wait, while everything else about an attempt
(cancels, timeouts, settlements, crashes) continues. Secrets are soon forgotten, so a repeated offer waits again.
"""

from __future__ import annotations

import asyncio

from tests.simulator.chance import Chance
from waterflow_agent.errors import Retryable
from waterflow_agent.wire import messages
from waterflowd.dispatch.lowering import Draft
from waterflowd.secrets.secret_reader import SecretReader
from waterflowd.testing.host import stored_fill

#: A source that answers, one that is slow, and how often it is temporarily unavailable.
_QUICK_S, _SLOW_S = 0.005, 3.0
_TROUBLE = 0.2
#: Longer than any simulation: unreadable secrets have their own tests.
_PATIENCE_S = 1e9


class SlowSecrets:
    """One daemon process's view of the secret sources."""

    def __init__(self, chance: Chance) -> None:
        self._chance = chance
        self.reader = SecretReader(_PATIENCE_S)

    def fill(self, draft: Draft, instance: str) -> messages.Task:
        """See `dispatch.lowering.Fill`."""
        if self._chance.has_secrets:
            name = draft.task.key.attempt
            self.reader.get((name.run, name.job, name.step, str(name.number)), self._read)
        return stored_fill(draft, instance)

    async def _read(self) -> tuple[dict[str, str], float]:
        chance = self._chance
        is_troubled = not chance.is_healed and chance.secrets.random() < _TROUBLE
        await asyncio.sleep(chance.secrets.uniform(_QUICK_S, _SLOW_S) if is_troubled else _QUICK_S)
        chance.counts["secret slow"] += is_troubled
        if is_troubled and chance.secrets.random() < 0.5:
            raise Retryable("WF626", "the source cannot answer at the moment")
        return {}, 0.0
