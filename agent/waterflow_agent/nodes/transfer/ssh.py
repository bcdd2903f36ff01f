"""Connections to SSH servers, for SFTP: who the server is, and who we are.

The server's key is known beforehand, from `host-key` or a known hosts file; another or an unknown one ends the transfer with
its fingerprint. Of the agent's own user nothing is tried: no key in `~/.ssh`, no agent, no configuration.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path
from typing import Any

import asyncssh
import msgspec

from waterflow_agent.nodes import schema
from waterflow_agent.nodes.node import Context, NodeFailure
from waterflow_agent.nodes.transfer.address import Address

#: Where host keys are looked up when the step names no file.
_KNOWN_HOSTS = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")
#: For a farewell.
CLEAN_UP_S = 5.0
_NO_KEYS: tuple[list[str], list[str], list[str]] = ([], [], [])
#: Answers of a server that do not get better by themselves.
_FINAL = (
    *(asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath, asyncssh.SFTPPermissionDenied, asyncssh.SFTPOpUnsupported),
    *(asyncssh.SFTPNotADirectory, asyncssh.SFTPFileIsADirectory, asyncssh.SFTPInvalidFilename),
)
#: What the library raises for whatever happens to a connection.
ERRORS = (OSError, asyncssh.Error, TimeoutError)


class SshAccess(msgspec.Struct, frozen=True, kw_only=True):
    """How servers are known and entered."""

    #: A known hosts file's content, or a key, as the library takes it.
    known_hosts: Any
    #: `SHA256:...` in place of it.
    fingerprint: str | None
    keys: list[Any]
    password: str | None
    timeout_s: float


def access(given: schema.FileTransfer, context: Context, timeout_s: float) -> SshAccess:
    """What the parameters say. Raises `NodeFailure`; its texts never hold a key or a password."""
    if given.private_key is None and given.password is None:
        raise NodeFailure("sftp needs private-key or password; next: give one, from a secret")
    known_hosts, fingerprint = _known(given, context)
    keys = [] if given.private_key is None else [_private_key(given.private_key, given.passphrase, context)]
    return SshAccess(
        known_hosts=known_hosts, fingerprint=fingerprint, keys=keys, password=given.password, timeout_s=timeout_s
    )


def _known(given: schema.FileTransfer, context: Context) -> tuple[Any, str | None]:
    if given.host_key is not None and given.known_hosts is not None:
        raise NodeFailure("host-key and known-hosts exclude each other")
    if given.host_key is not None and given.host_key.startswith("SHA256:"):
        return _NO_KEYS, given.host_key.strip().rstrip("=")
    if given.host_key is not None:
        try:
            return ([asyncssh.import_public_key(given.host_key)], [], []), None
        except asyncssh.KeyImportError:
            raise NodeFailure("host-key: expected SHA256:..., or a public key such as ssh-ed25519 AAAA...") from None
    files = [context.path(given.known_hosts)] if given.known_hosts else [Path(one).expanduser() for one in _KNOWN_HOSTS]
    try:
        # One that the step names must be there.
        content = [file.read_bytes() for file in files if given.known_hosts or file.is_file()]
        asyncssh.import_known_hosts(b"\n".join(content).decode())
    except OSError as error:
        raise NodeFailure(f"known-hosts: {error.filename}: {error.strerror}") from error
    except ValueError as error:
        raise NodeFailure(f"known-hosts: {error}") from error
    return b"\n".join(content) or _NO_KEYS, None


def _private_key(text: str, passphrase: str | None, context: Context) -> Any:
    try:
        if not text.lstrip().startswith("-----BEGIN"):
            text = context.path(text).read_text("utf-8")
        # Secrets often lose the end of their last line.
        return asyncssh.import_private_key(text.strip() + "\n", passphrase)
    except OSError as error:
        raise NodeFailure(f"private-key: neither a key nor a file that can be read: {error.strerror}") from None
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError, ValueError) as error:
        hint = "; passphrase is missing or wrong" if "assphrase" in str(error) or "decrypt" in str(error) else ""
        raise NodeFailure(f"private-key: it cannot be read as a key{hint}") from None


class _Keeper(asyncssh.SSHClient):
    """Remembers which key the server showed, and takes the one with the wanted fingerprint."""

    def __init__(self, wanted: str | None) -> None:
        self._wanted = wanted
        self.shown = ""

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Asked when the key is not among the known ones."""
        fingerprint = key.get_fingerprint("sha256")
        self.shown = f"{key.get_algorithm()} {fingerprint}"
        return fingerprint == self._wanted


async def connect(address: Address, access: SshAccess, stack: contextlib.AsyncExitStack) -> asyncssh.SFTPClient:
    """A session with the server, which `stack` ends. Raises `NodeFailure`."""
    keeper = _Keeper(access.fingerprint)
    options: dict[str, Any] = {} if address.user is None else {"username": address.user}
    try:
        async with asyncio.timeout(access.timeout_s):
            connection = await asyncssh.connect(
                address.host,
                address.port or 22,
                client_factory=lambda: keeper,
                known_hosts=access.known_hosts,
                client_keys=access.keys or None,
                password=access.password,
                agent_path=None,
                config=None,
                keepalive_interval=access.timeout_s / 3,
                **options,
            )
            stack.push_async_callback(_closed, connection)
            return await connection.start_sftp_client()
    except asyncssh.HostKeyNotVerifiable as error:
        raise _stranger(address, access, keeper.shown) from error
    except asyncssh.PermissionDenied as error:
        text = f"{address}: the server does not let this user in with what private-key and password gave"
        raise NodeFailure(text) from error
    except ERRORS as error:
        raise failure(f"cannot connect to {address}", access, error) from error


async def _closed(connection: asyncssh.SSHClientConnection) -> None:
    connection.close()
    with contextlib.suppress(*ERRORS):
        async with asyncio.timeout(CLEAN_UP_S):
            await connection.wait_closed()


def _stranger(address: Address, access: SshAccess, shown: str) -> NodeFailure:
    host, port = address.host, address.port or 22
    known = "is not known" if access.fingerprint is None else f"is not {access.fingerprint}"
    return NodeFailure(
        f"the host key of {host} port {port} {known}: it offered {shown or 'none that is wanted'}; next: when whoever"
        " runs that server confirms this fingerprint, give it as host-key, or add the line of"
        f' "ssh-keyscan -p {port} {host}" to the known hosts file'
    )


def failure(what: str, access: SshAccess, error: Exception) -> NodeFailure:
    """Why `what` did not come about, and whether trying again can help."""
    if isinstance(error, TimeoutError) and error.errno is None:
        return NodeFailure(f"{what}: no answer for {access.timeout_s:g} s", may_retry=True)
    if isinstance(error, asyncssh.SFTPNoSpaceOnFilesystem | asyncssh.SFTPQuotaExceeded):
        return NodeFailure(f"{what}: its disk is full", may_retry=True)
    reason = error.reason if isinstance(error, asyncssh.Error) else getattr(error, "strerror", None)
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        # Its own text may be one of the event loop.
        reason = os.strerror(error.errno)
    return NodeFailure(f"{what}: {reason or error or type(error).__name__}", may_retry=not isinstance(error, _FINAL))
