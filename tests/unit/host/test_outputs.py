"""Output: durable before it is acknowledged, only from the attempt's agent, and never beyond the limit."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
import pytest

from tests.patience import PATIENCE_S
from waterflow_agent.errors import Retryable, Stalled
from waterflow_agent.testing import attempt_id
from waterflow_agent.wire import messages
from waterflowd.dispatch.lowering import OUTPUT_BYTES_MAX
from waterflowd.host import history
from waterflowd.host.agents import outputs as outputs_module
from waterflowd.model.ids import AgentId
from waterflowd.testing.awaiting import until
from waterflowd.testing.host import ONE_STEP, HostHarness, agent_id


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs_module, "DISK_FULL_PAUSE_S", 0.0)
    monkeypatch.setattr(history, "COLLECT_S", 0.0)


def output(key: messages.TaskId, offset: int, *texts: bytes) -> messages.Output:
    return messages.Output(key, offset, [messages.OutputChunk(1, 1, text) for text in texts])


def acks(host: HostHarness) -> list[int]:
    return [message.offset for _, message in host.link.sent if isinstance(message, messages.OutputAck)]


async def running(host: HostHarness, workflow: str = ONE_STEP) -> tuple[AgentId, messages.TaskId]:
    """Returns an agent that runs an attempt."""
    agent = host.enroll("web-1", "web")
    host.hello(agent)
    await host.start(workflow)
    key = host.link.offers()[-1]
    host.link.take()
    return agent, key


async def test_output_is_durable_before_it_is_acknowledged() -> None:
    """The acknowledgement has the durable size, and waiting readers are woken."""
    async with HostHarness() as host:
        agent, key = await running(host)
        grown = asyncio.create_task(_wait(host, key))
        await asyncio.sleep(0)
        host.agents.output(agent, output(key, 0, b"one\n", b"two\n"))
        assert acks(host) == []
        await until(lambda: acks(host) == [8])
        assert host.output_logs.size(key.attempt) == 8
        await asyncio.wait_for(grown, PATIENCE_S)


async def _wait(host: HostHarness, key: messages.TaskId) -> None:
    await host.feed.output_grew(key.attempt.run)


async def test_known_output_is_acknowledged_again() -> None:
    """A repetition adds nothing; the answer says where to continue."""
    async with HostHarness() as host:
        agent, key = await running(host)
        for _ in range(2):
            host.agents.output(agent, output(key, 0, b"hello\n"))
            await until(lambda: bool(acks(host)))
            assert acks(host) == [6]
            host.link.take()
        assert [piece.data for piece in host.output_logs.read(key.attempt, 0, 100)] == [b"hello\n"]


async def test_output_after_a_gap_is_answered_with_the_offset_to_continue_from() -> None:
    """The output is not stored."""
    async with HostHarness() as host:
        agent, key = await running(host)
        host.agents.output(agent, output(key, 0, b"12345"))
        host.agents.output(agent, output(key, 9, b"x"))
        await until(lambda: len(acks(host)) == 2)
        assert acks(host) == [5, 5]
        assert host.output_logs.size(key.attempt) == 5


@pytest.mark.parametrize("change", [{"epoch": 99}, {"number": 2}, {"step": "9"}, {"job": "b"}, {"run": "0" * 26}])
async def test_output_of_an_attempt_that_is_not_the_agents_is_dropped(change: dict[str, Any]) -> None:
    """It is acknowledged, because the agent would repeat it forever, but it is not stored."""
    async with HostHarness() as host:
        agent, key = await running(host)
        epoch = change.get("epoch", key.epoch)
        names = {name: value for name, value in change.items() if name != "epoch"}
        foreign = messages.TaskId(msgspec.structs.replace(key.attempt, **names), epoch)
        host.agents.output(agent, output(foreign, 7, b"abc"))
        assert [message for _, message in host.link.sent] == [messages.OutputAck(foreign, 10)]
        await asyncio.sleep(0)
        assert host.output_logs.size(foreign.attempt) == 0


async def test_another_agent_cannot_add_to_an_output_log() -> None:
    """Only the agent that had an attempt may add to its log, even after the run has completed."""
    async with HostHarness() as host:
        agent, key = await running(host)
        intruder = host.enroll("web-2", "web")
        host.agents.output(intruder, output(key, 0, b"lies\n"))
        host.finished(agent, key)
        await until(lambda: not host.state.runs)
        host.agents.output(intruder, output(key, 0, b"lies\n"))
        host.agents.output(agent, output(key, 0, b"late\n"))
        await until(lambda: host.output_logs.size(key.attempt) > 0)
        assert [piece.data for piece in host.output_logs.read(key.attempt, 0, 100)] == [b"late\n"]


@pytest.mark.parametrize("run", ["", "x" * 10_000, "\x00", "é" * 500, "../..", "01j00000000000000000000000"])
async def test_output_for_an_invalid_run_id_is_dropped(run: str) -> None:
    """Such output costs the daemon nothing, whatever the id is."""
    async with HostHarness() as host:
        agent, key = await running(host)
        foreign = messages.TaskId(attempt_id(run, key.attempt.job, key.attempt.step, 1), 1)
        host.agents.output(agent, output(foreign, 0, b"x"))
        host.finished(agent, foreign)
        await host.settle()
        assert acks(host) == [1]
        assert host.is_alive


async def test_after_a_full_disk_the_sizes_say_where_to_continue() -> None:
    """Output that was not stored is requested again, and so is later output that would leave a gap."""
    async with HostHarness() as host:
        agent, key = await running(host)
        host.agents.output(agent, output(key, 0, b"12345"))
        await until(lambda: acks(host) == [5])
        host.link.take()
        host.output_logs.fail_next(Retryable("WF302", "the disk is full"))
        host.agents.output(agent, output(key, 5, b"678"))
        await until(lambda: bool(acks(host)))
        assert acks(host) == [5]
        host.agents.output(agent, output(key, 5, b"678"))
        await until(lambda: acks(host) == [5, 8])
        assert host.is_alive


async def test_a_damaged_log_concerns_its_attempt_alone(caplog: pytest.LogCaptureFixture) -> None:
    """What cannot be added to it is acknowledged and dropped; the output of others is stored, and the daemon lives."""
    damage = Stalled("WF304", "the output log x is damaged at offset 3; the rest cannot be shown")
    async with HostHarness() as host:
        agent, key = await running(host)
        await host.start(ONE_STEP)
        other = host.link.offers()[-1]
        host.link.take()
        # The append of both fails, and then that of the damaged one.
        host.output_logs.fail_next(damage, damage)
        host.agents.output(agent, output(key, 0, b"lost\n"))
        host.agents.output(agent, output(other, 0, b"stored\n"))
        await until(lambda: sorted(acks(host)) == [5, 7])
        assert host.output_logs.size(other.attempt) == 7
        assert host.output_logs.size(key.attempt) == 0
        assert "the run continues" in caplog.text
        assert host.is_alive


async def test_a_log_whose_end_cannot_be_read_concerns_its_attempt_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a restart the end of the log is read, to find out whether it was cut off."""
    async with HostHarness() as host:
        agent, key = await running(host)
        host.agents.output(agent, output(key, 0, b"12345"))
        await until(lambda: acks(host) == [5])
        host.link.take()

        def damaged(name: object, offset: int, bytes_max: int) -> list[Any]:
            raise Stalled("WF304", "the output log x is damaged at offset 4; the rest cannot be shown")

        monkeypatch.setattr(host.output_logs, "read", damaged)
        host.outputs._admission._ends.clear()
        host.agents.output(agent, output(key, 5, b"678"))
        await until(lambda: acks(host) == [8])
        assert host.is_alive


