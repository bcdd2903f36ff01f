"""Saves files in a cache. What goes wrong is a warning: a job does not depend on its caches."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Generator, Sequence
from typing import Any

import msgspec

from waterflow_agent.artifacts import content
from waterflow_agent.artifacts.channel import ArtifactChannel
from waterflow_agent.artifacts.content import BlockCutter
from waterflow_agent.caches import entries
from waterflow_agent.caches.entries import EntryKind, EntryPath
from waterflow_agent.caches.selection import CachePaths
from waterflow_agent.display import escape_for_display, size_text
from waterflow_agent.errors import Rejected, WaterflowError
from waterflow_agent.nodes import schema
from waterflow_agent.nodes.artifacts.sending import Block, BlockSender, blocks_of_file, end_of_blocks
from waterflow_agent.nodes.artifacts.upload import BLOCKS_GONE, PASSES_MAX
from waterflow_agent.nodes.caches import places
from waterflow_agent.nodes.node import Context, Node, NodeFailure
from waterflow_agent.nodes.transfer.content import Progress
from waterflow_agent.wire import messages


class CacheSaveNode(Node[schema.CacheSave]):
    """Saves an entry."""

    parameters = schema.CacheSave

    async def run(self, context: Context, parameters: schema.CacheSave) -> dict[str, Any]:
        """See the base class."""
        key = escape_for_display(parameters.key)
        try:
            paths = places.of(context, parameters.path)
            selected = await asyncio.to_thread(lambda: list(paths.selected()))
            if not selected:
                context.warn(f"warning: cache {key}: no files match path; nothing was saved")
                return {}
            async with ArtifactChannel(places.socket(context, parameters.scope)) as channel:
                await _Saving(context, channel, paths, selected).run(parameters)
        except (WaterflowError, NodeFailure) as error:
            context.warn(f"warning: cache {key} was not saved: {error.text}")
        except OSError as error:
            where = f" {escape_for_display(str(error.filename), 200)}" if error.filename else ""
            context.warn(f"warning: cache {key} was not saved: cannot read{where}: {error.strerror}")
        return {}


class _Saving:
    def __init__(
        self, context: Context, channel: ArtifactChannel, paths: CachePaths, selected: Sequence[EntryPath]
    ) -> None:
        self._context = context
        self._channel = channel
        self._paths = paths
        self._selected = selected
        self._sender = BlockSender(channel)

    async def run(self, parameters: schema.CacheSave) -> None:
        """Raises `WaterflowError`, `NodeFailure` and `OSError`."""
        key, version = parameters.key, entries.version_of(parameters.path)
        for path in self._selected:
            entries.check_path(path)
        total = sum(path.size for path in self._selected)
        begin = messages.BeginCache(key, version, len(self._selected), total)
        if not await self._ask(begin):
            self._context.log(f"cache {escape_for_display(key)} exists already; nothing was saved")
            return
        for number in itertools.count(1):
            commit = await self._send(key, version, total)
            try:
                is_new = await self._ask(commit)
                break
            except Rejected as error:
                if error.code != BLOCKS_GONE or number >= PASSES_MAX:
                    raise
        if is_new:
            size, sent = size_text(commit.size), size_text(self._sender.sent)
            self._context.log(f"cache {escape_for_display(key)} saved: {size}, {sent} sent")
        else:
            self._context.log(f"cache {escape_for_display(key)} was saved by another job meanwhile")

    async def _ask(self, action: messages.BeginCache | messages.CommitCache) -> bool:
        """Whether there is no such entry yet."""
        return (await self._channel.ask(action, messages.CacheAccepted)).is_new

    async def _send(self, key: str, version: bytes, total: int) -> messages.CommitCache:
        listed: list[EntryPath] = []
        progress = Progress(self._context, total)
        blocks = await self._sender.send(self._blocks(listed), lambda size: progress.advance(size, "cache"))
        return messages.CommitCache(
            key=key,
            version=version,
            files=len(listed),
            size=sum(size for _, size in blocks),
            table=await self._sender.send_index(content.encode_table(blocks)),
            listing=await self._sender.send_index(await asyncio.to_thread(entries.encode, listed)),
        )

    def _blocks(self, listed: list[EntryPath]) -> Generator[Block, None, None]:
        """Yields all blocks, and lists what they contain."""
        cutter = BlockCutter()
        for path in self._selected:
            if path.kind is EntryKind.FILE:
                status = yield from blocks_of_file(self._paths.location(path), cutter)
                path = msgspec.structs.replace(
                    path, size=status.size, mode=status.mode & 0o777, modified_ns=status.modified_ns
                )
            listed.append(path)
        yield from end_of_blocks(cutter)
