"""The trace of a simulation: the newest lines for people, and a digest of all lines for comparison."""

from __future__ import annotations

import zlib
from collections import deque

#: Number of lines that are kept for people.
LINES_MAX = 400


class Trace:
    """Lines with their times; `digest` changes with every line."""

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
        """Returns the kept lines, oldest first."""
        left_out = self.count - len(self._lines)
        return [*([f"({left_out} lines before)"] if left_out else []), *self._lines]
