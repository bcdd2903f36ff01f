"""Limits on results: what an agent's report about an attempt may contain.

Rules of this file: an agent is authenticated, but not trusted. It reports how the attempt ended; numbers are limited to ranges
that every reader of the log can display, and outputs to JSON values of limited size and depth. A success whose outputs cannot
be recorded becomes a failure, because later steps would depend on missing values.
"""

from __future__ import annotations

from typing import Any

import msgspec

from waterflowd.engine import inputs
from waterflowd.model.statuses import Outcome

#: Outputs and environment of one attempt. Agents accept 1 MiB from a step; encoded it is always less than twice that size.
RESULT_BYTES_MAX = 2 << 20
#: Characters of a summary. Agents keep at most 64 KiB, and add a note.
SUMMARY_LENGTH_MAX = 66_000
#: Characters of all summaries and annotations of a run, so that a loop of thousands of steps does not fill memory and log.
SUMMARIES_LENGTH_MAX = 4 << 20
#: Lines that an attempt has marked, which are listed with the run. Agents keep ten of each kind.
ANNOTATIONS_MAX = 30
ANNOTATION_LENGTH_MAX = 300
#: As deep as values of expressions nest.
HEIGHT_MAX = 128
#: The last millisecond of the year 9999, the last that dates can show.
AT_MAX = 253_402_300_799_999
#: More bytes than any disk has, and still exact in every JSON reader.
BYTES_MAX = (1 << 53) - 1
#: Exit codes are 8 or, elsewhere, 32 bits.
EXIT_CODE_MIN, EXIT_CODE_MAX = -(1 << 31), (1 << 32) - 1

_encode = msgspec.msgpack.Encoder().encode


def instant(at: int) -> int:
    """An agent's time in ms, limited to the range of dates."""
    return min(max(at, 0), AT_MAX)


def enforce(report: inputs.TaskFinished) -> inputs.TaskFinished:
    """The result within all limits; a success whose outputs cannot be recorded becomes a failure."""
    fault = _fault(report) if report.outputs or report.env else ""
    code = report.exit_code
    limited = msgspec.structs.replace(
        report,
        exit_code=None if code is None else min(max(code, EXIT_CODE_MIN), EXIT_CODE_MAX),
        started_at=instant(report.started_at),
        finished_at=instant(report.finished_at),
        output_bytes=min(max(report.output_bytes, 0), BYTES_MAX),
        output_dropped=min(max(report.output_dropped, 0), BYTES_MAX),
    )
    if not fault:
        return limited
    if report.outcome is not Outcome.SUCCESS:
        return msgspec.structs.replace(limited, outputs={}, env={})
    return msgspec.structs.replace(
        limited, outcome=Outcome.FAILURE, reason_code="node-error", reason_text=fault, outputs={}, env={}
    )


def kept_summary(length: int, summary: str) -> str:
    """What is kept of another summary in a run whose summaries have so many characters."""
    kept = summary[:SUMMARY_LENGTH_MAX]
    if kept and length + len(kept) > SUMMARIES_LENGTH_MAX:
        return "*(not kept: the summaries of this run have reached 4 MiB)*\n"
    return kept


def kept_annotations(length: int, annotations: list[str]) -> list[str]:
    """What is kept of further annotations in a run whose summaries and annotations have so many characters."""
    if length > SUMMARIES_LENGTH_MAX:
        return []
    return [line[:ANNOTATION_LENGTH_MAX] for line in annotations[:ANNOTATIONS_MAX]]


def _fault(report: inputs.TaskFinished) -> str:
    if not _is_plain(report.outputs):
        return f"the outputs must consist of JSON values, nested at most {HEIGHT_MAX} levels deep"
    try:
        size = len(_encode((report.outputs, report.env)))
    except (ValueError, OverflowError):
        return "the outputs contain a number or text that cannot be stored"
    return "" if size <= RESULT_BYTES_MAX else f"the outputs have {size:,} bytes; the limit is {RESULT_BYTES_MAX:,}"


def _is_plain(value: Any) -> bool:
    """Whether the value consists of JSON types, nested no deeper than expressions allow."""
    level = [value]
    for _ in range(HEIGHT_MAX + 1):
        inner: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                if not all(type(name) is str for name in item):
                    return False
                inner += item.values()
            elif kind is list:
                inner += item
            elif item is not None and kind not in (str, int, float, bool):
                return False
        if not inner:
            return True
        level = inner
    return False
