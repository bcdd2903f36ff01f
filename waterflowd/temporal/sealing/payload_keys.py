"""The keys that seal what Temporal stores, from the file that `temporal.payload-keys` names.

A file holds one key per line, 64 hexadecimal digits. The first key seals, all keys open. Every daemon must be able to open what
the others seal. So a new key is first added to the end of every daemon's file, then moved to the top; an old one is removed
when Temporal keeps no event history that needs it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from waterflow_agent.errors import Rejected

#: 256 bits, as XChaCha20-Poly1305 requires.
KEY_BYTES = 32
#: More keys than anyone needs within a retention period.
KEYS_MAX = 100
KEY_ID_BYTES = 8

_LINE = re.compile(rf"[0-9A-Fa-f]{{{2 * KEY_BYTES}}}")
_NEXT = "next: create a key with `openssl rand -hex 32`"


class PayloadKeys:
    """Keys by their id, which names a key without revealing it; the first one seals."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise ValueError(f"expected at least one key, of {KEY_BYTES} bytes each")
        self._keys = {key_id(key): key for key in keys}
        self.sealing_id = key_id(keys[0])

    def __repr__(self) -> str:
        """Shows no key."""
        return f"PayloadKeys({', '.join(self._keys)})"

    @property
    def sealing(self) -> bytes:
        """The key that seals."""
        return self._keys[self.sealing_id]

    def find(self, identifier: str) -> bytes | None:
        """The key with this id; None if the file does not have it."""
        return self._keys.get(identifier)


def key_id(key: bytes) -> str:
    """The id of a key: 16 hexadecimal digits."""
    return hashlib.sha256(b"waterflow payload key\0" + key).digest()[:KEY_ID_BYTES].hex()


def parse(text: str, source: str) -> PayloadKeys:
    """The keys in the text of a key file. Raises `Rejected` WF622 with the line, never with its content."""
    lines = [(number, line.strip()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    if not lines:
        raise Rejected("WF622", f"{source} contains no key; {_NEXT}")
    if len(lines) > KEYS_MAX:
        raise Rejected("WF622", f"{source} has {len(lines)} keys, the limit is {KEYS_MAX}; remove the oldest ones")
    for number, line in lines:
        if not _LINE.fullmatch(line):
            raise Rejected(
                "WF622", f"{source}:{number}: expected a key of 64 hexadecimal digits, alone on its line; {_NEXT}"
            )
    return PayloadKeys([bytes.fromhex(line) for _, line in lines])
