"""Restores files from a cache: everything arrives and is verified beside its destination, and is moved there at the end."""

from __future__ import annotations

import asyncio
from typing import Any

from waterflow_agent.artifacts import content
from waterflow_agent.artifacts.channel import ArtifactChannel
from waterflow_agent.artifacts.content import BlockTable
from waterflow_agent.caches import entries
from waterflow_agent.caches.selection import CachePaths
from waterflow_agent.display import escape_for_display, size_text
from waterflow_agent.errors import Rejected, WaterflowError
from waterflow_agent.nodes import schema
from waterflow_agent.nodes.artifacts.fetching import BlockFetcher
from waterflow_agent.nodes.caches import places
from waterflow_agent.nodes.caches.unpacking import Unpacking
from waterflow_agent.nodes.node import Context, Node, NodeFailure
from waterflow_agent.nodes.transfer.content import Progress
from waterflow_agent.threads import to_end
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import CACHE_KEYS_MAX, ArtifactPart, CacheRow

_KEY_LENGTH_MAX = 512


class CacheRestoreNode(Node[schema.CacheRestore]):
    """Restores an entry."""

    parameters = schema.CacheRestore

    async def run(self, context: Context, parameters: schema.CacheRestore) -> dict[str, Any]:
        """See the base class."""
        keys = _keys(parameters)
        paths = places.of(context, parameters.path)
        is_restored = parameters.lookup_only not in (True, "true")
        found: CacheRow | None = None
        try:
            async with ArtifactChannel(places.socket(context, parameters.scope)) as channel:
                version = entries.version_of(parameters.path)
                found = (await channel.ask(messages.FindCache(keys, version), messages.CacheFound)).entry
                if found is not None and is_restored:
                    await _Restoring(context, channel, paths, found, version).run()
        except (WaterflowError, NodeFailure, OSError) as error:
            found = None
            context.warn(f"warning: the cache was not restored: {_reason(error)}")
        if found is not None:
            verb = "restored" if is_restored else "found"
            shown = escape_for_display(found.key)
            context.log(f"cache {verb} from key {shown}: {found.files} path(s), {size_text(found.size)}")
        else:
            listed = escape_for_display(", ".join(keys), 500)
            context.log(f"no cache found for: {listed}")
            if parameters.fail_on_cache_miss in (True, "true"):
                raise NodeFailure(f"no cache found for: {listed}", outputs=_outputs(keys[0], None))
        return _outputs(keys[0], found)


def _keys(parameters: schema.CacheRestore) -> list[str]:
    """The key and the restore keys."""
    given = parameters.restore_keys
    lines = given.splitlines() if isinstance(given, str) else given
    keys = [parameters.key, *(line.strip() for line in lines if line.strip())]
    if len(keys) > CACHE_KEYS_MAX:
        raise NodeFailure(f"restore-keys: expected at most {CACHE_KEYS_MAX - 1}, found {len(keys) - 1}")
    for key in keys[1:]:
        if len(key) > _KEY_LENGTH_MAX or "," in key:
            shown = escape_for_display(key, 80)
            raise NodeFailure(
                f"restore-keys: {shown} is not a key: expected at most {_KEY_LENGTH_MAX} characters, no comma"
            )
    return keys


def _outputs(key: str, found: CacheRow | None) -> dict[str, Any]:
    """GitHub's outputs, which are text: `cache-hit` is empty without an entry, and `false` for one with another key."""
    return {
        "cache-primary-key": key,
        "cache-hit": "" if found is None else "true" if found.key == key else "false",
        "cache-matched-key": "" if found is None else found.key,
    }


def _reason(error: WaterflowError | NodeFailure | OSError) -> str:
    if not isinstance(error, OSError):
        return error.text
    where = f" {escape_for_display(str(error.filename), 200)}" if error.filename else ""
    return f"cannot write{where}: {error.strerror}"


class _Restoring:
    def __init__(
        self, context: Context, channel: ArtifactChannel, paths: CachePaths, row: CacheRow, version: bytes
    ) -> None:
        self._context = context
        self._channel = channel
        self._paths = paths
        self._row = row
        self._version = version

    async def run(self) -> None:
        """Raises `WaterflowError`, also for what is not as it was saved, and `OSError`."""
        row = self._row
        if content.artifact_digest(row.table, row.listing) != row.digest:
            raise Rejected("WF762", "the description of the cache is damaged")
        fetcher = BlockFetcher(self._channel, self._request, "the cache")
        table = BlockTable(await fetcher.index(ArtifactPart.TABLE, row.table))
        listing = await fetcher.index(ArtifactPart.LISTING, row.listing)
        listed = await asyncio.to_thread(entries.decode, listing, row.files, table.size, len(self._paths))
        progress = Progress(self._context, table.size)
        target = Unpacking(self._paths, listed)
        try:
            await to_end(target.begin)
            await fetcher.write(target.write(), table, lambda size: progress.advance(size, "cache"))
            await to_end(target.finish)
        finally:
            await to_end(target.close)

    def _request(self, part: ArtifactPart, index: int) -> messages.ArtifactAction:
        return messages.ReadCacheBlock(self._row.key, self._version, self._row.digest, part, index)
