"""The output of one attempt by line."""

from __future__ import annotations

import msgspec

from waterflowd.api.streaming.output_blocks import OutputBlock
from waterflowd.model.output_pieces import LineMark


class LeftOutSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A line that says how many bytes of output were left out there."""

    line: int
    bytes: int


class OutputPageSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A part of the output of one attempt, as blocks of lines. `attempt` is null when there is none yet.

    `lines` and `bytes` are those of the whole log; a last line without its end counts.
    """

    attempt: int | None
    lines: int
    bytes: int
    is_complete: bool
    left_out: list[LeftOutSchema]
    blocks: list[OutputBlock]


def left_out_of(marks: list[LineMark]) -> list[LeftOutSchema]:
    """Where the log says that output was left out."""
    return [LeftOutSchema(line=mark.left_out_line, bytes=mark.left_out_bytes) for mark in marks if mark.left_out_bytes]
