"""The trace: what happened in a world, the newest part of it for people and a digest of all of it for comparison."""

from __future__ import annotations

import zlib
from collections import deque

#: Lines that are kept for a person.
LINES_MAX = 400


class Trace:
    """Lines with their time; `digest` changes with every one of them."""

    def __init__(self, *, is_whole: bool = False) -> None:
        self._lines: deque[str] = deque(maxlen=None if is_whole else LINES_MAX)
        self.digest = 0
        self.count = 0

    def note(self, now_ms: int, text: str) -> None:
        """Adds a line."""
        line = f"{now_ms / 1000:9.3f} {text}"
        self.digest = zlib.crc32(line.encode(), self.digest)
        self.count += 1
        self._lines.append(line)

    def lines(self) -> list[str]:
        """What was kept, oldest first."""
        left_out = self.count - len(self._lines)
        return [*([f"({left_out} lines before)"] if left_out else []), *self._lines]
