"""The node `file/transfer`: sources, target, the files one after the other, and the outputs."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from waterflow_agent.display import size_text
from waterflow_agent.nodes import parameter_values, schema
from waterflow_agent.nodes.node import Context, Node, NodeFailure
from waterflow_agent.nodes.parameter_values import duration_s
from waterflow_agent.nodes.transfer import address, storage
from waterflow_agent.nodes.transfer.address import Address, AddressKind
from waterflow_agent.nodes.transfer.content import Content, Progress, share_memory
from waterflow_agent.nodes.transfer.endpoints import Listing, Source, SourceFile, Target

#: With more files, only the progress is printed, not a line for each file.
FILES_SHOWN_MAX = 100


class _Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The parsed parameters."""

    sources: list[Address]
    target: Address
    mode: int | None
    owner: tuple[int, int]
    timeout_s: float


def _plan(parameters: schema.FileTransfer, now: datetime.datetime) -> _Plan:
    texts = [parameters.source] if isinstance(parameters.source, str) else parameters.source
    sources = [address.parse(address.fill(text, now), "source") for text in texts]
    target = address.parse(address.fill(parameters.destination, now), "destination")
    if target.kind is AddressKind.REPOSITORY:
        raise NodeFailure(
            "destination: repo: is only allowed in source; a plain path is relative to the step's directory"
        )
    if parameters.checksum is not None and not re.fullmatch("sha256:[0-9a-fA-F]{64}", parameters.checksum):
        raise NodeFailure("checksum: expected sha256: followed by 64 hexadecimal digits")
    if target.kind in (AddressKind.S3, AddressKind.WEB) and (parameters.mode or parameters.owner):
        raise NodeFailure(f"mode and owner are not supported by {target}")
    if target.kind is AddressKind.SFTP and parameters.owner and not re.fullmatch(r"\d+:\d+", parameters.owner):
        raise NodeFailure("owner: SFTP needs numeric user and group, such as 1000:1000")
    return _Plan(
        sources=sources,
        target=target,
        mode=parameter_values.file_mode(parameters.mode),
        owner=parameter_values.file_owner(parameters.owner),
        timeout_s=duration_s(parameters.timeout, "timeout"),
    )


class FileTransferNode(Node[schema.FileTransfer]):
    """Copies files from sources to a target."""

    parameters = schema.FileTransfer

    async def run(self, context: Context, parameters: schema.FileTransfer) -> dict[str, Any]:
        """See the base class."""
        plan = _plan(parameters, datetime.datetime.now(datetime.UTC))
        summary = _Summary()
        share_memory()
        try:
            async with contextlib.AsyncExitStack() as stack:
                sources = [
                    await stack.enter_async_context(storage.source(context, parameters, one, plan.timeout_s))
                    for one in plan.sources
                ]
                target = await stack.enter_async_context(_target(context, parameters, plan))
                found = [(source, await source.list_files()) for source in sources]
                is_many = _check([listing for _, listing in found], plan, parameters)
                is_folder = is_many or plan.target.path.endswith("/") or await target.is_folder()
                files = [(source, entry) for source, listing in found for entry in listing.entries]
                progress = Progress(context, _total([entry for _, entry in files]))
                for source, entry in files:
                    name = entry.name if is_folder else None
                    checksum = await self._copy(source, target, entry, name, parameters, progress)
                    summary.add(entry.name, checksum, progress.bytes)
                    if len(files) <= FILES_SHOWN_MAX:
                        context.log(f"{entry.name}: {checksum}")
        except NodeFailure as failure:
            raise NodeFailure(failure.text, may_retry=failure.may_retry, outputs=summary.outputs(False)) from failure
        origin = ", ".join(map(str, plan.sources))
        context.log(f"{origin} to {plan.target}: {len(summary.lines)} file(s), {size_text(summary.bytes)}")
        return summary.outputs(is_many)

    async def _copy(
        self,
        source: Source,
        target: Target,
        entry: SourceFile,
        name: str | None,
        parameters: schema.FileTransfer,
        progress: Progress,
    ) -> str:
        async with contextlib.aclosing(source.read(entry)) as chunks:
            content = Content(entry.name, chunks, size=entry.size, checksum=parameters.checksum, progress=progress)
            await target.write(name, content)
        return content.checksum


def _check(found: Sequence[Listing], plan: _Plan, parameters: schema.FileTransfer) -> bool:
    """Whether the destination is a folder because of the sources. Raises `NodeFailure`."""
    names: dict[str, Address] = {}
    for address_, listing in zip(plan.sources, found, strict=True):
        if not listing.entries:
            raise NodeFailure(f"{address_}: no such file")
        for entry in listing.entries:
            if names.setdefault(entry.name, address_) is not address_:
                raise NodeFailure(
                    f"{names[entry.name]} and {address_} both have a file {entry.name!r}; nothing was written"
                )
    is_many = len(found) > 1 or found[0].is_many
    if is_many and parameters.checksum is not None:
        raise NodeFailure("checksum requires a single file, not several, a folder or a pattern")
    return is_many


def _total(entries: Sequence[SourceFile]) -> int | None:
    sizes = [entry.size for entry in entries if entry.size is not None]
    return sum(sizes) if len(sizes) == len(entries) else None


def _target(context: Context, parameters: schema.FileTransfer, plan: _Plan) -> Target:
    return storage.target(
        context, parameters, plan.target, plan.timeout_s, storage.FileModes(mode=plan.mode, owner=plan.owner)
    )


class _Summary:
    """The files that were transferred so far."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.bytes = 0

    def add(self, name: str, checksum: str, bytes_so_far: int) -> None:
        self.lines.append(f"{checksum.removeprefix('sha256:')}  {name}\n")
        self.bytes = bytes_so_far

    def outputs(self, is_many: bool) -> dict[str, Any]:
        """Return the outputs. The checksum is that of a single file, or of the list that `sha256sum` would print."""
        if not self.lines:
            checksum = ""
        elif is_many:
            checksum = hashlib.sha256("".join(self.lines).encode()).hexdigest()
        else:
            checksum = self.lines[0].split()[0]
        return {"bytes": self.bytes, "files": len(self.lines), "checksum": checksum and f"sha256:{checksum}"}
