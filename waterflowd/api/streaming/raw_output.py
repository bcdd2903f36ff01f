"""Output as it was printed: the bytes of one attempt or a range of them, or all attempts of a job or run with headings.

Rules of this file: an output log is only ever appended to, so a range of it has the same bytes whenever it is requested. The
log is read in a thread, a part at a time, as fast as the client takes it.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Iterable
from typing import NamedTuple

from waterflow_agent.display import escape_for_display
from waterflow_agent.errors import Rejected
from waterflowd.api.runs.run_lookup import is_within
from waterflowd.engine.state.blocks import Attempt
from waterflowd.engine.state.runs import Run
from waterflowd.model.ids import AttemptId
from waterflowd.ports import OutputLogs

_READ_BYTES = 512 << 10
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_OTHERS = re.compile(r"[^0-9A-Za-z._-]+", re.ASCII)
_NAME_MAX = 100


class ByteRange(NamedTuple):
    """The bytes from `begin` to before `end`."""

    begin: int
    end: int


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """The range that a request asks for; None for the whole log, also for several ranges. `Rejected` 416 for an empty one."""
    found = _RANGE.fullmatch(header.replace(" ", "")) if header is not None else None
    if found is None or not (found[1] or found[2]):
        return None
    if found[1]:
        begin, end = int(found[1]), min(int(found[2]) + 1 if found[2] else size, size)
    else:
        begin, end = max(0, size - int(found[2])), size
    if begin >= end:
        raise Rejected("WF605", f"there are {size} bytes, and the range begins behind them", where="Range", status=416)
    return ByteRange(begin, end)


async def read_bytes(outputs: OutputLogs, name: AttemptId, wanted: ByteRange) -> AsyncGenerator[bytes, None]:
    """The bytes of a log."""
    offset = wanted.begin
    while offset < wanted.end:
        pieces = await outputs.read(name, offset, _READ_BYTES)
        if not pieces:
            return
        content = b"".join(piece.data for piece in pieces)
        content = content[offset - pieces[0].offset : wanted.end - pieces[0].offset]
        offset += len(content)
        yield content


class Section(NamedTuple):
    """An attempt whose output is one of several, and its heading."""

    name: AttemptId
    heading: str


def sections_of(run: Run, job: str | None) -> list[Section]:
    """The attempts of a run, or of a job and everything that it expanded into, in the order of the jobs and steps."""
    return [
        Section(
            AttemptId(run.id, owner.id, step.id, attempt.number), _heading(f"{owner.id}/{step.id}", step.name, attempt)
        )
        for owner in run.jobs
        if job is None or is_within(owner.id, job)
        for step in owner.steps_by_id.values()
        for attempt in step.attempts
        if attempt.dispatched_at is not None
    ]


def _heading(place: str, step: str, attempt: Attempt) -> str:
    parts = [place, step, f"attempt {attempt.number}", attempt.agent_name]
    parts.append(attempt.outcome.value if attempt.outcome is not None else "running")
    return f"==> {escape_for_display(', '.join(filter(None, parts)))} <==\n"


async def read_sections(outputs: OutputLogs, sections: list[Section]) -> AsyncGenerator[bytes, None]:
    """The output of attempts one after the other, each with its heading on a line of its own."""
    separator = ""
    for section in sections:
        yield f"{separator}{section.heading}".encode()
        last = b"\n"
        size = await outputs.size(section.name)
        async for content in read_bytes(outputs, section.name, ByteRange(0, size)):
            yield content
            last = content
        separator = "\n" if last.endswith(b"\n") else "\n\n"


def file_name(parts: Iterable[str]) -> str:
    """A name for a log of these parts, which any system accepts."""
    return safe_name(parts) + ".log"


def safe_name(parts: Iterable[str]) -> str:
    """These parts as one name that any system accepts."""
    return "-".join(_OTHERS.sub("_", part).strip("._-") for part in parts)[:_NAME_MAX]
