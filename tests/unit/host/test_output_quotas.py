"""Output beyond a repository's quota: cut off, counted in its place, and acknowledged only when that is durable."""

from __future__ import annotations

import pytest

from waterflow_agent.errors import Retryable
from waterflow_agent.wire import messages
from waterflowd.access.repository_quotas import HOUR_MS, RepositoryLimits
from waterflowd.api.streaming.output_reader import RunOutput
from waterflowd.host import history
from waterflowd.host.agents import output_admission
from waterflowd.host.agents import outputs as outputs_module
from waterflowd.host.history import LogHistory, LogOutputs
from waterflowd.model.ids import AgentId, AttemptId
from waterflowd.model.reasons import ReasonCode
from waterflowd.model.records import CUT_STREAM
from waterflowd.testing.awaiting import until
from waterflowd.testing.host import HostHarness
from waterflowd.time_slices import TimeSlices

LIMIT = 10_000
CHUNK = 500
MARK = b"\n[waterflow: %d bytes of output were dropped here: the output quota of the repository is used up]\n"
TWO_JOBS = """jobs:
  flood: {runs-on: web, steps: [{run: work}]}
  quiet: {runs-on: web, steps: [{run: work}]}
"""


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outputs_module, "DISK_FULL_PAUSE_S", 0.0)
    monkeypatch.setattr(history, "COLLECT_S", 0.0)


def limited(limit: int = LIMIT) -> HostHarness:
    return HostHarness(limits=RepositoryLimits(output_bytes_per_hour=limit))


class Printing:
    """An agent that runs both jobs, and sends their logs as a real one does."""

    def __init__(self, host: HostHarness, agent: AgentId, keys: list[messages.TaskId]) -> None:
        self.host = host
        self.agent = agent
        self.flood, self.quiet = sorted(keys, key=lambda key: key.attempt.job)

    @classmethod
    async def on(cls, host: HostHarness) -> Printing:
        agent = host.enroll("web-1", "web")
        host.hello(agent, slots=4)
        await host.start(TWO_JOBS)
        keys = host.link.offers()
        host.link.take()
        return cls(host, agent, keys)

    async def send(self, key: messages.TaskId, offset: int, size: int = CHUNK, stream: int = 1) -> int:
        """Sends a chunk; returns what the daemon acknowledges."""
        self.host.link.take()
        chunk = messages.OutputChunk(1, stream, bytes(offset % 251 for offset in range(offset, offset + size)))
        self.host.agents.output(self.agent, messages.Output(key, offset, [chunk]))
        return await self.acknowledgement()

    async def acknowledgement(self) -> int:
        await until(lambda: bool(self._acks()))
        return self._acks()[-1]

    def _acks(self) -> list[int]:
        return [message.offset for _, message in self.host.link.sent if isinstance(message, messages.OutputAck)]

    async def print(self, key: messages.TaskId, size: int, begin: int = 0) -> int:
        """Sends a whole log in chunks; returns the last acknowledgement."""
        acknowledged = begin
        for offset in range(begin, size, CHUNK):
            acknowledged = await self.send(key, offset, min(CHUNK, size - offset))
        return acknowledged

    async def finish(self, key: messages.TaskId, size: int) -> None:
        self.host.link.take()
        self.host.finished(self.agent, key, output_bytes=size)
        await self.host.settle()

    def log(self, key: messages.TaskId) -> bytes:
        return b"".join(piece.data for piece in self.host.output_logs.read(key.attempt, 0, 1 << 20))


def text(size: int) -> bytes:
    return bytes(offset % 251 for offset in range(size))


