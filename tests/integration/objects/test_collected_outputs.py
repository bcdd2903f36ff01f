"""A host whose output logs are objects: what its agents send is stored, read as lines, and continued after a restart."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from waterflow_agent.errors import Retryable
from waterflow_agent.wire import messages
from waterflowd.access.repository_quotas import RepositoryLimits
from waterflowd.api.streaming.output_reader import RunOutput
from waterflowd.host.agents import outputs as outputs_module
from waterflowd.host.history import LogHistory
from waterflowd.model.ids import AgentId
from waterflowd.objects import outputs as object_outputs
from waterflowd.objects.directory import DirectoryObjects
from waterflowd.objects.outputs import ObjectOutputLogs
from waterflowd.testing.awaiting import until
from waterflowd.testing.host import ONE_STEP, HostHarness
from waterflowd.time_slices import TimeSlices

#: The first half of it may be stored.
LIMITS = RepositoryLimits(output_bytes_per_hour=2_000)
WHOLE = b"".join(b"%04d\n" % number for number in range(400))


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs_module, "DISK_FULL_PAUSE_S", 0.0)
    monkeypatch.setattr(object_outputs, "COLLECT_S", 0.0)


class Objects(DirectoryObjects):
    """A folder that cannot be listed for a while."""

    failures = 0

    async def names(self, folder: str) -> list[str]:
        """See `ports.Objects`."""
        if self.failures:
            self.failures -= 1
            raise Retryable("WF322", "the object store cannot be reached")
        return await super().names(folder)


async def running(host: HostHarness) -> tuple[AgentId, messages.TaskId]:
    agent = host.enroll("web-1", "web")
    host.hello(agent)
    await host.start(ONE_STEP)
    (key,) = host.link.offers()
    host.link.take()
    return agent, key


async def printed(host: HostHarness, agent: AgentId, key: messages.TaskId, begin: int, end: int) -> int:
    """The agent sends a part of the whole output; returns what is acknowledged."""
    host.link.take()
    host.agents.output(agent, messages.Output(key, begin, [messages.OutputChunk(1, 1, WHOLE[begin:end])]))
    return await acknowledged(host)


async def acknowledged(host: HostHarness) -> int:
    def acks() -> list[int]:
        return [message.offset for _, message in host.link.sent if isinstance(message, messages.OutputAck)]

    await until(lambda: bool(acks()))
    return acks()[-1]


async def lines(host: HostHarness, logs: ObjectOutputLogs, key: messages.TaskId) -> list[str]:
    output = RunOutput(LogHistory(host.log, host.feed, TimeSlices()), logs, key.attempt.run)
    await output.learn()
    return [line.text async for part in output.read_some(is_last=True) for line in part if line is not None]


async def test_output_is_stored_and_read_and_continues_after_a_restart(tmp_path: Path) -> None:
    """Where the log ends, and that the rest of it is over the quota, is found in the objects."""
    objects = Objects(tmp_path)
    logs = ObjectOutputLogs(objects)
    async with HostHarness(limits=LIMITS, outputs=logs) as host:
        agent, key = await running(host)
        assert await printed(host, agent, key, 0, 500) == 500
        assert await lines(host, logs, key) == WHOLE[:500].decode().split()
        log = host.log.reopened()

    logs = ObjectOutputLogs(objects)
    async with HostHarness(log, limits=LIMITS, outputs=logs) as host:
        host.hello(host.enroll("web-1", "web"))
        await host.settle()
        objects.failures = 3
        assert await printed(host, agent, key, 500, 1_000) == 1_000
        assert objects.failures == 0
        assert await printed(host, agent, key, 1_000, 2_000) == 1_999
        host.link.take()
        host.finished(agent, key, output_bytes=2_000)
        assert await acknowledged(host) == 2_000
        found = await lines(host, logs, key)
        assert found[:-1] == [*WHOLE[:1_000].decode().split(), ""]
        assert found[-1].startswith("[waterflow: 1000 bytes of output were dropped here")

    async with HostHarness(log.reopened(), limits=LIMITS, outputs=ObjectOutputLogs(objects)) as host:
        host.hello(host.enroll("web-1", "web"))
        await host.settle()
        # The agent has missed the last acknowledgement.
        assert await asyncio.wait_for(printed(host, agent, key, 1_999, 2_000), PATIENCE_S) == 2_000
