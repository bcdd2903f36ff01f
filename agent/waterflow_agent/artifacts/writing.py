"""Writes files from a content that arrives in blocks."""

from __future__ import annotations

import os
from collections.abc import Generator


def fill(descriptor: int, size: int, rest: memoryview) -> Generator[None, bytes, memoryview]:
    """Takes blocks until `size` bytes are written; begins with the rest of the last block, and returns what is left of it."""
    left = size
    while left:
        if not rest:
            rest = memoryview((yield))
        written = os.write(descriptor, rest[:left])
        rest, left = rest[written:], left - written
    return rest
