"""Small files that are written completely or not at all.

Each ends with the SHA-256 of what is before it, so damage is noticed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path

from waterflowd.durability import sync_directory

_DIGEST_BYTES = hashlib.sha256().digest_size


def write(path: Path, body: bytes) -> None:
    """Writes or replaces a file, durably, in a directory that may not exist. Raises `OSError`; then nothing has changed."""
    folder = path.parent
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    try:
        with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(body + hashlib.sha256(body).digest())
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
    except OSError:
        with contextlib.suppress(OSError):
            new.unlink()
        raise
    # The directories, too: an earlier process may have been killed after it had created them.
    for each in (folder, folder.parent, folder.parent.parent):
        sync_directory(each)


def read(path: Path) -> bytes | None:
    """The content of a file; None if it is damaged. Raises `FileNotFoundError`."""
    content = path.read_bytes()
    body, digest = content[:-_DIGEST_BYTES], content[-_DIGEST_BYTES:]
    return body if hashlib.sha256(body).digest() == digest else None