async def test_a_flood_is_cut_off_and_a_small_log_beside_it_is_complete() -> None:
    """The flood may use half of the quota. Its mark counts what is missing, and is written once the step has ended."""
    async with limited() as host:
        printing = await Printing.on(host)
        total = 3 * LIMIT
        assert await printing.print(printing.flood, total) == total - 1
        assert printing.log(printing.flood) == text(LIMIT // 2)
        assert await printing.print(printing.quiet, 1_000) == 1_000
        await printing.finish(printing.flood, total)
        assert await printing.acknowledgement() == total
        assert printing.log(printing.flood) == text(LIMIT // 2) + MARK % (total - LIMIT // 2)
        assert printing.log(printing.quiet) == text(1_000)
        assert host.output_logs.read(printing.flood.attempt, LIMIT // 2, 1)[-1].stream == CUT_STREAM


@pytest.mark.parametrize(("data", "kept"), [(b"x" * 99 + b"\n", 4_900), (b"x" * 100, 5_000)])
async def test_one_message_that_exceeds_the_quota_is_stored_in_part(data: bytes, kept: int) -> None:
    """As the whole log of a short step is. The cut is at the end of a line, if there is one."""
    async with limited(LIMIT - 1 if kept < 5_000 else LIMIT) as host:
        printing = await Printing.on(host)
        total = 2 * LIMIT
        chunks = [messages.OutputChunk(1, 1, data * 100), messages.OutputChunk(2, 2, data * 100)]
        host.agents.output(printing.agent, messages.Output(printing.flood, 0, chunks))
        assert await printing.acknowledgement() == total - 1
        assert printing.log(printing.flood) == data * (kept // 100)
        await printing.finish(printing.flood, total)
        assert printing.log(printing.flood) == data * (kept // 100) + MARK % (total - kept)


async def test_a_step_that_ends_before_its_output_arrives_is_cut_off_too() -> None:
    """As a step does that prints much in an instant. Its last byte is acknowledged with the mark."""
    async with limited() as host:
        printing = await Printing.on(host)
        total = 3 * LIMIT
        await printing.finish(printing.flood, total)
        assert await printing.print(printing.flood, total - CHUNK) < total
        assert await printing.send(printing.flood, total - CHUNK) == total
        assert printing.log(printing.flood) == text(LIMIT // 2) + MARK % (total - LIMIT // 2)
        # An agent that missed the acknowledgement sends it again.
        assert await printing.send(printing.flood, total - CHUNK) == total
        assert printing.log(printing.flood) == text(LIMIT // 2) + MARK % (total - LIMIT // 2)


async def test_a_reader_knows_that_a_log_with_a_mark_is_complete() -> None:
    """It does not wait for output that never comes."""
    async with limited() as host:
        printing = await Printing.on(host)
        await printing.print(printing.flood, LIMIT)
        await printing.finish(printing.flood, LIMIT)
        await printing.acknowledgement()
        await printing.finish(printing.quiet, 0)
        history = LogHistory(host.log, host.feed, TimeSlices())
        output = RunOutput(history, LogOutputs(host.output_logs), printing.flood.attempt.run)
        await output.learn()
        lines = [line.text async for part in output.read_some(is_last=False) for line in part if line is not None]
        assert any(line.startswith("[waterflow: 5000 bytes of output were dropped here") for line in lines)
        assert output.is_drained
        assert not output.is_missing_output


async def test_a_full_bucket_stores_output_again() -> None:
    """An hour later another step prints as much."""
    async with limited() as host:
        printing = await Printing.on(host)
        await printing.print(printing.flood, LIMIT)
        host.clock.at += HOUR_MS
        assert await printing.print(printing.quiet, LIMIT // 2) == LIMIT // 2
        assert printing.log(printing.quiet) == text(LIMIT // 2)


async def test_known_output_costs_nothing_and_output_after_a_gap_is_not_counted() -> None:
    """What is not stored is not paid for."""
    async with limited() as host:
        printing = await Printing.on(host)
        for _ in range(30):
            assert await printing.send(printing.flood, 0) == CHUNK
            assert await printing.send(printing.flood, 9_000) == CHUNK
        assert host.state.quotas.uses(None, host.clock.at)[0].used == CHUNK


async def test_a_log_whose_end_is_no_longer_in_memory_is_not_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its agent sends it again from the beginning while many other logs grow."""
    monkeypatch.setattr(output_admission, "_ENDS_MAX", 1)
    async with limited() as host:
        printing = await Printing.on(host)
        assert await printing.send(printing.flood, 0) == CHUNK
        assert await printing.send(printing.quiet, 0) == CHUNK
        assert await printing.send(printing.flood, 0) == CHUNK
        assert host.state.quotas.uses(None, host.clock.at)[0].used == 2 * CHUNK


async def test_the_log_of_a_new_attempt_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many others are no longer in memory: only attempts from before them are looked up."""
    monkeypatch.setattr(output_admission, "_ENDS_MAX", 1)
    async with limited() as host:
        read: list[AttemptId] = []
        logs = host.outputs._admission._logs
        size = logs.size

        async def noted(name: AttemptId) -> int:
            read.append(name)
            return await size(name)

        monkeypatch.setattr(logs, "size", noted)
        printing = await Printing.on(host)
        assert await printing.print(printing.flood, CHUNK) == CHUNK
        await host.advance(1_000)
        await host.start(TWO_JOBS)
        for key in host.link.offers()[-2:]:
            assert await printing.send(key, 0) == CHUNK
        assert read == []
        assert await printing.send(printing.flood, 0) == CHUNK
        assert read == [printing.flood.attempt]


async def test_a_report_under_another_lease_completes_no_log() -> None:
    """It may be about another log of this attempt, so its size says nothing."""
    async with limited() as host:
        printing = await Printing.on(host)
        await printing.print(printing.flood, LIMIT)
        stale = messages.TaskId(printing.flood.attempt, printing.flood.epoch + 1)
        await printing.finish(stale, LIMIT)
        await printing.print(printing.flood, LIMIT)
        assert printing.log(printing.flood) == text(LIMIT // 2)


async def test_after_a_restart_the_agent_sends_again_what_follows_the_cut() -> None:
    """What is used survives, a finished mark is not continued, and everything else is decided again."""
    first = limited()
    async with first as host:
        printing = await Printing.on(host)
        await printing.print(printing.flood, 2 * LIMIT)
        await printing.print(printing.quiet, 2_000)
        await printing.finish(printing.quiet, 2_000)
        used = host.state.quotas.uses(None, host.clock.at)[0].used
    second = HostHarness(first.log, first.clock, limits=RepositoryLimits(output_bytes_per_hour=LIMIT))
    second.output_logs = first.output_logs
    second.outputs = second.output_collector(LogOutputs(second.output_logs))
    second.agents._outputs = second.outputs
    async with second as host:
        again = Printing(host, printing.agent, [printing.flood, printing.quiet])
        assert used - LIMIT // 100 <= host.state.quotas.uses(None, host.clock.at)[0].used <= used
        # It continues after what was acknowledged, and learns where the log ends.
        assert await again.send(again.flood, 2 * LIMIT - 1, 1) == LIMIT // 2
        assert await again.print(again.flood, 2 * LIMIT, begin=LIMIT // 2) == 2 * LIMIT - 1
        await again.finish(again.flood, 2 * LIMIT)
        assert await again.acknowledgement() == 2 * LIMIT
        marked = again.log(again.flood)
        assert marked == text(LIMIT // 2) + MARK % (2 * LIMIT - LIMIT // 2)
        assert again.log(again.quiet) == text(2_000)
    third = HostHarness(first.log, first.clock, limits=RepositoryLimits(output_bytes_per_hour=100 * LIMIT))
    third.output_logs = first.output_logs
    third.outputs = third.output_collector(LogOutputs(third.output_logs))
    third.agents._outputs = third.outputs
    async with third as host:
        late = Printing(host, printing.agent, [printing.flood, printing.quiet])
        assert await late.send(late.flood, 2 * LIMIT - 1, 1) == 2 * LIMIT
        assert late.log(late.flood) == marked


async def test_a_full_disk_between_cut_and_mark_loses_neither() -> None:
    """Nothing after the cut is acknowledged while output before it is missing, and a lost mark is written again."""
    async with limited() as host:
        printing = await Printing.on(host)
        full = Retryable("WF302", "the disk is full")
        await printing.print(printing.flood, LIMIT // 2 - CHUNK)
        host.output_logs.fail_next(full)
        assert await printing.send(printing.flood, LIMIT // 2 - CHUNK) == LIMIT // 2 - CHUNK
        # It is counted again: only output that was not stored on a full disk is counted twice.
        assert await printing.print(printing.flood, LIMIT, begin=LIMIT // 2 - CHUNK) == LIMIT - 1
        kept = len(printing.log(printing.flood))
        host.output_logs.fail_next(full)
        await printing.finish(printing.flood, LIMIT)
        await printing.acknowledgement()
        assert printing.log(printing.flood) == text(kept)
        assert await printing.send(printing.flood, LIMIT - 1, 1) == LIMIT
        assert printing.log(printing.flood) == text(kept) + MARK % (LIMIT - kept)


async def test_no_agent_writes_the_stream_of_the_mark() -> None:
    """Its pieces end a log."""
    async with HostHarness() as host:
        printing = await Printing.on(host)
        await printing.send(printing.flood, 0, stream=CUT_STREAM)
        assert [piece.stream for piece in host.output_logs.read(printing.flood.attempt, 0, 1 << 20)] == [2]


async def test_a_cut_attempt_without_a_result_is_marked_as_far_as_it_was_sent() -> None:
    """The daemon gave it up, so nobody knows how much it printed."""
    async with limited() as host:
        printing = await Printing.on(host)
        await printing.print(printing.flood, LIMIT)
        host.agents.lose(printing.agent, "revoked", ReasonCode.SERVER_LOST)
        await host.settle()
        assert await printing.send(printing.flood, LIMIT) == LIMIT + CHUNK
        assert printing.log(printing.flood) == text(LIMIT // 2) + MARK % (LIMIT + CHUNK - LIMIT // 2)
