"""Fetches artifacts: everything arrives and is verified in a folder beside the destination, and is moved there at the end."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from waterflow_agent.artifacts import content, patterns, writing
from waterflow_agent.artifacts.channel import ArtifactChannel
from waterflow_agent.artifacts.content import ArtifactFile, BlockTable
from waterflow_agent.display import escape_for_display, size_text
from waterflow_agent.errors import Rejected, Retryable
from waterflow_agent.nodes import schema
from waterflow_agent.nodes.artifacts import staging
from waterflow_agent.nodes.artifacts.bucket import BucketClient
from waterflow_agent.nodes.artifacts.bucket_reader import BucketReader
from waterflow_agent.nodes.artifacts.fetching import BlockFetcher
from waterflow_agent.nodes.artifacts.staging import Staging
from waterflow_agent.nodes.node import Context, Node, NodeFailure
from waterflow_agent.nodes.transfer.content import Progress
from waterflow_agent.threads import to_end
from waterflow_agent.wire import messages
from waterflow_agent.wire.messages import ArtifactPart, ArtifactRow

_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class ArtifactDownloadNode(Node[schema.ArtifactDownload]):
    """Fetches one artifact, or several."""

    parameters = schema.ArtifactDownload

    async def run(self, context: Context, parameters: schema.ArtifactDownload) -> dict[str, Any]:
        """See the base class."""
        if parameters.name and parameters.pattern:
            raise NodeFailure("use either name or pattern")
        target = context.path(parameters.path or ".")
        try:
            async with ArtifactChannel(context.artifacts) as channel, BucketClient(context.warn) as bucket:
                rows = await _find(channel, parameters)
                if not rows:
                    context.warn("warning: the run has no such artifacts yet; the jobs that store them belong in needs")
                readers = [BucketReader(channel, bucket, row) for row in rows]
                fetched = await _fetch(context, readers, target, parameters)
        except Retryable as error:
            raise NodeFailure(error.text, may_retry=True) from error
        except OSError as error:
            where = escape_for_display(str(error.filename or target), 200)
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            raise NodeFailure(f"cannot write {where}: {error.strerror}", may_retry=is_full) from error
        return {"files": sum(row.files for row in rows), "bytes": fetched, "download-path": str(target)}


async def _find(channel: ArtifactChannel, parameters: schema.ArtifactDownload) -> list[ArtifactRow]:
    if parameters.name:
        content.check_name(parameters.name)
    listed = await channel.ask(messages.ListArtifacts(parameters.name), messages.ArtifactsListed)
    rows = listed.artifacts
    for row in rows:
        content.check_name(row.name)
    if parameters.pattern:
        try:
            rows = [row for row in rows if patterns.matches_name(row.name, parameters.pattern)]
        except ValueError as error:
            raise NodeFailure(f"pattern: invalid pattern: {error}") from error
    return rows


async def _fetch(
    context: Context,
    readers: Sequence[BucketReader],
    target: Path,
    parameters: schema.ArtifactDownload,
) -> int:
    """Returns the number of bytes."""
    rows = [reader.row for reader in readers]
    progress = Progress(context, sum(row.size for row in rows))
    is_apart = not (parameters.name or parameters.merge_multiple)
    stage = await to_end(Staging, target)
    try:
        stage.check_space(sum(row.size for row in rows))
        for number, reader in enumerate(readers):
            folder = stage.folder(number)
            await _Download(reader, folder, progress).run()
            if number and not is_apart:
                await to_end(staging.move_all, [(folder, stage.folder(0))])
        places = [(stage.folder(number), target / row.name) for number, row in enumerate(rows)]
        await to_end(staging.move_all, places if is_apart else [(stage.folder(0), target)])
        for row in rows:
            context.log(f"{row.name}: {row.files} file(s), {size_text(row.size)}")
    finally:
        await to_end(stage.remove)
    return progress.bytes


class _Download:
    """One artifact, into an empty folder."""

    def __init__(self, reader: BucketReader, folder: Path, progress: Progress) -> None:
        self._reader = reader
        self._row = reader.row
        self._folder = folder
        self._progress = progress

    async def run(self) -> None:
        """Raises `Rejected` WF762 when what arrives is not what was stored."""
        row = self._row
        if content.artifact_digest(row.table, row.listing) != row.digest:
            raise Rejected("WF762", f'the description of the artifact "{row.name}" is damaged')
        reader = self._reader
        fetcher = BlockFetcher(reader.channel, reader.request, f'the artifact "{row.name}"', reader.read)
        table = BlockTable(await fetcher.index(ArtifactPart.TABLE, row.table))
        listing = await fetcher.index(ArtifactPart.LISTING, row.listing)
        files = await asyncio.to_thread(content.decode_listing, listing, row.files)
        if not (sum(file.size for file in files) == table.size == row.size and len(files) == row.files):
            raise Rejected("WF762", f'the list of files of the artifact "{row.name}" does not fit its content')
        writer = _write(self._folder, files)
        await fetcher.write(writer, table, lambda size: self._progress.advance(size, row.name))


def _write(folder: Path, files: Sequence[ArtifactFile]) -> Generator[None, bytes, None]:
    """A generator that takes the content in blocks, and writes the files below an empty folder one after the other."""
    block = memoryview(b"")
    made: set[str] = set()
    for file in files:
        parent = file.path.rpartition("/")[0]
        if parent not in made:
            os.makedirs(folder / parent, exist_ok=True)
            made.add(parent)
        descriptor = os.open(folder / file.path, _NEW, 0o777 if file.is_executable else 0o666)
        try:
            block = yield from writing.fill(descriptor, file.size, block)
        finally:
            os.close(descriptor)
