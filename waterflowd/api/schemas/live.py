"""What `GET /v1/live` sends, by the name of the event."""

from __future__ import annotations

from typing import Literal

import msgspec

from waterflowd.api.schemas.agents import AgentSchema
from waterflowd.api.schemas.outlines import OutlineSchema
from waterflowd.api.schemas.repositories import RepositorySchema
from waterflowd.api.schemas.runs import RunSummarySchema
from waterflowd.api.streaming.output_blocks import OutputBlock

ListName = Literal["runs", "agents", "repositories"]


class OpenedSchema(msgspec.Struct, frozen=True, kw_only=True):
    """`event: open`: changes after this sequence of the log follow. Lists that are fetched from now on miss nothing."""

    seq: int


class LiveRowSchema(msgspec.Struct, frozen=True, kw_only=True):
    """`event: row`: the newest row of a list; null when it is gone."""

    list: ListName
    key: str
    row: RunSummarySchema | AgentSchema | RepositorySchema | None


class RunChangesSchema(msgspec.Struct, frozen=True, kw_only=True):
    """`event: run`: what has changed in an outline after event `after` of the run."""

    run: str
    after: int
    outline: OutlineSchema


class OutputBlocksSchema(msgspec.Struct, frozen=True, kw_only=True):
    """`event: block`: what is new in the output of an attempt; `topic` is named as in the request, without its line.

    With `is_complete` it is the last one.
    """

    topic: str
    blocks: list[OutputBlock]
    is_complete: bool


class OverviewSchema(msgspec.Struct, frozen=True, kw_only=True):
    """`event: overview`: open runs by status; what needs a person may have changed."""

    open: dict[str, int]


class LagSchema(msgspec.Struct, frozen=True, kw_only=True):
    """`event: lag`: too much has changed since the last piece; what belongs to this topic must be fetched anew."""

    topic: str
