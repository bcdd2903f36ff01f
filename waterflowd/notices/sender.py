"""Delivers notices to their channels.

Rules of this file:

- A delivery is recorded before it begins and after it has ended. One that a crash has interrupted is sent again, and says that
  it may be a repetition; so does one whose answer was lost.
- A channel sends at most `per_hour` messages; what comes faster is collected into one message. A channel that fails is tried
  again, less and less often, until `give_up_after`; it delays no other channel.
- Errors that are logged or shown never have an address: that of a webhook is a secret.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from waterflow_agent.backoff import Backoff
from waterflow_agent.errors import WaterflowError
from waterflowd.notices import events
from waterflowd.notices.channels import Channel
from waterflowd.notices.events import Notice
from waterflowd.notices.log import NoticeLog
from waterflowd.rates import TokenBucket

#: Channels that send at the same time.
_AT_ONCE = 8
_RETRY = Backoff(first_s=5.0, max_s=900.0)
_RECORD_RETRY_S = 5.0
_HOUR_S = 3_600.0
#: A sixth of an hour's messages may be sent at once.
_BURST_SHARE = 6

logger = logging.getLogger("waterflow.notices")


@dataclass(frozen=True, kw_only=True)
class Message:
    """What one delivery says."""

    notices: Sequence[Notice]
    #: Notices that were dropped before.
    dropped: int = 0
    may_be_repeated: bool = False


class DeliveryError(Exception):
    """The message was not delivered, or it is not known whether it was."""

    def __init__(self, text: str, *, may_retry: bool = True, is_uncertain: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.may_retry = may_retry
        self.is_uncertain = is_uncertain


#: Sends a message to a channel; raises `DeliveryError`.
Deliver = Callable[[Channel, Message], Awaitable[None]]


class NoticeSender:
    """Sends what is pending. `run` is its task."""

    def __init__(
        self,
        log: NoticeLog,
        find: Callable[[str], Awaitable[Channel | None]],
        deliver: Deliver,
        give_up_after_ms: int,
    ) -> None:
        """`find` returns a channel by its name; None if it no longer exists."""
        self._log = log
        self._find = find
        self._deliver = deliver
        self.give_up_after_ms = give_up_after_ms
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._buckets: dict[tuple[bool, str, int], TokenBucket] = {}

    async def run(self) -> None:
        """Runs until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            sending: dict[str, asyncio.Task[None]] = {}
            while True:
                self._log.changed.clear()
                for name, pending in list(self._log.state.channels.items()):
                    if pending.notices and (name not in sending or sending[name].done()):
                        sending[name] = tasks.create_task(self._send_pending(name), name=f"notices to {name}")
                await self._log.changed.wait()

    async def test(self, channel: Channel) -> str:
        """Sends a test message now; returns why that failed, or an empty text."""
        notice = Notice(
            id=0,
            kind="test",
            key="test",
            at=self._log.clock.now(),
            title="Test notice from Waterflow",
            text=f'Channel "{channel.name}" works.',
            command="waterflowctl notify",
        )
        try:
            await self._deliver(channel, Message(notices=[notice]))
        except DeliveryError as error:
            return error.text
        pending = self._log.state.channels.get(channel.name)
        if pending is not None and pending.problem:
            works = events.TestSent(at=self._log.clock.now(), channel=channel.name)
            await self._log.record(lambda: [works])
        return ""

    async def _send_pending(self, name: str) -> None:
        """Sends everything that waits for one channel."""
        while (pending := self._log.state.channels.get(name)) is not None and pending.notices:
            try:
                await self._send_once(name)
            except WaterflowError as error:
                # Nothing can be recorded at the moment, for example because the disk is full.
                logger.warning("notices to %s are delayed: %s", name, error)
                await asyncio.sleep(_RECORD_RETRY_S)
            except Exception:
                # A supervision point: an internal error in one channel must not end the others, or the daemon.
                logger.exception("notices to %s are delayed: internal error", name)
                await asyncio.sleep(_RETRY.delay_s(pending.failures + 1))

    async def _send_once(self, name: str) -> None:
        state = self._log.state
        pending = state.channels[name]
        channel = await self._find(name)
        if channel is None:
            await self._end(name, tuple(pending.notices), "dropped", "the channel no longer exists")
            return
        await self._wait_for_turn(channel)
        async with self._slots:
            ids = tuple(pending.notices)
            message = Message(
                notices=[state.notices[each] for each in ids if each in state.notices],
                dropped=pending.dropped,
                may_be_repeated=any(pending.notices.values()),
            )
            begun = events.DeliveryBegun(at=self._log.clock.now(), channel=name, notices=ids)
            await self._log.record(lambda: [begun])
            try:
                await self._deliver(channel, message)
            except DeliveryError as error:
                await self._failed(name, ids, error)
                failures = pending.failures
            else:
                await self._end(name, ids, "sent")
                return
        if failures:
            await asyncio.sleep(_RETRY.delay_s(failures))

    async def _failed(self, name: str, ids: tuple[int, ...], error: DeliveryError) -> None:
        waited_ms = self._log.clock.now() - self._log.state.channels[name].since
        if not error.may_retry or waited_ms >= self.give_up_after_ms:
            logger.error("notices to %s given up: %s", name, error.text)
            await self._end(name, ids, "given-up", error.text)
            return
        logger.warning("notices to %s not sent, will retry: %s", name, error.text)
        await self._end(name, ids, "failed", error.text, is_uncertain=error.is_uncertain)

    async def _end(
        self, name: str, ids: tuple[int, ...], outcome: str, text: str = "", *, is_uncertain: bool = False
    ) -> None:
        ended = events.DeliveryEnded(
            at=self._log.clock.now(), channel=name, notices=ids, outcome=outcome, text=text, is_uncertain=is_uncertain
        )
        await self._log.record(lambda: [ended])

    async def _wait_for_turn(self, channel: Channel) -> None:
        """Waits until the channel may send; what comes meanwhile is sent with it."""
        # The channels of a repository share one, so other names for them do not help.
        key = (channel.owner is not None, channel.owner or channel.name, channel.per_hour)
        now = self._log.clock.now
        bucket = self._buckets.get(key)
        if bucket is None:
            burst = max(1, channel.per_hour // _BURST_SHARE)
            bucket = self._buckets[key] = TokenBucket(channel.per_hour / _HOUR_S, burst, now())
        while True:
            if bucket.take(now()):
                return
            await asyncio.sleep(bucket.wait_ms(now()) / 1_000)
