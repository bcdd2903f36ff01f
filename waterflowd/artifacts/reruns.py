"""The artifacts that a re-run keeps: those of the jobs and steps that it reuses.

Rules of this file: a re-run is a new run, so it gets records of its own. Their blocks are the same, so a copy costs little,
and it stays when the earlier run is removed. They are copied when the re-run starts, or when something first asks for its
artifacts; copying again has no effect.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable

import msgspec

from waterflowd import ports
from waterflowd.artifacts.records import ArtifactRecord
from waterflowd.artifacts.store import ArtifactStore
from waterflowd.engine import events
from waterflowd.model.ids import RunId, run_stream
from waterflowd.model.records import Reused

#: Runs that are known to have what they keep.
_KNOWN_MAX = 10_000
#: Re-runs of re-runs that are followed.
_DEPTH_MAX = 100


class KeptArtifacts:
    """Copies the records of artifacts that re-runs keep."""

    def __init__(self, store: ArtifactStore, history: ports.History) -> None:
        self._store = store
        self._history = history
        self._known: OrderedDict[RunId, None] = OrderedDict()

    async def keep(self, run: RunId, write: Callable[[Callable[[], None]], Awaitable[None]]) -> None:
        """Makes sure that a run has the artifacts that it keeps. `write` runs a call in the thread that changes the store.

        Raises what `History.read` raises, and `OSError`; then the next call tries again.
        """
        chain = await self._chain(run)
        # The oldest first: a re-run may keep what an earlier re-run has kept.
        for later, reused in reversed(chain):
            await write(lambda later=later, reused=reused: self._copy(later, reused))  # type: ignore[misc]
        for later, _ in chain:
            self._remember(later)
        self._remember(run)

    async def _chain(self, run: RunId) -> list[tuple[RunId, Reused]]:
        """The run and the re-runs before it that are not known yet, the newest first."""
        chain: list[tuple[RunId, Reused]] = []
        while run not in self._known and len(chain) < _DEPTH_MAX:
            records = await self._history.read(run_stream(run), 1, 1)
            created = records[0].event if records else None
            if not isinstance(created, events.RunCreated) or created.reused is None:
                break
            chain.append((run, created.reused))
            run = created.reused.run
        return chain

    def _copy(self, run: RunId, reused: Reused) -> None:
        records = self._store.records
        existing = {record.name for record in records.of_run(run)}
        for record in records.of_run(reused.run):
            is_wanted = record.removal is None and record.name not in existing and is_kept(record, reused)
            # The earlier run may lose its artifact now, while unused blocks are removed.
            if is_wanted and self._store.keep_blocks(record):
                records.write(run, msgspec.structs.replace(record, kept_from=reused.run))

    def _remember(self, run: RunId) -> None:
        self._known[run] = None
        if len(self._known) > _KNOWN_MAX:
            self._known.popitem(last=False)


def is_kept(record: ArtifactRecord, reused: Reused) -> bool:
    """Whether the re-run reuses the job or the step that has stored the artifact."""
    return _is_within(record.job, reused.jobs) or _is_within(record.step, reused.steps.get(record.job, ()))


def _is_within(name: str, selected: Iterable[str]) -> bool:
    """Whether `name` is one of these jobs or steps, or is inside one."""
    return any(name == each or (name.startswith(each) and name[len(each)] in "[/") for each in selected)
