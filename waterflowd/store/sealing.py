"""Seals of the records of one stream: a keyed hash (HMAC-SHA256) that only the holder of the key can make.

A chain without a key shows that a record was changed by accident. Somebody who can write the data directory could compute it
anew. A seal covers the record and, through the chain, all records of the stream before it, so nothing of the history can be
changed, left out or reordered without the key. What a seal cannot show is that the newest records were cut off.

A stream may begin without seals, before a key was set up: the first sealed record covers these too. From then on every record
has a seal. With a new key, new records have its seals; `key_id` says which key a record needs.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Sequence
from typing import NamedTuple

from waterflow_agent.errors import Stalled

#: 128 bits, as text of at least so many characters; the file of the packages has 64 hexadecimal digits.
KEY_CHARACTERS_MIN = 32

KEY_ID_BYTES = 8
SEAL_BYTES = KEY_ID_BYTES + hashlib.sha256().digest_size

_SEALED = struct.Struct(">HQQ")


class SealKey(NamedTuple):
    """A key, and what names it without revealing it."""

    id: bytes
    key: bytes

    def seal(self, chain_before: bytes, schema: int, position: int, at: int, body: bytes) -> bytes:
        """The seal of a record, with the id of the key, from the chain before the record."""
        content = b"".join((chain_before, _SEALED.pack(schema, position, at), body))
        return self.id + hmac.digest(self.key, content, "sha256")


def seal_key(text: str, source: str) -> SealKey:
    """The key in the text of a key file. Raises `Stalled` WF320 when it is too short."""
    key = text.strip().encode()
    if len(key) < KEY_CHARACTERS_MIN:
        raise Stalled(
            "WF320",
            f"{source} does not contain an audit key of at least {KEY_CHARACTERS_MIN} characters;"
            f" create one: waterflowd audit-key {source}",
        )
    return SealKey(hashlib.sha256(b"waterflow audit key\0" + key).digest()[:KEY_ID_BYTES], key)


class SealFindings(NamedTuple):
    """What the check of the seals of a stream found."""

    #: Records before the first seal. They are covered by the first one.
    unsealed: int = 0
    verified: int = 0
    #: Records sealed with a key that the check was not given.
    unverified: int = 0
    #: The ids of these keys.
    missing_keys: tuple[str, ...] = ()


class SealChecker:
    """Checks the seals of one stream, record by record."""

    def __init__(self, keys: Sequence[SealKey]) -> None:
        self._keys = {key.id: key for key in keys}
        self._unsealed = self._verified = self._unverified = 0
        self._missing: dict[str, None] = {}

    def check(self, seal: bytes, chain_before: bytes, schema: int, position: int, at: int, body: bytes) -> str:
        """What is wrong with the seal of the next record; empty if nothing is."""
        if not seal:
            self._unsealed += 1
            return "it has no seal, although earlier records have one" if self._verified or self._unverified else ""
        key = self._keys.get(seal[:KEY_ID_BYTES])
        if key is None:
            self._unverified += 1
            self._missing[seal[:KEY_ID_BYTES].hex()] = None
            return ""
        if not hmac.compare_digest(key.seal(chain_before, schema, position, at, body), seal):
            return "its seal is not valid: it was changed by somebody without the audit key"
        self._verified += 1
        return ""

    @property
    def findings(self) -> SealFindings:
        """The counts so far."""
        return SealFindings(self._unsealed, self._verified, self._unverified, tuple(self._missing))
