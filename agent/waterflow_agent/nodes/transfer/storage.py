"""Opens the sources and targets of addresses. The libraries for S3, SFTP and HTTP are imported when an address needs them."""

from __future__ import annotations

import importlib
from typing import Any

import msgspec

from waterflow_agent.errors import Rejected
from waterflow_agent.nodes import schema
from waterflow_agent.nodes.node import Context
from waterflow_agent.nodes.transfer import local
from waterflow_agent.nodes.transfer.address import Address, AddressKind
from waterflow_agent.nodes.transfer.endpoints import Source, Store, Target


class FileModes(msgspec.Struct, frozen=True, kw_only=True):
    """Mode and owner of files that are written; what is not set is kept."""

    mode: int | None = None
    owner: tuple[int, int] = (-1, -1)


def store(context: Context, access: schema.Storage, address: Address, timeout_s: float) -> Store:
    """What has the files at an address, which is not of http. Raises as `source` does."""
    found: Store = _source(context, access, address, timeout_s)
    return found


def source(context: Context, access: schema.Storage, address: Address, timeout_s: float) -> Source:
    """The source at an address. Raises `NodeFailure`, and `Rejected` WF708 if a library is not installed."""
    found: Source = _source(context, access, address, timeout_s)
    return found


def _source(context: Context, access: schema.Storage, address: Address, timeout_s: float) -> Any:
    if address.kind is AddressKind.REPOSITORY:
        return local.LocalSource(context, local.inside(context.workspace, address.path, "source"))
    if address.kind is AddressKind.LOCAL:
        return local.LocalSource(context, context.path(address.path))
    return _remote(context, access, address, timeout_s, FileModes())


def target(context: Context, access: schema.Storage, address: Address, timeout_s: float, modes: FileModes) -> Target:
    """The target at an address. Raises `NodeFailure`, and `Rejected` WF708 if a library is not installed."""
    if address.kind is AddressKind.LOCAL:
        return local.LocalTarget(context.path(address.path), modes.mode, modes.owner)
    found: Target = _remote(context, access, address, timeout_s, modes)
    return found


def _remote(context: Context, access: schema.Storage, address: Address, timeout_s: float, modes: FileModes) -> Any:
    match address.kind:
        case AddressKind.S3:
            s3 = _module("s3", "obstore")
            return s3.S3(address, s3.access(access, context.env, timeout_s))
        case AddressKind.SFTP:
            sftp = _module("sftp", "asyncssh")
            known = sftp.ssh.access(access, context, timeout_s)
            return sftp.Sftp(context, address, known, mode=modes.mode, owner=modes.owner)
    assert isinstance(access, schema.FileTransfer), "only transfers have http addresses"
    web = _module("web", "httpx")
    return web.Web(address, headers=access.headers, verify=access.verify, timeout_s=timeout_s)


def _module(name: str, package: str) -> Any:
    """Import the module for a kind of source or target. Raises `Rejected` WF708 if its library is not installed."""
    try:
        return importlib.import_module(f"waterflow_agent.nodes.transfer.{name}")
    except ImportError as error:
        text = f'this address needs the package {package}; next: pip install "waterflow-agent[nodes]" on this server'
        raise Rejected("WF708", text) from error
