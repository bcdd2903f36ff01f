"""The daemon's own CURVE key pairs: the current one, and old ones that are still accepted after a rotation.

Rules of this file:

- All pairs are in `<data-dir>/keys/server.key` (0600, directory 0700), newest first. The first one is created at the first
  start. Agents pin its public half, so a file is never overwritten by a start: the pair is written to a new file, flushed, and
  linked into place. A crash or a second process leaves a whole key or none.
- A rotation puts a new pair in front, and says until when the others are accepted. It replaces the file in one step, so a
  crash leaves the old list or the new one. The daemon reads the file once, when it starts.
- An old pair serves one purpose: to tell an agent the new key. No session is opened with it.
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

import msgspec
import zmq

from waterflow_agent.clock import Clock
from waterflow_agent.errors import Rejected, Stalled
from waterflow_agent.keys import fingerprint, write_private
from waterflow_agent.wire.messages import OldServerKey
from waterflowd.fleet.server_keys import ServerKey

#: Pairs in the file. A stranger's handshake is tried with each of them, at the cost of one scalar multiplication.
KEYS_MAX = 4
#: How long an old key is accepted unless the operator says otherwise, and at most.
ACCEPT_OLD_MS = 30 * 24 * 3_600_000
ACCEPT_OLD_MS_MAX = 366 * 24 * 3_600_000
#: Of the file: a pair takes about 200 bytes.
_FILE_BYTES_MAX = 16 << 10


class ServerKeyPair(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A CURVE key pair as Z85 text; its repr does not contain the secret half. Times are in ms."""

    public: str
    secret: str
    created_at: int
    #: Until when an old key is accepted; 0 for the current one.
    accepted_until: int = 0

    def __repr__(self) -> str:
        return f"ServerKeyPair({self.fingerprint})"

    @property
    def fingerprint(self) -> str:
        """The fingerprint that administrators compare and agents pin."""
        return fingerprint(self.public)


class ServerKeys(msgspec.Struct, frozen=True):
    """The pairs of a data directory, newest first; at least one."""

    pairs: tuple[ServerKeyPair, ...]

    @property
    def current(self) -> ServerKeyPair:
        """The pair that agents shall use."""
        return self.pairs[0]

    @property
    def public(self) -> str:
        """The current public key."""
        return self.current.public

    def old(self, now: int) -> list[ServerKeyPair]:
        """The old pairs that are accepted at `now`."""
        return [pair for pair in self.pairs[1:] if now < pair.accepted_until]

    def described(self) -> list[ServerKey]:
        """The fingerprints and times of all keys, the current one first."""
        return [
            ServerKey(fingerprint=pair.fingerprint, created_at=pair.created_at, accepted_until=pair.accepted_until)
            for pair in self.pairs
        ]

    def announced(self, now: int) -> list[OldServerKey]:
        """The old keys that are accepted at `now`, as agents get them."""
        return [OldServerKey(pair.public, pair.accepted_until) for pair in self.old(now)]

    def rotated(self, fresh: ServerKeyPair, accept_old_ms: int) -> ServerKeys:
        """The pairs after a rotation at `fresh.created_at`: the current one is accepted for that long, expired ones are gone.

        Raises `Rejected` WF234 when the time is out of range, or too many pairs are still accepted.
        """
        now = fresh.created_at
        if not 0 <= accept_old_ms <= ACCEPT_OLD_MS_MAX:
            raise Rejected("WF234", f"the old key can be accepted for 0s to {ACCEPT_OLD_MS_MAX // 86_400_000}d")
        former = msgspec.structs.replace(self.current, accepted_until=now + accept_old_ms)
        kept = [pair for pair in (former, *self.pairs[1:]) if now < pair.accepted_until]
        if len(kept) >= KEYS_MAX:
            raise Rejected(
                "WF234",
                f"{len(kept)} old keys would be accepted, and the limit is {KEYS_MAX - 1}: wait until one has expired, or end"
                " their time with `waterflowd keys retire`",
            )
        return ServerKeys((fresh, *kept))

    def retired(self) -> ServerKeys:
        """Only the current pair."""
        return ServerKeys((self.current,))


def fresh_pair(now: int) -> ServerKeyPair:
    """A new key pair."""
    public, secret = zmq.curve_keypair()
    return ServerKeyPair(public=public.decode("ascii"), secret=secret.decode("ascii"), created_at=now)


def key_file(data_dir: Path) -> Path:
    """The file with the key pairs of a data directory."""
    return data_dir / "keys" / "server.key"


def load_server_keys(data_dir: Path) -> ServerKeys:
    """The key pairs of this data directory; the first one is created if the file does not exist.

    Raises `Stalled` WF220 when the file is damaged or readable by others.
    """
    path = key_file(data_dir)
    if not path.exists():
        _create(path)
    return read_server_keys(data_dir)


def replace_server_keys(data_dir: Path, pairs: ServerKeys) -> None:
    """Replaces the list in one step; it is on disk when this returns. The data directory must be locked, without a daemon.

    Raises `Stalled` WF220 when the file cannot be written: it then has the old list, or the new one.
    """
    path = key_file(data_dir)
    try:
        for left in path.parent.glob(f"{path.name}.*.new"):
            # Of a rotation that was killed.
            left.unlink()
        # Root may rotate the keys of a daemon that runs as another user, who must be able to read them at any time.
        write_private(path, _encode(pairs), owner=path.stat())
    except OSError as error:
        raise Stalled(
            "WF220", f"{path} could not be replaced: {error}; `waterflowd keys` shows which keys it contains now"
        ) from error


def _encode(pairs: ServerKeys) -> bytes:
    return msgspec.json.format(msgspec.json.encode(pairs)) + b"\n"


def _create(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(_encode(ServerKeys((fresh_pair(Clock().wall_ms()),))))
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


def read_server_keys(data_dir: Path) -> ServerKeys:
    """The key pairs of a data directory or a backup. Raises `Stalled` WF220 when they are damaged or readable by others."""
    path = key_file(data_dir)
    with path.open("rb") as file:
        mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
        content = file.read(_FILE_BYTES_MAX)
    if mode & 0o077:
        raise Stalled("WF220", f"{path} is readable by others (mode {mode:o}): chmod 600 it, or replace the key")
    try:
        found = msgspec.json.decode(content, type=ServerKeys)
    except msgspec.MsgspecError:
        found = ServerKeys(())
    if not 0 < len(found.pairs) <= KEYS_MAX or not all(map(_is_pair, found.pairs)):
        raise Stalled(
            "WF220",
            f"{path} does not contain key pairs: restore it from a backup, or remove it and enroll every agent again",
        )
    return found


def _is_pair(pair: ServerKeyPair) -> bool:
    try:
        return zmq.curve_public(pair.secret.encode("ascii")) == pair.public.encode("ascii")
    except (ValueError, zmq.ZMQError):
        return False
