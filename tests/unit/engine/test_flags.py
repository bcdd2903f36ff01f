"""Behaviour flags: a number that this version does not know stops only the run that carries it."""

from __future__ import annotations

import pytest

from waterflow_agent.errors import Stalled
from waterflowd.engine import events, flags, fold
from waterflowd.engine.state.runs import Run
from waterflowd.model import plan
from waterflowd.model.ids import RunId, run_stream
from waterflowd.model.reasons import ReasonCode, reason
from waterflowd.model.records import Trigger, TriggerKind
from waterflowd.testing.host import ONE_STEP, HostHarness, request

RUN = RunId("01J00000000000000000000000")


def created(numbers: tuple[int, ...]) -> events.RunCreated:
    return events.RunCreated(
        at=1,
        plan_hash="h",
        number=1,
        trigger=Trigger(kind=TriggerKind.CLI),
        flags=numbers,
        deadline_at=2,
        reason=reason(ReasonCode.CREATED, "created"),
    )


def test_an_unknown_number_is_refused_by_name() -> None:
    """The message lists the unknown numbers and says what to do."""
    with pytest.raises(Stalled, match=r"flags 7, 9\); upgrade") as refused:
        flags.check((9, 7))
    assert refused.value.code == "WF402"


def test_this_version_knows_the_flags_that_it_records() -> None:
    """A run of this version is never stalled by its own flags."""
    flags.check(flags.CURRENT)
    assert set(flags.CURRENT) <= flags.KNOWN


def test_a_run_with_an_unknown_flag_is_not_folded() -> None:
    """Waiting is better than guessing, so the state stays unchanged."""
    compiled = plan.decode(request(ONE_STEP).plan)
    with pytest.raises(Stalled):
        fold(RUN, compiled, [created((1_000_000,))])
    assert fold(RUN, compiled, [created(flags.CURRENT)]).seq == 1
    assert Run(RUN, compiled).seq == 0


async def test_only_a_run_of_a_newer_version_is_stalled() -> None:
    """After a downgrade the other runs continue; the stalled run says that an upgrade is needed."""
    async with HostHarness() as host:
        newer, other = await host.start(), await host.start()
    again = host.crashed()
    records = again.log._streams[run_stream(newer.id)]
    event = records[0].event
    changed = type(event)(**{name: getattr(event, name) for name in event.__struct_fields__} | {"flags": (42,)})
    records[0] = type(records[0])(
        seq=records[0].seq, stream=records[0].stream, position=1, at=records[0].at, event=changed
    )
    async with again:
        assert list(again.state.runs) == [other.id]
        assert "WF402" in again.state.stalled[newer.id]
