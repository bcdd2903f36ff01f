"""The node itself: which places, which files, one after the other, and what came of it."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import importlib
import re
from typing import Any

import msgspec

from waterflow_agent.errors import Rejected
from waterflow_agent.nodes import parameter_values, schema
from waterflow_agent.nodes.node import Context, Node, NodeFailure
from waterflow_agent.nodes.parameter_values import duration_s
from waterflow_agent.nodes.transfer import address, local
from waterflow_agent.nodes.transfer.address import Address, AddressKind
from waterflow_agent.nodes.transfer.content import Content, Progress, amount, share_memory
from waterflow_agent.nodes.transfer.endpoints import Listing, Source, SourceFile, Target

#: A line in the log for each file up to here; of more only the progress is shown.
FILES_SHOWN_MAX = 100


class _Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters, looked at as a whole."""

    source: Address
    target: Address
    mode: int | None
    owner: tuple[int, int]
    timeout_s: float


def _plan(given: schema.FileTransfer, now: datetime.datetime) -> _Plan:
    source = address.parse(address.fill(given.source, now), "source")
    target = address.parse(address.fill(given.destination, now), "destination")
    if target.kind is AddressKind.REPOSITORY:
        raise NodeFailure("destination: repo: is a source; a path without it is relative to the step's directory")
    if given.checksum is not None and not re.fullmatch("sha256:[0-9a-fA-F]{64}", given.checksum):
        raise NodeFailure("checksum: expected sha256: and 64 hexadecimal digits")
    if target.kind in (AddressKind.S3, AddressKind.WEB) and (given.mode or given.owner):
        raise NodeFailure(f"mode and owner: files at {target} have none")
    if target.kind is AddressKind.SFTP and given.owner and not re.fullmatch(r"\d+:\d+", given.owner):
        raise NodeFailure("owner: at an SFTP server, user and group are needed as numbers: 1000:1000")
    return _Plan(
        source=source,
        target=target,
        mode=parameter_values.file_mode(given.mode),
        owner=parameter_values.file_owner(given.owner),
        timeout_s=duration_s(given.timeout, "timeout"),
    )


class FileTransferNode(Node[schema.FileTransfer]):
    """Files from one place to another."""

    parameters = schema.FileTransfer

    async def run(self, context: Context, given: schema.FileTransfer) -> dict[str, Any]:
        """See the base class."""
        plan = _plan(given, datetime.datetime.now(datetime.UTC))
        summary = _Summary()
        share_memory()
        try:
            async with _source(context, given, plan) as source, _target(context, given, plan) as target:
                found = await source.find()
                _check(found, plan, given)
                is_folder = found.is_many or plan.target.path.endswith("/") or await target.is_folder()
                progress = Progress(context, _total(found))
                for entry in found.entries:
                    name = entry.name if is_folder else None
                    checksum = await self._copy(source, target, entry, name, given, progress)
                    summary.add(entry.name, checksum, progress.bytes)
                    if len(found.entries) <= FILES_SHOWN_MAX:
                        context.log(f"{entry.name}: {checksum}")
        except NodeFailure as failure:
            raise NodeFailure(failure.text, may_retry=failure.may_retry, outputs=summary.outputs(False)) from failure
        context.log(f"{plan.source} to {plan.target}: {len(summary.lines)} file(s), {amount(summary.bytes)}")
        return summary.outputs(found.is_many)

    async def _copy(
        self,
        source: Source,
        target: Target,
        entry: SourceFile,
        name: str | None,
        given: schema.FileTransfer,
        progress: Progress,
    ) -> str:
        async with contextlib.aclosing(source.read(entry)) as chunks:
            content = Content(entry.name, chunks, size=entry.size, wanted=given.checksum, progress=progress)
            await target.write(name, content)
        return content.checksum


def _check(found: Listing, plan: _Plan, given: schema.FileTransfer) -> None:
    if not found.entries:
        raise NodeFailure(f"{plan.source}: there is no such file")
    if found.is_many and given.checksum is not None:
        raise NodeFailure("checksum goes with one file, not with a folder or a pattern")


def _total(found: Listing) -> int | None:
    sizes = [entry.size for entry in found.entries if entry.size is not None]
    return sum(sizes) if len(sizes) == len(found.entries) else None


class _Summary:
    """What has arrived so far."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.bytes = 0

    def add(self, name: str, checksum: str, bytes_so_far: int) -> None:
        self.lines.append(f"{checksum.removeprefix('sha256:')}  {name}\n")
        self.bytes = bytes_so_far

    def outputs(self, is_many: bool) -> dict[str, Any]:
        """The checksum is that of the one file, or of the list that `sha256sum` prints of many."""
        if not self.lines:
            checksum = ""
        elif is_many:
            checksum = hashlib.sha256("".join(self.lines).encode()).hexdigest()
        else:
            checksum = self.lines[0].split()[0]
        return {"bytes": self.bytes, "files": len(self.lines), "checksum": checksum and f"sha256:{checksum}"}


def _module(name: str, package: str) -> Any:
    """A kind of place, with the library that it alone needs. Raises `Rejected` WF708."""
    try:
        return importlib.import_module(f"waterflow_agent.nodes.transfer.{name}")
    except ImportError as error:
        text = f'node "file/transfer" needs {package} here; next: pip install "waterflow-agent[nodes]" on this server'
        raise Rejected("WF708", text) from error


def _remote(context: Context, given: schema.FileTransfer, plan: _Plan, place: Address) -> Any:
    match place.kind:
        case AddressKind.S3:
            s3 = _module("s3", "obstore")
            return s3.S3(place, s3.access(given, context.env, plan.timeout_s))
        case AddressKind.SFTP:
            sftp = _module("sftp", "asyncssh")
            access = sftp.ssh.access(given, context, plan.timeout_s)
            return sftp.Sftp(context, place, access, mode=plan.mode, owner=plan.owner)
    web = _module("web", "httpx")
    return web.Web(place, headers=given.headers, verify=given.verify, timeout_s=plan.timeout_s)


def _source(context: Context, given: schema.FileTransfer, plan: _Plan) -> Source:
    place = plan.source
    if place.kind is AddressKind.REPOSITORY:
        return local.LocalSource(context, local.inside(context.workspace, place.path, "source"))
    if place.kind is AddressKind.LOCAL:
        return local.LocalSource(context, context.path(place.path))
    source: Source = _remote(context, given, plan, place)
    return source


def _target(context: Context, given: schema.FileTransfer, plan: _Plan) -> Target:
    if plan.target.kind is AddressKind.LOCAL:
        return local.LocalTarget(context.path(plan.target.path), plan.mode, plan.owner)
    target: Target = _remote(context, given, plan, plan.target)
    return target
