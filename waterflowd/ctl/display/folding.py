"""Output that many servers have in common, shown once. Pure.

Rules of this file: what a step of an instance has printed is compared as a whole with what the same step of the others has.
What is longer than `LINES_MAX` is not held back, and never folded. What was left out is counted at the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import groupby
from typing import Any

#: Lines of one attempt that are held back.
LINES_MAX = 1_000
_PLACES_SHOWN = 5

_Row = dict[str, Any]


class Folding:
    """Gives rows of output without those that repeat what another instance has printed; `notes` then says what."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str, bytes], str] = {}
        self._same: dict[str, list[str]] = {}

    def rows(self, rows: Iterator[_Row]) -> Iterator[_Row]:
        """The rows that are shown, attempt by attempt."""
        for _, of_attempt in groupby(rows, key=lambda row: (row["job"], row["step"], row["attempt"])):
            yield from self._attempt(of_attempt)

    def _attempt(self, rows: Iterator[_Row]) -> Iterator[_Row]:
        held: list[_Row] = []
        for row in rows:
            held.append(row)
            if len(held) > LINES_MAX:
                yield from held
                yield from rows
                return
        job, step = held[0]["job"], held[0]["step"]
        instance, bracket, _ = job.rpartition("[")
        place = f"{job}/{step}"
        if bracket:
            printed = "\n".join(row["text"] for row in held)
            content = hashlib.sha256(printed.encode("utf-8", "surrogatepass")).digest()
            first = self._first.setdefault((instance, step, content), place)
            if first != place:
                self._same.setdefault(first, []).append(place)
                return
        yield from held

    def notes(self) -> Iterator[str]:
        """One sentence for each output that others have printed too."""
        for first, places in self._same.items():
            more = f" and {len(places) - _PLACES_SHOWN} more" if len(places) > _PLACES_SHOWN else ""
            yield f"{first}: the same on {len(places)} others: {', '.join(places[:_PLACES_SHOWN])}{more}"
