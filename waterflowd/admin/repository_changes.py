"""Adds, changes and removes repositories while the daemon runs.

Rules of this file:

- A change is durable before it has an effect, and what has an effect is durable: everything is derived from the catalog, which
  folds the log and the configuration. One change at a time.
- A name that is used again, and a URL that changes, begin anew: the refs are recorded and start nothing. Numbers of runs and of
  ref updates continue, so nothing is confused with what had the name before.
- A repository is removed only when it has no open runs. With force they are cancelled first, so that a crash in between leaves
  the repository as it is, and the removal can be repeated.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

import msgspec

from waterflow_agent.display import quote
from waterflow_agent.errors import Rejected
from waterflowd.access.policy import AccessPolicy
from waterflowd.access.repository_quotas import QUOTA_MAX
from waterflowd.admin.ports import RepositoryRequest, RepositoryRow
from waterflowd.model.ids import repository_stream
from waterflowd.model.records import RunSummary
from waterflowd.ports import StreamWriter
from waterflowd.reconcile import codes, events
from waterflowd.reconcile.added import RepositoryAdded, RepositoryRemoved
from waterflowd.reconcile.catalog import RepositoryCatalog
from waterflowd.reconcile.loop.reconciler import Reconciler
from waterflowd.reconcile.settings import (
    ANY_GROUP,
    DEFAULT_FOLDERS,
    FETCH_BYTES,
    INTERVAL_MS_MAX,
    INTERVAL_MS_MIN,
    NAME,
    RepositorySettings,
)

#: Repositories that can be added through the API. Each has a loop, a thread and a directory.
ADDED_MAX = 500
#: Open runs that are looked at to find those of one repository.
_OPEN_RUNS_MAX = 100_000
_SHOWN_RUNS = 3
_LIMITS = ("runs_per_hour", "output_bytes_per_hour")

logger = logging.getLogger("waterflow.reconcile")


@dataclass(frozen=True, kw_only=True)
class RepositoryParts:
    """What depends on which repositories are watched."""

    catalog: RepositoryCatalog
    reconciler: Reconciler
    access: AccessPolicy
    #: Applies the quotas of the catalog.
    replace_quotas: Callable[[], None]
    #: The settings with absolute paths; raises `Rejected` for what may only be in the configuration.
    admit: Callable[[RepositorySettings], RepositorySettings]
    #: Removes what was fetched of a repository.
    remove_fetched: Callable[[RepositorySettings], Awaitable[None]]
    #: Where the configuration has a repository, for people.
    place_of: Callable[[str], str]


class RepositoryDirector:
    """Implements `admin.ports.RepositoryChanger`."""

    def __init__(
        self,
        parts: RepositoryParts,
        writer: StreamWriter,
        row_of: Callable[[str], RepositoryRow],
    ) -> None:
        self._parts = parts
        self._catalog = parts.catalog
        ports = parts.reconciler.ports
        self._runs, self._history, self._clock = ports.runs, ports.history, ports.clock
        self._writer = writer
        self._row_of = row_of
        self._one_at_a_time = asyncio.Lock()

    # For `admin.ports.RepositoryChanger`

    async def add(self, name: str, request: RepositoryRequest, by: str) -> RepositoryRow:
        """See the port."""
        async with self._one_at_a_time:
            self._check_not_configured(name)
            if not NAME.fullmatch(name):
                raise _invalid("name", f'invalid name {quote(name)}; use letters, digits, ".", "_" and "-"')
            if request.url is None:
                raise _invalid("url", "a repository needs a url")
            fact = self._fact(RepositorySettings(name=name, url=request.url), {}, request, by)
            known = self._catalog.added.get(name)
            if known is not None:
                if not _is_same(known, fact):
                    text = f"repository {quote(name)} exists with other settings; change it with `repositories set`"
                    raise Rejected(codes.AMBIGUOUS, text, where="name", status=409)
                return self._row_of(name)
            if len(self._catalog.added) >= ADDED_MAX:
                text = f"{ADDED_MAX} repositories were added through the API, which is the limit; remove one first"
                raise Rejected(codes.AMBIGUOUS, text, status=409)
            await self._forget(name)
            await self._record(fact)
            await self.follow()
            return self._row_of(name)

    async def change(self, name: str, request: RepositoryRequest, by: str) -> RepositoryRow:
        """See the port."""
        async with self._one_at_a_time:
            known = self._added(name)
            limits = {key: getattr(known, key) for key in _LIMITS}
            fact = self._fact(known.settings, limits, request, by)
            if _is_same(known, fact):
                return self._row_of(name)
            try:
                if fact.settings.url != known.settings.url:
                    await self._parts.reconciler.unwatch(name)
                    await self._forget(name)
                await self._record(fact)
            finally:
                # If nothing was recorded, the repository is watched as before.
                await self.follow()
            return self._row_of(name)

    async def remove(self, name: str, by: str, *, is_forced: bool) -> int:
        """See the port."""
        async with self._one_at_a_time:
            settings = self._added(name).settings
            if not is_forced:
                self._check_no_open_runs(name, await self._open_runs(name))
            cancelled = 0
            try:
                # Nothing more starts from here on, so this time the answer is final.
                await self._parts.reconciler.unwatch(name)
                found = await self._open_runs(name)
                if not is_forced:
                    self._check_no_open_runs(name, found)
                for row in found:
                    cancelled += await self._cancel(row, by)
                await self._record(RepositoryRemoved(at=self._clock.now(), by=by, name=name, cancelled_runs=cancelled))
            finally:
                await self.follow()
            await self._remove_fetched(settings)
            return cancelled

    # For changes of the configuration

    async def configure(self, configured: list[RepositorySettings], *, allow_loopback: bool) -> None:
        """Watches what the configuration says now. Those that were added through the API stay."""
        async with self._one_at_a_time:
            self._catalog.configure(configured, allow_loopback=allow_loopback)
            await self.follow()

    async def follow(self) -> None:
        """Makes rights, quotas and loops equal to the catalog."""
        parts = self._parts
        parts.access.replace(self._catalog.values())
        parts.replace_quotas()
        for name in list(parts.reconciler.loops):
            if parts.reconciler.loops[name].settings != self._catalog.get(name):
                await parts.reconciler.unwatch(name)
        for name, settings in self._catalog.items():
            if name not in parts.reconciler.loops:
                await parts.reconciler.watch(settings)
        for loop in parts.reconciler.loops.values():
            # What workflows may use has perhaps changed, and with it which of their files have errors.
            loop.request_reconciliation()

    # Checks

    def _check_not_configured(self, name: str) -> None:
        if name in self._catalog.configured:
            text = f"repository {quote(name)} is in {self._parts.place_of(name)}"
            next_step = "change it there, then run `waterflowctl reload`"
            raise Rejected(codes.AMBIGUOUS, f"{text}; {next_step}", where="name", status=409)

    def _added(self, name: str) -> RepositoryAdded:
        self._check_not_configured(name)
        known = self._catalog.added.get(name)
        if known is None:
            names = ", ".join(self._catalog.added) or "none"
            text = f"repository {quote(name)} not found; added through the API: {names}"
            raise Rejected(codes.NOT_FOUND, text, where="name", status=404)
        return known

    def _check_no_open_runs(self, name: str, found: list[RunSummary]) -> None:
        if found:
            shown = ", ".join(f"{row.name}#{row.number}" for row in found[:_SHOWN_RUNS])
            more = f" and {len(found) - _SHOWN_RUNS} more" if len(found) > _SHOWN_RUNS else ""
            count = "an open run" if len(found) == 1 else f"{len(found)} open runs"
            text = f"repository {quote(name)} has {count}: {shown}{more}"
            next_step = "wait for them, or remove it with --force, which cancels them"
            raise Rejected(codes.AMBIGUOUS, f"{text}; {next_step}", where="force", status=409)

    async def _open_runs(self, name: str) -> list[RunSummary]:
        return [row for row in await self._history.open_runs(_OPEN_RUNS_MAX) if row.repository == name]

    # Facts

    def _fact(
        self, settings: RepositorySettings, limits: Mapping[str, int | None], request: RepositoryRequest, by: str
    ) -> RepositoryAdded:
        """The fact with the settings as requested; raises `Rejected` for what is not valid."""
        given = {key: value for key, value in msgspec.structs.asdict(request).items() if value is not None}
        quotas = dict(limits) | {key: given.pop(key) for key in _LIMITS if key in given}
        wanted = msgspec.structs.replace(settings, **given)
        # An empty list stands for the default.
        wanted = msgspec.structs.replace(
            wanted, paths=wanted.paths or DEFAULT_FOLDERS, groups=wanted.groups or ANY_GROUP
        )
        _check(wanted, quotas)
        admitted = self._parts.admit(wanted)
        return RepositoryAdded(at=self._clock.now(), by=by, settings=admitted, **quotas)

    async def _forget(self, name: str) -> None:
        stream = repository_stream(name)
        if await self._history.head(stream):
            await self._runs.record(stream, [events.RepositoryForgotten(at=self._clock.now())])

    async def _record(self, fact: RepositoryAdded | RepositoryRemoved) -> None:
        await self._writer.append(lambda: [fact])

    # Effects

    async def _cancel(self, row: RunSummary, by: str) -> int:
        """Cancels a run; returns 0 if it has completed meanwhile."""
        try:
            await self._runs.cancel(row.id, by)
        except Rejected:
            return 0
        return 1

    async def _remove_fetched(self, settings: RepositorySettings) -> None:
        try:
            await self._parts.remove_fetched(settings)
        except (OSError, Rejected) as error:
            # It only takes space, and is used again if the repository is added again.
            logger.warning("repository %s: its mirror was not removed: %s", settings.name, error)


def _is_same(known: RepositoryAdded, fact: RepositoryAdded) -> bool:
    return msgspec.structs.replace(fact, at=known.at, by=known.by) == known


def _check(settings: RepositorySettings, quotas: Mapping[str, Any]) -> None:
    """Raises `Rejected` WF605 for values out of range."""
    for key, value in (("interval", settings.interval_ms), ("fetch_timeout", settings.fetch_timeout_ms)):
        if not INTERVAL_MS_MIN <= value <= INTERVAL_MS_MAX:
            raise _invalid(key, f"{key}: expected 100ms to 365d")
    if settings.fetch_bytes_max not in FETCH_BYTES:
        raise _invalid("fetch_max_bytes", "fetch_max_bytes: expected 1 MiB to 1 TiB in bytes")
    for key, value in quotas.items():
        if value is not None and not 0 <= value <= QUOTA_MAX:
            raise _invalid(key, f"{key}: expected 0 (no limit) to {QUOTA_MAX:,}")


def _invalid(where: str, text: str) -> Rejected:
    return Rejected("WF605", text, where=where)
