"""Lists directories in which processes are working: a file that existed a moment ago may be gone when it is opened."""

from __future__ import annotations

import contextlib
from pathlib import Path


def found(folder: Path, pattern: str) -> list[Path]:
    """Returns the paths below the folder that match the pattern; `Path.glob` fails if a directory disappears meanwhile."""
    while True:
        with contextlib.suppress(FileNotFoundError):
            return list(folder.glob(pattern))


def holding(folder: Path, *texts: bytes) -> list[Path]:
    """Returns the files below the folder that contain one of the texts."""
    holders = []
    for path in found(folder, "**/*"):
        with contextlib.suppress(OSError):
            content = path.read_bytes() if path.is_file() else b""
            if any(text in content for text in texts):
                holders.append(path)
    return holders
