"""Output that several instances of a job have in common, printed once. Pure.

Rules of this file: the output of a step is compared as a whole with that of the same step of other instances. Output longer
than `LINES_MAX` is passed on at once and never folded. What was left out is counted at the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import groupby
from typing import Any

#: Lines of one attempt that are buffered.
LINES_MAX = 1_000
_PARTS_SHOWN = 5

_Row = dict[str, Any]


class OutputFolding:
    """Drops output that repeats that of another instance; `notes` then says what was dropped."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str, bytes], str] = {}
        self._same: dict[str, list[str]] = {}

    def rows(self, rows: Iterator[_Row]) -> Iterator[_Row]:
        """Yield the rows to print, attempt by attempt."""
        for _, attempt in groupby(rows, key=lambda row: (row["job"], row["step"], row["attempt"])):
            yield from self._attempt(attempt)

    def _attempt(self, rows: Iterator[_Row]) -> Iterator[_Row]:
        buffered: list[_Row] = []
        for row in rows:
            buffered.append(row)
            if len(buffered) > LINES_MAX:
                yield from buffered
                yield from rows
                return
        job, step = buffered[0]["job"], buffered[0]["step"]
        instance, bracket, _ = job.rpartition("[")
        part = f"{job}/{step}"
        if bracket:
            output = "\n".join(row["text"] for row in buffered)
            content = hashlib.sha256(output.encode("utf-8", "surrogatepass")).digest()
            first = self._first.setdefault((instance, step, content), part)
            if first != part:
                self._same.setdefault(first, []).append(part)
                return
        yield from buffered

    def notes(self) -> Iterator[str]:
        """Yield one sentence for each output that was printed once for several instances."""
        for first, parts in self._same.items():
            more = f" and {len(parts) - _PARTS_SHOWN} more" if len(parts) > _PARTS_SHOWN else ""
            others = "1 other" if len(parts) == 1 else f"{len(parts)} others"
            yield f"{first}: same output on {others}: {', '.join(parts[:_PARTS_SHOWN])}{more}"
