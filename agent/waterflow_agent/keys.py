"""The agent's key pair, generated once and stored in its data directory, and the fingerprints that people compare.

A key's fingerprint is `SHA256:` and the unpadded Base64 of the SHA-256 of its 32 bytes, the form that SSH users know.
The secret key is written with mode 0600 into a directory of mode 0700 and is never shown, sent or logged.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import struct
from pathlib import Path

import msgspec

from waterflow_agent.errors import Stalled

#: Length of a CURVE key, and of the same key as Z85 text.
KEY_BYTES = 32
KEY_TEXT_LENGTH = 40
_FILE_NAME = "agent.key"
#: `SHA256:...` in any spelling, or 43 characters of base 64.
_LIKE_FINGERPRINT = re.compile(r"\W*sha-?256\W.*|[A-Za-z0-9+/]{43}=?", re.IGNORECASE | re.DOTALL)


class KeyPair(msgspec.Struct, frozen=True, kw_only=True):
    """A CURVE key pair as Z85 text."""

    public: str
    secret: str

    def __repr__(self) -> str:
        return f"KeyPair({self.fingerprint})"

    @property
    def fingerprint(self) -> str:
        """The public key's fingerprint."""
        return fingerprint(self.public)


def fingerprint(public_key: str) -> str:
    """`SHA256:` and the unpadded base 64 of the SHA-256 of a key's 32 bytes. Raises `ValueError` for an invalid key."""
    from zmq.utils import z85

    try:
        raw = z85.decode(public_key) if public_key.isascii() else b""
    except (KeyError, ValueError, struct.error):
        # Z85's decoder raises these for a foreign character, a wrong length and a value that is too large.
        raw = b""
    if len(raw) != KEY_BYTES:
        raise ValueError(f"a public key is {KEY_TEXT_LENGTH} characters of Z85")
    return "SHA256:" + base64.b64encode(hashlib.sha256(raw).digest()).decode().rstrip("=")


def looks_like_fingerprint(name: str) -> bool:
    """Whether a person could take the name of an agent for a fingerprint. Such names are refused."""
    return _LIKE_FINGERPRINT.fullmatch(name) is not None


def load_or_create(data_dir: Path) -> KeyPair:
    """Returns the key pair of this data directory, generated at the first call. Raises `Stalled` WF220 for a damaged file."""
    directory = data_dir / "keys"
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = directory / _FILE_NAME
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return _create(path)
    try:
        pair = msgspec.json.decode(content, type=KeyPair)
        fingerprint(pair.public)
    except (msgspec.MsgspecError, ValueError) as error:
        raise Stalled("WF220", f"{path} is damaged; delete it and enroll this agent again with a new key") from error
    os.chmod(path, 0o600)
    return pair


def _create(path: Path) -> KeyPair:
    import zmq

    public, secret = zmq.curve_keypair()
    pair = KeyPair(public=public.decode("ascii"), secret=secret.decode("ascii"))
    write_private(path, msgspec.json.encode(pair))
    return pair


def write_private(path: Path, content: bytes, *, owner: os.stat_result | None = None) -> None:
    """Writes a file of mode 0600 atomically; it is on disk when this returns. Root can write it for another `owner`."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with open(fd, "wb") as file:
            file.write(content)
            file.flush()
            if owner is not None and owner.st_uid != os.geteuid():
                os.fchown(fd, owner.st_uid, owner.st_gid)
            os.fsync(fd)
        os.rename(temporary, path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
