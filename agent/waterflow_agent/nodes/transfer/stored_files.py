"""The nodes `file/list` and `file/prune`: what storage has, and deleting what is old.

A file is deleted only if it is still the one that was listed: a backup that is replaced in between stays.
"""

from __future__ import annotations

import datetime
from typing import Any

from waterflow_agent.display import size_text
from waterflow_agent.nodes import schema
from waterflow_agent.nodes.node import Context, Node, NodeFailure
from waterflow_agent.nodes.parameter_values import duration_s
from waterflow_agent.nodes.transfer import address, storage
from waterflow_agent.nodes.transfer.address import Address, AddressKind
from waterflow_agent.nodes.transfer.endpoints import SourceFile, Store

#: Files in the outputs of `file/list`, which have 1 MiB for a job.
LISTED_MAX = 2_000
#: With more files, only the number is printed.
SHOWN_MAX = 100


def _address(text: str) -> Address:
    found = address.parse(address.fill(text, datetime.datetime.now(datetime.UTC)), "path")
    if found.kind is AddressKind.WEB:
        raise NodeFailure("path: http servers have no lists of files; expected a local path, s3:// or sftp://")
    return found


class FileListNode(Node[schema.FileList]):
    """Lists files."""

    parameters = schema.FileList

    async def run(self, context: Context, parameters: schema.FileList) -> dict[str, Any]:
        """See the base class."""
        where = _address(parameters.path)
        async with storage.store(context, parameters, where, duration_s(parameters.timeout, "timeout")) as source:
            found = (await source.list_files()).entries
        if len(found) > LISTED_MAX:
            raise NodeFailure(f"{where} has {len(found):,} files; the limit is {LISTED_MAX:,}: narrow the pattern")
        total = sum(entry.size or 0 for entry in found)
        for entry in found[:SHOWN_MAX]:
            context.log(f"{_time(entry)}  {size_text(entry.size or 0):>10}  {entry.name}")
        context.log(f"{where}: {len(found)} file(s), {size_text(total)}")
        files = [{"name": entry.name, "size": entry.size, "modified": _time(entry)} for entry in found]
        return {"files": files, "count": len(found), "bytes": total}


class FilePruneNode(Node[schema.FilePrune]):
    """Deletes old files."""

    parameters = schema.FilePrune

    async def run(self, context: Context, parameters: schema.FilePrune) -> dict[str, Any]:
        """See the base class."""
        if parameters.keep_last is None and parameters.older_than is None:
            raise NodeFailure("set keep-last, older-than or both; otherwise every file would be deleted")
        where = _address(parameters.path)
        deleted, size = 0, 0
        async with storage.store(context, parameters, where, duration_s(parameters.timeout, "timeout")) as source:
            found = await source.list_files()
            if not found.is_many:
                raise NodeFailure(f"{where} is a single file; expected a folder or a pattern")
            old = _old(found.entries, parameters)
            try:
                for entry in old:
                    await self._delete(context, source, entry, len(old), is_dry=parameters.dry_run)
                    deleted, size = deleted + 1, size + (entry.size or 0)
            except NodeFailure as failure:
                outputs = {"deleted": deleted, "kept": len(found.entries) - deleted, "bytes": size}
                raise NodeFailure(failure.text, may_retry=failure.may_retry, outputs=outputs) from failure
        kept = len(found.entries) - deleted
        what = "would delete" if parameters.dry_run else "deleted"
        context.log(f"{where}: {what} {deleted} file(s), {size_text(size)}; {kept} kept")
        return {"deleted": deleted, "kept": kept, "bytes": size}

    async def _delete(self, context: Context, source: Store, entry: SourceFile, count: int, *, is_dry: bool) -> None:
        if not is_dry:
            await source.delete(entry)
        if count <= SHOWN_MAX:
            context.log(f"{'would delete' if is_dry else 'deleted'} {entry.name} ({_time(entry)})")


def _old(entries: list[SourceFile], parameters: schema.FilePrune) -> list[SourceFile]:
    """The files to delete, the oldest first."""
    by_name = parameters.by == "name"
    ordered = sorted(entries, key=lambda entry: (0.0 if by_name else entry.modified, entry.name))
    old = ordered[: max(0, len(ordered) - parameters.keep_last)] if parameters.keep_last is not None else ordered
    if parameters.older_than is None:
        return old
    newest = datetime.datetime.now(datetime.UTC).timestamp() - duration_s(parameters.older_than, "older-than")
    return [entry for entry in old if entry.modified < newest]


def _time(entry: SourceFile) -> str:
    found = datetime.datetime.fromtimestamp(entry.modified, datetime.UTC)
    return found.isoformat(timespec="seconds").replace("+00:00", "Z")
