"""What differs between two runs of a workflow: what went into them, where and how long they ran, and how they ended.

Rules of this file: pure. Only differences are listed, and lists are bounded. A step is listed if it ended in another way, or
took half as long again and at least a second more.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from typing import Any

import msgspec

from waterflowd.engine.state.blocks import Step
from waterflowd.engine.state.runs import Run

#: Entries of one list.
ENTRIES_MAX = 100
#: Characters of the difference between two files; a file has at most a megabyte.
DIFF_MAX = 200_000
#: Characters of a line of output.
LINE_MAX = 1_000
_SLOWER, _SLOWER_MS = 1.5, 1_000
#: What differs from run to run: ids in hexadecimal digits and of ULIDs, and all numbers, with those in times.
_VARIABLE = re.compile(r"\b(?=[0-9a-f-]*\d)[0-9a-f][0-9a-f-]{6,}\b|\b[0-9A-HJKMNP-TV-Z]{26}\b|\d+")


class ChangedValue(msgspec.Struct, frozen=True, kw_only=True):
    """An input or variable with different values; null for one that was not there."""

    name: str
    before: Any
    after: Any


class ChangedNames(msgspec.Struct, frozen=True, kw_only=True):
    """Names that only one of the runs has, such as servers."""

    added: list[str]
    gone: list[str]

    @property
    def has_any(self) -> bool:
        """Whether there are any."""
        return bool(self.added or self.gone)


class ChangedStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step that ended in another way, or took longer; null where it did not run."""

    place: str
    before_ms: int | None
    after_ms: int | None
    before: str | None
    after: str | None


class ChangedLine(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of the output of a step that differs, when times, ids and numbers are set aside; null for none."""

    place: str
    line: int
    before: str | None
    after: str | None


def changed_values(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[ChangedValue]:
    """The values that differ."""
    names = sorted({*before, *after})
    found = (
        ChangedValue(name=name, before=before.get(name), after=after.get(name))
        for name in names
        if before.get(name) != after.get(name) or (name in before) != (name in after)
    )
    return list(islice(found, ENTRIES_MAX))


def changed_servers(before: Run, after: Run) -> ChangedNames:
    """The servers that only one of them used."""
    were, are = (dict.fromkeys(sorted(_servers(run))) for run in (before, after))
    return changed_names(were, are)


def changed_names(before: Collection[str], after: Collection[str]) -> ChangedNames:
    """The names that only one of them has, in their order."""
    added = (name for name in after if name not in before)
    gone = (name for name in before if name not in after)
    return ChangedNames(added=list(islice(added, ENTRIES_MAX)), gone=list(islice(gone, ENTRIES_MAX)))


def _servers(run: Run) -> set[str]:
    return {job.agent_name for job in run.jobs if job.agent_name}


def changed_steps(before: Run, after: Run) -> list[ChangedStep]:
    """The steps that ended differently or took longer, in the order of the newer run."""
    were, are = dict(_steps(before)), dict(_steps(after))
    places = [*are, *(place for place in were if place not in are)]
    found = (_changed_step(place, were.get(place), are.get(place)) for place in places)
    return list(islice((step for step in found if step is not None), ENTRIES_MAX))


def _steps(run: Run) -> Iterator[tuple[str, Step]]:
    for job in run.jobs:
        for step in job.steps_by_id.values():
            yield f"{job.id}/{step.id}", step


def _changed_step(place: str, before: Step | None, after: Step | None) -> ChangedStep | None:
    before_ms, after_ms = _duration_ms(before), _duration_ms(after)
    was, now = _end(before), _end(after)
    is_slower = (
        before_ms is not None and after_ms is not None and after_ms > max(before_ms * _SLOWER, before_ms + _SLOWER_MS)
    )
    if was == now and not is_slower:
        return None
    return ChangedStep(place=place, before_ms=before_ms, after_ms=after_ms, before=was, after=now)


def _duration_ms(step: Step | None) -> int | None:
    if step is None or step.started_at is None or step.completed_at is None:
        return None
    return step.completed_at - step.started_at


def _end(step: Step | None) -> str | None:
    return None if step is None else (step.conclusion or step.status).value


def unified_diff(before: str, after: str, path: str, was: str, now: str) -> str:
    """The difference between two versions of a file; empty if there is none."""
    lines = difflib.unified_diff(
        before.splitlines(), after.splitlines(), f"{path}@{was[:10]}", f"{path}@{now[:10]}", lineterm=""
    )
    return "\n".join(lines)[:DIFF_MAX]


def changed_line(place: str, before: Sequence[str], after: Sequence[str]) -> ChangedLine | None:
    """The first line that differs; None if there is none."""
    for number, (was, now) in enumerate(zip_longest(before, after), 1):
        if was != now and (was is None or now is None or _settled(was) != _settled(now)):
            return ChangedLine(
                place=place,
                line=number,
                before=was[:LINE_MAX] if was is not None else None,
                after=now[:LINE_MAX] if now is not None else None,
            )
    return None


def _settled(line: str) -> str:
    return _VARIABLE.sub("0", line[: 10 * LINE_MAX])
