"""Looking at directories in which processes work: what was there a moment ago may be gone when it is opened."""

from __future__ import annotations

import contextlib
from pathlib import Path


def found(folder: Path, pattern: str) -> list[Path]:
    """What is below the folder by the pattern of `Path.glob`, which gives up at a directory that goes while it is read."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            return list(folder.glob(pattern))


def holding(folder: Path, *texts: bytes) -> list[Path]:
    """The files below the folder with one of the texts in them."""
    holders = []
    for path in found(folder, "**/*"):
        with contextlib.suppress(OSError):
            content = path.read_bytes() if path.is_file() else b""
            if any(text in content for text in texts):
                holders.append(path)
    return holders
