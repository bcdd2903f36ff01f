"""Connections to SSH servers for SFTP: host keys and credentials.

The server's key must be known, from `host-key` or a known hosts file; otherwise the transfer fails with its fingerprint.
Nothing of the agent's user is used: no key in `~/.ssh`, no SSH agent, no configuration.
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

#: Known hosts files if the step names none.
_KNOWN_HOSTS = ("~/.ssh/known_hosts", "/etc/ssh/ssh_known_hosts")
#: Time limit for closing a connection.
CLEAN_UP_S = 5.0
_NO_KEYS: tuple[list[str], list[str], list[str]] = ([], [], [])
#: Errors for which a retry cannot help.
_FINAL = (
    asyncssh.SFTPNoSuchFile,
    asyncssh.SFTPNoSuchPath,
    asyncssh.SFTPPermissionDenied,
    asyncssh.SFTPOpUnsupported,
    asyncssh.SFTPNotADirectory,
    asyncssh.SFTPFileIsADirectory,
    asyncssh.SFTPInvalidFilename,
)
#: Errors of the library for a lost connection.
ERRORS = (OSError, asyncssh.Error, TimeoutError)


class SshAccess(msgspec.Struct, frozen=True, kw_only=True):
    """Known host keys and credentials."""

    #: The content of a known hosts file, or keys, in the form that the library takes.
    known_hosts: Any
    #: `SHA256:...`, instead of known hosts.
    fingerprint: str | None
    keys: list[Any]
    password: str | None
    timeout_s: float


def access(parameters: schema.Storage, context: Context, timeout_s: float) -> SshAccess:
    """Read the parameters. Raises `NodeFailure`, whose text contains no key or password."""
    if parameters.private_key is None and parameters.password is None:
        raise NodeFailure("sftp needs private-key or password; next: set one from a secret")
    known_hosts, fingerprint = _known(parameters, context)
    keys = (
        [] if parameters.private_key is None else [_private_key(parameters.private_key, parameters.passphrase, context)]
    )
    return SshAccess(
        known_hosts=known_hosts, fingerprint=fingerprint, keys=keys, password=parameters.password, timeout_s=timeout_s
    )


def _known(parameters: schema.Storage, context: Context) -> tuple[Any, str | None]:
    if parameters.host_key is not None and parameters.known_hosts is not None:
        raise NodeFailure("host-key and known-hosts are mutually exclusive")
    if parameters.host_key is not None and parameters.host_key.startswith("SHA256:"):
        return _NO_KEYS, parameters.host_key.strip().rstrip("=")
    if parameters.host_key is not None:
        try:
            return ([asyncssh.import_public_key(parameters.host_key)], [], []), None
        except asyncssh.KeyImportError:
            raise NodeFailure("host-key: expected SHA256:..., or a public key such as ssh-ed25519 AAAA...") from None
    files = (
        [context.path(parameters.known_hosts)]
        if parameters.known_hosts
        else [Path(one).expanduser() for one in _KNOWN_HOSTS]
    )
    try:
        # A file that the step names must exist.
        content = [file.read_bytes() for file in files if parameters.known_hosts or file.is_file()]
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
        # Secrets often lack the final newline.
        return asyncssh.import_private_key(text.strip() + "\n", passphrase)
    except OSError as error:
        raise NodeFailure(f"private-key: neither a key nor a readable file: {error.strerror}") from None
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError, ValueError) as error:
        hint = "; passphrase is missing or wrong" if "assphrase" in str(error) or "decrypt" in str(error) else ""
        raise NodeFailure(f"private-key: invalid key{hint}") from None


class _HostKeyCheck(asyncssh.SSHClient):
    """Records the key that the server offers, and accepts the one with the expected fingerprint."""

    def __init__(self, expected: str | None) -> None:
        self._expected = expected
        self.offered = ""

    def validate_host_public_key(self, host: str, addr: str, port: int, key: asyncssh.SSHKey) -> bool:
        """Called if the key is not among the known ones."""
        fingerprint = key.get_fingerprint("sha256")
        self.offered = f"{key.get_algorithm()} {fingerprint}"
        return fingerprint == self._expected


async def connect(address: Address, access: SshAccess, stack: contextlib.AsyncExitStack) -> asyncssh.SFTPClient:
    """Open a session with the server, which `stack` closes. Raises `NodeFailure`."""
    host_key = _HostKeyCheck(access.fingerprint)
    options: dict[str, Any] = {} if address.user is None else {"username": address.user}
    try:
        async with asyncio.timeout(access.timeout_s):
            connection = await asyncssh.connect(
                address.host,
                address.port or 22,
                client_factory=lambda: host_key,
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
        raise _unknown_host(address, access, host_key.offered) from error
    except asyncssh.PermissionDenied as error:
        text = f"{address}: authentication failed; check user, private-key and password"
        raise NodeFailure(text) from error
    except ERRORS as error:
        raise failure(f"cannot connect to {address}", access, error) from error


async def _closed(connection: asyncssh.SSHClientConnection) -> None:
    connection.close()
    with contextlib.suppress(*ERRORS):
        async with asyncio.timeout(CLEAN_UP_S):
            await connection.wait_closed()


def _unknown_host(address: Address, access: SshAccess, offered: str) -> NodeFailure:
    host, port = address.host, address.port or 22
    known = "is unknown" if access.fingerprint is None else f"is not {access.fingerprint}"
    return NodeFailure(
        f"the host key of {host} port {port} {known}: the server offered {offered or 'no usable key'}; next: if the"
        " operator of the server confirms this fingerprint, set it as host-key, or add the output of"
        f' "ssh-keyscan -p {port} {host}" to the known hosts file'
    )


def failure(what: str, access: SshAccess, error: Exception) -> NodeFailure:
    """Make a failure of an error, which says whether a retry can help."""
    if isinstance(error, TimeoutError) and error.errno is None:
        return NodeFailure(f"{what}: no response within {access.timeout_s:g} s", may_retry=True)
    if isinstance(error, asyncssh.SFTPNoSpaceOnFilesystem | asyncssh.SFTPQuotaExceeded):
        return NodeFailure(f"{what}: the disk is full", may_retry=True)
    reason = error.reason if isinstance(error, asyncssh.Error) else getattr(error, "strerror", None)
    if isinstance(error, OSError) and error.errno is not None and error.errno > 0:
        # The text of the error may come from the event loop.
        reason = os.strerror(error.errno)
    return NodeFailure(f"{what}: {reason or error or type(error).__name__}", may_retry=not isinstance(error, _FINAL))
