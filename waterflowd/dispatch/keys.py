"""The daemon's own CURVE key pair.

The pair is created at the first start, in `<data-dir>/keys/server.key` (0600, directory 0700). Agents pin its public half, so
it is written only once: to a new file, flushed, and linked into place. A crash or a second process leaves a whole key or none.
"""

from __future__ import annotations

import os
import secrets
import stat
from dataclasses import dataclass, field
from pathlib import Path

import zmq

from waterflow_agent.errors import Stalled
from waterflow_agent.keys import fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerKeys:
    """A CURVE key pair in Z85; its repr does not contain the secret half."""

    public: str
    secret: str = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """The fingerprint that administrators compare and agents pin."""
        return fingerprint(self.public)


def load_server_keys(data_dir: Path) -> ServerKeys:
    """The key pair of this data directory, created if it does not exist.

    Raises `Stalled` WF220 when the file is damaged or readable by others.
    """
    path = data_dir / "keys" / "server.key"
    if not path.exists():
        _create(path)
    return _read(path)


def _create(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    public, secret = zmq.curve_keypair()
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(public + b"\n" + secret + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            # Unlike a rename, a link never replaces a key that another process created meanwhile.
            os.link(fresh, path)
        except FileExistsError:
            return
    finally:
        fresh.unlink()
        _flush_directory(path.parent)
        _flush_directory(path.parent.parent)


def _flush_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read(path: Path) -> ServerKeys:
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        content = file.read(1024)
    if mode & 0o077:
        raise Stalled("WF220", f"{path} is readable by others (mode {mode:o}): chmod 600 it, or replace the key")
    try:
        public, secret = content.decode("ascii").split()
        is_pair = zmq.curve_public(secret.encode()) == public.encode()
    except (ValueError, zmq.ZMQError):
        is_pair = False
    if not is_pair:
        raise Stalled(
            "WF220",
            f"{path} does not contain a key pair: restore it from a backup, or remove it and enroll every agent again",
        )
    return ServerKeys(public=public, secret=secret)
