"""Stores files as an artifact: reads them once, sends the blocks that the daemon does not have, and commits the artifact."""

from __future__ import annotations

import asyncio
import errno
import itertools
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any

from waterflow_agent.artifacts import content, patterns
from waterflow_agent.artifacts.channel import ArtifactChannel
from waterflow_agent.artifacts.content import ArtifactFile, BlockCutter
from waterflow_agent.display import escape_for_display, size_text
from waterflow_agent.errors import Rejected, Retryable
from waterflow_agent.nodes import schema
from waterflow_agent.nodes.artifacts.bucket import BucketClient
from waterflow_agent.nodes.artifacts.sending import Block, BlockSender, blocks_of_file, end_of_blocks
from waterflow_agent.nodes.node import Context, Node, NodeFailure
from waterflow_agent.nodes.transfer.content import Progress
from waterflow_agent.wire import messages

#: Between the last answer about a block and the commit, the daemon may have removed unused blocks: how often to send all again.
PASSES_MAX = 3
#: The daemon's code for a commit of blocks that it does not have.
BLOCKS_GONE = "WF333"


class ArtifactUploadNode(Node[schema.ArtifactUpload]):
    """Stores an artifact."""

    parameters = schema.ArtifactUpload

    async def run(self, context: Context, parameters: schema.ArtifactUpload) -> dict[str, Any]:
        """See the base class."""
        content.check_name(parameters.name)
        days = _days(parameters.retention_days)
        selected = await asyncio.to_thread(_select, context, parameters)
        if not selected.paths:
            return _nothing(context, parameters)
        name = parameters.name if parameters.archive else _name_of_file(selected)
        try:
            async with ArtifactChannel(context.artifacts) as channel, BucketClient(context.warn) as bucket:
                upload = _Upload(context, channel, bucket, selected)
                commit = await upload.run(name, days, is_replacing=parameters.overwrite)
        except Retryable as error:
            raise NodeFailure(error.text, may_retry=True) from error
        except OSError as error:
            raise _unreadable(error) from error
        digest = content.artifact_digest(commit.table, commit.listing).hex()
        context.log(f"{name}: {commit.files} file(s), {size_text(commit.size)}, {size_text(upload.sent)} sent")
        outputs = {"name": name, "files": commit.files, "bytes": commit.size, "digest": f"sha256:{digest}"}
        return {**outputs, "artifact-digest": digest}


def _days(value: int | str) -> int:
    try:
        days = int(value or 0)
    except ValueError:
        days = -1
    if not 0 <= days <= 36_500:
        raise NodeFailure(f"retention-days: expected a number of days from 0 to 36500, not {value!r}")
    return days


def _select(context: Context, parameters: schema.ArtifactUpload) -> patterns.Selected:
    try:
        selected = patterns.select(
            parameters.path,
            context.directory,
            home=context.env.get("HOME", "/"),
            includes_hidden=parameters.include_hidden_files,
        )
    except OSError as error:
        raise _unreadable(error) from error
    except ValueError as error:
        # `re.error` is one.
        raise NodeFailure(f"path: invalid pattern: {error}") from error
    if not parameters.root:
        return selected
    root = os.path.normpath(os.path.join(context.directory, parameters.root))
    try:
        return selected.below(root)
    except ValueError as error:
        outside = escape_for_display(str(error), 200)
        raise NodeFailure(f"root: {outside} is not inside {escape_for_display(root, 200)}") from error


def _name_of_file(selected: patterns.Selected) -> str:
    """The name of an artifact that is one file."""
    if len(selected.paths) > 1:
        raise NodeFailure(f"archive: false is for a single file, but path selects {len(selected.paths)} files")
    name = selected.paths[0].rpartition("/")[2]
    content.check_name(name)
    return name


def _nothing(context: Context, parameters: schema.ArtifactUpload) -> dict[str, Any]:
    lines = ", ".join(line.strip() for line in parameters.path.splitlines() if line.strip())
    text = f"no files match path: {escape_for_display(lines, 200)}; no artifact was stored"
    if parameters.if_no_files_found == "error":
        raise NodeFailure(text)
    if parameters.if_no_files_found == "warn":
        context.warn(f"warning: {text}")
    return {"name": parameters.name, "files": 0, "bytes": 0, "digest": "", "artifact-digest": ""}


def _unreadable(error: OSError) -> NodeFailure:
    where = f" {escape_for_display(str(error.filename), 200)}" if error.filename else " a file"
    return NodeFailure(f"cannot read{where}: {error.strerror}", may_retry=error.errno == errno.EIO)


class _Upload:
    def __init__(
        self, context: Context, channel: ArtifactChannel, bucket: BucketClient, selected: patterns.Selected
    ) -> None:
        self._context = context
        self._channel = channel
        self._selected = selected
        self._sender = BlockSender(channel, bucket)

    @property
    def sent(self) -> int:
        """Bytes that were not stored yet."""
        return self._sender.sent

    async def run(self, name: str, days: int, *, is_replacing: bool) -> messages.CommitArtifact:
        total = await asyncio.to_thread(self._measure)
        begin = messages.BeginArtifact(name, is_replacing, len(self._selected.paths), total)
        await self._channel.ask(begin, messages.ArtifactAccepted)
        for number in itertools.count(1):
            commit = await self._send(name, days, total, is_replacing=is_replacing)
            try:
                await self._channel.ask(commit, messages.ArtifactAccepted)
                break
            except Rejected as error:
                if error.code != BLOCKS_GONE or number >= PASSES_MAX:
                    raise
        return commit

    def _measure(self) -> int:
        root = Path(self._selected.root)
        for path in self._selected.paths:
            content.check_path(path)
        return sum(os.stat(root / path).st_size for path in self._selected.paths)

    async def _send(self, name: str, days: int, total: int, *, is_replacing: bool) -> messages.CommitArtifact:
        files: list[ArtifactFile] = []
        progress = Progress(self._context, total)
        blocks = await self._sender.send(_blocks(self._selected, files), lambda size: progress.advance(size, name))
        return messages.CommitArtifact(
            name=name,
            is_replacing=is_replacing,
            files=len(files),
            size=sum(size for _, size in blocks),
            table=await self._sender.send_index(content.encode_table(blocks)),
            listing=await self._sender.send_index(await asyncio.to_thread(content.encode_listing, files)),
            retention_days=days,
        )


def _blocks(selected: patterns.Selected, files: list[ArtifactFile]) -> Generator[Block, None, None]:
    """Yields digest and data of each block, and lists the files that it has read."""
    cutter = BlockCutter()
    root = os.open(selected.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for path in selected.paths:
            status = yield from blocks_of_file(path, cutter, root)
            files.append(ArtifactFile(path, status.size, bool(status.mode & 0o111)))
        yield from end_of_blocks(cutter)
    finally:
        os.close(root)
