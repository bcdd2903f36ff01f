"""The node: source, target, the files one after the other, and the outputs."""

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

#: With more files, only the progress is printed, not a line for each file.
FILES_SHOWN_MAX = 100


class _Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The parsed parameters."""

    source: Address
    target: Address
    mode: int | None
    owner: tuple[int, int]
    timeout_s: float


def _plan(parameters: schema.FileTransfer, now: datetime.datetime) -> _Plan:
    source = address.parse(address.fill(parameters.source, now), "source")
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
        source=source,
        target=target,
        mode=parameter_values.file_mode(parameters.mode),
        owner=parameter_values.file_owner(parameters.owner),
        timeout_s=duration_s(parameters.timeout, "timeout"),
    )


class FileTransferNode(Node[schema.FileTransfer]):
    """Copies files from a source to a target."""

    parameters = schema.FileTransfer

    async def run(self, context: Context, parameters: schema.FileTransfer) -> dict[str, Any]:
        """See the base class."""
        plan = _plan(parameters, datetime.datetime.now(datetime.UTC))
        summary = _Summary()
        share_memory()
        try:
            async with _source(context, parameters, plan) as source, _target(context, parameters, plan) as target:
                found = await source.list_files()
                _check(found, plan, parameters)
                is_folder = found.is_many or plan.target.path.endswith("/") or await target.is_folder()
                progress = Progress(context, _total(found))
                for entry in found.entries:
                    name = entry.name if is_folder else None
                    checksum = await self._copy(source, target, entry, name, parameters, progress)
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
        parameters: schema.FileTransfer,
        progress: Progress,
    ) -> str:
        async with contextlib.aclosing(source.read(entry)) as chunks:
            content = Content(entry.name, chunks, size=entry.size, checksum=parameters.checksum, progress=progress)
            await target.write(name, content)
        return content.checksum


def _check(found: Listing, plan: _Plan, parameters: schema.FileTransfer) -> None:
    if not found.entries:
        raise NodeFailure(f"{plan.source}: no such file")
    if found.is_many and parameters.checksum is not None:
        raise NodeFailure("checksum requires a single file, not a folder or a pattern")


def _total(found: Listing) -> int | None:
    sizes = [entry.size for entry in found.entries if entry.size is not None]
    return sum(sizes) if len(sizes) == len(found.entries) else None


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


def _module(name: str, package: str) -> Any:
    """Import the module for a kind of source or target. Raises `Rejected` WF708 if its library is not installed."""
    try:
        return importlib.import_module(f"waterflow_agent.nodes.transfer.{name}")
    except ImportError as error:
        text = f'node "file/transfer" needs the package {package}; next: pip install "waterflow-agent[nodes]" on this server'
        raise Rejected("WF708", text) from error


def _remote(context: Context, parameters: schema.FileTransfer, plan: _Plan, endpoint: Address) -> Any:
    match endpoint.kind:
        case AddressKind.S3:
            s3 = _module("s3", "obstore")
            return s3.S3(endpoint, s3.access(parameters, context.env, plan.timeout_s))
        case AddressKind.SFTP:
            sftp = _module("sftp", "asyncssh")
            access = sftp.ssh.access(parameters, context, plan.timeout_s)
            return sftp.Sftp(context, endpoint, access, mode=plan.mode, owner=plan.owner)
    web = _module("web", "httpx")
    return web.Web(endpoint, headers=parameters.headers, verify=parameters.verify, timeout_s=plan.timeout_s)


def _source(context: Context, parameters: schema.FileTransfer, plan: _Plan) -> Source:
    endpoint = plan.source
    if endpoint.kind is AddressKind.REPOSITORY:
        return local.LocalSource(context, local.inside(context.workspace, endpoint.path, "source"))
    if endpoint.kind is AddressKind.LOCAL:
        return local.LocalSource(context, context.path(endpoint.path))
    source: Source = _remote(context, parameters, plan, endpoint)
    return source


def _target(context: Context, parameters: schema.FileTransfer, plan: _Plan) -> Target:
    if plan.target.kind is AddressKind.LOCAL:
        return local.LocalTarget(context.path(plan.target.path), plan.mode, plan.owner)
    target: Target = _remote(context, parameters, plan, plan.target)
    return target
