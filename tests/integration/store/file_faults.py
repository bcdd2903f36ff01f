"""Faults in files that are already open, without root, mounts or fakes: other files take over their descriptors."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def files_replaced(path: str, suffix: str = "data.mdb") -> Iterator[None]:
    """Replaces the log's file below LMDB: `/dev/full` has no space, a read-only `/dev/null` fails."""
    ours = [
        int(entry)
        for entry in os.listdir("/proc/self/fd")
        if (Path("/proc/self/fd") / entry).is_symlink() and os.readlink(f"/proc/self/fd/{entry}").endswith(suffix)
    ]
    assert ours
    saved = [(descriptor, os.dup(descriptor)) for descriptor in ours]
    other = os.open(path, os.O_WRONLY if path == "/dev/full" else os.O_RDONLY)
    try:
        for descriptor in ours:
            os.dup2(other, descriptor, inheritable=False)
        yield
    finally:
        for descriptor, copy in saved:
            os.dup2(copy, descriptor, inheritable=False)
            os.close(copy)
        os.close(other)