async def test_an_error_of_the_whole_storage_ends_the_daemon() -> None:
    """It is not mistaken for a damaged log."""

    async def run() -> None:
        async with HostHarness() as host:
            agent, key = await running(host)
            host.output_logs.fail_next(Stalled("WF303", "the store is closed"))
            host.agents.output(agent, output(key, 0, b"1"))
            await until(lambda: not host.is_alive)

    with pytest.raises(Stalled, match="the store is closed"):
        await run()


@pytest.mark.parametrize(("limit", "size"), [("", OUTPUT_BYTES_MAX), ("1MiB", 1 << 20), ("1GiB", 1 << 30)])
async def test_output_beyond_the_limit_of_its_step_is_not_stored(limit: str, size: int) -> None:
    """An agent that ignores the limit of its task fills no disk: the rest is acknowledged and dropped."""
    key_line = f", output-max-bytes: {limit}" if limit else ""
    async with HostHarness() as host:
        agent, key = await running(host, f"jobs: {{a: {{runs-on: web, steps: [{{id: s, run: 'true'{key_line}}}]}}}}")
        within, beyond = size - 10, size + outputs_module.MARKS_BYTES_MAX
        host.agents.output(agent, output(key, within, b"x" * 10))
        await until(lambda: len(acks(host)) == 1)
        host.agents.output(agent, output(key, beyond, b"x" * 10))
        await until(lambda: len(acks(host)) == 2)
        # What comes before is missing in the first case: the agent has to send it.
        assert acks(host) == [0, beyond + 10]
        assert host.output_logs.size(key.attempt) == 0


async def test_invalid_offsets_and_times_are_clamped_or_rejected() -> None:
    """Values made up by an agent are clamped or rejected."""
    async with HostHarness() as host:
        agent, key = await running(host)
        host.agents.output(agent, output(key, -5, b"abc"))
        host.agents.output(agent, messages.Output(key, 0, [messages.OutputChunk(-1, 999, b"ok")]))
        await until(lambda: host.output_logs.size(key.attempt) == 2)
        assert host.is_alive


async def test_collected_output_per_agent_is_bounded() -> None:
    """Output of an agent that ignores its window is dropped, to be sent again, instead of filling the memory."""
    async with HostHarness() as host:
        agent, key = await running(host)
        piece = b"x" * 100_000
        for number in range(2_000):
            host.agents.output(agent, output(key, number * len(piece), piece))
        collected = [arrival.output for arrival in host.outputs._arrived if arrival.output is not None]
        waiting = sum(len(chunk.data) for output in collected for chunk in output.chunks)
        assert waiting <= outputs_module.WAITING_BYTES_MAX + len(piece)
        await until(lambda: bool(acks(host)))
        assert host.is_alive


def test_the_agent_ids_of_these_tests_differ() -> None:
    """The tests above need two different agents."""
    assert agent_id("web-1") != agent_id("web-2")
