"""The disks: the daemon's log and output logs, an agent's journal, and what a server keeps over a reboot.

Rules of this file: a process may be killed at a write, just before or just after it has become durable; a disk may be
full for a while; a power cut loses what the journal had not flushed. Reads never fail.
"""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING

from tests.simulator.loop import Killed, Process
from waterflow_agent.errors import Retryable
from waterflow_agent.runner.spool import SpoolChunk
from waterflow_agent.state import journal
from waterflow_agent.state.ledger import records as ledger_records
from waterflowd.model.records import Batch, OutputAppend
from waterflowd.testing.memory_log import MemoryLog
from waterflowd.testing.memory_outputs import MemoryOutputLogs

if TYPE_CHECKING:
    from tests.simulator.world import World

#: Number of records after which a journal starts a new segment.
SEGMENT_RECORDS = 30


class Log(MemoryLog):
    """`ports.Log` of one daemon process, over a memory log that outlives it."""

    def __init__(self, world: World, process: Process, memory: MemoryLog) -> None:
        # Both objects share one log: what either of them writes, both have.
        self.__dict__ = memory.__dict__
        self._outside = (world, process)

    def append(self, batch: Batch) -> Awaitable[int]:
        """Makes the batch durable some milliseconds later, or never."""
        return self._append(batch)

    async def _append(self, batch: Batch) -> int:
        world, process = self._outside
        world.check_queue()
        await _commit_time(world)
        if world.is_daemon_disk_full:
            raise Retryable("WF302", "no space left for the log", after_s=1.0)
        if world.chance.happens("commit: killed before"):
            world.kill_daemon(process, "before a commit")
            await world.never()
        sequence = self.append_blocking(batch)
        world.checks.committed(batch)
        if world.chance.happens("commit: killed after"):
            world.kill_daemon(process, "after a commit")
            await world.never()
        return sequence


class OutputLogs(MemoryOutputLogs):
    """`ports.OutputLogs` of one daemon process; `memory` outlives it."""

    def __init__(self, world: World, process: Process, memory: MemoryOutputLogs) -> None:
        super().__init__()
        self._world = world
        self._process = process
        self._logs = memory._logs

    def append(self, pieces: Sequence[OutputAppend]) -> Awaitable[list[int]]:
        """Makes the output durable some milliseconds later, or never."""
        return self._append(pieces)

    async def _append(self, pieces: Sequence[OutputAppend]) -> list[int]:
        world = self._world
        await _commit_time(world)
        if world.is_daemon_disk_full:
            raise Retryable("WF302", "no space left for output", after_s=1.0)
        if world.chance.happens("output: killed before"):
            world.kill_daemon(self._process, "before an append of output")
            await world.never()
        sizes = await super().append(pieces)
        if world.chance.happens("output: killed after"):
            world.kill_daemon(self._process, "after an append of output")
            await world.never()
        return sizes


async def _commit_time(world: World) -> None:
    chance = world.chance
    await world.sleep(chance.dice.uniform(0.2, 2.5) if chance.happens("commit slow") else chance.delay_s(0.0005, 0.01))


class _Segment:
    def __init__(self, snapshot: bytes) -> None:
        self.frames = [snapshot]
        self.flushed = 0


class Disk:
    """What a server keeps: the agent's journal, spools, the runner's files, and the files of steps."""

    def __init__(self) -> None:
        self.segments: list[_Segment] = []
        #: The runner's spools, by the path of their first file.
        self.spools: dict[str, list[SpoolChunk]] = {}
        self.is_full = False

    def lose_power(self, *, loses_tail: bool) -> None:
        """Loses what was not flushed, or keeps it by chance."""
        if loses_tail:
            for segment in self.segments:
                del segment.frames[segment.flushed :]
            self.segments = [segment for segment in self.segments if segment.frames]


class Journal(journal.Journal):
    """An agent's journal: the real records in memory, flushed and lost as on a disk."""

    def __init__(self, world: World, process: Process, disk: Disk) -> None:
        self._world = world
        self._process = process
        self._disk = disk

    @property
    def is_large(self) -> bool:
        """Returns true early, so that segments change often."""
        return len(self._disk.segments[-1].frames) > SEGMENT_RECORDS

    def read(self) -> tuple[str, list[ledger_records.LedgerRecord | ledger_records.ReleasedRecord]]:
        """Returns the boot id and the facts; a snapshot replaces everything before it."""
        boot_id = ""
        facts: list[ledger_records.LedgerRecord | ledger_records.ReleasedRecord] = []
        for segment in self._disk.segments:
            for frame in segment.frames:
                record = journal._decoder.decode(frame)
                if isinstance(record, ledger_records.SnapshotRecord):
                    boot_id, facts = record.boot_id, list(record.records)
                else:
                    facts.append(record)
        return boot_id, facts

    def begin(self, boot_id: str, facts: list[ledger_records.LedgerRecord]) -> None:
        """Starts a new segment."""
        self._check("a segment")
        snapshot = ledger_records.SnapshotRecord(ledger_records.VERSION, boot_id, facts)
        self._disk.segments.append(_Segment(journal._encoder.encode(snapshot)))

    def append(self, facts: Sequence[ledger_records.LedgerRecord | ledger_records.ReleasedRecord]) -> None:
        """Adds records to the newest segment."""
        if not facts or self._process.is_dead:
            return
        self._check("a record")
        if self._world.chance.happens("journal: killed before"):
            self._world.kill_agent(self._process, "before its journal was written")
            raise Killed
        self._disk.segments[-1].frames += [journal._encoder.encode(fact) for fact in facts]
        if self._world.chance.happens("journal: killed after"):
            self._world.kill_agent(self._process, "after its journal was written")
            raise Killed

    def flush(self) -> None:
        """Makes everything durable and removes older segments."""
        if self._process.is_dead:
            return
        segment = self._disk.segments[-1]
        segment.flushed = len(segment.frames)
        self._disk.segments = [segment]

    def close(self) -> None:
        """Does nothing, because nothing is open."""

    def _check(self, what: str) -> None:
        if self._disk.is_full:
            raise Retryable("WF302", f"no space left for {what}", after_s=1.0)
