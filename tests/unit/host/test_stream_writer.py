"""Appends to a stream of the daemon's own log: decided one after the other, durable before they are folded."""

from __future__ import annotations

import asyncio

import pytest

from waterflow_agent.errors import Rejected
from waterflowd.fleet import events
from waterflowd.host.stream_writer import LogStreamWriter
from waterflowd.model.ids import FLEET
from waterflowd.testing.host import HostHarness


def revoked(number: int) -> events.JoinTokenRevoked:
    """Any fact."""
    return events.JoinTokenRevoked(at=number, by="ada", token=str(number))


async def test_each_decision_sees_those_before_it() -> None:
    """Two callers at once do not decide by the same facts; what is folded is in the log already."""
    async with HostHarness() as host:
        folded: list[events.JoinTokenRevoked] = []

        def fold(fact: events.JoinTokenRevoked) -> None:
            assert [record.event for record in host.log.read(FLEET)][: len(folded) + 1] == [*folded, fact]
            folded.append(fact)

        writer = LogStreamWriter(host.driver, FLEET, fold)
        await asyncio.gather(*(writer.append(lambda: [revoked(len(folded))]) for _ in range(3)))
        assert folded == [revoked(0), revoked(1), revoked(2)]


async def test_nothing_and_a_refusal_leave_no_trace() -> None:
    """A decision may find that nothing is to be done, or that it may not be done."""
    async with HostHarness() as host:
        folded: list[events.JoinTokenRevoked] = []
        writer = LogStreamWriter(host.driver, FLEET, folded.append)
        await writer.append(list)

        def refuse() -> list[events.JoinTokenRevoked]:
            raise Rejected("WF224", "no")

        with pytest.raises(Rejected):
            await writer.append(refuse)
        await writer.append(lambda: [revoked(1)])
        assert folded == [record.event for record in host.log.read(FLEET)] == [revoked(1)]


async def test_own_findings_are_folded_at_once() -> None:
    """A second server that connects now is compared with the first one, before that is durable."""
    async with HostHarness() as host:
        folded: list[events.JoinTokenRevoked] = []
        LogStreamWriter(host.driver, FLEET, folded.append).keep(lambda: [revoked(1)])
        assert folded == [revoked(1)]
        await host.settle()
        assert [record.event for record in host.log.read(FLEET)] == [revoked(1)]
