"""Channels for notices, and what became of tests."""

from __future__ import annotations

from typing import Annotated

import msgspec

from waterflowd.admin.ports import NoticeChannelRow, NoticeTest
from waterflowd.api.timestamps import Timestamp, timestamp


class NoticeChannelSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A channel: how and what it sends, and how its deliveries go. `repository` is null for one of the configuration."""

    name: str
    way: str
    kinds: tuple[str, ...]
    repository: str | None
    waiting: int
    sent_at: Timestamp | None
    failure: str

    @classmethod
    def of(cls, row: NoticeChannelRow) -> NoticeChannelSchema:
        """The channel as it is now."""
        return cls(
            name=row.name,
            way=row.way,
            kinds=row.kinds,
            repository=row.repository,
            waiting=row.waiting,
            sent_at=timestamp(row.sent_at),
            failure=row.failure,
        )


class NoticeProblemSchema(msgspec.Struct, frozen=True, kw_only=True):
    """A mistake in `.waterflow/notify.yml` of a repository."""

    repository: str
    text: str


class NoticeChannelList(msgspec.Struct, frozen=True, kw_only=True):
    """All channels, and the mistakes in the files of repositories."""

    channels: list[NoticeChannelSchema]
    problems: list[NoticeProblemSchema]


class NoticeTestBody(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which channel to test; all without one."""

    channel: Annotated[str, msgspec.Meta(max_length=200)] | None = None


class NoticeTestSchema(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a test notice. `failure` is empty if the channel took it."""

    channel: str
    failure: str

    @classmethod
    def of(cls, test: NoticeTest) -> NoticeTestSchema:
        """The result."""
        return cls(channel=test.channel, failure=test.failure)


class NoticeTestList(msgspec.Struct, frozen=True, kw_only=True):
    """The results by channel."""

    tests: list[NoticeTestSchema]
