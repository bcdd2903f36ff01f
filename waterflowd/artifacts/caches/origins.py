"""Which cache entries a run may read and write.

Rules of this file: an entry belongs to a repository and to the branch or tag of the run that saved it. A run writes only
entries of its own ref, and reads those and the entries of the default branch. So what runs of one branch save is never
restored in a run of the default branch, or of a third one. A repository that gets the name of an earlier one, with another
address, has none of its entries.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from waterflow_agent.errors import Rejected
from waterflowd import ports
from waterflowd.artifacts.blocks import scope_of
from waterflowd.engine import events
from waterflowd.model.ids import RunId, run_stream
from waterflowd.model.records import HeldAttempt

#: Runs whose refs are remembered.
_KNOWN_MAX = 10_000


class RunOrigin(msgspec.Struct, frozen=True, kw_only=True):
    """Where the request of a run comes from."""

    repository: str
    #: Of the repository's blocks and entries.
    scope: str
    #: Identifies the repository's address.
    source: str
    #: The refs whose entries the run may read; it writes those of the first one.
    refs: tuple[str, ...]


class CacheOrigins:
    """The origins of runs."""

    def __init__(
        self, history: ports.History, default_ref: Callable[[str], str | None], url: Callable[[str], str]
    ) -> None:
        """`default_ref` returns the full name of a repository's default branch, `url` its address."""
        self._history = history
        self._default_ref = default_ref
        self._url = url
        self._refs: OrderedDict[RunId, str] = OrderedDict()

    async def of(self, attempt: HeldAttempt) -> RunOrigin:
        """The origin of an attempt's run. Raises `Rejected` WF336 for a run without a repository or without a ref."""
        run, repository = attempt.name.run, attempt.repository
        ref = await self._ref_of(run) if repository is not None else ""
        if repository is None or not ref:
            raise Rejected("WF336", "caches belong to a branch of a repository, and this run does not come from one")
        default = self._default_ref(repository)
        refs = (ref,) if default is None or default == ref else (ref, default)
        source = hashlib.sha256(self._url(repository).encode()).hexdigest()[:16]
        return RunOrigin(repository=repository, scope=scope_of(repository, run), source=source, refs=refs)

    async def _ref_of(self, run: RunId) -> str:
        """The full name of the branch or tag; empty if the run has none."""
        known = self._refs.get(run)
        if known is None:
            records = await self._history.read(run_stream(run), 1, 1)
            created = records[0].event if records else None
            known = (created.trigger.ref or "") if isinstance(created, events.RunCreated) else ""
            self._refs[run] = known
            if len(self._refs) > _KNOWN_MAX:
                self._refs.popitem(last=False)
        return known
