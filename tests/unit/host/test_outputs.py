"""Output: durable before it is acknowledged, accepted only from the attempt's agent, and limited to its cap."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from tests.patience import PATIENCE_S
from waterflow_agent.errors import Retryable
from waterflow_agent.testing import attempt_id
from waterflow_agent.wire import messages
from waterflowd.dispatch.lowering import OUTPUT_BYTES_MAX
from waterflowd.host import outputs as outputs_module
from waterflowd.model.ids import AgentId
from waterflowd.testing.host import ONE_STEP, HostWorld, agent_id, until


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs_module, "DISK_FULL_PAUSE_S", 0.0)
    monkeypatch.setattr(outputs_module, "COLLECT_S", 0.0)


def output(key: messages.TaskId, offset: int, *texts: bytes) -> messages.Output:
    return messages.Output(key, offset, [messages.OutputChunk(1, 1, text) for text in texts])


def acks(world: HostWorld) -> list[int]:
    return [message.offset for _, message in world.link.sent if isinstance(message, messages.OutputAck)]


async def running(world: HostWorld) -> tuple[AgentId, messages.TaskId]:
    """Returns an agent that runs an attempt."""
    agent = world.enroll("web-1", "web")
    world.hello(agent)
    await world.start(ONE_STEP)
    key = world.link.offers()[-1]
    world.link.take()
    return agent, key


async def test_output_is_durable_before_it_is_acknowledged() -> None:
    """The acknowledgement says how much is on disk, and waiting readers are notified."""
    async with HostWorld() as world:
        agent, key = await running(world)
        grown = asyncio.create_task(_wait(world, key))
        await asyncio.sleep(0)
        world.agents.output(agent, output(key, 0, b"one\n", b"two\n"))
        assert acks(world) == []
        await until(lambda: acks(world) == [8])
        assert world.output_logs.size(key.attempt) == 8
        await asyncio.wait_for(grown, PATIENCE_S)


async def _wait(world: HostWorld, key: messages.TaskId) -> None:
    await world.feed.output_grew(key.attempt.run)


async def test_what_is_there_already_is_acknowledged_again() -> None:
    """A repetition after a disconnect adds nothing; the answer says where to continue."""
    async with HostWorld() as world:
        agent, key = await running(world)
        for _ in range(2):
            world.agents.output(agent, output(key, 0, b"hello\n"))
            await until(lambda: bool(acks(world)))
            assert acks(world) == [6]
            world.link.take()
        assert [piece.data for piece in world.output_logs.read(key.attempt, 0, 100)] == [b"hello\n"]


async def test_a_gap_is_refused_with_the_place_to_go_on_from() -> None:
    """Output that would leave a gap is not stored."""
    async with HostWorld() as world:
        agent, key = await running(world)
        world.agents.output(agent, output(key, 0, b"12345"))
        world.agents.output(agent, output(key, 9, b"x"))
        await until(lambda: len(acks(world)) == 2)
        assert acks(world) == [5, 5]
        assert world.output_logs.size(key.attempt) == 5


@pytest.mark.parametrize("change", [{"epoch": 99}, {"number": 2}, {"step": "9"}, {"job": "b"}, {"run": "0" * 26}])
async def test_output_of_an_attempt_that_is_not_the_agents_is_dropped(change: dict[str, Any]) -> None:
    """It is acknowledged, so that the agent does not send it for ever, but it is not stored."""
    async with HostWorld() as world:
        agent, key = await running(world)
        epoch = change.get("epoch", key.epoch)
        names = {name: value for name, value in change.items() if name != "epoch"}
        foreign = messages.TaskId(msgspec.structs.replace(key.attempt, **names), epoch)
        world.agents.output(agent, output(foreign, 7, b"abc"))
        assert [message for _, message in world.link.sent] == [messages.OutputAck(foreign, 10)]
        await asyncio.sleep(0)
        assert world.output_logs.size(foreign.attempt) == 0


async def test_another_agent_cannot_add_to_an_output_log() -> None:
    """For a completed run, too, only the agent that had the attempt may append to its output."""
    async with HostWorld() as world:
        agent, key = await running(world)
        intruder = world.enroll("web-2", "web")
        world.agents.output(intruder, output(key, 0, b"lies\n"))
        world.finished(agent, key)
        await until(lambda: not world.world.runs)
        world.agents.output(intruder, output(key, 0, b"lies\n"))
        world.agents.output(agent, output(key, 0, b"late\n"))
        await until(lambda: world.output_logs.size(key.attempt) > 0)
        assert [piece.data for piece in world.output_logs.read(key.attempt, 0, 100)] == [b"late\n"]


@pytest.mark.parametrize("run", ["", "x" * 10_000, "\x00", "é" * 500, "../..", "01j00000000000000000000000"])
async def test_a_name_that_is_no_run_is_dropped(run: str) -> None:
    """Any other text is dropped without cost to the daemon."""
    async with HostWorld() as world:
        agent, key = await running(world)
        foreign = messages.TaskId(attempt_id(run, key.attempt.job, key.attempt.step, 1), 1)
        world.agents.output(agent, output(foreign, 0, b"x"))
        world.finished(agent, foreign)
        await world.settle()
        assert acks(world) == [1]
        assert world.is_alive


async def test_after_a_full_disk_the_sizes_tell_where_to_go_on() -> None:
    """The daemon requests what was not stored, and refuses output that arrived meanwhile and would leave a gap."""
    async with HostWorld() as world:
        agent, key = await running(world)
        world.agents.output(agent, output(key, 0, b"12345"))
        await until(lambda: acks(world) == [5])
        world.link.take()
        world.output_logs.fail_next(Retryable("WF302", "the disk is full"))
        world.agents.output(agent, output(key, 5, b"678"))
        await until(lambda: bool(acks(world)))
        assert acks(world) == [5]
        world.agents.output(agent, output(key, 5, b"678"))
        await until(lambda: acks(world) == [5, 8])
        assert world.is_alive


async def test_output_beyond_the_cap_is_not_stored() -> None:
    """An agent that ignores its task's cap fills no disk: excess output is acknowledged and dropped."""
    async with HostWorld() as world:
        agent, key = await running(world)
        beyond = 2 * OUTPUT_BYTES_MAX
        world.agents.output(agent, output(key, beyond, b"x" * 10))
        await until(lambda: bool(acks(world)))
        assert acks(world) == [beyond + 10]
        assert world.output_logs.size(key.attempt) == 0


async def test_odd_offsets_and_times_do_no_harm() -> None:
    """Arbitrary numbers from an agent are bounded or refused."""
    async with HostWorld() as world:
        agent, key = await running(world)
        world.agents.output(agent, output(key, -5, b"abc"))
        world.agents.output(agent, messages.Output(key, 0, [messages.OutputChunk(-1, 999, b"ok")]))
        await until(lambda: world.output_logs.size(key.attempt) == 2)
        assert world.is_alive


async def test_what_is_collected_for_one_agent_is_bounded() -> None:
    """If an agent ignores its window, its output is dropped and sent again later instead of filling the memory."""
    async with HostWorld() as world:
        agent, key = await running(world)
        piece = b"x" * 100_000
        for number in range(2_000):
            world.agents.output(agent, output(key, number * len(piece), piece))
        waiting = sum(len(p.data) for _, _, append in world.outputs._waiting for p in append.pieces)
        assert waiting <= outputs_module.WAITING_BYTES_MAX + len(piece)
        await until(lambda: bool(acks(world)))
        assert world.is_alive


def test_the_agent_ids_of_these_tests_differ() -> None:
    """The tests above need an intruder with a different id."""
    assert agent_id("web-1") != agent_id("web-2")
